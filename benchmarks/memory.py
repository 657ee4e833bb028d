"""Memory of training: the peak of a process less what it held when its library was loaded."""

from benchmarks.crew import Failure, crew
from benchmarks.engines import OURS

STEPS = 15
EPOCHS = (10, 50, 100, 150, 200)


def training(names, setting, log, weights, network, batch_size):
    """One row an engine, alone in its process one after another.

    `after_import`: the library's own import; `ready`: threads started and, where a library loads
    parts of itself at first use (minicnn loads Numba), those loaded too.
    """
    with crew([OURS], setting, log) as first:  # compiles what has not been compiled yet
        for worker in first.workers.values():
            command = {"do": "network", "name": network, "batch_size": batch_size}
            worker.ask(**command, weights=str(weights))
            worker.ask(do="time", work="train", most=1)
    rows = []
    for name in names:
        with crew([name], setting, log) as alone:
            if name not in alone.workers:
                rows.append({"engine": name, "error": alone.failures[name]})
                continue
            worker, about = alone.workers[name], alone.about[name]
            try:
                worker.ask(do="network", name=network, batch_size=batch_size, weights=str(weights))
                worker.ask(do="time", work="train", least=STEPS)
                used = worker.ask(do="memory")
            except Failure as failure:
                rows.append({"engine": name, "error": str(failure)})
                continue
        rows.append(
            {
                "engine": name,
                "after_import": about["memory_imported"],
                "ready": about["memory_ready"],
                "peak": used["peak"],
                "peak_less_import": used["peak"] - about["memory_imported"],
                "peak_less_ready": used["peak"] - about["memory_ready"],
            }
        )
    return rows


def epochs(setting, log, weights):
    """[{"epochs", "resident"}] of minicnn's `fit` on a few pictures, validation included."""
    rows, done = [], 0
    with crew([OURS], setting, log) as alone:
        worker = alone.workers[OURS]
        worker.ask(do="network", name="cifar10", batch_size=200, weights=str(weights))
        for count in EPOCHS:
            worker.ask(do="epochs", count=count - done)
            done = count
            rows.append({"epochs": count, "resident": worker.ask(do="memory")["now"]})
    return rows
