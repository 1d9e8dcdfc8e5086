"""Fills the feature store for a corpus: `python -m ser_jax.extract --config=configs/hsf_crnn.py --config.corpus.…`."""

import contextlib
from pathlib import Path

from absl import flags

from ser_jax import cli
from ser_jax.errors import UserError

if __name__ == "__main__":
    CONFIG = cli.define_config()
    ENGINE = flags.DEFINE_enum("engine", "local", ["local", "ray"], "What computes: this machine, or Ray.")
    ADDRESS = flags.DEFINE_string(
        "address", "", "With --engine=ray: HOST:PORT of a cluster, or auto on one of its nodes; default: this machine."
    )
    OUTPUT = flags.DEFINE_string("output", ".", "Folder for rejected.csv, the list of what cannot be used.")


def main() -> int:
    """Extracts what training with this configuration would; `main` then finds all of it in the store."""
    from ser_jax import checks, experiment, reading
    from ser_jax.features import ray_cluster
    from ser_jax.features.ray_extract import RayEngine
    from ser_jax.protocols import registry

    if ADDRESS.value and ENGINE.value != "ray":
        raise UserError(f"--address={ADDRESS.value} is for --engine=ray; add that, or leave it out")
    config, folder = CONFIG.value, Path(OUTPUT.value)
    checks.check(config)
    corpus = reading.read(config, folder / "rejected.csv")
    _, spec = registry.find_spec(config.protocol.name, corpus)
    corpus = registry.select(spec, corpus)
    with contextlib.ExitStack() as stack:
        engine = None
        if ENGINE.value == "ray":
            workers = config.features.workers
            engine = RayEngine(stack.enter_context(ray_cluster.joined(ADDRESS.value, workers)), workers)
        found = experiment.extract_features(config, corpus, folder, engine=engine, most_bytes=0)
    print(
        f"{len(found.utterances)} recordings are in the feature store, {found.extracted} of them new; "
        f"{len(found.rejected)} cannot be used: {folder / 'rejected.csv'}"
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
