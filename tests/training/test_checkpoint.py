"""Checkpoints: bit-exact, the newest whole one, never silently another (R7, R8, R9, R26)."""

import errno
import json
import logging
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ser_jax.runtime.errors import UserError
from ser_jax.training import checkpoint

# Where one of the parallel reads of tensorstore fails, the others end too late and complain.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class State(NamedTuple):
    """Like the state of a group: named tuples, dicts, several dtypes, a part that is absent."""

    params: dict
    count: jax.Array
    average: None = None


POSITION = {
    "runs": ["Ä%2F-0", "b-1"],
    "epoch": 3,
    "step": 17,
    "records": [{"best_ua": 0.1 + 0.2, "best_loss": float("inf"), "best_epoch": None}],
}


def position_at(step: int) -> dict[str, Any]:
    return {**POSITION, "step": step}


def arrays_of(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    odd = np.array([[-0.0, 1e-42, np.pi], [3e38, -1e-45, 1 / 3]], np.float32)
    params = {"a": jnp.asarray(odd), "b": {"c": jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)}}
    return {"state": State(params, jnp.array([seed, 7], jnp.int32)), "best": params}


SHAPES = jax.eval_shape(lambda: arrays_of(0))


def same(one: Any, other: Any) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def found_in(folder: Path) -> tuple[Any, Any]:
    """Returns the position and the arrays that a new process would resume from."""
    with checkpoint.open_checkpoints(folder) as checkpoints:
        position = checkpoints.position
        return position, None if position is None else checkpoints.restore(SHAPES)


def holds(folder: Path, seed: int) -> bool:
    position, arrays = found_in(folder)
    return position == position_at(seed) and same(arrays, arrays_of(seed))


def save(folder: Path, *seeds: int) -> None:
    with checkpoint.open_checkpoints(folder) as checkpoints:
        for seed in seeds:
            checkpoints.save(arrays_of(seed), position_at(seed))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[Path]:
    """Folders with checkpoints 1 and 2 of arrays 1 and 2, as process 0 and process 1 write them."""
    folders = [tmp_path_factory.mktemp(f"process {index}") / "checkpoints" for index in (0, 1)]
    for index, folder in enumerate(folders):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "process_index", lambda index=index: index)
            save(folder, 1, 2)
    return folders


@pytest.fixture
def copy(two, tmp_path, request) -> Path:
    """A copy of the folder of process 0, or of the process that is the indirect parameter."""
    return Path(shutil.copytree(two[getattr(request, "param", 0)], tmp_path / "checkpoints"))


# --- Saving and restoring


def test_roundtrip_to_the_bit_and_the_newest_wins(tmp_path):
    with checkpoint.open_checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.position is None
        for seed in range(3):
            checkpoints.save(arrays_of(seed), position_at(seed))
            assert checkpoints.position == position_at(seed)
    with checkpoint.open_checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.position == position_at(2)
        restored = checkpoints.restore(SHAPES)
        assert same(restored, arrays_of(2)) and not same(restored, arrays_of(1))
        checkpoints.save(arrays_of(3), POSITION)
        assert checkpoints.position == POSITION
        assert same(checkpoints.restore(SHAPES), arrays_of(3))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["3", "4"], "it keeps two"


@pytest.mark.parametrize("copy", [0, 1], indirect=True)
@pytest.mark.parametrize("reader", [0, 1])
def test_any_process_goes_on_with_the_folder_of_another(copy, reader, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: reader)
    assert holds(copy, 2)
    save(copy, 5)
    assert holds(copy, 5)


def test_a_group_of_another_size_is_restored_as_it_was(tmp_path):
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save({"w": jnp.arange(6.0).reshape(2, 3)}, POSITION)
        for size in (1, 2, 4):
            found = checkpoints.restore({"w": jax.ShapeDtypeStruct((size, 3), jnp.float32)})
            assert found["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def ones(**shapes: Any) -> dict[str, Any]:
    return {"n": jnp.ones(2)} | {name: jnp.ones(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("like", "difference"),
    [
        (ones(w=(2, 4)), r"w is float32 \[3\], here float32 \[4\]"),
        (ones() | {"w": jnp.ones((2, 3), jnp.int32)}, r"w is float32 \[3\], here int32 \[3\]"),
        (ones(v=(2, 3)), "v is missing; w is not known here"),
        (ones(), "w is not known here"),
        (ones() | {"w": {"x": jnp.ones((2, 3))}}, "w is not known here; w.x is missing"),
        (ones(w=2, a=2, b=2, c=2, d=2), "a is missing; b is missing; c is missing and 2 more"),
    ],
    ids=["shape", "dtype", "name", "missing", "tree", "many"],
)
def test_arrays_of_another_system_are_refused_and_named(like, difference, tmp_path):
    """R26: another architecture never arrives cast, cut or filled; the checkpoint stays."""
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(ones(w=(2, 3)), POSITION)
        sentence = (
            rf"{tmp_path}: checkpoint 1 is of another system or version \({difference}\); delete"
        )
        with pytest.raises(UserError, match=sentence):
            checkpoints.restore(like)
    assert (tmp_path / "1").is_dir()


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_value_that_is_not_finite_is_never_saved(value, tmp_path):
    """R18; the values of a diverged trial are cleared before (test_trials.py)."""
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="b.c: a checkpoint holds finite values only"):
            checkpoints.save({"a": np.ones(2), "b": {"c": np.array([1, value])}}, POSITION)
    assert not list(tmp_path.iterdir())


# --- Errors while saving


@pytest.mark.parametrize(
    ("size", "process"), [(0, 0), (100, 0), (1000, 0), (20_000, 0), (100, 1), (20_000, 1)]
)
def test_a_full_disk_is_an_error_at_once_and_the_checkpoint_before_restores(
    size, process, copy, monkeypatch
):
    """R9: no file may grow beyond so many bytes, as on a full disk, whichever file is written."""
    monkeypatch.setattr(jax, "process_index", lambda: process)
    large = {"a": jnp.asarray(np.random.default_rng(0).normal(size=(2, 5000)))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with checkpoint.open_checkpoints(copy) as checkpoints:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            with pytest.raises(UserError) as failed:
                checkpoints.save(large, POSITION)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(failed.value)
    assert f"{copy}: checkpoint 3 was not saved (" in message and "File too large" in message
    assert "free space" in message and message.endswith("it goes on from checkpoint 2")
    assert sorted(path.name for path in copy.iterdir()) == ["1", "2"] and holds(copy, 2)
    save(copy, 3)
    assert holds(copy, 3)


def test_an_error_while_saving_belongs_to_that_save(copy, monkeypatch):
    """Nothing is written in the background, so no error comes later or not at all."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with checkpoint.open_checkpoints(copy) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(ocp.StandardCheckpointHandler, "async_save", fail)
            patch.setattr(ocp.StandardCheckpointHandler, "save", fail)
            sentence = r"checkpoint 3 was not saved \(\[Errno 5\] Input/output error\)"
            with pytest.raises(UserError, match=sentence):
                checkpoints.save(arrays_of(3), POSITION)
        assert checkpoints.position == position_at(2)
        # Orbax may also refuse by returning False.
        monkeypatch.setattr(checkpoints.manager, "should_save", lambda step: False)
        sentence = rf"{copy}: checkpoint 3 was not saved \(orbax refused\).* checkpoint 2$"
        with pytest.raises(UserError, match=sentence):
            checkpoints.save(arrays_of(3), POSITION)


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()
    sentence = rf"{tmp_path}/file/c cannot be used for checkpoints \(.*Not a directory"
    with pytest.raises(UserError, match=sentence), checkpoint.open_checkpoints(tmp_path / "file/c"):
        pass


# --- Damage


def change_record(folder: Path, **values: Any) -> None:
    path = folder / "record/metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rename_in_metadata(folder: Path, old: str, new: str) -> None:
    path = folder / "arrays/_METADATA"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def largest(folder: Path) -> Path:
    files = [path for path in (folder / "arrays").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


Change = Callable[[dict[str, Any]], dict[str, Any]]


def other_arrays(change: Change) -> Callable[[Path], None]:
    """Returns damage: other arrays, correctly written, under the record of the first."""

    def damage(folder: Path) -> None:
        changed = change(checkpoint._by_name(jax.device_get(arrays_of(2))))
        if (folder / "npz").exists():
            np.savez(folder / "npz/arrays.npz", **changed)
            return
        shutil.rmtree(folder / "arrays")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "arrays", changed)

    return damage


OTHER_ARRAYS = {
    "another value": other_arrays(lambda a: {**a, "best.a": a["best.a"] + 1}),
    "another sign": other_arrays(lambda a: {**a, "best.a": np.abs(a["best.a"])}),
    "another shape": other_arrays(lambda a: {**a, "best.a": a["best.a"][:1]}),
    "another dtype": other_arrays(lambda a: {**a, "best.a": a["best.a"].view(np.int32)}),
    "a leaf missing": other_arrays(lambda a: {n: v for n, v in a.items() if n != "best.a"}),
    "a leaf more": other_arrays(lambda a: {**a, "x": np.ones(2)}),
}
DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty folder": lambda step: [shutil.rmtree(step), step.mkdir()],
    "a file in its place": replace_by_file,
    "no commit file": lambda step: (step / "commit_success.txt").unlink(),
    "no arrays": lambda step: shutil.rmtree(step / "arrays"),
    "no record": lambda step: shutil.rmtree(step / "record"),
    "arrays are a file": lambda step: replace_by_file(step / "arrays"),
    "empty record": lambda step: (step / "record/metadata").write_text(""),
    "record is no object": lambda step: (step / "record/metadata").write_text("[]"),
    "record without its file": lambda step: (step / "record/metadata").unlink(),
    "another position": lambda step: change_record(step, position={**POSITION, "epoch": 4}),
    "no checksum": lambda step: change_record(step, seal=None),
    "more in the record": lambda step: change_record(step, more=1),
    "no metadata of arrays": lambda step: (step / "arrays/_METADATA").unlink(),
    "another name in the metadata": lambda step: rename_in_metadata(step, "best.a", "best.x"),
    "no manifest": lambda step: (step / "arrays/manifest.ocdbt").unlink(),
    "data missing": lambda step: shutil.rmtree(step / "arrays/d"),
    "data cut": lambda step: cut(largest(step)),
    "data zero": lambda step: largest(step).write_bytes(bytes(largest(step).stat().st_size)),
    **OTHER_ARRAYS,
}
NPZ_DAMAGE: dict[str, Callable[[Path], Any]] = {
    "no folder": lambda step: shutil.rmtree(step / "npz"),
    "no file": lambda step: (step / "npz/arrays.npz").unlink(),
    "cut": lambda step: cut(step / "npz/arrays.npz"),
    "pickled": other_arrays(lambda a: {**a, "best.a": np.array([{}], object)}),
    **OTHER_ARRAYS,
}
# Everything that is restored is there; and what a killed process leaves, removed without a message.
UNUSED = ("a leaf more", "no metadata of arrays")
UNFINISHED = ("no commit file", "empty folder")


@pytest.mark.parametrize(
    ("copy", "damage"),
    [(0, name) for name in DAMAGE] + [(1, name) for name in NPZ_DAMAGE],
    indirect=["copy"],
)
def test_damage(damage, copy, caplog):
    """R8: the checkpoint before is restored and the damaged one kept; the next save works."""
    npz = (copy / "2/npz").exists()
    (NPZ_DAMAGE if npz else DAMAGE)[damage](copy / "2")
    with caplog.at_level(logging.ERROR):
        position, arrays = found_in(copy)
    if position == position_at(2):
        assert damage in UNUSED and not npz and same(arrays, arrays_of(2))
        return
    assert position == position_at(1) and same(arrays, arrays_of(1))
    if damage not in UNFINISHED:
        (aside,) = [path for path in copy.iterdir() if path.name.startswith("2.corrupt-")]
        assert "checkpoint 2 is damaged (" in caplog.text
        assert f"moved to {aside}; training goes on from checkpoint 1" in caplog.text
    save(copy, 5)
    assert holds(copy, 5)


def test_damage_everywhere_starts_from_scratch(copy, caplog):
    for step in ("1", "2"):
        DAMAGE["data cut"](copy / step)
    assert found_in(copy) == (None, None)
    assert caplog.text.count("; training starts from scratch") == 2
    save(copy, 5)
    assert holds(copy, 5)


def test_a_deletion_that_was_killed_is_finished(tmp_path):
    """Orbax deletes the third checkpoint; killed meanwhile, it leaves any of its files."""
    save(tmp_path / "whole", 1)
    shutil.copytree(tmp_path / "whole/1", tmp_path / "1")
    save(tmp_path / "whole", 2, 3)
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == ["2", "3"]
    one = tmp_path / "1"
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    for left in range(len(files)):
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / f"left {left}"))
        shutil.copytree(tmp_path / "1", folder / "1")
        for gone in files[left:] if left % 2 else files[: len(files) - left]:
            (folder / "1" / gone).unlink()
        with checkpoint.open_checkpoints(folder) as checkpoints:
            assert checkpoints.position == position_at(3)
            for seed in (4, 5):
                checkpoints.save(arrays_of(seed), position_at(seed))
        assert holds(folder, 5)
        assert {"4", "5"} == {path.name for path in folder.iterdir() if path.name.isdecimal()}


def test_damage_between_opening_and_reading_is_refused(copy):
    with checkpoint.open_checkpoints(copy) as checkpoints:
        DAMAGE["data cut"](copy / "2")
        with pytest.raises(UserError, match=rf"{copy}: checkpoint 2 is damaged \(.*\); run again"):
            checkpoints.restore(SHAPES)
    assert holds(copy, 1)


def test_a_checkpoint_without_digests_is_not_trusted(tmp_path, caplog):
    """As early versions have written them."""
    arrays, position = ocp.args.StandardSave({"w": np.ones(2)}), ocp.args.JsonSave(POSITION)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.Composite(arrays=arrays, position=position))
    assert found_in(tmp_path) == (None, None)
    assert "checkpoint 1 is damaged" in caplog.text


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("flips", [30, pytest.param(300, marks=pytest.mark.long)])
def test_flipped_bits_are_never_restored(flips, process, two, tmp_path, record_property):
    """R7: one bit anywhere in the newest checkpoint: its own content or the one before, exactly."""
    whole, seed = two[process], random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    files = sorted(path.relative_to(whole) for path in (whole / "2").rglob("*") if path.is_file())
    ends = np.cumsum([(whole / path).stat().st_size for path in files])
    fell_back = 0
    for number in range(flips):
        folder = Path(shutil.copytree(whole, tmp_path / str(number)))
        place = rng.randrange(int(ends[-1]))
        path = folder / files[int(np.searchsorted(ends, place, side="right"))]
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        position, arrays = found_in(folder)
        case = f"seed {seed}, flip {number}, {path.relative_to(folder)}"
        assert position in (position_at(1), position_at(2)), case
        assert same(arrays, arrays_of(position["step"])), case
        fell_back += position["step"] == 1
        shutil.rmtree(folder)
    assert fell_back > flips // 10, "most of a checkpoint matters"
    measured = f"{flips} flips: {fell_back} times the checkpoint before, else the same bits"
    record_property("measured", measured)
