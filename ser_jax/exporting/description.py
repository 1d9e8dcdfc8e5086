"""What an exported file says about itself."""

from typing import Any

from ser_jax import __version__
from ser_jax.config import Config
from ser_jax.features.audio import SAMPLE_RATE
from ser_jax.models import build
from ser_jax.prediction.members import Members

SCHEMA = 1
OPENSMILE = (
    "Made with openSMILE: its audEERING Research License allows non-commercial use only, and that extends to this "
    "model."
)
CORPUS = "The licence of the corpus may limit what models trained on it may be used for."


def licence_notes(config: Config) -> list[str]:
    """Returns what the licences of others say about models of this kind."""
    return [OPENSMILE, CORPUS] if build.uses_hsf(config) else [CORPUS]


def describe(found: Members, results: dict[str, Any]) -> dict[str, Any]:
    """Returns what a program that loads the models needs to know of them.

    Args:
      found: The models.
      results: Content of the run's `results.json`.
    """
    models = [
        {"name": name, **{key: model.description[key] for key in ("fold", "seed", "temperature")}}
        for name, model in zip(found.names, found.models, strict=True)
    ]
    return {
        "schema": SCHEMA,
        "ser_jax": __version__,
        "system": found.config.system,
        "classes": list(found.classes),
        "sample_rate": SAMPLE_RATE,
        "functionals": "ComParE_2016" if build.uses_hsf(found.config) else None,
        **{key: results[key] for key in ("corpus", "corpus_sha256", "protocol", "protocol_sha256")},
        "models": models,
        "licence": licence_notes(found.config),
    }
