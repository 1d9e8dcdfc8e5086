"""Features normalised by speaker, from training to prediction with recordings of the person."""

from pathlib import Path

import numpy as np
import pytest
import releases
from commands import TINY, Ended, command, probabilities, read_json

import ser_jax
from ser_jax.config import get_config
from ser_jax.corpora import manifest
from ser_jax.experiment import pipeline, setup
from ser_jax.features import audio
from ser_jax.features.logmel import log_mel
from ser_jax.features.preparation import loudness_facts, speaker_gain
from ser_jax.runtime.errors import UserError

SVM = ("--config=svm", "--config.features.functionals=eGeMAPSv02")
SPEAKER = "--config.features.normalisation=speaker"
LEVEL = "--config.features.level=speaker"


def corpus(folder: Path, names: str) -> Path:
    rows = [
        {"file": f"{name}/{label}{take}.wav", "label": label, "speaker": name}
        for name in names
        for label in ("angry", "happy", "sad")
        for take in range(4)
    ]
    return releases.write_manifest(folder, rows, seconds=0.4).parent


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    pytest.importorskip("opensmile")
    return corpus(tmp_path_factory.mktemp("corpus"), "abc")


def of(root: Path) -> tuple[str, str]:
    return "--config.corpus.name=manifest", f"--config.corpus.root={root}"


@pytest.fixture(scope="module", params=["svm", "plain_crnn"])
def run(request, root, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / request.param
    system = SVM if request.param == "svm" else (*TINY, LEVEL)
    ended = command(*system, *of(root), SPEAKER, f"--workdir={workdir}")
    assert ended.code == 0 and "(transductive)" in ended.err, ended
    assert "on manifest-speaker+speaker-normalised: 36 utterances" in ended.out
    return workdir


def test_the_run_says_so_and_is_compared_with_no_other(run, root, tmp_path):
    results, protocol = (read_json(run / f"{name}.json") for name in ("results", "protocol"))
    assert results["protocol"] == "manifest-speaker+speaker-normalised"
    assert "features.normalisation=speaker" in protocol["by_speaker"]
    assert "(transductive)" in (run / "report.html").read_text("utf-8")
    system = SVM if run.name == "svm" else TINY
    other = command(*system, *of(root), "--noreport", f"--workdir={tmp_path / 'training'}")
    assert other.code == 0, other.err
    compared = command(
        *(str(run), str(tmp_path / "training"), f"--output={tmp_path / 'c.html'}"), name="compare"
    )
    assert "warning: not comparable: different protocols" in compared.out
    assert command(f"--model={run}", name="evaluate").code == 0


def predict(run: Path, folder: Path, output: Path, *arguments: str) -> tuple[Ended, np.ndarray]:
    ended = command(
        *(f"--model={run}", str(folder), f"--output={output}", *arguments), name="predict"
    )
    assert ended.code == 0, ended.err
    found = [row["probabilities"] for row in read_json(output)["predictions"]]
    return ended, np.array([list(row.values()) for row in found])


def test_who_is_enrolled_is_heard_as_a_test_speaker(run, tmp_path):
    """Oracle: the other corpus as evaluate scores it, all of a speaker's recordings at hand."""
    other = corpus(tmp_path / "other", "d")
    scores = tmp_path / "scores"
    ended = command(f"--model={run}", *of(other), f"--output={scores}", name="evaluate")
    assert ended.code == 0, ended.err
    assert read_json(scores / "results.json")["protocol"].endswith("+speaker-normalised")
    expected = probabilities(scores)
    folder = other / "d"
    ended, found = predict(run, folder, tmp_path / "enrolled.json", f"--enrol={folder}")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    model = read_json(tmp_path / "enrolled.json")["model"]
    assert "normalised by 12 recordings of the person" in model
    ended, without = predict(run, folder, tmp_path / "without.json")
    assert "--enrol=FOLDER" in ended.err and not np.allclose(without, expected, atol=5e-5)
    assert "because nobody is enrolled" in read_json(tmp_path / "without.json")["model"]
    for name, flagged in (
        ("without", True),
        ("enrolled", False),
    ):  # A CSV table has the flags only.
        rows = read_json(tmp_path / f"{name}.json")["predictions"]
        assert {"nobody enrolled" in row["flags"] for row in rows} == {flagged}
    # In Python, and what does not fit.
    files = sorted(folder.glob("*.wav"))
    model = ser_jax.load(run)
    person = model.enrolled(files)
    shares = [list(one.probabilities.values()) for one in person.predict(files)]
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    with pytest.raises(UserError, match=r"9 recordings of the person: .*speaker_minimum=10"):
        model.enrolled(files[:9])
    if run.name == "svm":
        return
    # Streams and timelines read the person's statistics, too.
    assert "segments" not in person.__dict__
    live = person.timeline(files[0]).so_far
    np.testing.assert_allclose(live[-1], expected[0], atol=1e-5)
    unknown = model.timeline(files[0])
    assert not np.allclose(live, unknown.so_far, atol=1e-5)
    assert (
        "nobody enrolled" in unknown.flags
        and "nobody enrolled" not in person.timeline(files[0]).flags
    )


def test_one_gain_brings_all_recordings_of_a_speaker_to_the_level(root, tmp_path):
    """Oracle: the log-mel of all samples times the gain."""
    config = get_config()
    config.system, config.features.level = "plain_crnn", "speaker"
    config.features.store = str(tmp_path)
    found = manifest.read(root, manifest="manifest.csv", allow_missing=False)
    features = pipeline.extract_features(config, found, None)
    settings = setup.logmel_settings(config)
    for speaker in "abc":
        members = [n for n, row in enumerate(features.utterances) if row.speaker == speaker]
        files = [found.path(features.utterances[n]) for n in members]
        waves = [audio.decode(file, max_seconds=9).samples for file in files]
        gain = speaker_gain(np.stack([loudness_facts(wave) for wave in waves]))
        assert gain is not None and abs(20 * np.log10(gain)) > 0.5
        for number, wave in zip(members, waves, strict=True):
            expected = log_mel(wave * np.float32(gain), settings)
            np.testing.assert_allclose(features.log_mel[number], expected, atol=1e-5)


def test_few_utterances_are_refused_or_normalised_as_without_it(root, tmp_path):
    """Speaker c has three recordings; the others have enough."""
    rows = (root / "manifest.csv").read_text().splitlines()
    kept = [row for row in rows if not row.startswith("c/") or "1.wav" in row]
    (root / "few.csv").write_text("\n".join(kept) + "\n")
    run = (*SVM, "--noreport", *of(root), SPEAKER, "--config.corpus.manifest=few.csv")
    workdir = f"--workdir={tmp_path / 'run'}"
    assert "1 of 3 speakers have fewer" in command(*run, workdir).refusal
    ended = command(*run, "--config.features.speaker_few=training", workdir)
    assert ended.code == 0 and "3 utterances, of speakers with fewer than 10" in ended.err, ended


def test_models_that_do_not_normalise_by_speaker_enrol_nobody(root, tmp_path):
    ended = command(*SVM, *of(root), f"--workdir={tmp_path / 'run'}")
    assert ended.code == 0, ended.err
    enrol = f"--enrol={root}"
    refused = command(f"--model={tmp_path / 'run'}", str(root), enrol, name="predict").refusal
    assert "does not normalise by speaker" in refused
