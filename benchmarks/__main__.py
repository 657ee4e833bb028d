"""python -m benchmarks: the CIFAR-10 network beside PyTorch; --verify only compares the results."""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import networks

# glibc gives freed pages back and faults them in again at every step; raised thresholds keep them.
TUNED_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
ENGINES = {
    "minicnn": ("minicnn", {}),
    "torch contiguous": ("torch-contiguous", {}),
    "torch channels_last": ("torch-channels-last", {}),
    "torch channels_last, tuned malloc": ("torch-channels-last", TUNED_MALLOC),
}


class Worker:
    """An engine process; `ask` sends a command and waits for the answer."""

    def __init__(self, engine, weights, batch_size, threads, check=False):
        name, environment = ENGINES[engine]
        command = [sys.executable, "-m", "benchmarks.worker", name, "--weights", str(weights)]
        command += ["--batch-size", str(batch_size), "--threads", str(threads)]
        counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self.process = subprocess.Popen(
            command + ["--check"] * check,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **counts, **environment},
        )
        self._answer()

    def ask(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a benchmark process ended early with code {self.process.wait()}")
        return json.loads(line)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@contextlib.contextmanager
def workers(engines, *arguments, **more):
    """Running workers by engine, stopped at the end."""
    running = {}
    try:
        for engine in engines:
            running[engine] = Worker(engine, *arguments, **more)
        yield running
    finally:
        for worker in running.values():
            worker.stop()


def relative_error(a, b):
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def verify(folder, weights, threads):
    """Loss, predictions and gradients of one batch must agree between minicnn and PyTorch.

    A ReLU or a maximum that flips in its last bit moves a deep gradient by up to 1e-2 in any
    float32 library, hence the bound on gradients; single layers are held to 1e-5 by the tests.
    """
    results = {}
    engines = ["minicnn", "torch contiguous"]
    with workers(engines, weights, 16, threads, check=True) as running:
        for engine, worker in running.items():
            path = folder / f"{engine.split()[0]}.npz"
            worker.ask(do="check", path=str(path))
            results[engine] = dict(np.load(path))
    ours, theirs = (results[engine] for engine in engines)
    errors = {name: relative_error(ours[name], theirs[name]) for name in theirs}
    worst = max((error, name) for name, error in errors.items() if name.startswith("gradient"))
    print(
        f"verify: loss {errors['loss']:.1e}, predictions {errors['outputs']:.1e}, "
        f"gradients at most {worst[0]:.1e} ({worst[1]}) apart, relative to PyTorch"
    )
    if errors["loss"] > 1e-5 or errors["outputs"] > 1e-4 or worst[0] > 2e-2:
        sys.exit("the engines disagree: nothing is timed")
    if set(ours) != set(theirs):
        sys.exit(f"different arrays: {sorted(set(ours) ^ set(theirs))}")


def measure(engines, weights, batch_size, threads, rounds, steps):
    """Milliseconds per step by work and engine, the engines taking turns."""
    times = {work: {engine: [] for engine in engines} for work in ("train", "predict")}
    with workers(engines, weights, batch_size, threads) as running:
        for round_ in range(rounds + 1):
            for work, by_engine in times.items():
                for engine, worker in running.items():
                    answer = worker.ask(do="time", work=work, steps=steps)["ms"]
                    if round_ > 0:  # the first round compiles, allocates and warms up
                        by_engine[engine] += answer
    return times


def show(times, batch_size, threads):
    """Print one table and return its rows."""
    rows = []
    for work, by_engine in times.items():
        medians = {engine: statistics.median(values) for engine, values in by_engine.items()}
        table = Table(title=f"CIFAR-10 network, {work}, batch {batch_size}, {threads} threads")
        for name in ("engine", "ms per step", "10 % .. 90 %", "images/s", "minicnn is"):
            table.add_column(name, justify="left" if name == "engine" else "right")
        for engine, values in by_engine.items():
            low, *_, high = statistics.quantiles(values, n=10)
            ratio = medians[engine] / medians["minicnn"]
            rows.append(
                {
                    "work": work,
                    "batch_size": batch_size,
                    "threads": threads,
                    "engine": engine,
                    "ms": medians[engine],
                    "ms_10": low,
                    "ms_90": high,
                    "images_per_second": 1e3 * batch_size / medians[engine],
                    "ratio": ratio,
                }
            )
            table.add_row(
                engine,
                f"{medians[engine]:.2f}",
                f"{low:.2f} .. {high:.2f}",
                f"{1e3 * batch_size / medians[engine]:.0f}",
                "" if engine == "minicnn" else f"{ratio:.2f} x",
            )
        Console().print(table)
    return rows


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--verify", action="store_true", help="compare results, time nothing")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="steps per engine and round")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "weights.npz"
        from minicnn import set_random_seed

        set_random_seed(1)
        np.savez(weights, *networks.minicnn_cifar10().get_weights())
        verify(folder, weights, arguments.threads[0])
        if arguments.verify:
            return
        rows = []
        for threads in arguments.threads:
            for batch_size in arguments.batch_sizes:
                times = measure(
                    ENGINES, weights, batch_size, threads, arguments.rounds, arguments.steps
                )
                rows += show(times, batch_size, threads)
    if arguments.output:
        machine = {"processor": platform.processor(), "cores": os.cpu_count()}
        arguments.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
