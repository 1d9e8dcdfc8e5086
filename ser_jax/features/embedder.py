"""A speech model in an ONNX file: waves of 16 kHz in, embeddings out, by onnxruntime.

Optional (`pip install 'ser_jax[onnx]'`) and imported on use. The model has an input of waves,
[B, S], [B, 1, S] or [S], f32, and may have an attention mask beside it, which is all ones.
"""

import fnmatch
import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.runtime.errors import UserError
from ser_jax.runtime.machine import available_cores

MASKS = ("attention_mask", "padding_mask", "mask")


def require_onnxruntime() -> None:
    """Raises `UserError` with the remedy if onnxruntime is not installed; does not import it."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError(
            "ONNX models are run by onnxruntime, which is not installed: pip install"
            " 'ser_jax[onnx]'"
        )


def digest(path: Path) -> str:
    """Returns the SHA-256 of an ONNX file and of those beside it that hold its weights.

    These have longer names that begin with its own, such as `model.onnx.data`.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; name an ONNX file")
    found = hashlib.sha256()
    for part in sorted(path.parent.glob(f"{path.name}*")):
        with part.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


class Embedder:
    """The model of a file; called with waves of one length it returns an embedding of each.

    Attributes:
      outputs: Names of the outputs that are kept.
      rows: Most waves of one call.
    """

    def __init__(self, path: Path, outputs: Sequence[str] = (), normalise: bool = False):
        """Loads the model.

        Args:
          path: The file.
          outputs: Names or patterns (`hidden_states.*`) of outputs; several are stacked as layers.
            Empty: the only one.
          normalise: Whether every wave is brought to mean 0 and variance 1 first, as the feature
            extractors of many wav2vec 2.0 models do.

        Raises:
          UserError: If it cannot be loaded, or has other inputs or outputs.
        """
        require_onnxruntime()
        import onnxruntime  # pyright: ignore[reportMissingImports]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = available_cores()
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # onnxruntime has a class for each of its causes.
            raise UserError(f"{path} is no ONNX model that can be run ({error!s:.200})") from None
        self._path, self._normalise = path, normalise
        self._input, *others = self._session.get_inputs()
        unknown = [one.name for one in others if one.name not in MASKS]
        if unknown or len(self._input.shape) not in (1, 2, 3) or "float" not in self._input.type:
            names = ", ".join(
                f"{one.name} {one.type} {one.shape}" for one in (self._input, *others)
            )
            raise UserError(
                f"{path} reads {names}: expected waves as float (rows, samples), and a mask at most"
            )
        self._masks = {one.name: np.int64 if "int64" in one.type else np.float32 for one in others}
        self.rows = self._input.shape[0] if len(self._input.shape) > 1 else 1
        self.rows = self.rows if isinstance(self.rows, int) else 16
        self.outputs = self._chosen([one.name for one in self._session.get_outputs()], outputs)

    def _chosen(self, known: list[str], patterns: Sequence[str]) -> list[str]:
        if not patterns and len(known) == 1:
            return known
        found = [n for p in patterns for n in known if fnmatch.fnmatchcase(n, p)]
        if not found or any(not fnmatch.filter(known, pattern) for pattern in patterns):
            raise UserError(
                f"{self._path} has the outputs {', '.join(known)}: name one, or several layers, by"
                " --outputs"
            )
        return list(dict.fromkeys(found))

    def __call__(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Embeds at most `rows` waves [S] f32 of one length, 16 kHz in [-1, 1].

        Returns:
          Of each [D], [T, D] or, with several outputs, [L, D] or [L, T, D], f32.

        Raises:
          UserError: If the model cannot read waves of this length.
        """
        batch = np.stack(waves).astype(np.float32)
        if self._normalise:
            mean, variance = batch.mean(1, keepdims=True), batch.var(1, keepdims=True)
            batch = (batch - mean) / np.sqrt(variance + 1e-7)
        shape = {1: batch.shape[1:], 2: batch.shape, 3: (len(batch), 1, batch.shape[1])}
        given = {self._input.name: batch.reshape(shape[len(self._input.shape)])}
        given |= {name: np.ones(batch.shape, kind) for name, kind in self._masks.items()}
        try:
            found = self._session.run(self.outputs, given)
        except Exception as error:
            raise UserError(
                f"{self._path} fails on {batch.shape[1] / 16000:.2f} s of speech ({error!s:.200})"
            ) from None
        if len(self._input.shape) == 1:
            found = [values[None] for values in found]
        if any(len(values) != len(batch) for values in found):
            raise UserError(
                f"{self._path}: {', '.join(self.outputs)} has not one row per recording; choose"
                " another output by --outputs"
            )
        arrays = found[0] if len(found) == 1 else np.stack(found, axis=1)
        return list(np.asarray(arrays, np.float32))
