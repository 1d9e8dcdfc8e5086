"""The end-to-end baseline from recordings to a report, by the command."""

import pytest
import releases
from commands import ROOT, SPEAKERS, command, feature_store, read_json, read_table

CONFIG = str(ROOT / "configs" / "end2you.py")
# One fold of the preset, small enough to compile in seconds: an epoch, a tenth of the filters, two
# devices.
SMALL = (
    f"--config={CONFIG}",
    "--config.model.end2you_filters=4",
    "--config.model.end2you_pools=(2,2)",
    "--config.model.end2you_units=8",
    "--config.training.epochs=1",
    "--config.training.shapes=1",
    "--config.training.devices=2",
    f"--config.protocol.folds={SPEAKERS[0]}",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, str]:
    root = releases.write_emodb(
        tmp_path_factory.mktemp("emodb"), releases.emodb_names(SPEAKERS), seconds=0.3
    )
    return "--config.corpus.name=emodb", f"--config.corpus.root={root}"


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_from_recordings_to_a_report(cell, corpus, tmp_path):
    """And scored again from the stored model, which has no statistics: the same predictions from
    the same store."""
    arguments = (*SMALL, *corpus, f"--config.model.end2you_cell={cell}", f"--workdir={tmp_path}")
    ended = command(*arguments, figures=cell == "lstm")
    assert ended.code == 0, ended.err
    results, rows = read_json(tmp_path / "results.json"), read_table(tmp_path / "predictions.csv")
    gates = {"lstm": 4, "gru": 3}[cell]
    recurrent = gates * 8 * (320 * 2 + 8 + 1) + gates * 8 * (8 + 8 + 1)
    assert results["system"] == "end2you"
    assert results["parameters"] == 20 * 4 + 4 + 40 * 4 * 4 + 4 + recurrent + 8 * 4 + 4
    assert len(rows) == 8 and all(
        abs(sum(float(row[f"p_{n}"]) for n in results["classes"]) - 1) < 1e-5 for row in rows
    )
    assert (tmp_path / "report.html").is_file()
    stored = feature_store()
    again = command(f"--model={tmp_path}", name="evaluate")
    assert again.code == 0, again.err
    assert read_table(tmp_path / "predictions.csv") == rows and feature_store() == stored
