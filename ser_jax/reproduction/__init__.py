"""Reproduces the tables of the paper and a table of EMO-DB."""
