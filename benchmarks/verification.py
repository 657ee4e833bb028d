"""Do the engines compute the same? Asked before anything is timed."""

import numpy as np

from benchmarks.crew import Failure
from benchmarks.engines import OURS, PEERS
from benchmarks.networks import NETWORKS
from benchmarks.shapes import GROUPS

# Relative errors. A ReLU or a maximum that flips in its last bit moves a deep gradient by some 1e-2
# in any float32 library, hence the bound for networks; single layers are held tight. Winograd sums
# of a kernel gradient are a little rougher than direct ones.
NETWORK_BOUNDS = {"outputs": 1e-4, "loss": 1e-4, "gradient": 5e-2}
LAYER_BOUNDS = {"forward": 1e-5, "input_grad": 1e-5, "kernel_grad": 5e-5}


def relative_error(a, b, floor=0.0):
    """Distance in the Euclidean norm; `floor` is the norm below which b counts as that large."""
    if np.shape(a) != np.shape(b):
        return float("inf")
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), floor, 1e-30))


def _distinct(crew):
    """Names of engines, of those that differ in their allocator alone only one."""
    kinds = {}
    for name in crew.workers:
        kinds.setdefault((PEERS[name].module, PEERS[name].mode), name)
    return list(kinds.values())


def _results(crew, command, folder):
    """{engine: {name: array}, or the Failure of an engine that cannot do it}."""
    found = crew.ask_each(dict.fromkeys(_distinct(crew), command))
    paths = {
        name: folder / f"{name}.npz" for name, a in found.items() if not isinstance(a, Failure)
    }
    found |= crew.ask_each({name: {"do": "check", "path": str(paths[name])} for name in paths})
    for name, path in paths.items():
        if not isinstance(found[name], Failure):
            with np.load(path) as file:
                found[name] = dict(file)
            path.unlink()
    return found


def _compare(crew, command, folder, bounds):
    """{engine: {kind of result: (error, which)}} of what is open, against minicnn's results."""
    results = {}
    for name, found in _results(crew, command, folder).items():
        with crew.leaving_out(name):
            if isinstance(found, Failure):
                raise found
            results[name] = found
    ours = results.pop(OURS)
    # A gradient that is nearly nothing beside the others has no relative error worth the name.
    norms = [np.linalg.norm(value) for name, value in ours.items() if name.startswith("gradient")]
    floor = 1e-2 * max(norms, default=0.0)
    found = {}
    for engine, theirs in results.items():
        worst = {kind: (0.0, kind) for kind in bounds if any(n.startswith(kind) for n in theirs)}
        for name, value in theirs.items():
            kind = name.split(" ")[0]
            error = (
                relative_error(ours[name], value, floor if kind == "gradient" else 0.0)
                if name in ours
                else float("inf")
            )
            worst[kind] = max(worst[kind], (error, name))
        found[engine] = worst
    return found


def network(crew, name, folder, weights, say):
    """Outputs, loss and gradients of a small batch; engines that disagree end the run."""
    batch_size = NETWORKS[name].check_batch_size
    command = {"do": "network", "name": name, "batch_size": batch_size, "weights": str(weights)}
    found = _compare(crew, {**command, "check": True}, folder, NETWORK_BOUNDS)
    for engine, worst in found.items():
        errors = ", ".join(f"{kind} {error:.0e}" for kind, (error, _) in worst.items())
        say(f"{name}: {engine} agrees with minicnn within {errors}")
        _refuse(engine, name, worst, NETWORK_BOUNDS)
    crew.ask_all(do="close")


def layers(crew, folder, say):
    """Every layer of the frozen lists on two samples; says the largest error of each engine."""
    largest, possible = {}, {}
    for group, list_ in GROUPS.items():
        for number, layer in enumerate(list_):
            command = {"do": "layer", "group": group, "number": number, "check": True}
            for engine, worst in _compare_layer(crew, command, folder).items():
                _refuse(engine, layer.name, worst, LAYER_BOUNDS)
                possible[engine] = possible.get(engine, 0) + len(worst)
                for kind, (error, _) in worst.items():
                    before = largest.setdefault(engine, {}).get(kind, (0.0, ""))
                    largest[engine][kind] = max(before, (error, layer.name))
    for engine, worst in largest.items():
        errors = ", ".join(f"{kind} {error:.0e}" for kind, (error, _) in worst.items())
        say(f"{possible[engine]} single layers and gradients: {engine} agrees within {errors}")


def _compare_layer(crew, command, folder):
    """{engine: {direction: (error, direction)}} for what each engine can compute."""
    results = _results(crew, command, folder)
    crew.ask_all(do="close")
    ours = results.pop(OURS)
    if isinstance(ours, Failure):
        raise SystemExit(f"minicnn cannot compute a layer: {ours}")
    return {
        engine: {kind: (relative_error(ours[kind], value), kind) for kind, value in theirs.items()}
        for engine, theirs in results.items()
        if not isinstance(theirs, Failure)  # a layer that this library does not have
    }


def _refuse(engine, what, worst, bounds):
    for kind, (error, which) in worst.items():
        if not error <= bounds[kind]:
            raise SystemExit(
                f"{engine} and minicnn disagree about {what}: {which} by {error:.1e}, allowed are "
                f"{bounds[kind]:.0e}; nothing is timed"
            )
