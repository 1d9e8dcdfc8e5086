"""The ways in which a command ends badly, and the exit codes that go with them (0: done)."""

import errno

EXIT_USER = 2
EXIT_DIVERGED = 3

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a write says that finds no space


class UserError(Exception):
    """Something the user can mend: shown as one sentence that names the thing, the limit and the remedy."""

    exit_code = EXIT_USER


class Diverged(Exception):
    """Training of at least one run produced non-finite values; the other runs are complete."""

    exit_code = EXIT_DIVERGED
