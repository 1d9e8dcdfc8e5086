"""Embeds the recordings of a corpus by a speech model in an ONNX file (docs/embeddings.md).

ser-jax embed --model=hubert.onnx --output=/data/emodb-hubert --config.corpus.name=emodb
--config.corpus.root=/data/emodb
"""

from pathlib import Path

from ser_jax.commands.command_line import CONFIG, Flag, Options
from ser_jax.runtime.errors import UserError

FLAGS = (
    Flag("model", "", "ONNX file whose input is 16 kHz waves, (rows, samples)."),
    Flag("output", "", "Folder for the embeddings; what is there already is not made again."),
    Flag(
        "outputs",
        [],
        "Outputs of the model to keep; several, or a pattern such as 'hidden_states.*', are stacked"
        " as layers. Default: the only one.",
    ),
    Flag(
        "normalise",
        False,
        "Bring every recording to mean 0 and variance 1 first (do_normalize of its feature"
        " extractor).",
    ),
    CONFIG,
)


def main(options: Options) -> None:
    """Embeds what has no embedding yet, and says how many there are."""
    from ser_jax.corpora import from_config
    from ser_jax.experiment import embed_corpus
    from ser_jax.features import audio
    from ser_jax.runtime.progress import counted

    for name in ("model", "output"):
        if not getattr(options, name):
            raise UserError(f"--{name} is missing: name the ONNX file and a folder for its output")
    folder = Path(options.output)
    corpus = from_config.read(options.config, folder / "rejected.csv", audio.length)
    from_config.log_warnings(corpus)
    count, new = embed_corpus.embed(
        *(options.config, corpus, Path(options.model), folder),
        outputs=options.outputs,
        normalise=options.normalise,
    )
    print(f"{counted(count, 'embedding')} in {folder}, {new} of them new")
