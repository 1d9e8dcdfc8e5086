"""Extraction: stored, resumable, independent of the number of workers, bad recordings listed."""

import contextlib
import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
import soundfile

from ser_jax.corpora.table import Corpus, Rejection, Utterance, utterance_id
from ser_jax.features import audio, extraction, functionals, store
from ser_jax.features.logmel import LogMelSettings, log_mel
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.workers import WorkerDied

PAPER = LogMelSettings(16000, 0.025, 0.010, 1024, 40, 0.0, 8000.0, 1e-10)


class Workplace:
    """A folder with four recordings and a store; `reported`: the rejections of each extraction."""

    def __init__(self, folder):
        self.root, self.store, self.reported = folder / "corpus", folder / "store", []
        self.root.mkdir()
        for number in range(4):
            self.record(f"{number}.wav", seed=number, seconds=0.3 + 0.1 * number)

    def record(self, name, seed=0, seconds=0.3):
        samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16000))
        soundfile.write(self.root / name, samples, 16000)

    def corpus(self, *rows, rejected=()):
        """Rows are a name, or name, start and end; by default all recordings."""
        rows = rows or tuple(path.name for path in self.root.iterdir())
        spans: list[Any] = [(row, None, None) if isinstance(row, str) else row for row in rows]
        made = [Utterance(utterance_id(*span), *span, label="sad") for span in spans]
        utterances = tuple(sorted(made, key=lambda utterance: utterance.id))
        return Corpus("test", self.root, utterances, "none", {}, rejected=rejected)

    def extract(self, corpus=None, settings=PAPER, *, store="store", **options):
        defaults = {"hsf": False, "max_seconds": 120.0, "max_bad_share": 0.5, "workers": 2}
        return extraction.extract(
            corpus or self.corpus(),
            settings,
            store_root=self.store.with_name(store),
            on_rejected=self.reported.append,
            **{**defaults, **options},
        )

    def entries(self, store="store"):
        paths = self.store.with_name(store).rglob("*.npy")
        return {path.name: path.read_bytes() for path in paths}


@pytest.fixture
def place(tmp_path):
    return Workplace(tmp_path)


def assert_arrays_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_equal(one, other):
    assert one.utterances == other.utterances and one.corpus_sha256 == other.corpus_sha256
    np.testing.assert_array_equal(one.seconds, other.seconds)
    assert_arrays_equal(one.log_mel, other.log_mel)
    if one.hsf is not None:
        np.testing.assert_array_equal(one.hsf, other.hsf)


def test_features_are_those_of_the_recordings(place):
    found = place.extract()
    assert [utterance.id for utterance in found.utterances] == ["0", "1", "2", "3"]
    decoded = [audio.decode(place.root / u.file, max_seconds=120) for u in found.utterances]
    assert_arrays_equal(found.log_mel, [log_mel(one.samples, PAPER) for one in decoded])
    assert found.seconds.tolist() == [one.seconds for one in decoded]
    assert (found.hsf, found.rejected, found.flagged, found.extracted) == (None, (), {}, 4)
    assert place.reported == [()]


def test_waves_are_the_samples_in_16_bits(place, monkeypatch):
    """Requested later, they are added; the other features and their entries stay as they are."""
    before, entries = place.extract(), place.entries()
    assert before.waves == []
    found = place.extract(waves=True)
    assert found.extracted == 4 and entries.items() <= place.entries().items()
    assert_equal(before, found)
    files = (place.root / utterance.file for utterance in found.utterances)
    assert_arrays_equal(found.waves, [soundfile.read(file, dtype="int16")[0] for file in files])
    monkeypatch.setattr(audio, "decode", None)
    monkeypatch.setattr(extraction, "progress", None)
    again = place.extract(waves=True)
    assert again.extracted == 0, "nothing is decoded, and no progress bar is shown"
    assert_equal(found, again)
    assert_arrays_equal(found.waves, again.waves)


def test_log_mel_is_neither_computed_nor_loaded_unless_requested(place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "log_mel", None)
        found = place.extract(log_mel=False, waves=True)
    assert found.log_mel == [] and len(found.waves) == len(found.seconds) == 4
    alone = place.entries()
    complete = place.extract(waves=True)
    assert complete.extracted == 4 and complete.utterances == found.utterances
    added = place.entries().keys() - alone.keys()
    assert len(added) == 4, "log-mel frames and nothing else"
    for name in added:
        store.FeatureStore(place.store).path(name.removesuffix(".npy")).write_bytes(b"junk")
    assert place.extract(log_mel=False, waves=True).extracted == 0, "damage would be repaired"


def test_equal_bytes_share_their_features(place):
    first = place.extract()
    (place.root / "0.wav").rename(place.root / "renamed.wav")
    (place.root / "copy.wav").write_bytes((place.root / "1.wav").read_bytes())
    second = place.extract()
    assert second.extracted == 0 and len(second.utterances) == 5
    assert second.corpus_sha256 != first.corpus_sha256
    place.record("new.wav", seed=9)
    assert place.extract().extracted == 1


@pytest.mark.parametrize("content", [None, b"junk"])
def test_each_lost_entry_is_computed_again(place, content):
    first, before = place.extract(), place.entries()
    for path in sorted(place.store.rglob("*.npy")):
        path.unlink() if content is None else path.write_bytes(content)
        again = place.extract()
        assert again.extracted == 1
        assert_equal(first, again)
    assert place.entries() == before


def test_entries_that_vanish_at_once_are_an_error(place, monkeypatch):
    place.extract()
    monkeypatch.setattr(store.FeatureStore, "get", lambda *_: None)
    with pytest.raises(UserError, match="vanish: does something delete them"):
        place.extract()


def test_spans(place):
    place.record("long.wav", seed=7, seconds=3)
    corpus = place.corpus("long.wav", ("long.wav", 0.5, 1.5), ("long.wav", 2.0, None))
    found = place.extract(corpus, max_seconds=2)
    assert [(r.reason, r.file) for r in found.rejected] == [("too long", "long.wav")]
    np.testing.assert_array_equal(found.seconds, [1.0, 1.0])
    assert [len(frames) for frames in found.log_mel] == [98, 98]
    assert place.extract(corpus, max_seconds=3).extracted == 1


def test_the_longest_are_computed_first(place, monkeypatch):
    started, original = [], extraction.run

    def recording(function, jobs, workers, *, processes):
        started.extend((job.path.name, job.start) for job in jobs)
        return original(function, jobs, workers, processes=processes)

    place.record("long.wav", seed=7, seconds=3)
    spans = ("long.wav", 0.5, 1.5), ("long.wav", 2.0, 2.1)
    corpus = place.corpus("0.wav", "3.wav", "long.wav", *spans)
    monkeypatch.setattr(extraction, "run", recording)
    found = place.extract(corpus)
    order = [("long.wav", None), ("long.wav", 0.5), ("3.wav", None), ("0.wav", None)]
    assert started == [*order, ("long.wav", 2.0)]
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
        patch.setattr(extraction, "progress", interrupting)
        with pytest.raises(KeyboardInterrupt):
            place.extract()
    assert place.reported == [()]
    resumed = place.extract()
    assert 0 < resumed.extracted <= 21
    assert_equal(resumed, place.extract(store="other"))
    assert place.entries() == place.entries("other")


def test_bad_recordings_are_listed_in_order(place):
    (place.root / "1.wav").write_bytes(b"")
    (place.root / "2.wav").write_bytes((place.root / "2.wav").read_bytes()[:500])
    place.record("odd.flac", seed=5)
    tone = np.resize([0.25, 0.25, -0.25, -0.25], 8000)
    soundfile.write(place.root / "stereo.wav", np.stack([tone, tone], axis=1), 8000)
    listed = Rejection("manifest.csv", 7, "duplicate", "twice")
    names = [*(path.name for path in place.root.iterdir()), "none.wav"]
    corpus = place.corpus(*names, rejected=(listed,))
    found = place.extract(corpus)
    bad = [("1.wav", "unreadable"), ("2.wav", "truncated"), ("none.wav", "missing")]
    assert [(r.file, r.reason) for r in found.rejected] == [("manifest.csv", "duplicate"), *bad]
    assert found.flagged == {"low rate": 1, "odd rate": 1, "several channels": 1}
    assert found.rates[8000] == 1 and sum(found.rates.values()) == len(found.utterances)
    assert [flags for flags in found.flags if flags] == [
        ("odd rate", "several channels", "low rate")
    ]
    assert len(found.utterances) + len(found.rejected) == len(names) + 1
    assert place.reported == [found.rejected]
    assert place.extract(corpus).rejected == found.rejected


def test_too_many_bad_recordings(place):
    for number in range(2):
        (place.root / f"{number}.wav").write_bytes(b"not audio")
    assert len(place.extract(max_bad_share=0.5).utterances) == 2
    message = r"2 of 4 .*50.00%; limit 49.00%.*0\.wav: unreadable.*features\.max_bad_share"
    with pytest.raises(UserError, match=message):
        place.extract(max_bad_share=0.49)
    assert [len(rejected) for rejected in place.reported] == [2, 2]


def test_settings_that_do_not_fit_and_no_usable_recording(place):
    with pytest.raises(UserError, match="sample_rate=8000"):
        place.extract(settings=dataclasses.replace(PAPER, sample_rate=8000, high_hz=4000.0))
    with pytest.raises(UserError, match="window_seconds"):
        place.extract(settings=dataclasses.replace(PAPER, window_seconds=0.061))
    with pytest.raises(UserError, match="None of 4 listed recordings is usable. 0.wav: too long"):
        place.extract(max_seconds=0.1, max_bad_share=1.0)
    with pytest.raises(UserError, match="The corpus is empty"):
        place.extract(dataclasses.replace(place.corpus(), utterances=()))


def test_the_length_limit_holds_for_stored_recordings(place):
    fresh = place.extract(max_seconds=0.45, store="fresh")
    place.extract()
    stored = place.extract(max_seconds=0.45)
    assert stored.extracted == 0 and stored.rejected == fresh.rejected and len(stored.rejected) == 2
    assert_equal(fresh, stored)


def test_a_full_disk_stops_with_the_rejections_reported(place, monkeypatch):
    def full(*_):
        raise UserError("Feature store: cannot write")

    (place.root / "0.wav").write_bytes(b"")
    monkeypatch.setattr(store.FeatureStore, "put", full)
    with pytest.raises(UserError, match="cannot write"):
        place.extract()
    assert [r.file for r in place.reported[0]] == ["0.wav"]


def test_a_dead_worker_is_tried_once_more(place, monkeypatch):
    deaths = []

    def dying(function, jobs, workers, *, processes):
        yield jobs[0], function(jobs[0])
        deaths.append(jobs[1])
        raise WorkerDied((jobs[1],))

    original = extraction.run
    monkeypatch.setattr(extraction, "run", lambda *a, **k: (original if deaths else dying)(*a, **k))
    assert place.extract().extracted == 4
    monkeypatch.setattr(extraction, "run", dying)
    message = r"died twice.*2 of 4 recordings are done.*\.wav.*features\.workers"
    with pytest.raises(UserError, match=message):
        place.extract(store="other")


@pytest.mark.parametrize("hsf", [False, True])
def test_features_are_the_same_for_one_and_two_workers(place, hsf):
    if hsf:
        pytest.importorskip("opensmile")
    one = place.extract(hsf=hsf, workers=1)
    assert_equal(one, place.extract(hsf=hsf, workers=2, store="other"))
    assert place.entries() == place.entries("other")
    assert place.extract(hsf=hsf).extracted == 0 and place.extract().extracted == 0
    if hsf:
        assert one.hsf.shape == (4, 6373) and one.hsf.dtype == np.float32
        recording = audio.decode(place.root / "2.wav", max_seconds=120)
        np.testing.assert_array_equal(one.hsf[2], functionals.functionals(recording.samples))


def test_functionals_that_are_nan_make_a_bad_recording(place, monkeypatch):
    recording = audio.decode(place.root / "0.wav", max_seconds=120)
    values = np.array([1.0, np.nan, np.nan], np.float32)
    monkeypatch.setattr(extraction, "functionals", lambda samples, feature_set: values)
    with pytest.raises(audio.BadAudio, match="non-finite: openSMILE gives NaN for 2 of 3 values"):
        extraction.compute_kind("hsf", recording, PAPER)


def test_hsf_without_opensmile(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(UserError, match="ser_jax\\[hsf\\]"):
        place.extract(hsf=True)
    assert place.extract().extracted == 4


# --- Features that stay in the store


def test_deferred_arrays_are_those_in_memory(place):
    memory = place.extract(waves=True)
    later = place.extract(waves=True, most_bytes=0)
    assert later.log_mel == [] and later.waves == [] and set(later.deferred) == {"logmel", "wave"}
    assert later.utterances == memory.utterances and later.sha256 == memory.sha256 != ""
    np.testing.assert_array_equal(later.seconds, memory.seconds)
    for kind, arrays in (("logmel", memory.log_mel), ("wave", memory.waves)):
        assert_arrays_equal(later.deferred[kind], arrays)
        assert later.deferred[kind].lengths().tolist() == [len(array) for array in arrays]


def test_the_limit_of_memory_is_that_of_the_features(place):
    size = sum(array.nbytes for array in place.extract().log_mel)
    assert place.extract(most_bytes=size * 0.99).deferred
    assert not place.extract(most_bytes=size * 1.2).deferred


def test_the_digest_names_features_and_their_order(place):
    found = [
        place.extract(),
        place.extract(place.corpus("0.wav", "1.wav", "2.wav")),
        place.extract(settings=dataclasses.replace(PAPER, low_hz=20.0)),
        place.extract(waves=True),
    ]
    assert len({features.sha256 for features in found}) == 4
    assert found[2].extracted == 4, "other settings are other entries"


@pytest.fixture
def deferred(place):
    """Log-mel frames in the store, those that are expected, and a function of entries' paths."""
    found, expected = place.extract(most_bytes=0).deferred["logmel"], place.extract().log_mel
    feature_store = store.FeatureStore(place.store)
    return found, expected, lambda n: feature_store.path(found._items[n].keys["logmel"])


def damage(path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_damaged_and_vanished_entries_of_deferred_arrays(place, deferred):
    """They are computed again, or the recording that is needed for it is named."""
    found, expected, path = deferred
    path(1).unlink()
    assert found.lengths().tolist() == [len(array) for array in expected]
    np.testing.assert_array_equal(found[1], expected[1])
    damage(path(2))
    np.testing.assert_array_equal(found[2], expected[2])
    assert place.extract().extracted == 0, "and it is sound in the store"
    damage(path(3))
    (place.root / "3.wav").unlink()
    message = r"3\.wav: its features have vanished from the store .* bring the recording"
    with pytest.raises(UserError, match=message):
        found[3]


# --- Recordings that change meanwhile


def other_recording(place, path):
    place.record("other.wav", seed=9, seconds=0.9)
    return (place.root / "other.wav").rename(path.with_suffix(".new"))


def replace(place, path):
    other_recording(place, path).replace(path)


def overwrite(place, path):
    path.write_bytes(other_recording(place, path).read_bytes())


def spoil(place, path):
    path.write_bytes(b"RIFF")


@pytest.mark.parametrize("change", [replace, overwrite, spoil])
@pytest.mark.parametrize("span", [(None, None), (0.0, 0.25)], ids=["whole", "span"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_recording_that_changes_after_it_was_hashed_is_not_stored(
    change, span, moment, place, monkeypatch
):
    """Else its features would be found under the hash of the old bytes, by every later run."""
    corpus = place.corpus(("0.wav", *span))
    decode = audio.decode

    def changed(file, *arguments, **options):
        if moment == "before":  # Between the check of its header and the samples, say.
            change(place, place.root / "0.wav")
        found = decode(file, *arguments, **options)
        if moment == "after":
            change(place, place.root / "0.wav")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(audio, "decode", changed)
        if change is replace:  # The bytes that were hashed are read to their end.
            assert place.extract(corpus).extracted == 1
        else:
            with pytest.raises(UserError, match=r"0\.wav has been changed while it was read"):
                place.extract(corpus)
            assert place.entries() == {}


@pytest.mark.parametrize("span", [(None, None), (0.0, 0.25)], ids=["whole", "span"])
def test_a_recording_that_is_replaced_before_it_is_opened_is_not_stored(span, place, monkeypatch):
    corpus, compute = place.corpus(("0.wav", *span)), extraction._compute_locally

    def changed(*arguments):
        replace(place, place.root / "0.wav")
        return compute(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "_compute_locally", changed)
        with pytest.raises(UserError, match="has been changed"):
            place.extract(corpus)
    assert place.entries() == {}
    again = place.extract(corpus)
    decoded = audio.decode(place.root / "0.wav", *span, max_seconds=120)
    assert_arrays_equal(again.log_mel, [log_mel(decoded.samples, PAPER)])
