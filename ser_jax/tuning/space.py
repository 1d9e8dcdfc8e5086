"""The search space: which values each configuration key may take, from a TOML file."""

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ser_jax.config import Config
from ser_jax.runtime.errors import UserError

DEFAULT = Path(__file__).with_name("space.toml")
# Another corpus or protocol would be another task, whose scores do not compare.
FIXED = ("corpus", "protocol")


@dataclasses.dataclass(frozen=True)
class Choices:
    """A key that takes one of several values; a list is one, such as those of `model.widths`."""

    values: tuple[Any, ...]

    def suggest(self, trial: Any, key: str) -> Any:
        """Lets an Optuna trial choose; it keeps the choice as JSON."""
        return trial.suggest_categorical(key, [json.dumps(value) for value in self.values])

    def value(self, kept: str) -> Any:
        """Returns the value of what `suggest` has returned."""
        found = json.loads(kept)
        return tuple(found) if isinstance(found, list) else found


@dataclasses.dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included; `log`: evenly in its logarithm."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Any, key: str) -> Any:
        """Lets an Optuna trial choose; whole numbers where both ends are."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = 1 if self.step is None else self.step
            return trial.suggest_int(key, self.low, self.high, step=step, log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def value(self, kept: float) -> float:
        """Returns the value of what `suggest` has returned: the same."""
        return kept


Space = Mapping[str, Choices | Range]


def read(path: Path, config: Config) -> Space:
    """Reads a search space; every value that it names must fit the configuration.

    Raises:
      UserError: If the file is not there or no TOML, names no key, an unknown one or one that makes
        another task, or a value is of another type.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"--space={path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"--space={path} is no TOML: {error} (docs/tune.md has examples)") from None
    flat = _flatten(found, config)
    if not flat:
        raise UserError(f"--space={path} names no key: nothing would be searched (docs/tune.md)")
    space = {key: _entry(path, key, value) for key, value in flat.items()}
    for key, entry in space.items():
        ends = entry.values if isinstance(entry, Choices) else (entry.low, entry.high)
        if key.partition(".")[0] in FIXED:
            raise UserError(f"--space={path}: {key} makes another task; set it by --config.{key}=")
        for value in ends:
            fixed = tuple(value) if isinstance(value, list) else value
            apply(config, {key: fixed}, f"--space={path}: {key}: ")
    return space


def _flatten(found: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Returns the entries by dotted keys: `"training.ema" = …` is `[training]` with `ema = …`."""
    flat = {}
    for name, value in found.items():
        if isinstance(value, Mapping) and hasattr(config.get(name), "items"):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _entry(path: Path, key: str, value: Any) -> Choices | Range:
    if isinstance(value, list) and len(value) > 1:
        return Choices(tuple(value))
    try:
        if not isinstance(value, dict):
            raise TypeError
        entry = Range(**value)
        steps = entry.step is None or (entry.step > 0 and not entry.log)
        if entry.low < entry.high and steps and (entry.low > 0 or not entry.log):
            return entry
    except TypeError:  # Not a table, another name in it, or not numbers.
        pass
    raise UserError(
        f"--space={path}: {key} = {value!r} is neither a list of two or more values nor"
        " { low = …, high = … } with low below high, and log = true (low above 0) or step = …"
    )


def apply(config: Config, values: Mapping[str, Any], place: str = "") -> Config:
    """Returns the configuration with other values of some keys, locked.

    Raises:
      UserError: If a key is unknown or a value of another type; it begins with `place`.
    """
    changed = config.copy_and_resolve_references()
    try:
        changed.update_from_flattened_dict(dict(values))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{place}{text} (every key is listed in ser_jax/config.py)") from None
    return changed.lock()
