"""python -m benchmarks.folder: how long training waits for pictures from a folder of JPEGs.

The network of examples/face_attribute.py is trained on pictures of 218 x 178 from files, by
image_dataset_from_directory and by ImageDataGenerator.flow_from_directory, and on one batch in
memory for as many steps. Before anything is timed, the batches and the weights that they lead to
must be those of the same pictures in memory, to the bit. --verify stops there.

waited   seconds that the training loop stood still for a batch; the aim is 2 % of an epoch
limit    1.1 (CPU seconds of the steps + CPU seconds of decoding) / cores, for an epoch
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import minicnn
from benchmarks import report
from minicnn import layers
from minicnn.data import ahead
from minicnn.data.pictures import read_picture
from minicnn.datasets import cifar10
from minicnn.preprocessing.image import ImageDataGenerator
from minicnn.utils import image_dataset_from_directory

SIZE = (218, 178)
AIM = 0.02  # of an epoch
SLACK = 1.1
AUGMENTATION = dict(horizontal_flip=True, rotation_range=10, zoom_range=0.1)


def make_folder(folder, count):
    """So many JPEGs in two folders: the sample's cats and dogs enlarged, with the noise of a
    camera, without which they would be smaller and quicker to decode than photographs."""
    (x, y), _ = cifar10.load_sample()
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        rows = np.flatnonzero(y[:, 0] == cifar10.CLASS_NAMES.index(name))
        for number in range(count // 2):
            small = Image.fromarray(x[rows[number % len(rows)]])
            large = np.asarray(small.resize(SIZE[::-1], Image.Resampling.BICUBIC), np.float32)
            large = np.clip(large + random.normal(0, 6, large.shape), 0, 255).astype(np.uint8)
            Image.fromarray(large).save(folder / name / f"{number:05}.jpg", quality=85)


def network():
    """Blocks of 16, 32, 64 and 128 filters; maps end at 14 x 12."""
    minicnn.set_random_seed(0)
    model = minicnn.Sequential([layers.Input((*SIZE, 3)), layers.Rescaling(1 / 255)])
    for filters in (16, 32, 64, 128):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D(padding="same"))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(64, activation="relu"))
    model.add(layers.BatchNormalization())
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model


def dataset(folder, batch_size, shuffle=True):
    with contextlib.redirect_stdout(io.StringIO()):
        return image_dataset_from_directory(
            folder,
            label_mode="binary",
            image_size=SIZE,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=1,
        )


def flow(folder, batch_size, shuffle=True, **augmentation):
    generator = ImageDataGenerator(**augmentation)
    with contextlib.redirect_stdout(io.StringIO()):
        return generator.flow_from_directory(
            folder,
            target_size=SIZE,
            class_mode="binary",
            batch_size=batch_size,
            shuffle=shuffle,
            seed=1,
            interpolation="bilinear",
        )


def verify(folder, batch_size):
    """Every file once, with its class; the weights of an epoch are those of arrays in memory."""
    from_folder = dataset(folder, batch_size, shuffle=False)
    paths = from_folder.file_paths
    x = np.stack([read_picture(path) for path in paths]).astype(np.float32)
    y = np.array([[Path(path).parent.name == "dog"] for path in paths], np.float32)
    sources = {
        "image_dataset_from_directory": from_folder,
        "flow_from_directory": flow(folder, batch_size, shuffle=False),
    }
    expected = _weights_after(x, y, batch_size=batch_size, shuffle=False)
    for name, source in sources.items():
        once = [source[i] for i in range(len(source))] if hasattr(source, "n") else list(source)
        np.testing.assert_array_equal(np.concatenate([a for a, _ in once]), x, name)
        labels = np.concatenate([b.reshape(-1, 1) for _, b in once])
        np.testing.assert_array_equal(labels, y, name)
        for ours, wanted in zip(_weights_after(source, shuffle=False), expected, strict=True):
            np.testing.assert_array_equal(ours, wanted, name)
    seen = np.concatenate([b for _, b in dataset(folder, batch_size)])
    if len(seen) != len(y) or seen.sum() != y.sum() or (seen == y).all():
        raise AssertionError("the shuffled pass is not every file once in another order")


def _weights_after(*data, **arguments):
    model = network()
    model.fit(*data, verbose=0, **arguments)
    return model.get_weights()


class Waiting:
    """Seconds that a thread waits for what others make ahead."""

    def __enter__(self):
        self.seconds, self.next = 0.0, ahead.MadeAhead.__next__
        real = self.next

        def timed(made):
            start = time.perf_counter()
            try:
                return real(made)
            finally:
                self.seconds += time.perf_counter() - start

        ahead.MadeAhead.__next__ = timed
        return self

    def __exit__(self, *error):
        ahead.MadeAhead.__next__ = self.next


def decode_seconds(make):
    """CPU seconds of one pass over the data with nothing else going on."""
    source = make()
    start = time.process_time()
    batches = (source[i] for i in range(len(source))) if hasattr(source, "n") else source
    for _ in batches:
        pass
    return time.process_time() - start


def compute_seconds(model, batch, steps):
    """(wall, CPU) seconds of so many training steps on one batch in memory."""

    def again():
        while True:
            yield batch

    source = again()
    model.fit(source, steps_per_epoch=3, verbose=0)
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(source, steps_per_epoch=steps, verbose=0)
    return time.perf_counter() - wall, time.process_time() - cpu


def epoch_seconds(model, source, rounds):
    """Medians over epochs of (wall, waited) seconds; the first epoch does not count."""

    class Clock(minicnn.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.start, waiting.seconds = time.perf_counter(), 0.0

        def on_epoch_end(self, epoch, logs=None):
            found.append((time.perf_counter() - self.start, waiting.seconds))

    found = []
    with Waiting() as waiting:
        model.fit(source, epochs=rounds + 1, verbose=0, callbacks=[Clock()])
    return tuple(statistics.median(column) for column in zip(*found[1:], strict=True))


def measure(folder, batch_size, rounds):
    cores = minicnn.config.threads or len(os.sched_getaffinity(0))
    makers = {
        "image_dataset_from_directory": lambda: dataset(folder, batch_size),
        "flow_from_directory": lambda: flow(folder, batch_size),
        "flow_from_directory, augmented": lambda: flow(folder, batch_size, **AUGMENTATION),
    }
    decoding = {name: decode_seconds(make) for name, make in makers.items()}
    model = network()
    batch = dataset(folder, batch_size).peek()
    steps = len(dataset(folder, batch_size))
    rows, failed = [], False
    for name, make in makers.items():
        compute, compute_cpu = compute_seconds(model, batch, steps)
        wall, waited = epoch_seconds(model, make(), rounds)
        limit = SLACK * (compute_cpu + decoding[name]) / cores
        failed |= waited > AIM * wall or wall > limit
        rows.append(
            (
                name,
                f"{compute:.2f}",
                f"{compute_cpu:.2f}",
                f"{decoding[name]:.2f}",
                f"{wall:.2f}",
                f"{limit:.2f}",
                f"{waited:.3f}",
                f"{100 * waited / wall:.1f} %",
            )
        )
    columns = ("source", "steps alone", "their CPU", "decoding, CPU", "epoch", "limit")
    report.table(
        f"An epoch of {steps} batches of {batch_size}, seconds on {cores} cores",
        (*columns, "waited", "share"),
        rows,
        (f"aims: share below {100 * AIM:g} %, epoch below limit: {'MISSED' if failed else 'met'}",),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verify", action="store_true", help="compare, do not time")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="epochs that are timed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
        make_folder(Path(few), 3 * options.batch_size + 10)
        verify(few, options.batch_size)
        if options.verify:
            print("verified")
            return
        make_folder(Path(many), options.pictures)
        sizes = [file.stat().st_size for file in Path(many).rglob("*.jpg")]
        print(f"verified; {len(sizes)} files of {statistics.mean(sizes) / 1024:.1f} KB on average")
        measure(many, options.batch_size, options.rounds)


if __name__ == "__main__":
    sys.exit(main())
