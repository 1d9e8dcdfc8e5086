"""How a command ends: exit codes and the one sentence, whatever the command is."""

import subprocess
import sys
import textwrap

import pytest


def program(body: str, before: str = "") -> list[str]:
    """Returns a command with this body."""
    text = f"""
        import errno, signal, sys, time
        from ser_jax import cli
        from ser_jax.errors import Diverged, UserError
        from ser_jax.training import interrupt
        {before}
        def main():
            {body}
        cli.run(main)
    """
    return [sys.executable, "-c", textwrap.dedent(text)]


def ended(body: str, *arguments: str, before: str = "") -> tuple[int, str]:
    """Runs a command with this body; returns its exit code and what it wrote on standard error."""
    process = subprocess.run([*program(body, before), *arguments], capture_output=True, text=True, timeout=120)
    return process.returncode, process.stderr


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return None", 0, ""),
        ("return 42", 42, ""),
        ("raise UserError('x=1; it must be 2')", 2, "error: x=1; it must be 2\n"),
        ("raise Diverged('1 of 2 runs diverged')", 3, "error: 1 of 2 runs diverged\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
    ],
    ids=["done", "a code", "wrong input", "diverged", "Ctrl-C"],
)
def test_exit_codes(body, code, said):
    assert ended(body) == (code, said)


STOPPED = "stopped by SIGTERM; run the same command again to go on from here\n"
TERM = "signal.raise_signal(signal.SIGTERM)"


def test_sigterm_ends_a_command_wherever_it_is():
    """R3: also where nothing watches for it, such as extraction and scoring; Python code is left at once."""
    assert ended(f"{TERM}; time.sleep(100)") == (42, STOPPED)


def test_sigterm_passes_what_catches_every_exception():
    body = f"""
            try:
                {TERM}
            except Exception:
                print('caught')"""
    assert ended(body) == (42, STOPPED)


def test_sigterm_while_cleaning_up_changes_nothing():
    body = f"""
            try:
                {TERM}
            finally:
                {TERM}
                print('cleaned up', file=sys.stderr)"""
    assert ended(body) == (42, "cleaned up\n" + STOPPED)


def test_sigterm_ends_a_command_that_is_busy_in_a_library():
    """R3: XLA may compile for longer than a scheduler waits. This library call takes longer than the test may."""
    body = """
            import hashlib, os, threading
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"""
    assert ended(body, before="interrupt.GRACE = 0.2") == (42, STOPPED)


def test_sigterm_leaves_the_time_to_save():
    """While training watches, however long its save takes."""
    body = """
            with interrupt.Watch() as watch:
                signal.raise_signal(signal.SIGTERM)
                time.sleep(1)
                print('saved', file=sys.stderr)
                raise interrupt.Interrupted(watch.received)"""
    assert ended(body, before="interrupt.GRACE = 0.2") == (42, "saved\n" + STOPPED)


def test_the_exit_code_after_sigterm_is_that_of_the_configuration():
    defined = "CONFIG = cli.define_config()"
    assert ended(TERM, "--config.training.preemption_exit_code=75", before=defined) == (75, STOPPED)


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_is_one_sentence(name):
    """R9: wherever it is noticed."""
    code, said = ended(f"raise OSError(errno.{name}, 'No room', '/a/b.csv')")
    assert code == 2 and said.startswith("error: /a/b.csv cannot be written (No room, errno ")
    assert said.endswith("): free space there and run the same command again; what is finished is kept\n")


def test_another_error_of_the_system_is_a_defect():
    code, said = ended("raise OSError(errno.EBADF, 'Bad')")
    assert code == 1 and "Traceback" in said


@pytest.mark.parametrize("lines", [1, 100_000], ids=["in the buffer", "more than a pipe holds"])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(lines):
    """`| head`: 141 is what a shell reports of a command that SIGPIPE has ended."""
    body = f"sys.stdin.readline(); print('line\\n' * {lines})"
    process = subprocess.Popen(program(body), stdin=-1, stdout=-1, stderr=-1, text=True)
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.write("go\n")
    process.stdin.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=120), said) == (141, "")


def test_a_defect_keeps_its_traceback():
    code, said = ended("1 / 0")
    assert code == 1 and "Traceback" in said and "ZeroDivisionError" in said


def test_log_lines_are_a_time_and_a_sentence():
    code, said = ended("import logging; logging.getLogger('ser_jax.x').info('%d files', 3)")
    assert code == 0
    time, _, sentence = said.partition(" ")
    assert sentence == "3 files\n" and len(time) == 8


def test_commands_without_a_configuration_need_none():
    assert ended("return 0", "--config.training.epochs=3") == (
        2,
        "error: unknown flag --config.training.epochs; --help lists the flags\n",
    )


def test_arguments_beside_flags_are_refused():
    assert ended("return 0", "runs/a") == (2, "error: unexpected argument 'runs/a'; options start with --\n")


def test_a_command_may_take_arguments():
    """They stand before, between and after the flags."""
    program = (
        "from ser_jax import cli\n"
        "OUT = cli.flags.DEFINE_string('out', '', 'A file.')\n"
        "cli.run(lambda names: print(names, OUT.value), positional=True)"
    )
    arguments = [sys.executable, "-c", program, "runs/a", "--out=x", "runs/b"]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stdout) == (0, "['runs/a', 'runs/b'] x\n")
