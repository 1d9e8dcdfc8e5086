"""Says which emotion recordings hold: `python -m ser_jax.predict --model=runs/x FILES|FOLDER|CSV`."""

from pathlib import Path

from absl import flags

from ser_jax import cli
from ser_jax.errors import UserError

if __name__ == "__main__":
    MODEL = flags.DEFINE_string("model", "", "Run directory that main has written.")
    OUTPUT = flags.DEFINE_string(
        "output",
        "",
        "Table to write, .csv or .json; default: lines on the terminal. With --timeline: for one recording a file, "
        ".csv, .json, .TextGrid (Praat), .txt (Audacity labels), .png or .svg; for several a folder, with a file each.",
    )
    CLASSES = flags.DEFINE_list("classes", [], "Classes to choose from; default: all that the model knows.")
    THRESHOLD = flags.DEFINE_float("threshold", 0.0, "Share in [0, 1]: below it no class is named.")
    TIMELINE = flags.DEFINE_bool(
        "timeline", False, "Emotion over time, of recordings of any length: a row per segment."
    )
    WINDOW = flags.DEFINE_float(
        "window",
        None,
        "Timeline: seconds that a row looks back on; default: 3. Systems that need the whole utterance have none: they "
        "score windows of so many seconds one by one.",
    )
    HOP = flags.DEFINE_float(
        "hop",
        None,
        "Timeline: score windows one by one with any system, so many seconds apart; default: half of --window.",
    )
    FORMAT = flags.DEFINE_string(
        "format", "", "Timelines in a folder: csv (default), json, textgrid, audacity, png or svg."
    )
    ENGINE = flags.DEFINE_enum("engine", "local", ["local", "ray"], "What computes: this machine, or Ray.")
    ADDRESS = flags.DEFINE_string(
        "address", "", "With --engine=ray: HOST:PORT of a cluster, or auto on one of its nodes; default: this machine."
    )


def main(arguments: list[str]) -> int:
    """Predicts for every recording named; what cannot be read is listed, and the rest is done."""
    from ser_jax.features import ray_cluster
    from ser_jax.prediction import batch, members, ray_batch, sources, table, timeline_command
    from ser_jax.prediction.predictor import Predictor
    from ser_jax.prediction.rule import make_rule

    if not MODEL.value:
        raise UserError("--model is missing: name the run directory that python -m ser_jax.main has written")
    if ADDRESS.value and ENGINE.value != "ray":
        raise UserError(f"--address={ADDRESS.value} is for --engine=ray; add that, or leave it out")
    output = Path(OUTPUT.value) if OUTPUT.value else None
    if TIMELINE.value:
        if ENGINE.value == "ray":
            raise UserError("--engine=ray is for tables, and timelines are made here; leave out one of the two")
        asked = timeline_command.Asked(WINDOW.value, HOP.value, FORMAT.value, CLASSES.value, THRESHOLD.value)
        return timeline_command.perform(Path(MODEL.value), arguments, output, asked)
    for flag in (WINDOW, HOP, FORMAT):
        if flag.present:
            raise UserError(f"--{flag.name} is for timelines; add --timeline, or leave it out")
    if output is not None:
        table.check_output(output)
    listed = sources.find(arguments)
    if ENGINE.value == "ray":
        found = members.read(Path(MODEL.value))  # No Predictor: jax must not have started when Ray does.
        rule, description = make_rule(found.classes, CLASSES.value, THRESHOLD.value), found.description
        with ray_cluster.joined(ADDRESS.value) as cluster:
            rows = ray_batch.predict(Path(MODEL.value), listed, rule, cluster)
    else:
        predictor = Predictor(Path(MODEL.value))
        rule, description = predictor.rule(CLASSES.value, THRESHOLD.value), predictor.description
        rows = batch.predict(predictor, listed, rule)
    if output is None:
        print(table.text(rows))
    else:
        table.write(output, rows, rule, description)
        print(table.summary(rows, output))
    batch.check_usable(rows)
    return 0


if __name__ == "__main__":
    cli.run(main, positional=True)
