"""Shows what the cache folder holds, and removes features that were not used for long.

ser-jax cache --prune --most_gb=5
"""

from ser_jax.commands.command_line import Flag, Options
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

FLAGS = (
    Flag("prune", False, "Remove features, the longest unread first, down to --most_gb."),
    Flag("most_gb", 0.0, "How many GB of features --prune leaves; 0: none."),
)


def main(options: Options) -> None:
    """Prints the folder and the size of each part of it; with --prune after removing features."""
    from ser_jax.runtime import machine

    if options.most_gb and not options.prune:
        raise UserError(f"--most_gb={options.most_gb:g} is for --prune; add that, or leave it out")
    if not 0 <= options.most_gb < float("inf"):
        raise UserError(f"--most_gb={options.most_gb:g}; it must be at least 0 and finite")
    folder = machine.cache_folder()
    if options.prune:
        count, size = machine.prune(folder / "features", options.most_gb * 1e9)
        entries = counted(count, "entry", "entries")
        print(f"removed {entries} of features, {size / 1e9:.3f} GB")
    print(folder)
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        sizes = machine.sizes(part)
        size = sum(size for _, size in sizes.values()) / 1e9
        print(f"  {part.name:<10} {size:10.3f} GB in {counted(len(sizes), 'file')}")
