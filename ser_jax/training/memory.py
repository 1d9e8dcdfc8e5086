"""Keeps freed memory in the process while a group of runs trains, and gives it back between groups.

A train step allocates and frees its temporaries, tens of megabytes each. By default glibc returns such blocks to the
kernel, which clears them page by page when the next step asks again. For HSF-CRNN that was a third of the time:
10 million page faults in 346 steps, 18 of 50 s; with this, 1,800 faults and 0.2 s. What is kept becomes ever more
scattered when groups come and go, so between them it is returned: 30 runs of HSF-CRNN peaked at 2.5 GB without that.
The number of arenas stays glibc's: a single one has the same peak, and doubles the time of compilation in threads.
"""

import ctypes

# Parameters of mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tells glibc to reuse freed blocks of up to 1 GiB; call it before jax starts. Returns whether it did."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False  # Another C library, which has its own ways.
    return bool(mallopt(_MMAP_THRESHOLD, 2**30) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> None:
    """Hands free pages back to the kernel; where there is no glibc, nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
