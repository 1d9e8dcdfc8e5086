"""Lists the corpora that are read by name, or proposes how a folder can be read.

ser-jax corpora --guess --config.corpus.root=/data/recordings
"""

from ser_jax.commands.command_line import CONFIG, Flag, Options
from ser_jax.runtime.errors import UserError

FLAGS = (
    CONFIG,
    Flag("guess", False, "Propose a pattern for the recordings in --config.corpus.root."),
    Flag("markdown", False, "Print the table as Markdown, as it stands in docs/corpora.md."),
)


def main(options: Options) -> None:
    """Prints the table, or the proposal and what it would read."""
    from ser_jax.report import corpora_page

    if options.guess:
        root = options.config.corpus.root
        if not root:
            raise UserError("corpus.root is empty; set it to the folder of the recordings")
        print(corpora_page.guess(root))
    else:
        print(corpora_page.markdown() if options.markdown else corpora_page.table())
