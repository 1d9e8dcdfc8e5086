"""Run directories: one configuration, one protocol, and the versions that made them."""

import errno
import importlib.metadata
import json
import os
import sys

import pytest
import scored

from ser_jax import __version__, config
from ser_jax.evaluation import finished_run
from ser_jax.experiment import pipeline, run_directory
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.training import model_files


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
def started(tmp_path):
    """A run directory in which training has started."""
    workdir = tmp_path / "runs/first"
    run_directory.open_directory(workdir, config.get_config())
    run_directory.record_protocol(workdir, protocol())
    return workdir


def test_a_new_folder_is_made_with_its_configuration(started):
    resolved = json.loads(config.get_config().to_json())
    assert json.loads((started / "config.json").read_text()) == strict_json.with_checksum(resolved)
    run_directory.open_directory(started, config.get_config())
    assert run_directory.read_config(started) == config.get_config()


def test_every_difference_is_named_with_both_values(started):
    other = changed(training__epochs=7, model__widths=(3, 3), corpus__name="emodb")
    with pytest.raises(UserError) as refused:
        run_directory.open_directory(started, other)
    sentence = str(refused.value)
    assert 'corpus.name: "demo" there, "emodb" now' in sentence
    assert "model.widths: [5, 3] there, [3, 3] now" in sentence
    assert "training.epochs: 100 there, 7 now" in sentence
    assert f"{started} was made with another configuration" in sentence
    assert "another --workdir" in sentence
    assert run_directory.read_config(started) == config.get_config()


def test_keys_that_are_newer_than_the_run_are_no_differences(started):
    stored = json.loads((started / "config.json").read_text())
    del stored["training"]["patience"], stored["seal"]
    (started / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"training\.patience: 0 there, 3 now"):
        run_directory.open_directory(started, changed(training__patience=3))
    run_directory.open_directory(started, config.get_config())
    assert run_directory.read_config(started) == config.get_config()


@pytest.mark.parametrize("key", config.NEUTRAL_KEYS)
def test_what_changes_no_result_may_differ(key, started):
    section, _, name = key.partition(".")
    value = config.get_config()[section][name]
    other = changed(
        **{f"{section}__{name}": f"{value}x" if isinstance(value, str) else type(value)(value + 1)}
    )
    run_directory.open_directory(started, other)
    assert run_directory.read_config(started)[section][name] == other[section][name], (
        "the new value is recorded"
    )


def test_before_training_began_the_configuration_may_change(tmp_path):
    run_directory.open_directory(tmp_path, config.get_config())
    run_directory.open_directory(tmp_path, changed(training__epochs=7))
    assert run_directory.read_config(tmp_path).training.epochs == 7


@pytest.mark.parametrize("name", ["rejected.csv", ".config.json.123.tmp"])
def test_a_list_or_the_rest_of_a_killed_process_does_not_make_a_folder_foreign(name, tmp_path):
    (tmp_path / name).touch()
    run_directory.open_directory(tmp_path, config.get_config())
    assert (tmp_path / "config.json").is_file()


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(
        UserError, match="not empty and not a run directory: choose another --workdir"
    ):
        run_directory.open_directory(tmp_path, config.get_config())
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema": 1', "[]", '{"schema": 1, "schema": 1}', '{"schema": NaN}']
)
@pytest.mark.parametrize("name", ["config.json", "protocol.json", "results.json"])
def test_a_damaged_file_is_named(name, text, started):
    (started / name).write_text(text)
    remedy = {"config.json": "train in another --workdir", "protocol.json": "writes it again"}.get(
        name, "scores the run again"
    )
    with pytest.raises(UserError, match=rf"{name} is damaged .*: .*{remedy}"):
        run_directory.open_directory(started, config.get_config())
        run_directory.record_protocol(started, protocol())
        run_directory.finished_results(started)


def write_results(folder) -> None:
    made = scored.summarise(scored.make_rows(0, speakers=2, per_speaker=3))
    run_directory.write_results(folder, made)


SEALED = {
    "config.json": run_directory.read_config,
    "protocol.json": run_directory.read_protocol,
    "versions.json": lambda folder: strict_json.read(folder / "versions.json", remedy="mend it"),
    "results.json": finished_run.read_results,
}


@pytest.fixture
def sealed(started):
    """A run directory with all files that have a checksum."""
    run_directory.record_versions(started, "2 x cpu")
    write_results(started)
    return started


@pytest.mark.parametrize("name", SEALED)
def test_no_flipped_bit_changes_what_is_read(name, sealed):
    """A class, a filter width or a score that was changed would still be JSON of the right type."""
    path, read = sealed / name, SEALED[name]
    content, expected = path.read_bytes(), read(sealed)
    silent = []
    for bit in range(0, 8 * len(content), 37):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found = read(sealed)  # Where the name of the seal was hit, the rest is as it was.
            if any(found[key] != expected[key] for key in expected):
                silent.append(bit)
        except UserError as error:
            assert str(path) in str(error) or "configuration keys" in str(error)
    assert silent == []


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("config.json", r"put it back as it was \(if the edit is meant, delete its key seal\)"),
        ("protocol.json", "delete it, and ser-jax evaluate --model=.* writes it again"),
        ("results.json", "ser-jax evaluate --model=.* scores the run again"),
    ],
)
def test_an_edit_by_hand_is_named_and_files_without_a_checksum_are_read(name, remedy, sealed):
    path = sealed / name
    stored = json.loads(path.read_text())
    where = stored["model"] if name == "config.json" else stored
    where[next(key for key, value in where.items() if isinstance(value, int | str))] = "other"
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=rf"{path} is damaged or was edited by hand .*: {remedy}"):
        SEALED[name](sealed)
    del stored["seal"]
    path.write_text(json.dumps(stored))
    found = strict_json.read(path, remedy="mend it")
    assert found == stored


def test_protocol_json_may_be_deleted_and_the_models_still_tell_their_protocol(started):
    (started / "protocol.json").unlink()
    description = {"status": "diverged", "protocol": "tiny", "protocol_sha256": protocol().sha256}
    model_files.write_model(started / "models/1-0", description, None, None)
    with pytest.raises(UserError, match="made with another configuration"):
        run_directory.open_directory(started, changed(training__epochs=7))
    with pytest.raises(UserError, match=f"started with the protocol tiny {protocol().sha256[:12]}"):
        run_directory.record_protocol(started, protocol(label="angry"))
    run_directory.record_protocol(started, protocol())
    assert run_directory.read_protocol(started)["sha256"] == protocol().sha256


@pytest.mark.parametrize("stored", [{}, {"name": 3, "sha256": None}, {"sha256": ["a"]}])
def test_a_protocol_without_its_digest_is_another_one(stored, started):
    (started / "protocol.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=f"the recordings now give tiny {protocol().sha256[:12]}"):
        run_directory.record_protocol(started, protocol())


def test_another_protocol_is_refused_with_both_digests(started):
    run_directory.record_protocol(started, protocol())
    old, new = protocol(), protocol(label="angry")
    with pytest.raises(UserError) as refused:
        run_directory.record_protocol(started, new)
    sentence = str(refused.value)
    for part in (old.sha256[:12], new.sha256[:12], "another --workdir"):
        assert part in sentence
    assert json.loads((started / "protocol.json").read_text())["sha256"] == old.sha256


def test_versions_name_packages_python_and_devices(started, monkeypatch):
    packages = ("no-such-package", *run_directory.PACKAGES)
    monkeypatch.setattr(run_directory, "PACKAGES", packages)
    run_directory.record_versions(started, "2 x cpu")
    versions = json.loads((started / "versions.json").read_text())
    here = {"ser_jax", "python", "platform", "devices", "seal"}
    assert {*here, *packages} == versions.keys()
    assert versions["no-such-package"] == "not installed"
    assert versions["ser_jax"] == __version__ and versions["devices"] == "2 x cpu"
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["jax"] == importlib.metadata.version("jax")


def test_going_on_in_another_way_is_said(started, caplog):
    """With the flags that go on as it began; not where nothing differs or nothing is trained."""
    native = {"training.kernels": "native", "compiler": "c++ 12", "training.group": 2}
    for trained_with in (native, native, None):
        run_directory.record_versions(started, "2 x cpu", trained_with=trained_with)
    assert not caplog.records
    assert native.items() <= json.loads((started / "versions.json").read_text()).items()
    xla = {"training.kernels": "xla", "compiler": None, "training.group": 2}
    run_directory.record_versions(started, "2 x cpu", trained_with=xla)
    assert "training.kernels=native then, xla now, compiler=c++ 12 then, None now" in caplog.text
    assert "--config.training.kernels=native goes on as it began" in caplog.text
    assert xla.items() <= json.loads((started / "versions.json").read_text()).items()


def test_settings_of_trials_are_counted():
    native, xla = {"training.kernels": "native"}, {"training.kernels": "xla"}
    given = [{"trained_with": used} for used in ([native], [native, xla], [xla])] + [{}]
    assert pipeline._count_trained_with(given) == [native | {"trials": 2}, xla | {"trials": 2}]


def test_results_are_there_once_written(started):
    assert run_directory.finished_results(started) is None
    results = scored.summarise(scored.make_rows(0)) | {
        "predictions_sha256": "",
        "probabilities": "softmax",
    }
    run_directory.write_results(started, results)
    assert run_directory.finished_results(started) == json.loads(json.dumps(results))


def test_what_is_no_run_directory_has_no_configuration(tmp_path):
    with pytest.raises(UserError, match="is not a run directory: there is no config.json"):
        run_directory.read_config(tmp_path)


def test_the_default_protocol_of_a_run_stays_the_one_that_it_was_made_with(tmp_path):
    """A later version may choose another default for the same corpus."""
    made = config.get_config()
    assert run_directory.protocol_name(tmp_path, made) == "auto"
    (tmp_path / "protocol.json").write_text('{"name": "manifest-speaker+modified"}')
    assert run_directory.protocol_name(tmp_path, made) == "manifest-speaker"
    made.protocol.name = "manifest-session"
    assert run_directory.protocol_name(tmp_path, made) == "manifest-session"


def test_only_one_process_may_use_it(tmp_path):
    """Here two of one process; the lock of a killed one is free: tests/reliability."""
    with run_directory.locked(tmp_path / "run"):
        sentence = f"another process is training or scoring in {tmp_path}/run: wait for its end"
        with pytest.raises(UserError, match=sentence), run_directory.locked(tmp_path / "run"):
            pass
        with run_directory.locked(tmp_path / "another"):
            pass
    with run_directory.locked(tmp_path / "run"):
        assert list((tmp_path / "run").iterdir()) == []


def test_a_file_system_without_locks_costs_a_warning(tmp_path, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_directory.fcntl, "flock", flock)
    with run_directory.locked(tmp_path), run_directory.locked(tmp_path):
        pass
    assert caplog.text.count("cannot be locked (No locks available): start only one") == 2
