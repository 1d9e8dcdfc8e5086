"""The comparison with XLA before first use: kernels that give other results are not used."""

from typing import Any

import jax.numpy as jnp
import pytest

from ser_jax.models import recurrent
from ser_jax.models.kernels import cpu, gpu_lstm, verify
from ser_jax.models.kernels.cpu import UnavailableError

CONVOLUTION: Any = cpu.pooled_convolution
LOOP: Any = recurrent.recur


@pytest.fixture
def unverified():
    """The compiled kernels as they are before their first use."""
    if cpu.compiler() is None:
        pytest.skip("there is no C++ compiler")
    library = cpu.load()
    content = library.path.read_bytes()
    cpu._digest_file(library.path).unlink(missing_ok=True)
    yield library
    library.remove()  # The mapped file itself must not be written.
    library.path.write_bytes(content)
    verify.prepare()


def test_kernels_are_compared_once(unverified, monkeypatch):
    assert not unverified.trusted
    assert verify.prepare() == unverified.compiler and unverified.trusted
    monkeypatch.setattr(cpu, "recur", None)
    assert verify.prepare() == unverified.compiler


@pytest.mark.parametrize(
    ("name", "wrong", "difference"),
    [
        ("recur", lambda *given: 1.001 * LOOP(*given), r"(9\.\d|1\.0)e-0[34]"),
        ("adam", lambda inputs, grads, state, *arrays, **_: arrays, r"\d\.\de"),
        # One gradient is NaN; the values, and all other gradients, are right.
        (
            "pooled_convolution",
            lambda x, kernel, bias, stride: (
                CONVOLUTION(x, kernel, bias, stride) + jnp.sqrt(0 * bias)[None, None]
            ),
            "nan",
        ),
    ],
)
def test_other_results_are_refused(unverified, monkeypatch, name, wrong, difference):
    """A compiler may err; what it made is then removed."""
    with monkeypatch.context() as patch:
        patch.setattr(cpu, name, wrong)
        message = rf"compiled differs from XLA's.* by {difference}"
        with pytest.raises(UnavailableError, match=message):
            verify.prepare()
    assert not unverified.path.exists() and not unverified.trusted


def test_another_recurrence_is_compared_with_the_loop():
    """Before training, on the machine itself; here the interpreter stands for a GPU."""

    def fails(*_: Any) -> Any:
        raise RuntimeError("no room")

    verify.compare_recurrence(gpu_lstm.recur, 32)
    with pytest.raises(UnavailableError, match="its results differ from those of XLA's loop by 2"):
        verify.compare_recurrence(lambda *given: -LOOP(*given), 32)
    with pytest.raises(UnavailableError, match="cannot be compiled: no room"):
        verify.compare_recurrence(fails, 32)
