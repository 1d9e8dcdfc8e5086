"""What the report shows beyond the predictions: recordings, joint representations and saliency, as plain arrays."""

import collections
import dataclasses
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ser_jax.evaluation.predictions import Prediction

MOST_EXAMPLES = 8  # utterances whose saliency is drawn
MOST_OF_FOLD = 2  # of them: one model that is always sure would fill the page


class Recording(NamedTuple):
    """Where an utterance is heard.

    Attributes:
      file: Path on this machine.
      seconds: Length of the utterance.
      start: Start of the span in s, or None for the beginning of the file.
      end: Its end in s, or None for the end of the file.
    """

    file: Path
    seconds: float
    start: float | None = None
    end: float | None = None


class View(NamedTuple):
    """Test utterances of one fold as a model sees them that has not been trained on them.

    Attributes:
      fold: Name of the fold.
      seed: Seed of the model.
      test: How many utterances the test part holds; not all of a large one are looked at.
      ids: Ids of n of them.
      values: [n, E] f64, joint representations.
      logits: [n, K] f64.
    """

    fold: str
    seed: int
    test: int
    ids: tuple[str, ...]
    values: np.ndarray
    logits: np.ndarray


class Example(NamedTuple):
    """An utterance, and what the logit of its predicted class depends on.

    Attributes:
      row: What the run says about it.
      frames: [F, M] f32, log-mel, standardised.
      saliency: [F, M] f32, |d logit / d frames| of the fold's model.
    """

    row: Prediction
    frames: np.ndarray
    saliency: np.ndarray


@dataclasses.dataclass(frozen=True)
class Inside:
    """What stands in the report only where recordings and models are at hand.

    Attributes:
      recordings: Id → recording, of every utterance of the protocol.
      views: One per fold; none if the system has no representation.
      examples: Utterances with their saliency; none if the system reads no spectrogram.
      hertz: [M] centre frequencies of the bands.
      hop: From one frame to the next, in s.
      no_views: Why there are no views, as a sentence; empty if there are.
      no_examples: Why there are no examples, as a sentence; empty if there are.
    """

    recordings: Mapping[str, Recording]
    views: tuple[View, ...] = ()
    examples: tuple[Example, ...] = ()
    hertz: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    hop: float = 0.0
    no_views: str = ""
    no_examples: str = ""


def choose_examples(rows: Sequence[Prediction], classes: Sequence[str]) -> list[Prediction]:
    """Returns the most telling predictions: of each class the surest right one and the surest wrong one.

    Args:
      rows: Predictions of one model per fold.
      classes: The K classes of the protocol.

    Returns:
      Class by class, right before wrong; of more than `MOST_EXAMPLES` the surest right and the surest wrong ones. No
      more than `MOST_OF_FOLD` are of one fold, unless the others have none of the kind.
    """
    half = MOST_EXAMPLES // 2
    chosen: list[Prediction] = []
    for answers in (True, False):
        kind = [row for row in rows if row.label and (row.prediction == row.label) == answers]
        surest = {row.label: row for row in sorted(kind, key=_doubt, reverse=True)}
        for name in sorted(surest, key=lambda name: _doubt(surest[name]))[:half]:
            found = sorted((row for row in kind if row.label == name), key=_doubt)
            folds = collections.Counter(row.fold for row in chosen)
            chosen.append(next((row for row in found if folds[row.fold] < MOST_OF_FOLD), found[0]))
    return sorted(chosen, key=lambda row: (classes.index(row.label), row.prediction != row.label))


def _doubt(row: Prediction) -> tuple[float, str]:
    return -max(row.probabilities), row.id


def link(recording: Recording | None, folder: Path) -> str | None:
    """Returns the relative address of a recording, as seen from a page in a folder.

    Args:
      recording: The recording, or None.
      folder: Folder of the page.

    Returns:
      The address, percent-encoded, with the span behind it; None if the file is not on this machine.
    """
    if recording is None or not recording.file.is_file():
        return None
    try:
        relative = Path(os.path.relpath(recording.file.absolute(), folder.absolute()))
    except ValueError:  # Windows: another drive.
        return None
    address = urllib.parse.quote(relative.as_posix())
    if recording.start is None and recording.end is None:
        return address
    return f"{address}#t={recording.start or 0:g}" + ("" if recording.end is None else f",{recording.end:g}")
