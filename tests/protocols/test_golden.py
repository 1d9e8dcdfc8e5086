"""The hashes of all named protocols on one small corpus each: published results name protocols by them."""

from pathlib import Path

import pytest

from ser_jax.corpora import emodb, emotass, iemocap
from ser_jax.corpora.table import CANONICAL_CLASSES, Corpus, GivenFold, Utterance
from ser_jax.protocols import registry, specs

GOLDEN = {
    "demo-speaker": "e754af1ed7af5d6fa52665f9a28a02c6c869931f3a0e103f89d83feb153b226b",
    "emodb4-speaker10": "8071d3fe920b225997adca8a4d0999e6d5c362e6e61c632ebebdb6cc28f7183a",
    "emodb7-speaker10": "0435c372bc00e1496a9ff2b74f9dede0edf6a7a011a1f927eec1834318f99c43",
    "iemocap-5531-session5": "6b7662c3ad34c7d892bebc530aefea44dfa97efb3213bafeebe1d5408fda7708",
    "iemocap-5531-speaker10": "2c3924c5472c69e3fd3c88f37ded4ff528a1cfe1c0f6bd3f39ee7e968e972609",
    "iemocap-5507-session5": "6cf2f870b9a6cb92fbc2b6aa68258e050f03b695ab8de914fac4f70cc4546919",
    "iemocap-impro-session5": "f9052e19e01b6b8b18bbf3b9fa328989d432190887bb0ad81569bb102a5c5bf1",
    "emotass-devel": "faaa9d9507a59faab6ba64225e358bb4676f51afab8b3a0ec4a435fc4e65e71d",
    "emotass-official": "878d079bc0e2f8534f13c58823b91343353ae2063dd4e78d3da37b939f928c19",
    "manifest-speaker": "e754af1ed7af5d6fa52665f9a28a02c6c869931f3a0e103f89d83feb153b226b",
    "manifest-session": "addb81df320c0e8e6a835fb7947840eb4154d8606b5e564b845f75997024cf9d",
    "manifest-split": "1156b3de5df7d9bac7c31c8bed72b6efe2dbdeef744591b62777020b74802350",
    "audformat-speaker": "e754af1ed7af5d6fa52665f9a28a02c6c869931f3a0e103f89d83feb153b226b",
    "audformat-session": "addb81df320c0e8e6a835fb7947840eb4154d8606b5e564b845f75997024cf9d",
    "audformat-split": "1156b3de5df7d9bac7c31c8bed72b6efe2dbdeef744591b62777020b74802350",
    "audformat-final": "95c452d9316b163b52cb178d51b2cb3df4861bf9f922016f4bd28de9e0ef50e1",
    "demo-final": "95c452d9316b163b52cb178d51b2cb3df4861bf9f922016f4bd28de9e0ef50e1",
    "emodb-final": "3dd637c434716205284ca80a18a3c30d8d748ceff18015631a5cf3924a2f207b",
    "emotass-final": "9a8f040fc53aee2d027c7f39046f26f1220682cdfa3cee44685f8e9ebb83d286",
    "iemocap-final": "ab48272a5221ab26c589b9c9055e6f39a929e21584cf754dc15665beb0fa9100",
    "manifest-final": "95c452d9316b163b52cb178d51b2cb3df4861bf9f922016f4bd28de9e0ef50e1",
    "emobox-small": "652785743ce57dc2ff40573de9333621d91048b6e448d68ccfcf4c42766a17a5",
    "emobox-small-speaker": "e754af1ed7af5d6fa52665f9a28a02c6c869931f3a0e103f89d83feb153b226b",
    "emobox-small-final": "95c452d9316b163b52cb178d51b2cb3df4861bf9f922016f4bd28de9e0ef50e1",
    "manifest-speaker-5fold": "bf1e6f8c661934571296a3d734ff1215ca31c132446cf6b06686c39283b9058e",
    "manifest-session-3fold": "99f58cf64664365d9887ac80e869087ffc43e39dd682f9cf8f3bd8bd44870603",
    "audformat-speaker-4fold": "9e24e10d438e6f171eca8fa1d327317152ba318fd9ecb2542aa5814fbfb2c35a",
}
FOUR = {label: label for label in CANONICAL_CLASSES}
MAPPINGS = {"emodb": emodb.LABEL_MAPPING, "emotass": emotass.LABEL_MAPPING, "iemocap": iemocap.LABEL_MAPPING}


def small_corpus(name: str) -> Corpus:
    """A corpus of 84 utterances of 6 speakers in 3 sessions and 3 partitions; EmotAsS has no labels in the last."""
    mapping = MAPPINGS.get(name, FOUR)
    labels = [mapping[code] for code in sorted(mapping)]
    rows = []
    for number in range(84):
        speaker, label = "abcdef"[number % 6], labels[number // 6 % len(labels)]
        dialog = ("impro01", "script01_1", "Ses05M_script01_1b")[number % 7 % 3]
        split = ("train", "devel", "test")[number // 28]
        place = f"wav/{split}_{number:04}" if name == "emotass" else f"{speaker}/{dialog}/{number:04}"
        if name == "emotass":
            rows.append(Utterance(place, "", label=label if split != "test" else "", split=split))
        else:
            session = f"Session{number % 3 + 1}"
            rows.append(Utterance(place, "", label=label, speaker=speaker, session=session, split=split))
    rows.sort(key=lambda row: row.id)
    if name != "emobox":
        return Corpus(name, Path("/corpus"), tuple(rows), f"{name}-x", mapping)
    given = GivenFold("fold_1", {row.id: row.split for row in rows})
    swapped = {"train": "test", "test": "train"}
    other = GivenFold("fold_2", {row.id: swapped[row.split] for row in rows if row.split != "devel"})
    return Corpus(name, Path("/corpus"), tuple(rows), "emobox-small", mapping, folds=(given, other))


def digest(name: str) -> str:
    corpus = small_corpus(name.partition("-")[0].rstrip("0123456789"))
    name, spec = registry.find_spec(name, corpus)
    chosen = registry.select(spec, corpus)
    return registry.build_protocol(name, spec, chosen, chosen.utterances)[0].sha256


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_hash(name):
    assert digest(name) == GOLDEN[name], (
        f"the hash of {name} has changed: published results name another protocol now; if that is intended, say so in "
        f"CHANGELOG.md and pin the new hash ({digest(name)})"
    )


def test_every_named_protocol_is_pinned():
    emobox = specs.specs_of(small_corpus("emobox"))
    k_fold = {name for name in GOLDEN if specs.k_fold_spec(name)}
    assert set(GOLDEN) - k_fold == {*specs.SPECS, *emobox}
    assert {name.partition("-")[0] for name in k_fold} == set(specs.K_FOLD_CORPORA)


def test_what_is_hashed_alike_is_the_same_protocol():
    """The name of a corpus is not part of the hash: the same table divided by the same rule is the same protocol."""
    assert GOLDEN["manifest-speaker"] == GOLDEN["audformat-speaker"] == GOLDEN["emobox-small-speaker"]
