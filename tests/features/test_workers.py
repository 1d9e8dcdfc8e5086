"""The worker pool: bounded, interruptible, and without jax in its processes."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ser_jax.features import workers

ROOT = Path(__file__).parents[2]


def program(folder, text):
    """Runs a program in a session of its own; its output ends only when all its workers have."""
    (folder / "program.py").write_text(textwrap.dedent(text))
    (folder / "probe.py").write_text("import sys\n\ndef loaded(name):\n    return name in sys.modules\n")
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )


@pytest.mark.parametrize("processes", [False, True])
def test_every_job_gives_its_result(processes):
    jobs = list(range(-9, 0))
    found = dict(workers.run(abs, jobs, 2, processes=processes))
    assert found == {job: -job for job in jobs}


def test_jobs_begin_in_their_order():
    begun = []
    list(workers.run(begun.append, [5, 3, 4, 1, 2], 1, processes=False))
    assert begun == [5, 3, 4, 1, 2]


def test_few_jobs_are_under_way():
    begun = []

    def jobs():
        for job in range(100):
            begun.append(job)
            yield job

    results = workers.run(abs, jobs(), 2, processes=False)
    next(results)
    results.close()
    assert len(begun) <= 8


def test_errors_of_a_job_reach_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(workers.run(lambda job: 1 // job, [0], 1, processes=False))


def test_a_dead_worker_is_named():
    with pytest.raises(workers.WorkerDied) as info:
        list(workers.run(os._exit, [3], 1, processes=True))
    assert info.value.jobs == (3,)


def test_features_do_not_import_jax():
    code = "import sys, ser_jax.features.extract; print(sorted(m for m in sys.modules if m.split('.')[0] == 'jax'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_workers_import_neither_the_main_module_nor_jax(tmp_path):
    done = program(
        tmp_path,
        """
        import jax, probe
        from ser_jax.features import workers

        print("imported as", __name__, flush=True)
        print(sorted(workers.run(probe.loaded, ["jax", "probe"], 1, processes=True)))
        """,
    )
    assert done.stdout.splitlines() == ["imported as __main__", "[('jax', False), ('probe', True)]"], done.stderr


def test_interrupted_workers_are_silent(tmp_path):
    done = program(
        tmp_path,
        """
        import os, signal
        from ser_jax.features import workers

        signal.signal(signal.SIGINT, signal.default_int_handler)  # A job in the background starts with it ignored.
        for _ in workers.run(abs, [-1, -2, -3], 2, processes=True):
            os.killpg(0, signal.SIGINT)  # one worker is waiting for work, the other is just starting
        """,
    )
    assert done.stderr.count("Traceback") == 1 and done.stderr.rstrip().endswith("KeyboardInterrupt"), done.stderr


def test_workers_end_with_a_killed_parent(tmp_path):
    done = program(
        tmp_path,
        """
        import os, signal
        from ser_jax.features import workers

        for _ in workers.run(abs, [-1, -2, -3], 2, processes=True):
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert done.returncode == -signal.SIGKILL
