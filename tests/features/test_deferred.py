"""Features that stay in the store: the same arrays, read when asked for, and what happens if an entry goes bad."""

import dataclasses

import numpy as np
import pytest
from test_extract import PAPER, Workplace

from ser_jax.errors import UserError
from ser_jax.features import store


@pytest.fixture
def place(tmp_path) -> Workplace:
    """Four recordings."""
    made = Workplace(tmp_path)
    for number in range(4):
        made.record(f"{number}.wav", seed=number, seconds=0.3 + 0.1 * number)
    return made


def deferred(place: Workplace, most_bytes: float = 0, **options):
    found = place.extract(most_bytes=most_bytes, **options)
    return found.deferred["logmel"] if found.deferred else None


def test_the_arrays_are_those_that_are_otherwise_in_memory(place):
    there = place.extract(waves=True)
    later = place.extract(waves=True, most_bytes=0)
    assert later.log_mel == [] and later.waves == [] and set(later.deferred) == {"logmel", "wave"}
    assert later.utterances == there.utterances and later.sha256 == there.sha256 != ""
    np.testing.assert_array_equal(later.seconds, there.seconds)
    for kind, arrays in (("logmel", there.log_mel), ("wave", there.waves)):
        assert len(later.deferred[kind]) == len(arrays) == 4
        for one, other in zip(later.deferred[kind], arrays, strict=True):
            np.testing.assert_array_equal(one, other)
        assert later.deferred[kind].lengths().tolist() == [len(array) for array in arrays]


def test_the_limit_is_that_of_the_features(place):
    there = place.extract()
    size = sum(array.nbytes for array in there.log_mel)
    assert deferred(place, size * 0.99) is not None and deferred(place, size * 1.2) is None


def test_the_digest_names_features_and_their_order(place):
    whole = place.extract()
    part = place.extract(place.corpus(*[(f"{n}.wav", None, None) for n in range(3)]))
    other = place.extract(settings=dataclasses.replace(PAPER, low_hz=20.0))
    assert len({whole.sha256, part.sha256, other.sha256, place.extract(waves=True).sha256}) == 4


def damage(place: Workplace, features, number: int) -> None:
    item = features.deferred["logmel"]._items[number]
    path = store.FeatureStore(place.store).path(item.keys["logmel"])
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_a_damaged_entry_is_computed_again(place):
    found, expected = place.extract(most_bytes=0), place.extract().log_mel
    damage(place, found, 2)
    np.testing.assert_array_equal(found.deferred["logmel"][2], expected[2])
    assert place.extract().extracted == 0, "and it is sound in the store"


def test_lengths_are_known_without_the_entry(place):
    found, expected = place.extract(most_bytes=0), place.extract().log_mel
    item = found.deferred["logmel"]._items[1]
    store.FeatureStore(place.store).path(item.keys["logmel"]).unlink()
    assert found.deferred["logmel"].lengths().tolist() == [len(array) for array in expected]


def test_without_entry_and_recording_the_recording_is_named(place):
    found = place.extract(most_bytes=0)
    damage(place, found, 3)
    (place.root / "3.wav").unlink()
    with pytest.raises(UserError, match=r"3\.wav: its features have vanished from the store .* bring the recording"):
        found.deferred["logmel"][3]
