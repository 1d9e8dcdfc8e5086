"""The page in headless Chromium: files, the microphone, small screens, dark mode, keyboards."""

import contextlib
import os
import re
import shutil
from pathlib import Path

import bad_recordings
import numpy as np
import pytest
import web_servers

from ser_jax.web.limits import Limits

pytestmark = pytest.mark.web

SECONDS = 60_000  # ms that a loaded machine is given
PEAK = 0.75


@pytest.fixture(scope="module")
def chromium() -> str:
    """$CHROMIUM must be there if it is set; otherwise whatever is installed."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.skip("Chromium is not installed")
    assert shutil.which(path), f"CHROMIUM={path} cannot be run"
    return path


def tone(peak: float, seconds: float, rate: int = 16000) -> bytes:
    samples = peak * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 220 / rate)
    return bad_recordings.encoded(samples.astype(np.float32), rate)


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("speech") / "my speech.wav"
    path.write_bytes(tone(PEAK, 3.0))
    return path


@pytest.fixture(scope="module")
def playwright():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright, chromium, tmp_path_factory):
    """Its microphone plays a file over and over, and needs no permission."""
    played = tmp_path_factory.mktemp("microphone") / "played.wav"
    played.write_bytes(tone(PEAK, 4.0, 48000))
    arguments = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={played}",
        "--disable-dev-shm-usage",
    ]
    started = playwright.chromium.launch(executable_path=chromium, args=arguments)
    yield started
    started.close()


@contextlib.contextmanager
def opened(browser, url: str, **options):
    """Opens the page; it may complain of nothing, and ask nobody but its server."""
    complaints, asked = [], set()
    context = browser.new_context(**options)
    context.set_default_timeout(SECONDS)
    page = context.new_page()

    def keep(message) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", keep)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: asked.add(r.url.split("/")[2] if "//" in r.url else "data"))
    page.goto(url)
    page.locator("#file[aria-disabled=false]").wait_for()
    yield page
    context.close()
    # What the server refuses is logged too.
    expected = ("status of 4", "status of 5", "net::ERR", "WebSocket connection")
    assert [text for text in complaints if not any(known in text for known in expected)] == []
    assert asked <= {url.removeprefix("http://"), "data", url.removeprefix("http:")}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with web_servers.serving(folder, Limits(per_minute=10**6)) as server:
        yield server


def shares(page) -> dict[str, int]:
    rows = page.locator("#shares tr")
    return {
        row.locator("th").inner_text(): int(row.locator("td").last.inner_text()[:-2])
        for row in rows.all()
    }


def painted(page, selector: str) -> int:
    """Returns how many different pixels a canvas has."""
    script = """canvas => new Set(new Uint32Array(
        canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer
    )).size"""
    return page.locator(selector).evaluate(script)


def test_a_file_is_judged_and_drawn(browser, served, speech):
    with opened(browser, served.url) as page:
        assert page.locator("#result").is_hidden()
        limits = page.locator("#takes").inner_text()
        assert limits.endswith(
            "20 MB; judged as a whole up to 120 s, followed over time up to 60 minutes"
        )
        assert page.locator("#limits li").all_inner_texts() == list(web_servers.NOTES)
        page.set_input_files("#file", speech)
        page.locator("#label", has_text="angry").wait_for()
        assert shares(page) == {"angry": 75, "happy": 8, "neutral": 8, "sad": 8}
        assert page.locator("#status").inner_text() == "Done: angry, 75 %."
        assert page.locator("#about").inner_text() == "my speech.wav, 3.00 s"
        assert painted(page, "#waveform") > 1 and painted(page, "#picture") > 20
        assert painted(page, "canvas[data-name=angry]") > 2
        assert page.locator("#audio").get_attribute("src").startswith("blob:")
        assert page.locator("#problem").is_hidden()
    assert served.left_behind == []


def test_a_file_is_dropped(browser, served, speech):
    with opened(browser, served.url) as page:
        page.locator("#drop").dispatch_event("dragover")
        assert "over-it" in page.locator("#drop").get_attribute("class")
        dropped(page, "dropped.wav", content=speech.read_bytes())
        page.locator("#about", has_text="dropped.wav, 3.00 s").wait_for()
        assert "over-it" not in page.locator("#drop").get_attribute("class")


def dropped(page, *names: str, content: bytes = b"", onto: str = "#drop") -> None:
    """Drops files, or what is no file."""
    transfer = page.evaluate_handle(
        """([names, bytes]) => { const transfer = new DataTransfer();
           for (const name of names)
             transfer.items.add(new File([new Uint8Array(bytes)], name));
           return transfer; }""",
        [names, list(content)],
    )
    page.locator(onto).dispatch_event("drop", {"dataTransfer": transfer})


@pytest.mark.parametrize(
    ("names", "sentence"),
    [(("a.wav", "b.wav"), "2 files were dropped, and nothing is used"), ((), "No files were")],
)
def test_drops_that_are_not_one_recording(browser, served, speech, names, sentence):
    with opened(browser, served.url) as page:
        page.set_input_files("#file", speech)
        page.locator("#label", has_text="angry").wait_for()
        dropped(page, *names)
        page.get_by_role("alert").filter(has_text=sentence).wait_for()
        assert page.locator("#result").is_hidden()


def test_drops_while_the_microphone_is_on(browser, served, speech):
    with opened(browser, served.url) as page:
        page.get_by_role("button", name="Record", exact=True).click()
        page.locator("#timer", has_text="1.").wait_for()
        dropped(page, "a.wav", content=speech.read_bytes())
        page.get_by_role("alert").filter(has_text="The microphone is on: press Stop").wait_for()
        page.get_by_role("button", name="Stop", exact=True).click()
        page.locator("#about", has_text="your recording, ").wait_for()


def test_a_drop_before_the_script_is_loaded_waits_for_it(browser, served, speech):
    context = browser.new_context()
    page = context.new_page()
    held = []
    page.route("**/page.js", lambda route: held.append(route))
    page.goto(served.url, wait_until="commit")
    page.locator("#drop").wait_for()
    dropped(page, "early.wav", content=speech.read_bytes())
    prevented = """() => { const event = new Event("drop", { cancelable: true, bubbles: true });
        event.dataTransfer = new DataTransfer();
        return [!document.body.dispatchEvent(event), window.early.pop() && true]; }"""
    assert page.evaluate(prevented) == [True, True]
    held[0].continue_()
    page.locator("#about", has_text="early.wav, 3.00 s").wait_for(timeout=SECONDS)
    assert page.url.rstrip("/") == served.url
    context.close()


def test_the_tracks_have_an_axis_a_legend_and_a_playhead(browser, served, speech):
    with opened(browser, served.url) as page:
        page.set_input_files("#file", speech)
        page.locator("#label", has_text="angry").wait_for()
        texts = page.locator(".axis span").all_inner_texts()
        assert texts[0].startswith("0") and texts[-1] in ("3 s", "3.0 s")
        assert painted(page, "#heat") > 20
        assert "−70 dB" in page.locator("#heat-legend").inner_text()
        box = page.locator("#waveform").bounding_box()
        page.locator("#waveform").click(position={"x": box["width"] / 2, "y": 5})
        where = "() => document.getElementById('audio').currentTime"
        assert 1.4 < page.evaluate(where) < 3.1
        page.evaluate("() => document.getElementById('audio').pause()")
        time, left = page.evaluate(where), page.locator("#playhead").bounding_box()["x"]
        assert left == pytest.approx(box["x"] + box["width"] * time / 3, abs=3)


PLAYER = "document.getElementById('audio')"


def test_playing_may_be_interrupted_at_any_moment(browser, served, speech):
    """`opened` would tell of a promise that nobody has awaited."""
    with opened(browser, served.url) as page:
        page.set_input_files("#file", speech)
        page.locator("#label", has_text="angry").wait_for()
        track = "document.getElementById('waveform')"
        # In one task: the recording has not begun to play when it is paused.
        page.evaluate(f"() => {{ {track}.click(); {PLAYER}.pause(); }}")
        assert page.evaluate(f"() => {PLAYER}.paused")
        page.locator("#waveform").click()
        page.wait_for_function(f"() => !{PLAYER}.paused && {PLAYER}.currentTime > 0")
        page.locator("#record").click()
        page.locator("#record", has_text="Stop").wait_for()
        assert page.evaluate(f"() => {PLAYER}.paused"), "it plays into the microphone"
        page.locator("#record").click()
        page.locator("#about", has_text="your recording").wait_for()
        page.evaluate(f"() => {{ {track}.click(); }}")
        page.set_input_files("#file", speech)
        page.locator("#about", has_text="my speech.wav").wait_for()
        assert page.evaluate(f"() => {PLAYER}.paused && !{PLAYER}.hidden")


def test_a_file_that_a_browser_cannot_play(browser, served, speech, tmp_path):
    aiff = tmp_path / "speech.aiff"
    samples = PEAK * np.sin(np.arange(48000) * 2 * np.pi * 220 / 16000)
    aiff.write_bytes(bad_recordings.encoded(samples.astype(np.float32), 16000, format="AIFF"))
    with opened(browser, served.url) as page:
        page.set_input_files("#file", aiff)
        page.locator("#label", has_text="angry").wait_for()
        page.locator("#seek", has_text="This browser cannot play this kind of file").wait_for()
        assert page.locator("#audio").is_hidden() and page.locator("#playhead").is_hidden()
        page.locator("#waveform").click()
        page.set_input_files("#file", speech)
        page.locator("#about", has_text="my speech.wav").wait_for()
        assert page.locator("#seek").inner_text() == "Click into the tracks to play from there."
        assert page.locator("#audio").is_visible()


def test_the_timeline_can_be_kept(browser, served, speech):
    with opened(browser, served.url) as page:
        page.set_input_files("#file", speech)
        page.locator("#label", has_text="angry").wait_for()
        for kind, begin in (("csv", "start,end,label,p_angry"), ("textgrid", 'File type = "oo')):
            with page.expect_download() as download:
                page.locator(f"#{kind}").click()
            ending = {"csv": "csv", "textgrid": "TextGrid"}[kind]
            assert download.value.suggested_filename == f"my speech.{ending}"
            assert Path(download.value.path()).read_text().startswith(begin)


def test_a_long_recording_and_a_long_name(browser, served, tmp_path):
    samples = np.concatenate([np.full(67 * 8000, 0.2), np.zeros(5 * 8000), np.full(60 * 8000, 0.8)])
    path = tmp_path / f"{'long_' * 40}.flac"
    path.write_bytes(bad_recordings.encoded(samples.astype(np.float32), 8000, format="FLAC"))
    with opened(browser, served.url, viewport={"width": 360, "height": 700}) as page:
        page.set_input_files("#file", path)
        page.locator("#what", has_text="On the whole the model hears").wait_for()
        assert "2.2 minutes; longer than 120 s, so look at" in page.locator("#about").inner_text()
        inside = """() => { const [about, card] = ["#about", ".card.main"].map(
            (name) => document.querySelector(name).getBoundingClientRect());
            return about.right <= card.right; }"""
        assert page.evaluate(inside)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        assert page.locator("#picture").is_hidden() and page.locator("#heat-legend").is_hidden()
        assert page.locator(".axis span").first.inner_text() == "0:00"
        assert painted(page, "canvas[data-name=angry]") > 2


def test_what_cannot_be_used_is_said(browser, tmp_path, speech):
    with (
        web_servers.serving(tmp_path, Limits(max_mb=1, per_minute=2)) as served,
        opened(browser, served.url) as page,
    ):
        problem = page.get_by_role("alert")

        def told(content: bytes, sentence: str) -> None:
            file = {"name": "x.wav", "mimeType": "audio/wav", "buffer": content}
            page.set_input_files("#file", file)
            problem.filter(has_text=sentence).wait_for()
            assert page.locator("#result").is_hidden() and page.locator("#record").is_enabled()

        told(
            b"<script>alert(1)</script>", "cannot be used: unreadable: not a WAV, FLAC, Ogg or MP3"
        )
        told(bytes(1_000_001), "The recording has 1.0 MB; at most 1 MB are taken.")
        page.set_input_files("#file", speech)
        page.locator("#label", has_text="angry").wait_for()
        assert problem.is_hidden()
        page.set_input_files("#file", speech)
        assert page.locator("#result").is_hidden()
        problem.filter(has_text="one client may ask 2 times in a minute; try again in").wait_for()


def test_a_server_that_has_ended(browser, tmp_path, speech):
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(web_servers.serving(tmp_path))
        with opened(browser, served.url) as page:
            stack.close()
            page.set_input_files("#file", speech)
            sentence = "The server does not answer; is it still running?"
            page.get_by_role("alert").filter(has_text=sentence).wait_for()


def test_the_result_moves_while_one_speaks(browser, served):
    with opened(browser, served.url) as page:
        page.get_by_role("button", name="Record", exact=True).click()
        page.locator("#what", has_text="So far the model hears").wait_for()
        page.locator("#label", has_text="angry").wait_for()
        page.locator("#timer", has_text="2.").wait_for()
        assert painted(page, "#waveform") > 1 and painted(page, "canvas[data-name=angry]") > 2
        page.locator("#shares td", has_text=re.compile(rf"^{100 * PEAK:.0f} %$")).wait_for()
        assert page.locator("#file").get_attribute("aria-disabled") == "true"
        with page.expect_response("**/api/predict") as response:
            page.get_by_role("button", name="Stop", exact=True).click()
        page.locator("#about", has_text="your recording, ").wait_for()
        assert shares(page)["angry"] == round(100 * response.value.json()["probabilities"]["angry"])
        assert page.locator("#what").inner_text() == "The model hears"
        assert painted(page, "#picture") > 20 and page.locator("#timer").is_hidden()
        assert page.get_by_role("button", name="Record", exact=True).is_enabled()
        assert page.locator("#problem").is_hidden()


def test_a_recording_is_as_long_as_it_took(browser, served):
    with opened(browser, served.url) as page:
        with page.expect_response("**/api/predict") as response:
            page.get_by_role("button", name="Record", exact=True).click()
            page.locator("#timer", has_text=re.compile(r"1\.[5-9]|[2-9]\.\d")).wait_for()
            shown = float(page.locator("#timer").inner_text().split()[0])
            page.get_by_role("button", name="Stop", exact=True).click()
        found = response.value.json()
        assert 1.5 <= shown <= found["seconds"] + 0.06
        # At most clicks are higher.
        assert np.median(found["waveform"]["high"]) == pytest.approx(PEAK, abs=0.02)


def test_a_system_that_needs_the_whole(browser, tmp_path):
    with (
        web_servers.serving(tmp_path, make_stream=web_servers.no_stream) as served,
        opened(browser, served.url) as page,
    ):
        live, reading = page.locator("#live"), page.locator("#reading")
        reason = web_servers.NOT_LIVE_SHORT
        assert live.inner_text() == f"The result comes when you stop: {reason}"
        page.get_by_role("button", name="Record", exact=True).click()
        page.locator("#timer", has_text="1.").wait_for()
        assert page.locator("#label").inner_text() == "…"
        page.get_by_role("button", name="Stop", exact=True).click()
        page.locator("#label", has_text="angry").wait_for()
        assert page.locator("canvas.share").first.is_hidden()
        assert reading.inner_text() == f"Nothing moves here: {reason}"


def test_without_a_free_session_the_recording_goes_on(browser, tmp_path):
    with web_servers.serving(tmp_path, Limits(live_sessions=1)) as served:
        with opened(browser, served.url) as first, opened(browser, served.url) as second:
            first.get_by_role("button", name="Record", exact=True).click()
            first.locator("#what", has_text="So far").wait_for()
            second.get_by_role("button", name="Record", exact=True).click()
            sentence = "The recording goes on; the result comes when you"
            second.get_by_role("alert").filter(has_text=sentence).wait_for()
            second.get_by_role("button", name="Stop", exact=True).click()
            second.locator("#label", has_text="angry").wait_for()


def test_a_microphone_that_is_refused(playwright, chromium, served):
    strict = playwright.chromium.launch(
        executable_path=chromium, args=["--use-fake-device-for-media-stream"]
    )
    with opened(strict, served.url) as page:
        page.get_by_role("button", name="Record", exact=True).click()
        sentence = "has not let this page use the microphone"
        page.get_by_role("alert").filter(has_text=sentence).wait_for()
        assert page.get_by_role("button", name="Record", exact=True).is_enabled()
    strict.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 1000])
def test_it_fits_and_can_be_read(browser, served, speech, width, theme):
    size = {"width": width, "height": 800}
    with opened(browser, served.url, viewport=size, color_scheme=theme) as page:
        page.set_input_files("#file", speech)
        page.locator("#label", has_text="angry").wait_for()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert {text: ratio for text, ratio in page.evaluate(CONTRAST) if ratio < 4.5} == {}
        targets = "() => [...document.querySelectorAll('button, #file')]"
        assert min(page.evaluate(f"{targets}.map(e => e.getBoundingClientRect().height)")) >= 44


# Contrast of every text with the first opaque colour behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("main *")]
    .filter(e => e.checkVisibility() &&
      [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
    .map(e => {
      const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
      return [e.textContent.trim(), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
}"""


def test_the_keyboard_is_enough(browser, served):
    with opened(browser, served.url) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.id") == "file"
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.id") == "record"
        page.keyboard.press("Enter")
        page.locator("#timer", has_text="1.").wait_for()
        page.keyboard.press("Space")
        page.locator("#about", has_text="your recording, ").wait_for()
        assert page.evaluate("() => document.activeElement.id") == "record"


def test_what_a_screen_reader_is_told(browser, served, speech):
    with opened(browser, served.url) as page:
        assert page.get_by_label("Drop a recording here, or choose one").count() == 1
        assert page.get_by_role("status").count() == 1
        assert page.get_by_role("heading", level=1).count() == 1
        page.set_input_files("#file", speech)
        page.get_by_role("status").filter(has_text="Done: angry, 75 %.").wait_for()
        assert page.get_by_role("table", name="Probabilities").count() == 1
        assert page.get_by_role("row", name="angry 75 %").count() == 1
        assert page.get_by_role("img", name="angry over time, at the end 75 %").count() == 1


def test_nothing_moves_for_those_who_ask_for_it(browser, served):
    for motion, name in (("reduce", "none"), ("no-preference", "pulse")):
        with opened(browser, served.url, reduced_motion=motion) as page:
            page.get_by_role("button", name="Record", exact=True).click()
            page.locator("#timer").wait_for()
            style = "getComputedStyle(document.getElementById('timer'), '::before')"
            assert page.evaluate(f"() => {style}.animationName") == name
