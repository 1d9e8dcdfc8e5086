"""A trained run as a function: a recording in, a label and probabilities out."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ser_jax import checks, machinery, systems
from ser_jax.baselines import svm
from ser_jax.errors import UserError
from ser_jax.features import audio, hsf
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.item import compute_kind
from ser_jax.prediction import members
from ser_jax.prediction.network import Network, Values
from ser_jax.prediction.rule import Answer, Rule, make_rule
from ser_jax.prediction.segments import SegmentNetwork
from ser_jax.training import scoring


@dataclasses.dataclass(frozen=True)
class Prediction(Answer):
    """What is said about one recording.

    Attributes:
      label: The class with the highest probability; None if that is below the threshold.
      probabilities: Class → share in [0, 1], in the model's order; they add up to 1.
      seconds: Length of the recording or span.
      flags: What is odd about it although it is used: "clipped", "odd rate" (not 16 kHz), "several channels".
    """

    seconds: float
    flags: tuple[str, ...] = ()


class Predictor:
    """The models of a run, ready to predict; see `ser_jax.load`.

    Several models predict together: the mean of their probabilities, each calibrated by its own temperature.

    Attributes:
      classes: The K classes that it knows.
      description: Which models predict, in words.
      config: Configuration that they were trained with.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        """Loads the models; programs are compiled at the first recording of each length and kept in the cache folder.

        Args:
          workdir: Run directory that `python -m ser_jax.main` has written.

        Raises:
          UserError: If it is no finished run, a file is damaged, or the system needs openSMILE, which is missing.
        """
        found = members.read(Path(workdir))
        self.config, self.classes, self.description = found.config, found.classes, found.description
        checks.check(self.config)
        if systems.uses_hsf(self.config):
            hsf.require_opensmile()
        self._models = found.models
        self._settings = machinery.logmel_settings(self.config)
        self._network = None
        if self.config.system != "svm":
            self._network = Network(self.config, found.models, len(found.classes))

    @functools.cached_property
    def segments(self) -> SegmentNetwork:
        """The models for streams, which go segment by segment; compiled when first asked for.

        Raises:
          UserError: If the system needs the whole utterance.
        """
        return SegmentNetwork(self.config, self._models, len(self.classes))

    def rule(self, classes: Sequence[str] = (), threshold: float = 0.0) -> Rule:
        """Returns how probabilities become answers; see `predict`."""
        return make_rule(self.classes, classes, threshold)

    def predict(
        self,
        recording: str | os.PathLike[str] | np.ndarray,
        rate: int | None = None,
        *,
        start: float | None = None,
        end: float | None = None,
        classes: Sequence[str] = (),
        threshold: float = 0.0,
    ) -> Prediction:
        """Says which emotion a recording holds.

        Args:
          recording: A WAV, FLAC, Ogg or MP3 file of any rate, or samples: [S] or [S, channels], floats in [-1, 1] or
            16-bit integers.
          rate: Sampling rate of the samples in Hz; a file says its own.
          start: Start of the span to listen to, in s; None: the beginning.
          end: Its end in s; None: the end.
          classes: Classes to choose from, whose probabilities are divided by their sum; none: all.
          threshold: Smallest probability, in [0, 1], with which a class is named; below it the label is None.

        Returns:
          Label, probabilities and length.

        Raises:
          UserError: If the recording cannot be used, samples have no rate, or classes or threshold do not fit.
        """
        rule = self.rule(classes, threshold)
        heard = self._listen(recording, rate, start, end)
        try:
            values = self.features([heard])
        except BadAudio as error:
            raise UserError(f"the recording cannot be used: {error}") from error
        answer = rule.answers(self.probabilities(values))[0]
        return Prediction(answer.label, answer.probabilities, heard.seconds, heard.flags)

    def features(self, heard: Sequence[audio.Recording]) -> Values:
        """Computes what the system reads of N recordings.

        Raises:
          BadAudio: If openSMILE gives NaN.
        """

        def computed(kind: str) -> list[np.ndarray]:
            return [compute_kind(kind, recording, self._settings) for recording in heard]

        return Values(
            log_mel=computed("logmel") if systems.uses_log_mel(self.config) else [],
            hsf=np.stack(computed("hsf")) if systems.uses_hsf(self.config) else None,
            waves=computed("wave") if systems.uses_wave(self.config) else [],
        )

    def probabilities(self, values: Values) -> np.ndarray:
        """Returns the probabilities [N, K] f64 of N recordings, given their features."""
        temperatures = [model.description["temperature"] for model in self._models]
        if self._network is not None:
            scores = list(self._network.logits(values))
        else:
            assert values.hsf is not None
            scores = [
                svm.decision_values(values.hsf, **model.params, statistics=model.statistics) for model in self._models
            ]
        return scoring.mean_probabilities(scores, temperatures)

    def _listen(
        self, recording: str | os.PathLike[str] | np.ndarray, rate: int | None, start: float | None, end: float | None
    ) -> audio.Recording:
        limit = self.config.features.max_seconds
        if not isinstance(recording, np.ndarray):
            if rate is not None:
                raise UserError(
                    f"rate={rate} is for samples; the file {os.fspath(recording)} says its own: leave it out"
                )
            try:
                return audio.decode(recording, start, end, max_seconds=limit)
            except BadAudio as error:
                raise UserError(f"{os.fspath(recording)} cannot be used: {error}") from error
        if rate is None:
            raise UserError("samples need their rate: predict(samples, rate=16000)")
        seconds = len(recording) / rate if recording.ndim and rate > 0 else 0.0
        begin, stop = start or 0.0, seconds if end is None else end
        if not 0 <= begin <= stop <= seconds:
            raise UserError(
                f"start={start}, end={end} is no span of {seconds:g} s of samples; give seconds within them"
            )
        try:
            part = recording[round(begin * rate) : round(stop * rate)] if recording.ndim else recording
            return audio.from_samples(part, rate, max_seconds=limit)
        except BadAudio as error:
            raise UserError(f"the samples cannot be used: {error}") from error
