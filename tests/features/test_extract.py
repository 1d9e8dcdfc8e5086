"""Extraction: cached, resumable, the same for any number of workers, and honest about bad recordings."""

import contextlib
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_jax.corpora.table import Corpus, Rejection, Utterance, utterance_id
from ser_jax.errors import UserError
from ser_jax.features import audio, extract, hsf, item, store
from ser_jax.features.logmel import LogMelSettings, log_mel
from ser_jax.features.workers import WorkerDied

PAPER = LogMelSettings(
    sample_rate=16000,
    window_seconds=0.025,
    hop_seconds=0.010,
    fft=1024,
    bands=40,
    low_hz=0.0,
    high_hz=8000.0,
    floor=1e-10,
)


Row = tuple[str, float | None, float | None]


class Workplace:
    """A folder with recordings and a store."""

    def __init__(self, folder):
        self.root, self.store, self.told = folder / "corpus", folder / "store", []
        self.root.mkdir()

    def record(self, name, seed=0, seconds=0.3, **options):
        rng = np.random.default_rng(seed)
        soundfile.write(self.root / name, 0.1 * rng.standard_normal(round(seconds * 16000)), 16000, **options)

    def corpus(self, *rows: Row, rejected=()):
        rows = rows or tuple((path.name, None, None) for path in self.root.iterdir())
        made = [Utterance(utterance_id(*row), *row, label="sad") for row in rows]
        utterances = tuple(sorted(made, key=lambda utterance: utterance.id))
        return Corpus("test", self.root, utterances, "none", {}, rejected=rejected)

    def extract(
        self,
        corpus=None,
        settings=PAPER,
        *,
        log_mel=True,
        hsf=False,
        waves=False,
        store_root: Path | None = None,
        max_seconds=120.0,
        max_bad_share=0.5,
        workers=2,
        most_bytes=float("inf"),
    ):
        return extract.extract(
            corpus or self.corpus(),
            settings,
            log_mel=log_mel,
            hsf=hsf,
            waves=waves,
            store_root=store_root or self.store,
            max_seconds=max_seconds,
            max_bad_share=max_bad_share,
            workers=workers,
            most_bytes=most_bytes,
            on_rejected=self.told.append,
        )

    def entries(self):
        return {path.name: path.read_bytes() for path in self.store.rglob("*.npy")}


@pytest.fixture
def place(tmp_path):
    made = Workplace(tmp_path)
    for number in range(4):
        made.record(f"{number}.wav", seed=number, seconds=0.3 + 0.1 * number)
    return made


def assert_equal(one, other):
    assert one.utterances == other.utterances and one.corpus_sha256 == other.corpus_sha256
    np.testing.assert_array_equal(one.seconds, other.seconds)
    for left, right in zip(one.log_mel, other.log_mel, strict=True):
        np.testing.assert_array_equal(left, right)
    if one.hsf is not None:
        np.testing.assert_array_equal(one.hsf, other.hsf)


def test_the_features_are_those_of_the_recordings(place):
    found = place.extract()
    assert [utterance.id for utterance in found.utterances] == ["0", "1", "2", "3"]
    for utterance, frames, seconds in zip(found.utterances, found.log_mel, found.seconds, strict=True):
        recording = audio.decode(place.root / utterance.file, max_seconds=120)
        np.testing.assert_array_equal(frames, log_mel(recording.samples, PAPER))
        assert seconds == recording.seconds
    assert found.hsf is None and found.rejected == () and found.flagged == {} and found.extracted == 4
    assert place.told == [()]


def test_waves_are_the_samples_in_16_bits(place, monkeypatch):
    """Asked for later, they are added to what is there; the other features and their entries stay as they are."""
    before, entries = place.extract(), place.entries()
    assert before.waves == []
    found = place.extract(waves=True)
    assert found.extracted == 4 and entries.items() <= place.entries().items()
    assert_equal(before, found)
    for utterance, wave in zip(found.utterances, found.waves, strict=True):
        samples, _ = soundfile.read(place.root / utterance.file, dtype="int16")
        np.testing.assert_array_equal(wave, samples)
    monkeypatch.setattr(audio, "decode", None)
    again = place.extract(waves=True)
    assert again.extracted == 0
    for one, other in zip(found.waves, again.waves, strict=True):
        np.testing.assert_array_equal(one, other)


def test_log_mel_is_neither_computed_nor_loaded_unless_asked_for(place, monkeypatch):
    def refuse(*_):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(item, "log_mel", refuse)
        found = place.extract(log_mel=False, waves=True)
    assert found.log_mel == [] and len(found.waves) == len(found.utterances) == len(found.seconds) == 4
    alone = set(place.entries())
    complete = place.extract(waves=True)
    assert complete.extracted == 4 and complete.utterances == found.utterances
    added = set(place.entries()) - alone
    assert len(added) == 4, "log-mel frames and nothing else"
    for path in place.store.rglob("*.npy"):
        if path.name in added:
            path.write_bytes(b"junk")
    assert place.extract(log_mel=False, waves=True).extracted == 0, "an entry that is read would be computed again"


def test_the_second_time_nothing_is_decoded(place, monkeypatch):
    first = place.extract()
    monkeypatch.setattr(extract, "progress", None)  # neither is a bar shown
    monkeypatch.setattr(audio, "decode", None)
    second = place.extract()
    assert second.extracted == 0
    assert_equal(first, second)


def test_one_new_file_is_one_extraction(place):
    place.extract()
    place.record("new.wav", seed=9)
    assert place.extract().extracted == 1


def test_equal_bytes_share_their_features(place):
    first = place.extract()
    (place.root / "0.wav").rename(place.root / "renamed.wav")
    (place.root / "copy.wav").write_bytes((place.root / "1.wav").read_bytes())
    second = place.extract()
    assert second.extracted == 0 and len(second.utterances) == 5
    assert second.corpus_sha256 != first.corpus_sha256


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"junk")])
def test_each_lost_entry_is_computed_again(place, damage):
    first, before = place.extract(), place.entries()
    for path in sorted(place.store.rglob("*.npy")):
        damage(path)
        again = place.extract()
        assert again.extracted == 1
        assert_equal(first, again)
    assert place.entries() == before


def test_other_settings_are_other_entries(place):
    place.extract()
    found = place.extract(settings=dataclasses.replace(PAPER, bands=20))
    assert found.extracted == 4 and found.log_mel[0].shape[1] == 20


def test_spans(place):
    place.record("long.wav", seed=7, seconds=3)
    rows: list[Row] = [("long.wav", None, None), ("long.wav", 0.5, 1.5), ("long.wav", 2.0, None)]
    found = place.extract(place.corpus(*rows), max_seconds=2)
    assert [(r.reason, r.file) for r in found.rejected] == [("too long", "long.wav")]
    np.testing.assert_array_equal(found.seconds, [1.0, 1.0])
    assert [len(frames) for frames in found.log_mel] == [98, 98]
    assert place.extract(place.corpus(*rows), max_seconds=3).extracted == 1


def test_the_longest_are_begun_first(place, monkeypatch):
    begun, original = [], extract.run

    def recording(function, jobs, workers, *, processes):
        begun.extend((job.path.name, job.start) for job in jobs)
        return original(function, jobs, workers, processes=processes)

    place.record("long.wav", seed=7, seconds=3)
    spans: list[Row] = [("long.wav", 0.5, 1.5), ("long.wav", 2.0, 2.1)]
    corpus = place.corpus(("0.wav", None, None), ("3.wav", None, None), ("long.wav", None, None), *spans)
    monkeypatch.setattr(extract, "run", recording)
    found = place.extract(corpus)
    assert begun == [("long.wav", None), ("long.wav", 0.5), ("3.wav", None), ("0.wav", None), ("long.wav", 2.0)]
    assert found.utterances == corpus.utterances
    np.testing.assert_allclose(found.seconds, [0.3, 0.6, 3.0, 1.0, 0.1])


def test_an_interrupted_extraction_resumes(place, monkeypatch):
    for number in range(20):
        place.record(f"more{number}.wav", seed=100 + number)
    calls = []

    @contextlib.contextmanager
    def interrupting(*_):
        def advance():
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt

        yield advance

    with monkeypatch.context() as patch:
        patch.setattr(extract, "progress", interrupting)
        with pytest.raises(KeyboardInterrupt):
            place.extract()
    assert place.told == [()]
    resumed = place.extract()
    assert 0 < resumed.extracted <= 21
    again = place.extract(store_root=place.store.with_name("other"))
    assert_equal(resumed, again)
    others = {path.name: path.read_bytes() for path in place.store.with_name("other").rglob("*.npy")}
    assert place.entries() == others


def test_bad_recordings_are_listed_in_order(place):
    (place.root / "1.wav").write_bytes(b"")
    (place.root / "2.wav").write_bytes((place.root / "2.wav").read_bytes()[:500])
    place.record("odd.flac", seed=5)
    stereo = np.full((8000, 2), 0.25)
    soundfile.write(place.root / "stereo.wav", stereo, 8000)
    listed = Rejection("manifest.csv", 7, "duplicate", "twice")
    names = [path.name for path in place.root.iterdir()] + ["none.wav"]
    rows: list[Row] = [(name, None, None) for name in names]
    found = place.extract(place.corpus(*rows, rejected=(listed,)))
    assert [(r.file, r.reason) for r in found.rejected] == [
        ("manifest.csv", "duplicate"),
        ("1.wav", "unreadable"),
        ("2.wav", "truncated"),
        ("none.wav", "missing"),
    ]
    assert found.flagged == {"odd rate": 1, "several channels": 1}
    assert len(found.utterances) + len(found.rejected) == len(rows) + 1
    assert place.told == [found.rejected]
    assert place.extract(place.corpus(*rows, rejected=(listed,))).rejected == found.rejected


def test_too_many_bad_recordings(place):
    for number in range(2):
        (place.root / f"{number}.wav").write_bytes(b"not audio")
    assert len(place.extract(max_bad_share=0.5).utterances) == 2
    with pytest.raises(UserError, match=r"2 of 4 .*50.00%; limit 49.00%.*0\.wav: unreadable.*features\.max_bad_share"):
        place.extract(max_bad_share=0.49)
    assert [len(told) for told in place.told] == [2, 2]


def test_no_usable_recording(place):
    with pytest.raises(UserError, match="None of 4 listed recordings is usable. 0.wav: too long"):
        place.extract(max_seconds=0.1, max_bad_share=1.0)
    with pytest.raises(UserError, match="The corpus is empty"):
        place.extract(dataclasses.replace(place.corpus(), utterances=()))


def test_the_length_limit_holds_for_stored_recordings(place):
    fresh = place.extract(max_seconds=0.45, store_root=place.store.with_name("fresh"))
    place.extract()
    stored = place.extract(max_seconds=0.45)
    assert stored.extracted == 0 and stored.rejected == fresh.rejected and len(stored.rejected) == 2
    assert_equal(fresh, stored)


def test_settings_that_do_not_fit(place):
    with pytest.raises(UserError, match="sample_rate=8000"):
        place.extract(settings=dataclasses.replace(PAPER, sample_rate=8000, high_hz=4000.0))
    with pytest.raises(UserError, match="window_seconds"):
        place.extract(settings=dataclasses.replace(PAPER, window_seconds=0.061))


def test_a_full_disk_stops_with_the_rejections_told(place, monkeypatch):
    def full(*_):
        raise UserError("Feature store: cannot write")

    (place.root / "0.wav").write_bytes(b"")
    monkeypatch.setattr(store.FeatureStore, "put", full)
    with pytest.raises(UserError, match="cannot write"):
        place.extract()
    assert [r.file for r in place.told[0]] == ["0.wav"]


def test_a_dead_worker_is_tried_once_more(place, monkeypatch):
    deaths = []

    def dying(function, jobs, workers, *, processes):
        yield jobs[0], function(jobs[0])
        deaths.append(jobs[1])
        raise WorkerDied((jobs[1],))

    original = extract.run
    monkeypatch.setattr(extract, "run", lambda *a, **k: (original if deaths else dying)(*a, **k))
    assert place.extract().extracted == 4
    monkeypatch.setattr(extract, "run", dying)
    with pytest.raises(UserError, match=r"died twice.*2 of 4 recordings are done.*\.wav.*features\.workers"):
        place.extract(store_root=place.store.with_name("other"))


def test_hsf_is_the_same_for_one_and_two_workers(place):
    pytest.importorskip("opensmile")
    one = place.extract(hsf=True, workers=1)
    before = place.entries()
    two = place.extract(hsf=True, workers=2, store_root=place.store.with_name("other"))
    assert_equal(one, two)
    assert before == {path.name: path.read_bytes() for path in place.store.with_name("other").rglob("*.npy")}
    assert one.hsf is not None and one.hsf.shape == (4, hsf.DIMENSION) and one.hsf.dtype == np.float32
    recording = audio.decode(place.root / "2.wav", max_seconds=120)
    np.testing.assert_array_equal(one.hsf[2], hsf.functionals(recording.samples))
    assert place.extract(hsf=True).extracted == 0 and place.extract().extracted == 0
    assert_equal(place.extract(workers=1), place.extract(workers=2, store_root=place.store.with_name("third")))


def test_hsf_without_opensmile(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(UserError, match="ser_jax\\[hsf\\]"):
        place.extract(hsf=True)
    assert place.extract().extracted == 4
