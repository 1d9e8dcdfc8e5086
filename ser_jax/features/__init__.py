"""Recordings → log-mel frames and ComParE functionals, cached on disk."""
