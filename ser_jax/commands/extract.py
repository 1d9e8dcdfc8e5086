"""Fills the feature store for a corpus; training then finds all features there.

ser-jax extract --config=hsf_crnn --config.corpus.name=emodb --config.corpus.root=/data/emodb
"""

import contextlib
from pathlib import Path
from typing import Any

from ser_jax.commands.command_line import ADDRESS, CONFIG, ENGINE, Flag, Options

FLAGS = (
    CONFIG,
    ENGINE,
    ADDRESS,
    Flag("output", ".", "Folder for rejected.csv, the list of what cannot be used."),
)


def main(options: Options) -> None:
    """Extracts what training with this configuration would."""
    from ser_jax.corpora import from_config
    from ser_jax.experiment import config_checks, pipeline
    from ser_jax.features import audio
    from ser_jax.features.ray_extraction import RayEngine
    from ser_jax.protocols import named
    from ser_jax.runtime import ray_workers
    from ser_jax.runtime.progress import counted

    use_ray = options.ray
    config, folder = options.config, Path(options.output)
    config_checks.check(config)
    corpus = from_config.read(config, folder / "rejected.csv", audio.length)
    from_config.log_warnings(corpus)
    name, spec = named.find_spec(config.protocol.name, corpus)
    corpus = named.select(spec, corpus)
    with contextlib.ExitStack() as stack:
        engine, workers = None, config.features.workers
        if use_ray:
            cluster = stack.enter_context(ray_workers.joined(options.address, workers))
            engine = RayEngine(cluster, workers)
        how: dict[str, Any] = {"engine": engine, "most_bytes": 0}
        found = pipeline.extract_features(config, corpus, folder, **how)
        if config.augment.variants:
            protocol, _ = pipeline.make_protocol(config, name, spec, corpus, found)
            trials = pipeline.make_trials(config, protocol)
            found = pipeline.add_variants(*(config, corpus, found, protocol, trials, folder), **how)
    print(
        f"{counted(len(found.utterances), 'recording')} in the feature store, {found.extracted} of"
        f" them new; {len(found.rejected)} cannot be used: {folder / 'rejected.csv'}"
    )
    if found.variants:
        more = found.variants.features
        count = counted(len(more.utterances), "variant")
        print(f"{count} of training recordings, {more.extracted} of them new")
