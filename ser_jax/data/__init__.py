"""Padded arrays and masks, length buckets, standardisation, epoch plans and record files."""
