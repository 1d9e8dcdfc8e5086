"""The commands, their flags, and how each ends: exit codes and the one sentence."""

import errno
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import pytest

from ser_jax import __version__, config
from ser_jax.commands import command_line
from ser_jax.commands.command_line import CONFIG, KEYS, Flag
from ser_jax.runtime import signals
from ser_jax.runtime.errors import Diverged, HostLost, UserError

STOPPED = "stopped by SIGTERM; run the same command again to go on from here\n"


def fake(main, *listed, arguments=""):
    """Returns a command with this body and these flags."""
    return types.SimpleNamespace(FLAGS=listed, ARGUMENTS=arguments, main=main)


@pytest.fixture
def ended(capsys):
    """Runs a command (or raises) in this process; returns its exit code and standard error."""

    def run(main, *words, listed=()):
        def body(options):
            if isinstance(main, BaseException):
                raise main
            return main(options)

        return command_line.run(fake(body, *listed), words), capsys.readouterr().err

    return run


def test_a_tilde_is_the_home_folder_in_every_flag_that_is_a_text(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []
    listed = (Flag("output", "", "O."), Flag("runs", [], "R."), CONFIG)
    words = ("--output=~/a", "--runs=~/a,b", "--config=~/my.py", "~/c")
    (tmp_path / "my.py").write_text("from ser_jax.config import get_config\n")
    body = fake(lambda o: seen.extend([o.output, *o.runs, *o.arguments]), *listed, arguments="FILE")
    assert command_line.run(body, words) == 0
    assert seen == [f"{tmp_path}/a", f"{tmp_path}/a", "b", f"{tmp_path}/c"]


def test_labels_with_commas_and_in_any_script():
    seen = []
    body = fake(lambda options: seen.extend(options.classes), Flag("classes", [], "C."))
    assert command_line.run(body, ['--classes="sad, or angry",怒り,غاضب']) == 0
    assert seen == ["sad, or angry", "怒り", "غاضب"]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "Unable to initialize backend 'cuda': Backend 'cuda' is not in the list of known"
            " backends: ['cpu', 'tpu'].",
            "jax cannot use the device that JAX_PLATFORMS asks for: install its plugin",
        ),
        (
            "Unable to initialize backend 'cuda': INTERNAL: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "the NVIDIA driver is too old for the installed CUDA: pip install 'ser_jax[cuda12]'",
        ),
        (
            "Unable to initialize backend 'cuda': CUDA driver version is insufficient for CUDA"
            " runtime version",
            "the NVIDIA driver is too old",
        ),
        (
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.",
            "the device has too little memory left: end what else runs on it",
        ),
        (
            "INTERNAL: CUDA_ERROR_DEVICE_UNAVAILABLE: all CUDA-capable devices are busy or"
            " unavailable",
            "the device is busy with another process",
        ),
    ],
)
def test_what_a_device_lacks_is_a_sentence(ended, message, sentence):
    code, err = ended(RuntimeError(message))
    assert code == 2 and err.startswith(f"error: {sentence}") and message in err
    assert len(err.splitlines()) == 1
    with pytest.raises(RuntimeError, match="another"):
        ended(RuntimeError("another defect"))


def test_the_cache_is_shown_and_pruned(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for number, (name, age) in enumerate((("a", 300), ("b", 200), ("c", 100))):
        path = tmp_path / f"ser_jax/features/{number}/{name}.npy"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(1_000_000))
        then = time.time() - age
        os.utime(path, (then, then))
    (tmp_path / "ser_jax/xla").mkdir()
    assert command_line.main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path}/ser_jax\n" in shown and "features        0.003 GB in 3 files" in shown
    assert command_line.main(["cache", "--prune", "--most_gb=0.0015"]) == 0
    assert "removed 2 entries of features, 0.002 GB" in capsys.readouterr().out
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["c.npy"]
    assert command_line.main(["cache", "--most_gb=1"]) == 2


# --- The commands


def test_alone_it_lists_every_command(capsys):
    assert command_line.main([]) == 0
    listed = capsys.readouterr().out
    for name in command_line.commands():
        assert f"\n  {name} " in listed
    assert command_line.main(["--help"]) == 0 and capsys.readouterr().out == listed
    assert command_line.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ser-jax {__version__}\n"


def test_an_unknown_command_names_near_ones(capsys):
    assert command_line.main(["trian", "--config=x"]) == 2
    message = "unknown command 'trian'; did you mean train? ser-jax alone lists the commands"
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("name", command_line.commands())
def test_help_shows_the_flags_of_the_command(name, capsys):
    assert command_line.main([name, "--model=x", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"ser-jax {name} ") and max(map(len, shown.splitlines())) <= 100
    flags = [line for line in shown.partition("Flags:")[2].splitlines() if line.startswith("  --")]
    assert len(flags) == len(command_line.commands()[name].FLAGS)
    assert ("Flags:" in shown) == ("[--FLAG=VALUE …]" in shown) == bool(flags)


def test_the_module_is_the_console_script():
    """As users run it, from any folder, and without loading jax."""
    program = (
        "import runpy, sys; sys.argv[1:] = ['predict', '--model=']\n"
        "try: runpy.run_module('ser_jax', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'jax' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "2 False\n"
    assert done.stderr.startswith("error: --model is missing: name the run directory")


def test_a_command_is_called_in_this_process_and_raises():
    with pytest.raises(UserError, match="name at least 2 run directories, not 1"):
        command_line.call("compare", "runs/a", "--output=x.html")


# --- Flags


def parsed(*words, listed=(), arguments=""):
    return command_line.parse(fake(None, *listed, arguments=arguments), words)


def test_flags_have_the_type_of_their_default():
    defaults = {"text": "a", "whole": 1, "real": None, "on": True, "names": []}
    listed = [Flag(name, default, "") for name, default in defaults.items()]
    listed.append(Flag("kind", "b", "", choices=("a", "b")))
    words = ("--text=x y", "--whole", "3", "--real=.5", "--noon", "--names=a,b", "--kind=a")
    found = parsed(*words, listed=listed)
    assert (found.text, found.whole, found.real, found.on) == ("x y", 3, 0.5, False)
    assert (found.names, found.kind) == (["a", "b"], "a")
    found = parsed(listed=listed)
    assert (found.whole, found.real, found.on, found.names, found.kind) == (1, None, True, [], "b")
    for wrong in ("--whole=x", "--real=x", "--on=maybe", "--kind=c", "--real"):
        with pytest.raises(UserError, match=f"{wrong}.*--help lists the flags"):
            parsed(wrong, listed=listed)
    with pytest.raises(UserError, match="--seeds=0"):
        parsed("--seeds=0", listed=(Flag("seeds", 3, "", least=1),))


def test_arguments_stand_before_between_and_after_flags():
    found = parsed("runs/a", "--out=x", "runs/b", listed=(Flag("out", "", ""),), arguments="RUN …")
    assert (found.arguments, found.out) == (["runs/a", "runs/b"], "x")


def test_what_a_command_does_not_take_is_refused():
    with pytest.raises(UserError, match="unexpected argument 'runs/a'; options start with --"):
        parsed("runs/a")
    with pytest.raises(UserError, match="unknown flag --config.training.epochs; --help lists"):
        parsed("--config.training.epochs=3")


@pytest.mark.parametrize(
    "words",
    [
        ("--config.training.epochs=3", "--config=tuned/plain_crnn"),
        ("--config", "configs/tuned/plain_crnn.py", "--config.training.epochs", "3"),
        ("--config=multi_crnn", "--config.training.epochs=3", "-config=tuned/plain_crnn"),
    ],
    ids=["a key first", "two words", "twice"],
)
def test_a_configuration_by_name_or_file_with_keys_in_any_order(words):
    found = parsed(*words, listed=(CONFIG,))
    assert (found.config.system, found.config.training.epochs) == ("plain_crnn", 3)
    assert found.config.training.batch_size == 16 and found.config.is_locked
    assert found.config_file.endswith(("tuned/plain_crnn", "tuned/plain_crnn.py"))
    assert found.sets("training.epochs") and not found.sets("training.batch_size")


def test_calls_leave_nothing_behind():
    parsed("--config.training.epochs=3", listed=(CONFIG,))
    assert parsed(listed=(CONFIG,)).config == config.get_config()


def test_a_preset_may_take_an_argument(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ser_jax import config\n"
        "def get_config(name):\n    c = config.get_config()\n    c.system = name\n    return c\n"
    )
    assert parsed(f"--config={path}:svm", listed=(CONFIG,)).config.system == "svm"


def refusal(*words) -> str:
    with pytest.raises(UserError) as refused:
        parsed(*words, listed=(CONFIG, Flag("seeds", 1, "")))
    return str(refused.value)


def _file(folder, text: str) -> str:
    path = folder / "preset.py"
    path.write_text(f"from ser_jax import config as base\n{text}")
    return f"--config={path}"


def _preset(*lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"def get_config():\n    c = base.get_config()\n{body}    return c\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def get_config(:\n", ("preset.py", "SyntaxError", "line 2")),
        ("import no_such_module\n", ("preset.py", "no_such_module")),
        ("get = base.get_config\n", ("preset.py", "no get_config()", "multi_crnn")),
        ("def get_config():\n    pass\n", ("preset.py", "no get_config() that returns", "multi_")),
        (_preset("c.training.epoch = 3"), ("no key 'epoch'", "did you mean 'epochs'?")),
        (_preset("c.training.epochs = 'many'"), ("preset.py", "'epochs'", "many")),
    ],
    ids=["syntax", "import", "no function", "returns nothing", "unknown key", "wrong type"],
)
def test_a_wrong_configuration_file_is_named(text, parts, tmp_path):
    sentence = refusal(_file(tmp_path, text))
    assert all(part in sentence for part in parts), sentence
    assert len(sentence) < 250


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--config="], ("names no file", "tuned/plain_crnn")),
        (["--config=mutli_crnn"], ("--config=mutli_crnn", "tuned/plain_crnn")),
        (["--config", "nowhere.py"], ("--config=nowhere.py", "no such file", "multi_crnn")),
        (["--config=nowhere.py", "--config.training.epochs=3"], ("nowhere.py", "no such file")),
        (["--config.training.epoch=3"], ("no key 'epoch'", "did you mean 'epochs'?", KEYS)),
        (["--config=configs/plain_crnn.py", "--config.speed=3"], ("no key 'speed'", KEYS)),
        (["--config.training.epochs=many"], ("--config.training.epochs=many", "int")),
        (["--config.training.learning_rate=low"], ("--config.training.learning_rate=low", "float")),
        (["--config.corpus.allow_missing=maybe"], ("corpus.allow_missing=maybe", "boolean")),
        (["--epochs=3"], ("--epochs", "--config.KEY=VALUE")),
        (["--seeds"], ("--seeds", "Missing value")),
        (["train"], ("unexpected argument 'train'", "--")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_flag_is_named(arguments, parts):
    sentence = refusal(*arguments)
    assert all(part in sentence for part in parts), sentence


# --- Exit codes


@pytest.mark.parametrize(
    ("main", "code", "message"),
    [
        (lambda options: None, 0, ""),
        (lambda options: 42, 42, ""),
        (UserError("x=1; it must be 2"), 2, "error: x=1; it must be 2\n"),
        (Diverged("1 of 2 trials diverged"), 3, "error: 1 of 2 trials diverged\n"),
        (HostLost("host 1 is lost"), 134, "error: host 1 is lost\n"),
        (KeyboardInterrupt(), 130, signals.exit_message(signal.SIGINT) + "\n"),
    ],
    ids=["done", "a code", "wrong input", "diverged", "a lost host", "Ctrl-C"],
)
def test_exit_codes(main, code, message, ended):
    assert ended(main) == (code, message)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_sentence(number, ended):
    code, message = ended(OSError(number, "No room", "/a/b.csv"))
    assert code == 2 and message.startswith("error: /a/b.csv cannot be written (No room, errno ")
    assert message.endswith(
        "): free space there and run the same command again; what is finished is kept\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
@pytest.mark.parametrize("body", ["print('x')", "raise UserError('no')"])
def test_full_output_is_no_traceback(body):
    """Standard output and, for log lines, standard error on a full disk."""
    with open("/dev/full", "w") as full:
        command = program(f"logging.getLogger('ser_jax').info('x'); {body}")
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert subprocess.run(command, stdout=full, stderr=full, timeout=120).returncode == 2


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR])
def test_a_place_that_cannot_be_used_is_named(number, ended):
    code, message = ended(OSError(number, os.strerror(number), "/a/b"))
    assert (code, message) == (
        2,
        f"error: /a/b cannot be used ({os.strerror(number)}): name another place, or see to its"
        " permissions\n",
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EBADF, "Bad"),
        OSError(errno.ENOENT, "No", "/a"),
        OSError(errno.EACCES, "No name"),
        ZeroDivisionError(),
    ],
)
def test_a_defect_keeps_its_traceback(error, ended):
    with pytest.raises(type(error)):
        ended(error)


def test_log_lines_are_a_time_and_a_sentence(ended):
    log = logging.getLogger("ser_jax.x")
    code, message = ended(lambda options: log.info("%d files", 3))
    time_, _, sentence = message.partition(" ")
    assert (code, sentence, len(time_)) == (0, "3 files\n", 8)
    log.info("nobody reads this")


# --- Signals (how a process ends: tests/runtime/test_signals.py)


def terminate_in_a_watch(options):
    with signals.Watch() as watch:
        signal.raise_signal(signal.SIGTERM)
        watch.check()


@pytest.mark.parametrize("code", [42, 75])
def test_the_exit_code_after_sigterm_is_that_of_the_configuration(ended, code):
    word = f"--config.training.preemption_exit_code={code}"
    words = (word,) if code != 42 else ()
    assert ended(terminate_in_a_watch, *words, listed=(CONFIG,)) == (code, STOPPED)


def program(body: str) -> list[str]:
    """Returns a command with this body in a process of its own."""
    text = f"""
        import logging, os, signal, sys, types
        from ser_jax.commands import command_line
        from ser_jax.runtime.errors import UserError
        def main(options):
            {body}
        command = types.SimpleNamespace(main=main, FLAGS=())
        sys.exit(command_line.run(command, []))
    """
    return [sys.executable, "-c", textwrap.dedent(text)]


def test_sigterm_ends_a_command_where_nothing_watches():
    body = "signal.raise_signal(signal.SIGTERM)"
    done = subprocess.run(program(body), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (42, STOPPED)


@pytest.mark.parametrize("lines", [1, 100_000], ids=["in the buffer", "more than a pipe holds"])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(lines):
    """`| head`: 141 is what a shell reports of a command that SIGPIPE has ended."""
    body = f"sys.stdin.readline(); print('line\\n' * {lines})"
    process = subprocess.Popen(program(body), stdin=-1, stdout=-1, stderr=-1, text=True)
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.write("go\n")
    process.stdin.close()
    message = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=120), message) == (141, "")
