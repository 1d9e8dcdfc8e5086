"""The demo corpus: its files, its sound measured by independent means, and how hard it is."""

import collections
import dataclasses

import numpy as np
import pytest
import soundfile
from scipy import linalg, signal
from sklearn import metrics, preprocessing, svm

from ser_jax.corpora import demo, speech_synthesis
from ser_jax.corpora.table import CANONICAL_CLASSES
from ser_jax.runtime.errors import UserError

RATE = 16000
SPEAKERS = [f"speaker{number:02d}" for number in range(1, 7)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return demo.read(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def waves(corpus):
    """Utterance id → samples in [-1, 1)."""
    return {row.id: soundfile.read(corpus.path(row))[0] for row in corpus.utterances}


@pytest.fixture
def two_speakers(monkeypatch):
    """A smaller corpus, where only the handling of files matters."""
    monkeypatch.setattr(demo, "VOICES", demo.VOICES[:2])
    monkeypatch.setattr(demo, "SENTENCES", demo.SENTENCES[:1])


def mean_by_group(corpus, measure) -> dict[tuple[str, str], float]:
    """(speaker, label) → mean of a measure of the utterance id."""
    groups = collections.defaultdict(list)
    for row in corpus.utterances:
        groups[row.speaker, row.label].append(measure(row.id))
    return {group: float(np.mean(values)) for group, values in groups.items()}


def pitch(wave: np.ndarray) -> float:
    """Median pitch in Hz of the loud periodic frames, by autocorrelation of 50 ms frames."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 800)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames[
        np.sum(frames**2, axis=1) > 0.05 * np.sum(frames**2, axis=1).max()
    ] * np.hanning(800)
    # Divided by the window's own autocorrelation, so that long lags do not lose.
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(800), 2048)) ** 2)[:400]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)[:, :400] / window
    lags = np.arange(RATE // 500, RATE // 70)
    score = correlation[:, lags] / correlation[:, :1]
    # The shortest lag that is nearly as good as the best: multiples of the period correlate as well
    # as the period.
    nearly = score > 0.9 * score.max(axis=1, keepdims=True)
    first = np.argmax(
        nearly & (score >= np.roll(score, 1, axis=1)) & (score >= np.roll(score, -1, axis=1)),
        axis=1,
    )
    return float(np.median(RATE / lags[first[score.max(axis=1) > 0.7]]))


def level(wave: np.ndarray) -> float:
    return 10.0 * np.log10(np.mean(wave**2))


def brightness(wave: np.ndarray) -> float:
    """Energy above 1 kHz over energy below, dB, of the loudest tenth of a spectrogram's frames."""
    frequencies, _, power = signal.spectrogram(wave, RATE, nperseg=512)
    loud = power[:, power.sum(axis=0) >= np.quantile(power.sum(axis=0), 0.9)].sum(axis=1)
    return 10.0 * np.log10(
        loud[(frequencies > 1000) & (frequencies < 5000)].sum() / loud[frequencies <= 1000].sum()
    )


def syllable_rate(wave: np.ndarray) -> float:
    """Peaks per second of the smoothed envelope, silence at the ends included."""
    band = signal.sosfiltfilt(
        signal.butter(2, (250, 2500), "bandpass", fs=RATE, output="sos"), wave
    )
    envelope = signal.sosfiltfilt(signal.butter(2, 9.0, fs=RATE, output="sos"), np.abs(band))
    decibels = 20.0 * np.log10(np.maximum(envelope, 1e-3 * envelope.max()))
    peaks, _ = signal.find_peaks(decibels, prominence=2.0, height=decibels.max() - 26.0)
    return len(peaks) / (len(wave) / RATE)


def test_table(corpus):
    assert (corpus.name, corpus.protocol) == ("demo", "demo-speaker")
    assert corpus.label_mapping == {label: label for label in CANONICAL_CLASSES}
    counts = collections.Counter((row.speaker, row.label) for row in corpus.utterances)
    assert counts == {(speaker, label): 10 for speaker in SPEAKERS for label in CANONICAL_CLASSES}
    ids = [row.id for row in corpus.utterances]
    assert ids == sorted(set(ids)) and ids[0] == "speaker01/angry-01"
    assert all(
        row.file == f"{row.id}.wav" and row.session == row.split == "" for row in corpus.utterances
    )
    assert all(row.start is None and row.end is None for row in corpus.utterances)


def test_files_are_16_khz_mono_16_bit(corpus):
    for row in corpus.utterances:
        info = soundfile.info(corpus.path(row))
        found = (info.samplerate, info.channels, info.format, info.subtype)
        assert found == (RATE, 1, "WAV", "PCM_16")
    assert len(list(corpus.root.rglob("*"))) == 240 + len(SPEAKERS), "nothing else is left"


def test_durations(waves):
    seconds = np.array([len(wave) / RATE for wave in waves.values()])
    assert seconds.min() >= 1.2 and seconds.max() <= 3.5
    assert 1.7 < seconds.mean() < 2.3


def test_neither_silent_nor_clipped(waves):
    for name, wave in waves.items():
        assert 0.01 < np.abs(wave).max() < 0.96, name
        assert -50.0 < level(wave) < -15.0, name
        assert abs(wave.mean()) < 0.1 * wave.std(), name


def test_every_utterance_is_another(waves):
    assert len({wave.tobytes() for wave in waves.values()}) == len(waves)


def test_rendering_is_deterministic(corpus):
    for speaker, label, index in ((0, "angry", 0), (3, "neutral", 7), (5, "sad", 9)):
        path = corpus.root / SPEAKERS[speaker] / f"{label}-{index + 1:02d}.wav"
        assert demo.render(speaker, label, index) == path.read_bytes()


def test_a_second_read_renders_nothing(corpus, monkeypatch):
    before = {row.id: corpus.path(row).stat().st_mtime_ns for row in corpus.utterances}
    monkeypatch.setattr(demo, "render", lambda *_: pytest.fail("rendered again"))
    again = demo.read(corpus.root)
    assert again == corpus
    assert {row.id: again.path(row).stat().st_mtime_ns for row in again.utterances} == before


def test_missing_and_cut_files_are_rendered_again(tmp_path, two_speakers):
    corpus = demo.read(tmp_path)
    gone, cut, empty, whole = (corpus.path(row) for row in corpus.utterances[:4])
    wanted = [path.read_bytes() for path in (gone, cut, empty)]
    kept = whole.stat().st_mtime_ns
    gone.unlink()
    cut.write_bytes(wanted[1][:1000])
    empty.write_bytes(b"")
    demo.read(tmp_path)
    assert [path.read_bytes() for path in (gone, cut, empty)] == wanted
    assert whole.stat().st_mtime_ns == kept


def test_a_longer_recording_of_the_same_name_is_not_overwritten(tmp_path, two_speakers):
    mine = tmp_path / "speaker01" / "angry-01.wav"
    mine.parent.mkdir()
    mine.write_bytes(bytes(200_000))
    with pytest.raises(
        UserError, match=r"angry-01\.wav has 200000 bytes.*not overwritten.*corpus\.root"
    ):
        demo.read(tmp_path)
    assert mine.read_bytes() == bytes(200_000)


def test_default_folder_is_in_the_cache(tmp_path, monkeypatch, two_speakers):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    corpus = demo.read(None)
    assert corpus.root == tmp_path / "ser_jax" / "demo-v1"
    assert all(corpus.path(row).is_file() for row in corpus.utterances)


def test_unwritable_folder_is_a_user_error(tmp_path, two_speakers):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"cannot be written to .*file/demo/speaker01.*: .*set corpus\.root"
    ):
        demo.read(tmp_path / "file" / "demo")


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, two_speakers):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        demo.read(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_tables_are_complete():
    assert set(demo.EMOTIONS) == set(demo.NEIGHBOUR) == set(CANONICAL_CLASSES)
    assert len(set(demo.SENTENCES)) == 10
    letters = set("".join(demo.SENTENCES)) - set(" ',")
    assert letters <= set(speech_synthesis.VOWELS) | set(speech_synthesis.CONSONANTS)
    assert not any(dataclasses.astuple(demo.EMOTIONS["neutral"]))


def test_pitch_measure_on_a_known_tone():
    times = np.arange(RATE) / RATE
    tone = np.sum([np.sin(2 * np.pi * 150 * k * times) / k for k in range(1, 9)], axis=0)
    assert pitch(tone) == pytest.approx(150, rel=0.02)


def test_pitch_follows_speaker_and_emotion(corpus, waves):
    mean = mean_by_group(corpus, lambda name: pitch(waves[name]))
    for speaker, voice in zip(SPEAKERS, demo.VOICES, strict=True):
        assert mean[speaker, "neutral"] == pytest.approx(voice.pitch, rel=0.2)
        for label in ("angry", "happy"):
            assert mean[speaker, label] > 1.1 * mean[speaker, "neutral"], (speaker, label)
            assert mean[speaker, label] > 1.15 * mean[speaker, "sad"], (speaker, label)


def test_level_and_voice_quality_follow_emotion(corpus, waves):
    loud = mean_by_group(corpus, lambda name: level(waves[name]))
    bright = mean_by_group(corpus, lambda name: brightness(waves[name]))
    for who in SPEAKERS:
        assert loud[who, "angry"] > loud[who, "neutral"] + 3.0 > loud[who, "sad"] + 4.0
        assert bright[who, "angry"] > bright[who, "sad"] + 3.0, who


def test_syllable_rate_follows_emotion(corpus, waves):
    mean = mean_by_group(corpus, lambda name: syllable_rate(waves[name]))
    for speaker in SPEAKERS:
        assert mean[speaker, "angry"] > mean[speaker, "sad"] * 1.15, speaker
    vowels = sum(letter in speech_synthesis.VOWELS for letter in "".join(demo.SENTENCES)) / 10
    spoken = [len(waves[row.id]) / RATE for row in corpus.utterances if row.label == "neutral"]
    neutral = np.mean(spoken)
    measured = np.mean([mean[speaker, "neutral"] for speaker in SPEAKERS])
    assert measured == pytest.approx(vowels / neutral, rel=0.25)


@pytest.mark.parametrize("vowel", ["A", "E", "i"])
@pytest.mark.parametrize("tract", [1.0, 1.15])
def test_vowels_have_their_formants(vowel, tract):
    rng = np.random.default_rng(0)
    voice = dataclasses.replace(demo.VOICES[1], pitch=100.0, tract=tract)
    plan = speech_synthesis.score(f"'{vowel} '{vowel} '{vowel}", rng, tempo=0.5, pause=0.0)
    wave = speech_synthesis.speak(plan, demo.NEUTRAL, voice, rng)
    # Linear prediction of the middle; poles that are narrow and above the voice bar are formants.
    middle = signal.lfilter([1.0, -0.97], [1.0], wave)[
        len(wave) // 2 - 2000 : len(wave) // 2 + 2000
    ] * np.hamming(4000)
    correlation = np.correlate(middle, middle, "full")[3999 : 3999 + 17]
    poles = np.roots(np.append(1.0, -linalg.solve_toeplitz(correlation[:16], correlation[1:])))
    narrow = poles[(poles.imag > 0) & (np.abs(poles) > 0.93)]
    found = np.sort(np.angle(narrow) * RATE / (2 * np.pi))
    for formant in speech_synthesis.VOWELS[vowel].formants[:2]:
        nearest = found[np.argmin(np.abs(found - tract * formant))]
        assert nearest == pytest.approx(tract * formant, abs=60 + 0.08 * formant), found


def test_vocal_tract_follows_klatts_difference_equation():
    """y[n] = A x[n] + B y[n-1] + C y[n-2] per resonator; the formants jump every 5 ms."""
    rng = np.random.default_rng(0)
    formants = rng.uniform((250, 800, 2200), (800, 2200, 3000), size=(6, 3))
    excitation = rng.normal(size=6 * speech_synthesis.FRAME)
    wave = excitation.copy()
    for number, bandwidth in enumerate(speech_synthesis.BANDWIDTHS):
        older, old = 0.0, 0.0
        for n in range(len(wave)):
            frame = formants[n // speech_synthesis.FRAME]
            centre = 1.1 * [*frame, *speech_synthesis.UPPER_FORMANTS][number]
            c = -np.exp(-2 * np.pi * bandwidth / RATE)
            b = 2 * np.exp(-np.pi * bandwidth / RATE) * np.cos(2 * np.pi * centre / RATE)
            older, old = old, (1 - b - c) * wave[n] + b * old + c * older
            wave[n] = old
    found = speech_synthesis._vocal_tract(excitation, formants, 1.1)
    np.testing.assert_allclose(found, wave, rtol=0, atol=1e-9 * wave.std())


def test_extremes_stay_finite():
    """Manners beyond any that the tables draw: every control at its limit still gives sound."""
    for sign in (-8.0, 8.0):
        values = demo._values(demo.NEUTRAL) + sign * demo._values(demo.SPREAD)
        extreme = speech_synthesis.Manner(*values)
        rng = np.random.default_rng(0)
        plan = speech_synthesis.score("'mi , tA", rng, tempo=2.0**extreme.rate, pause=extreme.pause)
        wave = speech_synthesis.speak(plan, extreme, demo.VOICES[4], rng)
        assert len(wave) == plan.samples and np.isfinite(wave).all() and wave.std() > 0


def test_linear_svm_finds_it_learnable_but_not_trivial(corpus, waves):
    """ComParE functionals + linear SVM, leave one speaker out: pooled UA of 60 to 95 %."""
    opensmile = pytest.importorskip("opensmile")
    smile = opensmile.Smile(opensmile.FeatureSet.ComParE_2016, opensmile.FeatureLevel.Functionals)
    values = np.concatenate(
        [smile.process_signal(waves[row.id], RATE).to_numpy(float) for row in corpus.utterances]
    )
    labels = np.array([row.label for row in corpus.utterances])
    speakers = np.array([row.speaker for row in corpus.utterances])
    predictions = np.empty_like(labels)
    for speaker in SPEAKERS:
        train = speakers != speaker
        scaler = preprocessing.StandardScaler().fit(values[train])
        model = svm.LinearSVC(C=1e-4, class_weight="balanced", max_iter=100_000, random_state=0)
        model.fit(scaler.transform(values[train]), labels[train])
        predictions[~train] = model.predict(scaler.transform(values[~train]))
    assert 0.60 <= metrics.recall_score(labels, predictions, average="macro") <= 0.95
    confusion = metrics.confusion_matrix(labels, predictions, labels=CANONICAL_CLASSES)
    # People, too, confuse neighbours in arousal rather than opposites.
    assert confusion[0, 3] + confusion[3, 0] < confusion[0, 1] + confusion[1, 0]
