"""Checkpoints of the group in training: only what resuming needs (orbax).

Orbax writes no checksums and never falls back. So each checkpoint carries a sealed record of its leaves (dtype, shape,
SHA-256), and opening the folder finds the newest one that is whole; newer ones are moved aside, with the reason.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.multihost import multihost
from orbax.checkpoint.path import atomicity

from ser_jax.errors import UserError
from ser_jax.training import seal

log = logging.getLogger(__name__)

_SHOWN = 3  # differences in a message
_HASHING = 4  # threads; hashlib leaves Python's lock
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in what tensorstore raises


class Damaged(Exception):
    """A checkpoint is not what was saved."""


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of a run directory.

    Attributes:
      manager: What writes them.
      position: Where the training stands that the newest one is of; None without one.
    """

    manager: ocp.CheckpointManager
    position: dict[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return Path(self.manager.directory)


@contextlib.contextmanager
def manager(folder: Path) -> Iterator[Checkpoints]:
    """Opens the checkpoints of a run directory; the newest one that is whole is verified, newer ones are moved aside.

    A checkpoint counts once its commit file is there: one that was being written when the process was killed is none.

    Raises:
      UserError: If the folder cannot be made, read or written.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs with tracebacks what it raises besides.
    with contextlib.ExitStack() as stack:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            enable_async_checkpointing=False,  # So that an error of writing is that of the save that it belongs to.
            temporary_path_class=atomicity.CommitFileTemporaryPath,
            **stack.enter_context(_by_itself()),
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_unfinished(folder)
            opened = stack.enter_context(ocp.CheckpointManager(folder.absolute(), options=options))
            position = _newest_whole(opened)
        except OSError as error:
            raise UserError(f"{folder} cannot be used for checkpoints ({error}); mend that and run again") from None
        yield Checkpoints(opened, position)


def _remove_unfinished(folder: Path) -> None:
    """Removes what a killed process was writing or deleting.

    Orbax's own cleaning runs beside the reading of the folder: what it has seen then may be gone at the next save.
    """
    for path in folder.iterdir():
        if path.name.isdecimal() and path.is_dir() and not (path / atomicity.COMMIT_SUCCESS_FILE).exists():
            shutil.rmtree(path)


@contextlib.contextmanager
def _by_itself() -> Iterator[dict[str, Any]]:
    """Has orbax save what this process has; yields options for that.

    Of several processes each has runs and a folder of its own. Orbax would wait for all of them in every save, and have
    process 0 alone write.
    """
    if jax.process_count() == 1:
        yield {}
        return
    before = multihost.process_index
    multihost.process_index = lambda: 0
    try:
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        yield {"create": False, "multiprocessing_options": alone}
    finally:
        multihost.process_index = before


def save(checkpoints: Checkpoints, arrays: Any, position: dict[str, Any]) -> None:
    """Saves the arrays of a group and where its training stands.

    Args:
      checkpoints: The open checkpoints.
      arrays: Tree of finite arrays with a leading run axis.
      position: JSON-able: runs, epoch, step and the records of the runs.

    Raises:
      UserError: If nothing was saved; the checkpoint before it is still there.
      ValueError: If an array holds a value that is not finite.
    """
    last = checkpoints.manager.latest_step()
    number = (last or 0) + 1
    leaves = _named(jax.device_get(arrays))
    wrong = [name for name, leaf in leaves.items() if not np.isfinite(leaf).all()]
    if wrong:
        raise ValueError(f"{', '.join(wrong[:_SHOWN])}: a checkpoint holds finite values only")
    record = seal.sealed({"leaves": _describe(leaves), "position": position})
    items = ocp.args.Composite(arrays=ocp.args.StandardSave(leaves), record=ocp.args.JsonSave(record))
    failure = "orbax refused"
    try:
        saved = checkpoints.manager.save(number, args=items)
    except Exception as error:  # What a full disk raises depends on which of its files orbax was writing.
        saved, failure = False, _reason(error)
        shutil.rmtree(checkpoints.folder / str(number), ignore_errors=True)
    if not saved:
        kept = f"goes on from checkpoint {last}" if last else "begins again"
        raise UserError(
            f"{checkpoints.folder}: checkpoint {number} was not saved ({failure}); free space or mend the folder, and "
            f"run the same command again: it {kept}"
        )
    checkpoints.position = record["position"]


def restore(checkpoints: Checkpoints) -> dict[str, Any] | None:
    """Returns the position of the newest checkpoint, or None if there is none."""
    return checkpoints.position


def restore_arrays(checkpoints: Checkpoints, like: Any) -> Any:
    """Returns the arrays of the newest checkpoint as NumPy arrays.

    Args:
      checkpoints: The open checkpoints.
      like: Arrays or shapes in the structure that was saved; their run axis may have another length.

    Raises:
      UserError: If names, dtypes or shapes of a run differ (orbax would cast, cut or fill), or the files have been
        damaged since they were opened.
    """
    number = checkpoints.manager.latest_step()
    assert number is not None
    try:
        leaves, _ = _read(checkpoints.manager, number)
    except Damaged as error:
        raise UserError(f"{checkpoints.folder}: checkpoint {number} is damaged ({error}); run again") from None
    wanted = _named(like)
    differences = [f"{name} is missing" for name in wanted.keys() - leaves.keys()]
    differences += [f"{name} is not known here" for name in leaves.keys() - wanted.keys()]
    for name in wanted.keys() & leaves.keys():
        there, here = (f"{np.dtype(leaf.dtype)} {list(leaf.shape[1:])}" for leaf in (leaves[name], wanted[name]))
        if there != here:
            differences.append(f"{name} is {there}, here {here}")
    if differences:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise UserError(
            f"{checkpoints.folder}: checkpoint {number} is of another system "
            f"({'; '.join(sorted(differences)[:_SHOWN])}{more}); delete the folder and run again"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])


def _newest_whole(opened: ocp.CheckpointManager) -> dict[str, Any] | None:
    """Returns the position of the newest checkpoint that is what was saved; moves newer ones aside."""
    position, kept, reasons = None, None, {}
    steps = opened.all_steps()
    for kept in sorted(steps, reverse=True):
        try:
            _, position = _read(opened, kept)
            break
        except Damaged as error:
            reasons[kept] = error
    # Orbax saves nothing under a number that is not above all others, and fails where something else has its name.
    folder = Path(opened.directory)
    numbers = {int(path.name) for path in folder.iterdir() if path.name.isdecimal()}
    reasons |= {number: Damaged("it is no whole checkpoint") for number in numbers - set(steps)}
    onwards = "training starts anew" if position is None else f"training goes on from checkpoint {kept}"
    for number, reason in reasons.items():
        aside = folder / f"{number}.corrupt-{datetime.datetime.now():%Y%m%dT%H%M%S.%f}"
        (folder / str(number)).rename(aside)
        log.error("checkpoint %d is damaged (%s): moved to %s; %s", number, reason, aside, onwards)
    if reasons:
        opened.reload()
    return position


def _read(opened: ocp.CheckpointManager, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the leaves of a checkpoint and its position.

    Raises:
      Damaged: If they are not what was saved.
    """
    try:
        record = opened.restore(number, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]
        if not seal.intact(record):
            raise Damaged("its record has no seal or another one")
        described = record["leaves"]
        like = {name: np.zeros(shape, dtype) for name, (dtype, shape, _) in described.items()}
        found = opened.restore(number, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(like)))["arrays"]
    except (Damaged, MemoryError):
        raise
    except Exception as error:  # Each kind of damage has its own.
        raise Damaged(_reason(error)) from None
    leaves = {name: np.asarray(leaf) for name, leaf in found.items()}
    for name, description in _describe(leaves).items():
        if description != described[name]:
            raise Damaged(f"{name} is not what was saved")
    return leaves, record["position"]


def _named(tree: Any) -> dict[str, Any]:
    """Returns the leaves by their place, such as `state.params.conv1.kernel`, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _describe(leaves: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    """Returns dtype, shape and SHA-256 of every leaf."""

    def describe(leaf: np.ndarray) -> list[Any]:
        digest = hashlib.sha256(np.ascontiguousarray(leaf).data.cast("B") if leaf.size else b"")
        return [str(leaf.dtype), list(leaf.shape), digest.hexdigest()]

    with concurrent.futures.ThreadPoolExecutor(_HASHING) as pool:
        return dict(zip(leaves, pool.map(describe, leaves.values()), strict=True))


def _reason(error: Exception) -> str:
    """Returns what an error says, on one line and not longer than that; of the system's errors what they mean."""
    number = _OS_ERROR.search(str(error))
    if number:
        return f"{os.strerror(int(number[1]))}, errno {number[1]}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 200 else f"{text[:200]}…"
