"""The tables that `python -m ser_jax.reproduce` makes: which systems, trained how, beside which published figures.

Published figures are those of Luo, Zou and Huang (Interspeech 2018), tables 1 and 2, in percent.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Column:
    """A score.

    Attributes:
      title: As the table has it.
      score: Key of `results.json`: wa or ua.
      fold: The fold that is scored; empty: all folds pooled.
    """

    title: str
    score: str
    fold: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A system.

    Attributes:
      title: As the table has it.
      preset: Its file in `configs/`, without suffix.
      published: Per column the published figure in percent, or None.
      cpu: Overrides that shorten it where there is no accelerator; what they give is not comparable.
    """

    title: str
    preset: str
    published: tuple[float | None, ...]
    cpu: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      title: Its heading.
      corpus: Name of the corpus reader.
      columns: The scores.
      rows: The systems.
      overrides: What every row is trained with, as `KEY=VALUE`.
      deviations: How all rows differ from what was published, in sentences.
    """

    title: str
    corpus: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    overrides: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()


SILENT = (
    "The paper names no optimiser, batch size, number of epochs, initialisation and validation part; they are those of "
    "the presets (README, “Where the paper is silent”)."
)
# One epoch of it costs about 3 TFLOP on EMO-DB, far more on the others.
SHORT_END2YOU = ("protocol.seeds=1", "training.epochs=2")

TABLES = {
    "1": Table(
        title="Table 1 of Luo, Zou and Huang (2018): IEMOCAP",
        corpus="iemocap",
        columns=(Column("WA", "wa"), Column("UA", "ua")),
        rows=(
            Row("Plain CRNN", "plain_crnn", (56.54, 56.42)),
            Row("Multi-CRNN", "multi_crnn", (57.53, 58.06)),
            Row("HSF-CRNN", "hsf_crnn", (60.35, 63.98)),
        ),
        deviations=(
            SILENT,
            "The paper has 5498 turns, of which 5507 can be named (`--config.protocol.name=iemocap-5507-session5`); "
            "the default is the usual 5531.",
            "The paper says four sessions train and one tests; here one of the four validates.",
        ),
    ),
    "2": Table(
        title="Table 2 of Luo, Zou and Huang (2018): ComParE 2018 Atypical Affect",
        corpus="emotass",
        columns=(Column("devel UA", "ua", "devel"), Column("test UA", "ua", "test")),
        rows=(
            Row("End2You, baseline [20]", "end2you", (41.8, 28.0), SHORT_END2YOU),
            Row("Plain CRNN", "plain_crnn", (29.37, None)),
            Row("Multi-CRNN", "multi_crnn", (30.65, None)),
            Row("HSF-CRNN", "hsf_crnn", (32.45, 35.795)),
        ),
        deviations=(
            SILENT,
            "28.0 is the end-to-end baseline of the challenge, not its best one.",
            "Speakers are not published: intervals and tests are by utterance.",
        ),
    ),
    "emodb": Table(
        title="EMO-DB, four classes",
        corpus="emodb",
        columns=(Column("UA", "ua"), Column("WA", "wa")),
        rows=(
            Row("SVM on functionals", "svm", (None, None)),
            Row("End2You", "end2you", (None, None), SHORT_END2YOU),
            Row("Plain CRNN", "plain_crnn", (None, None)),
            Row("Multi-CRNN", "multi_crnn", (None, None)),
            Row("HSF-CRNN", "hsf_crnn", (None, None)),
        ),
        overrides=("training.class_weights=balanced", "training.epochs=40"),
        deviations=("EMO-DB is no corpus of the paper: there is no published figure of these systems for it.",),
    ),
}
