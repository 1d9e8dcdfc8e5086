"""Corpora from configurations, and the list of rejected rows."""

import shutil
from pathlib import Path

import pytest
import releases

from ser_jax.config import get_config
from ser_jax.corpora import from_config
from ser_jax.corpora.from_config import read_rejected
from ser_jax.corpora.registry import read_corpus
from ser_jax.corpora.table import Rejection
from ser_jax.features import audio
from ser_jax.runtime.errors import UserError


def config_for(root: Path, allow_missing: bool = False):
    config = get_config()
    config.corpus.update(name="manifest", root=str(root), allow_missing=allow_missing)
    return config


@pytest.fixture
def incomplete(tmp_path) -> Path:
    """A manifest of 32 recordings, of which the 8 of a speaker are not there."""
    root = releases.write_manifest(
        tmp_path / "corpus", releases.manifest_rows(), seconds=0.01
    ).parent
    shutil.rmtree(root / "audio/s1")
    return root


def test_every_missing_recording_is_listed_and_the_sentence_says_where(incomplete, tmp_path):
    rejected = tmp_path / "out/rejected.csv"
    with pytest.raises(UserError) as error:
        from_config.read(config_for(incomplete), rejected, audio.length)
    sentence = str(error.value)
    assert (
        "8 of 32 listed recordings are missing" in sentence and "audio/s1/angry0.wav; " in sentence
    )
    assert sentence.endswith(f"; all 8 are listed in {rejected}")
    assert {row.file for row in read_rejected(rejected)} == {
        f"audio/s1/{label}{n}.wav"
        for label in ("angry", "happy", "neutral", "sad")
        for n in range(2)
    }


def test_a_list_that_cannot_be_written_does_not_hide_the_refusal(incomplete, tmp_path):
    (tmp_path / "file").touch()
    rejected = tmp_path / "file/rejected.csv"
    with pytest.raises(
        UserError, match=r"8 of 32 listed .*; .*file/rejected.csv cannot be written: "
    ) as error:
        from_config.read(config_for(incomplete), rejected, audio.length)
    assert "are listed in" not in str(error.value)


def test_a_corpus_that_is_not_refused_is_left_to_the_caller(incomplete, tmp_path):
    corpus = from_config.read(
        config_for(incomplete, allow_missing=True), tmp_path / "out/rejected.csv", audio.length
    )
    assert corpus == read_corpus(
        "manifest", str(incomplete), manifest="manifest.csv", allow_missing=True
    )
    assert len(corpus.utterances) == 24 and len(corpus.rejected) == 8
    assert not (tmp_path / "out").exists()


def test_a_refusal_without_rows_writes_no_list(tmp_path):
    root = releases.write_manifest(tmp_path / "corpus", [], columns=("file", "label")).parent
    with pytest.raises(UserError, match="its lists name no recording") as error:
        from_config.read(config_for(root), tmp_path / "rejected.csv", audio.length)
    assert "rejected.csv" not in str(error.value) and not (tmp_path / "rejected.csv").exists()


def test_the_folder_of_a_list_need_not_exist(tmp_path):
    rows = [Rejection("a.wav", 3, "missing", "no such file")]
    from_config.list_rejected(tmp_path / "new/folder/rejected.csv", rows)
    assert read_rejected(tmp_path / "new/folder/rejected.csv") == rows


def test_several_languages_are_said(tmp_path):
    config = get_config()
    root = releases.write_named(tmp_path, "esd")
    config.corpus.update(name="esd", root=str(root))
    corpus = from_config.read_listed(config, audio.length, allow_missing=False)
    assert corpus.warnings[0] == "recordings are in several languages: English 3, Mandarin 2"
    config.corpus.update(root=str(root / "0011"))
    assert not any(
        "languages" in text
        for text in from_config.read_listed(config, audio.length, allow_missing=False).warnings
    )
