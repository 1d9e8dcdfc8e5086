"""Several corpora as one table: ids, speakers, folders, and the classes that all of them have."""

import pytest
import releases

from ser_jax import config as configuration
from ser_jax.corpora import from_config, joined
from ser_jax.features import audio
from ser_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """EMO-DB with anger, happiness, boredom; a list with speakers of the same names."""
    folder = tmp_path_factory.mktemp("corpora")
    names = releases.emodb_names(emotions="WFL", per_emotion=1)
    emodb = releases.write_emodb(folder / "one", names, seconds=0.2)
    rows = [
        {"file": f"a/{speaker}{label}{n}.wav", "label": label, "speaker": speaker}
        for speaker in ("03", "08", "09")
        for label in ("anger", "happy", "sad")
        for n in range(2)
    ]
    mine = releases.write_manifest(folder / "two", rows, seconds=0.2).parent
    return emodb, mine


def config(*roots, name: str = "emodb+manifest", labels: str = "anger=angry", **keys):
    c = configuration.get_config()
    c.corpus.update({"name": name, "root": ",".join(map(str, roots)), "labels": labels, **keys})
    return c


def read(*roots, **keys):
    return from_config.read_listed(config(*roots, **keys), audio.length, allow_missing=False)


def test_ids_and_speakers_have_the_name_of_their_corpus(roots):
    corpus = read(*roots)
    assert corpus.name == "emodb+manifest" and len(corpus.utterances) == 4 * 2 + 3 * 2 * 2
    assert [row.id for row in corpus.utterances] == sorted(row.id for row in corpus.utterances)
    first, last = corpus.utterances[0], corpus.utterances[-1]
    assert (first.id, first.speaker) == ("emodb/wav/03a01Fa", "emodb/03")
    assert (last.id, last.speaker) == ("manifest/a/09happy1", "manifest/09")
    assert (last.label, last.corpus) == ("happy", "manifest")
    assert all(corpus.path(row).is_file() for row in corpus.utterances)
    assert {row.label for row in corpus.utterances} == {"angry", "happy"}


def test_labels_that_not_all_have_are_left_out_and_named(roots):
    corpus = read(*roots)
    assert corpus.warnings[0] == (
        "labels that not all corpora have are left out: boredom (4, not in manifest); sad (6, not"
        " in emodb)"
    )
    mapping = corpus.label_mapping
    assert (mapping["emodb/W"], mapping["emodb/L"], mapping["manifest/anger"]) == (
        *("angry", "-", "angry"),
    )
    merged = read(*roots, labels="anger=angry,boredom=low,sad=low")
    assert {row.label for row in merged.utterances} == {"angry", "happy", "low"}
    with pytest.raises(UserError, match="have 1 label in common.*emodb: angry, boredom, happy; m"):
        read(*roots, labels="")


def test_one_reader_twice_and_a_list_for_each(roots):
    _, mine = roots
    releases.write_manifest(mine, [{"file": "a/03sad0.wav", "label": "sad"}], name="b.csv")
    both = read(mine, mine, name="manifest+manifest", manifest="manifest.csv,manifest.csv")
    assert {row.corpus for row in both.utterances} == {"manifest", "manifest-2"}
    lists = joined.parts("manifest+manifest", "/a,/b", "x.csv,y.csv")
    assert [(part.prefix, part.root, part.manifest) for part in lists] == [
        *(("manifest/", "/a", "x.csv"), ("manifest-2/", "/b", "y.csv"))
    ]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"root": "/a"}, "joins 2 corpora and corpus.root names 1 .* in the same order"),
        ({"root": "/a,/b,/c"}, "corpus.root names 3"),
        ({"manifest": "a,b,c"}, "corpus.manifest names 3"),
        ({"name": "emodb+emodbb"}, "corpus.name='emodbb' is unknown"),
    ],
)
def test_what_does_not_fit_together_is_refused(roots, keys, sentence):
    with pytest.raises(UserError, match=sentence):
        read(*roots, **keys)
