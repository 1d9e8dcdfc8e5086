"""Live input (raw PCM on standard input, or a microphone) and printing of its predictions."""

import json
import logging
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np

from ser_jax.features.pcm import NO_SPEECH
from ser_jax.prediction.predictor import Prediction
from ser_jax.prediction.streaming import Moment, Stream
from ser_jax.runtime import files, signals
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

# Encoding → type of a sample; the bytes are little-endian.
ENCODINGS: dict[str, Any] = {"s16": np.int16, "f32": np.float32}
MICROPHONE_SECONDS = 0.1  # of a piece
_READ = 65536  # bytes; a pipe gives what is there
_POLL = 0.05  # s between two looks at whether a signal has come
# How files begin whose header would be taken for samples.
_HEADERS = {b"RIFF": "WAV", b"RIFX": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3"}
_LONGEST_HEADER = max(map(len, _HEADERS))

log = logging.getLogger(__name__)


def standard_input(descriptor: int, encoding: str, channels: int) -> Iterator[np.ndarray]:
    """Yields raw PCM as it comes, until the input ends or a signal is received.

    Args:
      descriptor: File descriptor to read.
      encoding: One of `ENCODINGS`; little-endian, channels interleaved.
      channels: Number of channels.

    Yields:
      [S, channels] samples.

    Raises:
      UserError: If it is a terminal, or begins as an audio file does.
    """
    if os.isatty(descriptor):
        raise UserError(
            "standard input is a terminal: pipe raw PCM into the command, such as ffmpeg -i a.mp3"
            " -f s16le -ac 1 -ar 16000 - | ser-jax stream …, or add --microphone"
        )
    kind = np.dtype(ENCODINGS[encoding]).newbyteorder("<")
    size = kind.itemsize * channels
    rest, checked = b"", False

    def samples_of(content: bytes) -> np.ndarray:
        return np.frombuffer(content, kind).astype(ENCODINGS[encoding]).reshape(-1, channels)

    while part := _read(descriptor):
        rest += part
        if not checked and len(rest) < _LONGEST_HEADER:
            continue
        if not checked:
            _check_raw(rest)
            checked = True
        whole = len(rest) // size * size
        yield samples_of(rest[:whole])
        rest = rest[whole:]
    if len(rest) >= size:  # fewer bytes than a header has
        yield samples_of(rest[: len(rest) // size * size])
    if len(rest) % size and signals.received() is None:
        log.warning(
            "the input ends inside a sample of %d bytes; check --encoding and --channels", size
        )


def _read(descriptor: int) -> bytes:
    while signals.received() is None:
        if select.select([descriptor], [], [], _POLL)[0]:
            return os.read(descriptor, _READ)
    return b""


def microphone(
    rate: int, encoding: str, channels: int, device: str = ""
) -> Generator[np.ndarray, None, None]:
    """Yields the samples of a microphone, for ever.

    Args:
      device: Its number, or a part of its name; empty: the default.
      rate: Sampling rate in Hz.
      encoding: One of `ENCODINGS`.
      channels: Number of channels.

    Yields:
      [S, channels] samples of `MICROPHONE_SECONDS`.

    Raises:
      UserError: If the package sounddevice is missing, or no microphone does that.
    """
    sounddevice = _sounddevice()
    which: Any = {"device": int(device) if device.isdigit() else device} if device else {}
    frames, lost = max(1, round(rate * MICROPHONE_SECONDS)), False
    try:
        stream = sounddevice.InputStream(
            samplerate=rate, channels=channels, dtype=np.dtype(ENCODINGS[encoding]).name, **which
        )
        with stream:
            while True:
                samples, overflowed = stream.read(frames)
                if overflowed and not lost:
                    log.warning("the microphone outruns this machine: samples have been lost")
                lost = lost or overflowed
                yield samples
    except (sounddevice.PortAudioError, ValueError) as error:  # ValueError: no such device
        name = f" {device}" if device else ""
        raise UserError(
            f"the microphone{name} cannot be used at {rate} Hz with"
            f" {counted(channels, 'channel')} ({error}); try another --rate or --channels, or a"
            " --device that --devices lists"
        ) from None


def microphones() -> list[str]:
    """Returns a line per microphone: its number, name, channels and rate.

    Raises:
      UserError: If the package sounddevice is missing.
    """
    devices = enumerate(_sounddevice().query_devices())
    return [
        f"{number:4}  {one['name']} ({counted(one['max_input_channels'], 'channel')},"
        f" {one['default_samplerate']:.0f} Hz)"
        for number, one in devices
        if one["max_input_channels"]
    ]


def _sounddevice() -> Any:
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]  # an extra
    except (ImportError, OSError) as error:  # OSError: PortAudio, the library, is missing
        raise UserError(
            f"the microphone needs sounddevice and PortAudio ({error}): "
            "pip install 'ser_jax[mic]', or pipe raw PCM into the command"
        ) from None
    return sounddevice


def _check_raw(content: bytes) -> None:
    for header, name in _HEADERS.items():
        if content.startswith(header):
            raise UserError(
                f"standard input begins as a {name} file, and raw PCM is read; name the file"
                " instead: ser-jax predict --model=RUN FILE --timeline"
            )


Print = Callable[[Moment | Prediction], None]


def listen(stream: Stream, source: Iterable[np.ndarray], show: Print) -> None:
    """Follows a source until it ends or Ctrl-C is pressed, then predicts for all of it.

    `show` is called with every moment and, last, with the prediction.

    Raises:
      UserError: If samples or the stream cannot be used.
      Interrupted: After SIGTERM.
    """
    with signals.Closing() as watch:
        for samples in source:
            for moment in stream.push(samples):
                show(moment)
            if watch.received is not None:
                break
        if watch.received == signal.SIGTERM:
            raise signals.Interrupted(signal.SIGTERM)
        for moment in stream.drain():
            show(moment)
        show(stream.finish())


def printer(as_json: bool) -> Print:
    """Returns how to print on standard output: JSON, plain lines, or (terminal) one line."""
    if as_json:
        return _print_json
    return _print_in_place if sys.stdout.isatty() else _print_line


def _print_json(found: Moment | Prediction) -> None:
    if isinstance(found, Moment):
        names = ("start", "end", "window", "so_far")
    else:
        names = ("label", "probabilities", "seconds", "flags")
    record = {name: getattr(found, name) for name in names}
    if isinstance(found, Moment):
        record["label"] = _label(found)
    print(json.dumps(files.plain(record), allow_nan=False), flush=True)


def _print_line(found: Moment | Prediction) -> None:
    print(_text(found), flush=True)


def _print_in_place(found: Moment | Prediction) -> None:
    width = shutil.get_terminal_size().columns - 1
    end = "" if isinstance(found, Moment) else "\n"
    print(f"\r\x1b[K{_text(found)[:width]}", end=end, flush=True)


def _text(found: Moment | Prediction) -> str:
    if isinstance(found, Moment):
        place, shares = f"{found.end:8.2f} s", found.window
        label = _label(found)
    else:
        place, shares, label = f"all {found.seconds:.2f} s", found.probabilities, str(found.label)
    listed = "  ".join(f"{name} {share:.3f}" for name, share in shares.items())
    return f"{place}  {label:<{max(map(len, (*shares, NO_SPEECH)))}}  {listed}".rstrip()


def _label(found: Moment) -> str:
    """The class of the window."""
    return max(found.window, key=found.window.__getitem__, default=NO_SPEECH)
