"""The command that trains a run again, from its configuration."""

import functools
import json
import shlex
from typing import Any

from ser_jax.config import NEUTRAL_KEYS, Config, get_config, packaged_file, presets, read_file


def train_command(config: Config, **changes: str) -> str:
    """Returns `ser-jax train` with the preset that is nearest, and the keys that differ from it.

    Keys that change no result are left out, but for the place of the recordings. `changes` are
    further keys, with `_` for the dot: `protocol_name="auto"`.
    """
    values = _flat(config)
    bases = _presets()
    best = min(bases, key=lambda name: len(_differences(values, bases[name])), default="")
    differ = _differences(values, bases[best] if best else _flat(get_config()))
    differ |= {name.replace("_", ".", 1): value for name, value in changes.items()}
    words = [f"--config={best}"] if best else []
    words += [f"--config.{key}={_text(value)}" for key, value in differ.items()]
    return " \\\n  ".join(["ser-jax train", *map(shlex.quote, words)])


@functools.cache
def _presets() -> dict[str, dict[str, Any]]:
    """Returns the values of every packaged preset, by name; reading them takes a while."""
    return {name: _flat(read_file(str(packaged_file(name)))) for name in presets()}


def _flat(config: Config) -> dict[str, Any]:
    """Returns every value by its dotted key, as JSON has it."""
    values = json.loads(config.to_json())
    sections = {name: value for name, value in values.items() if isinstance(value, dict)}
    flat = {name: value for name, value in values.items() if name not in sections}
    for section, found in sections.items():
        flat |= {f"{section}.{name}": value for name, value in found.items()}
    return flat


def _differences(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    kept = (key for key in values if key == "corpus.root" or key not in NEUTRAL_KEYS)
    return {key: values[key] for key in kept if values[key] != base.get(key)}


def _text(value: Any) -> str:
    """Returns a value as the command line takes it."""
    return str(tuple(value)) if isinstance(value, list) else str(value)
