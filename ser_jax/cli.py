"""What all entry points share: flags, plain log lines, and errors that end with one sentence and an exit code."""

import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from ser_jax.config import get_config
from ser_jax.errors import EXIT_USER, NO_ROOM, Diverged, HostLost, UserError
from ser_jax.training.interrupt import Interrupted, farewell, leaving_on_sigterm

_BAD_VALUES = (flags.Error, AttributeError, KeyError, TypeError, ValueError)
KEYS = "every key is listed in ser_jax/config.py"
BASE_CONFIG = os.path.join(os.path.dirname(__file__), "config.py")


def define_config() -> flags.FlagHolder:
    """Defines `--config=FILE` (default: the base configuration) and `--config.KEY=VALUE`, in any order."""
    # The library wants the file before the keys.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: not argument.startswith("--config="))
    try:
        return config_flags.DEFINE_config_file("config", BASE_CONFIG, "Configuration file.", lock_config=True)
    except _BAD_VALUES as error:  # Without --config, the overrides are applied to the default here.
        sys.exit(_fail(_flag_message(error)))


def run(main: Callable[..., int | None], *, positional: bool = False) -> None:
    """Parses the command line, runs `main` and leaves with its exit code.

    Errors that the user can mend, a full disk among them, end with one sentence on standard error and exit code 2,
    diverged training with 3, a lost host with 134, SIGTERM with `training.preemption_exit_code`; anything else is a
    defect of this program and keeps its traceback. A reader that goes away (`| head`) ends the command as it ends
    others, without a word.

    Args:
      main: The command; reads its flags from the FlagHolders it defined.
      positional: True if the command takes arguments beside its flags; `main` is then called with the list of them.
    """

    def guarded(arguments: Sequence[str]) -> int:
        if len(arguments) > 1 and not positional:
            return _fail(f"unexpected argument {arguments[1]!r}; options start with --")
        preempted = _preemption_exit_code()
        try:
            with leaving_on_sigterm(preempted):
                code = (main(list(arguments[1:])) if positional else main()) or 0
                sys.stdout.flush()
                return code
        except (UserError, Diverged, HostLost) as error:
            return _fail(str(error), error.exit_code)
        except Interrupted as stop:
            return _leave(farewell(stop.signal), preempted if stop.signal == signal.SIGTERM else 128 + stop.signal)
        except KeyboardInterrupt:
            return _leave("interrupted", 128 + signal.SIGINT)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # What is left is flushed at exit.
            return 128 + signal.SIGPIPE
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            return _fail(_no_room(error))

    logging.getLogger("ser_jax").setLevel(logging.INFO)
    for library in ("jax", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    absl_logging.use_absl_handler()
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    app.run(guarded, flags_parser=_parse)


def _parse(arguments: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(arguments)
        if "config" in flags.FLAGS:
            _ = flags.FLAGS.config.system  # A file that could not be loaded is reported at its first use only.
        return rest
    except _BAD_VALUES as error:
        sys.exit(_fail(_flag_message(error, _config_file(arguments))))
    except (OSError, SyntaxError, ImportError, NameError) as error:
        sys.exit(_fail(_file_message(_config_file(arguments), f"{type(error).__name__}: {error}")))


def _config_file(arguments: Sequence[str]) -> str:
    """Returns the file that --config names, "" without it."""
    name = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, given, value = argument.partition("=")
        if flag in ("--config", "-config"):
            name = value if given else following
    return name


def _flag_message(error: Exception, file: str = "") -> str:
    text = str(error)
    if isinstance(error, flags.UnrecognizedFlagError):
        hint = f"keys are set with --config.KEY=VALUE ({KEYS})" if "config" in flags.FLAGS else "--help lists the flags"
        return f"unknown flag --{error.flagname}; {hint}"
    if "parsing config file" in text:  # The message holds the whole traceback of the file.
        return _file_message(file, text.strip().splitlines()[-1])
    if "'get_config'" in text or text == "'NoneType' object has no attribute 'system'":
        return f"--config={file} has no get_config() that returns a configuration; the presets in configs/ have one"
    if isinstance(error, (AttributeError, KeyError)):
        key = re.search(r"""["'](\w+)\\?["']""", text)
        meant = re.search(r'Did you mean "(.+?)" instead', text)
        hint = f"; did you mean {meant[1]!r}?" if meant else ""
        return f"the configuration has no key {(key[1] if key else text)!r}{hint} ({KEYS})"
    hint = "--help lists the flags" if re.match(r"flag --(?!config\b)", text) else KEYS
    return f"{' '.join(text.split()).rstrip('.')} ({hint})"


def _file_message(name: str, reason: str) -> str:
    if not os.path.isfile(name):
        return f"--config={name}: there is no such file; the presets are in configs/"
    return f"--config={name} cannot be loaded: {' '.join(reason.split())}"


def _preemption_exit_code() -> int:
    """Returns the exit code after SIGTERM: that of the configuration, if the command has one."""
    config = flags.FLAGS.config if "config" in flags.FLAGS else get_config()
    return config.training.preemption_exit_code


def _no_room(error: OSError) -> str:
    return (
        f"{error.filename or 'a file'} cannot be written ({error.strerror}, errno {error.errno}): free space there and "
        f"run the same command again; what is finished is kept"
    )


def _fail(sentence: str, code: int = EXIT_USER) -> int:
    return _leave(f"error: {sentence}", code)


def _leave(sentence: str, code: int) -> int:
    with contextlib.suppress(OSError):  # Standard error may be closed as well.
        print(sentence, file=sys.stderr)
    return code
