"""`predict --timeline`: many recordings, one after the other, each written as soon as it is done."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.errors import UserError
from ser_jax.features.bad_audio import BadAudio
from ser_jax.prediction import timeline_files
from ser_jax.prediction.batch import Row
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.rule import Rule
from ser_jax.prediction.sources import Source
from ser_jax.prediction.timeline import Plan, Timeline, follow
from ser_jax.progress import progress

log = logging.getLogger(__name__)

Place = tuple[Path, str]  # a file and its format


def places(sources: Sequence[Source], output: Path | None, form: str) -> list[Place | None]:
    """Decides where every timeline goes, before any work is done.

    Args:
      sources: The recordings, and rows of lists that name none.
      output: A file for a single recording, else a folder, which is made; None: nothing is written.
      form: Format of the files in a folder, "" for CSV; of a single file its end decides.

    Returns:
      A place for each source, None for those without a file. Names are those of the recordings, from the folder on that
      all have in common, and for a span `#start-end`.

    Raises:
      UserError: If the format is not known or does not fit the file, or nothing can be written there.
    """
    if form and form not in timeline_files.SUFFIXES:
        raise UserError(f"--format={form} is not known; choose one of {', '.join(timeline_files.SUFFIXES)}")
    if output is None:
        if form:
            raise UserError(f"--format={form} needs a place: name a file or folder with --output")
        return [None] * len(sources)
    ending = timeline_files.format_of(output)
    if len(sources) == 1 and not output.is_dir() and (ending or output.suffix):
        if not ending:
            ends = ", ".join(timeline_files.SUFFIXES.values())
            raise UserError(f"--output={output}: a timeline ends in {ends}, which says what to write")
        if form not in ("", ending):
            raise UserError(f"--output={output} is no {form} file; leave --format out, or let it say {ending}")
        timeline_files.check_writable(output.parent)
        return [(output, ending)]
    if output.is_file() or ending:
        raise UserError(f"--output={output} is one file for {len(sources)} recordings; name a folder for them")
    timeline_files.check_writable(output if output.is_dir() else output.parent)
    return _in_folder(sources, output, form or "csv")


def run(
    predictor: Predictor, sources: Sequence[Source], places: Sequence[Place | None], plan: Plan, rule: Rule
) -> Iterator[tuple[Row, Timeline | None]]:
    """Follows every recording; what is bad is told, the rest is done.

    Args:
      predictor: The models.
      sources: The recordings.
      places: Where each timeline goes.
      plan: How recordings are followed.
      rule: How probabilities become answers.

    Yields:
      For each source what is said about all of it, and its timeline if it is not written.

    Raises:
      UserError: If a file cannot be written.
    """
    log.info("%s follows %d recordings", predictor.description, len(sources))
    with progress("timelines", len(sources), "recordings") as advance:
        for source, place in zip(sources, places, strict=True):
            if isinstance(source, Rejection):
                yield Row(source.file, line=source.line, reason=source.reason, detail=source.detail), None
                continue
            share = 0.0  # of the recording that is done

            def note(seconds: float, total: float) -> None:
                nonlocal share
                share += seconds / total
                advance(seconds / total, f"({share * total:.0f} of {total:.0f} s)")

            try:
                found = follow(predictor, source, plan, rule, note)
            except (BadAudio, UserError) as error:
                bad = error if isinstance(error, BadAudio) else error.__cause__
                if not isinstance(bad, BadAudio):
                    raise
                yield Row(source.file, source.start, source.end, reason=bad.reason, detail=bad.detail), None
            else:
                if place is not None:
                    path, form = place
                    path.parent.mkdir(parents=True, exist_ok=True)
                    timeline_files.write(path, form, found, rule, plan, predictor.description)
                row = Row(source.file, source.start, source.end, seconds=found.seconds, answer=found.answer)
                yield row, None if place else found
            advance(1 - share)


def text(timeline: Timeline, rule: Rule) -> str:
    """Returns a line per row of a timeline: its time, label, and the probabilities by the window."""
    lines = []
    for (start, end), label, shares in zip(timeline.times, timeline.answers, timeline.window, strict=True):
        listed = "  ".join(f"{name} {share:.3f}" for name, share in zip(rule.classes, shares, strict=True))
        lines.append(f"  {start:8.2f} {end:8.2f} s  {label or '(none)':<{max(map(len, rule.classes))}}  {listed}")
    return "\n".join(lines)


def _in_folder(sources: Sequence[Source], folder: Path, form: str) -> list[Place | None]:
    """Names without their ends, or with them if two would be the same otherwise."""
    found = [source for source in sources if isinstance(source, Utterance)]
    files = [os.path.abspath(source.file) for source in found]
    common = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    names = [PurePath(os.path.relpath(file, common)) for file in files]
    spans = ["" if source.start is None and source.end is None else _span(source) for source in found]
    short = [f"{name.with_suffix('')}{span}" for name, span in zip(names, spans, strict=True)]
    long = [f"{name}{span}" for name, span in zip(names, spans, strict=True)]
    chosen = iter(short if len(set(short)) == len(short) else long)
    suffix = timeline_files.SUFFIXES[form]
    return [(folder / (next(chosen) + suffix), form) if isinstance(s, Utterance) else None for s in sources]


def _span(source: Utterance) -> str:
    return f"#{source.start or 0.0}-{'end' if source.end is None else source.end}"
