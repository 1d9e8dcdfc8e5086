"""What preparation is worth: labels that stay when a recorder is changed, and streams.

    python bench/preparation.py --root=/data/emodb

A final model is trained for every way to prepare. It predicts every fourth recording of the corpus
as it is and changed; the table holds the share of labels that stay. The second table compares
`predict` with a stream of the same recordings, clean.
"""

import argparse
import collections
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import ser_jax
from ser_jax.prediction.streaming import Stream

RATE = 16000
WAYS: dict[str, dict[str, Any]] = {
    "none": {"remove_dc": False, "trim": "none", "level": "none"},
    "remove_dc, trim": {"level": "none"},
    "remove_dc, trim, level": {},
    "the same, utterance": {"normalisation": "utterance"},
}


def _silence(seconds: float, dbfs: float = -np.inf) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    return (10 ** (dbfs / 20) * noise).astype(np.float32)


def _telephone(wave: np.ndarray) -> np.ndarray:
    from scipy import signal

    band: Any = signal.butter(4, (300, 3400), "bandpass", fs=RATE, output="sos")
    return np.asarray(signal.sosfilt(band, wave), np.float32)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "20 dB quieter": lambda wave: 0.1 * wave,
    "40 dB quieter": lambda wave: 0.01 * wave,
    "offset of 0.01": lambda wave: wave + np.float32(0.01),
    "1 s of silence before": lambda wave: np.concatenate([_silence(1), wave]),
    "3 s of silence behind": lambda wave: np.concatenate([wave, _silence(3)]),
    "1 s of noise, -70 dBFS, around": lambda wave: np.concatenate(
        [_silence(1, -70), wave, _silence(1, -70)]
    ),
    "telephone band": _telephone,
    "8 bits": lambda wave: np.round(wave * 128).astype(np.float32) / 128,
    "white noise, -50 dBFS": lambda wave: wave + _silence(len(wave) / RATE, -50),
}


def measure(preset: str, root: str, keys: dict[str, Any], folder: Path) -> tuple[list[str], ...]:
    """Trains and predicts; returns the cells of both tables."""
    settings: dict[str, Any] = {f"features.{key}": value for key, value in keys.items()}
    settings["protocol.name"] = "emodb-final"
    ser_jax.train(preset, corpus="emodb", root=root, settings=settings, workdir=folder)
    predictor = ser_jax.load(folder)
    files = sorted(Path(root).rglob("*.wav"))[::4]
    waves = [np.asarray(soundfile.read(file, dtype="float32")[0]) for file in files]
    labels = [found.label for found in predictor.predict(waves, RATE)]
    cells = []
    for change in CHANGES.values():
        found = [one.label for one in predictor.predict([change(w) for w in waves], RATE)]
        stay = np.mean([one == other for one, other in zip(found, labels, strict=True)])
        name, count = collections.Counter(found).most_common(1)[0]
        cells.append(f"{stay:.0%} ({name} {count})")
    streamed = []
    for wave in waves:
        stream = Stream(predictor, RATE)
        stream.push(wave)
        streamed.append(stream.finish())
    whole = predictor.predict(waves, RATE)
    apart = [
        max(abs(one.probabilities[name] - share) for name, share in other.probabilities.items())
        for one, other in zip(streamed, whole, strict=True)
    ]
    stay = np.mean([one.label == label for one, label in zip(streamed, labels, strict=True)])
    return cells, [f"{stay:.0%}", f"{np.median(apart):.3f}", f"{np.quantile(apart, 0.9):.3f}"]


def main() -> None:
    """Parses the flags and prints two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of EMO-DB")
    parser.add_argument("--preset", default="tuned/plain_crnn")
    parser.add_argument("--ways", default=",".join(map(str, range(len(WAYS)))), help="0,1,…")
    flags = parser.parse_args()
    names = [list(WAYS)[int(number)] for number in flags.ways.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        found = [
            measure(flags.preset, flags.root, WAYS[name], Path(folder) / str(number))
            for number, name in enumerate(names)
        ]
    print("\n| label stays |", " | ".join(names), "|")
    print("|---|" + "---|" * len(names))
    for row, change in enumerate(CHANGES):
        print(f"| {change} |", " | ".join(cells[row] for cells, _ in found), "|")
    print("\n| stream against predict |", " | ".join(names), "|")
    for row, what in enumerate(("same label", "difference, median", "difference, 90 %")):
        print(f"| {what} |", " | ".join(cells[row] for _, cells in found), "|")


if __name__ == "__main__":
    main()
