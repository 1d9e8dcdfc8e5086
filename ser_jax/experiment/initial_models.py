"""Training that starts from the models of another run (`training.init_from`).

A fold starts from the first model of that run which has seen neither a recording nor a speaker of
the fold's test part, itself or by the models that it started from. Standardisation is not taken
over: it is that of the new training part, so that features of a new corpus arrive in the range that
the layers know.
"""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ser_jax.config import Config
from ser_jax.corpora.table import Utterance
from ser_jax.experiment import run_directory, setup, training_data
from ser_jax.experiment.training_data import TrainedOn
from ser_jax.features import embeddings
from ser_jax.models import build
from ser_jax.models.introspection import is_last_layer
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted
from ser_jax.training import model_files

# Keys of `model` that change no parameter and not what a layer computes from it.
_FREE = ("form", "dropout", "hsf_dropout", "end2you_dropout")

_OF_EMBEDDINGS = ("embeddings_level", "embeddings_beside")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """The run to start from."""

    workdir: Path  # its directory
    models: Mapping[str, Mapping[str, Any]]  # name of the folder → `model.json`
    trained_on: Mapping[str, list[TrainedOn]]  # name of the folder → what the model was trained on


class Initial(NamedTuple):
    """The models that folds start from."""

    # per fold arrays by their place at the top of the tree of parameters; the last layer is absent
    # if the classes are others
    params: dict[str, dict[str, Any]]
    record: dict[str, Any]  # content of `init_from.json`


def open_source(config: Config) -> Source | None:
    """Reads what is known of the run that training starts from; None: it starts from nothing.

    Raises:
      UserError: If that is no finished run, or one of another architecture.
    """
    if not config.training.init_from:
        return None
    workdir = Path(config.training.init_from).expanduser()
    there, here = (_architecture(each) for each in (run_directory.read_config(workdir), config))
    differences = run_directory.differences(there, here)
    if differences:
        raise UserError(
            f"training.init_from={workdir} is of another architecture ({'; '.join(differences)}):"
            " train with its values, or start from another run"
        )
    models, _ = run_directory.split_diverged(workdir, run_directory.read_trials(workdir))
    protocol = run_directory.read_protocol(workdir)
    if not protocol.get("recordings"):
        raise UserError(
            f"training.init_from={workdir} does not know the digests of its recordings, as older"
            f" runs do not: ser-jax evaluate --model={workdir} adds them"
        )
    by_fold = {
        fold: training_data.of_models(workdir, protocol, [fold])
        for fold in {found["fold"] for found in models.values()}
    }
    return Source(workdir, models, {name: by_fold[found["fold"]] for name, found in models.items()})


def read(
    source: Source,
    config: Config,
    protocol: Protocol,
    recordings: Mapping[str, str],
    folds: Collection[str],
    embedded: Mapping[str, Any] | None = None,
) -> Initial:
    """Reads the parameters that folds start from.

    Args:
      source: The run to start from.
      config: The configuration to train with.
      protocol: The protocol to train on.
      recordings: Utterance id → SHA-256 of its file.
      folds: Names of the folds that are trained.
      embedded: Facts about the embeddings that are read, if any.

    Raises:
      UserError: If every model has seen something of the test part of a fold, parameters have other
        shapes, or embeddings are those of another model.
    """
    chosen = choose(source, protocol, recordings, training_data.corpus_keys(config))
    seen = [name for name in folds if chosen[name] is None]
    if seen:
        clean = [name for name, model in chosen.items() if model is not None]
        only = f", or train only protocol.folds={','.join(clean)}" if clean else ""
        raise UserError(
            f"training.init_from={source.workdir}: every model there has seen recordings or"
            f" speakers that fold {', '.join(sorted(seen)[:3])} tests: start from a run on another"
            f" corpus{only}"
        )
    record = {"run": str(source.workdir), "folds": chosen, "models": {}}
    model = build.build_model(config, len(protocol.classes))
    size = (embedded["layers"], embedded["width"]) if embedded else (0, 0)
    drawn = build.parameter_shapes(model, build.example(config, size))
    shapes = jax.tree.map(np.shape, drawn)
    params: dict[str | None, dict[str, Any]] = {}
    for name in sorted({name for name in chosen.values() if name is not None}):
        found = model_files.read_model(source.workdir / "models" / name)
        if embedded:
            there = found.description["embeddings"]
            embeddings.check_alike(config.features.embeddings, embedded, there)
        same = tuple(found.description["classes"]) == protocol.classes
        params[name] = {
            key: value for key, value in found.params.items() if same or not is_last_layer(key)
        }
        if {**shapes, **jax.tree.map(np.shape, params[name])} != shapes:
            raise UserError(
                f"training.init_from={source.workdir}: parameters of {name} have other shapes than"
                " those to be trained: start from a run with this configuration"
            )
        trained_on = [one.to_json() for one in source.trained_on[name]]
        record["models"][name] = {"sha256": found.description["sha256"], "trained_on": trained_on}
    log.info("training starts from %s of %s", ", ".join(record["models"]), source.workdir)
    return Initial({fold: params[name] for fold, name in chosen.items() if name}, record)


def record(workdir: Path, initial: Initial) -> None:
    """Writes `init_from.json`; a UserError if the run has started with other models."""
    if (workdir / run_directory.PROTOCOL).is_file() or model_files.list_models(workdir):
        before = training_data.read_record(workdir)
        if any(before.get(key) != initial.record[key] for key in ("folds", "models")):
            raise UserError(
                f"{workdir} began with models of {before.get('run')} that are not those of"
                f" training.init_from={initial.record['run']} now: put these back, or choose"
                " another --workdir"
            )
    strict_json.write(workdir / training_data.INIT_FROM, initial.record, indent=None)


def choose(
    source: Source, protocol: Protocol, recordings: Mapping[str, str], keys: training_data.Keys
) -> dict[str, str | None]:
    """Returns, for every fold, the first model that has seen nothing of its test part, or None.

    Warns of models that have seen something of a validation part. A fold that sets the number of
    epochs of another one must not have seen the test part of that either.
    """
    rows = [
        Utterance(id_, file="", speaker=speaker)
        for id_, speaker in zip(protocol.ids, protocol.speakers, strict=True)
    ]
    known = {
        name: np.isin(protocol.ids, list(training_data.seen_ids(rows, recordings, seen, keys)))
        for name, seen in source.trained_on.items()
    }
    chosen, validated = {}, []
    for fold in protocol.folds:
        tests = np.concatenate([each.test for each in _tested_by(fold, protocol.folds)])
        chosen[fold.name] = next((name for name in known if not known[name][tests].any()), None)
        if chosen[fold.name] and known[chosen[fold.name]][fold.validation].any():
            validated.append(fold.name)
    if validated:
        log.warning(
            "note: %s (fold %s): the model that training starts from has seen recordings or"
            " speakers of the validation part: validation scores are optimistic",
            *(counted(len(validated), "fold"), ", ".join(validated[:5])),
        )
    return chosen


def _tested_by(fold: Fold, folds: Sequence[Fold]) -> list[Fold]:
    """Returns the fold, and those that take their number of epochs from it."""
    return [fold, *(other for other in folds if other.epochs_from == fold.name)]


def _architecture(config: Config) -> dict[str, Any]:
    """Returns what must be equal for parameters to mean the same."""
    model = {key: value for key, value in config.model.to_dict().items() if key not in _FREE}
    features = dataclasses.asdict(setup.logmel_settings(config))
    if build.uses_embeddings(config):
        features |= {key: config.features[key] for key in _OF_EMBEDDINGS}
    else:
        features |= dict.fromkeys(_OF_EMBEDDINGS, "no embeddings")
    return {"system": config.system, "model": model, "features": features}
