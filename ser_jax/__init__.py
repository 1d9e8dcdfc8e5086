"""Speech emotion recognition in JAX: the three CRNNs of Luo, Zou and Huang (Interspeech 2018)."""

from __future__ import annotations

import os

from ser_jax.runtime import xla_flags

TYPE_CHECKING = False  # typing itself takes longer to import than the rest of this module
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ser_jax.config import Config
    from ser_jax.experiment.run import Results
    from ser_jax.prediction.predictor import Predictor

__version__ = "0.1.0"

xla_flags.install()


def load(
    model: str | os.PathLike[str] = "emodb-plain",
    *,
    embedder: str | os.PathLike[str] = "",
    embeddings: str | os.PathLike[str] = "",
) -> Predictor:
    """Loads trained models: `ser_jax.load("runs/x").predict("a.wav").label`.

    Args:
      model: Run directory that `ser-jax train` has written: its final model predicts if it has
        one, otherwise those of all its folds together. Or a file that `ser-jax export
        --format=safetensors` has written. Or the name of a model that comes with the package;
        the default is one of them (docs/models.md).
      embedder: Models trained on embeddings: the ONNX file that made them.
      embeddings: The same: files of the embeddings of what is predicted.

    Returns:
      A `Predictor`; its method `predict` takes files or samples of any rate.

    Raises:
      ser_jax.runtime.errors.UserError: If it is none of these or a file is damaged; the sentence
        says what to do.
    """
    from ser_jax.prediction.predictor import Predictor  # jax is loaded by those who predict

    return Predictor(model, embedder=embedder, embeddings=embeddings)


def train(
    config: str | os.PathLike[str] | Config = "multi_crnn",
    *,
    corpus: str = "",
    root: str | os.PathLike[str] = "",
    workdir: str | os.PathLike[str] = "",
    settings: Mapping[str, Any] | None = None,
) -> Results:
    """Trains every trial of a protocol and scores it, as `ser-jax train` does; resumes.

    `ser_jax.train("tuned/plain_crnn", corpus="manifest", root="/data/mine")["ua"]["mean"]`

    Args:
      config: A preset, by name or file, or a ConfigDict.
      corpus: What reads the corpus, `corpus.name`; empty: what the preset says (the demo).
      root: Folder of the corpus, `corpus.root`.
      workdir: Run directory; empty: `runs/<protocol>-<preset>`.
      settings: Other keys of `ser_jax/config.py`, such as {"training.epochs": 40}.

    Returns:
      The content of `results.json`; `results.folder` is the run directory, which `load` takes.

    Raises:
      ser_jax.runtime.errors.UserError: If something is wrong that the user can mend.
      ser_jax.runtime.errors.Diverged: If trials diverged; everything has been written.
      KeyboardInterrupt: After Ctrl-C or "interrupt kernel"; the same call goes on from there.
    """
    from ser_jax.commands import command_line
    from ser_jax.experiment import pipeline, run
    from ser_jax.runtime import signals

    found = command_line.configuration(config, corpus, root, settings or {})
    name = os.fspath(config) if isinstance(config, str | os.PathLike) else ""
    try:
        results = run.train(found, workdir, name)
    except signals.Interrupted as stop:
        message = signals.exit_message(stop.signal).replace("command", "call")
        raise KeyboardInterrupt(message) from None
    pipeline.check_diverged(results)
    return results


def evaluate(
    model: str | os.PathLike[str],
    *,
    corpus: str = "",
    root: str | os.PathLike[str] = "",
    output: str | os.PathLike[str] = "",
    settings: Mapping[str, Any] | None = None,
) -> Results:
    """Scores a trained run again, or on another corpus, as `ser-jax evaluate` does.

    Args:
      model: The run directory.
      corpus: What reads another corpus, `corpus.name`; empty: the run is scored again.
      root: Folder of that corpus; without `corpus`, where the run's own recordings lie now.
      output: Folder for results on another corpus; empty: `<model>/<corpus>`.
      settings: Other keys of the other corpus, such as {"corpus.labels": "calm=neutral"}.

    Returns:
      The content of `results.json`; `results.folder` is where that lies.

    Raises:
      ser_jax.runtime.errors.UserError: If run, corpus or labels do not fit.
    """
    from pathlib import Path

    from ser_jax.commands import command_line
    from ser_jax.experiment import run
    from ser_jax.runtime.errors import UserError

    if not corpus and (output or settings):
        raise UserError("output and settings are for another corpus: name its reader")
    other = command_line.configuration("multi_crnn", corpus, root, settings or {})
    return run.evaluate(Path(model), other if corpus else None, root=os.fspath(root), output=output)
