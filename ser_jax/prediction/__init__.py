"""Predictions of trained models for recordings without labels: files, lists, streams, timelines."""
