"""What using a model costs: the command, many files, and many visitors of the web page at once.

    python bench/predict.py runs/plain --json=bench/results/predict.json

Command: process start to the answer for one recording of 5 s, everything that may be kept being
kept. Batch: a folder of noise with the lengths of IEMOCAP's turns, 16-bit WAV, from process start
to the written table; features are removed before, compiled programs are not. Clients: uploads of 5
s to `ser-jax serve`, each client sending the next as soon as it has its answer,
and live sessions that speak in real time.
"""

import argparse
import asyncio
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import measure
import numpy as np
import soundfile
import startup
import workload

RATE, SECONDS, HOP = 16000, 5, 3200


def command(arguments: list[str], cache: Path) -> float:
    """Runs `ser-jax predict`; returns its seconds."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ser_jax", "predict", *arguments],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr}")
    return time.perf_counter() - begin


def batch(run: Path, files: int, rounds: int) -> dict[str, float]:
    """Returns seconds of audio, and those of the command, start included."""
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place) / "files", Path(place) / "cache"
        startup.make_corpus(folder, files)
        audio, found = workload.samples(files).sum() / RATE, []
        for _ in range(rounds + 1):
            found.append(
                command([f"--model={run}", str(folder), f"--output={place}/table.csv"], cache)
            )
            shutil.rmtree(cache / "ser_jax" / "features")
    return {"audio_seconds": float(audio), "seconds": measure.median(found[1:]), "first": found[0]}


@contextmanager
def server(run: Path) -> Iterator[str]:
    """Serves a run; yields its address."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ser_jax",
            "serve",
            f"--model={run}",
            "--port=0",
            "--per_minute=1000000",
            "--per_client=20",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"ready: (http://\S+)", line):
                yield found[1]
                break
        else:
            raise SystemExit("".join(lines))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def upload(address: str, wav: bytes) -> tuple[int, float]:
    """Asks about a recording; returns status and seconds."""
    border = uuid.uuid4().hex
    head = f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    request = urllib.request.Request(
        f"{address}/api/predict", head.encode() + wav + f"\r\n--{border}--\r\n".encode()
    )
    request.add_header("Content-Type", f"multipart/form-data; boundary={border}")
    begin = time.perf_counter()
    try:
        with urllib.request.urlopen(request) as answer:
            answer.read()
            return answer.status, time.perf_counter() - begin
    except urllib.error.HTTPError as error:
        return error.code, time.perf_counter() - begin


def uploads(address: str, clients: int, each: int, wav: bytes) -> dict[str, float]:
    """Returns what so many clients see that upload so many recordings each."""
    with ThreadPoolExecutor(clients) as pool:
        begin = time.perf_counter()
        found = list(
            pool.map(lambda _: [upload(address, wav) for _ in range(each)], range(clients))
        )
        seconds = time.perf_counter() - begin
    answers = [answer for client in found for answer in client]
    waits = [wait for _, wait in answers]
    return {
        "answers": len(answers),
        "errors": sum(status != 200 for status, _ in answers),
        "per_second": len(answers) / seconds,
        "median_ms": 1e3 * float(np.median(waits)),
        "most_ms": 1e3 * max(waits),
    }


async def live(address: str, samples: np.ndarray) -> tuple[int, list[float]]:
    """One live session in real time; returns its moments and their delays in seconds."""
    from websockets.asyncio.client import connect

    delays, moments = [], 0
    async with connect(f"{address.replace('http', 'ws')}/api/live") as session:
        await session.send(json.dumps({"rate": RATE, "format": "i16"}))
        await session.recv()
        sent: list[float] = []

        async def speak() -> None:
            begin = time.perf_counter()
            for number, first in enumerate(range(0, len(samples), HOP)):
                await asyncio.sleep(
                    max(0.0, begin + (number + 1) * HOP / RATE - time.perf_counter())
                )
                sent.append(time.perf_counter())
                await session.send(samples[first : first + HOP].tobytes())
            await session.send('{"end": true}')

        speaking = asyncio.create_task(speak())
        async for message in session:
            said = json.loads(message)
            if "reason" in said:
                raise SystemExit(f"a live session has ended: {said['reason']}")
            if "moments" in said:
                moments += len(said["moments"])
                now = (
                    time.perf_counter()
                )  # A moment follows from the piece that its segment ends in.
                delays += [
                    now - sent[math.ceil(moment["end"] * RATE / HOP) - 1]
                    for moment in said["moments"]
                ]
        await speaking
    return moments, delays


async def sessions(address: str, count: int, samples: np.ndarray) -> dict[str, float]:
    """Returns what so many live sessions at once see."""
    found = await asyncio.gather(*(live(address, samples) for _ in range(count)))
    delays = [delay for _, part in found for delay in part]
    return {
        "moments": sum(moments for moments, _ in found),
        "median_ms": 1e3 * float(np.median(delays)),
        "p99_ms": 1e3 * float(np.percentile(delays, 99)),
    }


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="finished run")
    parser.add_argument("--files", type=int, default=5531, help="recordings of the batch")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default="", help="file for the result")
    flags = parser.parse_args()
    result = measure.environment("ser_jax", "jax", "numpy", "fastapi", "uvicorn")
    samples = (3000 * np.random.default_rng(0).standard_normal(SECONDS * RATE)).astype(np.int16)
    with tempfile.TemporaryDirectory() as place:
        wav, cache = Path(place) / "five.wav", Path(place) / "cache"
        soundfile.write(wav, samples, RATE)
        one = [command([f"--model={flags.run}", str(wav)], cache) for _ in range(flags.rounds + 1)]
        content = wav.read_bytes()
    result["command"] = {"seconds": measure.median(one[1:]), "first": one[0]}
    result["batch"] = found = batch(flags.run, flags.files, flags.rounds)
    with server(flags.run) as address:
        uploads(address, flags.clients, 2, content)
        result["uploads"] = seen = uploads(address, flags.clients, 20, content)
        result["live"] = asyncio.run(sessions(address, flags.clients, samples))
    rows = [
        ("one recording of 5 s, from process start, s", f"{result['command']['seconds']:.1f}"),
        (
            (
                f"{flags.files} recordings of {found['audio_seconds']:.0f} s together, from process"
                " start, s"
            ),
            f"{found['seconds']:.1f}",
        ),
        ("the same, times real time", f"{found['audio_seconds'] / found['seconds']:.0f}"),
        (f"{flags.clients} clients, {seen['answers']} uploads of 5 s: errors", f"{seen['errors']}"),
        ("answers per second", f"{seen['per_second']:.1f}"),
        ("answer after, median and longest, ms", f"{seen['median_ms']:.0f}, {seen['most_ms']:.0f}"),
        (f"{flags.clients} live sessions: moments", f"{result['live']['moments']}"),
        (
            "moment after its samples, median and p99, ms",
            f"{result['live']['median_ms']:.0f}, {result['live']['p99_ms']:.0f}",
        ),
    ]
    measure.print_table(f"Using {flags.run.name} (median of {flags.rounds})", ("", ""), rows)
    measure.write_json(flags.json, result)


if __name__ == "__main__":
    main()
