"""Checkpoints of the group in training: only what resuming needs (orbax)."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ser_jax.errors import UserError


def manager(folder: Path) -> ocp.CheckpointManager:
    """Opens the checkpoints of a run directory; use it in a `with` statement."""
    logging.getLogger("absl").setLevel(logging.WARNING)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(checkpoints: ocp.CheckpointManager, arrays: Any, position: dict[str, Any]) -> None:
    """Saves the arrays of a group and where its training stands.

    Args:
      checkpoints: The open manager.
      arrays: Tree of arrays with a leading run axis.
      position: JSON-able: runs, epoch, step and the records of the runs.

    Raises:
      UserError: If nothing was saved.
    """
    number = (checkpoints.latest_step() or 0) + 1
    host = jax.device_get(arrays)
    saved = checkpoints.save(
        number,
        args=ocp.args.Composite(arrays=ocp.args.StandardSave(host), position=ocp.args.JsonSave(position)),
    )
    if not saved:
        raise UserError(
            f"{checkpoints.directory}: checkpoint {number} was not saved; move the folder away and run again"
        )


def restore(checkpoints: ocp.CheckpointManager) -> dict[str, Any] | None:
    """Returns the position of the newest checkpoint, or None if there is none."""
    number = checkpoints.latest_step()
    if number is None:
        return None
    return checkpoints.restore(number, args=ocp.args.Composite(position=ocp.args.JsonRestore()))["position"]


def restore_arrays(checkpoints: ocp.CheckpointManager, like: Any) -> Any:
    """Returns the arrays of the newest checkpoint as NumPy arrays.

    Args:
      checkpoints: The open manager.
      like: Arrays or shapes in the structure that was saved; their run axis may have another length.

    Raises:
      UserError: If the shapes of a run differ. (Orbax does not mind.)
    """
    target = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    number = checkpoints.latest_step()
    found = checkpoints.restore(number, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(target)))["arrays"]
    for saved, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(target), strict=True):
        if saved.shape[1:] != wanted.shape[1:]:
            raise UserError(
                f"{checkpoints.directory}: checkpoint {number} is of another system (an array is "
                f"{saved.shape[1:]}, here {wanted.shape[1:]}); delete the folder and run again"
            )
    return found
