"""Log-mel and ComParE functionals: ser_jax against librosa, kaldi-native-fbank, openSMILE's pool.

    python bench/features.py --json=features.json       (peers: first run bench/peers.sh)

Log-mel: noise with the lengths of IEMOCAP's turns, 16 kHz float32; every side gets the same arrays,
has one process, one thread and the same core, and is checked before it is timed. librosa computes
the same values. kaldi-native-fbank rounds the FFT to 512 points (half the work) and draws its
triangles on the mel axis: only number, order and course of its frames are checked. Functionals: WAV
files on disk to 6373 values in memory (openSMILE) or in the store (ser_jax). The throughput is that
of workers that are ready; openSMILE starts its processes, by forking, within the timed call.
"""

import argparse
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import measure
import numpy as np
import workload

RATE, BANDS, FLOOR = 16000, 40, 1e-10
CHECKED = 10  # utterances compared before anything is timed
PEERS = Path(__file__).parent / ".venv/bin/python"

Frames = list[np.ndarray]  # per utterance [F, 40]


# What runs in the processes of the candidates: each imports its own library only.


def ser_jax_log_mel(waves: list[np.ndarray]) -> Callable[[], Frames]:
    """ser_jax, utterance by utterance."""
    from ser_jax.features.logmel import log_mel

    return lambda: [log_mel(wave, _settings()) for wave in waves]


def ser_jax_prepared(waves: list[np.ndarray]) -> Callable[[], Frames]:
    """The same with all of the preparation that features.* can ask for."""
    from ser_jax.features.logmel import log_mel
    from ser_jax.features.preparation import Mix, normalise, prepare

    mix = Mix(level="recording", remove_dc=True, trim="ends")
    return lambda: [normalise(log_mel(prepare(w, mix), _settings()), "utterance") for w in waves]


def librosa_melspectrogram(waves: list[np.ndarray]) -> Callable[[], Frames]:
    """As librosa is usually written.

    It centres the window in the FFT: 312 zeros at both ends make its frames ours.
    """
    import librosa

    padded, window = [np.pad(wave, 312) for wave in waves], np.hamming(400).astype(np.float32)
    options = {
        "sr": RATE,
        "n_fft": 1024,
        "win_length": 400,
        "hop_length": 160,
        "window": window,
        "center": False,
    }
    mel = {"n_mels": BANDS, "fmin": 0.0, "fmax": 8000.0, "htk": True, "norm": None, "power": 2.0}

    def work() -> Frames:
        return [
            np.log(np.maximum(librosa.feature.melspectrogram(y=y, **options, **mel), FLOOR)).T
            for y in padded
        ]

    return work


def librosa_stft(waves: list[np.ndarray]) -> Callable[[], Frames]:
    """The STFT of librosa, with one filterbank; `melspectrogram` makes one in every call."""
    import librosa

    padded, window = [np.pad(wave, 312) for wave in waves], np.hamming(400).astype(np.float32)
    filters = librosa.filters.mel(
        sr=RATE, n_fft=1024, n_mels=BANDS, fmin=0.0, fmax=8000.0, htk=True, norm=None
    )
    options = {
        "n_fft": 1024,
        "win_length": 400,
        "hop_length": 160,
        "window": window,
        "center": False,
    }

    def work() -> Frames:
        return [
            np.log(np.maximum(filters @ np.abs(librosa.stft(y, **options)) ** 2, FLOOR)).T
            for y in padded
        ]

    return work


def kaldi_arrays(waves: list[Any], shift_ms: float = 10.0) -> Callable[[], Frames]:
    """kaldi-native-fbank, each utterance at once, as the array that audio libraries return."""
    import kaldi_native_fbank as kaldi

    options = kaldi.FbankOptions()
    frame = options.frame_opts
    frame.dither, frame.preemph_coeff, frame.remove_dc_offset, frame.window_type = (
        0.0,
        0.0,
        False,
        "hamming",
    )
    frame.frame_shift_ms = shift_ms
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = (
        BANDS,
        0.0,
        8000.0,
    )

    def one(wave: Any) -> np.ndarray:
        extractor = kaldi.OnlineFbank(options)
        extractor.accept_waveform(RATE, wave)
        extractor.input_finished()
        return np.stack(
            [extractor.get_frame(number) for number in range(extractor.num_frames_ready)]
        )

    return lambda: [one(wave) for wave in waves]


def kaldi_lists(waves: list[np.ndarray]) -> Callable[[], Frames]:
    """The same with lists of floats, made beforehand: what its binding takes fastest."""
    return kaldi_arrays([wave.tolist() for wave in waves])


def kaldi_transfer(waves: list[np.ndarray]) -> Callable[[], Frames]:
    """The same with one frame per utterance: what the binding costs without the features."""
    return kaldi_arrays([wave.tolist() for wave in waves], shift_ms=1e6)


def opensmile_pool(folder: Path, workers: int, processes: bool) -> Callable[[], int]:
    """The pool of openSMILE, of threads or processes; its work returns the number of rows."""
    import opensmile

    smile = opensmile.Smile(
        opensmile.FeatureSet.ComParE_2016,
        opensmile.FeatureLevel.Functionals,
        num_workers=workers,
        multiprocessing=processes,
    )
    files = [str(path) for path in sorted(folder.glob("*.wav"))]
    return lambda: len(smile.process_files(files))


LOG_MEL = {
    # name in the table: (function above, whether it runs among the peers, the library)
    "ser_jax": (ser_jax_log_mel, False, "scipy"),
    "ser_jax, prepared": (ser_jax_prepared, False, "scipy"),
    "librosa, melspectrogram": (librosa_melspectrogram, True, "librosa"),
    "librosa, filterbank made once": (librosa_stft, True, "librosa"),
    "kaldi-native-fbank, arrays": (kaldi_arrays, True, "kaldi-native-fbank"),
    "kaldi-native-fbank, lists made beforehand": (kaldi_lists, True, "kaldi-native-fbank"),
    "kaldi-native-fbank, transfer only": (kaldi_transfer, True, "kaldi-native-fbank"),
}


def _settings() -> Any:
    from ser_jax.features.logmel import LogMelSettings

    return LogMelSettings(RATE, 0.025, 0.010, 1024, BANDS, 0.0, 8000.0, FLOOR)


def serve(job: dict[str, Any]) -> None:
    """A candidate's process: does its work once per line it reads and answers the seconds."""
    folder, begin = Path(job["folder"]), time.perf_counter()
    if job["pool"]:
        work: Callable[[], Any] = opensmile_pool(folder, *job["pool"])
    else:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        work = LOG_MEL[job["name"]][0](_waves(folder))
    ready = {"version": metadata.version(job["library"]), "seconds": time.perf_counter() - begin}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - begin
        if line.strip():  # the name of a file for the first results
            np.save(line.strip(), np.concatenate(result[:CHECKED]))
        print(json.dumps({"seconds": seconds}), flush=True)


class Candidate:
    """A candidate's process, and how to ask it to work."""

    def __init__(
        self,
        python: str,
        name: str,
        library: str,
        folder: Path,
        pool: tuple[int, bool] | None = None,
    ):
        """Starts it and waits until it is ready; `pool`: workers, whether they are processes."""
        self.name = name
        job = {"name": name, "library": library, "folder": str(folder), "pool": pool}
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [python, __file__, f"--serve={json.dumps(job)}"],
            env={**os.environ, **single},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self._answer()

    def seconds(self, save: str = "") -> float:
        """Lets it do its work once."""
        assert self.process.stdin is not None
        print(save, file=self.process.stdin, flush=True)
        return self._answer()["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} has ended; its message is above")
        return json.loads(line)


# Log-mel


def speech_like(count: int, seed: int = 0) -> list[np.ndarray]:
    """Returns noise with falling spectrum and four syllables a second, [S_n] f32 in [-1, 1]."""
    from scipy.signal import lfilter

    rng, waves = np.random.default_rng(seed), []
    for samples in rng.permutation(workload.samples(count)):
        noise = lfilter([0.02], [1.0, -0.9], rng.standard_normal(samples))
        waves.append(
            (noise * (1.1 + np.sin(2 * np.pi * 4 * np.arange(samples) / RATE))).astype(np.float32)
        )
    return waves


def _utterances(seconds: float) -> int:
    return max(CHECKED, round(seconds * RATE / workload.samples().mean()))


def _waves(folder: Path) -> list[np.ndarray]:
    return np.split(np.load(folder / "waves.npy"), np.cumsum(np.load(folder / "lengths.npy"))[:-1])


def check_log_mel(folder: Path, candidates: dict[str, Candidate]) -> dict[str, str]:
    """Compares the first utterances with ser_jax's; returns librosa's largest log difference.

    Raises:
      RuntimeError: If a candidate computes something else.
    """
    saved = {}
    for number, (name, candidate) in enumerate(candidates.items()):
        candidate.seconds(str(folder / f"{number}.npy"))
        saved[name] = np.load(folder / f"{number}.npy")
    ours, differences = saved["ser_jax"], {}
    for name, theirs in saved.items():
        if name.endswith(("transfer only", "prepared")):
            continue
        same = theirs.shape == ours.shape
        if name.startswith("kaldi"):
            same = same and np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.9
        elif same:
            difference = float(np.abs(theirs - ours).max())
            differences[name], same = f"{difference:.0e}", difference < 1e-3
        if not same:
            raise RuntimeError(f"{name} does not compute the frames of ser_jax: nothing is timed")
    return differences


def log_mel(folder: Path, python: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Times all of `LOG_MEL`; prints a table."""
    waves = speech_like(_utterances(seconds))
    lengths = np.array([len(wave) for wave in waves])
    np.save(folder / "waves.npy", np.concatenate(waves))
    np.save(folder / "lengths.npy", lengths)
    candidates = {
        name: Candidate(python if peer else sys.executable, name, library, folder)
        for name, (_, peer, library) in LOG_MEL.items()
    }
    differences = check_log_mel(folder, candidates)
    taken = measure.alternate(
        {name: candidate.seconds for name, candidate in candidates.items()}, rounds
    )
    for candidate in candidates.values():
        candidate.close()
    scale = 1000 * RATE / lengths.sum()
    medians = {name: scale * measure.median(values) for name, values in taken.items()}
    *_, lists, transfer = medians
    medians["kaldi-native-fbank, C++ part (difference of the two)"] = (
        medians[lists] - medians[transfer]
    )
    measure.print_table(
        f"Log-mel of 1000 s of audio on one core ({lengths.sum() / RATE:.0f} s in {len(lengths)}"
        f" utterances, median of {rounds} rounds)",
        ("", "s", "times ser_jax", "largest difference"),
        [
            (name, f"{value:.3f}", f"{value / medians['ser_jax']:.2f}", differences.get(name, "–"))
            for name, value in medians.items()
        ],
    )
    return {
        "audio_seconds": lengths.sum() / RATE,
        "seconds_per_1000": medians,
        "rounds": {name: [scale * value for value in values] for name, values in taken.items()},
        "largest_difference": differences,
        "versions": {
            library: candidates[name].ready["version"] for name, (_, _, library) in LOG_MEL.items()
        },
    }


# Functionals


@functools.cache
def _warm() -> None:
    from ser_jax.features import functionals as hsf

    hsf.functionals(np.zeros(RATE, np.float32))


def extract_timed(item: Any, store: Path) -> tuple[int, float]:
    """In a worker, with openSMILE loaded: the real job; returns process number and start time."""
    from ser_jax.features.extraction import extract_one

    _warm()
    begin = time.monotonic()
    error = extract_one(item, store_root=store, settings=_settings(), max_seconds=60.0)
    if error is not None:
        raise RuntimeError(str(error))
    return os.getpid(), begin


def ser_jax_pool(folder: Path, workers: int) -> tuple[float, float]:
    """Returns seconds until all workers are ready, and their mean seconds from ready to the end."""
    from ser_jax.features.extraction import Item
    from ser_jax.runtime.workers import run

    # Workers know this script as a module, not as the main program.
    job = importlib.import_module("features").extract_timed
    files = sorted(
        folder.glob("*.wav"), key=lambda path: -path.stat().st_size
    )  # the order of features/extraction.py
    items = [Item(path.stem, path, None, None, 0.0, {"hsf": path.stem}) for path in files]
    ready: dict[int, float] = {}
    begin = end = time.monotonic()
    for _, (worker, began) in run(
        functools.partial(job, store=folder / "store"), items, workers, processes=True
    ):
        ready[worker] = min(began, ready.get(worker, began))
        end = time.monotonic()
    return max(ready.values()) - begin, sum(end - began for began in ready.values()) / len(ready)


def functionals(folder: Path, python: str, files: int, rounds: int) -> dict[str, Any]:
    """Times ser_jax's pool and openSMILE's own on one core and on all; prints a table."""
    import soundfile

    for number, wave in enumerate(speech_like(files)):
        soundfile.write(folder / f"{number:05d}.wav", wave, RATE, subtype="PCM_16")
    cores = len(os.sched_getaffinity(0))
    starts: dict[str, list[float]] = {}

    def ours(name: str, workers: int) -> float:
        start, seconds = ser_jax_pool(folder, workers)
        starts.setdefault(name, []).append(start)
        return seconds

    more = [cores] if cores > 1 else []
    work: dict[str, Callable[[], float | None]] = {}
    for workers in [1, *more]:
        name = f"ser_jax, processes: {workers}"
        work[name] = functools.partial(ours, name, workers)
    candidates = []
    for workers, processes in [
        (1, False),
        *((cores, processes) for processes in (False, True) if more),
    ]:
        name = f"openSMILE, {'processes' if processes else 'threads'}: {workers}"
        candidates.append(Candidate(python, name, "opensmile", folder, (workers, processes)))
        starts[name] = [candidates[-1].ready["seconds"]]
        work[name] = candidates[-1].seconds
    taken = measure.alternate(work, rounds)
    for candidate in candidates:
        candidate.close()
    rates = {name: files / measure.median(values) for name, values in taken.items()}
    start = {name: measure.median(values) for name, values in starts.items()}
    one = rates["ser_jax, processes: 1"]
    measure.print_table(
        f"ComParE functionals of {files} WAV files ({workload.samples(files).mean() / RATE:.2f} s"
        f" on average, median of {rounds} rounds)",
        ("", "ready after, s", "files/s", "times ser_jax on one core"),
        [
            (name, f"{start[name]:.2f}", f"{rate:.1f}", f"{rate / one:.2f}")
            for name, rate in rates.items()
        ],
    )
    return {
        "files": files,
        "files_per_second": rates,
        "ready_seconds": start,
        "rounds": taken,
        "versions": {"opensmile": candidates[0].ready["version"]},
    }


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=1000.0, help="audio for log-mel; 0: leave it out"
    )
    parser.add_argument(
        "--files", type=int, default=200, help="files for the functionals; 0: leave them out"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count for log-mel")
    parser.add_argument(
        "--pool_rounds", type=int, default=3, help="rounds that count for the functionals"
    )
    parser.add_argument(
        "--peers", default=str(PEERS), help="Python with the peers, see bench/peers.sh"
    )
    parser.add_argument("--json", default="", help="file for the result")
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        serve(flags.serve)
        return
    result = measure.environment("ser_jax", "numpy", "scipy", "opensmile")
    with tempfile.TemporaryDirectory() as folder:
        if flags.seconds:
            result["log_mel"] = log_mel(Path(folder), flags.peers, flags.seconds, flags.rounds)
        if flags.files:
            result["functionals"] = functionals(
                Path(folder), flags.peers, flags.files, flags.pool_rounds
            )
    measure.write_json(flags.json, result)


if __name__ == "__main__":
    main()
