"""Where every command begins; `python -m ser_jax.main --config=multi_crnn` = `ser-jax train …`."""

import gc
import sys

from ser_jax.runtime import signals

# Thresholds of Python's garbage collector. Imports and tracing make many objects and hardly any
# garbage; Python's own 700, 10 and 10 cost a short command time.
COLLECTIONS = (20_000, 20, 20)


def main(*before: str) -> int:
    """Runs the command line, `before` in front of this process's arguments; returns its code."""
    gc.set_threshold(*COLLECTIONS)
    guard = signals.guard_process()  # Before the import below, which takes a moment.
    from ser_jax.commands import command_line

    return guard.finish(command_line.main([*before, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main("train"))
