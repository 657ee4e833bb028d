"""python -m benchmarks: minicnn beside other libraries; tables, JSON and a plot.

Every engine runs in a process of its own and they take turns, after their results were compared.
Peers that are not installed are named in every table; benchmarks/README.md says how to get them.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import memory, report, startup, verification
from benchmarks.crew import Failure, Setting, absent, crew, summary
from benchmarks.engines import OURS, PEERS, install_command
from benchmarks.networks import NETWORKS, weights
from benchmarks.shapes import GROUPS

WORKS = (*NETWORKS, "layers", "roofline", "bandwidth", "memory", "startup")
VERIFIED = ("torch", "torch-cl")
LAYER_ROUNDS = 3  # turns of each engine for each of some 130 layers and directions
MEMORY_CASES = (("cifar10", 64), ("cifar10", 256), ("celeba", 32))
IDLE_LIMIT = 0.03  # of a processor: more than this disturbs whoever is being timed


class Run:
    """The options of a run, its scratch folder and its results."""

    def __init__(self, options, scratch, log):
        self.options, self.scratch, self.log = options, scratch, log
        names = ("peers", "rounds", "steps", "seconds", "milliseconds")
        asked = {name: getattr(options, name) for name in names}
        folder = scratch if options.verify else options.output
        self.results = report.Results(folder, asked, options.resume)
        self.verified = set()

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

    def wants(self, *words):
        """Whether the section with this key is still to be measured."""
        return self.results.wants(self.key(*words))

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
    for name, network in NETWORKS.items():
        cases = [
            (batch_size, work)
            for batch_size in run.options.batch_sizes or network.batch_sizes
            for work in network.works
            if name in run.options.work and run.wants(name, work, batch_size, threads)
        ]
        if cases:
            _network(run, threads, name, cases)


def _network(run, threads, name, cases):
    options, network = run.options, NETWORKS[name]
    names = [p for p in options.peers if set(network.works) & set(PEERS[p].works)]
    with crew(names, run.setting(threads), run.log) as engines:
        file = run.weights(name)
        if not options.no_verify and name not in run.verified:
            verification.network(engines, name, run.scratch, file, say)
            run.verified.add(name)
        opened = None
        for batch_size, work in cases:
            if batch_size != opened:
                if opened:
                    engines.ask_all(do="close")
                command = {"do": "network", "name": name, "batch_size": batch_size}
                engines.ask_all(**command, weights=str(file))
                opened = batch_size
            able = [p for p in engines.workers if work in PEERS[p].works]
            times, refused = engines.measure(
                work,
                options.rounds,
                able,
                least=1,
                most=options.steps,
                milliseconds=1e3 * options.seconds,
            )
            warn_of_noise(engines)
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
                absent={**engines.failures, **refused},
                versions=engines.about,
            )


def layers(run, threads):
    """Every layer of the frozen lists in every direction."""
    groups = {g: found for g, found in GROUPS.items() if run.wants("layers", g, threads)}
    if not groups:
        return
    with crew(run.peers("layers"), run.setting(threads), run.log) as engines:
        if not run.options.no_verify and "layers" not in run.verified:
            verification.layers(engines, run.scratch, say)
            run.verified.add("layers")
        for group, list_ in groups.items():
            warn_of_noise(engines)
            rows = [
                row
                for number, layer in enumerate(list_)
                for row in _layer(run.options, engines, group, number, layer)
            ]
            run.results.add(
                run.key("layers", group, threads),
                "layers",
                group=group,
                threads=threads,
                isa=run.options.isa,
                rows=rows,
                absent=dict(engines.failures),
                versions=engines.about,
            )


def _layer(options, engines, group, number, layer):
    """A row for each direction of a layer; `absent` says who cannot compute it, and why."""
    command = {"do": "layer", "group": group, "number": number}
    answers = engines.ask_each(dict.fromkeys(engines.workers, command))
    lacking = {name: str(a) for name, a in answers.items() if isinstance(a, Failure)}
    able = [name for name in engines.workers if name not in lacking]
    for direction in layer.directions:
        times, refused = engines.measure(
            direction,
            min(options.rounds, LAYER_ROUNDS),
            able,
            warm_up=1,
            least=1,
            milliseconds=options.milliseconds,
        )
        yield {
            "layer": layer.name,
            "direction": direction,
            "operations": layer.operations,
            "bytes": layer.bytes,
            "engines": {p: summary(values) for p, values in times.items()},
            "absent": {**lacking, **refused},
        }
    engines.ask_all(do="close")


def roofline(run, threads):
    """The machine's peaks, measured in a process of minicnn's."""
    if not run.wants("peaks", threads):
        return
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
    if not run.wants("bandwidth", threads):
        return
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
    setting, quick = run.setting(threads), run.options.quick
    names = run.peers("train")
    for name, batch_size in MEMORY_CASES[:1] if quick else MEMORY_CASES:
        if not run.wants("memory", name, batch_size, threads):
            continue
        steps = 2 if quick else memory.STEPS
        rows = memory.training(names, setting, run.log, run.weights(name), name, batch_size, steps)
        run.results.add(
            run.key("memory", name, batch_size, threads),
            "memory",
            title=NETWORKS[name].title,
            batch_size=batch_size,
            threads=threads,
            isa=run.options.isa,
            rows=rows,
        )
    if run.wants("epochs", threads):
        counts = (1, 2) if quick else memory.EPOCHS
        rows = memory.epochs(setting, run.log, run.weights("cifar10"), counts)
        run.results.add(run.key("epochs", threads), "epochs", threads=threads, rows=rows)


def start(run, threads):
    """Import and first step."""
    if run.wants("startup", threads):
        file, rounds = run.weights("cifar10"), 1 if run.options.quick else 2
        rows = startup.measure(run.options.peers, run.setting(threads), file, rounds)
        run.results.add(run.key("startup", threads), "startup", threads=threads, rows=rows)


def verify(run):
    """Compare all results, time nothing."""
    threads = run.options.threads[0]
    with crew(run.options.peers, run.setting(threads), run.log) as engines:
        if set(engines.workers) <= {OURS}:
            sys.exit(f"nothing to compare minicnn with: {install_command(run.options.peers)}")
        for name in NETWORKS:
            if name in run.options.work:
                verification.network(engines, name, run.scratch, run.weights(name), say)
        if "layers" in run.options.work:
            verification.layers(engines, run.scratch, say)
        if engines.failures:
            sys.exit(f"engines failed: {engines.failures}")


def say_who_is_here(run):
    """The machine, and the engines with a reason for each that is left out."""
    say(report.described(run.results.machine))
    setting = run.setting(run.options.threads[0])
    reasons = {name: absent(name, setting) for name in run.options.peers}
    say("engines: " + ", ".join(name for name, reason in reasons.items() if not reason))
    missing = {name: reason for name, reason in reasons.items() if reason}
    for name, reason in missing.items():
        say(f"left out: {name}: {reason}")
    lacking = [name for name, reason in missing.items() if reason.startswith("not installed")]
    if lacking:
        say(f"to install what they need: {install_command(lacking)}")


def arguments():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    parser.epilog = f"All peers: {install_command(PEERS)}"
    add("--verify", action="store_true", help="compare results with PyTorch's, time nothing")
    add("--work", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK",
        help=f"what to measure, of {', '.join(WORKS)}")  # fmt: skip
    add("--peers", nargs="+", choices=PEERS, metavar="PEER",
        help=f"engines beside minicnn, of {', '.join(list(PEERS)[1:])}; default all")  # fmt: skip
    add("--threads", type=int, nargs="+", default=[2, 1],
        help="one after another; memory and start-up are measured with the first only")  # fmt: skip
    add("--batch-sizes", type=int, nargs="+", help="instead of those of each network")
    add("--rounds", type=int, default=5,
        help=f"turns of every engine; at most {LAYER_ROUNDS} for single layers")  # fmt: skip
    add("--steps", type=int, default=5, help="steps of a network per turn at most")
    add("--seconds", type=float, default=0.2,
        help="no further step of a network in a turn after that; one is always taken")  # fmt: skip
    add("--milliseconds", type=float, default=10, help="time of a layer per turn")
    add("--quick", action="store_true", help="next to nothing of everything, to see that it works")
    add("--isa", choices=("host", "avx2"), default="host",
        help="avx2: everything limited to AVX2, as on a processor without AVX-512")  # fmt: skip
    add("--python", nargs="+", default=[], metavar="PEER=PATH",
        help="another interpreter for an engine, in which it is installed")  # fmt: skip
    add("--no-verify", action="store_true", help="time without comparing results first")
    add("--output", type=Path, default=Path("benchmark-results"),
        help="folder of results.json, written after each section, and results.png; sections of "
        "earlier runs stay")  # fmt: skip
    add("--resume", action="store_true",
        help="leave out sections that the folder has of this commit and these options")  # fmt: skip
    options = parser.parse_args()
    for pair in options.python:
        name, equals, path = pair.partition("=")
        if not equals or name not in PEERS:
            parser.error(f"--python: {pair!r} is not PEER=PATH with one of {', '.join(PEERS)}")
        if not Path(path).is_file():
            parser.error(f"--python: there is no file {path}: name an interpreter")
    options.python = dict(pair.split("=", 1) for pair in options.python)
    chosen = options.peers or (VERIFIED if options.verify else PEERS)
    options.peers = [OURS, *(name for name in chosen if name != OURS)]
    if options.quick:
        options.rounds, options.steps, options.seconds, options.milliseconds = 2, 2, 0.1, 4
    return options


MEASURES = {
    "layers": layers,
    "roofline": roofline,
    "bandwidth": bandwidth,
    "memory": memories,
    "startup": start,
}


ONCE = ("memory", "startup")  # with the first number of threads only


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as name, open(Path(name) / "log.txt", "w+") as log:
        run = Run(options, Path(name), log)
        say_who_is_here(run)
        try:
            if options.verify:
                verify(run)
                return
            for threads in options.threads:
                networks(run, threads)
                for work, measure in MEASURES.items():
                    first = threads == options.threads[0]
                    if work in options.work and (first or work not in ONCE):
                        measure(run, threads)
            run.results.finish()
        except KeyboardInterrupt:
            sys.exit(f"\ninterrupted; {run.results.file} has what was done: --resume goes on there")
        except Exception:
            log.seek(0)
            sys.stderr.write("".join(log.readlines()[-40:]))
            raise


if __name__ == "__main__":
    main()
