"""Where live samples come from: raw PCM on standard input, or a microphone."""

import logging
import os
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from ser_jax.errors import UserError

# Encoding → type of a sample; the bytes are little-endian.
ENCODINGS: dict[str, Any] = {"s16": np.int16, "f32": np.float32}
MICROPHONE_SECONDS = 0.1  # of a piece
_READ = 65536  # bytes; a pipe gives what is there
# How files begin whose header would be taken for samples.
_HEADERS = {b"RIFF": "WAV", b"RIFX": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3"}
_LONGEST_HEADER = max(map(len, _HEADERS))

log = logging.getLogger(__name__)


def standard_input(descriptor: int, encoding: str, channels: int) -> Iterator[np.ndarray]:
    """Yields raw PCM as it comes, until the input ends.

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
            "standard input is a terminal: pipe raw PCM into the command, such as "
            "ffmpeg -i a.mp3 -f s16le -ac 1 -ar 16000 - | python -m ser_jax.stream …, or add --microphone"
        )
    kind = np.dtype(ENCODINGS[encoding]).newbyteorder("<")
    size = kind.itemsize * channels
    rest, begun = b"", False

    def taken(content: bytes) -> np.ndarray:
        return np.frombuffer(content, kind).astype(ENCODINGS[encoding]).reshape(-1, channels)

    while part := os.read(descriptor, _READ):
        rest += part
        if not begun and len(rest) < _LONGEST_HEADER:
            continue
        if not begun:
            _check_raw(rest)
            begun = True
        whole = len(rest) // size * size
        yield taken(rest[:whole])
        rest = rest[whole:]
    if len(rest) >= size:  # fewer bytes than a header has
        yield taken(rest[: len(rest) // size * size])
    if len(rest) % size:
        log.warning("the input ends inside a sample of %d bytes; check --encoding and --channels", size)


def microphone(rate: int, encoding: str, channels: int) -> Generator[np.ndarray, None, None]:
    """Yields what the default microphone hears, for ever.

    Args:
      rate: Sampling rate in Hz.
      encoding: One of `ENCODINGS`.
      channels: Number of channels.

    Yields:
      [S, channels] samples of `MICROPHONE_SECONDS`.

    Raises:
      UserError: If the package sounddevice is missing, or no microphone does that.
    """
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]  # an extra
    except (ImportError, OSError) as error:  # OSError: the package is there, the library PortAudio is not
        raise UserError(
            f"the microphone needs sounddevice and PortAudio ({error}): "
            f"pip install 'ser_jax[mic]', or pipe raw PCM into the command"
        ) from None
    frames, lost = max(1, round(rate * MICROPHONE_SECONDS)), False
    try:
        device = sounddevice.InputStream(samplerate=rate, channels=channels, dtype=np.dtype(ENCODINGS[encoding]).name)
        with device:
            while True:
                samples, overflowed = device.read(frames)
                if overflowed and not lost:
                    log.warning("the microphone is faster than this machine: samples have been lost")
                lost = lost or overflowed
                yield samples
    except sounddevice.PortAudioError as error:
        raise UserError(
            f"the microphone cannot be used at {rate} Hz with {channels} channels ({error}); "
            f"try another --rate or --channels"
        ) from None


def _check_raw(content: bytes) -> None:
    for header, name in _HEADERS.items():
        if content.startswith(header):
            raise UserError(
                f"standard input begins as a {name} file, and raw PCM is read; "
                f"name the file instead: python -m ser_jax.predict --model=RUN FILE --timeline"
            )
