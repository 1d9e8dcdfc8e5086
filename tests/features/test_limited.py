"""The limited decoder: the same recordings, and a typed reason for whatever a hostile file does to its process."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import bad_recordings
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ser_jax.errors import UserError
from ser_jax.features import audio, limited
from ser_jax.features.bad_audio import REASONS, BadAudio
from ser_jax.features.limited import LimitedDecoder

ROOT = Path(__file__).parents[2]
HOSTILE = (str(Path(__file__).with_name("hostile_child.py")),)
MEGABYTE = 1024**2


def noise(seconds: float = 0.5) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * 16000)).astype(np.float32)


def reason(decoder: LimitedDecoder, path: Path) -> str:
    with pytest.raises(BadAudio) as info:
        decoder.decode(path)
    return str(info.value)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "good.wav"
    path.write_bytes(bad_recordings.encoded(noise()))
    return path


@pytest.fixture(scope="module")
def decoder():
    with LimitedDecoder(max_seconds=10.0) as made:
        yield made


# --- What it is for ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"format": "WAV", "subtype": "PCM_24"},
        {"format": "FLAC", "rate": 44100},
        {"format": "OGG", "rate": 8000},
        {"format": "MP3"},
    ],
)
def test_it_decodes_as_the_program_does(decoder, tmp_path, options):
    path = tmp_path / "a"
    path.write_bytes(bad_recordings.encoded(np.stack([noise(), 3 * noise()], axis=1), **options))
    found, expected = decoder.decode(path), audio.decode(path, max_seconds=10.0)
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert found.samples.dtype == np.float32 and found.samples.flags.writeable
    for name in ("seconds", "rate", "channels", "encoding", "flags"):
        assert getattr(found, name) == getattr(expected, name)


def test_the_longest_recording_passes(decoder, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(bad_recordings.encoded(np.stack([noise(10.0)] * 8, axis=1), 16001))  # 160,000 samples or one less
    assert abs(decoder.decode(path).seconds - 10.0) < 1e-3


def test_names_of_any_kind(decoder, tmp_path, monkeypatch, sound):
    content = sound.read_bytes()
    for name in ('quote" and\nline', "ünïcode", os.fsdecode(b"latin-\xfc"), "-rf"):
        (tmp_path / name).write_bytes(content)
        assert decoder.decode(tmp_path / name).seconds == 0.5
    monkeypatch.chdir(tmp_path)
    assert decoder.decode("-rf").seconds == 0.5  # relative to this process's folder, not to the child's
    assert reason(decoder, tmp_path / "none.wav") == "missing: no such file"
    assert reason(decoder, tmp_path / "a\0b").startswith("unreadable: embedded null")


def test_one_child_serves_all_files_of_all_threads(sound):
    with LimitedDecoder(max_seconds=10.0) as decoder:
        decoder.decode(sound)
        child = decoder._child
        found = []
        threads = [threading.Thread(target=lambda: found.append(decoder.decode(sound).samples)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8 and all(np.array_equal(found[0], samples) for samples in found)
        assert decoder._child is child and child is not None
    assert child.returncode is not None and decoder._child is None


# --- Hostile files ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hostile(monkeypatch, **limits):
    monkeypatch.setattr(limited, "_COMMAND", HOSTILE)
    with LimitedDecoder(max_seconds=10.0, **limits) as made:
        yield made


@pytest.mark.parametrize(
    ("name", "limits", "expected"),
    [
        ("segfault", {}, "unreadable: the decoder crashed (signal SIGSEGV); a damaged or hostile file"),
        ("abort", {}, "unreadable: the decoder crashed (signal SIGABRT); a damaged or hostile file"),
        ("kill", {}, "unreadable: the decoder crashed (signal SIGKILL); a damaged or hostile file"),
        ("exit", {}, "unreadable: the decoder crashed (exit code 3); a damaged or hostile file"),
        ("spin", {"cpu_seconds": 1}, "over the limits: decoding takes too long; cpu_seconds=1"),
        ("sleep", {"wall_seconds": 3}, "over the limits: decoding takes too long; wall_seconds=3"),
        ("memory", {"memory_bytes": 64 * MEGABYTE}, "over the limits: decoding needs more than 64 MiB of memory"),
        ("defect", {}, "unreadable: the decoder fails (ZeroDivisionError: by nothing)"),
        ("write", {}, "unreadable: the decoder fails (OSError: [Errno 27] File too large)"),
        ("reason", {}, "unreadable: the decoder's answer is no recording; a hostile file"),
        ("answer-nan", {}, "unreadable: the decoder's answer is no recording; a hostile file"),
        ("answer-loud", {}, "unreadable: the decoder's answer is no recording; a hostile file"),
        ("answer-other", {}, "unreadable: the decoder's answer is no recording; a hostile file"),
        ("answer-flag", {}, "unreadable: the decoder's answer is no recording; a hostile file"),
        ("answer-empty", {}, "unreadable: the decoder's answer is no recording; a hostile file"),
        ("answer-long", {}, "unreadable: the decoder crashed (signal SIGKILL); a damaged or hostile file"),
    ],
)
def test_whatever_a_file_does_is_a_reason_and_the_next_one_is_decoded(monkeypatch, sound, name, limits, expected):
    path = sound.with_name(f"{name}.wav")
    path.write_bytes(sound.read_bytes())
    with hostile(monkeypatch, **limits) as decoder:
        decoder.decode(sound)
        child = decoder._child
        assert reason(decoder, path) == expected
        assert decoder.decode(sound).seconds == 0.5
        # An answer that cannot be right is the only one after which the child itself is not trusted any more.
        assert decoder._child is child


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stuck", "over the limits: decoding takes too long; wall_seconds=3"),
        ("orphan", "unreadable: the process that decodes it dies; a hostile file, or too little memory"),
    ],
)
def test_a_child_that_keeps_no_limit_is_replaced(monkeypatch, sound, name, expected):
    """The decoder ignores the clock, or ends the process that watches over it; nothing of it is left."""
    monkeypatch.setattr(limited, "_GRACE_SECONDS", 0.5)
    path = sound.with_name(f"{name}.wav")
    with hostile(monkeypatch, wall_seconds=3) as decoder:
        assert decoder.decode(sound).seconds == 0.5
        child = decoder._child
        assert child is not None
        assert reason(decoder, path) == expected
        with pytest.raises(ProcessLookupError):
            for _ in range(200):  # killed, but perhaps not yet collected by the system
                os.killpg(child.pid, 0)
                time.sleep(0.05)
        assert decoder.decode(sound).seconds == 0.5 and decoder._child is not child


def test_what_a_decoder_prints_goes_nowhere(monkeypatch, sound, capfd):
    path = sound.with_name("noise.wav")
    path.write_bytes(sound.read_bytes())
    with hostile(monkeypatch) as decoder:
        assert decoder.decode(path).seconds == decoder.decode(sound).seconds == 0.5
    assert capfd.readouterr() == ("", "")


def test_the_decoder_gets_no_secrets_and_no_jax(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with (tmp_path / "secret").open("w") as file, hostile(monkeypatch) as decoder:
        os.set_inheritable(file.fileno(), True)
        state = json.loads(reason(decoder, tmp_path / "state").removeprefix("unreadable: "))
    assert set(state["environment"]) <= {
        "PYTHONPATH",
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "LC_CTYPE",
        "XLA_FLAGS",
    }
    assert (state["folder"], state["jax"]) == ("/", False) and str(tmp_path) not in str(state["files"])
    assert state["files"].count("/dev/null") >= 3


# --- Children that do not answer properly -----------------------------------------------------------------------------


def child_that(monkeypatch, program: str) -> LimitedDecoder:
    monkeypatch.setattr(limited, "_COMMAND", ("-c", program))
    return LimitedDecoder(max_seconds=1.0, wall_seconds=10.0)


@pytest.mark.parametrize("program", ["raise SystemExit('no module')", "print('what else')", ""])
def test_a_child_that_does_not_start_is_no_fault_of_the_file(monkeypatch, sound, program):
    with child_that(monkeypatch, program) as decoder, pytest.raises(UserError, match="does not start; its own message"):
        decoder.decode(sound)


@pytest.mark.parametrize(
    "answer",
    [
        r"b'\xff' * 8",  # lengths beyond any limit
        r"b'\x02\0\0\0' + bytes(4) + b'{]'",
        r"b'\x02\0\0\0' + bytes(4) + b'\xff\xff'",
        r"b'\x01\0\0\0' + bytes(4) + b'5'",
        r"b'\x00\x10\0\0' + bytes(4) + b'[' * 4096",
        r"b'\x02\0\0\0\x03\0\0\0{}abc'",
    ],
)
def test_an_answer_that_is_none(monkeypatch, sound, answer):
    program = f"import sys; w = sys.stdout.buffer; w.write(b'ready\\n' + {answer}); w.flush(); sys.stdin.read()"
    with child_that(monkeypatch, program) as decoder:
        assert reason(decoder, sound) == "unreadable: the decoder's answer is no recording; a hostile file"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
)
KEYS = ("reason", "detail", "seconds", "rate", "channels", "encoding", "flags")


@given(header=JSON | st.dictionaries(st.sampled_from(KEYS), JSON), data=st.binary(max_size=40))
@example(header={"seconds": 0.0, "rate": 1, "channels": 1, "encoding": "", "flags": []}, data=b"")
@example(header={"seconds": 1e308, "rate": float("inf"), "channels": 1, "encoding": "", "flags": []}, data=b"")
def test_no_answer_is_taken_on_trust(header, data):
    with pytest.raises(BadAudio) as info:  # never a recording: 40 bytes are shorter than any
        limited._recording(json.loads(json.dumps(header)), data, 1.0)
    assert info.value.reason in REASONS and isinstance(info.value.detail, str)


def test_it_ends_with_its_parent(sound):
    program = (
        "import os, signal, sys\n"
        "from ser_jax.features.limited import LimitedDecoder\n"
        "decoder = LimitedDecoder(max_seconds=1.0)\n"
        "decoder.decode(sys.argv[1])\n"
        "print(decoder._child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Standard error is inherited by the child: this returns only when every holder of it is gone.
    done = subprocess.run([sys.executable, "-c", program, str(sound)], cwd=ROOT, capture_output=True, timeout=120)
    assert done.stdout.strip().isdigit() and done.stderr == b""
