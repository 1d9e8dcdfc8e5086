"""How many processor cores there are to use."""

import os


def available_cores() -> int:
    """Returns how many cores this process may use: on Linux what a scheduler or container has assigned to it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
