"""python -m benchmarks.folder: training from a folder of JPEGs, and how long it waits for them.

A folder of pictures of 218 x 178 in two classes is made (or given: --folder), and an epoch of the
face-attribute network is timed beside its parts: the same steps on batches in memory (compute), and
a pass over the data without training (decode). Before that the pictures must arrive as Pillow
decodes them, in their order, and train to the same weights to the bit as arrays do; --verify stops
there. Files are in the page cache: what is measured is decoding, not a disk.
"""

import argparse
import contextlib
import hashlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZE = (218, 178)  # height and width of CelebA's aligned pictures
CLASSES = ("no", "yes")
GRAIN = 6.0  # standard deviation of noise on enlarged pictures: files become some 8 kB
KEPT = 8  # batches in memory for the compute figure: far more than the caches hold
LARGEST_WAIT = 0.02  # of an epoch, what is asked for
SLACK = 1.1  # epoch / ((compute + decode) / cores), what is asked for


def make_folder(folder, count, seed=0):
    """`count` JPEGs in two class folders: pictures of the CIFAR-10 sample, enlarged, with grain."""
    from PIL import Image

    from minicnn.datasets import cifar10

    (x, _), _ = cifar10.load_sample()
    generator = np.random.default_rng(seed)
    height, width = SIZE
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for number in range(count):
        small = Image.fromarray(x[number % len(x)])
        pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        pixels = pixels + generator.normal(0, GRAIN, pixels.shape).astype(np.float32)
        picture = Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
        picture.save(folder / CLASSES[number % 2] / f"{number:06}.jpg", quality=85)


def network():
    """Convolutions of 16, 32, 64, 128 filters, each with pooling: 218 x 178 ends as 14 x 12."""
    import minicnn
    from minicnn import layers

    minicnn.set_random_seed(0)
    model = minicnn.Sequential([minicnn.Input((*SIZE, 3)), layers.Rescaling(1 / 255)])
    for filters in (16, 32, 64, 128):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D(2, padding="same"))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(64, activation="relu"))
    model.add(layers.BatchNormalization())
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile("adam", "binary_crossentropy")
    return model


def pictures(folder, batch_size, shuffle):
    """The data set as a user writes it."""
    from minicnn.utils import image_dataset_from_directory

    return image_dataset_from_directory(
        folder,
        label_mode="binary",
        image_size=SIZE,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=1,
        verbose=False,
    )


# -- verification ----------------------------------------------------------------------------------


def fail(message):
    sys.exit(f"verify: {message}: nothing is timed")


def decoded(path):
    """A file's pixels without minicnn."""
    from PIL import Image

    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    if whole.size != SIZE[::-1]:
        whole = whole.resize(SIZE[::-1], Image.Resampling.BILINEAR)
    return np.asarray(whole)


def digest(picture):
    return hashlib.sha256(np.ascontiguousarray(picture, np.float32)).digest()


def arrivals(data):
    """[(digest of the pixels, label)] of a pass."""
    return [(digest(one), float(y[0])) for x, ys in data for one, y in zip(x, ys, strict=True)]


def verify(folder, batch_size, trained=96):
    """The right pixels with the right labels in the right order, and the same training."""
    names = sorted(entry.name for entry in Path(folder).iterdir() if entry.is_dir())
    plain = pictures(folder, batch_size, shuffle=False)
    paths = list(plain.file_paths)
    files = [(digest(decoded(p)), float(names.index(Path(p).parent.name))) for p in paths]
    if arrivals(plain) != files:
        fail("pictures or labels are not those of the files, in the order of file_paths")
    mixed = pictures(folder, batch_size, shuffle=True)
    first, second = arrivals(mixed), arrivals(mixed)
    if sorted(first) != sorted(files) or sorted(second) != sorted(files):
        fail("a shuffled pass does not hold every picture once, with its label")
    if first in (files, second):
        fail("passes are not shuffled, or all in one order")
    if arrivals(pictures(folder, batch_size, shuffle=True)) != first:
        fail("the same seed gives another order")
    steps = min(len(plain), -(-trained // batch_size))
    batches = [(x.copy(), y.copy()) for x, y in itertools.islice(plain, steps)]
    x, y = (np.concatenate(one) for one in zip(*batches, strict=True))
    weights = []
    for source, arguments in (
        (plain.take(steps), {}),
        (x, {"y": y, "batch_size": batch_size, "shuffle": False}),
    ):
        model = network()
        model.fit(source, epochs=2, verbose=0, **arguments)
        weights.append(model.get_weights())
    if not all(np.array_equal(a, b) for a, b in zip(*weights, strict=True)):
        fail("training from files does not give the weights of training from arrays")
    print(
        f"verify: {len(paths)} pictures as Pillow decodes them, with their labels, in order and in "
        f"3 shuffled passes; {2 * steps} training steps equal to the bit those from arrays"
    )


# -- measurement -----------------------------------------------------------------------------------


class Kept:
    """Batches in memory, over and over, as many as an epoch has."""

    def __init__(self, batches, length):
        self.batches, self.length = batches, length

    def __len__(self):
        return self.length

    def __iter__(self):
        return itertools.islice(itertools.cycle(self.batches), self.length)


class Timed:
    """Batches of another data set; the seconds that whoever asks for them has waited."""

    def __init__(self, data):
        self.data, self.waits = data, []

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        self.waits = []
        batches = iter(self.data)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waits.append(time.perf_counter() - start)
            if batch is None:
                return
            yield batch


def timed(function):
    """(seconds, processor seconds of all threads)."""
    start, used = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - used


def consume(data):
    for _ in data:
        pass


def measure(folder, batch_size, rounds):
    """Seconds of each part, in turns; medians."""
    model, data = network(), pictures(folder, batch_size, shuffle=True)
    kept = [(x.copy(), y.copy()) for x, y in itertools.islice(data, min(KEPT, len(data)))]
    model.fit(Kept(kept, 3), verbose=0)  # compiles what a step needs
    watched = Timed(data)
    found = {"compute": [], "decode": [], "epoch": [], "wait": [], "first": [], "longest": []}
    for _ in range(rounds):
        found["compute"].append(timed(lambda: model.fit(Kept(kept, len(data)), verbose=0)))
        found["decode"].append(timed(lambda: consume(data)))
        found["epoch"].append(timed(lambda: model.fit(watched, verbose=0)))
        found["wait"].append(sum(watched.waits))
        found["first"].append(watched.waits[0])
        found["longest"].append(max(watched.waits[1:]))
    return {name: np.median(values, axis=0).tolist() for name, values in found.items()}


def report(found, data, cores):
    count, steps = len(data.file_paths), len(data)
    size = statistics.mean(os.path.getsize(path) for path in data.file_paths)
    compute, decode, epoch = found["compute"], found["decode"], found["epoch"]
    bound = SLACK * (compute[1] + decode[1]) / cores
    share = found["wait"] / epoch[0]
    print(f"{count} JPEGs of {size / 1e3:.1f} kB in {steps} batches, {cores} processors")
    print(f"compute   {compute[0]:8.2f} s, {compute[1]:8.2f} processor seconds (batches in memory)")
    print(
        f"decode    {decode[0]:8.2f} s, {decode[1]:8.2f} processor seconds (no training), "
        f"{1e3 * decode[1] / count:.2f} ms a picture"
    )
    print(f"epoch     {epoch[0]:8.2f} s, {epoch[1]:8.2f} processor seconds (from the folder)")
    print(
        f"waiting   {found['wait']:8.3f} s for data, {100 * share:.2f} % of the epoch (asked: "
        f"below {100 * LARGEST_WAIT:g} %); {found['first']:.3f} s of it for the first batch, "
        f"{found['longest']:.3f} s the longest after that"
    )
    print(
        f"bound     {bound:8.2f} s = {SLACK} (compute + decode) / {cores}; the epoch takes "
        f"{epoch[0] / bound:.3f} of it (asked: at most 1)"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="of pictures, instead of one that is made")
    parser.add_argument("--pictures", type=int, default=3200, help="to make (3200)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of the kernels")
    parser.add_argument("--verify", action="store_true", help="check the pictures, time nothing")
    options = parser.parse_args()
    if options.pictures < 4 or options.rounds < 1 or options.batch_size < 1:
        parser.error("there are at least 4 pictures, 1 round, and 1 picture a batch")

    from minicnn import config

    config.threads = options.threads
    with contextlib.ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "pictures"
            make_folder(folder, options.pictures)
        verify(folder, options.batch_size)
        if options.verify:
            return
        found = measure(folder, options.batch_size, options.rounds)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        report(found, pictures(folder, options.batch_size, shuffle=True), cores)


if __name__ == "__main__":
    main()
