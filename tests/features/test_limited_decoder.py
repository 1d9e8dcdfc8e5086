"""The limited decoder: the same recordings, and a reason for whatever a hostile file does."""

import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import bad_recordings
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ser_jax.features import audio, limited_child, limited_decoder
from ser_jax.features.limited_decoder import LimitedDecoder
from ser_jax.features.pcm import REASONS, BadAudio
from ser_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
HOSTILE = (str(ROOT / "tests/helpers/hostile_child.py"),)
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


# --- What it is for


@pytest.mark.parametrize(
    ("kind", "rate"), [("WAV", 16000), ("FLAC", 44100), ("OGG", 8000), ("MP3", 16000)]
)
def test_it_decodes_as_the_program_does(decoder, tmp_path, kind, rate):
    path, samples = tmp_path / "a", np.stack([noise(), 3 * noise()], axis=1)
    path.write_bytes(bad_recordings.encoded(samples, rate, format=kind))
    found, expected = decoder.decode(path), audio.decode(path, max_seconds=10.0)
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert found.samples.dtype == np.float32 and found.samples.flags.writeable
    for name in ("seconds", "rate", "channels", "encoding", "flags"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize(("kind", "rate"), [("WAV", 16000), ("FLAC", 44100), ("MP3", 48000)])
def test_blocks_are_those_of_the_program(tmp_path, kind, rate):
    """Longer than the limit of `decode`, of two channels; the next file is decoded as well."""
    path, samples = tmp_path / "a", np.stack([noise(4.0), 0.5 * noise(4.0)], axis=1)
    path.write_bytes(bad_recordings.encoded(samples, rate, format=kind))
    with LimitedDecoder(max_seconds=5.0) as decoder:
        for _ in range(2):
            with decoder.opened(path) as found, audio.opened(path) as expected:
                assert (found.rate, found.channels) == (rate, 2)
                pairs = zip(found.blocks(), expected.blocks(), strict=True)
                assert all(np.array_equal(one, other) for one, other in pairs)
            child = decoder._child
        assert decoder._child is child


def test_blocks_need_little_memory_and_as_much_time_as_the_reader_takes(tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(bad_recordings.encoded(np.tile(noise(20.0), (8, 4)).T, format="FLAC"))
    with LimitedDecoder(max_seconds=100, wall_seconds=1, memory_bytes=64 * MEGABYTE) as decoder:
        with decoder.opened(path) as found:
            for number, block in enumerate(found.blocks()):
                assert block.shape[1] == 8
                time.sleep(1.5 if not number else 0)
    assert number > 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"none", "unreadable: not a WAV"),
        (bad_recordings.encoded(noise(2.0)), "too long: 2.000 s; at most 1 s are read"),
        (bad_recordings.encoded(noise(0.01)), "too short"),
    ],
)
def test_blocks_of_what_cannot_be_used(tmp_path, content, expected):
    (tmp_path / "a").write_bytes(content)
    with LimitedDecoder(max_seconds=1.0) as decoder:
        for _ in range(2):
            with pytest.raises(BadAudio) as info, decoder.opened(tmp_path / "a"):
                pass
            assert str(info.value).startswith(expected)
            child = decoder._child
        assert decoder._child is child and child is not None


def test_blocks_that_are_not_read_to_the_end_do_not_answer_for_the_next_file(tmp_path, sound):
    path = tmp_path / "a.wav"
    path.write_bytes(bad_recordings.encoded(noise(10.0)))
    with LimitedDecoder(max_seconds=10.0) as decoder:
        with decoder.opened(path) as found:
            next(found.blocks())
        assert decoder.decode(sound).seconds == 0.5


def test_the_longest_recording_passes(decoder, tmp_path):
    path = tmp_path / "a.wav"
    # Resampled to 160,000 samples or one less.
    path.write_bytes(bad_recordings.encoded(np.stack([noise(10.0)] * 8, axis=1), 16001))
    assert abs(decoder.decode(path).seconds - 10.0) < 1e-3


def test_names_of_any_kind(decoder, tmp_path, monkeypatch, sound):
    content = sound.read_bytes()
    for name in ('quote" and\nline', "ünïcode", os.fsdecode(b"latin-\xfc"), "-rf"):
        (tmp_path / name).write_bytes(content)
        assert decoder.decode(tmp_path / name).seconds == 0.5
    monkeypatch.chdir(tmp_path)
    assert decoder.decode("-rf").seconds == 0.5, "relative to this process, not to the child"
    assert reason(decoder, tmp_path / "none.wav") == "missing: no such file"
    found = reason(decoder, tmp_path / "a\0b")
    assert found.startswith("unreadable: ") and "embedded null" in found


def test_one_child_serves_all_files_of_all_threads(sound):
    with LimitedDecoder(max_seconds=10.0) as decoder:
        decoder.decode(sound)
        child = decoder._child
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda path: decoder.decode(path).samples, [sound] * 8))
        assert all(np.array_equal(found[0], samples) for samples in found)
        assert decoder._child is child and child is not None
    assert child.returncode is not None and decoder._child is None


# --- Hostile files


@contextlib.contextmanager
def hostile(monkeypatch, **limits):
    monkeypatch.setattr(limited_decoder, "_COMMAND", HOSTILE)
    with LimitedDecoder(max_seconds=10.0, **limits) as made:
        yield made


@pytest.fixture(scope="module")
def shared_hostile(sound):
    """One child for all hostile files: it survives each of them."""
    with pytest.MonkeyPatch.context() as patch, hostile(patch) as made:
        made.decode(sound)
        patch.undo()
        yield made


CRASHED = "unreadable: the decoder crashed ({}); a damaged or hostile file"
ODD = "unreadable: the decoder's answer is no recording; a hostile file"
SLOW = "over the limits: decoding takes too long; "
MEMORY = "over the limits: decoding needs more than 64 MiB of memory"
DEAD = "unreadable: the process that decodes it dies; a hostile file, or too little memory"


@pytest.mark.parametrize(
    ("name", "limits", "expected"),
    [
        ("segfault", {}, CRASHED.format("signal SIGSEGV")),
        ("abort", {}, CRASHED.format("signal SIGABRT")),
        ("kill", {}, CRASHED.format("signal SIGKILL")),
        ("exit", {}, CRASHED.format("exit code 3")),
        ("spin", {"cpu_seconds": 1}, SLOW + "cpu_seconds=1"),
        ("sleep", {"wall_seconds": 3}, SLOW + "wall_seconds=3"),
        ("memory", {"memory_bytes": 64 * MEGABYTE}, MEMORY),
        ("defect", {}, "unreadable: the decoder fails (ZeroDivisionError: by nothing)"),
        ("write", {}, "unreadable: the decoder fails (OSError: [Errno 27] File too large)"),
        ("reason", {}, ODD),
        *((f"answer-{what}", {}, ODD) for what in ("nan", "loud", "other", "flag", "empty")),
        ("answer-long", {}, CRASHED.format("signal SIGKILL")),
    ],
)
def test_whatever_a_file_does_is_a_reason_and_the_next_one_is_decoded(
    monkeypatch, sound, shared_hostile, name, limits, expected
):
    path = sound.with_name(f"{name}.wav")
    path.write_bytes(sound.read_bytes())
    alone = hostile(monkeypatch, **limits) if limits else contextlib.nullcontext(shared_hostile)
    with alone as decoder:
        decoder.decode(sound)
        child = decoder._child
        assert reason(decoder, path) == expected
        assert decoder.decode(sound).seconds == 0.5
        assert decoder._child is child


@pytest.mark.parametrize(
    ("name", "expected"), [("stuck", SLOW + "wall_seconds=3"), ("orphan", DEAD)]
)
def test_a_child_that_keeps_no_limit_is_replaced(monkeypatch, sound, name, expected):
    """The decoder ignores the clock, or kills the child that watches it; no process is left."""
    monkeypatch.setattr(limited_decoder, "_GRACE_SECONDS", 0.5)
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
    known = "PYTHONPATH OPENBLAS_NUM_THREADS OMP_NUM_THREADS LC_CTYPE XLA_FLAGS".split()
    assert set(state["environment"]) <= set(known)
    assert (state["folder"], state["jax"]) == ("/", False)
    assert str(tmp_path) not in str(state["files"])
    assert state["files"].count("/dev/null") >= 3


# --- Children that do not answer properly


def child_that(monkeypatch, program: str) -> LimitedDecoder:
    monkeypatch.setattr(limited_decoder, "_COMMAND", ("-c", program))
    return LimitedDecoder(max_seconds=1.0, wall_seconds=10.0)


@pytest.mark.parametrize("program", ["raise SystemExit('no module')", "print('what else')", ""])
def test_a_child_that_does_not_start_is_no_fault_of_the_file(monkeypatch, sound, program):
    with child_that(monkeypatch, program) as decoder:
        with pytest.raises(UserError, match="does not start; its own message"):
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
    program = (
        f"import sys; w = sys.stdout.buffer; w.write(b'ready\\n' + {answer}); w.flush();"
        " sys.stdin.read()"
    )
    with child_that(monkeypatch, program) as decoder:
        assert reason(decoder, sound) == ODD


BEGIN = ({"rate": 16000, "channels": 2}, 0)


@pytest.mark.parametrize(
    "messages",
    [
        [({"rate": 16000.0, "channels": 1}, 0)],
        [({"rate": True, "channels": 1}, 0)],
        [({"rate": 16000, "channels": 0}, 0)],
        [([16000, 1], 0)],
        [({"reason": ["silent"], "detail": ""}, 0)],
        [({"reason": "<script>", "detail": ""}, 0)],
        [BEGIN, ({"frames": 1}, 0)],
        [BEGIN, ({"frames": 1}, 3)],
        [BEGIN, ({"frames": 16001}, 2 * 16001)],  # more than a second
        [BEGIN, ([], 2)],
    ],
)
def test_blocks_that_are_none(monkeypatch, sound, messages):
    """Each message is a header and a number of samples."""
    program = "import sys; w = sys.stdout.buffer; w.write(b'ready\\n');"
    for header, count in messages:
        packed = limited_child._packed(header, np.zeros(count))
        program += f"w.write({packed[: len(packed) - 4 * count]!r} + bytes({4 * count}));"
    program += "w.flush(); sys.stdin.read()"
    with child_that(monkeypatch, program) as decoder:
        with pytest.raises(BadAudio) as info, decoder.opened(sound) as found:
            list(found.blocks())
    assert str(info.value) == ODD


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
)
REST = {"channels": 1, "encoding": "", "flags": []}
KEYS = ("reason", "detail", "seconds", "rate", "channels", "encoding", "flags")


@given(header=JSON | st.dictionaries(st.sampled_from(KEYS), JSON), data=st.binary(max_size=40))
@example(header={"seconds": 0.0, "rate": 1, **REST}, data=b"")
@example(header={"seconds": 1e308, "rate": float("inf"), **REST}, data=b"")
def test_no_answer_is_taken_on_trust(header, data):
    with pytest.raises(BadAudio) as info:  # never a recording: 40 bytes are shorter than any
        limited_decoder._recording(json.loads(json.dumps(header)), data, 1.0)
    assert info.value.reason in REASONS and isinstance(info.value.detail, str)


def test_it_ends_with_its_parent(sound):
    program = (
        "import os, signal, sys\n"
        "from ser_jax.features.limited_decoder import LimitedDecoder\n"
        "decoder = LimitedDecoder(max_seconds=1.0)\n"
        "decoder.decode(sys.argv[1])\n"
        "print(decoder._child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Standard error is inherited by the child: this returns only when every holder of it is gone.
    done = subprocess.run(
        [sys.executable, "-c", program, str(sound)], cwd=ROOT, capture_output=True, timeout=120
    )
    assert done.stdout.strip().isdigit() and done.stderr == b""
