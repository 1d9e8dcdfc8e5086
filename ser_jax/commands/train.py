"""Trains and evaluates every trial (fold and seed) of a protocol.

ser-jax train --config=multi_crnn --config.corpus.name=emodb --config.corpus.root=/data/emodb
"""

from ser_jax.commands.command_line import CONFIG, Flag, Options

FLAGS = (
    CONFIG,
    Flag("workdir", "", "Run directory; default: runs/<protocol>-<config file stem>."),
    Flag(
        "distributed",
        "auto",
        "How hosts that train together are found: docs/scale.md.",
        choices=("auto", "none", "explicit"),
    ),
    Flag("host_timeout", 300.0, "Longest wait for another host to start, in seconds.", least=3),
    Flag("report", True, "Write report.html; the same command without --noreport adds it."),
)


def main(options: Options) -> None:
    """Trains what is not trained yet, writes results and report, and prints the result."""
    from ser_jax.cluster import hosts
    from ser_jax.experiment import config_checks, pipeline, run

    config_checks.check(options.config)
    with hosts.joined(options.distributed, options.host_timeout) as team:
        results = run.train(
            *(options.config, options.workdir, options.config_file, team), report=options.report
        )
    if team.first:
        print(results)
    pipeline.check_diverged(results)
