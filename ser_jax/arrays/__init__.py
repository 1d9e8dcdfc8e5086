"""Ragged features → padded arrays with masks, length buckets, standardisation, epoch plans."""
