"""Threads, forks and the kernel cache: nothing hangs, nothing aborts, nothing is stale."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from minicnn import config, ops
from minicnn.data.ahead import MadeAhead
from minicnn.ops.fast import threads

ROOT = Path(__file__).parents[2]
KERNEL = """
import os, sys, threading
import numpy as np
import numba
from numba import prange
from minicnn.ops.fast import jit, threads

@jit.kernel
def twice(x, i):
    return x[i] * 2

@jit.parallel_kernel
def double(x, y):
    for i in prange(x.size):
        y[i] = twice(x, i)

x, y = np.arange(1000.0), np.zeros(1000)
"""


def run(program, folder, **environment):
    """A program that begins with KERNEL, in a process of its own; its output."""
    file = folder / "program.py"
    file.write_text(KERNEL + textwrap.dedent(program))
    variables = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    variables |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "MINICNN_CACHE": str(folder / "cache"),
        **environment,
    }
    done = subprocess.run(
        [sys.executable, str(file)],
        env=variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done


LAYERS = ["default", "workqueue", *(["omp"] if sys.platform == "linux" else [])]


@pytest.mark.parametrize("layer", LAYERS)
def test_two_threads_and_a_forked_child(layer, tmp_path):
    program = """
        def many():
            mine = np.zeros(1000)
            for _ in range(100):
                double(x, mine)
                assert (mine == 2 * x).all()
            finished.append(True)

        finished = []
        workers = [threading.Thread(target=many) for _ in range(8)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        assert len(finished) == 8
        if hasattr(os, "fork"):
            child = os.fork()
            if child == 0:
                double(x, y)
                os._exit(0 if (y == 2 * x).all() else 1)
            assert os.waitpid(child, 0)[1] == 0
        """
    run(program, tmp_path, NUMBA_THREADING_LAYER=layer)


def test_number_of_threads():
    limit = threads.count()
    assert 1 <= limit <= (os.cpu_count() or 1)
    with config.using(threads=1):
        assert threads.count() == 1


def test_more_threads_than_numba_started(tmp_path):
    program = """
        from minicnn import config
        import warnings
        config.threads = 3
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            double(x, y)
            double(x, y)
        assert (y == 2 * x).all()
        assert len(caught) == 1 and "NUMBA_NUM_THREADS=3" in str(caught[0].message)
        assert numba.get_num_threads() == 1
        """
    run(program, tmp_path, NUMBA_NUM_THREADS="1")


def test_the_users_number_of_threads_is_left_alone(tmp_path):
    program = """
        from minicnn import config
        config.threads = 1
        double(x, y)
        assert numba.get_num_threads() == 2 and threads.count() == 1
        assert numba.config.CACHE_DIR == ""
        """
    run(program, tmp_path, NUMBA_NUM_THREADS="2")


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({"cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, 1),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "900000 100000"}, 4),
        ({"a/b/cpu.max": "max 100000"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_quota_of_a_container(files, allowed, tmp_path):
    for name, text in files.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert threads._cgroup_quota(tmp_path / "fs", own) == allowed


def test_quota_of_an_old_container(tmp_path):
    folder = tmp_path / "fs" / "cpu" / "a"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    own = tmp_path / "own"
    own.write_text("3:cpu,cpuacct:/a\n2:memory:/x\n")
    assert threads._cgroup_quota(tmp_path / "fs", own) == 2


def test_kernels_are_kept_and_renewed(tmp_path):
    """Compiled once, loaded by the next process, compiled anew when their file changes."""
    first = run("double(x, y)", tmp_path)
    assert "compiling" in first.stderr
    again = run("double(x, y)", tmp_path)
    assert "compiling" not in again.stderr
    changed = run("double(x, y)\nassert y[1] == 2  # the file is another one now", tmp_path)
    assert "compiling" in changed.stderr


def test_a_damaged_cache_is_compiled_again(tmp_path):
    run("double(x, y)", tmp_path)
    for file in (tmp_path / "cache").rglob("*.kernel"):
        file.write_bytes(file.read_bytes()[:100])
    assert "compiling" in run("double(x, y)", tmp_path).stderr


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    done = run("double(x, y)\nassert (y == 2 * x).all()", tmp_path)
    assert done.stderr.count("compiled kernels cannot be kept") == 1


def test_a_home_that_cannot_be_written(tmp_path):
    home = tmp_path / "home"
    home.write_text("a file where the folder should be")
    empty = dict.fromkeys(("MINICNN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"), "")
    if sys.platform == "win32":
        empty["LOCALAPPDATA"] = str(home)
    done = run("double(x, y)\nassert (y == 2 * x).all()", tmp_path, HOME=str(home), **empty)
    assert done.stderr.count("compiled kernels cannot be kept") == 1


def test_one_processor_of_many(tmp_path):
    """A process that is tied to one processor uses one thread."""
    program = """
        import os
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from minicnn.ops.fast import threads
        assert threads.count() == 1 or not hasattr(os, "sched_setaffinity")
        """
    file = tmp_path / "tied.py"
    file.write_text(textwrap.dedent(program))
    variables = {k: v for k, v in os.environ.items() if k != "NUMBA_NUM_THREADS"}
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    assert subprocess.run([sys.executable, str(file)], env=variables).returncode == 0


def test_processes_that_compile_at_the_same_time(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(
        KERNEL + "double(x, y)\nassert (y == 2 * x).all()\n"
        "z = np.zeros(1000, 'f')\ndouble(x.astype('f'), z)\nassert (z == y).all()\n"
    )
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "MINICNN_CACHE": str(tmp_path / "cache"),
        "NUMBA_NUM_THREADS": "1",
    }
    variables.pop("NUMBA_CACHE_DIR", None)
    running = [subprocess.Popen([sys.executable, str(file)], env=variables) for _ in range(8)]
    assert [process.wait(240) for process in running] == [0] * 8


def test_importing_the_package_does_not_import_numba(tmp_path):
    program = "import sys, minicnn.ops; sys.exit('numba' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0


def test_kernels_run_serially_on_threads_that_make_data(monkeypatch):
    launched = []
    monkeypatch.setattr(threads, "launch", lambda compiled, arguments: launched.append(compiled))
    x = np.arange(3000, dtype=np.float32)
    made = MadeAhead(lambda scale: ops.scale_shift(x, scale, 1.0, np.float32), [2.0, 3.0])
    for scale, result in zip((2.0, 3.0), made, strict=True):
        np.testing.assert_array_equal(result, x * np.float32(scale) + 1)
    assert not launched
    ops.scale_shift(x, 2.0, 1.0, np.float32)
    assert launched


def test_a_worker_is_kept_off_the_launching_processor(monkeypatch):
    everywhere, stop = os.sched_getaffinity(0), threading.Event()
    here, *others = sorted(everywhere)
    waiting = threading.Thread(target=stop.wait)
    waiting.start()
    try:
        spread = threads._Spread()
        spread.own_processor, spread.workers = (lambda: here), [waiting.native_id]
        monkeypatch.setattr(threads, "_last_processor", lambda task: here)
        spread._part()
        # With one processor there is nowhere else to go.
        assert os.sched_getaffinity(waiting.native_id) == (set(others) or everywhere)
        spread.own_processor = lambda: here + 1  # the worker is elsewhere: it stays as it is
        spread._part()
        assert os.sched_getaffinity(waiting.native_id) == (set(others) or everywhere)
        assert os.sched_getaffinity(0) == everywhere
        monkeypatch.undo()
        assert threads._last_processor(waiting.native_id) in everywhere
    finally:
        stop.set()
        waiting.join()


def test_workers_are_found():
    text = """
import os, time, numpy as np
from minicnn import ops
from minicnn.ops.fast import threads
x = np.ones((64, 1024, 32), np.float32)
for _ in range(3):
    ops.add([x, x])
    time.sleep(0.1)
found = threads._spread.workers
assert found and set(map(str, found)) < set(os.listdir("/proc/self/task")), found
assert os.getpid() not in found
assert 0 <= threads._last_processor(found[0]) < os.cpu_count()
if os.fork() == 0:
    os._exit(len(threads._spread.workers))
assert os.wait()[1] == 0
print("found")
"""
    result = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout == "found\n", result.stderr
