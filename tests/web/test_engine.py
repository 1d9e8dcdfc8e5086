"""Threads of the models and processes of the decoders."""

import asyncio
import contextlib
import threading
from typing import Any

import bad_recordings
import numpy as np
import pytest
import web_servers

from ser_jax.features import limited_decoder
from ser_jax.web.engine import Engine
from ser_jax.web.limits import Refusal


def loud() -> Any:
    return web_servers.LoudIsAngry()


@pytest.fixture
def engine():
    with contextlib.closing(Engine(loud(), web_servers.LoudStream)) as made:
        yield made


def test_a_recording_is_decoded_in_another_process(engine, tmp_path):
    (tmp_path / "a").write_bytes(bad_recordings.encoded(np.full(8000, 0.25, np.float32)))
    found = asyncio.run(engine.decode(tmp_path / "a"))
    assert found.seconds == 0.5 and set(found.samples.tolist()) == {0.25}
    assert sum(decoder._child is not None for decoder in engine._all) == 1


def test_what_cannot_be_used_has_a_kind(engine, tmp_path):
    (tmp_path / "a").write_bytes(b"nothing")
    with pytest.raises(Refusal) as info:
        asyncio.run(engine.decode(tmp_path / "a"))
    assert (info.value.status, info.value.kind) == (422, "unreadable")
    sentence = "the recording cannot be used: unreadable: not a WAV, FLAC, Ogg or MP3 file"
    assert info.value.reason.startswith(sentence)


def test_a_decoder_that_does_not_start_is_the_fault_of_the_server(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(limited_decoder, "_COMMAND", ("-c", "pass"))
    (tmp_path / "a").write_bytes(b"nothing")
    with pytest.raises(Refusal) as info:
        asyncio.run(engine.decode(tmp_path / "a"))
    assert (info.value.status, info.value.retry_after) == (503, 60)
    assert str(tmp_path) not in info.value.reason


def test_models_compute_one_after_the_other(engine):
    start, done = threading.Event(), []

    def job(number: int) -> str:
        assert start.wait(60)  # until all wait, so that a second thread would take some
        done.append(number)
        return threading.current_thread().name

    async def together() -> list[str]:
        waiting = [asyncio.ensure_future(engine.compute(job, number)) for number in range(20)]
        await asyncio.sleep(0)
        start.set()
        return await asyncio.gather(*waiting)

    assert set(asyncio.run(together())) == {"model_0"} and done == list(range(20))


def test_warming_up_covers_every_usual_length_and_starts_all_decoders(engine, monkeypatch):
    lengths = []
    predict = engine.predictor.predict

    def spy(samples, rate, **options):
        lengths.append(len(samples) / rate)
        return predict(samples, rate, **options)

    monkeypatch.setattr(engine.predictor, "predict", spy)
    engine.warm_up()
    assert lengths == [1, 2, 4, 8, 16, 16]  # the last is the end of a stream
    children = [decoder._child for decoder in engine._all]
    assert all(child is not None and child.poll() is None for child in children)
    assert engine.not_live == ""
    engine.close()
    assert all(child.returncode is not None for child in children)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("model_")]


def test_systems_that_do_not_stream_say_why():
    with contextlib.closing(Engine(loud(), web_servers.no_stream)) as engine:
        assert engine.not_live == web_servers.NOT_LIVE
        engine.warm_up()
