"""How many cores a process may use, where the system says and where it does not."""

import os
import subprocess
import sys

import pytest

from ser_jax.cores import available_cores

COUNT = "from ser_jax.cores import available_cores; print(available_cores())"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="nothing to assign cores with")
def test_those_that_are_assigned():
    one = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{one}}}); {COUNT}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n" and available_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("counted", "found"), [(8, 8), (None, 1)])
def test_a_system_that_assigns_none(counted, found, monkeypatch):
    """macOS has no such call."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert available_cores() == found
