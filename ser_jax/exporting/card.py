"""The model card: what a model was trained on, how well it did, what it is not for; and what is not known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax import strict_json
from ser_jax.evaluation import formats
from ser_jax.exporting.description import licence_notes
from ser_jax.prediction.members import FINAL, Members

TITLES = {
    "plain_crnn": "Plain CRNN",
    "hsf_crnn": "HSF-CRNN",
    "multi_crnn": "Multi-CRNN",
    "end2you": "End2You",
}
SCORES = {"ua": "UA (mean recall of the classes)", "wa": "WA (share of correct answers)", "macro_f1": "macro F1"}
LIMITS = (
    "It knows the classes above and nothing else: every recording is given probabilities of them that add up to 1, "
    "also music, noise, silence and emotions that are not among them.",
    "What it heard in training is what it can judge. Other languages, rooms, microphones and age groups, spontaneous "
    "instead of acted speech: measure it on recordings of your own before relying on it.",
    "Emotion labels are what listeners or actors meant, not what a person feels; no decision about a person should "
    "rest on them.",
)
UNKNOWN = (
    "Not known to the program that wrote this card: the language, age and gender of the speakers, how the recordings "
    "were made and labelled, whether the speakers agreed to this use, and the licence of the corpus. Whoever passes "
    "the model on should add it."
)


def write_text(found: Members, results: Mapping[str, Any], workdir: Path, weights: str) -> str:
    """Returns the model card as Markdown.

    Args:
      found: The models.
      results: Content of the run's `results.json`.
      workdir: The run directory, which holds `protocol.json` and `versions.json`.
      weights: Name of the file that the card belongs to.

    Raises:
      UserError: If a file of the run directory is damaged or missing.
    """
    protocol, versions = (_read(workdir / name) for name in ("protocol.json", "versions.json"))
    blocks = [
        [f"# {TITLES[found.config.system]}: {', '.join(found.classes)}"],
        [_what(found, results, weights)],
        ["## Training data", *_data(results, protocol)],
        ["## Scores", *_scores(found, results)],
        ["## Limits", *(f"- {text}" for text in LIMITS), "", UNKNOWN],
        ["## Licence", *(f"- {text}" for text in licence_notes(found.config))],
        ["## Made with", _made(found, versions)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _read(path: Path) -> dict[str, Any]:
    return strict_json.read(path, remedy="run the training command again")


def _what(found: Members, results: Mapping[str, Any], weights: str) -> str:
    count = len(found.models)
    many = f"{count} models, whose mean probabilities are the answer" if count > 1 else "one model"
    f = found.config.features
    reads = (
        f"the wave in chunks of {found.config.model.end2you_chunk} samples"
        if found.config.system == "end2you"
        else f"{f.bands} log-mel bands of {1000 * f.window_seconds:g} ms windows every {1000 * f.hop_seconds:g} ms"
    )
    functionals = " and the 6373 ComParE 2016 functionals of openSMILE" if found.config.system == "hsf_crnn" else ""
    return (
        f"Says how likely each of {len(found.classes)} emotions is in a recording of speech, mono at {f.sample_rate} "
        f"Hz. `{weights}` holds {many} ({', '.join(found.names)}) of {results['parameters']:,} parameters; it reads "
        f"{reads}{functionals}. System: Luo, Zou and Huang, Interspeech 2018"
        f"{', where it is the baseline' if found.config.system == 'end2you' else ''}."
    )


def _data(results: Mapping[str, Any], protocol: Mapping[str, Any]) -> list[str]:
    listed = protocol["utterances"]
    speakers = {speaker for _, _, speaker in listed if speaker}
    labels = [label for _, label, _ in listed]
    counts = ", ".join(f"{name} {labels.count(name)}" for name in protocol["classes"])
    return [
        f"- Corpus: {results['corpus']}, {len(listed)} utterances ({counts}), "
        f"{f'{len(speakers)} speakers' if speakers else 'speakers unknown'}; SHA-256 of the audio "
        f"`{results['corpus_sha256']}`.",
        f"- Labels: {_mapping(protocol['label_mapping'])}.",
        f"- Protocol: {results['protocol']}, SHA-256 `{results['protocol_sha256']}`. Validation: "
        f"{protocol['validation']}. Trained again after the choice of the epoch: {protocol['refit']}.",
    ]


def _mapping(mapping: Mapping[str, str]) -> str:
    changed = [f"{theirs} → {ours}" for theirs, ours in mapping.items() if theirs != ours]
    return ", ".join(changed) if changed else "as in the corpus"


def _scores(found: Members, results: Mapping[str, Any]) -> list[str]:
    if all(model.description["fold"] == FINAL for model in found.models):
        validated = ", ".join(formats.percent((m.description.get("validation") or {}).get("ua")) for m in found.models)
        return [
            "None on speech that took no part in training: the final model is trained on everything but a validation "
            f"part. UA there: {validated}, too high, because that part chose the epoch. The scores to expect are those "
            "of the same system under a protocol with test folds."
        ]
    lines = [_meaning(found, results), ""]
    rows = [
        [title, formats.spread(results[key]) if results[key]["per_seed"] else formats.NO_VALUE, _interval(results[key])]
        for key, title in SCORES.items()
    ]
    recall = results["class_recall"]
    rows += [[f"recall of {name}", formats.spread(recall[name]), _interval(recall[name])] for name in found.classes]
    lines += _table(["percent", "mean ± std over seeds", "95 % interval"], rows)
    calibration = results["calibration"]
    figures = {"ECE": calibration["ece"], "NLL": calibration["nll"], "Brier": calibration["brier"]}
    lines += ["", f"Calibration: {', '.join(f'{name} {formats.decimals(x)}' for name, x in figures.items())}."]
    if len(found.models) == 1:
        lines += ["", _own(found, results)]
    return lines


def _meaning(found: Members, results: Mapping[str, Any]) -> str:
    unit = f"by bootstrap over {results['ci95_unit']}s" if results["ci95_unit"] else "not to be had"
    note = f" ({results['ci95_note']})" if results["ci95_note"] else ""
    whole = (
        " Each model was scored on the fold that it has not heard; the models together were not scored, since every "
        "recording was heard by some of them."
        if len(found.models) > 1
        else ""
    )
    return (
        f"Of the whole cross-validation: {results['utterances']} utterances, {len(results['seeds'])} seed"
        f"{'s' if len(results['seeds']) != 1 else ''}, predictions pooled over folds; intervals {unit}{note}.{whole}"
    )


def _own(found: Members, results: Mapping[str, Any]) -> str:
    described = found.models[0].description
    own = [run for run in results["runs"] if (run["fold"], run["seed"]) == (described["fold"], described["seed"])]
    if not own:  # A member of an ensemble that is scored together.
        return (
            f"This model by itself was not scored: seeds are ensembles of {found.config.protocol.ensemble} trainings."
        )
    return (
        f"This model by itself, on the test part of its fold: UA {formats.percent(own[0]['ua'])}, WA "
        f"{formats.percent(own[0]['wa'])}; a single fold says little."
    )


def _interval(score: Mapping[str, Any]) -> str:
    return formats.interval(score["ci95"]) or formats.NO_VALUE


def _made(found: Members, versions: Mapping[str, Any]) -> str:
    packages = ", ".join(
        f"{name} {versions[name]}" for name in ("ser_jax", "python", "jax", "flax") if name in versions
    )
    t = found.config.training
    return (
        f"{packages}; at most {t.epochs} epochs, batches of {t.batch_size}, learning rate {t.learning_rate:g}, class "
        f"weights {t.class_weights}, dropout {found.config.model.dropout:g}."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [list(header), ["---"] * len(header), *map(list, rows)]
    return ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in cells]
