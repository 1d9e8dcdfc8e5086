"""Predictions for many recordings: finds them, extracts in parallel, scores batches of like length.

What cannot be used becomes a row with its reason, and the rest is done.
"""

import collections
import csv
import dataclasses
import io
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ser_jax.corpora import manifest, release_files, span_times
from ser_jax.corpora.release_files import BadRow
from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.experiment import setup
from ser_jax.features import audio, media
from ser_jax.features.extraction import CUT, Features, extract
from ser_jax.features.pcm import NO_SPEECH, BadAudio
from ser_jax.prediction import weights
from ser_jax.prediction.ensemble import Answer, Decision
from ser_jax.prediction.network import Values
from ser_jax.prediction.predictor import Predictor
from ser_jax.runtime import files, machine, strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

LISTS = (".csv", ".tsv", ".json")
# Columns with which a table of predictions begins, and those with which it ends.
PLACE = ("file", "start", "end", "line", "seconds")
WHY = ("reason", "detail")

log = logging.getLogger(__name__)

Source = Utterance | Rejection  # a recording, or a row of a list that names none


def find(arguments: Sequence[str]) -> list[Source]:
    """Lists the recordings to predict, in the order of the arguments and, in folders, of the names.

    A recording that is named twice is listed once. Hidden files and what does not look like audio
    are left out of folders, and counted. The paths of a list are relative to its folder and may
    not lead out of it; those of a table that `predict` has written are the files that it opened,
    wherever they are.

    Args:
      arguments: Files, folders, lists with the column `file` and, if there are such, `start` and
        `end` (seconds), and tables that `predict --output` has written.

    Returns:
      Recordings, whose `file` is a path as it is opened, and rows that name none.

    Raises:
      UserError: If an argument does not exist, a folder or list holds no recording, or a list is
        none.
    """
    if not arguments:
        raise UserError(
            "nothing to predict: name recordings, folders, or CSV lists with the column file"
        )
    found: dict[object, Source] = {}
    for argument in arguments:
        for source in _of_argument(Path(argument)):
            found.setdefault(source.id if isinstance(source, Utterance) else source, source)
    return list(found.values())


def _of_argument(path: Path) -> Iterator[Source]:
    if not os.path.exists(path):
        raise UserError(
            f"{path}: there is no such file or folder; name recordings, folders, or CSV lists"
        )
    if path.is_dir():
        yield from _in_folder(path)
    elif path.suffix.lower() in LISTS:
        table = _table(path)
        yield from _in_list(path) if table is None else _in_table(path, table)
    else:
        yield _recording(path)


def _in_folder(folder: Path) -> Iterator[Source]:
    count, passed_over, follow = 0, collections.Counter(), release_files.follows_links()
    visited = set()
    known = media.AUDIO + (media.SUFFIXES if media.installed() else ())
    for place, folders, names in os.walk(folder, followlinks=follow):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if os.path.islink(Path(place) / name)]
        passed_over["linked folders"] += 0 if follow else len(links)
        if follow and os.path.realpath(place) in visited:  # Links may lead in circles.
            folders.clear()
            continue
        visited.add(os.path.realpath(place))
        for name in sorted(names):
            if name.startswith("."):
                passed_over["hidden"] += 1
            elif name.lower().endswith(known):
                count += 1
                yield _recording(Path(place) / name)
            else:
                passed_over[Path(name).suffix.lower() or "without ending"] += 1
    left_out = sum(n for kind, n in passed_over.items() if kind in media.SUFFIXES)
    remedy = f"pip install 'ser_jax[media]' brings what reads {left_out} of its files"
    if not count:
        more = f"; {remedy}" if left_out else ""
        raise UserError(
            f"{folder} holds no recording, nor do its folders; files that end in {', '.join(known)}"
            f" are read{more}"
        )
    if kinds := ", ".join(f"{n} {kind}" for kind, n in passed_over.most_common() if n):
        log.warning("note: passed over in %s: %s", folder, kinds)
    if left_out:
        log.warning("note: %s", remedy)


def _table(path: Path) -> list[dict[str, Any]] | None:
    """Returns the rows of a table that `predict` has written; None: another list."""
    if path.suffix.lower() == ".json":
        remedy = "name recordings, folders, CSV lists or tables that predict has written"
        rows: Any = strict_json.read(path, remedy=remedy).get("predictions")
        known = {*PLACE, *WHY}
        listed = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        if not listed or not all(known <= row.keys() for row in rows):
            raise UserError(f"{path} holds no predictions: {remedy}")
        return rows
    text = io.StringIO(release_files.read_list(path), newline="")
    lines = csv.DictReader(text, restval="")
    try:
        names = tuple(lines.fieldnames or ())
        own = names[: len(PLACE)] == PLACE and names[-len(WHY) :] == WHY
        if not own:
            return None
        return [{key: files.cell_text(cell) for key, cell in row.items() if key} for row in lines]
    except csv.Error:
        return None


def _in_table(path: Path, rows: Sequence[dict[str, Any]]) -> Iterator[Source]:
    for number, row in enumerate(rows, start=2):
        try:
            start, end = (float(row[name]) if row[name] else None for name in ("start", "end"))
            if row["line"]:  # It named no recording then.
                yield Rejection(row["file"], int(row["line"]), row["reason"], row["detail"])
            else:
                yield _recording(_opened(path, row["file"]), start, end)
        except (TypeError, ValueError):
            yield Rejection(str(path), number, "bad line", "no row that predict has written")
    if not rows:
        raise UserError(f"{path} lists no recording; expected a row for each below the header")


def _opened(table: Path, file: str) -> Path:
    """Returns the file of a row: from the folder of the command, else from that of the table."""
    if "\0" in file:
        raise ValueError("a NUL character")
    name = files.file_name(file)
    return Path(name) if os.path.exists(name) else table.parent / name


def _in_list(path: Path) -> Iterator[Source]:
    found: list[Source] = []
    notes: list[str] = []
    listed = list(manifest.rows(path, ("file", "start", "end"), notes.append))
    for number, cells in manifest.relocated(path.parent, listed, notes.append):
        try:
            file, start, end = manifest.place(path.parent, cells, "the folder of the list")
        except BadRow as bad:
            found.append(Rejection(str(path), number, bad.reason, bad.detail))
        else:
            found.append(_recording(path.parent / file, start, end))
    if not found:
        raise UserError(f"{path} lists no recording; expected a row for each below the header")
    spans = [source for source in found if isinstance(source, Utterance)]
    rows, sentence = span_times.convert(Path(), spans, audio.length)
    for note in [*notes, *([sentence] if sentence else [])]:
        log.warning("note: %s: %s", path, note)
    converted = iter(rows)
    for source in found:
        yield next(converted) if isinstance(source, Utterance) else source


def _recording(path: Path, start: float | None = None, end: float | None = None) -> Utterance:
    name = os.fspath(path)
    return Utterance(id=f"{name}#{start}-{end}", file=name, start=start, end=end)


def enrolled(predictor: Predictor, place: str) -> Predictor:
    """Returns the predictor for the person whose recordings `place` holds; "": as it is.

    Recordings that cannot be used are left out with a warning.

    Raises:
      UserError: As `Predictor.enrolled`, or if there is no such folder, file or list.
    """
    if not place:
        if weights.not_enrolled(predictor.config):
            log.warning(
                "note: these models were scored with features normalised by speaker; without"
                " recordings of the person (--enrol=FOLDER) they answer as for strangers, which"
                " costs accuracy (docs/features.md)"
            )
        return predictor
    sources, usable, bad = find([place]), [], []
    limit, mix = predictor.config.features.max_seconds, predictor.enrolment_mix
    for source in sources:
        try:
            if isinstance(source, Rejection):
                raise BadAudio(source.reason, source.detail)
            span = source.start, source.end
            usable.append((audio.decode(source.file, *span, max_seconds=limit, mix=mix), source))
        except BadAudio as error:
            bad.append(f"{source.file}: {error}")
    if bad:
        of = counted(len(sources), "recording")
        log.warning("note: %d of %s of --enrol left out, such as %s", len(bad), of, bad[0])
    recordings, utterances = ([pair[n] for pair in usable] for n in (0, 1))
    return predictor.enrolled_with(recordings, utterances)


PORTION = 2000  # recordings whose features are in memory together: about 160 MB at 5 s each


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the output."""

    file: str  # path of the recording; that of the list for a row that names none
    start: float | None = None  # start of the span in s, or None
    end: float | None = None  # end of the span in s, or None
    line: int | None = None  # line of the list for a row that names none, else None
    seconds: float | None = None  # length of the recording or span; None for what cannot be used
    flags: tuple[str, ...] = ()  # what is odd about it although it is used, of `pcm.FLAGS`
    answer: Answer | None = None  # the prediction; None for what cannot be used
    reason: str = ""  # short fixed name of why it cannot be used; empty where it can
    detail: str = ""  # what was found, for a person


def predict(predictor: Predictor, sources: Sequence[Source], decision: Decision) -> list[Row]:
    """Predicts for many recordings; their features are kept in the store of the cache folder.

    Args:
      predictor: The models.
      sources: The recordings, and rows of lists that name none.
      decision: How probabilities become answers.

    Returns:
      A row for each source, in their order.

    Raises:
      UserError: If the store cannot be used or worker processes die twice.
    """
    log.info("%s predicts for %s", predictor.description, counted(len(sources), "recording"))
    rows = []
    for first in range(0, len(sources), PORTION):
        rows += _portion(predictor, sources[first : first + PORTION], decision)
        if len(sources) > PORTION:
            log.info("%d of %d recordings are done", len(rows), len(sources))
    return rows


def check_usable(rows: Sequence[Row], *, strict: bool = False) -> None:
    """Raises `UserError` if there is no answer at all; if `strict`, if one is missing."""
    bad = [row for row in rows if row.answer is None]
    if len(bad) == len(rows) or strict and bad:
        none = len(bad) == len(rows)
        every = counted(len(rows), "recording")
        count = f"none of {every} can" if none else f"{len(bad)} of {every} cannot"
        raise UserError(
            f"{count} be used, for example {bad[0].file}: {bad[0].reason} ({bad[0].detail}); mend"
            f" them or {'leave out --strict' if strict and not none else 'name others'}"
        )


def _portion(predictor: Predictor, sources: Sequence[Source], decision: Decision) -> list[Row]:
    utterances = tuple(source for source in sources if isinstance(source, Utterance))
    features, rejected = _extract(predictor, utterances)
    predicted = {} if features is None else _answers(predictor, features, decision)
    bad = dict(zip((u.id for u in utterances if u.id not in predicted), rejected, strict=True))
    rows = []
    for source in sources:
        if isinstance(source, Rejection):
            rows.append(
                Row(source.file, line=source.line, reason=source.reason, detail=source.detail)
            )
        elif source.id in predicted:
            seconds, flags, answer = predicted[source.id]
            place = source.file, source.start, source.end
            rows.append(Row(*place, seconds=seconds, flags=flags, answer=answer))
        elif bad[source.id].reason == "silent":  # Nothing to learn from, but an answer.
            rows.append(_silent(predictor, source, bad[source.id]))
        else:
            rows.append(refused(source, bad[source.id]))
    return rows


def _silent(predictor: Predictor, source: Utterance, why: Rejection) -> Row:
    """The row of a recording of zeros, or of one whose channels cancel out."""
    place, limit = (source.file, source.start, source.end), predictor.config.features.max_seconds
    try:
        found = audio.decode(*place, max_seconds=limit, mix=predictor.mix, silent=True)
    except BadAudio:
        return refused(source, why)
    return Row(*place, seconds=found.seconds, flags=found.flags, answer=Answer(NO_SPEECH, {}))


def refused(source: Utterance, why: Rejection) -> Row:
    """Returns the row of a recording that cannot be used."""
    more = "; --timeline follows recordings of any length" if why.reason == "too long" else ""
    place = source.file, source.start, source.end
    return Row(*place, reason=why.reason, detail=why.detail + more)


def _extract(
    predictor: Predictor, utterances: tuple[Utterance, ...]
) -> tuple[Features | None, list[Rejection]]:
    """Features of the usable recordings (None without any), and the rejections in their order."""
    rejected: list[Rejection] = []
    config = predictor.config
    try:
        features = extract(
            Corpus("recordings", Path(), utterances, "", {}),
            setup.logmel_settings(config),
            log_mel="logmel" in predictor.reads,
            hsf="hsf" in predictor.reads,
            feature_set=config.features.functionals,
            waves="wave" in predictor.reads,
            store_root=machine.feature_folder(),
            max_seconds=config.features.max_seconds,
            max_bad_share=1.0,
            workers=0,
            mix=predictor.mix,
            on_rejected=rejected.extend,
        )
    except UserError:
        if len(rejected) < len(utterances):
            raise
        return None, rejected  # none is usable: each has its rejection
    if cut := features.flagged.get(CUT):
        spans = counted(cut, "span is", "spans are")
        log.warning("note: %s %s; they are used up to it", spans, CUT)
    return features, rejected


def _answers(
    predictor: Predictor, features: Features, decision: Decision
) -> dict[str, tuple[float, tuple[str, ...], Answer]]:
    """Id → length in s, flags and answer."""
    values = Values(features.log_mel, features.hsf, features.waves)
    sounds = list(zip(features.facts, features.seconds.tolist(), strict=True))
    flags = [
        one if NO_SPEECH in one else one + outside
        for one, outside in zip(features.flags, predictor.outside(values, sounds), strict=True)
    ]
    probabilities = predictor.probabilities(values, utterances=features.utterances)
    answers = decision.answers(probabilities, flags)
    facts = zip(features.seconds.tolist(), flags, answers, strict=True)
    return dict(zip((utterance.id for utterance in features.utterances), facts, strict=True))
