"""One engine in its own process: answers JSON commands on stdin with JSON lines on stdout.

{"do": "network", "name", "batch_size", "weights", "check"}    opens a network
{"do": "layer", "group", "number", "check"}                    opens a single layer
{"do": "time", "work", "least", "most", "milliseconds"}        -> {"ms": [...]}
{"do": "check", "path"}                                        writes its results to that file
{"do": "kernels"}                                              -> {"names"} of them
{"do": "kernel", "name"}                                       opens a kernel beside its triad
{"do": "peaks"}                                                -> what the machine can do at most
{"do": "epochs", "count"}                                      fits the open network
{"do": "memory"}                                               -> {"now", "peak"} in bytes
{"do": "close"}

An answer with "error" says why something cannot be done; the process goes on.
"""

import argparse
import gc
import importlib
import json
import math
import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from benchmarks import shapes
from benchmarks.engines import PEERS


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    # As many processors as threads: some libraries follow nothing else. NumPy starts no thread that
    # would matter, and OPENBLAS_NUM_THREADS is set.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(answer):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        peer = PEERS[options.engine]
        options.mode = peer.mode
        module = importlib.import_module(f"benchmarks.engines.{peer.module}")
        imported = _memory()["now"]
        session = Session(module.Engine(options))
        about = session.engine.about()
        reply({**about, "memory_imported": imported, "memory_ready": _memory()["now"]})
    except Exception as error:  # of any library: the answer says which, the log where
        traceback.print_exc()
        reply(_described(error))
        return
    for line in sys.stdin:
        command = json.loads(line)
        try:
            reply(getattr(session, command.pop("do"))(**command) or {"done": True})
        except Exception as error:  # as above
            traceback.print_exc()
            reply(_described(error))


def _memory():
    """Resident bytes of this process now and at most."""
    status = Path("/proc/self/status").read_text()
    kib = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if "kB" in line}
    return {"now": 1024 * int(kib["VmRSS"]), "peak": 1024 * int(kib["VmHWM"])}


def _described(error):
    first = (str(error).strip().splitlines() or [""])[0]
    return {"error": f"{type(error).__name__}: {first[:200]}"}


class Session:
    """What the commands do; their names are those of the methods."""

    def __init__(self, engine):
        self.engine = engine
        self.ours = type(engine).__module__.endswith("minicnn_engine")
        self.calls, self.results = {}, None

    def network(self, name, batch_size, weights, check=False):
        values = dict(np.load(weights))
        engine = self.engine
        engine.open_network(name, batch_size, values, check)
        self.calls = {"predict": engine.predict, "train": getattr(engine, "train", None)}
        self.results = engine.check

    def layer(self, group, number, check=False):
        layer = shapes.GROUPS[group][number]
        self.calls = self.engine.open_layer(layer.shrunk() if check else layer)
        self.results = self._layer_results
        self.directions = layer.directions

    def _layer_results(self):
        """What this engine can compute of the layer; minicnn must be able to compute all."""
        results = {}
        for name in self.directions:
            try:
                results[name] = self.engine.layer_result(name)
            except Exception:
                if self.ours:
                    raise
        return results

    def time(self, work, least=2, most=math.inf, milliseconds=0):
        """Run and time as many steps as begin within that time, from `least` to `most`."""
        step, times, begin = self.calls[work], [], time.perf_counter()
        while len(times) < most:
            start = time.perf_counter()
            if len(times) >= least and 1e3 * (start - begin) >= milliseconds:
                break
            step()
            times.append(1e3 * (time.perf_counter() - start))
        return {"ms": times}

    def check(self, path):
        np.savez(path, **self.results())

    def kernel(self, name):
        self.calls, byte_count = self.engine.open_kernel(name)
        return {"bytes": byte_count}

    def kernels(self):
        return {"names": self.engine.kernel_names()}

    def peaks(self):
        return self.engine.peaks()

    def epochs(self, count):
        self.engine.fit(count)

    def memory(self):
        return _memory()

    def close(self):
        self.calls, self.results = {}, None
        self.engine.close()
        gc.collect()


if __name__ == "__main__":
    main()
