"""Kernels are used once they have given XLA's results; here XLA's own forms stand for them, right or wrong."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from ser_jax.models import convolution, kernel_parity, native, recurrence
from ser_jax.models.native_library import Library, UnavailableError

USUAL: Any = convolution.pooled_convolution


@pytest.fixture
def library(tmp_path, monkeypatch) -> Library:
    """One that nobody has compared yet, and kernels that give XLA's results."""
    path = Path(tmp_path / "kernels.so")
    path.write_bytes(b"compiled")
    found = Library(path, "cc 1", "")
    monkeypatch.setattr(kernel_parity, "load", lambda: found)
    monkeypatch.setattr(native, "recur", recurrence.recur)
    monkeypatch.setattr(native, "pooled_convolution", USUAL)
    return found


def test_equal_results_are_noted_and_not_compared_again(library, monkeypatch):
    assert kernel_parity.prepare(lambda: iter([0.0])) == "cc 1" and library.trusted
    monkeypatch.setattr(native, "pooled_convolution", lambda *given, **stride: 2 * USUAL(*given, **stride))
    assert kernel_parity.prepare(lambda: iter([0.0])) == "cc 1"


def test_nan_in_one_gradient_is_a_difference(library, monkeypatch):
    """The values, and all that is compared before, are right."""
    monkeypatch.setattr(
        native,
        "pooled_convolution",
        lambda x, kernel, bias, stride: USUAL(x, kernel, bias, stride) + jnp.sqrt(0 * bias)[None, None],
    )
    with pytest.raises(UnavailableError, match=r"what cc 1 has compiled differs from XLA's results by nan"):
        kernel_parity.prepare(lambda: iter([0.0]))
    assert not library.path.exists() and not library.trusted
