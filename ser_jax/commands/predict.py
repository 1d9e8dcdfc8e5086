"""Predicts the emotion of recordings, or its course over time.

ser-jax predict --model=runs/x FILE|FOLDER|CSV …
"""

import os
from pathlib import Path

from ser_jax.commands.command_line import ADDRESS, EMBEDDER, ENGINE, ENROL, PREDICTOR, Flag, Options
from ser_jax.runtime.errors import UserError

ARGUMENTS = "FILE|FOLDER|CSV …"
FLAGS = (
    PREDICTOR,
    ENROL,
    Flag(
        "output",
        "",
        "Table to write, .csv or .json; default: lines on the terminal. With --timeline: for one"
        " recording a file, .csv, .json, .TextGrid (Praat), .txt (Audacity labels), .png or .svg;"
        " for several a folder, with a file each.",
    ),
    Flag(
        "classes",
        [],
        "Classes to choose from; default: all that the model knows. One with a comma stands in"
        " quotes: --classes='\"sad, or angry\",happy'.",
    ),
    Flag("threshold", 0.0, "Probability in [0, 1]: below it no class is named."),
    Flag("timeline", False, "Emotion over time, of recordings of any length: a row per segment."),
    Flag(
        "window",
        None,
        "Timeline: seconds that a row looks back on; default: 3. Systems that need the whole"
        " utterance score windows of so many seconds one by one.",
    ),
    Flag(
        "hop",
        None,
        "Timeline: score windows one by one with any system, so many seconds apart; default: half"
        " of --window.",
    ),
    Flag(
        "format", "", "Timelines in a folder: csv (default), json, textgrid, audacity, png or svg."
    ),
    Flag(
        "strict",
        False,
        "Leave with exit code 2 if any recording cannot be used; default: only if none can.",
    ),
    Flag(
        "follow_links",
        False,
        "Follow links out of folders and lists: only for those that you trust.",
    ),
    Flag(
        "channel",
        "",
        "Channel of recordings with several: mean, left, right, or a number from 1; default: as the"
        " model was trained.",
    ),
    EMBEDDER,
    Flag(
        "embeddings",
        "",
        "Models trained on embeddings: files of those of all recordings (docs/embeddings.md), in"
        " place of --embedder.",
    ),
    Flag(
        "vad",
        False,
        "Detect speech (extra vad): noise and music get the label no speech, too; no features are"
        " kept on the disk.",
    ),
    Flag("no_store", False, "Keep no features of the recordings on the disk."),
    *(ENGINE, ADDRESS),
)


def main(options: Options) -> int:
    """Predicts for every recording named; what cannot be read is listed, and the rest is done."""
    model, use_ray = options.model_folder, options.ray
    from ser_jax.prediction import batch, predictions_table, timelines

    output = Path(options.output) if options.output else None
    if options.timeline:
        if use_ray:
            raise UserError("--engine=ray is for tables: leave out that or --timeline")
        return timelines.run_command(
            *(model, _listed(options), output),
            window=options.window,
            hop=options.hop,
            form=options.format,
            classes=options.classes,
            threshold=options.threshold,
            strict=options.strict,
            channel=options.channel,
            embedder=options.embedder,
            embeddings=options.embeddings,
            enrol=options.enrol,
            vad=options.vad,
        )
    for name in ("enrol", "embeddings"):
        if use_ray and getattr(options, name):
            raise UserError(f"--{name} is for this machine alone: leave out that or --engine=ray")
    for name in ("window", "hop", "format"):
        if getattr(options, name) not in (None, ""):
            raise UserError(f"--{name} is for timelines; add --timeline, or leave it out")
    if output is not None:
        predictions_table.check_output(output)
    predict = _predict_with_ray if use_ray else _predict_here
    rows, decision, description = predict(options, _listed(options))
    if output is None:
        print(predictions_table.text(rows))
    else:
        predictions_table.write(output, rows, decision, description)
    if last := predictions_table.summary(rows, output):
        print(last, flush=True)
    batch.check_usable(rows, strict=options.strict)
    return 0


def _listed(options: Options):
    from ser_jax.corpora import release_files
    from ser_jax.prediction import batch

    with release_files.following_links(options.follow_links):
        return batch.find(options.arguments)


def _predict_here(options: Options, listed):
    from ser_jax.prediction import batch, blocks
    from ser_jax.prediction.predictor import Predictor

    predictor = Predictor(
        options.model_folder,
        channel=options.channel,
        vad=options.vad,
        embedder=options.embedder,
        embeddings=options.embeddings,
    )
    predictor = batch.enrolled(predictor, options.enrol)
    decision = predictor.decision(options.classes, options.threshold)
    in_blocks = options.no_store or options.vad  # which needs the samples
    predict = blocks.predict if in_blocks else batch.predict
    return predict(predictor, listed, decision), decision, predictor.description


def _predict_with_ray(options: Options, listed):
    """Makes no Predictor: jax must not have started when Ray does."""
    from ser_jax.models import build
    from ser_jax.prediction import ensemble, ray_batch, weights
    from ser_jax.runtime import ray_workers

    model, embedder = options.model_folder, options.embedder
    found = weights.outline(model)
    if build.uses_embeddings(found.config) and not embedder:
        raise UserError(
            f"{found.description} reads embeddings of another model: with --engine=ray name the"
            " file that made them, --embedder=FILE.onnx, which every node has under the same path"
        )
    given = {"channel": options.channel, "vad": options.vad}
    given["embedder"] = os.path.abspath(embedder) if embedder else ""
    decision = ensemble.make_decision(found.classes, options.classes, options.threshold)
    with ray_workers.joined(options.address) as cluster:
        rows = ray_batch.predict(model, listed, decision, cluster, **given)
    return rows, decision, found.description
