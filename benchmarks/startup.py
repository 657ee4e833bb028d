"""Start-up: seconds of an import, and of a whole process that takes one training step."""

import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks.crew import absent
from benchmarks.engines import OURS

MODULES = {
    "minicnn": "minicnn",
    "torch": "torch",
    "keras-tensorflow": "keras",
    "keras-jax": "keras",
    "keras-torch": "keras",
}

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
print(imported - start, end - imported)
"""
_TORCH_STEP = """
import sys, time
from types import SimpleNamespace
start = time.perf_counter()
import torch
imported = time.perf_counter()
import numpy as np
from benchmarks.engines.torch_engine import Engine
engine = Engine(SimpleNamespace(threads=torch.get_num_threads(), mode="channels_last"))
engine.open_network("cifar10", 64, dict(np.load(sys.argv[2])), False)
engine.train()
end = time.perf_counter()
print(imported - start, end - imported)
"""


def _run(python, code, *arguments, **environment):
    """Seconds of the import, and of building the network and its first step after that."""
    done = subprocess.run(
        [python, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["failed"])[-1][:200])
    imported, step = done.stdout.split("\n")[-2].split()
    return float(imported), float(step)


def measure(names, setting, weights, rounds):
    """Rows {"engine", "what", "seconds", "low", "high"}; processes one after another, in turns."""
    imports, steps, errors = {}, {}, {}
    names = [name for name in MODULES if name in names]
    for round_ in range(rounds + 1):
        for name in [name for name in names if name not in errors]:
            code = _TORCH_STEP if name == "torch" else _KERAS_STEP
            environment = setting.environment(name)
            try:
                imported, step = _run(
                    setting.python(name), code, MODULES[name], str(weights), **environment
                )
            except RuntimeError as error:
                errors[name] = absent(name, setting) or str(error)
                continue
            if round_ > 0:  # the first fills the caches of files and kernels
                imports.setdefault(name, []).append(imported)
                steps.setdefault(name, []).append(step)
    rows = [
        _row(name, what, values)
        for what, found in (("import", imports), ("build and first training step", steps))
        for name, values in found.items()
    ]
    cold = []
    for _ in range(min(2, rounds)):  # each compiles all kernels of the network
        with tempfile.TemporaryDirectory() as folder:
            environment = {**setting.environment(OURS), "MINICNN_CACHE": folder}
            environment.pop("NUMBA_CACHE_DIR", None)
            cold.append(_run(setting.python(OURS), _KERAS_STEP, OURS, **environment)[1])
    rows.append(_row(OURS, "build and first training step, empty kernel cache", cold))
    return rows + [{"engine": n, "what": "failed", "error": error} for n, error in errors.items()]


def _row(name, what, values):
    return {
        "engine": name,
        "what": what,
        "seconds": statistics.median(values),
        "low": min(values),
        "high": max(values),
    }
