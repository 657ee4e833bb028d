"""The first training step compiles its kernels in several processes.

Numba compiles under one lock, so only processes help. The first kernel that is missing starts one
process per other core. It builds the same layers, takes the same step with kernels that are listed
and not run, and compiles the list from its end, while this process takes the real step from the
beginning. Whoever begins a kernel claims it by a file; a kernel that a helper has claimed is
awaited and loaded from the cache. When the step is done, or this process dies, the helpers end.
Nothing depends on them: a model that cannot be described as plain values (a class of the user's),
or an interpreter that cannot be started again, means that this process compiles alone.

`warmup` has the first step, and a prediction, taken by a copy of the model before there are data.

CIFAR-10 network, empty cache, two cores: see `python -m benchmarks`, start-up.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np

from minicnn import config, randomness
from minicnn.data.batches import positive
from minicnn.losses import targets
from minicnn.models.copying import independent_copy

MOST_PROCESSES = 8  # the kernels of a step are some twenty, and five of them cost half the time
MOST_WEIGHTS = 20_000_000  # helpers make the weights, too: no second VGG in memory
LONGEST_WAIT = 60.0  # seconds for one kernel of a helper; the longest takes 4

_started = False  # once in a process: later models find most kernels in the cache


def warmup(model, batch_size=32, training=True):
    """Compile now what the model's first steps would compile: they then run at full speed.

    A copy of the model trains on, evaluates and predicts a batch of zeros; with training=False it
    only predicts, and need not be compiled. Where the first layer reads uint8 itself (Rescaling),
    pictures of both types are taken. Weights, optimizer, metrics and random streams stay as they
    are. Kernels are kept on disk: this takes seconds once, and later about as long as the steps.
    ValueError for a model that is not built, not compiled, or open in its picture's size.
    """
    from minicnn.models.model import Model

    if not isinstance(model, Model):
        raise TypeError(f"warmup takes a built model, not {model!r}")
    positive("batch_size", batch_size)
    shapes = [tensor.shape for tensor in model._graph().inputs]
    if training and model.compiled is None:
        model.fail("is not compiled: call compile(...) first, or warmup(model, training=False)")
    if any(None in shape[1:] for shape in shapes):
        model.fail(
            f"takes inputs of shapes {shapes}: warmup needs sizes in place of None; call "
            "predict_on_batch or train_on_batch on data instead"
        )
    if config.ops != "fast":
        return  # nothing is compiled
    model._refuse_another_thread()
    with randomness.untouched(0), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of zeros
        worker = independent_copy(model, "warmup")
        for dtype in (np.float32, np.uint8) if model.accepts_integers else (np.float32,):
            x = [np.zeros((shape[0] or batch_size, *shape[1:]), dtype) for shape in shapes]
            x = x if len(x) > 1 else x[0]
            if training:
                y = [_made_up(head, batch_size) for head in worker.heads]
                y = y if len(y) > 1 else y[0]
                worker.train_on_batch(x, y)
                worker.test_on_batch(x, y)
            worker.predict_on_batch(x)


def _made_up(head, batch_size):
    """Targets that the loss of this output takes: class 0 for all, or zeros."""
    if head.loss is None:
        return None
    shape = (head.shape[0] or batch_size, *head.shape[1:])
    if type(head.loss).kind is targets.labels:
        return np.zeros(shape[:-1], np.int64)
    y = np.zeros(shape, np.float32)
    if type(head.loss).kind is targets.one_hot:
        y[..., 0] = 1
    return y


@contextlib.contextmanager
def together(model, x, y, sample_weight):
    """Around a training step: missing kernels are compiled in several processes."""
    if _started or config.ops != "fast" or config.compile_processes == 1:
        yield
        return
    from minicnn.ops.fast import jit

    crew = jit.crew = _Crew(model, x, y, sample_weight)
    try:
        yield
    finally:
        jit.crew = None
        crew.stop()


class _Crew:
    """The helpers of one step and who compiles what."""

    def __init__(self, model, x, y, sample_weight):
        self._step = model, x, y, sample_weight
        self._folder = None
        self._processes = []

    def start(self):
        """Start the helpers, at the first kernel that is missing."""
        global _started
        if _started:
            return
        _started = True
        count = _process_count() - 1
        if count < 1 or not _can_start_python():
            return
        job = _describe(*self._step)
        if job is None:
            return
        import tempfile  # here: it loads lzma and bz2, which `import minicnn` need not wait for

        with contextlib.suppress(OSError):  # no memory, no more processes: this one is enough
            self._folder = Path(tempfile.mkdtemp(prefix="minicnn-compiling-"))
            (self._folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            for _ in range(count):
                self._processes.append(_start_helper(self._folder))

    def claim(self, name):
        """Whether this process shall compile the kernel of this file name."""
        return self._folder is None or _claim(self._folder, name)

    def await_file(self, file):
        """Wait until a helper has written it, or no longer will."""
        end = time.monotonic() + LONGEST_WAIT
        while not file.exists() and time.monotonic() < end:
            if all(process.poll() is not None for process in self._processes):
                return
            time.sleep(0.005)

    def stop(self):
        for process in self._processes:
            process.stdin.close()
            process.terminate()
        for process in self._processes:
            process.wait()
        if self._folder is not None:
            import shutil

            shutil.rmtree(self._folder, ignore_errors=True)


def _process_count():
    from minicnn.ops.fast import threads

    return config.compile_processes or min(threads.count(), MOST_PROCESSES)


def _can_start_python():
    """Not where Python is a part of another program: that program would be started."""
    executable = Path(sys.executable or "")
    return executable.stem.lower().startswith("python") and not getattr(sys, "frozen", False)


def _describe(model, x, y, sample_weight):
    """What a helper has to know, as JSON; None where a part of it is not plain."""
    from minicnn.ops.fast import jit

    if sum(parameter.size for parameter in model.weights) > MOST_WEIGHTS:
        return None
    inputs = x if isinstance(x, list) else [x]
    try:
        job = {
            "environment": jit.environment_key(),
            "folders": [str(folder) for folder in jit.cache_folders()],
            "settings": {name: getattr(config, name) for name in ("convolution", "threads")},
            "class": type(model).__name__,
            "model": model.get_config(),
            "compile": model.get_compile_config(),
            "x": [(array.shape, array.dtype.str) for array in inputs],
            "y": [_plain(array) for array in y],
            "sample_weight": [_plain(array) for array in sample_weight],
        }
        json.dumps(job)
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        return None
    return job


def _plain(array):
    if array is None:
        return None
    array = np.asarray(array)
    if array.size > 100_000:
        raise ValueError("too much to send")
    return array.tolist(), array.dtype.str


def _start_helper(folder):
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-c",
         "import sys; from minicnn.models import compiling; compiling.help_with(sys.argv[1])",
         str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )  # fmt: skip


def _claim(folder, name):
    try:
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    except OSError:
        return True  # the folder is gone: rather compile a kernel twice than never
    return True


def help_with(folder):
    """What a helper does: list the kernels of the step, compile them from the last to the first."""
    folder = Path(folder)
    threading.Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    config.compile_processes = 1
    for name, value in job["settings"].items():
        setattr(config, name, value)
    from minicnn.ops.fast import jit

    if jit.environment_key() != job["environment"]:
        return  # its kernels would not be this processor's
    folders = tuple(map(Path, job["folders"]))
    jit.cache_folders = lambda: folders
    for compiled, types in reversed(_list_kernels(job)):
        name = compiled._cache.file_name(types)
        if not any((one / name).exists() for one in folders) and _claim(folder, name):
            compiled.compile(types)


def _end_with_parent(folder):
    import shutil

    sys.stdin.buffer.read()  # ends when the other end is closed, even by a crash
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _list_kernels(job):
    from minicnn import models
    from minicnn.ops.fast import jit

    model = {"Sequential": models.Sequential, "Model": models.Model}[job["class"]]
    model = model.from_config(job["model"])
    model.compile_from_config(job["compile"])
    x = [np.zeros(shape, dtype) for shape, dtype in job["x"]]
    y, weights = (
        [None if one is None else np.array(*one) for one in job[name]]
        for name in ("y", "sample_weight")
    )
    with jit.listing() as kernels, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception):  # results are garbage; what was listed is right
            model.train_on_batch(*(one if len(one) > 1 else one[0] for one in (x, y, weights)))
    return list(kernels)
