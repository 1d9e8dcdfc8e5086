"""`python -m ser_jax.protocol`: what it prints and writes, how it refuses, and what it does not load."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import releases
from commands import ROOT, command

MODULE = "ser_jax.protocol"


@pytest.fixture
def options(tmp_path) -> list[str]:
    root = releases.write_manifest(tmp_path / "corpus", releases.manifest_rows(), seconds=0.01).parent
    return ["--config.corpus.name=manifest", f"--config.corpus.root={root}", f"--output={tmp_path / 'p.json'}"]


def test_the_page_and_the_file(options, tmp_path):
    ended = command(*options, module=MODULE)
    assert (ended.code, ended.err) == (0, "")
    written = json.loads((tmp_path / "p.json").read_text())
    lines = ended.out.splitlines()
    assert lines[0] == written["name"] == "manifest-speaker" and lines[1].split() == ["sha256", written["sha256"]]
    assert lines[-1] == f"  written to {tmp_path / 'p.json'}"


def test_another_protocol_of_the_same_corpus(options):
    ended = command(*options, "--config.protocol.name=manifest-speaker-3fold", module=MODULE)
    assert ended.out.startswith("manifest-speaker-3fold\n") and "\n  2of3  train " in ended.out


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--config.corpus.root=/nowhere", "corpus.root=/nowhere is not a folder"),
        ("--config.protocol.name=manifest-spaeker", "choose one of manifest-final, manifest-session"),
        ("--config.protocol.name=manifest-speaker-9fold", "the corpus has 4 speakers for 9 folds"),
        ("--config.protocol.nmae=x", "has no key 'nmae'; did you mean 'name'?"),
        ("--outptu=x", "unknown flag --outptu"),
    ],
)
def test_refusals(options, argument, sentence):
    assert sentence in command(*options, argument, module=MODULE).refusal


def test_rejected_rows_are_listed_beside_the_output(options, tmp_path):
    (tmp_path / "corpus/audio/s0/sad1.wav").unlink()
    assert command(*options, module=MODULE).refusal.endswith(f"all 1 are listed in {tmp_path / 'rejected.csv'}")
    assert "audio/s0/sad1.wav,,missing," in (tmp_path / "rejected.csv").read_text()


def test_neither_jax_nor_features_are_loaded(options):
    program = (
        "import runpy, sys\n"
        "try:\n"
        f"    runpy.run_module('{MODULE}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(sorted({'jax', 'flax', 'matplotlib', 'ser_jax.features.extract'} & set(sys.modules)))\n"
    )
    arguments = [sys.executable, "-c", program, *options]
    ended = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=os.environ, timeout=120, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert Path(options[-1].partition("=")[2]).is_file()
