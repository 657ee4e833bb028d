"""python -m benchmarks: minicnn beside other libraries; tables, JSON and a plot.

Every engine runs in a process of its own and they take turns, after their results were compared.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import memory, report, startup, verification
from benchmarks.crew import Failure, Setting, crew, summary
from benchmarks.engines import OURS, PEERS
from benchmarks.networks import NETWORKS, weights
from benchmarks.shapes import GROUPS

WORKS = (*NETWORKS, "layers", "roofline", "bandwidth", "memory", "startup")
VERIFIED = ("torch", "torch-cl")
MEMORY_CASES = (("cifar10", 64), ("cifar10", 256), ("celeba", 32))
IDLE_LIMIT = 0.03  # of a processor: more than this disturbs whoever is being timed


class Run:
    """The options of a run, its scratch folder and its results."""

    def __init__(self, options, scratch, log):
        self.options, self.scratch, self.log = options, scratch, log
        self.results = report.Results(options.output)

    def setting(self, threads):
        return Setting(threads, self.options.isa, self.options.python)

    def peers(self, work):
        return [name for name in self.options.peers if work in PEERS[name].works]

    def weights(self, name):
        """The file of a network's weights, made once."""
        file = self.scratch / f"{name}.npz"
        if not file.exists():
            np.savez(file, **weights(NETWORKS[name]))
        return file

    def key(self, *words):
        return " ".join(map(str, words)) + (" avx2" if self.options.isa == "avx2" else "")


def say(text):
    report.console.print(text, highlight=False, markup=False, soft_wrap=True)


def warn_of_noise(engines):
    """An engine that keeps spinning would take time from the one that is asked."""
    for name, share in engines.idle_use().items():
        if share > IDLE_LIMIT:
            say(f"WARNING: {name} uses {100 * share:.0f} % of a processor while it waits")


def networks(run, threads):
    """Training and prediction of the chosen networks."""
    options = run.options
    for name in NETWORKS:
        if name not in options.work:
            continue
        network = NETWORKS[name]
        names = [p for p in options.peers if set(network.works) & set(PEERS[p].works)]
        with crew(names, run.setting(threads), run.log) as engines:
            file = run.weights(name)
            if not options.no_verify:
                verification.network(engines, name, run.scratch, file, say)
            for batch_size in options.batch_sizes or network.batch_sizes:
                command = {"do": "network", "name": name, "batch_size": batch_size}
                engines.ask_all(**command, weights=str(file))
                for work in network.works:
                    able = [p for p in engines.workers if work in PEERS[p].works]
                    times, refused = engines.measure(
                        work, options.rounds, able, steps=options.steps
                    )
                    warn_of_noise(engines)
                    lost = {p: engines.failures[p] for p in engines.failures if p in names}
                    run.results.add(
                        run.key(name, work, batch_size, threads),
                        "network",
                        network=name,
                        title=network.title,
                        work=work,
                        batch_size=batch_size,
                        threads=threads,
                        isa=options.isa,
                        engines={p: summary(values) for p, values in times.items()},
                        absent={**lost, **refused},
                        versions=engines.about,
                    )
                engines.ask_all(do="close")


def layers(run, threads):
    """Every layer of the frozen lists in every direction."""
    options = run.options
    with crew(run.peers("layers"), run.setting(threads), run.log) as engines:
        if not options.no_verify:
            verification.layers(engines, run.scratch, say)
        for group, list_ in GROUPS.items():
            rows = []
            warn_of_noise(engines)
            for number, layer in enumerate(list_):
                able = []
                for name, worker in list(engines.workers.items()):
                    try:
                        worker.ask(do="layer", group=group, number=number)
                        able.append(name)
                    except Failure as failure:
                        run.log.write(f"{name}: {layer.name}: {failure}\n")
                for direction in layer.directions:
                    times, refused = engines.measure(
                        direction, options.rounds, able, milliseconds=options.milliseconds
                    )
                    rows.append(
                        {
                            "layer": layer.name,
                            "direction": direction,
                            "operations": layer.operations,
                            "bytes": layer.bytes,
                            "engines": {p: summary(values) for p, values in times.items()},
                            "absent": refused,
                        }
                    )
                for name in able:
                    engines.workers[name].ask(do="close")
            run.results.add(
                run.key("layers", group, threads),
                "layers",
                group=group,
                threads=threads,
                isa=options.isa,
                rows=rows,
                absent=dict(engines.failures),
                versions=engines.about,
            )


def roofline(run, threads):
    """The machine's peaks, measured in a process of minicnn's."""
    with crew([OURS], run.setting(threads), run.log) as engines:
        run.results.add(
            run.key("peaks", threads),
            "peaks",
            threads=threads,
            isa=run.options.isa,
            peaks=engines.workers[OURS].ask(do="peaks"),
        )


def bandwidth(run, threads):
    """Kernels that move data beside a triad of the same size, in turns in one process."""
    rows = []
    with crew([OURS], run.setting(threads), run.log) as engines:
        worker = engines.workers[OURS]
        for name in worker.ask(do="kernels")["names"]:
            try:
                byte_count = worker.ask(do="kernel", name=name)["bytes"]
                times = {"kernel": [], "triad": []}
                for round_ in range(run.options.rounds + 1):
                    for which, found in times.items():
                        values = worker.ask(do="time", work=which, milliseconds=15)["ms"]
                        found += values if round_ else []
            except Failure as failure:
                rows.append({"kernel": name, "error": str(failure)})
                continue
            timing, triad = (summary(times[which]) for which in ("kernel", "triad"))
            rows.append({"kernel": name, "bytes": byte_count, "timing": timing, "triad": triad})
    run.results.add(
        run.key("bandwidth", threads), "bandwidth", threads=threads, isa=run.options.isa, rows=rows
    )


def memories(run, threads):
    """Peak memory of training, and whether it stays the same over 200 epochs."""
    setting = run.setting(threads)
    names = run.peers("train")
    for name, batch_size in MEMORY_CASES:
        rows = memory.training(names, setting, run.log, run.weights(name), name, batch_size)
        run.results.add(
            run.key("memory", name, batch_size, threads),
            "memory",
            title=NETWORKS[name].title,
            batch_size=batch_size,
            threads=threads,
            isa=run.options.isa,
            rows=rows,
        )
    rows = memory.epochs(setting, run.log, run.weights("cifar10"))
    run.results.add(run.key("epochs", threads), "epochs", threads=threads, rows=rows)


def start(run, threads):
    """Import and first step."""
    rounds = min(run.options.rounds, 5)
    rows = startup.measure(run.options.peers, run.setting(threads), run.weights("cifar10"), rounds)
    run.results.add(run.key("startup", threads), "startup", threads=threads, rows=rows)


def verify(run):
    """Compare all results, time nothing."""
    threads = run.options.threads[0]
    with crew(run.options.peers, run.setting(threads), run.log) as engines:
        for name, reason in engines.failures.items():
            say(f"{name} is left out: {reason}")
        if set(engines.workers) <= {OURS}:
            sys.exit("there is nothing to compare minicnn with: install the extra 'benchmarks'")
        for name in NETWORKS:
            if name in run.options.work:
                verification.network(engines, name, run.scratch, run.weights(name), say)
        if "layers" in run.options.work:
            verification.layers(engines, run.scratch, say)
        if engines.failures:
            sys.exit(f"engines failed: {engines.failures}")


def arguments():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--verify", action="store_true", help="compare results with PyTorch's, time nothing")
    add("--work", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK",
        help=f"what to measure, of {', '.join(WORKS)}")  # fmt: skip
    add("--peers", nargs="+", choices=PEERS, metavar="PEER",
        help=f"engines beside minicnn, of {', '.join(list(PEERS)[1:])}; default all")  # fmt: skip
    add("--threads", type=int, nargs="+", default=[2, 1])
    add("--batch-sizes", type=int, nargs="+", help="instead of those of each network")
    add("--rounds", type=int, default=8, help="turns of every engine")
    add("--steps", type=int, default=5, help="steps of a network per turn")
    add("--milliseconds", type=float, default=20, help="time of a layer per turn")
    add("--quick", action="store_true", help="two rounds of two steps, to see that it works")
    add("--isa", choices=("host", "avx2"), default="host",
        help="avx2: everything limited to AVX2, as on a processor without AVX-512")  # fmt: skip
    add("--python", nargs="+", default=[], metavar="PEER=PATH",
        help="another interpreter for an engine, in which it is installed")  # fmt: skip
    add("--no-verify", action="store_true", help="time without comparing results first")
    add("--output", type=Path, default=Path("benchmark-results"),
        help="folder of results.json and results.png; sections of earlier runs stay")  # fmt: skip
    options = parser.parse_args()
    options.python = dict(pair.split("=", 1) for pair in options.python)
    unknown = set(options.python) - set(PEERS)
    if unknown:
        parser.error(f"--python: no engine {sorted(unknown)}; there are {list(PEERS)}")
    chosen = options.peers or (VERIFIED if options.verify else PEERS)
    options.peers = [OURS, *(name for name in chosen if name != OURS)]
    if options.quick:
        options.rounds, options.steps, options.milliseconds = 2, 2, 4
    return options


MEASURES = {
    "layers": layers,
    "roofline": roofline,
    "bandwidth": bandwidth,
    "memory": memories,
    "startup": start,
}


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as name, open(Path(name) / "log.txt", "w+") as log:
        run = Run(options, Path(name), log)
        try:
            if options.verify:
                verify(run)
                return
            for threads in options.threads:
                networks(run, threads)
                for work, measure in MEASURES.items():
                    if work in options.work:
                        measure(run, threads)
            run.results.finish()
        except BaseException:
            log.seek(0)
            sys.stderr.write("".join(log.readlines()[-40:]))
            raise


if __name__ == "__main__":
    main()
