"""Several corpora read as one: `corpus.name=ravdess+emodb`, with their folders in the same order.

Every id, speaker and session gets the name of its corpus in front, `emodb/wav/03a01Fa`, so that
none collide. A class that any corpus lacks is left out of all: it would tell the corpus, not the
emotion.
"""

import collections
import csv
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ser_jax.corpora import labels
from ser_jax.corpora.labels import KEY, LEFT_OUT
from ser_jax.corpora.table import Corpus
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

UNLABELLED = "utterance without a label is", "utterances without a label are"
PLUS = "+"  # between names in `corpus.name`


class Part(NamedTuple):
    """One of the corpora that a configuration names."""

    name: str  # its reader
    prefix: str  # of its ids, speakers and sessions, "" if it is the only one
    root: str  # its folder
    manifest: str  # where its labels are


def parts(name: str, root: str, manifest: str) -> list[Part]:
    """Splits `corpus.name`, `corpus.root` and `corpus.manifest` into those of the corpora.

    The folders are separated by commas; so are the manifests, unless one holds for all. A reader
    that is named again gets the prefix `name-2`.

    Raises:
      UserError: If there are not as many folders as names.
    """
    names = name.split(PLUS)
    if len(names) == 1:
        return [Part(name, "", root, manifest)]
    roots, manifests = (
        [each.strip() for each in next(csv.reader([text]), [])] for text in (root, manifest)
    )
    if len(manifests) == 1:
        manifests *= len(names)
    for key, found in (("root", roots), ("manifest", manifests)):
        if len(found) != len(names):
            raise UserError(
                f"corpus.name={name} joins {len(names)} corpora and corpus.{key} names"
                f" {len(found)} ({', '.join(found)}): name one for each, in the same order,"
                " separated by commas"
            )
    found, counts = [], collections.Counter()
    for each, folder, listed in zip(names, roots, manifests, strict=True):
        counts[each] += 1
        prefix = each if counts[each] == 1 else f"{each}-{counts[each]}"
        found.append(Part(each, f"{prefix}/", folder, listed))
    return found


def corpus_of(utterance_id: str) -> str:
    """Returns the prefix of an id of joined corpora, without its slash."""
    return utterance_id.partition("/")[0]


def join(name: str, corpora: Mapping[str, Corpus]) -> Corpus:
    """Joins corpora into one table; official partitions and published folds are dropped.

    Args:
      name: What the whole is called, `corpus.name`.
      corpora: Prefix → corpus.
    """
    folders = {prefix: os.path.abspath(corpus.root) for prefix, corpus in corpora.items()}
    root = os.path.commonpath(folders.values())
    rows, mapping, rejected, warnings, left_out = [], {}, [], [], {}
    for prefix, corpus in corpora.items():
        below = Path(os.path.relpath(folders[prefix], root)).as_posix()
        below = "" if below == "." else f"{below}/"
        unlabelled = sum(not row.label for row in corpus.utterances)
        if unlabelled:
            warnings.append(f"{prefix[:-1]}: {counted(unlabelled, *UNLABELLED)} left out")
        rows += [
            dataclasses.replace(
                row,
                id=prefix + row.id,
                file=below + row.file,
                speaker=row.speaker and prefix + row.speaker,
                session=row.session and prefix + row.session,
                split="",
                corpus=prefix[:-1],
            )
            for row in corpus.utterances
            if row.label
        ]
        mapping |= {prefix + old: new for old, new in corpus.label_mapping.items()}
        gone = labels.left_out(row for row in corpus.utterances if not row.label)
        left_out |= {below + file: why for file, why in {**corpus.left_out, **gone}.items()}
        rejected += [dataclasses.replace(row, file=below + row.file) for row in corpus.rejected]
        warnings += [f"{prefix[:-1]}: {warning}" for warning in corpus.warnings]
    return Corpus(
        name=name,
        root=Path(root),
        utterances=tuple(sorted(rows, key=lambda row: row.id)),
        protocol=f"{name}-speaker",
        label_mapping=mapping,
        rejected=tuple(rejected),
        warnings=tuple(warnings),
        modified=any(corpus.modified for corpus in corpora.values()),
        left_out=left_out,
        folders=tuple(map(Path, folders.values())),
    )


def common_classes(corpus: Corpus) -> Corpus:
    """Leaves out the labels that any of the joined corpora lacks; the warnings say which.

    Raises:
      UserError: If fewer than two labels are left.
    """
    found: dict[str, set[str]] = {}
    for row in corpus.utterances:
        found.setdefault(row.label, set()).add(row.corpus)
    every = set().union(*found.values())
    common = {label for label, where in found.items() if where == every}
    if len(common) < 2:
        listed = "; ".join(
            f"{name}: {', '.join(sorted(label for label in found if name in found[label]))}"
            for name in sorted(every)
        )
        raise UserError(
            f"corpus.name={corpus.name}: the corpora have {counted(len(common), 'label')} in"
            f" common, a classifier needs at least 2 ({listed}): map them with"
            f" {KEY}='theirs=ours,…'"
        )
    dropped = collections.Counter(row.label for row in corpus.utterances if row.label not in common)
    if not dropped:
        return corpus
    described = [
        f"{label} ({count}, not in {', '.join(sorted(every - found[label]))})"
        for label, count in sorted(dropped.items())
    ]
    sentence = f"labels that not all corpora have are left out: {'; '.join(described)}"
    gone = labels.left_out(row for row in corpus.utterances if row.label not in common)
    return dataclasses.replace(
        corpus,
        utterances=tuple(row for row in corpus.utterances if row.label in common),
        label_mapping={
            old: new if new in common else LEFT_OUT for old, new in corpus.label_mapping.items()
        },
        warnings=(sentence, *corpus.warnings),
        left_out={**corpus.left_out, **gone},
    )
