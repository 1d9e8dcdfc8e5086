"""The worker pool: bounded, interruptible, and without jax in its processes."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ser_jax.runtime import signals, workers

ROOT = Path(__file__).parents[2]


def program(folder, text):
    """Runs a program in a session of its own; its output ends only when all its workers have."""
    (folder / "program.py").write_text(textwrap.dedent(text))
    probe = "import sys\n\ndef loaded(name):\n    return name in sys.modules\n"
    (folder / "probe.py").write_text(probe)
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


@pytest.mark.parametrize(
    ("cores", "jobs", "work", "expected"),
    [(8, 9, 0, 1), (8, 9, 10, 1), (8, 9, 10.5, 2), (8, 9, 45, 5), (8, 9, 1e9, 8), (8, 3, 1e9, 3)],
)
def test_as_many_processes_as_pay(cores, jobs, work, expected):
    """One for every 10 of the work."""
    assert workers.worth_starting(cores, jobs, work, 10) == expected


def test_jobs_begin_in_their_order():
    started = []
    list(workers.run(started.append, [5, 3, 4, 1, 2], 1, processes=False))
    assert started == [5, 3, 4, 1, 2]


def test_few_jobs_are_under_way():
    started = []

    def jobs():
        for job in range(100):
            started.append(job)
            yield job

    results = workers.run(abs, jobs(), 2, processes=False)
    next(results)
    results.close()
    assert len(started) <= 8


def test_errors_of_a_job_reach_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(workers.run(lambda job: 1 // job, [0], 1, processes=False))


def test_a_dead_worker_is_named():
    with pytest.raises(workers.WorkerDied) as info:
        list(workers.run(os._exit, [3], 1, processes=True))
    assert info.value.jobs == (3,)


def test_workers_import_neither_the_main_module_nor_jax(tmp_path):
    done = program(
        tmp_path,
        """
        import jax, probe
        from ser_jax.runtime import workers

        print("imported as", __name__, flush=True)
        print(sorted(workers.run(probe.loaded, ["jax", "probe"], 1, processes=True)))
        """,
    )
    lines = ["imported as __main__", "[('jax', False), ('probe', True)]"]
    assert done.stdout.splitlines() == lines, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("group", [False, True], ids=["this process", "workers too"])
def test_interrupted_workers_end_silently_in_the_middle_of_their_jobs(number, group, tmp_path):
    """Python's tracker of semaphores, which outlives the program, has nothing to tell."""
    done = program(
        tmp_path,
        f"""
        import os, signal, sys, time
        from ser_jax.runtime import signals, workers

        with signals.guarded() as guard:
            guard.know_exit_code(42)
            try:
                for _ in workers.run(time.sleep, [0, 100, 100], 2, processes=True):
                    os.{"killpg(0" if group else "kill(os.getpid()"}, {int(number)})
            except signals.Interrupted as stop:
                print(stop)
        """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{number.name}\n", ""), done


@pytest.mark.parametrize("seconds", [0, 0.03, 0.1, 1], ids=lambda seconds: f"after {seconds} s")
def test_a_second_ctrl_c_ends_all_silently(seconds, tmp_path):
    """Workers that are just starting too; and Python's tracker has nothing to tell here either."""
    done = program(
        tmp_path,
        f"""
        import os, signal, threading, time
        from ser_jax.runtime import signals, workers

        def interrupt():
            time.sleep({seconds})
            for _ in range(2):
                os.killpg(0, signal.SIGINT)
                time.sleep(0.01)

        with signals.guarded() as guard:
            guard.know_exit_code(42)
            threading.Thread(target=interrupt).start()
            try:
                for _ in workers.run(time.sleep, [0.01] * 1000, 2, processes=True):
                    time.sleep(100)
            except signals.Interrupted:
                time.sleep(100)
        """,
    )
    told = signals.exit_message(signal.SIGINT) + "\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", told), done


def test_workers_end_with_a_killed_parent(tmp_path):
    done = program(
        tmp_path,
        """
        import os, signal
        from ser_jax.runtime import workers

        for _ in workers.run(abs, [-1, -2, -3], 2, processes=True):
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert done.returncode == -signal.SIGKILL
