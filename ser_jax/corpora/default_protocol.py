"""Which protocol fits a corpus of the user's own: the one whose column is filled in every row."""

from ser_jax.corpora.listing import Listing, Unusable

GROUPINGS = ("split", "speaker", "session")  # in the order in which they are preferred


def default_protocol(listing: Listing, source: str) -> tuple[str, list[str]]:
    """Chooses the default protocol of a corpus that has no named ones.

    Args:
      listing: The rows read so far.
      source: Name of the list, for messages.

    Returns:
      The name of the protocol, such as "manifest-speaker", and warnings about preferred columns that are filled only in
      part.

    Raises:
      UserError: If no column says which rows belong together, so that no evaluation is free of leaks.
    """
    rows = listing.utterances
    filled = {name: sum(1 for row in rows if getattr(row, name)) for name in GROUPINGS}
    warnings = []
    for name in GROUPINGS:
        if filled[name] == len(rows):
            return f"{listing.name}-{name}", warnings
        if filled[name]:
            warnings.append(f"{source}: {name} is filled in {filled[name]} of {len(rows)} rows, so it makes no folds")
    found = ", ".join(f"{name} in {count}" for name, count in filled.items())
    raise Unusable(
        f"{source}: a leak-free evaluation needs a column speaker, session or split that is filled in every row; "
        f"of {len(rows)} usable rows, filled are {found}",
        listing.rejected,
    )
