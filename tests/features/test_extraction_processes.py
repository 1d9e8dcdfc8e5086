"""Several processes and one store: none harms another, and a killed one loses nothing (R22)."""

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
# Counts of a whole extraction: extracted, usable, rejected, writes.
EVERYTHING = [RECORDINGS, RECORDINGS, 1, 2 * RECORDINGS]

# Extracts a corpus; prints "started" before the first write and waits for a line, so that two of
# them work on everything at once. With a number of writes to survive it is killed within the next
# one, between the file and its name.
PROGRAM = textwrap.dedent("""
    import json, os, signal, sys, threading
    from pathlib import Path

    from ser_jax.corpora.table import Corpus, Utterance
    from ser_jax.features import extraction
    from ser_jax.features.logmel import LogMelSettings

    corpus, folder, survives = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    settings = LogMelSettings(16000, 0.025, 0.010, 1024, 40, 0.0, 8000.0, 1e-10)
    lock, replace, written = threading.Lock(), os.replace, []

    def counting(source, target):
        with lock:
            if not written:
                print("started", flush=True)
                sys.stdin.readline()
            if len(written) == survives:
                os.kill(os.getpid(), signal.SIGKILL)
            written.append(target)
            replace(source, target)

    os.replace = counting
    names = sorted(path.name for path in corpus.glob("*.wav"))
    utterances = tuple(Utterance(name, name, None, None, label="sad") for name in names)
    found = extraction.extract(
        Corpus("test", corpus, utterances, "none", {}), settings, hsf=False, store_root=folder,
        max_seconds=9.0, max_bad_share=0.5, workers=2,
    )
    print(json.dumps([found.extracted, len(found.utterances), len(found.rejected), len(written)]))
    """)


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

    def wait_until_started(self) -> None:
        assert self._process.stdout is not None and self._process.stdout.readline() == "started\n"

    def end(self) -> tuple[int, list[int] | None, str]:
        """Lets it continue; returns its exit code, its counts and its standard error."""
        out, err = self._process.communicate("go\n", timeout=300)
        counts = json.loads(out.splitlines()[-1]) if out.endswith("]\n") else None
        return self._process.returncode, counts, err


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Recordings of which one is empty."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for number in range(RECORDINGS):
        samples = 0.1 * rng.standard_normal(3000 + 100 * number)
        soundfile.write(folder / f"{number:02d}.wav", samples, 16000)
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
    assert (code, counts) == (0, EVERYTHING), err
    assert not leftovers(store)
    return entries(store)


def both(corpus: Path, store: Path) -> list[tuple[int, list[int] | None, str]]:
    """What two processes give that have everything to do when both have started."""
    pair = [Extraction(corpus, store) for _ in range(2)]
    for process in pair:
        process.wait_until_started()
    return [process.end() for process in pair]


def test_two_processes_extract_the_same_corpus_at_once(corpus, undisturbed, tmp_path):
    for code, counts, err in both(corpus, tmp_path):
        assert (code, counts) == (0, EVERYTHING) and "damaged" not in err, err
    assert entries(tmp_path) == undisturbed and not leftovers(tmp_path)


def test_one_of_two_is_killed_and_the_other_does_not_mind(corpus, undisturbed, tmp_path):
    doomed, other = Extraction(corpus, tmp_path, survives=7), Extraction(corpus, tmp_path)
    doomed.wait_until_started()
    other.wait_until_started()
    assert doomed.end()[0] == -signal.SIGKILL
    code, counts, err = other.end()
    assert (code, counts) == (0, EVERYTHING), err
    assert entries(tmp_path) == undisturbed and leftovers(tmp_path)


def test_killed_again_and_again_it_never_does_finished_work_twice(corpus, undisturbed, tmp_path):
    """Each process dies within a write; after the last one the store is an undisturbed one's."""
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed)  # shown if the test fails
    rng, before = np.random.default_rng(seed), {}
    for _ in range(4):
        survives = int(rng.integers(1, 9))
        assert Extraction(corpus, tmp_path, survives).end()[0] == -signal.SIGKILL
        now = entries(tmp_path)
        assert len(now) == len(before) + survives
        assert before.items() <= now.items() <= undisturbed.items()
        before = now
    code, counts, err = Extraction(corpus, tmp_path).end()
    missing = 2 * RECORDINGS - len(before)
    assert counts is not None and counts[1:] == [RECORDINGS, 1, missing], err
    assert code == 0 and "damaged" not in err and entries(tmp_path) == undisturbed


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_processes_that_find_the_same_damage_both_mend_it(corpus, undisturbed, tmp_path, damage):
    """Each warns and computes that recording only; none removes what the other has written."""
    for name, content in undisturbed.items():
        (tmp_path / name[:2]).mkdir(exist_ok=True)
        (tmp_path / name[:2] / name).write_bytes(content)
    name = sorted(undisturbed)[5]
    path, content = tmp_path / name[:2] / name, bytearray(undisturbed[name])
    content[len(content) // 2] ^= 16
    path.write_bytes({"flip": content, "cut": content[:-40], "empty": b""}[damage])
    for code, counts, err in both(corpus, tmp_path):
        assert (code, counts) == (0, [1, RECORDINGS, 1, 1]), err
        assert f"{path} is damaged; it will be computed again" in err
    assert entries(tmp_path) == undisturbed
