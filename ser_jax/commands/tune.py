"""Searches for hyper-parameters by the scores of validation parts; test parts are never read.

ser-jax tune --config=tuned/plain_crnn --config.corpus.name=emodb --config.corpus.root=/data/emodb
"""

from pathlib import Path

from ser_jax.commands.command_line import CONFIG, Flag, Options

FLAGS = (
    CONFIG,
    Flag("space", "", "TOML file of keys and their values: docs/tune.md; default: a small one."),
    Flag("trials", 20, "How many configurations are tried, earlier calls included.", least=1),
    Flag(
        "workdir",
        "",
        "Folder of the search; default: runs/tune-<corpus or protocol>-<config file stem>.",
    ),
    Flag("keep_all", False, "Keep the models of all configurations; default: those of the best."),
    Flag("seed", 0, "Seed of the search; that of trainings is --config.protocol.seed.", least=0),
)


def main(options: Options) -> None:
    """Tries what is not tried yet, writes the page and prints the best configurations."""
    from ser_jax.experiment import pipeline
    from ser_jax.protocols import named
    from ser_jax.tuning import search, space, tuning_page

    config = options.config
    protocol = config.protocol.name
    of = config.corpus.name if protocol == named.AUTO else protocol
    default = pipeline.default_workdir(config, of, options.config_file, "tune")
    workdir = Path(options.workdir or default)
    values = space.read(Path(options.space) if options.space else space.DEFAULT, config)
    found = search.search(
        *(config, values, workdir, options.trials, options.seed), keep_all=options.keep_all
    )
    print(tuning_page.write(workdir, found, space.apply(config, found[0].values)))
