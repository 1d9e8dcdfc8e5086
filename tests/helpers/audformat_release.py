"""Small audformat databases, made with the library, with the tables of published ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LABELS = ("anger", "happiness", "neutral", "sadness")


def filewise_rows(
    speakers: Sequence[int] = (3, 8, 9, 10), per_label: int = 2
) -> list[tuple[str, str, int]]:
    """Returns (file, label, speaker): every speaker with every label `per_label` times."""
    return [
        (f"wav/{speaker:02}{label[0]}{number}.wav", label, speaker)
        for speaker in speakers
        for label in LABELS
        for number in range(per_label)
    ]


def new_database(labels: Sequence[str] = LABELS) -> Any:
    """Returns an empty database with the scheme emotion."""
    import audformat

    database = audformat.Database("tiny", source="made up", usage="unrestricted")
    database.schemes["emotion"] = audformat.Scheme(labels=list(labels))
    return database


def add_table(
    database: Any,
    name: str,
    index: Any,
    columns: Mapping[str, Sequence[Any]],
    *,
    split: str = "",
    schemes: Mapping[str, str] | None = None,
) -> None:
    """Adds a table; a column is of the scheme of its name, or of `schemes`, if there is one."""
    import audformat

    if split and split not in database.splits:
        database.splits[split] = audformat.Split(type=split)
    of_split: dict[str, Any] = {"split_id": split} if split else {}
    database[name] = audformat.Table(index, **of_split)
    for column, values in columns.items():
        scheme = (schemes or {}).get(column, column)
        known: dict[str, Any] = {"scheme_id": scheme} if scheme in database.schemes else {}
        database[name][column] = audformat.Column(**known)
        database[name][column].set(list(values))


def emodb_like(rows: Sequence[tuple[str, str, int]]) -> Any:
    """Returns a database like emodb 1.4.1: labels, speakers, and labels again per split."""
    import audformat

    database = new_database()
    people = {who: {"gender": "?"} for _, _, who in rows}
    database.schemes["speaker"] = audformat.Scheme(labels=people)
    index = audformat.filewise_index([file for file, _, _ in rows])
    add_table(database, "emotion", index, {"emotion": [label for _, label, _ in rows]})
    add_table(database, "files", index, {"speaker": [who for _, _, who in rows]})
    speakers = sorted({who for _, _, who in rows})
    for split, members in (("train", speakers[:-1]), ("test", speakers[-1:])):
        some = [row for row in rows if row[2] in members]
        index = audformat.filewise_index([file for file, _, _ in some])
        labels = {"emotion": [label for _, label, _ in some]}
        add_table(database, f"emotion.categories.{split}.gold_standard", index, labels, split=split)
    return database


def save(database: Any, root: Path, *, audio: bool = True, storage: str = "parquet") -> Path:
    """Writes a database and empty recordings for its files, and returns the root."""
    database.save(str(root), storage_format=storage)
    for file in database.files if audio else ():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root
