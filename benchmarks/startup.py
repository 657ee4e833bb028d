"""Start-up: seconds of an import, and of a whole process that takes one training step."""

import os
import statistics
import subprocess
import tempfile
import time

IMPORTS = {
    "minicnn": ("minicnn", {}),
    "torch": ("torch", {}),
    "keras-tensorflow": ("keras", {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}),
    "keras-jax": ("keras", {"KERAS_BACKEND": "jax"}),
    "keras-torch": ("keras", {"KERAS_BACKEND": "torch"}),
}

_IMPORT = """
import sys, time
start = time.perf_counter()
__import__(sys.argv[1])
print(time.perf_counter() - start)
"""
_KERAS_STEP = """
import sys, time
start = time.perf_counter()
keras = __import__(sys.argv[1])
imported = time.perf_counter()
from benchmarks import networks
network = networks.NETWORKS["cifar10"]
model = networks.keras_model(keras, network)
x, y = networks.pictures(network, 64)
model.train_on_batch(x, y)
end = time.perf_counter()
print(imported - start, end - imported, end - start)
"""
_TORCH_STEP = """
import sys, time
from types import SimpleNamespace
import numpy as np
start = time.perf_counter()
import torch
imported = time.perf_counter()
from benchmarks.engines.torch_engine import Engine
engine = Engine(SimpleNamespace(threads=torch.get_num_threads(), mode="channels_last"))
engine.open_network("cifar10", 64, dict(np.load(sys.argv[2])), False)
engine.train()
end = time.perf_counter()
print(imported - start, end - imported, end - start)
"""


def _run(python, code, *arguments, **environment):
    """(what it prints as numbers, seconds of the whole process)."""
    start = time.perf_counter()
    done = subprocess.run(
        [python, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["failed"])[-1][:200])
    numbers = [float(word) for word in done.stdout.split("\n")[-2].split()]
    return numbers, time.perf_counter() - start


def measure(names, setting, weights, rounds):
    """Rows {"engine", "what", "seconds", "low", "high"}; processes one after another, in turns."""
    rows, imports, steps, errors = [], {}, {}, {}
    names = [name for name in IMPORTS if name in names]
    for round_ in range(rounds + 1):
        for name in names:
            module, environment = IMPORTS[name]
            environment = {**setting.environment(name), **environment}
            python, code = setting.python(name), _TORCH_STEP if name == "torch" else _KERAS_STEP
            try:
                value = _run(python, _IMPORT, module, **environment)[0][0]
                step = _run(python, code, module, str(weights), **environment)[0]
            except RuntimeError as error:
                errors[name] = str(error)
                continue
            if round_ > 0:  # the first fills the caches of files and kernels
                imports.setdefault(name, []).append(value)
                steps.setdefault(name, []).append(step[1])
    for what, found in (("import", imports), ("build and first training step", steps)):
        rows += [_row(name, what, values) for name, values in found.items()]
    cold = []
    for _ in range(max(1, min(3, rounds))):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**setting.environment("minicnn"), "MINICNN_CACHE": folder}
            environment.pop("NUMBA_CACHE_DIR", None)
            python = setting.python("minicnn")
            cold.append(_run(python, _KERAS_STEP, "minicnn", **environment)[0][1])
    rows.append(_row("minicnn", "build and first training step, empty kernel cache", cold))
    rows += [{"engine": name, "what": "failed", "error": error} for name, error in errors.items()]
    return rows


def _row(name, what, values):
    return {
        "engine": name,
        "what": what,
        "seconds": statistics.median(values),
        "low": min(values),
        "high": max(values),
    }
