"""`ser-jax predict --timeline`: many recordings in turn, each written as soon as it is done."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.features.pcm import BadAudio
from ser_jax.prediction import batch, predictions_table, timeline_files
from ser_jax.prediction.batch import Row, Source
from ser_jax.prediction.ensemble import NO_SPEECH, Decision
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.timeline import Plan, Timeline, follow, make_plan
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted, progress

log = logging.getLogger(__name__)

Place = tuple[Path, str]  # a file and its format


def output_places(sources: Sequence[Source], output: Path | None, form: str) -> list[Place | None]:
    """Decides where every timeline goes, before any work is done.

    Args:
      sources: The recordings, and rows of lists that name none.
      output: A file for a single recording, else a folder, which is made; None: nothing is written.
      form: Format of the files in a folder, "" for CSV; of a single file its end decides.

    Returns:
      A place for each source, None for those without a file. Names are those of the recordings,
      from the folder on that all have in common, and for a span `#start-end`.

    Raises:
      UserError: If the format is not known or does not fit the file, or nothing can be written
        there.
    """
    if form and form not in timeline_files.SUFFIXES:
        raise UserError(
            f"--format={form} is not known; choose one of {', '.join(timeline_files.SUFFIXES)}"
        )
    if output is None:
        if form:
            raise UserError(f"--format={form} needs a place: name a file or folder with --output")
        return [None] * len(sources)
    ending = timeline_files.format_of(output)
    if len(sources) == 1 and not output.is_dir() and (ending or output.suffix):
        ending = timeline_files.known_format(output)
        if form not in ("", ending):
            raise UserError(
                f"--output={output} is no {form} file; leave --format out, or let it say {ending}"
            )
        timeline_files.check_writable(output.parent)
        return [(output, ending)]
    if output.is_file() or ending:
        raise UserError(
            f"--output={output} is one file for {counted(len(sources), 'recording')}; name a"
            " folder for them"
        )
    timeline_files.check_writable(output if output.is_dir() else output.parent)
    places = _in_folder(sources, output, form or "csv")
    there = [place[0] for place in places if place and os.path.lexists(place[0])]
    if there:  # They may be timelines of other models or other recordings of the same names.
        raise UserError(
            f"--output={output}: {len(there)} of the files to write are there already (such as"
            f" {there[0].name}); name another folder, or delete them"
        )
    return places


def run(
    predictor: Predictor,
    sources: Sequence[Source],
    places: Sequence[Place | None],
    plan: Plan,
    decision: Decision,
) -> Iterator[tuple[Row, Timeline | None]]:
    """Follows every recording; what cannot be used becomes a row with its reason.

    Yields:
      For each source its row, and its timeline if it has none of the `places` to be written to.

    Raises:
      UserError: If a file cannot be written.
    """
    log.info("%s follows %s", predictor.description, counted(len(sources), "recording"))
    with progress("timelines", len(sources), "recordings") as advance:
        for source, place in zip(sources, places, strict=True):
            if isinstance(source, Rejection):
                row = Row(source.file, line=source.line, reason=source.reason, detail=source.detail)
                yield row, None
                continue
            span = source.file, source.start, source.end
            done = 0.0  # fraction of the recording

            def note(seconds: float, total: float) -> None:
                nonlocal done
                done += seconds / total
                advance(seconds / total, f"({done * total:.0f} of {total:.0f} s)")

            try:
                found = follow(predictor, source, plan, decision, note)
            except (BadAudio, UserError) as error:
                bad = error if isinstance(error, BadAudio) else error.__cause__
                if not isinstance(bad, BadAudio):
                    raise
                yield Row(*span, reason=bad.reason, detail=bad.detail), None
            else:
                if place is not None:
                    path, form = place
                    path.parent.mkdir(parents=True, exist_ok=True)
                    timeline_files.write(path, form, found)
                row = Row(*span, seconds=found.seconds, flags=found.flags, answer=found.answer)
                yield row, None if place else found
            advance(1 - done)


def text(timeline: Timeline) -> str:
    """Returns a line per row: its time, label, and the probabilities of its window."""
    classes, lines = timeline.decision.classes, []
    width = max(map(len, (*classes, predictions_table.ABSTAINS)))
    rows = zip(timeline.times, timeline.answers, timeline.window, strict=True)
    for (start, end), label, shares in rows:
        listed = "  ".join(f"{name} {p:.3f}" for name, p in zip(classes, shares, strict=True))
        answer = f"{label or predictions_table.ABSTAINS:<{width}}  {listed}"
        answer = label if label == NO_SPEECH else answer
        lines.append(f"  {start:8.2f} {end:8.2f} s  {answer}")
    return "\n".join(lines)


def _in_folder(sources: Sequence[Source], folder: Path, form: str) -> list[Place | None]:
    """Names without their ends, or with them if two would be the same otherwise."""
    found = [source for source in sources if isinstance(source, Utterance)]
    files = [os.path.abspath(source.file) for source in found]
    common = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    names = [PurePath(os.path.relpath(file, common)) for file in files]
    spans = [_span(source) for source in found]
    short = [f"{name.with_suffix('')}{span}" for name, span in zip(names, spans, strict=True)]
    long = [f"{name}{span}" for name, span in zip(names, spans, strict=True)]
    chosen = iter(short if len(set(short)) == len(short) else long)
    suffix = timeline_files.SUFFIXES[form]
    return [
        (folder / (next(chosen) + suffix), form) if isinstance(s, Utterance) else None
        for s in sources
    ]


def _span(source: Utterance) -> str:
    if source.start is None and source.end is None:
        return ""
    return f"#{source.start or 0.0}-{'end' if source.end is None else source.end}"


def run_command(
    model: Path,
    listed: Sequence[Source],
    output: Path | None,
    *,
    window: float | None,
    hop: float | None,
    form: str,
    classes: Sequence[str],
    threshold: float,
    strict: bool = False,
    channel: str = "",
    embedder: str = "",
    embeddings: str = "",
    enrol: str = "",
    vad: bool = False,
) -> int:
    """Follows every recording; prints its prediction, and its timeline if that is not written.

    Arguments are those of the command, and its recordings `listed`; windows and their hop in s.
    Returns the exit code.

    Raises:
      UserError: If nothing can be done, or no recording can be used (`strict`: not all can).
    """
    places = output_places(listed, output, form)
    predictor = Predictor(model, channel=channel, vad=vad, embedder=embedder, embeddings=embeddings)
    predictor = batch.enrolled(predictor, enrol)
    decision = predictor.decision(classes, threshold)
    plan = make_plan(predictor, window, hop)
    rows = []
    for row, timeline in run(predictor, listed, places, plan, decision):
        rows.append(row)
        print(predictions_table.text([row]))
        if timeline is not None:
            print(text(timeline), flush=True)
    if last := predictions_table.summary(rows, output):
        print(last, flush=True)
    batch.check_usable(rows, strict=strict)
    return 0
