"""A release with every defect that the doctor knows, beside recordings without any."""

import os
import shutil
from pathlib import Path

import numpy as np
import releases
import soundfile

RATE = releases.SAMPLE_RATE
MAX_SECONDS = 5.0  # features.max_seconds for this release

# What there is to find: file, severity, finding. Everything that is about one recording or row.
EXPECTED = {
    ("manifest.csv", "error", "bad line"),
    ("manifest.csv", "error", "duplicate"),
    ("manifest.csv", "error", "refused path"),
    ("bad/missing.wav", "error", "missing"),
    ("bad/empty.wav", "error", "unreadable"),
    ("bad/text.wav", "error", "unreadable"),
    ("bad/truncated.wav", "error", "truncated"),
    ("bad/nan.wav", "error", "non-finite"),
    ("bad/zero.wav", "error", "silent"),
    ("bad/huge.wav", "error", "over the limits"),
    ("bad/tiny.wav", "error", "too short"),
    ("bad/long.wav", "error", "too long"),
    ("bad/span.wav", "error", "span outside the file"),
    ("copies/other-label.wav", "warning", "copy with another label"),
    ("copies/other-speaker.wav", "warning", "copy in training and test"),
    ("copies/same.wav", "warning", "copy"),
    ("copies/samples.flac", "warning", "copy"),
    ("odd/short.wav", "warning", "short"),
    ("odd/clipped.wav", "warning", "clipped"),
    ("odd/near-silent.wav", "warning", "near-silent"),
    ("odd/quiet.wav", "note", "quiet"),
    ("odd/offset.wav", "warning", "offset"),
    ("odd/low-rate.wav", "warning", "low rate"),
    ("odd/high-rate.wav", "note", "high rate"),
    ("odd/stereo.wav", "note", "several channels"),
    ("odd/24-bit.wav", "note", "other encoding"),
    ("extra/unlisted.wav", "note", "unlisted"),
}


def noise(seconds: float = 0.75, peak: float = 0.5, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Returns noise [S] whose largest magnitude is `peak` and whose mean is 0."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    samples -= samples.mean()
    return samples * (peak / np.abs(samples).max())


def write_clean(root: Path) -> Path:
    """Writes a manifest corpus without defects (32 recordings); returns its folder."""
    return releases.write_manifest(root, releases.manifest_rows()).parent


def write_broken(root: Path) -> Path:
    """Writes a clean corpus and everything of `EXPECTED`, and returns its folder."""
    write_clean(root)
    for folder in ("bad", "copies", "odd", "extra"):
        (root / folder).mkdir()
    _write_bad(root / "bad")
    _write_odd(root / "odd")
    sound, copies = root / "audio/s0", root / "copies"
    shutil.copy(sound / "angry0.wav", copies / "other-label.wav")
    shutil.copy(sound / "happy0.wav", copies / "other-speaker.wav")
    shutil.copy(sound / "sad0.wav", copies / "same.wav")
    samples, _ = soundfile.read(sound / "sad1.wav", dtype="int16")
    soundfile.write(copies / "samples.flac", samples, RATE)
    soundfile.write(root / "extra/unlisted.wav", noise(seed=99), RATE)
    (root / "extra/._unlisted.wav").write_bytes(releases.APPLE_DOUBLE)
    _list(root / "manifest.csv")
    return root


def _write_bad(folder: Path) -> None:
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no recording")
    soundfile.write(folder / "truncated.wav", noise(seed=1), RATE)
    os.truncate(folder / "truncated.wav", 12000)
    soundfile.write(folder / "nan.wav", np.append(noise(seed=2), np.nan), RATE, subtype="FLOAT")
    soundfile.write(folder / "zero.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "huge.wav", 1e5 * noise(seed=3), RATE, subtype="FLOAT")
    soundfile.write(folder / "tiny.wav", noise(0.05, seed=4), RATE)
    soundfile.write(folder / "long.wav", noise(MAX_SECONDS + 1, seed=5), RATE)
    soundfile.write(folder / "span.wav", noise(seed=6), RATE)


def _write_odd(folder: Path) -> None:
    soundfile.write(folder / "short.wav", noise(0.2, seed=11), RATE)
    soundfile.write(folder / "clipped.wav", np.clip(noise(peak=3, seed=12), -1, 1), RATE)
    soundfile.write(folder / "near-silent.wav", noise(peak=10 ** (-66 / 20), seed=13), RATE)
    soundfile.write(folder / "quiet.wav", noise(peak=10 ** (-50 / 20), seed=14), RATE)
    soundfile.write(folder / "offset.wav", 0.05 + noise(seed=15), RATE)
    soundfile.write(folder / "low-rate.wav", noise(seed=16, rate=8000), 8000)
    soundfile.write(folder / "high-rate.wav", noise(seed=17, rate=44100), 44100)
    soundfile.write(folder / "stereo.wav", np.stack([noise(seed=18), noise(seed=19)], axis=1), RATE)
    soundfile.write(folder / "24-bit.wav", noise(seed=20), RATE, subtype="PCM_24")


def _list(manifest: Path) -> None:
    """Adds the rows, with the columns start and end, to the list."""
    header, *rows = manifest.read_text().splitlines()
    assert header == "file,label,speaker"
    rows = [f"{row},," for row in rows]
    special = {
        "bad/span.wav": "angry,s1,0.5,9.0",
        "copies/other-label.wav": "sad,s0,,",
        "copies/other-speaker.wav": "happy,s1,,",
        "copies/same.wav": "sad,s0,,",
        "copies/samples.flac": "sad,s0,,",
    }
    folders = ("bad/", "copies/", "odd/")
    files = sorted({file for file, _, _ in EXPECTED if file.startswith(folders)})
    rows += [f"{file},{special.get(file, 'neutral,s2,,')}" for file in files]
    rows += ["audio/s3/sad1.wav,happy,s3,,", "audio/s3/none.wav,,s3,,", "../outside.wav,sad,s3,,"]
    manifest.write_text("\n".join(["file,label,speaker,start,end", *rows]) + "\n")
