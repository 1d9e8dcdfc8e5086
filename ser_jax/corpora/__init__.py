"""Corpus releases on disk → utterance tables."""
