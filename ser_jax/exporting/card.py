"""Metadata of exported models, and the model card: training data, scores, limits, licences."""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ser_jax import __version__
from ser_jax.config import Config
from ser_jax.evaluation import final_model, finished_run, groups, stress_table
from ser_jax.evaluation.finished_run import REMADE
from ser_jax.features import functionals
from ser_jax.features.audio import SAMPLE_RATE
from ser_jax.models import build
from ser_jax.prediction.ensemble import FINAL, Ensemble
from ser_jax.protocols import speaker_rule
from ser_jax.report import formats, stress_text
from ser_jax.runtime import strict_json
from ser_jax.runtime.progress import counted

SCHEMA = 1
OPENSMILE = (
    "Made with openSMILE: its audEERING Research License allows non-commercial use only, and that"
    " extends to this model."
)
EMBEDDINGS = "The licence of the model that made its embeddings may extend to this model."
CORPUS = "The licence of the corpus may limit what models trained on it may be used for."


def licence_notes(config: Config) -> list[str]:
    """Returns what the licences of others say about models of this kind."""
    opensmile = [OPENSMILE] if build.uses_functionals(config) else []
    return [*opensmile, *([EMBEDDINGS] if build.uses_embeddings(config) else []), CORPUS]


def describe(found: Ensemble, results: dict[str, Any]) -> dict[str, Any]:
    """Returns what a program that loads the models needs to know of them.

    Args:
      found: The models.
      results: Content of the run's `results.json`.
    """
    feature_set = found.config.features.functionals
    models = [
        {"name": name, **{key: model.description[key] for key in ("fold", "seed", "temperature")}}
        for name, model in zip(found.names, found.models, strict=True)
    ]
    return {
        "schema": SCHEMA,
        "ser_jax": __version__,
        "system": found.config.system,
        "classes": list(found.classes),
        "sample_rate": SAMPLE_RATE,
        "functionals": feature_set if build.uses_functionals(found.config) else None,
        "embeddings": found.models[0].description.get("embeddings"),
        **{key: results[key] for key in ("corpus", "corpus_sha256", "protocol", "protocol_sha256")},
        "models": models,
        "domain": found.models[0].description.get("domain"),  # None of old runs
        "licence": licence_notes(found.config),
    }


SCORES = {
    "ua": "UA (mean recall of the classes)",
    "wa": "WA (share of correct answers)",
    "macro_f1": "macro F1",
}
HUB_METRICS = {"ua": "recall", "wa": "accuracy", "macro_f1": "f1"}  # names of model hubs
LIMITS = (
    (
        "It knows the classes above and nothing else: every recording is given probabilities of"
        " them that add up to 1, also music, noise and emotions that are not among them."
    ),
    (
        "It can judge speech like that of its training data. Other languages, rooms, microphones"
        " and age groups, spontaneous instead of acted speech: measure it on recordings of your own"
        " before relying on it."
    ),
    (
        "Emotion labels are what listeners or actors meant, not what a person feels; no decision"
        " about a person should rest on them."
    ),
)
UNKNOWN = (
    "Not known to the program that wrote this card: {}how the recordings were made and labelled,"
    " whether the speakers agreed to this use, and the"
    " licence of the corpus. Whoever passes the model on should add it (`ser-jax export"
    " --about=FILE.md`)."
)


def write_text(
    found: Ensemble,
    results: Mapping[str, Any],
    workdir: Path,
    weights: str,
    licence: str = "",
    about: str = "",
) -> str:
    """Returns the model card as Markdown, with the front matter that model hubs read.

    Args:
      found: The models.
      results: Content of the run's `results.json`.
      workdir: The run directory, which holds `protocol.json` and `versions.json`; beside it the
        cross-validation of a final model is looked for.
      weights: Name of the file that the card belongs to.
      licence: Licence of the weights; empty: none chosen yet.
      about: Markdown about the speakers, the recordings and the uses; empty: what is not known.

    Raises:
      UserError: If a file of the run directory is damaged or missing.
    """
    protocol, versions = (_read(workdir / name) for name in ("protocol.json", "versions.json"))
    crossed = None
    if all(model.description["fold"] == FINAL for model in found.models):
        crossed = final_model.cross_validation(workdir, results)
    scored = crossed.results if crossed else results
    folder = workdir.resolve().parent / crossed.name if crossed else workdir
    predicted = (folder / "predictions.csv").is_file() and scored["seeds"]
    rows = finished_run.read_rows(folder, scored) if predicted else ()
    made = groups.by_attribute(rows, scored)
    blocks = [
        [*_front_matter(found, scored, licence)],
        [f"# {build.spec(found.config).title}: {', '.join(map(plain, found.classes))}"],
        [_what(found, weights)],
        ["## Use", *_use(found, weights)],
        ["## Parts", *_parts(found)],
        ["## Training data", *_data(results, protocol)],
        ["## Scores", *_scores(found, results, crossed)],
        *_stress(found, workdir),
        *([["## Groups", *_groups(made)]] if made else []),
        ["## Limits", *(f"- {text}" for text in LIMITS), "", about or _unknown(made)],
        [
            "## Licence",
            *(f"- {text}" for text in (_own_licence(licence), *licence_notes(found.config))),
        ],
        ["## Made with", _made(found, versions)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _unknown(made: Mapping[str, groups.Groups]) -> str:
    """Returns what the card does not say, without the attributes that make groups."""
    absent = [name for name in ("language", "age", "gender") if name not in made]
    listed = " and ".join(filter(None, [", ".join(absent[:-1]), *absent[-1:]]))
    return UNKNOWN.format(f"the {listed} of the speakers, " if absent else "")


def _groups(made: Mapping[str, groups.Groups]) -> list[str]:
    """UA by group, then sentences about small groups and those recognised less well."""
    rows, warnings = [], []
    for attribute, found in made.items():
        for part, speakers in zip(found.parts, found.speakers, strict=True):
            limits = part.ua_interval.tolist()
            interval = formats.NO_VALUE if np.isnan(limits).any() else formats.interval(limits)
            cells = [str(part.utterances), str(speakers or "unknown")]
            name = plain(f"{attribute} {part.name}")
            rows.append([name, *cells, formats.points(part.ua), interval])
        warnings += found.warnings(attribute)
    header = ["group", "utterances", "speakers", "UA in percent", "95 % interval"]
    sentences = [f"- Warning: {plain(sentence)}." for sentence in warnings]
    return [*_table(header, rows), *([""] if sentences else []), *sentences]


def _front_matter(found: Ensemble, scored: Mapping[str, Any], licence: str) -> list[str]:
    """YAML as model hubs read it; every value is JSON, which YAML contains."""
    title = f"{build.spec(found.config).title}, {scored['corpus']}"
    task = {"type": "audio-classification", "name": "Speech emotion recognition"}
    data = {"type": scored["corpus"], "name": f"{scored['corpus']} ({scored['protocol']})"}
    metrics = [
        {"type": kind, "name": SCORES[key], "value": round(scored[key]["mean"], 4)}
        for key, kind in HUB_METRICS.items()
        if scored[key]["mean"] is not None
    ]
    values = {
        "library_name": "ser_jax",
        "pipeline_tag": task["type"],
        "license": licence.lower() or "unknown",
        "tags": ["speech-emotion-recognition", "jax", "flax", "safetensors", found.config.system],
        "datasets": [scored["corpus"]],
    }
    if metrics:
        result = {"task": task, "dataset": data, "metrics": metrics}
        values["model-index"] = [{"name": title, "results": [result]}]
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    return ["---", *lines, "---"]


def _use(found: Ensemble, weights: str) -> list[str]:
    extra = " and its extra `[hsf]`" if build.uses_functionals(found.config) else ""
    return [
        f"With ser_jax {__version__} or later{extra}:",
        "",
        "```python",
        "import ser_jax",
        "",
        f"model = ser_jax.load({json.dumps(weights)})",
        'answer = model.predict("recording.wav")  # or samples: predict(samples, rate=16000)',
        "print(answer.label, answer.probabilities)",
        "```",
        "",
        f"The arrays alone, by name (`{found.names[0]}/params/…` are float32):",
        "",
        "```python",
        "from safetensors.numpy import load_file",
        "",
        f"arrays = load_file({json.dumps(weights)})",
        "```",
    ]


def _parts(found: Ensemble) -> list[str]:
    """The modules of one model with their sizes."""
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part))
        for name, part in found.models[0].params.items()
    }
    total = sum(sizes.values())
    rows = [[f"`{name}`", f"{size:,}", f"{4 * size / 1e6:.2f}"] for name, size in sizes.items()]
    rows.append(["one model", f"{total:,}", f"{4 * total / 1e6:.2f}"])
    if (count := len(found.models)) > 1:
        rows.append([f"all {count} models", f"{count * total:,}", f"{4 * count * total / 1e6:.2f}"])
    return _table(["part", "parameters", "MB"], rows)


def _own_licence(licence: str) -> str:
    if licence:
        return (
            f"The weights: {plain(licence)}, as chosen by who exported them, within what follows."
        )
    return (
        "The weights: none chosen yet. Whoever passes them on chooses one, within what follows"
        " (`ser-jax export --licence=cc-by-4.0`)."
    )


def beside(weights: Path) -> Path:
    """Returns where the card of exported weights lies."""
    return weights.with_name(f"{weights.name}.md")


def notes(config: Config, model: Path) -> list[str]:
    """Returns in sentences what visitors of a served model need to know: data, limits, licences.

    Args:
      config: Its configuration.
      model: Its run directory, or exported weights, of which the card beside them tells; what a
        card does not say, or no longer in the words of `write_text`, is left out.

    Raises:
      UserError: If `results.json` or `protocol.json` is damaged or missing.
    """
    if model.is_dir():
        data, licence = _notes_of_run(model), []
    else:
        card = beside(model)
        text = card.read_text("utf-8", "replace") if card.is_file() else ""
        data, licence = _notes_of_card(text)
    return [*data, *LIMITS, *licence, *licence_notes(config)]


def _notes_of_run(workdir: Path) -> list[str]:
    results, protocol = finished_run.read_results(workdir), _read(workdir / "protocol.json")
    utterances = counted(len(protocol["utterances"]), "utterance")
    speakers = {speaker for _, _, speaker in protocol["utterances"] if speaker}
    who = counted(len(speakers), "speaker") if speakers else ""
    found = [_trained_on(results["corpus"], utterances, who)]
    if final_model.is_final(results):
        crossed = final_model.cross_validation(workdir, results)
        results = crossed.results if crossed else results
    if results["ua"]["mean"] is not None:
        found.append(_reached(formats.spread(results["ua"]), _interval(results["ua"])))
    return found


def _notes_of_card(text: str) -> tuple[list[str], list[str]]:
    """Finds in a card what `_notes_of_run` says of a run, and the licence of the weights."""
    found = []
    speakers = r"(?:(\d+ speakers?)|speakers unknown); SHA-256"
    if match := re.search(rf"^- Corpus: (.+), (\d+ utterances?) \(.*\), {speakers}", text, re.M):
        name = re.sub(r"\\(.)", r"\1", match[1])  # without the escapes of `plain`
        found.append(_trained_on(name, match[2], match[3] or ""))
    if match := re.search(rf"^\| {re.escape(SCORES['ua'])} \| (\d.*) \| (.*) \|$", text, re.M):
        found.append(_reached(match[1], match[2]))
    licence = re.search(r"^- (The weights: (?!none chosen).*)$", text, re.M)
    return found, [licence[1]] if licence else []


def _trained_on(corpus: str, utterances: str, speakers: str) -> str:
    return f"Trained on {corpus}: {utterances}{f' of {speakers}' if speakers else ''}."


def _reached(score: str, interval: str) -> str:
    limits = "" if interval == formats.NO_VALUE else f", 95 % interval {interval}"
    return (
        f"Such models reach a {SCORES['ua']} of {score} %{limits}, on recordings of that corpus"
        " kept out of training."
    )


def _read(path: Path) -> dict[str, Any]:
    return strict_json.read(path, remedy=REMADE.format(path.parent))


def _what(found: Ensemble, weights: str) -> str:
    count = len(found.models)
    many = f"{count} models, whose mean probabilities are the answer" if count > 1 else "one model"
    left_out = (
        f"; {', '.join(map(plain, found.diverged))} diverged and has no vote"
        if found.diverged
        else ""
    )
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(found.models[0].params))
    f = found.config.features
    embedded = found.models[0].description.get("embeddings") or {}
    values = f"{embedded.get('width')} values of {embedded.get('layers')} layers"
    if build.uses_embedded_frames(found.config):
        reads = f"embeddings of another model ({values})"
    elif build.uses_wave(found.config):
        reads = f"the wave in chunks of {found.config.model.end2you_chunk} samples"
    else:
        window, hop = 1000 * f.window_seconds, 1000 * f.hop_seconds
        reads = f"{f.bands} log-mel bands of {window:g} ms windows every {hop:g} ms"
    if build.uses_functionals(found.config):
        width = functionals.WIDTHS[f.functionals]
        reads += f" and the {width} functionals {f.functionals} of openSMILE"
    if embedded and build.uses_hsf(found.config):
        reads += f" and one embedding of another model ({embedded['width']} values)"
    if rule := speaker_rule.rule(found.config):
        reads += (
            f", normalised by speaker ({', '.join(rule.keys)}): `ser-jax predict"
            " --enrol=FOLDER` takes that from recordings of the person, without labels; without"
            " them, and in a StableHLO program, it answers as for strangers, which costs accuracy"
        )
    return (
        f"Says how likely each of {len(found.classes)} emotions is in a recording of speech, mono"
        f" at {f.sample_rate} Hz. `{weights}` holds {many}"
        f" ({', '.join(map(plain, found.names))}){left_out} of"
        f" {parameters:,} parameters{' each' if count > 1 else ''}; it reads {reads}. System: Luo,"
        " Zou and Huang,"
        f" Interspeech 2018{', where it is the baseline' if build.uses_wave(found.config) else ''}."
    )


def _data(results: Mapping[str, Any], protocol: Mapping[str, Any]) -> list[str]:
    listed = protocol["utterances"]
    speakers = {speaker for _, _, speaker in listed if speaker}
    labels = [label for _, label, _ in listed]
    counts = ", ".join(f"{plain(name)} {labels.count(name)}" for name in protocol["classes"])
    return [
        (
            f"- Corpus: {plain(results['corpus'])}, {counted(len(listed), 'utterance')} ({counts}),"
            f" {counted(len(speakers), 'speaker') if speakers else 'speakers unknown'}; SHA-256 of"
            f" the audio `{results['corpus_sha256']}`."
        ),
        f"- Labels: {_mapping(protocol['label_mapping'])}.",
        (
            f"- Protocol: {plain(results['protocol'])}, SHA-256 `{results['protocol_sha256']}`."
            f" Validation: {protocol['validation']}. Trained again after the choice of the epoch:"
            f" {protocol['refit']}."
        ),
        *(f"- Note: {note}." for note in protocol.get("notes", [])),
    ]


def _mapping(mapping: Mapping[str, str]) -> str:
    changed = [
        f"{plain(theirs)} → {plain(ours)}" for theirs, ours in mapping.items() if theirs != ours
    ]
    return ", ".join(changed) if changed else "as in the corpus"


def _scores(
    found: Ensemble, results: Mapping[str, Any], crossed: final_model.CrossValidation | None
) -> list[str]:
    if all(model.description["fold"] == FINAL for model in found.models):
        validated = ", ".join(
            formats.percent((m.description.get("validation") or {}).get("ua")) for m in found.models
        )
        lines = [
            "None on speech that took no part in training: the final model is trained on"
            f" everything but a validation part. UA there: {validated}, too high, because that part"
            " chose the epoch. The scores to expect are those of the same system under a protocol"
            " with test folds."
        ]
        if crossed is None:
            return [*lines, "", "No such run was at hand when this card was written."]
        name = f"{plain(crossed.name)} ({plain(crossed.results['protocol'])})"
        return [
            *lines,
            "",
            f"These are the scores of such a run, {name}. {_meaning(1, crossed.results)}",
            "",
            *_figures(crossed.results),
        ]
    lines = [_meaning(len(found.models), results), "", *_figures(results)]
    if len(found.models) == 1:
        lines += ["", _own(found, results)]
    return lines


def _figures(results: Mapping[str, Any]) -> list[str]:
    """Scores and recalls as a table, and the calibration."""
    rows = [
        [
            title,
            formats.spread(results[key]) if results[key]["per_seed"] else formats.NO_VALUE,
            _interval(results[key]),
        ]
        for key, title in SCORES.items()
    ]
    recall = results["class_recall"]
    rows += [
        [f"recall of {plain(name)}", formats.spread(recall[name]), _interval(recall[name])]
        for name in results["classes"]
    ]
    lines = _table(["percent", "mean ± std over seeds", "95 % interval"], rows)
    calibration = results["calibration"]
    figures = {"ECE": calibration["ece"], "NLL": calibration["nll"], "Brier": calibration["brier"]}
    listed = ", ".join(f"{name} {formats.decimals(x)}" for name, x in figures.items())
    return [*lines, "", f"Calibration: {listed}."]


def _stress(found: Ensemble, workdir: Path) -> list[list[str]]:
    """The section on changed recordings, if `ser-jax stress` has measured these very models."""
    path = workdir / "stress" / "stress.json"
    if not path.is_file():
        return []
    measured = strict_json.read(path, remedy=f"ser-jax stress --model={workdir} writes it again")
    described = [model.description for model in found.models]
    if measured["models_sha256"] != stress_table.models_sha256(described):
        return []
    rows = [list(map(plain, stress_text.cells(row))) for row in measured["changes"]]
    said = " ".join(stress_text.sentences(measured))
    return [["## What changes the answer", said, "", *_table(stress_text.COLUMNS, rows)]]


def _meaning(models: int, results: Mapping[str, Any]) -> str:
    method = formats.interval_method(results)
    unit = f"by {method}" if method else "not to be had"
    note = f" ({results['ci95_note']})" if results["ci95_note"] else ""
    whole = (
        " Each model was scored on the fold that it was not trained on; the models together were"
        " not scored, since every recording was in the training data of some of them."
        if models > 1
        else ""
    )
    return (
        f"Of the whole cross-validation: {results['utterances']} utterances,"
        f" {len(results['seeds'])} seed{'s' if len(results['seeds']) != 1 else ''}, predictions"
        f" pooled over folds; intervals {unit}{note}.{whole}"
    )


def _own(found: Ensemble, results: Mapping[str, Any]) -> str:
    described = found.models[0].description
    key = described["fold"], described["seed"]
    own = [run for run in results["runs"] if (run["fold"], run["seed"]) == key]
    if not own:  # A member of an ensemble that is scored together.
        return (
            "This model by itself was not scored: seeds are ensembles of"
            f" {found.config.protocol.ensemble} trainings."
        )
    return (
        f"This model by itself, on the test part of its fold: UA {formats.percent(own[0]['ua'])},"
        f" WA {formats.percent(own[0]['wa'])}; a single fold says little."
    )


def _interval(score: Mapping[str, Any]) -> str:
    return formats.interval(score["ci95"]) or formats.NO_VALUE


def _made(found: Ensemble, versions: Mapping[str, Any]) -> str:
    known = (name for name in ("ser_jax", "python", "jax", "flax") if name in versions)
    packages = ", ".join(f"{name} {versions[name]}" for name in known)
    t = found.config.training
    today = datetime.date.today().isoformat()
    start = ""
    if t.init_from:
        start = f", from models of {plain(t.init_from)} (rate of all layers but the last: "
        start += f"{t.front_rate:g} times that)"
    return (
        f"{packages}; card of {today}. Training: at most {t.epochs} epochs, batches of"
        f" {t.batch_size}, learning rate {t.learning_rate:g}, class weights {t.class_weights},"
        f" dropout {found.config.model.dropout:g}{start}."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [list(header), ["---"] * len(header), *map(list, rows)]
    return ["| " + " | ".join(row) + " |" for row in cells]


def plain(name: str) -> str:
    """Returns a name from a list or a file so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&#!$])", r"\\\1", " ".join(name.split()))
