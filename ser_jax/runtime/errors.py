"""Errors with which a command ends, and their exit codes (0: done)."""

import errno
import re

EXIT_USER = 2
EXIT_DIVERGED = 3
EXIT_HOST_LOST = 134  # as jax itself ends when a process is lost; schedulers start such a job again

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a write that finds no space
# Errors about what a name leads to: no permission, a read-only disk, a file in the place of a
# folder and the other way round, a name that is too long, links in circles.
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
NO_ACCESS += (errno.ENAMETOOLONG, errno.ELOOP)


# Of jax and XLA: what their message holds → what is so, and the remedy.
_DEVICE_ERRORS = {
    "RESOURCE_EXHAUSTED|out of memory|OUT_OF_MEMORY": (
        "the device has too little memory left: end what else runs on it (nvidia-smi lists it), or"
        " train with smaller training.group or training.batch_size"
    ),
    "DEVICE_UNAVAILABLE|devices are busy or unavailable|TPU is already in use": (
        "the device is busy with another process: wait for that, or choose another with"
        " CUDA_VISIBLE_DEVICES"
    ),
    "driver version is insufficient|DRIVER_MISMATCH|INSUFFICIENT_DRIVER|CUDA driver": (
        "the NVIDIA driver is too old for the installed CUDA: pip install 'ser_jax[cuda12]' for"
        " drivers from 525 on, 'ser_jax[cuda13]' from 580 on (nvidia-smi shows the version)"
    ),
    "not in the list of known backends|Unable to initialize backend|no supported devices": (
        "jax cannot use the device that JAX_PLATFORMS asks for: install its plugin (pip install"
        " 'ser_jax[cuda13]', for drivers below 580 'ser_jax[cuda12]', for a TPU 'ser_jax[tpu]'), or"
        " unset JAX_PLATFORMS"
    ),
}


def device_sentence(error: RuntimeError) -> str:
    """Returns in a sentence what a device lacks, "" for an error that is not about one."""
    text = " ".join(str(error).split())
    for pattern, sentence in _DEVICE_ERRORS.items():
        if re.search(pattern, text):
            return f"{sentence} ({text:.300})"
    return ""


class UserError(Exception):
    """An error that the user can mend, shown as one sentence: the value, the limit, the remedy."""

    exit_code = EXIT_USER


class Diverged(Exception):
    """At least one trial diverged to non-finite values; the other trials are complete."""

    exit_code = EXIT_DIVERGED


class HostLost(Exception):
    """A process of the same training does not answer; the same command on all of them resumes."""

    exit_code = EXIT_HOST_LOST
