"""The tables of the paper and of EMO-DB, made again by one command."""
