"""Many recordings: extracted in parallel, scored in batches of like length; what is bad is told, the rest is done."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from ser_jax import cache, machinery, systems
from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.errors import UserError
from ser_jax.features.extract import Features, extract
from ser_jax.prediction.network import Values
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.rule import Answer, Rule
from ser_jax.prediction.sources import Source

PORTION = 2000  # recordings whose features are in memory together: about 160 MB at 5 s each

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the output.

    Attributes:
      file: Path of the recording; that of the list for a row that names none.
      start: Start of the span in s, or None.
      end: End of the span in s, or None.
      line: Line of the list for a row that names none, else None.
      seconds: Length of what was heard; None for what cannot be used.
      answer: What is said; None for what cannot be used.
      reason: Short fixed name of why it cannot be used; empty where it can.
      detail: What was found, for a person.
    """

    file: str
    start: float | None = None
    end: float | None = None
    line: int | None = None
    seconds: float | None = None
    answer: Answer | None = None
    reason: str = ""
    detail: str = ""


def predict(predictor: Predictor, sources: Sequence[Source], rule: Rule) -> list[Row]:
    """Predicts for many recordings. Features come from the store in the cache folder, and new ones go there.

    Args:
      predictor: The models.
      sources: The recordings, and rows of lists that name none.
      rule: How probabilities become answers.

    Returns:
      A row for each source, in their order.

    Raises:
      UserError: If the store cannot be used or worker processes die twice.
    """
    log.info("%s predicts for %d recordings", predictor.description, len(sources))
    rows = []
    for first in range(0, len(sources), PORTION):
        rows += _portion(predictor, sources[first : first + PORTION], rule)
        if len(sources) > PORTION:
            log.info("%d of %d recordings are done", len(rows), len(sources))
    return rows


def check_usable(rows: Sequence[Row]) -> None:
    """Raises `UserError` if there is no answer at all."""
    if all(row.answer is None for row in rows):
        first = rows[0]
        raise UserError(
            f"none of {len(rows)} recordings can be used, for example {first.file}: {first.reason} ({first.detail}); "
            f"mend them or name others"
        )


def _portion(predictor: Predictor, sources: Sequence[Source], rule: Rule) -> list[Row]:
    utterances = tuple(source for source in sources if isinstance(source, Utterance))
    features, rejected = _extract(predictor, utterances)
    heard = {} if features is None else _answers(predictor, features, rule)
    bad = dict(zip((u.id for u in utterances if u.id not in heard), rejected, strict=True))
    rows = []
    for source in sources:
        if isinstance(source, Rejection):
            rows.append(Row(source.file, line=source.line, reason=source.reason, detail=source.detail))
        elif source.id in heard:
            seconds, answer = heard[source.id]
            rows.append(Row(source.file, source.start, source.end, seconds=seconds, answer=answer))
        else:
            why = bad[source.id]
            rows.append(Row(source.file, source.start, source.end, reason=why.reason, detail=why.detail))
    return rows


def _extract(predictor: Predictor, utterances: tuple[Utterance, ...]) -> tuple[Features | None, list[Rejection]]:
    """Features of the usable recordings, None if there are none; rejections of the others in their order."""
    rejected: list[Rejection] = []
    config = predictor.config
    try:
        features = extract(
            Corpus("recordings", Path(), utterances, "", {}),
            machinery.logmel_settings(config),
            log_mel=systems.uses_log_mel(config),
            hsf=systems.uses_hsf(config),
            waves=systems.uses_wave(config),
            store_root=cache.cache_folder() / "features",
            max_seconds=config.features.max_seconds,
            max_bad_share=1.0,
            workers=0,
            on_rejected=rejected.extend,
        )
    except UserError:
        if len(rejected) < len(utterances):
            raise
        return None, rejected  # None is usable: every one of them is told why.
    return features, rejected


def _answers(predictor: Predictor, features: Features, rule: Rule) -> dict[str, tuple[float, Answer]]:
    """Id → length in s and answer."""
    values = Values(features.log_mel, features.hsf, features.waves)
    answers = rule.answers(predictor.probabilities(values))
    heard = zip(features.utterances, features.seconds.tolist(), answers, strict=True)
    return {utterance.id: (seconds, answer) for utterance, seconds, answer in heard}
