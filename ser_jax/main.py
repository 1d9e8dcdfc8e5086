"""Trains and evaluates every run of a protocol: `python -m ser_jax.main --config=configs/multi_crnn.py`."""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from ser_jax import cli

if __name__ == "__main__":
    CONFIG = cli.define_config()
    WORKDIR = flags.DEFINE_string("workdir", "", "Run directory; default: runs/<protocol>-<config file stem>.")
    MODES = ["auto", "none", "explicit"]
    DISTRIBUTED = flags.DEFINE_enum("distributed", "auto", MODES, "How hosts that train together are found: BUILD.md.")
    HOST_TIMEOUT = flags.DEFINE_float("host_timeout", 300, "Longest wait for another host to start, s.", lower_bound=3)


def main() -> int:
    """Trains what is not trained yet, writes results and report, and prints the result."""
    # Imported here: worker processes import this module again, and must not load jax.
    from ser_jax import agreement, checks, experiment, reading, run_directory
    from ser_jax.evaluation.console import summary_lines
    from ser_jax.training import hosts

    config = CONFIG.value
    checks.check(config)
    with hosts.joined(DISTRIBUTED.value, HOST_TIMEOUT.value) as team:
        agreement.check_alike(team, config)
        corpus = reading.read(config, Path(WORKDIR.value or "runs") / "rejected.csv")
        name = corpus.protocol if config.protocol.name == "auto" else config.protocol.name
        config_file = config_flags.get_config_filename(flags.FLAGS["config"]) if flags.FLAGS["config"].present else ""
        workdir = Path(WORKDIR.value) if WORKDIR.value else experiment.default_workdir(config, name, config_file)
        agreement.open_shared(team, workdir, config)
        results = team.from_first("finished", run_directory.finished_results(workdir) if team.first else None)
        if results is None:
            results = experiment.train_and_evaluate(config, corpus, workdir, team)
    if team.first:
        print(summary_lines(results, workdir / "report.html"))
    experiment.check_diverged(results)
    return 0


if __name__ == "__main__":
    cli.run(main)
