"""Memory of training: the peak of a process less what it held when its library was loaded."""

from benchmarks.crew import crew
from benchmarks.engines import OURS

STEPS = 15
AT_ONCE = 2  # processes, so that their memory is there even for large batches
EPOCHS = (10, 50, 100, 150, 200)


def training(names, setting, log, weights, network, batch_size, steps=STEPS):
    """One row an engine, each in its process, after so many steps; nothing is timed here.

    `after_import`: the library's own import; `ready`: threads started and, where a library loads
    parts of itself at first use (minicnn loads Numba), those loaded too.
    """
    with crew([OURS], setting, log) as first:  # compiles what has not been compiled yet
        for worker in first.workers.values():
            command = {"do": "network", "name": network, "batch_size": batch_size}
            worker.ask(**command, weights=str(weights))
            worker.ask(do="time", work="train", most=1)
    found = {}
    for i in range(0, len(names), AT_ONCE):
        with crew(names[i : i + AT_ONCE], setting, log) as some:
            some.ask_all(do="network", name=network, batch_size=batch_size, weights=str(weights))
            some.ask_all(do="time", work="train", least=steps)
            for name, worker in list(some.workers.items()):
                with some.leaving_out(name):
                    found[name] = some.about[name], worker.ask(do="memory")["peak"]
            found |= some.failures
    return [_row(name, found[name]) for name in names]


def _row(name, found):
    """Of the reason why an engine failed, or of what it says about itself and its peak."""
    if isinstance(found, str):
        return {"engine": name, "error": found}
    about, peak = found
    return {
        "engine": name,
        "after_import": about["memory_imported"],
        "ready": about["memory_ready"],
        "peak": peak,
        "peak_less_import": peak - about["memory_imported"],
        "peak_less_ready": peak - about["memory_ready"],
    }


def epochs(setting, log, weights, counts=EPOCHS):
    """[{"epochs", "resident"}] of minicnn's `fit` on a few pictures, validation included."""
    rows, done = [], 0
    with crew([OURS], setting, log) as alone:
        worker = alone.workers[OURS]
        worker.ask(do="network", name="cifar10", batch_size=200, weights=str(weights))
        for count in counts:
            worker.ask(do="epochs", count=count - done)
            done = count
            rows.append({"epochs": count, "resident": worker.ask(do="memory")["now"]})
    return rows
