"""python -m benchmarks.augmentation: every augmentation layer beside Keras's (JAX) and PyTorch.

Each engine runs in a process of its own, and they take turns; a step draws its parameters and
transforms a batch. Before anything is timed, the engines transform pictures with the parameters
that minicnn drew, and must agree. --verify stops there.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import report
from benchmarks.crew import summary
from benchmarks.engines import distribution

BATCHES = {"256 of 32 x 32 x 3": (256, 32, 32, 3), "32 of 218 x 178 x 3": (32, 218, 178, 3)}
ENGINES = ("minicnn", "keras", "keras-jit", "torch")
TITLES = {
    "keras": "Keras, eager",
    "keras-jit": "Keras in jax.jit",
    "torch": "PyTorch",
}
NEEDS = {
    "minicnn": (),
    "keras": ("keras", "jax"),
    "keras-jit": ("keras", "jax"),
    "torch": ("torch",),
}
# Relative to the largest number. Coordinates are float32 in the peers: 1e-7 of a width of 218
# pixels, times the step of up to 255 between two of them, which noise as a picture has everywhere.
TOLERANCE = 1e-4


def cases(h, w):
    """{name: (class, arguments)} of the layers for pictures of this size."""
    shift = dict(height_factor=0.1, width_factor=0.1)
    return {
        "flip": ("RandomFlip", dict(mode="horizontal")),
        "rotation": ("RandomRotation", dict(factor=0.05, fill_mode="nearest")),
        "translation": ("RandomTranslation", dict(**shift, fill_mode="nearest")),
        "zoom": ("RandomZoom", dict(**shift, fill_mode="nearest")),
        "shear": ("RandomShear", dict(x_factor=0.2, y_factor=0.2, fill_mode="nearest")),
        "crop": ("RandomCrop", dict(height=h - h // 8, width=w - w // 8)),
        "contrast": ("RandomContrast", dict(factor=(0.3, 0.3))),
        "brightness": ("RandomBrightness", dict(factor=0.2)),
        "saturation": ("RandomSaturation", dict(factor=(0.3, 0.7))),
        "hue": ("RandomHue", dict(factor=0.3)),
        "jitter": (
            "RandomColorJitter",
            dict(
                brightness_factor=0.2,
                contrast_factor=(0.2, 0.2),
                saturation_factor=(0.3, 0.7),
                hue_factor=0.2,
            ),
        ),
        "erasing": ("RandomErasing", dict(factor=(1, 1), fill_value=0.0)),
        "erasing, noise": ("RandomErasing", dict(factor=(1, 1))),
        "mixup": ("MixUp", {}),
        "cutmix": ("CutMix", {}),
        "resizing": ("Resizing", dict(height=2 * h // 3, width=2 * w // 3)),
        "resizing, bicubic": (
            "Resizing",
            dict(height=4 * h // 3, width=4 * w // 3, interpolation="bicubic", antialias=True),
        ),
        "center crop": ("CenterCrop", dict(height=h - h // 8, width=w - w // 8)),
        "normalization": ("Normalization", dict(mean=[110.0] * 3, variance=[60.0**2] * 3)),
    }


AFFINE = ("rotation", "translation", "zoom", "shear")
DRAWS_NOTHING = ("resizing", "resizing, bicubic", "center crop", "normalization")
UNCOMPARED = ("jitter", "erasing, noise")  # chains of, and noise in, what is compared


def pictures(shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


class Minicnn:
    """The library under test: its layers called on arrays."""

    def __init__(self, threads):
        from minicnn import config, layers

        self.layers, config.threads = layers, threads

    def set(self, name, shape):
        cls, arguments = cases(*shape[1:3])[name]
        self.x, self.layer = pictures(shape), getattr(self.layers, cls)(**arguments)
        self.name, self.count = name, 0
        self.layer.ensure_built(shape)

    def step(self):
        from minicnn.context import Context

        self.count += 1
        return self.layer.forward(self.x, Context(training=True, seed=1, step=self.count))[0]

    def check(self, parameters):
        """y, having drawn `parameters` into that dict."""
        if self.name in DRAWS_NOTHING:
            return self.step()
        drawn = self.layer.get_random_transformation(self.x, seed=1)
        parameters.update({key: value for key, value in drawn.items() if value is not None})
        if self.name in AFFINE:
            parameters["matrices"] = self.layer.matrices(self.x.shape, drawn)
        return self.layer.transform_images(self.x, drawn)


class Keras:
    """Keras's layers on JAX: called as they are, or inside of one compiled function."""

    def __init__(self, threads, jit=False):
        os.environ["KERAS_BACKEND"] = "jax"
        import jax
        import keras

        self.jax, self.keras, self.jit = jax, keras, jit

    def set(self, name, shape):
        cls, arguments = cases(*shape[1:3])[name]
        self.x, self.name, self.shape = self.jax.numpy.asarray(pictures(shape)), name, shape
        self.layer = getattr(self.keras.layers, cls)(**arguments)
        self.layer.build(shape)
        self.random = name not in DRAWS_NOTHING
        self.state = [v.value for v in self.layer.non_trainable_variables]
        if self.jit:
            mode = {} if name == "normalization" else {"training": True}

            def run(state, x):
                return self.layer.stateless_call([], state, x, **mode)

            self.run = self.jax.jit(run)

    def step(self):
        if self.jit:
            y, self.state = self.run(self.state, self.x)
        elif self.name == "normalization":
            y = self.layer(self.x)
        else:
            y = self.layer(self.x, training=True)
        return y.block_until_ready()

    def check(self, parameters):
        if not self.random:
            return self.step()
        given = {key: np.asarray(value, np.float32) for key, value in parameters.items()}
        n, h, w, _ = self.shape
        given["input_shape"] = self.shape
        for key in ("flips", "contrast_factor", "rgb_delta"):
            if key in parameters:
                given[key] = parameters[key].reshape(n, -1)[:, -1].reshape(n, 1, 1, 1)
        if "permutation_order" in parameters:
            given["permutation_order"] = parameters["permutation_order"].astype(np.int32)
        if "boxes" in parameters:
            inside = in_boxes(parameters["boxes"], h, w)
            given["batch_masks"] = np.broadcast_to(inside, self.shape)
            given["apply_erasing"], given["fill_value"] = np.ones(n, bool), np.float32(0)
        if self.name == "rotation":
            m = parameters["matrices"]
            rows = [m[:, 1, 1], m[:, 1, 0], m[:, 1, 2], m[:, 0, 1], m[:, 0, 0], m[:, 0, 2]]
            zeros = np.zeros(n)
            given["rotation_matrix"] = np.stack([*rows, zeros, zeros], 1).astype(np.float32)
        if self.name == "crop":
            parts = [
                self.layer.transform_images(self.x[i : i + 1], tuple(map(int, start)))
                for i, start in enumerate(parameters["starts"])
            ]
            return np.concatenate(parts)
        return self.layer.transform_images(self.x, given)


def in_boxes(boxes, h, w):
    i, j = np.arange(h)[:, None], np.arange(w)
    top, bottom, left, right = boxes.T[:, :, None, None]
    return ((top <= i) & (i < bottom) & (left <= j) & (j < right))[..., None]


class Torch:
    """PyTorch without torchvision: whole-batch operations on (n, c, h, w)."""

    def __init__(self, threads):
        import torch

        torch.set_num_threads(threads)
        self.torch, self.functional = torch, torch.nn.functional

    def set(self, name, shape):
        if name in ("hue", "saturation", "jitter"):
            raise ValueError("has no such operation")
        if name == "resizing, bicubic":
            raise ValueError("has another cubic window")
        self.name, self.shape = name, shape
        self.arguments = cases(*shape[1:3])[name][1]
        x = self.torch.from_numpy(pictures(shape))
        self.x = x.permute(0, 3, 1, 2).contiguous()
        self.generator = np.random.default_rng(1)

    def draw(self):
        n, h, w, _ = self.shape
        draw, name = self.generator, self.name
        if name in AFFINE:
            matrices = np.zeros((n, 2, 3))
            matrices[:, [0, 1], [0, 1]] = draw.uniform(0.9, 1.1, (n, 2))
            matrices[:, [0, 1], [1, 0]] = draw.uniform(-0.1, 0.1, (n, 2))
            return {"matrices": matrices}
        if "erasing" in name or name == "cutmix":
            start = draw.integers(0, [h // 2, w // 2], (n, 2))
            end = start + draw.integers(1, [h // 2, w // 2], (n, 2))
            boxes = np.stack([start[:, 0], end[:, 0], start[:, 1], end[:, 1]], 1)
            return {"boxes": boxes, "permutation_order": draw.permutation(n)}
        return {
            "flips": draw.random((n, 2)) < 0.5,
            "starts": draw.integers(0, (h // 8 + 1, w // 8 + 1), (n, 2)),
            "contrast_factor": draw.uniform(0.7, 1.3, n),
            "rgb_delta": draw.uniform(-50, 50, n),
            "mix_weight": draw.beta(0.2, 0.2, n),
            "permutation_order": draw.permutation(n),
        }

    def per_picture(self, values):
        return self.torch.from_numpy(values.astype(np.float32)).reshape(-1, 1, 1, 1)

    def step(self):
        return self.transform(self.draw())

    def transform(self, parameters):
        torch, x, name, arguments = self.torch, self.x, self.name, self.arguments
        n, h, w, _ = self.shape
        if name == "flip":
            flips = torch.from_numpy(parameters["flips"][:, -1]).reshape(-1, 1, 1, 1)
            return torch.where(flips, x.flip(3), x)
        if name in AFFINE:
            return self.affine(parameters["matrices"])
        if name in ("crop", "center crop"):
            height, width = arguments["height"], arguments["width"]
            if name == "center crop":
                top, left = (h - height) // 2, (w - width) // 2
                return x[:, :, top : top + height, left : left + width].contiguous()
            starts = parameters["starts"].tolist()
            return torch.stack(
                [x[i, :, r : r + height, c : c + width] for i, (r, c) in enumerate(starts)]
            )
        if name == "contrast":
            mean = x.mean(dim=(2, 3), keepdim=True)
            factor = self.per_picture(parameters["contrast_factor"])
            return ((x - mean) * factor + mean).clamp(0, 255)
        if name == "brightness":
            return (x + self.per_picture(parameters["rgb_delta"])).clamp(0, 255)
        if "erasing" in name or name == "cutmix":
            inside = torch.from_numpy(in_boxes(parameters["boxes"], h, w)).permute(0, 3, 1, 2)
            if name == "cutmix":
                return torch.where(inside, x[parameters["permutation_order"]], x)
            if name == "erasing":
                return x.masked_fill(inside, 0.0)
            return torch.where(inside, (torch.randn_like(x) * 255).clamp(0, 255), x)
        if name == "mixup":
            weight = self.per_picture(parameters["mix_weight"])
            return weight * x + (1 - weight) * x[parameters["permutation_order"]]
        if name == "resizing":
            size = arguments["height"], arguments["width"]
            return self.functional.interpolate(x, size, mode="bilinear", align_corners=False)
        return (x - 110.0) / 60.0

    def affine(self, m):
        """grid_sample wants (x, y) in units of half the picture, from -1 to 1 at its borders."""
        _, h, w, _ = self.shape
        columns, rows = (w - 1) / 2, (h - 1) / 2
        theta = np.empty_like(m)
        theta[:, 0, 0], theta[:, 0, 1] = m[:, 1, 1], m[:, 1, 0] * rows / columns
        theta[:, 1, 0], theta[:, 1, 1] = m[:, 0, 1] * columns / rows, m[:, 0, 0]
        theta[:, 0, 2] = (m[:, 1, 0] * rows + m[:, 1, 1] * columns + m[:, 1, 2] - columns) / columns
        theta[:, 1, 2] = (m[:, 0, 0] * rows + m[:, 0, 1] * columns + m[:, 0, 2] - rows) / rows
        theta = self.torch.from_numpy(theta.astype(np.float32))
        grid = self.functional.affine_grid(theta, self.x.shape, align_corners=True)
        return self.functional.grid_sample(self.x, grid, padding_mode="border", align_corners=True)

    def check(self, parameters):
        return self.transform(parameters).permute(0, 2, 3, 1).numpy()


def work(engine, threads):
    """The process of one engine: answers a JSON command on a line with a JSON line."""
    if hasattr(os, "sched_setaffinity"):  # JAX takes all processors it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    made = {"minicnn": Minicnn, "torch": Torch}.get(engine, Keras)
    worker = Keras(threads, jit=True) if engine == "keras-jit" else made(threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    print(json.dumps({"ready": engine}), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = obey(worker, command)
        except Exception as error:  # this engine cannot do it: the others go on
            answer = {"failed": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(answer), file=answers, flush=True)


def obey(worker, command):
    if command["do"] == "set":
        worker.set(command["name"], tuple(command["shape"]))
        return {"set": command["name"]}
    if command["do"] == "check":
        file = Path(command["parameters"])
        parameters = dict(np.load(file)) if file.exists() else {}
        y = np.asarray(worker.check(parameters))
        if not file.exists():
            np.savez(file, **{k: v for k, v in parameters.items() if k != "noise"})
        np.save(command["result"], y)
        return {"shape": y.shape}
    worker.step()  # not timed: caches are warm again after the other engines' turn
    times, end = [], time.perf_counter() + command["seconds"]
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        worker.step()
        times.append(1e3 * (time.perf_counter() - start))
    return {"ms": times}


class Process:
    """An engine's process."""

    def __init__(self, engine, threads):
        counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        command = [sys.executable, "-m", "benchmarks.augmentation", "--engine", engine]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **counts},
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
def processes(engines, threads):
    """Running engines by name, stopped at the end."""
    running = {}
    try:
        for engine in engines:
            running[engine] = Process(engine, threads)
        yield running
    finally:
        for process in running.values():
            process.stop()


def verify(running, shape, folder):
    """Results of the same parameters must agree; every engine but minicnn may lack a layer."""
    worst, compared, lacking = {}, dict.fromkeys(running, 0), []
    for name in cases(*shape[1:3]):
        if name in UNCOMPARED:
            continue
        parameters, expected = folder / f"{name}.npz", None
        for engine, process in running.items():
            result = folder / "result.npy"
            files = {"parameters": str(parameters), "result": str(result)}
            answer = process.ask(do="set", name=name, shape=shape)
            if "failed" not in answer:
                answer = process.ask(do="check", **files)
            if "failed" in answer:
                lacking.append(f"{engine}: {name}: {answer['failed']}")
                continue
            y = np.load(result)
            expected = y if expected is None else expected
            if y.shape != expected.shape:
                sys.exit(f"{name}: {engine} gives shape {y.shape}, minicnn {expected.shape}")
            error = float(np.abs(y - expected).max() / np.abs(expected).max())
            worst[engine] = max(worst.get(engine, (0.0, "")), (error, name))
            compared[engine] += 1
            if not error <= TOLERANCE:
                sys.exit(f"{name}: {engine} is {error:.1e} away from minicnn: nothing is timed")
        parameters.unlink(missing_ok=True)
    for engine in list(running)[1:]:
        error, name = worst.get(engine, (0.0, "nothing"))
        print(
            f"verify {shape}: {TITLES[engine]}: {compared[engine]} layers within {error:.1e}"
            f" ({name}) of minicnn"
        )
    for line in lacking:
        print(f"  {line}")


def measure(running, shape, rounds, seconds):
    """{case: {engine: milliseconds of all its steps}}."""
    times = {}
    for name in cases(*shape[1:3]):
        able = {
            engine: process
            for engine, process in running.items()
            if "failed" not in process.ask(do="set", name=name, shape=shape)
        }
        times[name] = {engine: [] for engine in able}
        for round_ in range(rounds + 1):
            for engine, process in list(able.items()):
                answer = process.ask(do="time", seconds=seconds)
                if "failed" in answer:
                    able.pop(engine), times[name].pop(engine)
                elif round_ > 0:  # the first round compiles
                    times[name][engine] += answer["ms"]
    return times


def show(title, times, engines):
    """A table of medians; returns what goes into the file."""
    rows, lines = [], []
    for name, by_engine in times.items():
        medians = {engine: statistics.median(values) for engine, values in by_engine.items()}
        own = summary(by_engine["minicnn"])
        ours = own["ms"]
        others = [
            f"{medians[e]:.2f}  {medians[e] / ours:5.1f} x" if e in medians else "-"
            for e in engines[1:]
        ]
        lines.append((name, f"{ours:.2f}", f"{own['low']:.2f} .. {own['high']:.2f}", *others))
        rows.append({"layer": name, "ms": medians})
    columns = ("layer", "minicnn ms", "10 .. 90 %", *(TITLES[e] for e in engines[1:]))
    report.table(title, columns, lines)
    return rows


def present(engines):
    """minicnn and those of the engines that are installed; says which are not."""
    found = ["minicnn"]
    for engine in engines:
        missing = [name for name in NEEDS[engine] if importlib.util.find_spec(name) is None]
        if missing:
            print(f"left out: {engine}: not installed: {', '.join(map(distribution, missing))}")
        elif engine not in found:
            found.append(engine)
    return found


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augmentation", description=__doc__)
    parser.add_argument("--verify", action="store_true", help="compare results, time nothing")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="per layer, engine and round")
    parser.add_argument("--output", type=Path, help="write the medians as JSON")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        work(options.engine, options.threads)
        return
    machine = report.machine()
    print(report.described(machine))
    engines, results = present(options.engines), {"machine": machine}
    with tempfile.TemporaryDirectory() as name, processes(engines, options.threads) as running:
        for title, shape in BATCHES.items():
            verify(running, shape, Path(name))
            if not options.verify:
                times = measure(running, shape, options.rounds, options.seconds)
                heading = f"{title}, {options.threads} threads: ms per batch, times minicnn's"
                results[title] = show(heading, times, engines)
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
