"""Optimiser, train step, the loop over groups of runs, checkpoints."""
