"""What `python -m ser_jax.predict --timeline` does with its flags."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ser_jax.prediction import batch, sources, table, timeline_run
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.timeline import make_plan


@dataclasses.dataclass(frozen=True)
class Asked:
    """Flags of the command, as given.

    Attributes:
      window: Seconds, or None.
      hop: Seconds, or None.
      form: Format of files in a folder, or "".
      classes: Classes to choose from; none: all.
      threshold: Smallest probability with which a class is named.
    """

    window: float | None
    hop: float | None
    form: str
    classes: Sequence[str]
    threshold: float


def perform(model: Path, arguments: Sequence[str], output: Path | None, asked: Asked) -> int:
    """Follows every recording named; prints what is said about each, and its timeline if that is not written.

    Args:
      model: Run directory.
      arguments: Recordings, folders and lists.
      output: Where to write, or None.
      asked: The other flags.

    Returns:
      The exit code.

    Raises:
      UserError: If nothing can be done, or no recording can be used.
    """
    listed = sources.find(arguments)
    places = timeline_run.places(listed, output, asked.form)
    predictor = Predictor(model)
    rule = predictor.rule(asked.classes, asked.threshold)
    plan = make_plan(predictor, asked.window, asked.hop)
    rows = []
    for row, timeline in timeline_run.run(predictor, listed, places, plan, rule):
        rows.append(row)
        print(table.text([row]))
        if timeline is not None:
            print(timeline_run.text(timeline, rule), flush=True)
    if output is not None:
        print(table.summary(rows, output))
    batch.check_usable(rows)
    return 0
