"""Several processes and one store: none harms another, and a killed one leaves what it has finished (R22)."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
RECORDINGS = 24

# Extracts a corpus; says "begun" before the first write and waits for a word, so that two of them work on everything at
# once. With a number of writes to survive it is killed within the next one, between the file and its name.
PROGRAM = textwrap.dedent(
    """
    import json, os, signal, sys, threading
    from pathlib import Path

    from ser_jax.corpora.table import Corpus, Utterance
    from ser_jax.features import extract, store
    from ser_jax.features.logmel import LogMelSettings

    corpus, folder, survives = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    settings = LogMelSettings(
        sample_rate=16000, window_seconds=0.025, hop_seconds=0.010, fft=1024, bands=40, low_hz=0.0, high_hz=8000.0,
        floor=1e-10,
    )
    lock, replace, written = threading.Lock(), os.replace, []

    def counting(source, target):
        with lock:
            if not written:
                print("begun", flush=True)
                sys.stdin.readline()
            if len(written) == survives:
                os.kill(os.getpid(), signal.SIGKILL)
            written.append(target)
            replace(source, target)

    os.replace = counting
    names = sorted(path.name for path in corpus.glob("*.wav"))
    utterances = tuple(Utterance(name, name, None, None, label="sad") for name in names)
    found = extract.extract(
        Corpus("test", corpus, utterances, "none", {}), settings, hsf=False, store_root=folder, max_seconds=9.0,
        max_bad_share=0.5, workers=2,
    )
    print(json.dumps([found.extracted, len(found.utterances), len(found.rejected), len(written)]))
    """
)


class Extraction:
    """A process that extracts a corpus into a store."""

    def __init__(self, corpus: Path, store: Path, survives: int = 10**6):
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(corpus), str(store), str(survives)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_begun(self) -> None:
        assert self._process.stdout is not None and self._process.stdout.readline() == "begun\n"

    def end(self) -> tuple[int, list[int] | None, str]:
        """Lets it go on; returns its exit code, what it counted and what it complained of."""
        out, err = self._process.communicate("go\n", timeout=300)
        return self._process.returncode, json.loads(out.splitlines()[-1]) if out.endswith("]\n") else None, err


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Recordings of which one is empty."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for number in range(RECORDINGS):
        soundfile.write(folder / f"{number:02d}.wav", 0.1 * rng.standard_normal(3000 + 100 * number), 16000)
    (folder / "bad.wav").write_bytes(b"")
    return folder


def entries(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.rglob("*.npy")}


def leftovers(store: Path) -> list[Path]:
    return [path for path in store.rglob(".tmp-*") if path.is_file()]


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory) -> dict[str, bytes]:
    """The entries that one process makes alone."""
    store = tmp_path_factory.mktemp("alone")
    code, counts, err = Extraction(corpus, store).end()
    assert (code, counts) == (0, [RECORDINGS, RECORDINGS, 1, 2 * RECORDINGS]), err
    assert not leftovers(store)
    return entries(store)


def test_two_processes_extract_the_same_corpus_at_once(corpus, undisturbed, tmp_path):
    pair = [Extraction(corpus, tmp_path) for _ in range(2)]
    for process in pair:
        process.wait_until_begun()  # Neither has written anything: both have everything to do.
    for process in pair:
        code, counts, err = process.end()
        assert (code, counts, err.count("damaged")) == (0, [RECORDINGS, RECORDINGS, 1, 2 * RECORDINGS], 0), err
    assert entries(tmp_path) == undisturbed and not leftovers(tmp_path)


def test_one_of_two_is_killed_and_the_other_does_not_mind(corpus, undisturbed, tmp_path):
    doomed, other = Extraction(corpus, tmp_path, survives=7), Extraction(corpus, tmp_path)
    doomed.wait_until_begun()
    other.wait_until_begun()
    assert doomed.end()[0] == -signal.SIGKILL
    code, counts, err = other.end()
    assert (code, counts) == (0, [RECORDINGS, RECORDINGS, 1, 2 * RECORDINGS]), err
    assert entries(tmp_path) == undisturbed and leftovers(tmp_path)


def test_killed_again_and_again_it_never_does_finished_work_twice(corpus, undisturbed, tmp_path):
    """Each process dies within a write; the last one ends, and the store is that of an undisturbed extraction."""
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed)  # shown if the test fails
    rng, before = np.random.default_rng(seed), {}
    for _ in range(4):
        survives = int(rng.integers(1, 9))
        assert Extraction(corpus, tmp_path, survives).end()[0] == -signal.SIGKILL
        now = entries(tmp_path)
        assert len(now) == len(before) + survives and before.items() <= now.items() <= undisturbed.items()
        before = now
    code, counts, err = Extraction(corpus, tmp_path).end()
    missing = 2 * RECORDINGS - len(before)
    assert counts is not None and counts[1:] == [RECORDINGS, 1, missing], err
    assert code == 0 and "damaged" not in err and entries(tmp_path) == undisturbed


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_processes_that_find_the_same_damage_both_mend_it(corpus, undisturbed, tmp_path, damage):
    """Each warns, computes that recording only, and none removes what the other has just written."""
    for name, content in undisturbed.items():
        (tmp_path / name[:2]).mkdir(exist_ok=True)
        (tmp_path / name[:2] / name).write_bytes(content)
    name = sorted(undisturbed)[5]
    path, content = tmp_path / name[:2] / name, bytearray(undisturbed[name])
    content[len(content) // 2] ^= 16
    path.write_bytes({"flip": content, "cut": content[:-40], "empty": b""}[damage])
    pair = [Extraction(corpus, tmp_path) for _ in range(2)]
    for process in pair:
        process.wait_until_begun()
    for process in pair:
        code, counts, err = process.end()
        assert (code, counts) == (0, [1, RECORDINGS, 1, 1]), err
        assert f"{path} is damaged; it will be computed again" in err
    assert entries(tmp_path) == undisturbed
