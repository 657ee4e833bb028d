"""Kernels compiled as one piece and by several processes, for this processor and for others."""

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from minicnn import config
from minicnn.models import compiling

ROOT = Path(__file__).parents[2]
NETWORK = """
import os, sys, warnings
import numpy as np
import minicnn
from minicnn import layers

minicnn.set_random_seed(0)
model = minicnn.Sequential([
    layers.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.MaxPooling2D(),
    layers.BatchNormalization(), layers.Flatten(), layers.Dense(4, activation="softmax"),
])
model.compile("sgd", "sparse_categorical_crossentropy")
x = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
y = np.arange(8) % 4
"""


def variables(cache, **more):
    kept = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "MINICNN_CACHE")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "MINICNN_CACHE": str(cache),
        **more,
    }


def run(program, cache, **more):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=variables(cache, **more),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done


STEP = """
before = set(os.listdir(FOLDER))
model.train_on_batch(x, y)
from minicnn.ops.fast import jit
model.train_on_batch(x, y)
assert jit.crew is None
print(started, set(os.listdir(FOLDER)) - before, end=" ")
print(*(float(np.abs(w).sum()).hex() for w in model.get_weights()))
"""
WATCH = """
from minicnn.models import compiling
started, start = [], compiling._start_helper
def watched(folder):
    process = start(folder)
    started.append(process.pid)
    return process
compiling._start_helper = watched
"""


def test_first_step_of_several_processes(tmp_path):
    """The same bits as alone; one line; no process and no folder is left; nothing when warm."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    step = NETWORK + WATCH + STEP.replace("FOLDER", repr(str(folder)))
    environment = {"TMPDIR": str(folder), "NUMBA_NUM_THREADS": "2"}
    first = run(step, tmp_path / "a", **environment)
    assert first.stderr.count("\n") == 1 and "compiling kernels" in first.stderr
    pids, rest = first.stdout.split("] ")
    left, numbers = rest.split(" ", 1)
    assert left == "set()"
    assert pids.startswith("[") and pids.strip("[").isdigit()
    if hasattr(os, "fork"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pids.strip("[")), 0)
    again = run(step, tmp_path / "a", **environment)
    assert again.stderr == "" and again.stdout == f"[] set() {numbers}"
    alone = run(step, tmp_path / "b", **environment, MINICNN_COMPILE_PROCESSES="1")
    assert alone.stdout == f"[] set() {numbers}"


def test_a_helper_lists_what_the_step_compiles(tmp_path):
    program = """
        from minicnn.models import compiling
        from minicnn.ops.fast import jit
        compiled = []
        save = jit._KernelCache.save_overload
        def watched(self, signature, data):
            save(self, signature, data)
            compiled.append(self.file_name(signature))
        jit._KernelCache.save_overload = watched
        minicnn.config.compile_processes = 1
        model.train_on_batch(x, y)
        done = {file for file in compiled if (jit.cache_folders()[-1] / file).exists()}
        job = compiling._describe(model, x, [y], [None])
        listed = {kernel._cache.file_name(types) for kernel, types in compiling._list_kernels(job)}
        assert len(listed) > 5 and listed <= done, listed - done
        called = {name for name in done - listed if "_step" not in name}
        assert not called, called
        """
    run(NETWORK + textwrap.dedent(program), tmp_path)


def test_helpers_that_die_or_cannot_be_started(tmp_path):
    """The kernel that a dead helper had claimed is compiled here."""
    program = """
        import subprocess
        from minicnn.models import compiling
        def dies(folder):
            return subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
        compiling._start_helper = dies
        compiling._claim = lambda folder, name: False
        model.train_on_batch(x, y)
        compiling._started = False
        compiling._start_helper = None
        sys.executable = ""
        model.train_on_batch(x.astype("float32"), y)
        """
    run(NETWORK + textwrap.dedent(program), tmp_path, NUMBA_NUM_THREADS="2")


def test_a_helper_ends_with_its_parent(tmp_path):
    """As when the parent is killed: the other end of its standard input is closed."""
    (tmp_path / "job.json").write_text("{}")
    code = "import sys; from minicnn.models import compiling as c; c._end_with_parent(sys.argv[1])"
    helper = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=variables(tmp_path), stdin=subprocess.PIPE
    )
    helper.stdin.close()
    assert helper.wait(60) == 0
    assert not tmp_path.exists()


def test_models_that_are_not_described():
    class Unknown:
        weights = ()

        def get_config(self):
            raise NotImplementedError

    assert compiling._describe(Unknown(), None, [], []) is None
    with pytest.raises(ValueError, match="compile_processes"):
        config.compile_processes = 0


@pytest.mark.parametrize("name", ["", "/usr/bin/blender", "/opt/uwsgi"])
def test_programs_that_hold_an_interpreter_are_not_started(name, monkeypatch):
    monkeypatch.setattr(sys, "executable", name)
    assert not compiling._can_start_python()


def test_a_function_called_by_kernels_and_by_users(tmp_path):
    """A part for the kernel, a whole for Python and for the user's own compiled functions."""
    program = """
        import numpy as np
        from numba import njit, prange
        from minicnn.ops.fast import jit

        @jit.kernel
        def twice(x, i):
            return x[i] * 2

        @jit.parallel_kernel
        def double(x, y):
            for i in prange(x.size):
                y[i] = twice(x, i)

        @njit
        def user(x):
            return np.zeros(3).sum() + twice(x, 1)

        @njit(parallel=True)
        def total(x):
            s = 0.0
            for i in prange(x.size):
                s += twice(x, i)
            return s

        x, y = np.arange(1000.0), np.zeros(1000)
        double(x, y)
        assert (y == 2 * x).all()
        assert twice(x, 3) == 6 and user(x) == 2 and total(x) == 999000
        assert len(user.inspect_asm(user.signatures[0])) > 100
        double(x, y)
        """
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program))
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, str(file)], env=variables(cache), capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        assert done.stderr == ""
