"""From a configuration to a protocol and a page about it, without features and without jax."""

from pathlib import Path

from ser_jax import atomic, reading
from ser_jax.config import Config
from ser_jax.errors import UserError
from ser_jax.protocols import registry
from ser_jax.protocols.describe import describe
from ser_jax.protocols.protocol import Protocol


def make_page(config: Config, rejected: Path) -> tuple[Protocol, str]:
    """Makes the protocol that a training would use if every recording that is there can be read.

    Args:
      config: The resolved configuration.
      rejected: File for the rows that cannot be used, if there are any.

    Returns:
      The protocol and the page about it.

    Raises:
      UserError: If the corpus or the protocol cannot be used; missing recordings are all listed in `rejected`.
    """
    corpus = reading.read(config, rejected)
    name, spec = registry.find_spec(config.protocol.name, corpus)
    chosen = registry.select(spec, corpus)
    protocol, warnings = registry.build_protocol(name, spec, chosen, chosen.utterances, refit=config.training.refit)
    counts = registry.compare_counts(spec.counts, chosen.utterances)
    notes = [*corpus.warnings, *warnings]
    if corpus.rejected:
        reading.list_rejected(rejected, corpus.rejected)
        notes.append(f"{len(corpus.rejected)} rows cannot be used, all listed in {rejected}")
    return protocol, describe(protocol, root=str(corpus.root), counts=counts, notes=notes)


def write(path: Path, protocol: Protocol) -> None:
    """Writes a protocol as `protocol.json` in a run directory is written.

    Raises:
      UserError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(path, protocol.to_json(), indent=None)
    except OSError as error:
        raise UserError(f"--output={path} cannot be written: {error.strerror}") from None
