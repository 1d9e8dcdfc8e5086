"""Trains on each of several joined corpora and tests on each: one run per corpus.

Each run has the protocol `train-on-NAME`: the corpus itself is tested by folds of speakers, the
others by a model that trains on all of it but a validation part.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.config import Config
from ser_jax.corpora import joined
from ser_jax.evaluation import finished_run, slices
from ser_jax.experiment import run
from ser_jax.experiment.run import Results
from ser_jax.protocols import named
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError

FILE = "matrix.json"


def make(config: Config, workdir: Path) -> tuple[dict[str, Any], list[Results]]:
    """Trains what is not trained yet; writes `matrix.json`.

    Args:
      config: The resolved configuration, whose `corpus` names several.
      workdir: Folder of the run directories, one per corpus, by name.

    Returns:
      The content of `matrix.json`, and the results of the runs. `cells[A][B]` is the UA on B of
      models trained on A, with the keys of a score in `results.json`; absent if nothing of B could
      be tested.

    Raises:
      UserError: If there is one corpus only, protocol or folds are set, or a run is refused.
    """
    c, p = config.corpus, config.protocol
    corpora = [part.prefix.rstrip("/") for part in joined.parts(c.name, c.root, c.manifest)]
    if len(corpora) < 2:
        raise UserError(
            "a matrix needs at least two corpora: --corpora=emodb=/data/emodb,ravdess=/data/ravdess"
        )
    if p.name != named.AUTO or p.folds:
        raise UserError(
            f"protocol.name={p.name} and protocol.folds={p.folds!r}: the runs of a matrix have"
            " their own protocols; leave both out"
        )
    cells, runs = {}, []
    for corpus in corpora:
        own = config.copy_and_resolve_references()
        own.protocol.name = f"train-on-{corpus}"
        folder = workdir / corpus
        runs.append(run.train(own, folder))
        (finished,) = finished_run.read_runs([folder])
        cells[corpus] = {
            part.name: _score(part) for part in slices.by_corpus(finished.rows, finished.results)
        }
    found = {
        "schema": 1,
        "system": config.system,
        "corpora": corpora,
        "classes": runs[0]["classes"],
        "cells": cells,
        "protocols_sha256": {
            corpus: results["protocol_sha256"]
            for corpus, results in zip(corpora, runs, strict=True)
        },
    }
    strict_json.write(workdir / FILE, found)
    return found, runs


def _score(part: slices.Slice) -> dict[str, Any]:
    """Returns a score as `results.json` has it, with the number of utterances."""
    seeds = part.per_seed
    known = not np.isnan(part.ua_interval).any()
    return {
        "mean": part.ua,
        "std": float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None,
        "ci95": part.ua_interval.tolist() if known else None,
        "per_seed": seeds.tolist(),
        "utterances": part.utterances,
    }
