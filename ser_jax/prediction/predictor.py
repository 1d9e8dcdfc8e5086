"""A trained run as a function: a recording in, a label and probabilities out."""

from __future__ import annotations

import copy
import dataclasses
import functools
import numbers
import os
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.baselines import svm
from ser_jax.corpora.table import Utterance
from ser_jax.data import standardise
from ser_jax.evaluation import mixture
from ser_jax.experiment import config_checks, fusion, setup
from ser_jax.features import audio, domain, functionals, preparation
from ser_jax.features import vad as speech
from ser_jax.features.extraction import compute_kind
from ser_jax.features.pcm import NO_SPEECH, BadAudio
from ser_jax.models import build, probe
from ser_jax.prediction import embedding_source, weights
from ser_jax.prediction.ensemble import Answer, Decision, make_decision
from ser_jax.prediction.network import Network, Values
from ser_jax.prediction.segments import SegmentNetwork
from ser_jax.protocols import speaker_rule
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted
from ser_jax.training import scoring
from ser_jax.training.model_files import Model

if typing.TYPE_CHECKING:
    from ser_jax.prediction.timeline import Timeline

File = str | os.PathLike[str]
Source = File | np.ndarray | Sequence[float]  # one recording: a file, or its samples
PORTION = 32  # recordings that are decoded together


@dataclasses.dataclass(frozen=True)
class Prediction(Answer):
    """The prediction for one recording.

    Attributes:
      label: The class with the highest probability; None if that is below the threshold; "no
        speech" where there is too little sound for any (docs/robustness.md).
      probabilities: Class → probability in [0, 1], in the model's order; they add up to 1. Empty
        without speech.
      seconds: Length of the recording or span.
      flags: What is odd about it although it is used, of `pcm.FLAGS` and `domain.FLAGS`:
        "clipped", "quieter than training", …; and `Predictor.remarks`.
    """

    seconds: float
    flags: tuple[str, ...] = ()


class Predictor:
    """The models of a run, ready to predict; see `ser_jax.load`.

    Several models predict together: the mean of their probabilities, each calibrated by its own
    temperature. So do the members of a fusion, with its weights and its temperature.

    Attributes:
      classes: The K classes that it knows.
      description: Which models predict, in words.
      config: Configuration that they were trained with.
      reads: Features that they need of recordings: "logmel", "hsf" (functionals), "wave".
      mix: Channel and preparation of recordings.
      vad: Whether a detector of speech decides what holds none.
      remarks: Flags of all answers: `weights.STRANGER` of models that normalise by speaker, where
        nobody is enrolled.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        channel: str = "",
        vad: bool = False,
        embedder: str | os.PathLike[str] = "",
        embeddings: str | os.PathLike[str] = "",
    ):
        """Loads the models; programs are compiled when needed and kept in the cache folder.

        Args:
          workdir: Run directory that `ser-jax train` has written, a file that `ser-jax export
            --format=safetensors` has, or the name of a packaged model.
          channel: Channel of recordings to use (mean, left, right, or a number from 1); empty: as
            the models were trained.
          vad: Detect speech with the extra `vad`, so that noise and music get no emotion.
          embedder: Models that were trained on embeddings: the ONNX file that made them.
          embeddings: The same: files of the embeddings of all recordings (docs/embeddings.md).

        Raises:
          UserError: If it is no finished run and no such file, a file is damaged, or the system
            needs openSMILE or embeddings, or the detector, which are missing.
        """
        if vad:
            speech.require()
        self.vad = vad
        self._fusion, self._members = fusion.read(Path(workdir)), []
        self._models: Sequence[Model] = []
        self._embedded = None
        if self._fusion:
            given = {"channel": channel, "embedder": embedder, "embeddings": embeddings}
            folders = self._fusion.folders.values()
            self._members = [Predictor(folder, **given) for folder in folders]
            self.config, self.classes = self._fusion.config, self._members[0].classes
            described = self._fusion.describe(Path(workdir))
            self.description = described + weights.not_enrolled(self.config)
        else:
            found = weights.read_models(Path(workdir))
            self.config, self.classes = found.config, found.classes
            self.description, self._models = found.description, found.models
        if channel:
            with self.config.unlocked():
                self.config.features.channel = channel
        config_checks.check(self.config)
        if self._fusion is None and build.uses_embeddings(self.config):
            pooled = self.config.model.probe_pooling == probe.MEAN
            self._embedded = embedding_source.make(
                self._models[0].description["embeddings"],
                self.description,
                embedder=os.fspath(embedder),
                embeddings=os.fspath(embeddings),
                mean=pooled and build.uses_embedded_frames(self.config),
            )
        elif self._fusion is None and (embedder or embeddings):
            raise UserError(
                f"{self.description} reads no embeddings: leave out embedder and embeddings"
            )
        self.reads = frozenset().union(*(member.reads for member in self._members)) or self._kinds()
        if "hsf" in self.reads:
            functionals.require_opensmile()
        self.mix = setup.mix(self.config)
        normalises = speaker_rule.rule(self.config) is not None
        self.remarks: tuple[str, ...] = (weights.STRANGER,) if normalises else ()
        self._settings = setup.logmel_settings(self.config)
        self._network = None
        if build.spec(self.config).build is not None:
            self._network = Network(self.config, self._models, len(self.classes))

    def __repr__(self) -> str:
        """Returns which models predict, and their classes."""
        return f"<Predictor: {self.description}; {', '.join(self.classes)}>"

    def enrolled(self, recordings: Source | Iterable[Source], rate: int | None = None) -> Predictor:
        """Returns the predictor for one person, given recordings of theirs (docs/features.md).

        For models of `features.normalisation=speaker` the person's own means and deviations take
        the place of those of the training part; for models of `features.level=speaker` one gain
        takes the place of a level for each recording. No labels are needed; the more kinds of
        speech the recordings hold, the better.

        Args:
          recordings: At least `features.speaker_minimum` files or arrays of samples, as for
            `predict`.
          rate: Sampling rate of samples in Hz; files have their own.

        Raises:
          UserError: If the models have no use for it, a recording cannot be used, or there are too
            few.
        """
        several: Any = recordings if _is_several(recordings) else [recordings]
        raw = copy.copy(self)
        raw.mix = self.enrolment_mix
        return self.enrolled_with(raw._decode(one, rate, None, None) for one in several)

    @property
    def enrolment_mix(self) -> audio.Mix:
        """Channel and preparation of recordings that enrol: their level stays as it is."""
        level = "none" if self.mix.level == speaker_rule.SPEAKER else self.mix.level
        return dataclasses.replace(self.mix, level=level)

    def enrolled_with(
        self, recordings: Iterable[audio.Recording], utterances: Sequence[Utterance] = ()
    ) -> Predictor:
        """Does what `enrolled` does, with recordings that are decoded by `enrolment_mix`.

        `utterances` says which they are, for embeddings that were brought.
        """
        rule = speaker_rule.rule(self.config)
        if rule is None:
            raise UserError(
                f"{self.description} does not normalise by speaker, so that recordings of a person"
                " change nothing: leave them out, or train with"
                " --config.features.normalisation=speaker"
            )
        recordings = list(recordings)
        if len(recordings) < rule.minimum:
            raise UserError(
                f"{counted(len(recordings), 'recording')} of the person: at least"
                f" features.speaker_minimum={rule.minimum} are needed, as in training"
            )
        person = copy.copy(self)
        person.remarks = ()
        person.description = self.description.replace(
            weights.NOT_ENROLLED,
            f", normalised by {counted(len(recordings), 'recording')} of the person",
        )
        person._members = [one.enrolled_with(recordings, utterances) for one in self._members]
        if self.mix.level == speaker_rule.SPEAKER:
            facts = np.stack([preparation.loudness_facts(one.samples) for one in recordings])
            gain = preparation.speaker_gain(facts) or 1.0
            person.mix = dataclasses.replace(self.mix, gain=gain)
            recordings = [
                dataclasses.replace(one, samples=one.samples * np.float32(gain))
                for one in recordings
            ]
        if self.config.features.normalisation == speaker_rule.SPEAKER and not self._members:
            person._normalise(self._statistics(recordings, utterances))
        return person

    def _normalise(self, statistics: standardise.Statistics) -> None:
        """Puts the statistics of a person in the place of those of the models."""
        self.__dict__.pop("segments", None)  # of the others
        self._models = tuple(model._replace(statistics=statistics) for model in self._models)
        if self._network is not None:
            self._network = Network(self.config, self._models, len(self.classes))

    def _statistics(
        self, recordings: Sequence[audio.Recording], utterances: Sequence[Utterance]
    ) -> standardise.Statistics:
        """Returns mean and deviation of the features of some recordings."""
        try:
            values = self._with_embeddings(self.features(recordings), utterances)
        except BadAudio as error:
            raise UserError(f"a recording of the person cannot be used: {error}") from error
        rows, log_mel, hsf = np.arange(len(recordings)), (None, None), (None, None)
        if values.log_mel:
            log_mel = standardise.log_mel_statistics(standardise.band_sums(values.log_mel), rows)
        if values.hsf is not None:
            hsf = standardise.hsf_statistics(values.hsf, rows)
        return standardise.Statistics(*log_mel, *hsf)

    @functools.cached_property
    def segments(self) -> SegmentNetwork:
        """The models for streams, segment by segment; compiled at the first access.

        Raises:
          UserError: If the system needs the whole utterance.
        """
        return SegmentNetwork(self.config, self._models, len(self.classes))

    def decision(self, classes: Sequence[str] = (), threshold: float = 0.0) -> Decision:
        """Returns how probabilities become answers; see `predict`."""
        return make_decision(self.classes, classes, threshold)

    @typing.overload
    def predict(
        self,
        recording: Source,
        rate: int | None = None,
        *,
        start: float | None = None,
        end: float | None = None,
        classes: Sequence[str] = (),
        threshold: float = 0.0,
    ) -> Prediction: ...

    @typing.overload
    def predict(
        self,
        recording: Iterable[Source],
        rate: int | None = None,
        *,
        start: float | None = None,
        end: float | None = None,
        classes: Sequence[str] = (),
        threshold: float = 0.0,
    ) -> list[Prediction]: ...

    def predict(
        self,
        recording: Any,
        rate: int | None = None,
        *,
        start: float | None = None,
        end: float | None = None,
        classes: Sequence[str] = (),
        threshold: float = 0.0,
    ) -> Prediction | list[Prediction]:
        """Predicts the emotion of a recording, or of several in one call.

        Args:
          recording: A WAV, FLAC, Ogg or MP3 file of any rate; or samples: an array [S] or
            [S, channels] or a list of S numbers, floats in [-1, 1] or 16-bit integers; or a list
            (any iterable, such as `folder.glob("*.wav")` or a column of a table) of these.
          rate: Sampling rate of the samples in Hz; a file has its own.
          start: Start of the span to use, of each recording, in s; None: the beginning.
          end: Its end in s; None: the end.
          classes: Classes to choose from, whose probabilities are divided by their sum; none: all.
          threshold: Smallest probability, in [0, 1], with which a class is named; below it the
            label is None.

        Returns:
          Label, probabilities and length; of several recordings a list, in their order.

        Raises:
          UserError: If a recording cannot be used (which one is said), samples have no rate, or
            classes or threshold do not fit.
        """
        decision = self.decision(classes, threshold)
        if not _is_several(recording):
            return self._predict([recording], [""], rate, start, end, decision)[0]
        sources, found = list(recording), []
        for first in range(0, len(sources), PORTION):
            part = sources[first : first + PORTION]
            names = [f"number {first + k + 1} of {len(sources)}: " for k in range(len(part))]
            found += self._predict(part, names, rate, start, end, decision)
        return found

    def _predict(
        self,
        recordings: Sequence[Source],
        names: Sequence[str],
        rate: int | None,
        start: float | None,
        end: float | None,
        decision: Decision,
    ) -> list[Prediction]:
        decoded = []
        for recording, name in zip(recordings, names, strict=True):
            try:
                decoded.append(self._decode(recording, rate, start, end))
            except UserError as error:
                raise UserError(f"{name}{error}") from error.__cause__
        try:
            utterances = [
                Utterance("", os.fspath(one), start, end)
                if isinstance(one, str | os.PathLike)
                else None
                for one in recordings
            ]
            shares, flags = self.score(decoded, utterances)
        except BadAudio as error:
            raise UserError(f"a recording cannot be used: {error}") from error
        return [
            Prediction(answer.label, answer.probabilities, one.seconds, odd)
            for answer, one, odd in zip(
                decision.answers(shares, flags), decoded, flags, strict=True
            )
        ]

    def timeline(
        self,
        recording: Source,
        rate: int | None = None,
        *,
        start: float | None = None,
        end: float | None = None,
        window: float | None = None,
        hop: float | None = None,
        classes: Sequence[str] = (),
        threshold: float = 0.0,
    ) -> Timeline:
        """Predicts the course of emotion over a recording of any length (docs/timeline.md).

        Args:
          recording: A file or samples, as for `predict`.
          rate: Sampling rate of the samples in Hz; a file has its own.
          start: Start of the span to use, in s; None: the beginning.
          end: Its end in s; None: the end.
          window: Seconds that a row looks back on; None: 3.
          hop: Score windows one by one, so many seconds apart; None: follow the stream, or, with a
            system that needs the whole utterance, half a window.
          classes: Classes to choose from; none: all.
          threshold: Smallest probability with which a class is named.

        Returns:
          Times, probabilities and answers; `Timeline.write` makes a table, labels or a drawing.

        Raises:
          UserError: If the recording cannot be used, or another argument does not fit.
        """
        from ser_jax.prediction import timeline

        if _is_several(recording):
            raise UserError("a timeline is of one recording: call timeline for each of them")
        decision, plan = self.decision(classes, threshold), timeline.make_plan(self, window, hop)
        name, source = "the samples", None
        try:
            if isinstance(recording, str | os.PathLike):
                _check_rate_of_file(recording, rate)
                name = os.fspath(recording)
                source = Utterance(name, name, start, end)
            else:
                part, rate = _span_of_samples(recording, rate, start, end)
                source = audio.Samples(part, rate, start)
            return timeline.follow(self, source, plan, decision)
        except BadAudio as error:
            raise UserError(f"{name} cannot be used: {error}") from error

    def _kinds(self) -> frozenset[str]:
        """Returns the features that models which are no fusion need of recordings."""
        embeds = self._embedded is not None and self._embedded.needs_waves
        needed = {
            "logmel": build.uses_log_mel(self.config),
            "hsf": build.uses_functionals(self.config),
            "wave": build.uses_wave(self.config) or embeds,
        }
        return frozenset(kind for kind, requested in needed.items() if requested)

    def _with_embeddings(self, values: Values, utterances: Sequence[Utterance]) -> Values:
        """Returns the features of N recordings with their embeddings, if the system reads such."""
        if self._embedded is None:
            return values
        found = self._embedded.of(values.waves, utterances)
        if build.uses_embedded_frames(self.config):
            return Values(log_mel=found)
        vectors = np.stack([array[0, 0] for array in found])
        if values.hsf is not None:
            vectors = np.concatenate([values.hsf, vectors], axis=1)
        return values._replace(hsf=vectors, waves=())

    def features(self, recordings: Sequence[audio.Recording]) -> Values:
        """Computes the features that the system reads of N recordings, but embeddings.

        Raises:
          BadAudio: If openSMILE gives NaN.
        """

        def computed(kind: str) -> list[np.ndarray]:
            feature_set = self.config.features.functionals
            return [compute_kind(kind, one, self._settings, feature_set) for one in recordings]

        return Values(
            log_mel=computed("logmel") if "logmel" in self.reads else [],
            hsf=np.stack(computed("hsf")) if "hsf" in self.reads else None,
            waves=computed("wave") if "wave" in self.reads else [],
        )

    def score(
        self, recordings: Sequence[audio.Recording], utterances: Sequence[Utterance | None]
    ) -> tuple[np.ndarray, list[tuple[str, ...]]]:
        """Scores N recordings, each a file (`utterances`) or samples (None).

        Returns:
          Probabilities [N, K] f64, 0 for those without speech; and their flags, with those of
          `domain.FLAGS`.

        Raises:
          BadAudio: If openSMILE gives NaN.
        """
        shares = np.zeros((len(recordings), len(self.classes)))
        flags = [one.flags for one in recordings]
        scored = [n for n, one in enumerate(flags) if NO_SPEECH not in one]
        if scored:
            values = self.features([recordings[n] for n in scored])
            files = [one for n in scored if (one := utterances[n]) is not None]
            if len(files) < len(scored):
                files = []  # Samples have no name.
            shares[scored] = self.probabilities(values, utterances=files)
            facts = [(np.array(recordings[n].facts), recordings[n].seconds) for n in scored]
            for n, outside in zip(scored, self.outside(values, facts), strict=True):
                flags[n] += outside
        return shares, flags

    def check_speech(self, recording: audio.Recording) -> audio.Recording:
        """Returns the recording, flagged "no speech" if the detector is on and finds none."""
        if not self.vad or NO_SPEECH in recording.flags or speech.has_speech(recording.samples):
            return recording
        return dataclasses.replace(recording, flags=(*recording.flags, NO_SPEECH))

    def outside(
        self, values: Values, facts: Sequence[tuple[np.ndarray, float]]
    ) -> list[tuple[str, ...]]:
        """Returns the flags of `domain.FLAGS` of N recordings and `remarks`; old runs lack bounds.

        `facts` of each: `domain.measure`, and its length in s.
        """
        bounds = self.descriptions[0].get("domain")
        if not bounds:
            return [self.remarks] * len(facts)
        frames = values.log_mel or [None] * len(facts)
        return [
            domain.flags(bounds, *one, rows) + self.remarks
            for one, rows in zip(facts, frames, strict=True)
        ]

    @property
    def descriptions(self) -> list[dict[str, Any]]:
        """The description of each model, see docs/run-directory.md; of a fusion, of all members."""
        of_members = [found for member in self._members for found in member.descriptions]
        return of_members or [model.description for model in self._models]

    def probabilities(
        self,
        values: Values,
        models: Sequence[int] | None = None,
        *,
        utterances: Sequence[Utterance] = (),
    ) -> np.ndarray:
        """Returns the probabilities [N, K] f64 of N recordings, given their features.

        Args:
          values: Features of the recordings, as `features` gives them.
          models: Numbers of the models that vote; None: all.
          utterances: Which recordings they are, for embeddings that were brought.

        Raises:
          UserError: If embeddings do not fit the recordings.
        """
        if self._fusion:
            return self._of_members(self._fusion, values, models, utterances)
        values = self._with_embeddings(values, utterances)
        chosen = self._models if models is None else [self._models[n] for n in models]
        temperatures = [model.description["temperature"] for model in chosen]
        if self._network is not None:
            scores = list(self._network.logits(values, models))
        else:
            assert values.hsf is not None
            scores = [
                svm.decision_values(values.hsf, **model.params, statistics=model.statistics)
                for model in chosen
            ]
        return scoring.mean_probabilities(scores, temperatures)

    def _of_members(
        self,
        fused: fusion.Together,
        values: Values,
        models: Sequence[int] | None,
        utterances: Sequence[Utterance],
    ) -> np.ndarray:
        """Returns the mean over members, of those of which a model votes."""
        shares, weights, first = [], [], 0
        for member, weight in zip(self._members, fused.weights, strict=True):
            last = first + len(member.descriptions)
            own = None if models is None else [n - first for n in models if first <= n < last]
            first = last
            if own != []:
                shares.append(member.probabilities(values, own, utterances=utterances))
                weights.append(weight)
        return mixture.average(
            np.stack(shares), np.array(weights) / np.sum(weights), fused.temperature
        )

    def _decode(
        self, recording: Source, rate: int | None, start: float | None, end: float | None
    ) -> audio.Recording:
        options: dict[str, Any] = {"max_seconds": self.config.features.max_seconds}
        options |= {"mix": self.mix, "silent": True}
        name = "the samples"
        try:
            if isinstance(recording, str | os.PathLike):
                _check_rate_of_file(recording, rate)
                name = os.fspath(recording)
                return self.check_speech(audio.decode(recording, start, end, **options))
            part, rate = _span_of_samples(recording, rate, start, end)
            return self.check_speech(audio.from_samples(part, rate, **options))
        except BadAudio as error:
            raise UserError(f"{name} cannot be used: {error}") from error


def _is_several(recording: Any) -> bool:
    """Returns whether this is not one recording but several."""
    if isinstance(recording, str | bytes | os.PathLike):
        return False
    if hasattr(recording, "__array__"):  # Samples, or a column of file names.
        return np.asarray(recording).dtype.kind in "OTU"
    if isinstance(recording, Sequence):
        return not (len(recording) and isinstance(recording[0], numbers.Real))
    return isinstance(recording, Iterable)


def _check_rate_of_file(file: File, rate: int | None) -> None:
    if rate is not None:
        raise UserError(
            f"rate={rate} is for samples; the file {os.fspath(file)} has its own: leave it out"
        )


def _span_of_samples(
    samples: Any, rate: int | None, start: float | None, end: float | None
) -> tuple[np.ndarray, int]:
    """Returns the span of samples as an array, and its rate; lists of whole numbers are int16.

    Raises:
      UserError: If there is no rate, or the span lies outside.
    """
    if rate is None:
        raise UserError("samples need their rate: predict(samples, rate=16000)")
    values = np.asarray(samples)
    if isinstance(samples, Sequence) and values.dtype.kind == "i":
        limits = np.iinfo(np.int16)
        if limits.min <= values.min() and values.max() <= limits.max:
            values = values.astype(np.int16)
    seconds = len(values) / rate if values.ndim and rate > 0 else 0.0
    begin, stop = start or 0.0, seconds if end is None else end
    if not 0 <= begin <= stop <= seconds:
        raise UserError(
            f"start={start}, end={end} is no span of {seconds:g} s of samples; give seconds within"
            " them"
        )
    return values[round(begin * rate) : round(stop * rate)] if values.ndim else values, rate
