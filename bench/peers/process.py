"""Peers are processes of another environment: they get files once, then lines go back and forth."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SCRIPT = Path(__file__).with_name("torch_train.py")


def write_corpus(
    folder: Path,
    frames: Sequence[np.ndarray],
    lengths: np.ndarray,
    hsf: np.ndarray | None,
    targets: np.ndarray,
    class_weights: np.ndarray,
    params: dict[str, np.ndarray],
) -> None:
    """Writes what a training reads.

    Args:
      folder: Where to.
      frames: N arrays [F_n, M], standardised, short ones filled up to one segment.
      lengths: [N] frames without what they are filled with.
      hsf: [N, D], standardised, or None.
      targets: [N], class numbers.
      class_weights: [K].
      params: Initial parameters by flat name.
    """
    np.save(folder / "frames.npy", np.concatenate(frames))
    np.save(folder / "held.npy", [len(values) for values in frames])
    np.save(folder / "lengths.npy", lengths)
    np.save(folder / "targets.npy", targets)
    np.save(folder / "class_weights.npy", class_weights)
    np.savez(folder / "params.npz", **params)
    if hsf is not None:
        np.save(folder / "hsf.npy", hsf)


class Worker:
    """A peer that waits for orders."""

    def __init__(self, python: Path, *arguments: Any, threads: int):
        """Starts torch_train.py; its first answer, when it is ready, holds the versions it uses.

        Args:
          python: Interpreter of the peers' environment.
          *arguments: For the script.
          threads: Threads that it computes with.
        """
        command = [str(python), str(SCRIPT), *map(str, arguments), "--threads", str(threads)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads),
        )

    def order(self, line: str) -> None:
        """Sends a line."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """Waits for an answer.

        Raises:
          RuntimeError: If the process has ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with exit code {self._process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self.order("quit")
            self._process.wait()


def environment(threads: int) -> dict[str, str]:
    """Returns the environment of a peer.

    How threads wait is left at the default, a spin of milliseconds, then sleep:
    OMP_WAIT_POLICY=PASSIVE makes two threads 2.5 times slower, and a process that waits for orders
    uses no processor time either way.
    """
    return os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
