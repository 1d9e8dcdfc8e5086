"""R3: a command that gets SIGTERM ends within 5 s with the code that restarts it, and goes on."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import releases
from commands import SPEAKERS, TINY, Started, command

PROMISED = 5.0  # s
MOMENTS = 4  # of one command
SPREAD = 10.0  # s from its start in which they lie; most of these commands take longer

REAL = {  # Systems of the paper's size, in two groups of two runs.
    name: (
        "--config=configs/" + name + ".py",
        "--config.protocol.folds=03,08",
        "--config.protocol.seeds=2",
    )
    for name in ("plain_crnn", "multi_crnn", "hsf_crnn")
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, ...]:
    names = releases.emodb_names(SPEAKERS, per_emotion=6)
    root = releases.write_emodb(tmp_path_factory.mktemp("emodb"), names, seconds=3.0)
    return "--config.corpus.name=emodb", f"--config.corpus.root={root}"


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("trained") / "run"
    ended = command(
        *TINY, "--noreport", *corpus, "--config.protocol.seeds=10", f"--workdir={workdir}"
    )
    assert ended.code == 0, ended.err
    return workdir


def end_it(
    start: Callable[[int], Started],
    record: Callable[[str, object], None],
    spread: float = SPREAD,
    reached: Callable[[], bool] = lambda: True,
) -> None:
    """Starts a command several times, stops it at random moments; records how long it needs.

    The first is only stopped when it has `reached` what it is about, however slow the machine is.
    """
    seed = random.SystemRandom().randrange(2**32)
    moments, took = random.Random(seed), []
    for number in range(MOMENTS):
        started, moment = start(number), moments.uniform(0.2, spread)
        while started.running and not (started.listens and (number or reached())):
            time.sleep(0.02)
        if started.ends_within(moment):
            assert started.wait().code == 0
            continue
        started.send(signal.SIGTERM)
        begin = time.monotonic()
        ended = started.wait()
        took.append(time.monotonic() - begin)
        assert ended.code in (0, 42) and "Traceback" not in ended.err, (seed, number, moment, ended)
        assert took[-1] < PROMISED, (took[-1], seed, number, moment, ended)
    assert took, "it ends before it is stopped"
    stopped = f"{len(took)} of {MOMENTS} times stopped under way"
    record("measured", f"{stopped}, longest {max(took):.1f} s")


@pytest.mark.long
@pytest.mark.parametrize("system", REAL)
def test_training(system, corpus, tmp_path, record_property):
    if system == "hsf_crnn":
        pytest.importorskip("opensmile")
    arguments = (*REAL[system], *corpus, f"--workdir={tmp_path}/run")
    long = (*arguments, "--config.training.epochs=2000")
    reached = (tmp_path / "run/metrics.jsonl").exists
    end_it(lambda _: Started(*long), record_property, reached=reached)
    assert list((tmp_path / "run/checkpoints").iterdir()), "nothing is lost"


@pytest.mark.long
def test_fits_of_the_svm(corpus, tmp_path, record_property):
    pytest.importorskip("opensmile")
    long = ("--config.svm.tolerance=1e-12", "--config.svm.iterations=1000000")
    arguments = ("--config.system=svm", *long)
    end_it(lambda _: Started(*arguments, *corpus, f"--workdir={tmp_path}/run"), record_property)


@pytest.mark.long
def test_extraction(corpus, tmp_path, record_property):
    """Into a new store every time."""
    pytest.importorskip("opensmile")
    arguments = (*TINY, "--config.system=hsf_crnn", *corpus, f"--workdir={tmp_path}/run")
    store = f"--config.features.store={tmp_path}"
    end_it(lambda number: Started(*arguments, f"{store}/{number}"), record_property)


@pytest.mark.long
def test_evaluation(trained, tmp_path, record_property):
    """On speakers that it was not trained on."""
    names = releases.emodb_names(("11", "12", "13", "14"), per_emotion=6)
    root = releases.write_emodb(tmp_path / "other", names, seconds=3.1)
    other = ("--config.corpus.name=emodb", f"--config.corpus.root={root}")

    def start(number: int) -> Started:
        into = (f"--config.features.store={tmp_path}/{number}", f"--output={tmp_path}/scores")
        return Started(f"--model={trained}", *other, *into, name="evaluate")

    end_it(start, record_property, seconds(start))


@pytest.mark.long
def test_prediction(trained, corpus, tmp_path, record_property):
    def start(_: int) -> Started:
        recordings = corpus[1].partition("=")[2]
        output = f"--output={tmp_path}/a.csv"
        return Started(f"--model={trained}", recordings, output, name="predict")

    end_it(start, record_property, seconds(start))
    assert {path.name for path in tmp_path.iterdir()} <= {"a.csv"}


def seconds(start: Callable[[int], Started]) -> float:
    """Returns how long a command takes that nobody stops."""
    begin = time.monotonic()
    assert start(-1).wait().code == 0
    return time.monotonic() - begin
