"""A signal at any moment, from the start of the process on, ends every command as documented."""

import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import releases
import tiny_onnx
from commands import ROOT, SPEAKERS, TINY, command

from ser_jax.commands import command_line

PROMISED = 5.0  # s
SPREAD = 3.0  # s from exec in which the moments lie
AT_ONCE = 4  # commands; more than there are cores, so that moments fall into every part of a start
# What a shell reports as 143 or 130: Python itself was still starting. 1: of Ctrl-C in that time.
BY_PYTHON = {signal.SIGTERM: (-signal.SIGTERM,), signal.SIGINT: (-signal.SIGINT, 1)}
DOCUMENTED = {signal.SIGTERM: 42, signal.SIGINT: 130}
# Commands for which it is the regular end, once they have started.
REGULAR = {("serve", signal.SIGTERM), ("stream", signal.SIGINT)}


EACH = "EACH"  # in an argument: what is another for every process, as they may run at once


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> dict[str, tuple[str, ...]]:
    """The arguments of every command; all take longer than the moments or are done before."""
    folder = tmp_path_factory.mktemp("signals")
    names = releases.emodb_names(SPEAKERS[:3], per_emotion=1)
    root = releases.write_emodb(folder / "emodb", names, seconds=0.5)
    corpus = ("--config.corpus.name=emodb", f"--config.corpus.root={root}")
    ended = command(*TINY, "--noreport", *corpus, f"--workdir={folder}/run")
    assert ended.code == 0, ended.err
    shutil.copytree(folder / "run", folder / "copy")
    shorter = ("--noreport", "--config.training.epochs=1")
    assert command(*TINY, *corpus, *shorter, f"--workdir={folder}/shorter").code == 0
    rows = [
        {"file": f"{speaker}-{label}.wav", "label": label, "speaker": speaker}
        for speaker in ("a", "b", "c")
        for label in ("anger", "neutral")
    ]
    listed = releases.write_manifest(folder / "listed", rows, seconds=0.5).parent
    onnx = tiny_onnx.write(folder / "model.onnx")
    model, tiny = f"--model={folder}/run", (*TINY, *corpus)
    names = releases.emodb_names(("11", "12"), per_emotion=1)
    other = releases.write_emodb(folder / "other", names, seconds=0.6)  # what it was not trained on
    return {
        "train": (*tiny, "--config.training.epochs=100000", f"--workdir={folder}/new-{EACH}"),
        "doctor": (*corpus, f"--output={folder}/doctor.csv"),
        "protocol": (*tiny, f"--output={folder}/protocol.json"),
        "extract": (*tiny, f"--config.features.store={folder}/store", f"--output={folder}"),
        "evaluate": (
            *(model, corpus[0], f"--config.corpus.root={other}", f"--output={folder}/scores"),
        ),
        "compare": (f"{folder}/run", f"{folder}/copy", f"--output={folder}/a.html"),
        "reproduce": (
            *(
                "--table=emodb",
                "--rows=plain_crnn",
                "--seeds=1",
                f"--workdir={folder}/table-{EACH}",
            ),
            *(f"--config.corpus.root={root}", "--config.training.epochs=100000", *TINY[1:4]),
        ),
        "predict": (model, str(root), f"--output={folder}/a.csv"),
        "stream": (model,),
        "serve": (model, "--port=0"),
        "export": (model, f"--output={folder}/model.stablehlo"),
        "corpora": ("--guess", corpus[1]),
        "stress": (model, str(root), f"--output={folder}/stress-{EACH}"),
        "fuse": (f"{folder}/run", f"{folder}/shorter", f"--workdir={folder}/fused-{EACH}"),
        "matrix": (
            *(*TINY, "--config.training.epochs=100000", f"--workdir={folder}/matrix-{EACH}"),
            f"--corpora=emodb={root},manifest={listed}",
            "--config.corpus.labels=anger=angry",
        ),
        "tune": (*tiny, "--trials=1000", f"--workdir={folder}/search-{EACH}"),
        "embed": (f"--model={onnx}", "--outputs=frames", *corpus, f"--output={folder}/em-{EACH}"),
        "models": ("emodb-plain",),
        "cache": (),
    }


def ended_by(number: signal.Signals, name: str, arguments: tuple[str, ...], moment: float) -> str:
    """Sends a signal to a command at a moment in s; returns by what it has ended."""
    own = [argument.replace(EACH, uuid.uuid4().hex) for argument in arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "ser_jax", name, *own],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # open: it is the input of `stream`
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    time.sleep(moment)
    sent, had_ended = time.monotonic(), process.poll() is not None
    process.send_signal(number)
    try:
        process.wait(10 * PROMISED)
    except subprocess.TimeoutExpired:
        process.kill()
    took = time.monotonic() - sent
    assert process.stdin and process.stderr
    with process.stdin, process.stderr:
        told = process.stderr.read().decode()
    code = process.returncode
    report = (number.name, name, f"{moment:.3f} s", f"{took:.1f} s", code, told)
    if had_ended:
        assert code in (0, 1) and "Traceback" not in told, report  # 1: the doctor's findings
        return "had ended"
    assert took < PROMISED, report
    if code in BY_PYTHON[number]:
        return "by Python"
    assert "Traceback" not in told and "leaked" not in told, report
    if code == DOCUMENTED[number]:
        assert told.endswith("run the same command again to go on from here\n"), report
        return "stopped"
    assert code in (0, 1) or ((name, number) in REGULAR and code == 2), report
    return "finished"


@pytest.mark.parametrize(
    "moments", [pytest.param(1, id="few"), pytest.param(200, id="many", marks=pytest.mark.long)]
)
def test_every_command_ends_as_documented(moments, arguments, record_property, tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    names = arguments if moments > 1 else rng.sample(sorted(arguments), 4)
    assert set(arguments) == set(command_line.commands())
    # A job in the background starts with Ctrl-C ignored, and so would the commands.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = [
                pool.submit(ended_by, number, name, arguments[name], rng.uniform(0, SPREAD))
                for name in names
                for number in rng.choices([signal.SIGTERM, signal.SIGINT], k=moments)
            ]
            found = collections.Counter(job.result() for job in jobs)
    finally:
        signal.signal(signal.SIGINT, before)
    if moments > 1:
        assert found["by Python"] < 0.1 * found.total(), found
        counts = ", ".join(f"{count} {how}" for how, count in found.most_common())
        record_property("measured", f"{found.total()} moments of {len(names)} commands: {counts}")
