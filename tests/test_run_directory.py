"""The run directory belongs to one configuration and one protocol, and says which versions made it."""

import importlib.metadata
import json
import sys

import pytest
import scored

from ser_jax import __version__, config, run_directory
from ser_jax.errors import UserError
from ser_jax.protocols.protocol import Fold, Protocol


def changed(**values):
    made = config.get_config()
    for key, value in values.items():
        section, _, name = key.partition("__")
        made[section][name] = value
    return made


def protocol(label: str = "sad") -> Protocol:
    return Protocol(
        name="tiny",
        corpus="test",
        classes=("angry", "sad"),
        label_mapping={},
        ids=("a", "b", "c"),
        labels=("angry", "sad", label),
        speakers=("1", "2", "3"),
        folds=(Fold("1", "TVR".translate({ord("R"): "T"})),),
        validation_rule="none",
    )


@pytest.fixture
def begun(tmp_path):
    """A run directory in which training has begun."""
    workdir = tmp_path / "runs/first"
    run_directory.open_directory(workdir, config.get_config())
    run_directory.record_protocol(workdir, protocol())
    return workdir


def test_a_new_folder_is_made_with_its_configuration(begun):
    assert json.loads((begun / "config.json").read_text()) == json.loads(config.get_config().to_json())
    assert run_directory.read_config(begun) == config.get_config()


def test_the_same_configuration_opens_it_again(begun):
    run_directory.open_directory(begun, config.get_config())


def test_every_difference_is_named_with_both_values(begun):
    other = changed(training__epochs=7, model__widths=(3, 3), corpus__name="emodb")
    with pytest.raises(UserError) as refused:
        run_directory.open_directory(begun, other)
    sentence = str(refused.value)
    assert 'corpus.name: "demo" there, "emodb" now' in sentence
    assert "model.widths: [5, 3] there, [3, 3] now" in sentence
    assert "training.epochs: 100 there, 7 now" in sentence
    assert f"{begun} was made with another configuration" in sentence and "another --workdir" in sentence
    assert run_directory.read_config(begun) == config.get_config()


def test_keys_of_another_version_are_differences(begun):
    stored = json.loads((begun / "config.json").read_text())
    del stored["training"]["patience"]
    (begun / "config.json").write_text(json.dumps(stored | {"speed": 3}))
    with pytest.raises(UserError, match=r"speed: 3 there, null now; training\.patience: null there, 0 now"):
        run_directory.open_directory(begun, config.get_config())


@pytest.mark.parametrize("key", config.NEUTRAL_KEYS)
def test_what_changes_no_result_may_differ(key, begun):
    section, _, name = key.partition(".")
    value = config.get_config()[section][name]
    other = changed(**{f"{section}__{name}": f"{value}x" if isinstance(value, str) else type(value)(value + 1)})
    run_directory.open_directory(begun, other)
    assert run_directory.read_config(begun)[section][name] == other[section][name], "the new value is recorded"


def test_before_training_began_the_configuration_may_change(tmp_path):
    run_directory.open_directory(tmp_path, config.get_config())
    run_directory.open_directory(tmp_path, changed(training__epochs=7))
    assert run_directory.read_config(tmp_path).training.epochs == 7


def test_a_list_of_rejected_files_does_not_make_a_folder_foreign(tmp_path):
    (tmp_path / "rejected.csv").touch()
    run_directory.open_directory(tmp_path, config.get_config())
    assert (tmp_path / "config.json").is_file()


def test_a_process_that_was_killed_while_it_made_the_folder_does_not_make_it_foreign(tmp_path):
    """R1: what it was writing lies there under another name (test_atomic.py)."""
    (tmp_path / ".config.json.123.tmp").write_text('{"sys')
    run_directory.open_directory(tmp_path, config.get_config())
    assert (tmp_path / "config.json").is_file()


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(UserError, match="not empty and not a run directory: choose another --workdir"):
        run_directory.open_directory(tmp_path, config.get_config())
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1', "[]", '{"schema": 1, "schema": 1}', '{"schema": NaN}'])
@pytest.mark.parametrize("name", ["config.json", "protocol.json", "results.json"])
def test_a_damaged_file_is_named(name, text, begun):
    (begun / name).write_text(text)
    remedy = "scores the run anew" if name == "results.json" else "choose another --workdir or delete the folder"
    with pytest.raises(UserError, match=rf"{name} is damaged .*: .*{remedy}"):
        run_directory.open_directory(begun, config.get_config())
        run_directory.record_protocol(begun, protocol())
        run_directory.finished_results(begun)


@pytest.mark.parametrize("stored", [{}, {"name": 3, "sha256": None}, {"sha256": ["a"]}])
def test_a_protocol_without_its_digest_is_another_one(stored, begun):
    (begun / "protocol.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=f"the recordings now give tiny {protocol().sha256[:12]}"):
        run_directory.record_protocol(begun, protocol())


def test_another_protocol_is_refused_with_both_digests(begun):
    run_directory.record_protocol(begun, protocol())
    old, new = protocol(), protocol(label="angry")
    with pytest.raises(UserError) as refused:
        run_directory.record_protocol(begun, new)
    sentence = str(refused.value)
    assert old.sha256[:12] in sentence and new.sha256[:12] in sentence and "another --workdir" in sentence
    assert json.loads((begun / "protocol.json").read_text())["sha256"] == old.sha256


def test_versions_name_packages_python_and_devices(begun):
    run_directory.record_versions(begun, "2 x cpu")
    versions = json.loads((begun / "versions.json").read_text())
    assert {"ser_jax", "python", "platform", "devices", *run_directory.PACKAGES} == versions.keys()
    assert versions["ser_jax"] == __version__ and versions["devices"] == "2 x cpu"
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["jax"] == importlib.metadata.version("jax")


def test_a_package_that_is_absent_is_said_to_be(begun, monkeypatch):
    monkeypatch.setattr(run_directory, "PACKAGES", ("no-such-package",))
    run_directory.record_versions(begun, "")
    assert json.loads((begun / "versions.json").read_text())["no-such-package"] == "not installed"


def test_results_are_there_once_written(begun):
    assert run_directory.finished_results(begun) is None
    results = scored.summarise(scored.make_rows(0)) | {"predictions_sha256": "", "probabilities": "softmax"}
    run_directory.write_results(begun, results)
    assert run_directory.finished_results(begun) == json.loads(json.dumps(results))


def test_results_of_another_version_are_no_results(begun):
    run_directory.write_results(begun, {"schema": 1, "ua": {}})
    with pytest.raises(UserError, match=r"results\.json was written by another version .* lack system, .*evaluate"):
        run_directory.finished_results(begun)


def test_what_is_no_run_directory_has_no_configuration(tmp_path):
    with pytest.raises(UserError, match="is not a run directory: there is no config.json"):
        run_directory.read_config(tmp_path)
