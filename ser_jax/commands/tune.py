"""Searches for hyper-parameters by the scores of validation parts; test parts are never read.

ser-jax tune --config=tuned/plain_crnn --config.corpus.name=emodb --config.corpus.root=/data/emodb
"""

from pathlib import Path

from ser_jax.commands.command_line import CONFIG, Flag, Options

FLAGS = (
    CONFIG,
    Flag("space", "", "TOML file of keys and their values: docs/tune.md; default: a small one."),
    Flag("trials", 20, "How many configurations are tried, earlier calls included.", least=1),
    Flag("workdir", "", "Folder of the search; default: runs/tune-<config file stem>."),
    Flag("seed", 0, "Seed of the search; that of trainings is --config.protocol.seed.", least=0),
)


def main(options: Options) -> None:
    """Tries what is not tried yet, writes the page and prints the best configurations."""
    from ser_jax.tuning import search, space, tuning_page

    config = options.config
    name = Path(options.config_file).stem if options.config_file else config.system
    workdir = Path(options.workdir or f"runs/tune-{name}")
    values = space.read(Path(options.space) if options.space else space.DEFAULT, config)
    found = search.search(config, values, workdir, options.trials, options.seed)
    print(tuning_page.write(workdir, found, space.apply(config, found[0].values)))
