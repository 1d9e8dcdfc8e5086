"""Checkpoints: to the bit, the newest one that is whole, and never silently none or another (R7, R8, R9, R26)."""

import errno
import json
import logging
import random
import resource
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ser_jax.errors import UserError
from ser_jax.training import checkpoint, seal

# Where one of the reads that tensorstore has under way fails, it complains of the others, which end too late.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class State(NamedTuple):
    """Like a group's state: named tuples, dicts, several dtypes, a part that is not there."""

    params: dict
    count: jax.Array
    average: None = None


POSITION = {
    "runs": ["Ä%2F-0", "b-1"],
    "epoch": 3,
    "step": 17,
    "records": [{"best_ua": 0.1 + 0.2, "best_loss": float("inf"), "best_epoch": None, "status": "training"}],
}


def arrays_of(seed):
    rng = np.random.default_rng(seed)
    odd = np.array([[-0.0, 1e-42, np.pi], [3e38, -1e-45, 1 / 3]], np.float32)
    params = {"a": jnp.asarray(odd), "b": {"c": jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)}}
    return {"state": State(params, jnp.array([seed, 7], jnp.int32)), "best": params}


SHAPES = jax.eval_shape(lambda: arrays_of(0))


def same(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def found_in(folder):
    """Returns position and arrays that a new process would go on from."""
    with checkpoint.manager(folder) as checkpoints:
        position = checkpoint.restore(checkpoints)
        return position, None if position is None else checkpoint.restore_arrays(checkpoints, SHAPES)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints 1 and 2, of arrays 1 and 2 at steps 1 and 2."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    with checkpoint.manager(folder) as checkpoints:
        for seed in (1, 2):
            checkpoint.save(checkpoints, arrays_of(seed), {**POSITION, "step": seed})
    return folder


@pytest.fixture
def copy(two, tmp_path):
    return Path(shutil.copytree(two, tmp_path / "checkpoints"))


# --- What was saved comes back ----------------------------------------------------------------------------------------


def test_roundtrip_to_the_bit_and_the_newest_wins(tmp_path):
    with checkpoint.manager(tmp_path / "c") as checkpoints:
        assert checkpoint.restore(checkpoints) is None
        for seed in range(3):
            checkpoint.save(checkpoints, arrays_of(seed), {**POSITION, "step": seed})
            assert checkpoint.restore(checkpoints) == {**POSITION, "step": seed}
    with checkpoint.manager(tmp_path / "c") as checkpoints:
        assert checkpoint.restore(checkpoints) == {**POSITION, "step": 2}
        restored = checkpoint.restore_arrays(checkpoints, SHAPES)
        assert same(restored, arrays_of(2)) and not same(restored, arrays_of(1))
        checkpoint.save(checkpoints, arrays_of(3), POSITION)
        assert checkpoint.restore(checkpoints) == POSITION
        assert same(checkpoint.restore_arrays(checkpoints, SHAPES), arrays_of(3))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["3", "4"], "only what resuming needs"


def test_a_group_of_another_size_is_handed_over_as_it_was(tmp_path):
    with checkpoint.manager(tmp_path) as checkpoints:
        checkpoint.save(checkpoints, {"w": jnp.arange(6.0).reshape(2, 3)}, POSITION)
        for size in (1, 2, 4):
            found = checkpoint.restore_arrays(checkpoints, {"w": jax.ShapeDtypeStruct((size, 3), jnp.float32)})
            assert found["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("like", "difference"),
    [
        ({"w": jnp.ones((2, 4)), "n": jnp.ones(2)}, r"w is float32 \[3\], here float32 \[4\]"),
        ({"w": jnp.ones((2, 3), jnp.int32), "n": jnp.ones(2)}, r"w is float32 \[3\], here int32 \[3\]"),
        ({"v": jnp.ones((2, 3)), "n": jnp.ones(2)}, "v is missing; w is not known here"),
        ({"n": jnp.ones(2)}, "w is not known here"),
        ({"w": {"x": jnp.ones((2, 3))}, "n": jnp.ones(2)}, "w is not known here; w.x is missing"),
        ({name: jnp.ones(2) for name in "wnabcd"}, "a is missing; b is missing; c is missing and 2 more"),
    ],
    ids=["shape", "dtype", "name", "missing", "tree", "many"],
)
def test_what_is_of_another_system_is_refused_and_named(like, difference, tmp_path):
    """R26: parameters of another architecture never arrive cast, cut or filled; the checkpoint stays."""
    with checkpoint.manager(tmp_path) as checkpoints:
        checkpoint.save(checkpoints, {"w": jnp.ones((2, 3)), "n": jnp.ones(2)}, POSITION)
        with pytest.raises(UserError, match=rf"{tmp_path}: checkpoint 1 is of another system \({difference}\); delete"):
            checkpoint.restore_arrays(checkpoints, like)
    assert (tmp_path / "1").is_dir()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_never_saved(value, tmp_path):
    """R18; that of a lost run is taken out before (test_group.py)."""
    with checkpoint.manager(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="b.c: a checkpoint holds finite values only"):
            checkpoint.save(checkpoints, {"a": np.ones(2), "b": {"c": np.array([1, value])}}, POSITION)
    assert not list(tmp_path.iterdir())


# --- What cannot be saved ---------------------------------------------------------------------------------------------


def test_what_orbax_refuses_to_save_is_an_error(copy, monkeypatch):
    """Orbax says no by returning False."""
    with checkpoint.manager(copy) as checkpoints:
        monkeypatch.setattr(checkpoints.manager, "should_save", lambda step: False)
        with pytest.raises(UserError, match=rf"{copy}: checkpoint 3 was not saved \(orbax refused\).* checkpoint 2$"):
            checkpoint.save(checkpoints, arrays_of(3), POSITION)


@pytest.mark.parametrize("size", [0, 100, 1000, 20_000], ids=lambda size: f"{size} bytes")
def test_a_full_disk_is_an_error_at_once_and_the_checkpoint_before_restores(size, copy):
    """R9: no file may grow beyond so many bytes, as on a disk that is full; whichever of its files orbax is writing."""
    large = {"state": State({"a": jnp.asarray(np.random.default_rng(0).normal(size=(2, 5000)))}, jnp.arange(2))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with checkpoint.manager(copy) as checkpoints:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            with pytest.raises(UserError) as failed:
                checkpoint.save(checkpoints, large, POSITION)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{copy}: checkpoint 3 was not saved (" in str(failed.value) and "File too large" in str(failed.value)
    assert "free space" in str(failed.value) and str(failed.value).endswith("it goes on from checkpoint 2")
    assert sorted(path.name for path in copy.iterdir()) == ["1", "2"]
    position, arrays = found_in(copy)
    assert position == {**POSITION, "step": 2} and same(arrays, arrays_of(2))
    with checkpoint.manager(copy) as checkpoints:
        checkpoint.save(checkpoints, arrays_of(3), POSITION)
    assert same(found_in(copy)[1], arrays_of(3))


def test_an_error_while_saving_belongs_to_that_save(copy, monkeypatch):
    """Nothing is written behind the program's back, so no error can come later or not at all."""
    with checkpoint.manager(copy) as checkpoints:

        def fail(*_, **__):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(ocp.StandardCheckpointHandler, "async_save", fail)
            patch.setattr(ocp.StandardCheckpointHandler, "save", fail)
            with pytest.raises(UserError, match=r"checkpoint 3 was not saved \(\[Errno 5\] Input/output error\)"):
                checkpoint.save(checkpoints, arrays_of(3), POSITION)
        assert checkpoint.restore(checkpoints) == {**POSITION, "step": 2}


# --- Damage -----------------------------------------------------------------------------------------------------------


def change_record(folder, **values):
    (path,) = [path for path in (folder / "record").iterdir() if path.name == "metadata"]
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_metadata(folder, old, new):
    path = folder / "arrays/_METADATA"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def largest(folder):
    return max(
        (path for path in (folder / "arrays").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def replace_by_file(path):
    shutil.rmtree(path)
    path.write_text("")


def saved_otherwise(folder, change):
    """Replaces the arrays by others that orbax itself has saved, under the record of the first."""
    leaves = checkpoint._named(jax.device_get(arrays_of(2)))
    shutil.rmtree(folder / "arrays")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "arrays", change(leaves))


DAMAGE = {
    "empty folder": lambda step: [shutil.rmtree(path) if path.is_dir() else path.unlink() for path in step.iterdir()],
    "a file in its place": replace_by_file,
    "no commit file": lambda step: (step / "commit_success.txt").unlink(),
    "no arrays": lambda step: shutil.rmtree(step / "arrays"),
    "no record": lambda step: shutil.rmtree(step / "record"),
    "arrays are a file": lambda step: replace_by_file(step / "arrays"),
    "empty record": lambda step: (step / "record/metadata").write_text(""),
    "half a record": lambda step: (step / "record/metadata").write_text('{"leaves": {'),
    "record is no object": lambda step: (step / "record/metadata").write_text("[]"),
    "record without its file": lambda step: (step / "record/metadata").unlink(),
    "another position": lambda step: change_record(step, position={**POSITION, "epoch": 4}),
    "no seal": lambda step: change_record(step, seal=None),
    "another seal": lambda step: change_record(step, seal="0" * 64),
    "more in the record": lambda step: change_record(step, more=1),
    "no metadata of arrays": lambda step: (step / "arrays/_METADATA").unlink(),
    "empty metadata of arrays": lambda step: (step / "arrays/_METADATA").write_text(""),
    "another name in the metadata": lambda step: change_metadata(step, "best.a", "best.x"),
    "no manifest": lambda step: (step / "arrays/manifest.ocdbt").unlink(),
    "empty manifest": lambda step: (step / "arrays/manifest.ocdbt").write_bytes(b""),
    "data missing": lambda step: shutil.rmtree(step / "arrays/d"),
    "data empty": lambda step: largest(step).write_bytes(b""),
    "data cut": lambda step: largest(step).write_bytes(largest(step).read_bytes()[:-7]),
    "data zero": lambda step: largest(step).write_bytes(bytes(largest(step).stat().st_size)),
    "another value": lambda step: saved_otherwise(step, lambda a: {**a, "best.a": a["best.a"] + 1}),
    "the same value but for its sign": lambda step: saved_otherwise(
        step, lambda a: {**a, "best.a": np.abs(a["best.a"])}
    ),
    "another shape": lambda step: saved_otherwise(step, lambda a: {**a, "best.a": a["best.a"][:1]}),
    "another dtype": lambda step: saved_otherwise(step, lambda a: {**a, "best.a": a["best.a"].view(np.int32)}),
    "a leaf missing": lambda step: saved_otherwise(step, lambda a: {n: v for n, v in a.items() if n != "best.a"}),
    "a leaf more": lambda step: saved_otherwise(step, lambda a: {**a, "x": np.ones(2)}),
}


UNUSED = ("a leaf more", "no metadata of arrays")  # Everything that is read is there.


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(damage, copy, caplog):
    """R8: it goes on from the checkpoint before, says so, keeps the damaged one aside, and the next save lands."""
    DAMAGE[damage](copy / "2")
    with caplog.at_level(logging.ERROR):
        position, arrays = found_in(copy)
    if position == {**POSITION, "step": 2}:
        assert damage in UNUSED and same(arrays, arrays_of(2))
        return
    assert position == {**POSITION, "step": 1} and same(arrays, arrays_of(1))
    aside = [path for path in copy.iterdir() if path.name.startswith("2.corrupt-")]
    if damage not in ("no commit file", "empty folder"):  # Such as a killed process leaves: removed without a word.
        assert len(aside) == 1 and "checkpoint 2 is damaged (" in caplog.text
        assert f"moved to {aside[0]}; training goes on from checkpoint 1" in caplog.text
    with checkpoint.manager(copy) as checkpoints:
        checkpoint.save(checkpoints, arrays_of(5), {**POSITION, "step": 5})
    position, arrays = found_in(copy)
    assert position == {**POSITION, "step": 5} and same(arrays, arrays_of(5))


def test_damage_everywhere_begins_anew(copy, caplog):
    for step in ("1", "2"):
        DAMAGE["data cut"](copy / step)
    assert found_in(copy) == (None, None)
    assert caplog.text.count("; training starts anew") == 2
    with checkpoint.manager(copy) as checkpoints:
        checkpoint.save(checkpoints, arrays_of(5), POSITION)
    assert same(found_in(copy)[1], arrays_of(5))


def test_a_deletion_that_was_killed_is_finished(tmp_path):
    """Orbax keeps two; killed while it deletes the third, it leaves any part of it, with or without its commit file."""
    with checkpoint.manager(tmp_path / "whole") as checkpoints:
        checkpoint.save(checkpoints, arrays_of(1), {**POSITION, "step": 1})
        shutil.copytree(tmp_path / "whole/1", tmp_path / "1")
        for seed in (2, 3):
            checkpoint.save(checkpoints, arrays_of(seed), {**POSITION, "step": seed})
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == ["2", "3"]
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file())
    for left in range(len(files)):
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / f"left {left}"))
        shutil.copytree(tmp_path / "1", folder / "1")
        for gone in files[left:] if left % 2 else files[: len(files) - left]:
            (folder / "1" / gone).unlink()
        with checkpoint.manager(folder) as checkpoints:
            assert checkpoint.restore(checkpoints) == {**POSITION, "step": 3}
            checkpoint.save(checkpoints, arrays_of(4), {**POSITION, "step": 4})
            checkpoint.save(checkpoints, arrays_of(5), {**POSITION, "step": 5})
        position, arrays = found_in(folder)
        assert position == {**POSITION, "step": 5} and same(arrays, arrays_of(5))
        assert {"4", "5"} == {path.name for path in folder.iterdir() if path.name.isdecimal()}


def test_damage_between_opening_and_reading_is_refused(copy):
    with checkpoint.manager(copy) as checkpoints:
        DAMAGE["data cut"](copy / "2")
        with pytest.raises(UserError, match=rf"{copy}: checkpoint 2 is damaged \(.*\); run again"):
            checkpoint.restore_arrays(checkpoints, SHAPES)
    assert same(found_in(copy)[1], arrays_of(1))


def test_a_checkpoint_without_digests_is_not_trusted(tmp_path, caplog):
    """As versions before this one have written them."""
    items = {"arrays": ocp.args.StandardSave({"w": np.ones(2)}), "position": ocp.args.JsonSave(POSITION)}
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.Composite(**items))
    assert found_in(tmp_path) == (None, None)
    assert "checkpoint 1 is damaged" in caplog.text


@pytest.mark.parametrize("flips", [30, pytest.param(300, marks=pytest.mark.long)])
def test_flipped_bits_are_never_restored(flips, two, tmp_path, record_property):
    """R7: anywhere in the newest checkpoint, one at a time: what it held or the one before, to the bit."""
    seed = random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    files = sorted(path.relative_to(two) for path in (two / "2").rglob("*") if path.is_file())
    ends = np.cumsum([(two / path).stat().st_size for path in files])
    fell_back = 0
    for number in range(flips):
        folder = Path(shutil.copytree(two, tmp_path / str(number)))
        place = rng.randrange(int(ends[-1]))
        path = folder / files[int(np.searchsorted(ends, place, side="right"))]
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        position, arrays = found_in(folder)
        told = f"seed {seed}, flip {number}, {path.relative_to(folder)}"
        assert position in ({**POSITION, "step": 1}, {**POSITION, "step": 2}), told
        assert position is not None and same(arrays, arrays_of(position["step"])), told
        fell_back += position["step"] == 1
        shutil.rmtree(folder)
    assert fell_back > flips // 10, "most of a checkpoint matters"
    record_property("measured", f"{flips} flips: {fell_back} times the checkpoint before, else the same bits")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"{tmp_path}/file/c cannot be used for checkpoints \(.*Not a directory"):
        with checkpoint.manager(tmp_path / "file/c"):
            pass


def test_the_record_is_sealed(copy):
    """Its seal covers position and digests."""
    record = json.loads((copy / "2/record/metadata").read_text())
    assert record.keys() == {"leaves", "position", seal.KEY} and seal.intact(record)
    assert record["leaves"].keys() == {"best.a", "best.b.c", "state.params.a", "state.params.b.c", "state.count"}
