"""The command line of `ser-jax`: commands, flags, errors in one sentence, exit codes.

A command is a module of this package: its docstring is its help, `FLAGS` lists its flags and
`main(options)` does the work. Nothing is kept between calls, so `call` works in any process.
"""

import contextlib
import dataclasses
import difflib
import functools
import logging
import os
import re
import signal
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from ser_jax import __version__, pretrained
from ser_jax.config import (
    KEYS,
    Config,
    get_config,
    key_message,
    known_presets,
    load_preset,
    presets,
)
from ser_jax.runtime.errors import (
    EXIT_USER,
    NO_ACCESS,
    NO_ROOM,
    Diverged,
    HostLost,
    UserError,
    device_sentence,
)
from ser_jax.runtime.signals import Guard, Interrupted, exit_message, guarded

HELP = ("--help", "-help", "-h", "--helpshort", "--helpfull")
WIDTH = 100  # columns of help


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag `--name=value`; its type is that of the default."""

    name: str
    default: Any  # None: a float that may be left out
    help: str
    choices: tuple[str, ...] = ()
    least: int | None = None

    def define(self, values: flags.FlagValues) -> None:
        """Adds the flag to those of a command line."""
        kinds = {bool: flags.DEFINE_bool, list: flags.DEFINE_list, str: flags.DEFINE_string}
        define: Any = kinds.get(type(self.default))
        options: dict[str, Any] = {"help": self.help, "flag_values": values}
        if self.choices:
            define, options["enum_values"] = flags.DEFINE_enum, self.choices
        elif define is None:
            whole = isinstance(self.default, int)
            define = flags.DEFINE_integer if whole else flags.DEFINE_float
            options["lower_bound"] = self.least
        define(self.name, self.default, **options)

    def lines(self) -> str:
        """Returns the flag as --help shows it."""
        kinds = {bool: "", list: "=A,B,…", str: "=TEXT", int: "=INTEGER"}
        value = f"={'|'.join(self.choices)}" if self.choices else kinds.get(type(self.default))
        name = f"[no]{self.name}" if isinstance(self.default, bool) else self.name
        default = f" [{self.default}]" if self.default not in ("", None, [], False) else ""
        text = textwrap.indent(textwrap.fill(self.help + default, WIDTH - 6), " " * 6)
        return f"  --{name}{'=NUMBER' if value is None else value}\n{text}"


# Flags of several commands.
CONFIG = Flag(
    "config",
    "",
    "Preset, by name or file; --config.KEY=VALUE sets a key of it, in any order: "
    f"{KEYS}. Presets: {', '.join(presets())}.",
)
MODEL = Flag("model", "", "Run directory that ser-jax train has written.")
PREDICTOR = Flag(
    "model",
    pretrained.DEFAULT,
    "Run directory that ser-jax train has written, a file of ser-jax export --format=safetensors,"
    " or a model that comes with the package (ser-jax models).",
)
EMBEDDER = Flag(
    "embedder",
    "",
    "Models trained on embeddings: the ONNX file that made them (ser-jax embed); its digest must be"
    " that of the training.",
)
ENROL = Flag(
    "enrol",
    "",
    "Folder of recordings of the person who speaks, for models that normalise by speaker; default:"
    " they answer as for strangers.",
)
ENGINE = Flag("engine", "local", "What computes: this machine, or Ray.", choices=("local", "ray"))
_WHERE = "HOST:PORT of a cluster, or auto on one of its nodes; default: this machine."
ADDRESS = Flag("address", "", f"With --engine=ray: {_WHERE}")


class Options:
    """The values of a command's flags, as attributes."""

    def __init__(
        self, values: flags.FlagValues, arguments: list[str], typed: list[str], config_file: str
    ):
        """Stores what was parsed."""
        self._values = values
        self.arguments = arguments  # what stands beside the flags
        self.typed = typed  # the whole command line, without the name of the command
        self.config_file = config_file  # what --config names; empty: the default configuration

    def __getattr__(self, name: str) -> Any:
        """Returns the value of a flag; a `~` that it begins with is the home folder."""
        value = self._values[name].value
        if isinstance(value, list):
            return [os.path.expanduser(item) for item in value]
        return os.path.expanduser(value) if isinstance(value, str) else value

    def sets(self, key: str) -> bool:
        """Returns whether the command line has `--config.KEY`."""
        return f"config.{key}" in self._values

    @functools.cached_property
    def model_folder(self) -> Path:
        """What --model names; if that is empty, a UserError."""
        if not self.model:
            raise UserError(
                "--model is missing: name the run directory that ser-jax train has written"
            )
        if self._values["model"].using_default_value:
            logging.getLogger(__name__).info(
                "note: %s predicts, since no --model is given; what it is and must not be used for:"
                " ser-jax models %s",
                *(self.model, self.model),
            )
        return Path(self.model)

    @property
    def ray(self) -> bool:
        """Whether --engine=ray; a UserError where --address needs that."""
        if self.address and self.engine != "ray":
            raise UserError(
                f"--address={self.address} is for --engine=ray; add that, or leave it out"
            )
        return self.engine == "ray"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `ser-jax COMMAND …` and returns its exit code; None: the arguments of this process."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in commands():
        return run(commands()[name], rest)
    if name in (*HELP, "help"):
        return run(_printing(overview()), [])
    if name == "--version":
        return run(_printing(f"ser-jax {__version__}"), [])
    near = difflib.get_close_matches(name, commands())
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return _fail(f"unknown command {name!r}; {meant}ser-jax alone lists the commands")


def _printing(text: str) -> Any:
    return types.SimpleNamespace(FLAGS=(), main=lambda options: print(text))


def call(name: str, *arguments: str) -> int:
    """Runs a command in this process and returns its exit code; its errors are raised."""
    command = commands()[name]
    return command.main(parse(command, arguments)) or 0


def commands() -> dict[str, Any]:
    """Returns the modules of the commands by name, in the order of the list."""
    from ser_jax.commands import (
        cache,
        compare,
        corpora,
        doctor,
        embed,
        evaluate,
        export,
        extract,
        fuse,
        matrix,
        models,
        predict,
        protocol,
        reproduce,
        serve,
        stream,
        stress,
        train,
        tune,
    )

    listed = (train, doctor, corpora, protocol, extract, embed, evaluate, stress)
    listed += (compare, fuse, matrix, tune, reproduce)
    listed += (models, predict, stream, serve, export, cache)
    return {module.__name__.rpartition(".")[2]: module for module in listed}


def overview() -> str:
    """Returns the list of all commands."""
    lines = (f"  {name:<10} {each.__doc__.splitlines()[0]}\n" for name, each in commands().items())
    return (
        f"Speech emotion recognition: ser-jax COMMAND [--FLAG=VALUE …]\n\n{''.join(lines)}\n"
        "ser-jax COMMAND --help lists the flags of a command, ser-jax --version the version."
    )


def command_help(command: Any) -> str:
    """Returns what COMMAND --help prints."""
    name = command.__name__.rpartition(".")[2]
    flags_of_it = "[--FLAG=VALUE …]" if command.FLAGS else ""
    usage = " ".join(["ser-jax", name, getattr(command, "ARGUMENTS", ""), flags_of_it])
    listed = "\n".join(flag.lines() for flag in command.FLAGS)
    text = f"{' '.join(usage.split())}\n\n{command.__doc__.strip()}"
    return f"{text}\n\nFlags:\n{listed}" if listed else text


# --- Running: errors and exit codes


def run(command: Any, arguments: Sequence[str]) -> int:
    """Parses the flags of a command, runs it and returns its exit code.

    Errors that the user can mend, a full disk or a place without permission among them, end with
    one sentence on standard error and exit code 2, diverged training with 3, a lost host with 134,
    SIGTERM with `training.preemption_exit_code`; anything else is a defect of this program and
    keeps its traceback. A reader that goes away (`| head`) ends the command without a word.
    """
    with guarded() as guard:
        return guard.finish(_run(command, arguments, guard))


def _run(command: Any, arguments: Sequence[str], guard: Guard) -> int:
    try:
        if any(argument in HELP for argument in arguments):
            print(command_help(command), flush=True)
            return 0
        options = parse(command, arguments)
        config = options.config if CONFIG in command.FLAGS else get_config()
        guard.know_exit_code(config.training.preemption_exit_code)
        with _log_lines():
            code = command.main(options) or 0
            sys.stdout.flush()
        stop = guard.received
        if stop is not None and stop != getattr(command, "REGULAR_END", None):
            raise Interrupted(stop)
        return code
    except (UserError, Diverged, HostLost) as error:
        return _fail(str(error), error.exit_code)
    except Interrupted as stop:
        return _leave(exit_message(stop.signal), guard.code_after(stop.signal))
    except KeyboardInterrupt:
        return _leave(exit_message(signal.SIGINT), guard.code_after(signal.SIGINT))
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    except RuntimeError as error:  # of jax, about a device
        if not (sentence := device_sentence(error)):
            raise
        return _fail(sentence)
    except OSError as error:
        if error.errno in NO_ACCESS and error.filename:
            return _fail(
                f"{error.filename} cannot be used ({error.strerror}): name another place, or see"
                " to its permissions"
            )
        if error.errno not in NO_ROOM:
            raise
        _drop_output()  # It may be what has no room.
        return _fail(
            f"{error.filename or 'a file'} cannot be written ({error.strerror}, errno"
            f" {error.errno}): free space there and run the same command again; what is finished"
            " is kept"
        )


def _drop_output() -> None:
    """Drops what standard output has not taken yet; Python would try again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _log_lines() -> Iterator[None]:
    """Writes log records to standard error, each as a time and a sentence, if it takes them."""
    raises, logging.raiseExceptions = logging.raiseExceptions, False  # no tracebacks
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    ours = logging.getLogger("ser_jax")
    before = ours.level
    ours.setLevel(logging.INFO)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.raiseExceptions = raises
        logging.root.removeHandler(handler)
        ours.setLevel(before)


def _fail(sentence: str, code: int = EXIT_USER) -> int:
    return _leave(f"error: {sentence}", code)


def _leave(sentence: str, code: int) -> int:
    with contextlib.suppress(OSError):  # Standard error may be closed as well.
        print(sentence, file=sys.stderr)
    return code


# --- Parsing


def parse(command: Any, arguments: Sequence[str]) -> Options:
    """Parses the command line of a command.

    Raises:
      UserError: If a flag, a value, a key or the configuration file is wrong.
    """
    values, has_config = flags.FlagValues(), CONFIG in command.FLAGS
    try:
        typed = values.read_flags_from_files(list(arguments), force_gnu=False)
        name, rest = _split_config(typed) if has_config else ("", typed)
        config = load_preset(name) if name else get_config()
        if has_config:  # Sets its keys from the command line at once.
            config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
        for flag in command.FLAGS:
            if flag != CONFIG:
                flag.define(values)
        beside = values(["ser-jax", *rest])[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(_flag_message(error, command)) from None
    if beside and not getattr(command, "ARGUMENTS", ""):
        raise UserError(f"unexpected argument {beside[0]!r}; options start with --")
    return Options(values, [os.path.expanduser(word) for word in beside], typed, name)


def _split_config(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Returns what --config names, "" without it, and the other arguments."""
    name, rest = "", []
    words = iter(arguments)
    for word in words:
        if word in ("--config", "-config"):
            word = f"{word}={next(words, '')}"
        if word.startswith(("--config=", "-config=")):
            name = word.partition("=")[2]
            if not name:
                raise UserError(f"--config names no file and no preset; {known_presets()}")
        else:
            rest.append(word)
    return name, rest


def configuration(
    config: str | os.PathLike[str] | Config,
    corpus: str,
    root: str | os.PathLike[str],
    settings: Mapping[str, Any],
) -> Config:
    """Returns a configuration for Python: a preset (name, file or ConfigDict) with keys set.

    `corpus` and `root` are `corpus.name` and `corpus.root`, unless empty; `settings` are other keys
    by their dotted names. A UserError says which key or value is wrong.
    """
    if isinstance(config, str | os.PathLike):
        found = load_preset(os.fspath(config))
    else:
        found = config
    found = found.copy_and_resolve_references()
    named = {"corpus.name": corpus, "corpus.root": os.fspath(root)}
    try:
        found.update_from_flattened_dict({k: v for k, v in named.items() if v} | {**settings})
    except (AttributeError, KeyError) as error:
        raise UserError(key_message(error)) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{' '.join(str(error).split())} ({KEYS})") from None
    return found.lock()


def _flag_message(error: Exception, command: Any) -> str:
    has_config = CONFIG in command.FLAGS
    if isinstance(error, flags.UnrecognizedFlagError):
        names = [flag.name for flag in command.FLAGS]
        near = difflib.get_close_matches(error.flagname, names)
        meant = f"did you mean --{' or --'.join(near)}? " if near else ""
        keys = f"keys are set with --config.KEY=VALUE ({KEYS})"
        remedy = keys if has_config else "--help lists the flags"
        return f"unknown flag --{error.flagname}; {meant}{remedy}"
    if isinstance(error, (AttributeError, KeyError)):
        return key_message(error)
    text = " ".join(str(error).split()).rstrip(".")
    of_command = re.search(r"\bflag --(?!config)", text)
    return f"{text} ({'--help lists the flags' if of_command else KEYS})"
