"""Makes docs/pictures/*.png from the built-in demo corpus; `make pictures` runs it.

    python docs/pictures.py              # all of them
    python docs/pictures.py serve        # those named

Runs go to build/pictures and are trained once: remove that folder to train them again. Pages are
photographed in headless Chromium, $CHROMIUM or what is called chromium.
"""

import argparse
import contextlib
import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from playwright import sync_api

from ser_jax.corpora import demo
from ser_jax.corpora.table import Corpus
from ser_jax.report import run_page

PICTURES = Path(__file__).parent / "pictures"
WORK = Path(__file__).parents[1] / "build/pictures"
NEURAL, SVM = WORK / "multi_crnn", WORK / "svm"
SPEAKER = "speaker02"  # heard in the timeline and on the web page
WIDTH = 1000  # CSS pixels of a page
SCALE = 1.5  # pixels of a picture for each of them
MOST_BYTES = 200_000
SECONDS = 120_000  # ms that a page is given


def run(*arguments: object) -> None:
    """Runs `ser-jax`."""
    subprocess.run([sys.executable, "-m", "ser_jax", *map(str, arguments)], check=True)


def save(name: str, content: bytes) -> None:
    """Keeps a PNG with 256 colours, which pages do not exceed by much."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    path = PICTURES / f"{name}.png"
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes, at most {MOST_BYTES:,}")
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size:,} bytes")


@contextlib.contextmanager
def opened(url: str) -> Iterator[sync_api.Page]:
    """Opens a page in its light form."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        raise SystemExit("the pictures need Chromium: set CHROMIUM to its path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 800},
            device_scale_factor=SCALE,
            color_scheme="light",
        )
        page.set_default_timeout(SECONDS)
        page.goto(url)
        yield page
        browser.close()


def photograph(name: str, page: sync_api.Page, before: str = "") -> None:
    """Takes the picture of a page, whole or as far as the heading `before`."""
    height = page.evaluate("document.documentElement.scrollHeight")
    if before:
        box = page.get_by_role("heading", name=before, exact=True).bounding_box()
        assert box is not None
        height = box["y"] - 16
    clip: sync_api.FloatRect = {"x": 0, "y": 0, "width": WIDTH, "height": height}
    save(name, page.screenshot(full_page=True, clip=clip))


def train(*folders: Path) -> None:
    """Trains runs, each by the preset that it is called after, if they are not there."""
    for folder in folders:
        run("train", f"--config={folder.name}", f"--workdir={folder}")


def one_model() -> Path:
    """Exports the model that has not heard `SPEAKER`."""
    train(NEURAL)
    model = WORK / f"{SPEAKER}-unheard.safetensors"
    chosen = f"--run={SPEAKER}-0"
    run("export", f"--model={NEURAL}", chosen, "--format=safetensors", f"--output={model}")
    return model


def joined(corpus: Corpus) -> Path:
    """Joins a recording of `SPEAKER` for each of the four emotions into one."""
    names = ("neutral-05", "angry-05", "sad-05", "happy-05")
    read = [soundfile.read(corpus.root / SPEAKER / f"{name}.wav") for name in names]
    path = WORK / f"{SPEAKER}.wav"
    soundfile.write(path, np.concatenate([samples for samples, _ in read]), read[0][1])
    return path


def report() -> None:
    """The report of a run, as far as its classes."""
    train(NEURAL)
    with opened(run_page.write_report(NEURAL).as_uri()) as page:
        photograph("report", page, before="Calibration")


def compare() -> None:
    """The comparison of the two runs."""
    train(SVM, NEURAL)
    path = WORK / "compare.html"
    run("compare", SVM, NEURAL, f"--output={path}")
    with opened(path.as_uri()) as page:
        photograph("compare", page, before="How to read this")


def timeline() -> None:
    """Four recordings of a speaker, followed by the model that has not heard them."""
    path = WORK / "timeline.png"
    path.unlink(missing_ok=True)
    recording = joined(demo.read(None))
    windows = ("--window=1.5", "--hop=0.25")
    run("predict", f"--model={one_model()}", recording, "--timeline", *windows, f"--output={path}")
    save("timeline", path.read_bytes())


def matrix() -> None:
    """Two corpora made of the demo corpus: its high and its low voices."""
    corpus = demo.read(None)
    lists = [WORK / "high.csv", WORK / "low.csv"]
    for path, voices in zip(lists, (("01", "03", "05"), ("02", "04", "06")), strict=True):
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("file", "label", "speaker"))
            rows.writerows(
                (one.file, one.label, one.speaker)
                for one in corpus.utterances
                if one.speaker[-2:] in voices
            )
    run(
        *("matrix", "--config=svm", f"--workdir={WORK / 'matrix'}"),
        f"--corpora=manifest={corpus.root},manifest={corpus.root}",
        f"--config.corpus.manifest={lists[0]},{lists[1]}",
    )
    with opened((WORK / "matrix/matrix.html").as_uri()) as page:
        photograph("matrix", page, before="How to read this")


def serve() -> None:
    """The web page with the prediction of a recording."""
    command = [sys.executable, "-m", "ser_jax", "serve", f"--model={one_model()}", "--port=0"]
    recording = demo.read(None).root / SPEAKER / "angry-05.wav"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            ready = server.stdout.readline()
            if not ready.startswith("ready: "):
                raise SystemExit("the web page is not served")
            with opened(ready.split()[1]) as page:
                page.locator("#file[aria-disabled=false]").wait_for()
                page.set_input_files("#file", recording)
                page.locator("#status", has_text="Done").wait_for()
                page.wait_for_timeout(1000)  # until bars have grown and the sound is loaded
                photograph("serve", page)
        finally:
            server.terminate()


MAKERS = {maker.__name__: maker for maker in (report, compare, timeline, matrix, serve)}


def main() -> None:
    """Parses the names and makes the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"{', '.join(MAKERS)}; default: all")
    names = parser.parse_args().names or list(MAKERS)
    if unknown := set(names) - set(MAKERS):
        parser.error(f"no picture {', '.join(sorted(unknown))}; there are {', '.join(MAKERS)}")
    for folder in (PICTURES, WORK):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        MAKERS[name]()


if __name__ == "__main__":
    main()
