"""`tuning.html` and its lines for the terminal: what was tried, the best first."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ser_jax.config import Config
from ser_jax.report import page
from ser_jax.report.train_command import train_command
from ser_jax.runtime import files
from ser_jax.runtime.progress import counted
from ser_jax.tuning.search import Attempt

FILE = "tuning.html"
SHOWN = 5  # configurations on the terminal


def write(workdir: Path, attempts: Sequence[Attempt], best: Config) -> str:
    """Writes the page and returns what it holds, for the terminal.

    Args:
      workdir: Folder of the search.
      attempts: All tries, the best one first.
      best: Its configuration.
    """
    done = [attempt for attempt in attempts if not attempt.problem]
    command = ""
    if done:
        folder = shlex.quote(str(workdir / str(done[0].number)))
        command = f"{train_command(best)} \\\n  --workdir={folder}"
    keys, found, sentence = list(attempts[0].values), rows(attempts), summary(attempts)
    text = page.render(
        "tuning.html",
        summary=sentence,
        keys=keys,
        rows=found,
        failed=attempts[len(done) :],
        command=command,
    )
    files.write_text(workdir / FILE, text)
    lines = [f"{sentence}.", ""]
    for number, mean, spread, _, *values in found[:SHOWN]:
        chosen = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        lines.append(f"  try {number}: UA {mean} ± {spread}  {chosen}")
    if command:
        lines += ["", "The best one is trained; this scores it on the test parts:", command]
    return "\n".join([*lines, "", f"  page  {workdir / FILE}"])


def summary(attempts: Sequence[Attempt]) -> str:
    """Returns how many were tried and failed, and what the best score is worth."""
    done = [attempt for attempt in attempts if not attempt.problem]
    text = f"{counted(len(attempts), 'configuration')} tried"
    if len(done) < len(attempts):
        text += f", {len(attempts) - len(done)} of which failed"
    if done:
        median = np.median([attempt.ua for attempt in done])
        text += f"; validation UA {100 * done[0].ua:.1f} at best, {100 * median:.1f} in the median"
    return text


def rows(attempts: Sequence[Attempt]) -> list[list[str]]:
    """Returns number, mean and deviation of the UA in percent, UA per seed, and the values."""
    found = []
    for attempt in attempts:
        if not attempt.problem:
            percent = 100 * np.array(attempt.per_seed)
            spread = f"{percent.std(ddof=1):.1f}" if len(percent) > 1 else "–"
            values = (
                f"{v:.4g}" if isinstance(v, float) else str(v) for v in attempt.values.values()
            )
            seeds = " ".join(f"{ua:.1f}" for ua in percent)
            found.append([str(attempt.number), f"{percent.mean():.1f}", spread, seeds, *values])
    return found
