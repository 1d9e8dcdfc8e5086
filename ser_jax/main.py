"""Where every command begins; `python -m ser_jax.main --config=multi_crnn` = `ser-jax train …`."""

import sys

from ser_jax.runtime import signals


def main(*before: str) -> int:
    """Runs the command line, `before` in front of this process's arguments; returns its code."""
    guard = signals.guard_process()  # Before the import below, which takes a moment.
    from ser_jax.commands import command_line

    return guard.finish(command_line.main([*before, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main("train"))
