"""How a command ends: exit codes and the one sentence, whatever the command is."""

import subprocess
import sys
import textwrap

import pytest


def ended(body: str, *arguments: str) -> tuple[int, str]:
    """Runs a command with this body; returns its exit code and what it wrote on standard error."""
    program = textwrap.dedent(f"""
        import sys
        from ser_jax import cli
        from ser_jax.errors import Diverged, UserError
        def main():
            {body}
        cli.run(main)
    """)
    process = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)
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
