"""Kernels of our own: C++ for CPUs, Pallas for GPUs, and their comparison with XLA."""
