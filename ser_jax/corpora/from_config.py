"""The corpus that a configuration names, and `rejected.csv`: the inputs that cannot be used."""

import collections
import csv
import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from ser_jax.config import Config
from ser_jax.corpora import file_names, joined, labels, span_times
from ser_jax.corpora.registry import read_corpus
from ser_jax.corpora.release_files import Unusable, following_links
from ser_jax.corpora.span_times import LengthOf
from ser_jax.corpora.table import Corpus, Rejection
from ser_jax.runtime import files
from ser_jax.runtime.errors import UserError

MAJORITY = "majority"
RATERS = ("none", MAJORITY)  # values of corpus.raters

log = logging.getLogger(__name__)

HEADER = ("file", "line", "reason", "detail")


def read(config: Config, rejected: Path, length_of: LengthOf) -> Corpus:
    """Reads the corpus that a configuration names; raises a `UserError` if it cannot be used.

    The rows that it is refused for are written to the file `rejected`; if it is not refused,
    `Corpus.rejected` is left to the caller. `length_of`: see `span_times`.
    """
    try:
        return read_listed(config, length_of, allow_missing=config.corpus.allow_missing)
    except Unusable as error:
        if not error.rejected:
            raise
        try:
            list_rejected(rejected, error.rejected)
        except UserError as failure:
            raise UserError(f"{error}; {failure}") from None
        raise UserError(f"{error}; all {len(error.rejected)} are listed in {rejected}") from None


def read_listed(config: Config, length_of: LengthOf, *, allow_missing: bool) -> Corpus:
    """Does the same without the file; raises `Unusable` with the rows."""
    c = config.corpus
    mapped = labels.parse(c.labels)
    if c.raters not in RATERS:
        raise UserError(f"corpus.raters={c.raters!r} is not known; choose {' or '.join(RATERS)}")
    corpora = {}
    for part in joined.parts(c.name, c.root, c.manifest):
        with following_links(c.follow_links):
            corpus = read_corpus(
                *(part.name, part.root),
                manifest=part.manifest,
                allow_missing=allow_missing,
                # Of joined corpora it is for those that take one.
                pattern=c.pattern if part.name == file_names.NAME or not part.prefix else "",
                raters=mapped if c.raters == MAJORITY else None,
            )
        corpora[part.prefix] = span_times.in_seconds(corpus, length_of)
    if len(corpora) == 1:
        (corpus,) = corpora.values()
        corpus = labels.relabel(corpus, mapped)
    else:
        corpus = joined.common_classes(labels.relabel(joined.join(c.name, corpora), mapped))
    return dataclasses.replace(corpus, warnings=(*_languages(corpus), *corpus.warnings))


def _languages(corpus: Corpus) -> list[str]:
    """Returns a sentence if the recordings are in several languages."""
    spoken = collections.Counter(dict(row.attributes).get("language") for row in corpus.utterances)
    counts = ", ".join(f"{name} {count}" for name, count in spoken.most_common() if name)
    return [f"recordings are in several languages: {counts}"] if counts.count(",") else []


def log_warnings(corpus: Corpus) -> None:
    """Tells the user what the reader of a corpus assumed and rejected."""
    for warning in corpus.warnings:
        log.warning("note: %s", warning)


def rejected_list(folder: Path) -> Path:
    """Returns where a list goes if the corpus is refused: not over that of an earlier run."""
    used = (folder / "protocol.json").exists() or (folder / "results.json").exists()
    return folder.with_name(f"{folder.name}-rejected.csv") if used else folder / "rejected.csv"


def list_rejected(path: Path, rows: Sequence[Rejection]) -> None:
    """Writes `rejected.csv` and makes its folder; raises a `UserError` if that is impossible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rejected(path, rows)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def write_rejected(path: Path, rejections: Iterable[Rejection]) -> None:
    """Writes the list; without rejections the file holds the header alone."""
    files.write_csv(
        path, HEADER, ((row.file, row.line, row.reason, row.detail) for row in rejections)
    )


def read_rejected(path: Path) -> list[Rejection]:
    """Reads what `write_rejected` wrote; raises a `UserError` if the file is no such list."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        try:
            if tuple(next(lines, ())) != HEADER:
                raise ValueError
            return [
                Rejection(name, int(line) if line else None, reason, detail)
                for name, line, reason, detail in (map(files.cell_text, row) for row in lines)
            ]
        except (ValueError, csv.Error):
            raise UserError(
                f"{path} is not the list {','.join(HEADER)}; delete it and run the command again"
            ) from None
