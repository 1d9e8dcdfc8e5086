"""Words and cells of a stress table, as the terminal, the page and the model card show them."""

from collections.abc import Mapping
from typing import Any

from ser_jax.report import formats
from ser_jax.runtime.progress import counted

COLUMNS = ("change", "label stays, %", "UA in %", "95 % interval", "drift")
LEFT_ALIGNED = ("change", "drift")


def cells(row: Mapping[str, Any]) -> list[str]:
    """Returns the cells of a row of `stress.json`."""
    drift = ""
    if row["drift"] is not None:
        before, now = (100 * row[key] for key in ("drift_before", "drift_share"))
        drift = f"{row['drift']} {before:.0f} → {now:.0f} %"
    limits = formats.interval(row["ua_ci95"])
    return [row["change"], formats.points(row["stays"]), formats.points(row["ua"]), limits, drift]


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Returns what a reader of a stress table must know, given `stress.json`."""
    known = found["labelled"]
    labelled = "" if known == found["recordings"] else f", {known or 'none'} of them with a label"
    said = [
        f"{found['system']} ({counted(found['models'], 'model')}) on"
        f" {counted(found['recordings'], 'recording')} of {found['corpus']}{labelled}."
    ]
    if found["training"]:
        said.append(
            "These are recordings that the models were trained on: UA is too high, and on others"
            " fewer labels may stay."
        )
    elif found["models"] > 1:
        said.append(
            "Each recording is scored by the models that were trained neither on it nor on its"
            " speaker (own corpus: by those of the fold that tests on it)."
        )
    if found["left_out"]:
        what = counted(found["left_out"], "recording")
        said.append(f"{what} left out: all models were trained on them or their speakers.")
    if found["rejected"]:
        said.append(f"{counted(found['rejected'], 'recording')} cannot be used.")
    if found["ci95_unit"]:
        units = counted(found["ci95_units"], found["ci95_unit"])
        said.append(f"Intervals by jackknife over {units}.")
    return said
