"""Embeddings of new recordings: what is asked for, brought, or made by another model."""

import numpy as np
import pytest

from ser_jax.corpora.table import Utterance
from ser_jax.prediction import embedding_source
from ser_jax.runtime.errors import UserError

FACTS = {"level": "utterance", "layers": 1, "width": 3, "embedder": None}


def source(folder="", embedder="", **facts):
    return embedding_source.make(
        FACTS | facts, "the model x", embedder=str(embedder), embeddings=str(folder), mean=False
    )


def test_without_one_the_sentence_says_both_ways():
    with pytest.raises(UserError, match=r"the model x .* --embedder=FILE.onnx, or bring .*=PATH"):
        source()


def test_a_training_that_does_not_know_its_embedder_takes_files_only(tmp_path):
    with pytest.raises(UserError, match="does not know what made its embeddings"):
        source(embedder=tmp_path / "model.onnx")


def test_what_is_brought_is_of_one_recording_in_every_call(tmp_path):
    np.save(tmp_path / "1.npy", np.arange(3.0))
    brought = source(tmp_path)
    for _ in range(2):
        (found,) = brought.of((), [Utterance("", "anna/1.wav")])
        assert found.tolist() == [[[0, 1, 2]]]
    with pytest.raises(UserError, match="may be of anna/1.wav and of ben/1.wav"):
        brought.of((), [Utterance("", "ben/1.wav")])
    with pytest.raises(UserError, match="have none: x"):
        brought.of((), [Utterance("x", "x.wav")])
    with pytest.raises(UserError, match="samples and windows of a recording have no embeddings"):
        brought.of((), [])
    with pytest.raises(UserError, match="of 3 values, the models read 4 values"):
        source(tmp_path, width=4).of((), [Utterance("", "1.wav")])
