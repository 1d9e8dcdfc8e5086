"""The ways in which a command ends badly, and the exit codes that go with them (0: done)."""

import errno

EXIT_USER = 2
EXIT_DIVERGED = 3
EXIT_HOST_LOST = 134  # as jax itself ends when a process is lost; schedulers start such a job again

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a write says that finds no space


class UserError(Exception):
    """Something the user can mend: shown as one sentence that names the thing, the limit and the remedy."""

    exit_code = EXIT_USER


class Diverged(Exception):
    """Training of at least one run produced non-finite values; the other runs are complete."""

    exit_code = EXIT_DIVERGED


class HostLost(Exception):
    """Another process of the same training does not answer; the same command on all of them goes on."""

    exit_code = EXIT_HOST_LOST
