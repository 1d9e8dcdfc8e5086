"""One recording and many: the scores of `evaluate`, whatever padding, batch or form of input."""

import json
import shutil
from pathlib import Path
from typing import Any

import bad_recordings
import numpy as np
import pytest
import releases
import soundfile
from commands import command, keep_models, read_json, read_table, real_command, train

import ser_jax
from ser_jax.prediction import batch, ensemble, network
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError

SYSTEMS = {
    "plain_crnn": (),
    "multi_crnn": ("--config.model.multi_short_dense=(8,)", "--config.model.multi_head=(8,)"),
    "hsf_crnn": ("--config.model.hsf_dense=(8,)", "--config.model.hsf_crnn_dense=(8,)"),
    "end2you": (
        "--config.model.end2you_filters=4",
        "--config.model.end2you_pools=(2,2)",
        "--config.model.end2you_units=8",
    ),
    "svm": ("--config.svm.c=(1e-4,)",),
}


def predict(*arguments: object):
    return command(*map(str, arguments), name="predict")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def make_run(folder):
    """Trains a run of three folds, of any system, once."""
    rows = releases.manifest_rows(speakers=3, per_label=1)
    root = releases.write_manifest(folder / "corpus", rows, seconds=0.4).parent
    made = {}

    def make(system: str) -> Path:
        if system not in made:
            made[system] = folder / system
            corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
            train(made[system], f"--config.system={system}", *SYSTEMS[system], *corpus, *OWN)
        return made[system]

    return make


OWN = ("--config.training.precision=float32",)


@pytest.fixture(scope="module")
def run(make_run) -> Path:
    return make_run("plain_crnn")


@pytest.fixture(scope="module")
def predictor(run):
    return ser_jax.load(run)


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def others(folder) -> Path:
    """A manifest of recordings of 0.1 to 3 s: several padded lengths, one below a segment."""
    rows = releases.manifest_rows(speakers=1, per_label=3)
    lengths = np.geomspace(0.1, 3, len(rows)).tolist()
    return releases.write_manifest(folder / "others", rows, seconds=lengths)


def shares(rows: list[dict[str, str]]) -> np.ndarray:
    names = [name for name in rows[0] if name.startswith("p_")]
    return np.array([[float(row[name]) for name in names] for row in rows])


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_says_what_evaluate_says(make_run, others, tmp_path, system):
    run = make_run(system)
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={others.parent}")
    evaluated = command(f"--model={run}", *corpus, f"--output={tmp_path}", name="evaluate")
    assert evaluated.code == 0, evaluated.err
    ended = predict(f"--model={run}", others, f"--output={tmp_path / 'found.csv'}")
    assert ended.code == 0 and f"the ensemble of 3 models of {run} ({system}, " in ended.err, ended
    expected, found = read_table(tmp_path / "predictions.csv"), read_table(tmp_path / "found.csv")
    place = {str(others.parent / f"{row['id']}.wav"): number for number, row in enumerate(expected)}
    order = [place[row["file"]] for row in found]
    assert sorted(order) == list(range(12))
    np.testing.assert_allclose(shares(found), shares(expected)[order], atol=1e-5)
    assert [row["label"] for row in found] == [expected[number]["prediction"] for number in order]
    loaded = ser_jax.load(run)
    alone = [list(loaded.predict(row["file"]).probabilities.values()) for row in found]
    np.testing.assert_allclose(alone, shares(found), atol=1e-5)


def test_an_ensemble_is_the_mean_of_its_models(run, predictor, others, tmp_path):
    names = [path.name for path in (run / "models").iterdir()]
    found = []
    for name in names:
        copy = Path(shutil.copytree(run, tmp_path / name))
        keep_models(copy, name)
        single = ser_jax.load(copy)
        assert single.description == f"the model {name} of {copy} (plain_crnn, calibrated)"
        found.append(single.predict(others.parent / "audio/s0/sad2.wav").probabilities)
    together = predictor.predict(others.parent / "audio/s0/sad2.wav").probabilities
    means = {label: np.mean([one[label] for one in found]) for label in predictor.classes}
    assert len(found) == 3 and together == pytest.approx(means, abs=1e-6)


def test_the_final_model_goes_before_those_of_the_folds(copy):
    path = copy / "models/s1-0/model.json"
    model = read_json(path)
    final = {**model, "fold": "final", "temperature": None}
    path.write_text(json.dumps(strict_json.with_checksum(final)))
    found = ensemble.read_ensemble(copy)
    assert [one.description["fold"] for one in found.models] == ["final"]
    assert found.description == f"the final model of {copy} (plain_crnn, uncalibrated)"


def test_few_programs_serve_recordings_of_any_length(run):
    loaded = ser_jax.load(run)
    rng = np.random.default_rng(0)
    for seconds in (0.07, 0.3, 0.8, 1.2, 1.5, 2.4):
        loaded.predict(rng.uniform(-0.1, 0.1, round(seconds * 16000)), 16000)
    programs: Any = loaded._network
    assert programs._score._cache_size() == 2


def test_a_recording_is_scored_alike_in_any_company(predictor, monkeypatch):
    rng = np.random.default_rng(1)
    lengths = (6, 40, 128, 130, 300, 301, 500)
    frames = [rng.normal(-5, 2, (length, 40)).astype(np.float32) for length in lengths]
    alone = np.concatenate([predictor.probabilities(network.Values([one])) for one in frames])
    np.testing.assert_allclose(predictor.probabilities(network.Values(frames)), alone, atol=1e-6)
    monkeypatch.setattr(network, "MOST_ROWS", 2)
    np.testing.assert_allclose(predictor.probabilities(network.Values(frames)), alone, atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"), [(16000, 1, "PCM_16"), (44100, 2, "FLOAT")]
)
def test_samples_give_what_their_file_gives(predictor, tmp_path, rate, channels, subtype):
    samples = np.random.default_rng(2).uniform(-0.3, 0.3, (rate, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype=subtype)
    stored = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)[0]
    of_file, of_array = predictor.predict(tmp_path / "a.wav"), predictor.predict(stored, rate)
    assert of_array == of_file and of_file.seconds == 1.0
    assert ("odd rate" in of_file.flags) == (rate != 16000)
    span = predictor.predict(str(tmp_path / "a.wav"), start=0.25, end=0.75)
    assert span == predictor.predict(stored[rate // 4 : rate * 3 // 4], rate)
    assert span == predictor.predict(stored, rate, start=0.25, end=0.75) and span.seconds == 0.5
    integers = np.random.default_rng(3).integers(-9000, 9000, 16000).astype(np.int16)
    assert predictor.predict(integers, 16000) == predictor.predict(integers / 32768, 16000)


def test_several_recordings_in_one_call(predictor, others, monkeypatch):
    """Files by any iterable, arrays, lists of numbers, all mixed, in portions: as one by one."""
    monkeypatch.setattr("ser_jax.prediction.predictor.PORTION", 2)
    files = sorted(others.parent.rglob("*.wav"))[:5]
    alone = [predictor.predict(file) for file in files]

    def same(found):
        assert [one.label for one in found] == [one.label for one in alone]
        for one, other in zip(found, alone, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
            assert (one.seconds, one.flags) == (other.seconds, other.flags)

    stored = [soundfile.read(file, dtype="int16")[0] for file in files]
    for several in (files, tuple(map(str, files)), iter(files), np.array(list(map(str, files)))):
        same(predictor.predict(several))
    same(predictor.predict([stored[0], stored[1].tolist(), *stored[2:]], 16000))
    assert predictor.predict([]) == []
    numbers = (stored[0] / 32768).tolist()
    assert predictor.predict(numbers, 16000) == predictor.predict(files[0])
    sentence = r"number 2 of 2: nowhere.wav cannot be used: missing"
    with pytest.raises(UserError, match=sentence):
        predictor.predict([files[0], "nowhere.wav"])
    assert repr(predictor) == f"<Predictor: {predictor.description}; angry, happy, neutral, sad>"


def test_classes_and_threshold(predictor, others):
    path = others.parent / "audio/s0/happy2.wav"
    everything = predictor.predict(path).probabilities
    some = predictor.predict(path, classes=["happy", "sad"]).probabilities
    total = everything["happy"] + everything["sad"]
    assert some == pytest.approx({name: everything[name] / total for name in ("happy", "sad")})
    assert predictor.predict(path, threshold=1.0).label is None
    assert predictor.predict(path).label == max(everything, key=everything.__getitem__)


@pytest.mark.parametrize(
    ("samples", "rate", "sentence"),
    [
        (np.ones(16000), None, r"samples need their rate: predict\(samples, rate=16000\)"),
        (np.stack([np.ones(16000), -np.ones(16000)], axis=1), 16000, "cannot be used: silent"),
        (np.full(16000, np.nan), 16000, "non-finite"),
        (np.full(16000, 3000.0), 16000, "over the limits: samples up to 3000"),
        (np.ones(16000), 1, "over the limits: 1 Hz"),
        (np.ones(16000), 0, "over the limits: 0 Hz"),
        (np.ones((2, 16000)), 16000, "over the limits: 16000 channels"),
        (np.ones(100), 16000, "too short"),
        (np.ones(0), 16000, "too short"),
        (np.ones(16000, np.int64), 16000, r"an array of int64 of shape \(16000,\); \[samples\]"),
        (np.ones(()), 16000, r"an array of float64 of shape \(\)"),
        (np.ones((16000, 0)), 16000, r"of shape \(16000, 0\)"),
        (np.ones(121 * 4000), 4000, "too long: 121.000 s; at most 120 s"),
        (np.full(16000, 1e300), 16000, "non-finite"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(predictor, samples, rate, sentence):
    with pytest.raises(UserError, match=sentence):
        predictor.predict(samples, rate)


def test_files_and_spans_that_cannot_be_used_are_refused(predictor, others):
    path = others.parent / "audio/s0/sad2.wav"
    for arguments, options, sentence in (
        (["nowhere.wav"], {}, "nowhere.wav cannot be used: missing"),
        ([path, 16000], {}, "rate=16000 is for samples"),
        ([path], {"start": 1, "end": 99}, "span outside the file"),
        ([np.ones(16000), 16000], {"start": 0.5, "end": 2}, "start=0.5, end=2 is no span of 1 s"),
    ):
        with pytest.raises(UserError, match=sentence):
            predictor.predict(*arguments, **options)


def test_bad_files_are_listed_and_the_rest_is_done(run, others, tmp_path):
    bad = bad_recordings.bad_files()
    names = sorted(name for name, (_, kind) in bad.items() if kind != "too long")[::6]
    for name in names:
        (tmp_path / name).write_bytes(bad[name][0])
    good = others.parent / "audio/s0/angry0.wav"
    arguments = [*(tmp_path / name for name in names), good]
    options = (f"--output={tmp_path / 't.json'}", "--threshold=1", "--classes=sad,angry")
    ended = predict(f"--model={run}", *arguments, *options)
    assert ended.code == 0, ended.err
    found = read_json(tmp_path / "t.json")
    assert found["classes"] == ["angry", "sad"] and found["threshold"] == 1
    reasons = [row["reason"] for row in found["predictions"]]
    assert reasons == [*(bad[name][1] for name in names), ""]
    last = found["predictions"][-1]
    assert last["file"] == str(good) and last["label"] is None
    assert sum(last["probabilities"].values()) == pytest.approx(1)
    assert f"1 of {len(arguments)} recordings predicted, 1 of them below the threshold" in ended.out


def test_only_bad_files_are_an_error_and_listed(run, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"nothing")
    ended = predict(f"--model={run}", tmp_path, f"--output={tmp_path / 't.csv'}")
    assert "none of 1 recording can be used" in ended.refusal and "unreadable" in ended.refusal
    assert [row["reason"] for row in read_table(tmp_path / "t.csv")] == ["unreadable"]


def test_portions_are_put_together_in_order(predictor, others, monkeypatch):
    listed = batch.find([str(others)])
    decision = predictor.decision()
    together = batch.predict(predictor, listed, decision)
    monkeypatch.setattr(batch, "PORTION", 5)
    apart = batch.predict(predictor, listed, decision)
    assert [row.file for row in apart] == [source.file for source in listed]
    for one, other in zip(together, apart, strict=True):
        assert one.answer and other.answer
        assert one.answer.probabilities == pytest.approx(other.answer.probabilities, abs=1e-6)


def test_as_a_user_runs_it(run, others):
    path = others.parent / "audio/s0/sad2.wav"
    ended = real_command(f"--model={run}", str(path), name="predict")
    assert ended.code == 0, ended.err
    name, label, *listed = ended.out.partition(" (")[0].split()
    assert "(longer than training" in ended.out  # The training had 0.4 s.
    assert name == str(path) and label in ("angry", "happy", "neutral", "sad")
    assert listed[::2] == ["angry", "happy", "neutral", "sad"]
    assert sum(map(float, listed[1::2])) == pytest.approx(1, abs=0.003)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model=", "{wav}"], "--model is missing: name the run directory"),
        (["--model={run}"], "nothing to predict"),
        (["--model={run}", "{wav}x"], "there is no such file or folder"),
        (["--model={run}x", "{wav}"], "x is not a run directory"),
        (["--model={run}", "{wav}", "--classes=angry,bored"], "classes=bored: the model knows"),
        (["--model={run}", "{wav}", "--threshold=2"], "threshold=2 is no probability"),
        (["--model={run}", "{wav}", "--threshold=much"], "threshold"),
        (["--model={run}", "{wav}", "--output={run}/nowhere/t.csv"], "there is no folder"),
        (
            ["--model={run}", "{wav}", "--modle=x"],
            "unknown flag --modle; did you mean --model? --help",
        ),
    ],
)
def test_refusals_leave_nothing_behind(copy, others, tmp_path, arguments, sentence):
    before = sorted(tmp_path.rglob("*"))
    names = {"run": copy, "wav": others.parent / "audio/s0/sad2.wav"}
    assert sentence in predict(*(argument.format(**names) for argument in arguments)).refusal
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_and_unfinished_runs_are_refused(copy):
    path = copy / "models/s1-0/model.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model\.npz is not the file .* train it again"):
        ser_jax.load(copy)
    (copy / "results.json").unlink()
    sentence = "is not finished: it holds 3 models and no results.json; run the training"
    with pytest.raises(UserError, match=sentence):
        ser_jax.load(copy)


def test_functionals_without_opensmile_are_refused(make_run, monkeypatch):
    run = make_run("hsf_crnn")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="need openSMILE, which is not installed"):
        ser_jax.load(run)


def test_a_list_with_spans(run, others, tmp_path):
    path = others.parent / "spans.csv"
    rows = ["audio/s0/sad2.wav,0,1", "audio/s0/happy2.wav,0,99", "../x.wav,,", "/x/y.wav,,"]
    path.write_text("\n".join(["file,start,end", *rows]))
    ended = predict(f"--model={run}", path, f"--output={tmp_path / 't.csv'}")
    assert ended.code == 0, ended.err
    rows = read_table(tmp_path / "t.csv")
    assert [row["reason"] for row in rows] == ["", "span outside the file", *["refused path"] * 2]
    assert [row["line"] for row in rows] == ["", "", "4", "5"] and rows[0]["seconds"] == "1.0"
    assert "not below the folder of the list" in rows[3]["detail"] and "corpus" not in str(rows)
