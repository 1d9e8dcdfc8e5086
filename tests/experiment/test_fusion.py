"""Fusion through the commands: an SVM and a small network, trained, resumed, used, and put together
from finished runs."""

import json
import shutil
from pathlib import Path

import commands
import jax
import numpy as np
import pytest
import releases
from commands import command, probabilities, read_json, read_table

import ser_jax
from ser_jax import config as configuration
from ser_jax.commands import command_line
from ser_jax.experiment import config_checks, fusion, pipeline, training_data
from ser_jax.features import audio
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError

OLD = Path(__file__).parents[1] / "fixtures/runs-2026-11"
PRESET = """
from ser_jax import config as base

def get_config():
    config = base.get_config()
    config.system = "plain_crnn"
    config.model.filters, config.model.lstm_units, config.model.plain_head = 4, 8, (8,)
    config.training.epochs, config.training.shapes = 2, 1
    {more}
    return config
"""
NAMES = ("svm", "tiny")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    pytest.importorskip("opensmile")
    rows = releases.manifest_rows(speakers=3, per_label=2)
    folder = tmp_path_factory.mktemp("corpus")
    return releases.write_manifest(folder, rows, seconds=0.6).parent


@pytest.fixture(scope="module")
def arguments(corpus, tmp_path_factory) -> tuple[str, ...]:
    preset = tmp_path_factory.mktemp("presets") / "tiny.py"
    preset.write_text(PRESET.format(more=""))
    return (
        *("--config=tuned/fusion", f"--config.fusion.members=('svm','{preset}')"),
        *("--config.corpus.name=manifest", f"--config.corpus.root={corpus}"),
        "--config.training.devices=2",
    )


@pytest.fixture(scope="module")
def run(arguments, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "both"
    ended = command(*arguments, f"--workdir={workdir}", figures=True)
    assert ended.code == 0, ended.err
    return workdir


def expected(run: Path, tables: list[np.ndarray]) -> np.ndarray:
    """The mean of the members' tables, with the temperature of each row's trial."""
    results = read_json(run / "results.json")
    trials = [(one["fold"], str(one["seed"])) for one in results["runs"]]
    fitted = dict(zip(trials, results["calibration"]["temperature"], strict=True))
    rows = read_table(run / "predictions.csv")
    powers = 1 / np.array([fitted[row["fold"], row["seed"]] for row in rows])
    mean = np.mean(tables, axis=0) ** powers[:, None]
    return mean / mean.sum(axis=1, keepdims=True)


def test_it_predicts_the_calibrated_mean_of_its_members(run):
    tables = [probabilities(run / "members" / name) for name in NAMES]
    np.testing.assert_allclose(probabilities(run), expected(run, tables), rtol=1e-9)
    results = read_json(run / "results.json")
    members = [read_json(run / f"members/{name}/results.json") for name in NAMES]
    assert (results["system"], results["ensemble"], len(results["runs"])) == ("fusion", 2, 3)
    assert results["parameters"] == sum(one["parameters"] for one in members)
    for name, other, alone, found in zip(
        NAMES, NAMES[::-1], members, results["members"], strict=True
    ):
        assert (found["member"], found["system"], found["weight"]) == (name, alone["system"], 0.5)
        assert found["ua"] == alone["ua"]["mean"] and found["ece"] == alone["calibration"]["ece"]
        without = read_json(run / f"members/{other}/results.json")
        assert found["ua_without"] == pytest.approx(without["ua"]["mean"]), "the other one alone"


def test_members_are_run_directories_of_their_own(run, arguments):
    for name in NAMES:
        folder = run / "members" / name
        assert pipeline.finished_results(folder) and (folder / "report.html").is_file()
        assert ser_jax.load(folder).config.system == read_json(folder / "config.json")["system"]
    report = (run / "report.html").read_text()
    assert 'href="members/tiny/report.html"' in report and "Accuracy by coverage" in report
    before = commands.files_and_times(run)
    again = command(*arguments, f"--workdir={run}")
    assert again.code == 0 and "UA of the fusion without it" in again.out
    changed = commands.files_and_times(run).items() ^ before.items()
    assert {name for name, _ in changed} == {"config.json"}, "a finished fusion is only printed"


@pytest.mark.parametrize("lost", ["results.json", "members/svm/results.json", "members/tiny"])
def test_it_goes_on_from_what_is_there(lost, run, arguments, tmp_path):
    """As after a kill between two files; with the same bits, since members train as before."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    place = copy / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    kept = (copy / "members/svm/models").stat().st_mtime_ns
    ended = command(*arguments, "--noreport", f"--workdir={copy}")
    assert ended.code == 0, ended.err
    for table in ("predictions.csv", "validation.csv"):
        assert (copy / table).read_bytes() == (run / table).read_bytes()
    assert (copy / "members/svm/models").stat().st_mtime_ns == kept


def test_it_predicts_as_its_members_together(run, corpus):
    """Also in windows; weights are equal and the temperature is the mean of the trials'."""
    recordings = sorted((corpus / "audio/s0").glob("*.wav"))[:2]
    both, *alone = (ser_jax.load(one) for one in (run, *(run / "members" / n for n in NAMES)))
    assert both.reads == {"logmel", "hsf"} and both.classes == alone[0].classes

    def answers(predictor) -> np.ndarray:
        found = [predictor.predict(path).probabilities for path in recordings]
        return np.array([list(one.values()) for one in found])

    logs = np.log(read_json(run / "results.json")["calibration"]["temperature"])
    mean = np.mean([answers(one) for one in alone], axis=0) ** (1 / np.exp(logs.mean()))
    mean /= mean.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers(both), mean, rtol=1e-6)
    values = both.features([audio.decode(path, max_seconds=9) for path in recordings])
    shares = [one.probabilities(values, [2]) for one in alone]
    mean = np.mean(shares, axis=0) ** (1 / np.exp(logs.mean()))
    chosen = [n for n, one in enumerate(both.descriptions) if one["fold"] == "s2"]
    found = both.probabilities(values, chosen)  # as the stress table asks
    np.testing.assert_allclose(found, mean / mean.sum(axis=1, keepdims=True), rtol=1e-6)
    line = both.timeline(recordings[0], window=0.4)
    assert len(line.answers) > 1 and line.plan.hop_seconds == 0.2
    with pytest.raises(UserError, match="fusion needs the whole utterance"):
        _ = both.segments


def test_every_command_knows_it(run, corpus, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    ended = command(f"--model={copy}", f"--config.corpus.root={corpus}", name="evaluate")
    assert ended.code == 0, ended.err
    np.testing.assert_allclose(probabilities(copy), probabilities(run), atol=1e-6)
    ended = command(f"--model={copy}", f"{corpus}/audio/s1", name="predict")
    assert ended.code == 0 and "fusion" in ended.err + ended.out, ended.err
    runs = (copy, *(copy / "members" / name for name in NAMES))
    page = tmp_path / "compare.html"
    ended = command(*map(str, runs), f"--output={page}", name="compare")
    assert ended.code == 0 and "run ×2" in ended.out, ended.err


@pytest.mark.parametrize("which", ["", "members/svm"])
def test_the_exported_program_predicts_the_same(which, run, corpus, tmp_path):
    output = tmp_path / "model.stablehlo"
    ended = command(f"--model={run / which}", f"--output={output}", name="export")
    assert ended.code == 0, ended.err
    predictor = ser_jax.load(run / which)
    paths = sorted((corpus / "audio/s0").glob("*.wav"))[:2]
    recordings = [audio.decode(path, max_seconds=9) for path in paths]
    values = predictor.features(recordings)
    with np.load(output) as file:
        metadata = json.loads(file["metadata.json"])
        weights = {name: file[name] for name in metadata["weights"]}
        program = jax.export.deserialize(bytearray(file["program"]))
    assert [text.split()[0] for text in metadata["inputs"]] == ["waves", "lengths", "functionals"]
    assert metadata["functionals"] and len(metadata["models"]) == (3 if which else 6)
    waves = np.stack([one.samples for one in recordings])
    lengths = np.array([len(wave) for wave in waves], np.int32)
    found = program.call(weights, waves, lengths, values.hsf)
    np.testing.assert_allclose(found, predictor.probabilities(values), atol=1e-5)
    other = (f"--output={tmp_path / 'x.safetensors'}", "--format=safetensors")
    refused = command(f"--model={run / which}", *other, name="export").refusal
    assert "of which --format=safetensors cannot be written" in refused


def test_another_corpus_is_scored_by_all_members(run, tmp_path):
    rows = releases.manifest_rows(speakers=2, per_label=1)
    root = releases.write_manifest(tmp_path / "other", rows, seconds=0.4).parent
    manifest = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
    output = tmp_path / "scores"
    for _ in range(2):  # It is known when it is repeated.
        ended = command(f"--model={run}", *manifest, f"--output={output}", name="evaluate")
        assert ended.code == 0, ended.err
    mean = np.mean([probabilities(output / "members" / name) for name in NAMES], axis=0)
    logs = np.log(read_json(run / "results.json")["calibration"]["temperature"])
    mean **= 1 / np.exp(logs.mean())
    np.testing.assert_allclose(probabilities(output), mean / mean.sum(axis=1, keepdims=True))
    results = read_json(output / "results.json")
    assert (results["utterances"], results["ensemble"]) == (8, 6)


def test_what_any_member_has_seen_of_another_corpus_is_left_out(run, tmp_path):
    """The second member started from a model that was trained on the speaker s1 of that corpus."""
    rows = releases.manifest_rows(speakers=2, per_label=1)
    root = releases.write_manifest(tmp_path / "other", rows, seconds=0.4).parent
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    member = copy / "members" / NAMES[1]
    config = read_json(member / "config.json")
    config["training"]["init_from"] = "/runs/before"
    strict_json.write(member / "config.json", config)
    other = command_line.configuration("plain_crnn", "manifest", root, {})
    (key,) = training_data.corpus_keys(other).values()
    seen = {"corpus": [*key], "recordings": [], "speakers": ["s1"]}
    folds = {trial["fold"] for trial in read_json(member / "results.json")["runs"]}
    models = {"final-0": {"sha256": "x", "trained_on": [seen]}}
    record = {"run": "/runs/before", "folds": dict.fromkeys(folds, "final-0"), "models": models}
    strict_json.write(member / "init_from.json", record)
    manifest = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
    output = tmp_path / "scores"
    ended = command(f"--model={copy}", *manifest, f"--output={output}", name="evaluate")
    assert ended.code == 0, ended.err
    parts = [output, *(output / "members" / name for name in NAMES)]
    found = [read_json(part / "results.json")["left_out"] for part in parts]
    gone = {"utterances": 4, "speakers": ["s1"]}
    assert found == [gone, {"utterances": 0, "speakers": []}, gone]
    assert "4 utterances left out" in ended.out
    assert {row["speaker"] for row in read_table(output / "predictions.csv")} == {"s0"}


def test_finished_runs_give_the_same(run, tmp_path):
    fused, runs = tmp_path / "fused", [str(run / "members" / name) for name in NAMES]
    (fused / "members/.svm.host-1.tmp").mkdir(parents=True)  # left by one that was killed
    strict_json.write(fused / "config.json", {})
    for _ in range(2):
        ended = command(*runs, f"--workdir={fused}", name="fuse")
        assert ended.code == 0, ended.err
    assert sorted(path.name for path in (fused / "members").iterdir()) == list(NAMES)
    for table in ("predictions.csv", "validation.csv"):
        assert (fused / table).read_bytes() == (run / table).read_bytes()
    assert ser_jax.load(fused).classes == ser_jax.load(run).classes
    assert "ser-jax train" not in (fused / "report.html").read_text()
    other = command(*runs, f"--workdir={fused}", "--weights=validation", name="fuse")
    assert 'fusion.weights: "equal" there, "validation" now' in other.refusal
    ended = command(*runs, f"--workdir={tmp_path / 'fit'}", "--weights=validation", name="fuse")
    assert ended.code == 0, ended.err
    for trial in read_json(tmp_path / "fit/results.json")["runs"]:
        assert sum(trial["weights"].values()) == pytest.approx(1)


def test_runs_of_november_are_fused_without_calibration(tmp_path):
    runs = [str(OLD / name) for name in ("plain_crnn", "multi_crnn")]
    ended = command(*runs, f"--workdir={tmp_path / 'fused'}", name="fuse")
    assert ended.code == 0 and "so the mean is not calibrated" in ended.err
    mean = np.mean([probabilities(Path(one)) for one in runs], axis=0)
    np.testing.assert_allclose(probabilities(tmp_path / "fused"), mean)
    ended = command(*runs, f"--workdir={tmp_path / 'fit'}", "--weights=validation", name="fuse")
    assert "plain_crnn, multi_crnn" in ended.refusal and "evaluate --model=RUN" in ended.refusal


def changed(run: Path, place: Path, **changes) -> Path:
    """Copies a run with other results and, of `features`, another configuration."""
    shutil.copytree(run, place)
    config = read_json(place / "config.json")
    config["features"] |= changes.pop("features", {})
    strict_json.write(place / "config.json", {k: v for k, v in config.items() if k != "seal"})
    results = read_json(place / "results.json") | changes
    strict_json.write(place / "results.json", {k: v for k, v in results.items() if k != "seal"})
    return place


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"corpus_sha256": "beef"}, "SHA-256 of the recordings (beef there, "),
        ({"protocol_sha256": "beef"}, "SHA-256 of the protocol (beef there, "),
        ({"features": {"level": "rms"}}, "features (only there: features.level=rms; only here: "),
    ],
)
def test_runs_that_differ_are_refused_with_the_difference(changes, sentence, tmp_path):
    other = changed(OLD / "plain_crnn", tmp_path / "other", **changes)
    with pytest.raises(UserError) as refused:
        fusion._check_alike({"multi": OLD / "multi_crnn", "other": other})
    assert f"other and multi cannot be fused: {sentence}" in str(refused.value)


def test_other_folds_and_utterances_are_named(tmp_path):
    other = changed(OLD / "plain_crnn", tmp_path / "other")
    protocol = read_json(other / "protocol.json")
    protocol.pop("seal", None)
    protocol["utterances"][0][0] = "audio/new"
    protocol["folds"][1]["name"] = "s9"
    strict_json.write(other / "protocol.json", protocol)
    with pytest.raises(UserError, match=r"utterances \(only there: audio/new angry s0; only here"):
        fusion._check_alike({"multi": OLD / "multi_crnn", "other": other})


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["plain_crnn"], "name two or more run directories"),
        (["plain_crnn", "plain_crnn"], "whose folders have different names"),
        (["plain_crnn", "nothing"], "nothing is not a finished run"),
    ],
)
def test_what_cannot_be_fused(names, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        fusion.fuse_runs([OLD / name for name in names], tmp_path / "fused", "equal")
    assert not (tmp_path / "fused").exists()


@pytest.mark.parametrize(
    ("more", "changes", "sentence"),
    [
        ("", {"training.epochs": 3}, "training.epochs=3 changes nothing"),
        ("", {"svm.c": (1.0,)}, r"svm.c=\(1.0,\) changes nothing"),
        ("", {"fusion.members": ("svm", "no")}, "fusion.members=no: there is no such file"),
        ("config.system = 'fusion'", {}, "is a fusion itself"),
        ("config.training.epochs = 0", {}, "training.epochs=0; it must be at least 1"),
    ],
)
def test_configurations_that_are_refused(more, changes, sentence, tmp_path):
    (tmp_path / "tiny.py").write_text(PRESET.format(more=more))
    config = configuration.load_preset("tuned/fusion")
    members = {"fusion.members": ("svm", str(tmp_path / "tiny.py"))}
    config.update_from_flattened_dict(members | changes)
    with pytest.raises(UserError, match=sentence):
        fusion.member_configs(config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fusion.members": ("svm",)}, "two or more presets"),
        ({"fusion.members": ("svm", "a/svm.py")}, "have different names"),
        ({"fusion.weights": "best"}, "choose one of equal, validation"),
        (
            {"fusion.weights": "validation", "training.refit": "train+validation"},
            "would have been trained on the part that weights are fitted on",
        ),
    ],
)
def test_values_that_are_refused(changes, sentence):
    config = configuration.load_preset("tuned/fusion")
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=sentence):
        config_checks.check(config)


def test_members_have_the_recordings_of_the_fusion_and_recipes_of_their_own(caplog):
    config = configuration.load_preset("tuned/fusion")
    given = {"corpus.root": "/d", "protocol.seeds": 3, "features.level": "none"}
    given |= {"training.refit": "train+validation", "training.devices": 2, "svm.workers": 1}
    config.update_from_flattened_dict(given)
    members = fusion.member_configs(config)
    assert list(members) == ["svm", "plain_crnn", "hsf_crnn"]
    for name, own in members.items():
        assert all(own[key.split(".")[0]][key.split(".")[1]] == v for key, v in given.items())
        preset = configuration.load_preset(name if name == "svm" else f"tuned/{name}")
        assert (own.system, own.model, own.augment) == (preset.system, preset.model, preset.augment)
        assert own.training.epochs == preset.training.epochs and own.is_locked
    notes = [line for line in caplog.messages if "features.level=recording" in line]
    assert len(notes) == 2 and "members of a fusion share its none" in notes[0]


def test_a_final_fusion_of_ensembles(arguments, tmp_path):
    """The report has scores of the validation part; the model predicts by its weights."""
    ended = command(
        *(*arguments, "--config.protocol.name=manifest-final", "--config.protocol.ensemble=2"),
        *("--config.fusion.weights=validation", f"--workdir={tmp_path / 'run'}"),
    )
    assert ended.code == 0, ended.err
    results = read_json(tmp_path / "run/results.json")
    (trial,) = results["runs"]
    assert [(one["member"], one["seed"]) for one in trial["members"]] == [
        (name, seed) for name in NAMES for seed in (0, 1)
    ]
    assert results["ensemble"] == 4 and trial["validation"].keys() == {"ua", "wa", "loss"}
    together = fusion.read(tmp_path / "run")
    assert together is not None
    kept = {name: weight for name, weight in trial["weights"].items() if weight}
    assert dict(zip(together.folders, together.weights, strict=True)) == pytest.approx(kept)
    assert f"{100 * trial['validation']['ua']:.1f}" in (tmp_path / "run/report.html").read_text()
    ended = command(f"--model={tmp_path / 'run'}", name="evaluate")
    assert ended.code == 0, ended.err
    again = read_json(tmp_path / "run/results.json")["runs"][0]["weights"]
    assert again == pytest.approx(trial["weights"], abs=1e-3)
