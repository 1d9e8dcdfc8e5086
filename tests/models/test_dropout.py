"""Dropout: what is kept is scaled up, draws belong to rows and places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.models import dropout


def keys(*numbers: int) -> jax.Array:
    return jax.vmap(jax.random.key_data)(jax.vmap(jax.random.key)(jnp.array(numbers)))


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_what_is_kept_is_scaled_up(share):
    x = jnp.ones((2, 50, 100))
    dropped = np.asarray(dropout.drop(x, keys(1, 2), share))
    assert set(np.unique(dropped)) == {0, np.float32(1 / (1 - share))}
    np.testing.assert_allclose(np.mean(dropped == 0, axis=(1, 2)), share, atol=5 * np.sqrt(share / 5000))
    assert 0.05 < np.mean(dropped[0] != dropped[1]) < 0.95, "every row draws for itself"


def test_a_row_drops_what_its_key_says():
    """Wherever the row stands, and with whom."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
    together = dropout.drop(x, keys(1, 2, 3), 0.5)
    np.testing.assert_array_equal(together[1:], dropout.drop(x[1:], keys(2, 3), 0.5))


def test_places_draw_for_themselves():
    x = jnp.ones((1, 1000))
    masks = [np.asarray(dropout.drop(x, keys(1), 0.5, place)) > 0 for place in ("", "head/0", "head/1", "head/0")]
    np.testing.assert_array_equal(masks[1], masks[3])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert 0.4 < np.mean(masks[one] == masks[other]) < 0.6


@pytest.mark.parametrize(("with_keys", "share"), [(False, 0.5), (True, 0.0)])
def test_nothing_to_drop(with_keys, share):
    x = jnp.ones((2, 3))
    assert dropout.drop(x, keys(1, 2) if with_keys else None, share) is x
