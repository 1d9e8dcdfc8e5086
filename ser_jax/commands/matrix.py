"""Trains on each of several corpora and tests on each: a table and a heat map of their UA.

ser-jax matrix --config=plain_crnn --corpora=emodb=/data/emodb,ravdess=/data/ravdess
"""

from pathlib import Path

from ser_jax.commands.command_line import CONFIG, Flag, Options
from ser_jax.runtime.errors import UserError

FLAGS = (
    CONFIG,
    Flag(
        "corpora",
        [],
        "The corpora, NAME=FOLDER each; another form of --config.corpus.name=A+B"
        " --config.corpus.root=FOLDER,FOLDER. Labels that not all of them have are left out, so map"
        " those that mean the same with --config.corpus.labels.",
    ),
    Flag(
        "workdir",
        "",
        "Folder of the runs, one per corpus, of matrix.json and the page; default:"
        " runs/matrix-<corpora>-<config file stem>.",
    ),
)


def main(options: Options) -> None:
    """Trains what is not trained yet, prints the table and writes the page."""
    from ser_jax.experiment import corpus_matrix, pipeline
    from ser_jax.report import console

    config = options.config
    if options.corpora:
        pairs = [each.partition("=") for each in options.corpora]
        if not all(name for name, _, _ in pairs):
            raise UserError(f"--corpora={','.join(options.corpora)}: write NAME=FOLDER,NAME=FOLDER")
        config.corpus.name = "+".join(name for name, _, _ in pairs)
        config.corpus.root = ",".join(folder for _, _, folder in pairs)
    corpora = config.corpus.name
    default = pipeline.default_workdir(config, corpora, options.config_file, "matrix")
    workdir = Path(options.workdir or default)
    found, runs = corpus_matrix.make(config, workdir)
    print(console.matrix_lines(found))
    from ser_jax.report import matrix_page  # Loads matplotlib: the table need not wait.

    print(f"\n  page    {matrix_page.write_matrix(workdir, found)}")
    for results in runs:
        pipeline.check_diverged(results)
