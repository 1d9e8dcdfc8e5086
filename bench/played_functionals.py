"""How far functionals move when a recording is played faster or louder: docs/tuning.md.

Augmentation by speed and loudness varies the log-mel only, so HSF-CRNN hears functionals of the
recording as it was. Prints how far those of the recording as it is played are away, in standard
deviations over all recordings, and for comparison those of other recordings.

    python bench/played_functionals.py --root=/data/emodb/wav --recordings=40
"""

import argparse
from fractions import Fraction
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile

from ser_jax.data.standardise import HSF_LIMIT, hsf_statistics
from ser_jax.features.functionals import functionals

SPEEDS, GAINS_DB = (0.9, 0.95, 1.05, 1.1), (-6, 6)


def main() -> None:
    """Prints a row of a Markdown table for every variation."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--root", type=Path, required=True, help="folder of 16 kHz recordings")
    flags.add_argument("--recordings", type=int, default=40, help="how many are varied")
    options = flags.parse_args()
    waves = [
        soundfile.read(path, dtype="float32")[0] for path in sorted(options.root.glob("*.wav"))
    ]
    hsf = np.stack([functionals(wave) for wave in waves])
    mean, std = hsf_statistics(hsf, np.arange(len(hsf)))

    def standardised(values: np.ndarray) -> np.ndarray:
        return np.clip((values - mean) / std, -HSF_LIMIT, HSF_LIMIT)[..., np.isfinite(std)]

    rng = np.random.default_rng(0)
    chosen = rng.choice(len(waves), options.recordings, replace=False)
    before = standardised(hsf[chosen])
    print("| variation | median | above 1 |\n|---|---|---|")

    def show(name: str, values: np.ndarray) -> None:
        moved = np.abs(standardised(values) - before)
        print(f"| {name} | {np.median(moved):.2f} | {100 * np.mean(moved > 1):.0f} % |")

    for speed in SPEEDS:
        up, down = Fraction(1 / speed).limit_denominator(100).as_integer_ratio()
        played = [scipy.signal.resample_poly(waves[n], up, down) for n in chosen]
        show(f"speed {speed}", np.stack([functionals(wave) for wave in played]))
    for gain in GAINS_DB:
        factor = np.float32(10 ** (gain / 20))
        show(f"{gain:+} dB", np.stack([functionals(factor * waves[n]) for n in chosen]))
    show("another recording", hsf[rng.permutation(chosen)])


if __name__ == "__main__":
    main()
