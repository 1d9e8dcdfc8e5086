"""Checkpoints of the trials in training: written by orbax, verified before they are restored.

Orbax stores no checksums and never falls back to an older checkpoint. So each checkpoint carries a
record with the dtype, shape and SHA-256 of every array and a checksum of its own, and opening the
folder finds the newest checkpoint that is whole; damaged ones are moved aside, with the reason.

Every process of a multi-host training keeps its trials in a folder of its own, so orbax is
configured to synchronise with nobody. Its array handlers write in process 0 only; the others store
an npz file.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.path import atomicity

from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError

ORBAX, NPZ, RECORD = "arrays", "npz", "record"  # items of a checkpoint: arrays or npz, and record

_MOST_NAMED = 3  # differences in a message
_HASH_THREADS = 4  # hashlib releases the GIL
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in the errors of tensorstore

log = logging.getLogger(__name__)


class _Damaged(Exception):
    """A checkpoint is not what was saved."""


class _NpzHandler(ocp.CheckpointHandler):
    """Stores arrays by name in one npz file, in whichever process it is called."""

    def save(self, directory: Any, args: "_NpzArgs") -> None:
        np.savez(directory / "arrays.npz", allow_pickle=False, **args.arrays)

    def restore(self, directory: Any, args: "_NpzArgs") -> dict[str, np.ndarray]:
        with np.load(directory / "arrays.npz", allow_pickle=False) as arrays:
            return dict(arrays)


@ocp.args.register_with_handler(_NpzHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _NpzArgs(ocp.args.CheckpointArgs):
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def _expect_late_reports() -> None:
    """Drops what tensorstore still reports of a failed save: orbax's event loop is closed."""
    before = sys.excepthook

    def hook(kind: Any, error: Any, trace: Any) -> None:
        if str(error) != "Event loop is closed":
            before(kind, error, trace)

    sys.excepthook = hook


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of one folder, opened by `open_checkpoints`."""

    manager: ocp.CheckpointManager  # writes and reads them
    position: dict[str, Any] | None = None  # saved with the newest checkpoint; None without one

    @property
    def folder(self) -> Path:
        """The folder that holds them."""
        return Path(self.manager.directory)

    def save(self, arrays: Any, position: dict[str, Any]) -> None:
        """Saves the arrays of a group and its position in the training.

        Args:
          arrays: Tree of finite arrays with a leading trial axis.
          position: JSON-able: trials, epoch, step and the records of the trials.

        Raises:
          UserError: If nothing was saved; the checkpoint before it is still there.
          ValueError: If an array holds a value that is not finite.
        """
        last = self.manager.latest_step()
        number = (last or 0) + 1
        leaves = _by_name(jax.device_get(arrays))
        wrong = [name for name, leaf in leaves.items() if not np.isfinite(leaf).all()][:_MOST_NAMED]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: a checkpoint holds finite values only")
        record = strict_json.with_checksum({"leaves": _describe(leaves), "position": position})
        stored: Any = {NPZ: _NpzArgs(leaves)}
        if jax.process_index() == 0:
            stored = {ORBAX: ocp.args.StandardSave(leaves)}
        items = ocp.args.Composite(**stored, **{RECORD: ocp.args.JsonSave(record)})
        failure = "orbax refused"
        try:
            saved = self.manager.save(number, args=items)
        except Exception as error:  # A full disk raises another error for each file of orbax.
            saved, failure = False, _reason(error)
            _expect_late_reports()
            shutil.rmtree(self.folder / str(number), ignore_errors=True)
        if not saved:
            kept = f"goes on from checkpoint {last}" if last else "begins again"
            raise UserError(
                f"{self.folder}: checkpoint {number} was not saved ({failure}); free space or"
                f" mend the folder, and run the same command again: it {kept}"
            )
        self.position = record["position"]

    def restore(self, like: Any) -> Any:
        """Returns the arrays of the newest checkpoint as NumPy arrays.

        Args:
          like: Arrays or shapes in the structure that was saved; the trial axis may have another
            length.

        Raises:
          UserError: If names, dtypes or shapes of a trial differ (orbax would cast, cut or fill),
            or the files have been damaged since they were opened.
        """
        number = self.manager.latest_step()
        assert number is not None
        try:
            leaves, _ = _read(self.manager, number)
        except _Damaged as error:
            raise UserError(
                f"{self.folder}: checkpoint {number} is damaged ({error}); run again"
            ) from None
        expected = _by_name(like)
        differences = [f"{name} is missing" for name in expected.keys() - leaves.keys()]
        differences += [f"{name} is not known here" for name in leaves.keys() - expected.keys()]
        for name in expected.keys() & leaves.keys():
            saved, here = (
                f"{np.dtype(leaf.dtype)} {list(leaf.shape[1:])}"
                for leaf in (leaves[name], expected[name])
            )
            if saved != here:
                differences.append(f"{name} is {saved}, here {here}")
        if differences:
            shown, more = sorted(differences)[:_MOST_NAMED], len(differences) - _MOST_NAMED
            named = "; ".join(shown) + (f" and {more} more" if more > 0 else "")
            raise UserError(
                f"{self.folder}: checkpoint {number} is of another system or version ({named});"
                " delete the folder and run again"
            )
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in expected])


@contextlib.contextmanager
def open_checkpoints(folder: Path) -> Iterator[Checkpoints]:
    """Opens a folder of checkpoints: verifies the newest whole one, moves newer ones aside.

    A checkpoint counts once its commit file exists, so one that was being written when the process
    was killed does not.

    Raises:
      UserError: If the folder cannot be created, read or written.
    """
    # Orbax logs, with tracebacks, the errors that it raises as well.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    own = jax.process_index()
    processes = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2,
        create=False,
        enable_async_checkpointing=False,  # so that the save that fails is the one that raises
        temporary_path_class=atomicity.CommitFileTemporaryPath,
        multiprocessing_options=processes,
    )
    handlers = {
        ORBAX: ocp.StandardCheckpointHandler(multiprocessing_options=processes),
        NPZ: _NpzHandler(),
        RECORD: ocp.JsonCheckpointHandler(multiprocessing_options=processes),
    }
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_unfinished(folder)
            manager = stack.enter_context(
                ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers)
            )
            position = _newest_whole(manager)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be used for checkpoints ({error}); mend that and run again"
            ) from None
        yield Checkpoints(manager, position)


def _remove_unfinished(folder: Path) -> None:
    """Removes what a killed process was writing or deleting.

    Orbax cleans up while it reads the folder: what it listed then may be gone at the next save.
    """
    for path in folder.iterdir():
        unfinished = not (path / atomicity.COMMIT_SUCCESS_FILE).exists()
        if path.name.isdecimal() and path.is_dir() and unfinished:
            shutil.rmtree(path)


def _newest_whole(manager: ocp.CheckpointManager) -> dict[str, Any] | None:
    """Returns the position of the newest whole checkpoint; moves newer ones aside."""
    position, kept, reasons = None, None, {}
    steps = manager.all_steps()
    for kept in sorted(steps, reverse=True):
        try:
            _, position = _read(manager, kept)
            break
        except _Damaged as error:
            reasons[kept] = str(error)
    # Orbax saves only under a number above all others, and fails where something else has its name.
    folder = Path(manager.directory)
    numbers = {int(path.name) for path in folder.iterdir() if path.name.isdecimal()}
    reasons |= dict.fromkeys(numbers - set(steps), "it is no whole checkpoint")
    onwards = f"goes on from checkpoint {kept}" if position is not None else "starts from scratch"
    for number, reason in reasons.items():
        aside = folder / f"{number}.corrupt-{datetime.datetime.now():%Y%m%dT%H%M%S.%f}"
        (folder / str(number)).rename(aside)
        log.error(
            "checkpoint %d is damaged (%s): moved to %s; training %s",
            *(number, reason, aside, onwards),
        )
    if reasons:
        manager.reload()
    return position


def _read(
    manager: ocp.CheckpointManager, number: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the verified arrays of a checkpoint and its position; raises _Damaged."""

    def item(name: str, args: ocp.args.CheckpointArgs) -> Any:
        return manager.restore(number, args=ocp.args.Composite(**{name: args}))[name]

    try:
        record = item(RECORD, ocp.args.JsonRestore())
        if not strict_json.checksum_matches(record):
            raise _Damaged("the checksum of its record is missing or wrong")
        described = record["leaves"]
        if Path(manager.directory, str(number), NPZ).exists():
            found = item(NPZ, _NpzArgs())
        else:
            like = {name: np.zeros(shape, dtype) for name, (dtype, shape, _) in described.items()}
            found = item(ORBAX, ocp.args.StandardRestore(like))
    except (_Damaged, MemoryError):
        raise
    except Exception as error:  # Each kind of damage raises another one.
        raise _Damaged(_reason(error)) from None
    leaves = {name: np.asarray(leaf) for name, leaf in found.items()}
    restored = _describe(leaves)
    for name in described.keys() | restored.keys():
        if restored.get(name) != described.get(name):
            raise _Damaged(f"{name} is not what was saved")
    return leaves, record["position"]


def _by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves by names such as `state.params.conv1.kernel`, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _describe(leaves: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    """Returns dtype, shape and SHA-256 of every leaf."""

    def describe(leaf: np.ndarray) -> list[Any]:
        digest = hashlib.sha256(np.ascontiguousarray(leaf).data.cast("B") if leaf.size else b"")
        return [str(leaf.dtype), list(leaf.shape), digest.hexdigest()]

    with concurrent.futures.ThreadPoolExecutor(_HASH_THREADS) as pool:
        return dict(zip(leaves, pool.map(describe, leaves.values()), strict=True))


def _reason(error: Exception) -> str:
    """Returns the message of an error as one line of at most 200 letters, or its system error."""
    number = _OS_ERROR.search(str(error))
    if number:
        return f"{os.strerror(int(number[1]))}, errno {number[1]}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 200 else f"{text[:200]}…"
