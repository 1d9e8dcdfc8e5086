"""`ser-jax protocol`: what it prints and writes, how it refuses, and what it does not load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import releases
from commands import ROOT, command

NAME = "protocol"


@pytest.fixture
def options(tmp_path) -> list[str]:
    rows = releases.manifest_rows()
    root = releases.write_manifest(tmp_path / "corpus", rows, seconds=0.01).parent
    corpus = ["--config.corpus.name=manifest", f"--config.corpus.root={root}"]
    return [*corpus, f"--output={tmp_path / 'p.json'}"]


def test_the_page_and_the_file(options, tmp_path):
    ended = command(*options, name=NAME)
    assert (ended.code, ended.err) == (0, "")
    written = json.loads((tmp_path / "p.json").read_text())
    lines = ended.out.splitlines()
    assert lines[0] == written["name"] == "manifest-speaker"
    assert lines[1].split() == ["sha256", written["sha256"]]
    assert lines[-1] == f"  written to {tmp_path / 'p.json'}"


def test_another_protocol_of_the_same_corpus(options):
    ended = command(*options, "--config.protocol.name=manifest-speaker-3fold", name=NAME)
    assert ended.out.startswith("manifest-speaker-3fold\n") and "\n  2of3  train " in ended.out


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--config.corpus.root=/nowhere", "corpus.root=/nowhere is not a folder"),
        ("--config.protocol.name=manifest-spaeker", "choose one of manifest-final, manifest-"),
        ("--config.protocol.name=manifest-speaker-9fold", "the corpus has 4 speakers for 9 folds"),
    ],
)
def test_refusals(options, argument, sentence):
    assert sentence in command(*options, argument, name=NAME).refusal


def test_rejected_rows_are_listed_beside_the_output(options, tmp_path):
    (tmp_path / "corpus/audio/s0/sad1.wav").unlink()
    assert command(*options, name=NAME).refusal.endswith(
        f"all 1 are listed in {tmp_path / 'rejected.csv'}"
    )
    assert "audio/s0/sad1.wav,,missing," in (tmp_path / "rejected.csv").read_text()


def test_neither_jax_nor_features_are_loaded(options):
    program = (
        "import sys; from ser_jax.commands import command_line\n"
        "assert command_line.main(['protocol', *sys.argv[1:]]) == 0\n"
        "print(sorted({'jax', 'flax', 'matplotlib', 'ser_jax.features.extraction'} &"
        " set(sys.modules)))\n"
    )
    arguments = [sys.executable, "-c", program, *options]
    ended = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"
    assert Path(options[-1].partition("=")[2]).is_file()
