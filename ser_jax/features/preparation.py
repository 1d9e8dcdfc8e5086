"""Prepares recordings for the models: channel, offset, silent ends, level, mean of the log-mel.

Sound is active where a block of 20 ms is no more than 15.9 dB below the mean power of all such
blocks, the margin of ITU-T P.56. That set is the same for every gain and with any silence around.
`prepare` needs the whole recording; `Running` and `RunningMean` follow a stream. This module must
not import jax: worker processes load it.
"""

import dataclasses

import numpy as np

from ser_jax.features import level
from ser_jax.features.pcm import MEAN, SAMPLE_RATE

LEVELS = ("none", "recording", "speaker", "rms", "lufs")  # values of features.level
RUNNING_LEVELS = ("none", "recording", "speaker")  # those that a stream can be brought to
ACTIVE_LEVELS = ("recording", "speaker")  # those that are levels of the active part
TRIMS = ("none", "ends")  # values of features.trim
NORMALISATIONS = ("training", "utterance", "speaker")  # values of features.normalisation

BLOCK = 320  # samples, 20 ms: active or not as a whole
ACTIVE_DBFS = -26.0  # level=recording: root mean square of the active part (ITU-T P.56)
MARGIN = 10**-1.59  # of power
# Before and after the active part so many blocks are kept, 0.2 s, as far as each has this power
# relative to it, -35 dB: soft sounds of the first and the last word, and no silence.
EDGE, FAINT = 10, 10**-3.5
_NOTHING = 1e-12  # power, -120 dBFS: what rounding leaves of an offset
# Root mean square of a block that may be speech, -65 dBFS: microphones and rooms make less alone.
AUDIBLE = 10 ** (-65 / 20)
LEAST_BLOCKS = 5  # audible ones that may be speech: 0.1 s

STEP = 5 * BLOCK  # samples, 0.1 s: a stream is prepared so many at a time
START_STEPS = 5  # so much is waited for when sound begins: 0.5 s
HISTORY = 1500  # blocks that offset and level of a stream are taken from: the last 30 s


def audible(samples: np.ndarray, least: float = AUDIBLE) -> np.ndarray:
    """Returns which whole blocks of samples [S] may hold speech, [S // BLOCK] bool.

    Those whose root mean square, without the mean of the block, is at least `least`.
    """
    blocks = samples[: len(samples) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return block_powers(samples) - blocks.mean(axis=1, dtype=np.float64) ** 2 >= least**2


def has_sound(count: int, blocks: int) -> bool:
    """The rule of "no speech": whether `count` audible ones of so many blocks are enough.

    0.1 s are, wherever they lie; of less sound than that, all of it.
    """
    return count >= min(LEAST_BLOCKS, blocks) > 0


class Sound:
    """Counts the audible blocks of a stream of samples at 16 kHz."""

    def __init__(self):
        """Starts before the first sample."""
        self._rest, self._count, self._blocks = np.zeros(0, np.float32), 0, 0

    def push(self, samples: np.ndarray) -> None:
        """Takes the next samples [S] f32."""
        samples = np.concatenate([self._rest, samples])
        found = audible(samples)
        self._rest = samples[len(found) * BLOCK :].copy()
        self._count, self._blocks = self._count + int(found.sum()), self._blocks + len(found)

    @property
    def present(self) -> bool:
        """Whether there has been enough to be speech."""
        return has_sound(self._count, self._blocks)


@dataclasses.dataclass(frozen=True, slots=True)
class Mix:
    """How recordings become the samples that models read: keys of the section `features`."""

    channel: str = MEAN
    level: str = "none"
    remove_dc: bool = False
    trim: str = "none"
    # level=speaker: the factor of a speaker's recordings, no key of the configuration; None: not
    # known, each recording has its own as with level=recording
    gain: float | None = None

    def settings(self) -> dict[str, str | bool | float]:
        """Returns what differs from the default: names features in the store."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v != getattr(USUAL, k)}


USUAL = Mix()


def prepare(samples: np.ndarray, mix: Mix) -> np.ndarray:
    """Prepares a recording; its channel has been chosen before.

    Offset, then silent ends, then level: the factor is never larger than what keeps all samples in
    [-1, 1]. Without active sound neither ends nor level change.

    Args:
      samples: [S] f32, 16 kHz mono, in [-1, 1].
      mix: What is to be done.

    Returns:
      [S'] f32, in [-1, 1] to rounding, S' ≤ S.
    """
    if mix.remove_dc:
        samples = samples - samples.mean()
    powers, kept = np.zeros(0), np.zeros(0, bool)
    if mix.trim == "ends" or mix.level in ACTIVE_LEVELS:
        powers = block_powers(samples)
        kept = active(powers)
    if mix.trim == "ends" and kept.any():
        first, last = ends(powers, kept)
        samples = samples[first * BLOCK : None if last == len(powers) else last * BLOCK]
    peak = float(max(samples.max(), -samples.min()))
    gain = mix.gain
    if gain is None and mix.level in ACTIVE_LEVELS:
        gain = level_gain(powers[kept])
    elif gain is None and mix.level != "none" and peak > 0:
        gain = level.gain(samples.astype(np.float64), SAMPLE_RATE, mix.level)
    factor = 1.0 if gain is None else gain
    factor = min(factor, 1 / peak) if factor * peak > 1 else factor
    if factor == 1:
        return samples
    own = samples if mix.remove_dc else None  # a new array would cost as much again
    return np.multiply(samples, np.float32(factor), out=own)


def block_powers(samples: np.ndarray) -> np.ndarray:
    """Returns the mean square [S // BLOCK] of every whole block of samples [S]."""
    blocks = samples[: len(samples) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return np.einsum("ij,ij->i", blocks, blocks).astype(np.float64) / BLOCK


def active(powers: np.ndarray) -> np.ndarray:
    """Returns which blocks are active, [N] bool, given their powers [N].

    The largest set whose members all reach `MARGIN` times the mean of the set.
    """
    kept = powers > _NOTHING
    while kept.any():
        fewer = powers >= MARGIN * powers[kept].mean()
        if fewer.sum() == kept.sum():
            break
        kept = fewer
    return kept


def ends(powers: np.ndarray, kept: np.ndarray) -> tuple[int, int]:
    """Returns the first block to keep and the one behind the last, given what is active."""
    first, last = np.flatnonzero(kept)[[0, -1]].tolist()
    faint = powers < FAINT * powers[kept].mean()
    before, behind = faint[max(0, first - EDGE) : first][::-1], faint[last + 1 :][:EDGE]
    return first - _run(~before), last + 1 + _run(~behind)


def _run(values: np.ndarray) -> int:
    """Length of the run of true values at the beginning."""
    return len(values) if values.all() else int(values.argmin())


def level_gain(powers: np.ndarray) -> float | None:
    """Returns the factor from the powers [N] of active blocks to `ACTIVE_DBFS`; None for none."""
    return 10 ** (ACTIVE_DBFS / 20) / float(np.sqrt(powers.mean())) if len(powers) else None


def loudness_facts(samples: np.ndarray) -> np.ndarray:
    """Returns what a speaker's gain follows from, [3] f64: see `speaker_gain`."""
    powers = block_powers(samples)
    kept = active(powers)
    return np.array([powers[kept].sum(), kept.sum(), np.abs(samples).max()], np.float64)


def speaker_gain(facts: np.ndarray) -> float | None:
    """Returns the factor that brings all recordings of a speaker together to `ACTIVE_DBFS`.

    It is never larger than what keeps all their samples in [-1, 1]; to 0.1 dB, so that a recording
    more does not make new features of all others.

    Args:
      facts: [n, 3], of every recording the sum of the powers of its active blocks, the number of
        these blocks, and the largest magnitude of its samples.

    Returns:
      The factor; None if nothing is active.
    """
    power, blocks, peak = facts[:, 0].sum(), facts[:, 1].sum(), facts[:, 2].max()
    if not blocks:
        return None
    decibels = min(ACTIVE_DBFS - 10 * np.log10(power / blocks), -20 * np.log10(peak))
    return float(10 ** (np.floor(10 * decibels) / 200))


def normalise(frames: np.ndarray, normalisation: str) -> np.ndarray:
    """Returns log-mel frames [F, M] f32 as features.normalisation says.

    `utterance`: less the mean of each band over the utterance. With `speaker` they stay as they
    are: they are standardised with the batch (data/standardise.py).
    """
    if normalisation != "utterance":
        return frames
    return frames - frames.mean(axis=0)


class Running:
    """`prepare` for a stream, block by block: offset and level of the last 30 s.

    Samples are held back for up to 0.1 s, and for 0.5 s where sound begins, so that there is a
    level to begin with. Ends are not cut here (`prediction/segments.py` leaves them out).
    """

    def __init__(self, mix: Mix):
        """Starts before the first sample; `mix.level` is one of `RUNNING_LEVELS`."""
        self._mix = mix
        self._rest, self._held = np.zeros(0, np.float32), []
        self._blocks = np.zeros((0, 3))  # mean, mean square and peak of each
        self._waits = 0  # steps until what is held may go

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Returns what is ready of samples [S] f32 and those before; the same for any pieces."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // STEP * STEP
        self._rest = samples[whole:]
        return _joined([self._step(step) for step in samples[:whole].reshape(-1, STEP)])

    def end(self) -> np.ndarray:
        """Returns the rest."""
        self._waits = 0
        return self._step(self._rest)

    def _step(self, step: np.ndarray) -> np.ndarray:
        silent = not self._audible().any()
        blocks = step[: len(step) // BLOCK * BLOCK].reshape(-1, BLOCK).astype(np.float64)
        facts = blocks.mean(axis=1), (blocks**2).mean(axis=1), np.abs(blocks).max(axis=1)
        self._blocks = np.concatenate([self._blocks, np.stack(facts, axis=1)])[-HISTORY:]
        self._held.append(step)
        if len(step) == STEP and silent and self._audible().any():
            self._waits = START_STEPS
        self._waits = max(0, self._waits - 1)
        if self._waits:
            return step[:0]
        samples, self._held = _joined(self._held), []
        samples = samples - np.float32(self._offset())
        if self._mix.level in ACTIVE_LEVELS and (powers := self._powers()[self._audible()]).size:
            factor = self._mix.gain or level_gain(powers[active(powers)]) or 1.0
            highest = self._blocks[:, 2].max() + abs(self._offset())
            samples = (samples * min(factor, 1 / highest)).astype(np.float32)
        return np.clip(samples, -1.0, 1.0)

    def _offset(self) -> float:
        means = self._blocks[:, 0]
        return float(means.mean()) if self._mix.remove_dc and len(means) else 0.0

    def _powers(self) -> np.ndarray:
        offset = self._offset()
        return self._blocks[:, 1] - 2 * offset * self._blocks[:, 0] + offset**2

    def _audible(self) -> np.ndarray:
        return self._blocks[:, 1] - self._blocks[:, 0] ** 2 >= AUDIBLE**2


class RunningMean:
    """`normalise` for a stream: less the mean of all frames so far that are not silent."""

    def __init__(self, least: float):
        """Starts before the first frame; silent: the energies of the bands add up to less."""
        self._least, self._total, self._count = least, 0.0, 0.0

    def push(self, frames: np.ndarray) -> np.ndarray:
        """Returns the next frames [F, M] f32, normalised."""
        counted = np.exp(frames.astype(np.float64)).sum(axis=1) >= self._least
        totals = self._total + np.cumsum(np.where(counted[:, None], frames, 0.0), axis=0)
        counts = self._count + np.cumsum(counted)
        if len(frames):
            self._total, self._count = totals[-1], counts[-1]
        means = np.where(counts[:, None] > 0, totals / np.maximum(counts, 1)[:, None], frames)
        return frames - means.astype(np.float32)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
