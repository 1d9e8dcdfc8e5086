"""Scores on another corpus do not replace what is no evaluation like them."""

import pytest

from ser_jax.experiment import cross_corpus
from ser_jax.runtime import files
from ser_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("there", "refused"),
    [
        ({"evaluation_sha256": "e", "corpus_sha256": "c"}, False),
        ({"corpus_sha256": "c"}, False),  # of an earlier version
        ({"evaluation_sha256": "e2", "corpus_sha256": "c"}, True),
        ({"corpus_sha256": "c2"}, True),
        ({}, True),
    ],
)
def test_only_the_same_evaluation_is_replaced(there, refused, tmp_path):
    cross_corpus.check_output(tmp_path / "new", "e", "c")
    (tmp_path / "rejected.csv").touch()
    cross_corpus.check_output(tmp_path, "e", "c")
    files.write_json(tmp_path / "results.json", {"system": "svm", "corpus": "mine", **there})
    if not refused:
        cross_corpus.check_output(tmp_path, "e", "c")
        return
    sentence = (
        rf"{tmp_path} holds the scores of svm .*\(mine\).*: name another folder with --output"
    )
    with pytest.raises(UserError, match=sentence):
        cross_corpus.check_output(tmp_path, "e", "c")


def test_a_folder_with_something_else_is_no_place_for_scores(tmp_path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(UserError, match="is not empty and holds no evaluation: name another"):
        cross_corpus.check_output(tmp_path, "e", "c")
