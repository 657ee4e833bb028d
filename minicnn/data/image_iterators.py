"""Batches of pictures, changed by an ImageDataGenerator: what all have in common, and of arrays.

A batch is a function of (seed, pass over the data, index), so threads may make them in any order:
the random numbers of batch `index` in a pass that began after `start` batches come from the seed
`seed + start + index`, and the order of the pass is the first draw from `seed + start`. These are
the batches that Keras's iterators yield one after the other.
"""

import threading
from pathlib import Path

import numpy as np

from minicnn import randomness
from minicnn.data.ahead import AHEAD, WORKERS
from minicnn.data.batches import PyDataset, one_of, positive
from minicnn.data.pictures import array_to_img, check_data_format
from minicnn.errors import warn

LARGEST_SEED = 2**32  # of NumPy's Mersenne twister


class Iterator(PyDataset):
    """Batches of n samples: by index (as `fit` takes them), or one after the other for ever.

    shuffle: each pass over the data has an order of its own. Subclasses define
    `make_batch(index_array, random)`, where random is the numpy.random.RandomState of the batch.
    """

    def __init__(self, n, batch_size, shuffle, seed, **kwargs):
        super().__init__(**{"workers": WORKERS, "max_queue_size": AHEAD, **kwargs})
        if seed is not None:
            if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
                raise ValueError(f"seed is None or an integer >= 0, not {seed!r}")
            seed = int(seed)
        self.n = n
        self.batch_size = positive("batch_size", batch_size)
        self.shuffle, self.seed = bool(shuffle), seed
        self.lock = threading.Lock()
        self.batch_index = 0  # of the next batch that `next` yields
        self.index_array = None  # the order of the latest pass
        self._first_seed = randomness.next_seed() if seed is None else seed
        self._start = 0  # batches before this pass
        self._ordered = None  # the pass that index_array belongs to

    def __len__(self):
        return -(-self.n // self.batch_size)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise ValueError(f"there are batches 0 to {len(self) - 1}, not {index}")
        with self.lock:
            start, order = self._start, self._order()
        return self._batch(start, order, index)

    def __iter__(self):
        return self

    def __next__(self):
        with self.lock:
            start, order, index = self._start, self._order(), self.batch_index
            self.batch_index += 1
            if self.batch_index == len(self):
                self._begin(len(self))
        return self._batch(start, order, index)

    next = __next__  # as scripts for Python 2 call it

    def reset(self):
        """Let `next` begin a new pass over the data."""
        with self.lock:
            self._begin(self.batch_index)

    def on_epoch_end(self):
        """Go on to the next pass: another order, other transforms."""
        with self.lock:
            self._start += len(self)

    @property
    def total_batches_seen(self):
        """Batches that passes over the data have had up to now."""
        return self._start + self.batch_index

    def make_batch(self, index_array, random):
        """The batch of the samples with these numbers."""
        raise NotImplementedError(
            f"{type(self).__name__} defines no make_batch(index_array, random)"
        )

    def _begin(self, done):
        self._start += done
        self.batch_index = 0

    def _random(self, count):
        return np.random.RandomState((self._first_seed + count) % LARGEST_SEED)

    def _order(self):
        """The order of this pass; called with the lock held."""
        if self._ordered != self._start:
            random = self._random(self._start)
            self.index_array = random.permutation(self.n) if self.shuffle else np.arange(self.n)
            self._ordered = self._start
        return self.index_array

    def _batch(self, start, order, index):
        random = self._random(start + index)
        if index == 0 and self.shuffle:
            random.permutation(self.n)  # the numbers after those that made the order
        first = index * self.batch_size
        return self.make_batch(order[first : first + self.batch_size], random)


class PictureIterator(Iterator):
    """Batches that an ImageDataGenerator changes: what those of arrays and of files share.

    Their constructors have Keras's arguments; what these mean for both is looked at here. They
    call `begin` as soon as they know how many samples there are.
    """

    def __init__(self, image_data_generator, data_format, subset, dtype, saving, names):
        check_data_format(data_format)
        if image_data_generator is None:
            from minicnn.data.image_generator import ImageDataGenerator  # which imports this file

            image_data_generator = ImageDataGenerator()  # changes nothing
        self.image_data_generator = image_data_generator
        self.data_format = data_format or "channels_last"
        self.subset, self.split = subset, part_of(subset, image_data_generator)
        self.dtype = dtype or image_data_generator.dtype
        self.saver = picture_saver(*saving, names)

    def begin(self, samples, batch_size, shuffle, seed):
        """What is left of the construction."""
        self.samples = samples
        super().__init__(samples, batch_size, shuffle, seed)

    def changed(self, pictures, index_array, random):
        """A new batch of the pictures, changed by the generator, and saved where that is wanted."""
        x = self.image_data_generator.prepare(pictures, random).astype(self.dtype, copy=False)
        if self.saver:
            self.saver(x, index_array, random)
        return x


class NumpyArrayIterator(PictureIterator):
    """Batches of pictures x (n, h, w, c) in memory, with y and weights where they are given."""

    def __init__(
        self,
        x,
        y,
        image_data_generator,
        batch_size=32,
        shuffle=False,
        sample_weight=None,
        seed=None,
        data_format=None,
        save_to_dir=None,
        save_prefix="",
        save_format="png",
        subset=None,
        ignore_class_split=False,
        dtype=None,
    ):
        others = []
        if isinstance(x, list | tuple):
            if len(x) != 2:
                raise ValueError(
                    f"flow takes an array of pictures or a pair [pictures, other inputs], not a "
                    f"{type(x).__name__} of {len(x)}; np.stack(x) makes an array of pictures"
                )
            x, others = x
            others = [np.asarray(one) for one in (others if isinstance(others, list) else [others])]
        x = np.asarray(x)
        if x.ndim != 4 or x.dtype.kind not in "fiub":
            raise ValueError(
                f"flow takes pictures (n, height, width, channels), not {x.dtype} of shape "
                f"{x.shape}; one picture x is x[None], grey ones x[..., None]"
            )
        warn_about_channels(x.shape, "flow")
        y = None if y is None else np.asarray(y)
        weight = None if sample_weight is None else np.asarray(sample_weight)
        arrays = {"y": y, "sample_weight": weight}
        arrays |= {f"x[1][{number}]": one for number, one in enumerate(others)}
        for name, array in arrays.items():
            if array is not None and (array.ndim == 0 or len(array) != len(x)):
                raise ValueError(
                    f"flow takes a row of {name} for every picture: x has shape {x.shape}, "
                    f"{name} {array.shape}"
                )
        saving = save_to_dir, save_prefix, save_format
        super().__init__(image_data_generator, data_format, subset, dtype, saving, 10_000)
        fraction = self.image_data_generator._validation_split
        if self.split is not None:
            at = int(len(x) * fraction)
            if y is not None and not ignore_class_split:
                _check_classes_of_parts(y, at)
            rows = slice(0, at) if subset == "validation" else slice(at, None)
            x, others = x[rows], [one[rows] for one in others]
            y, weight = (None if one is None else one[rows] for one in (y, weight))
        if not len(x):
            raise ValueError(
                f"no picture is left for subset={subset!r} with validation_split={fraction}"
                if subset
                else "x holds no pictures"
            )
        self.x, self.x_misc, self.y, self.sample_weight = x, others, y, weight
        self.image_shape = x.shape[1:]
        self.begin(len(x), batch_size, shuffle, seed)

    def make_batch(self, index_array, random):
        """x, (x, y) or (x, y, sample_weight); x is a list if there are other inputs."""
        x = self.changed(self.x[index_array], index_array, random)
        if self.x_misc:
            x = [x, *(one[index_array] for one in self.x_misc)]
        batch = (x, self.y, self.sample_weight)
        rest = [None if one is None else one[index_array] for one in batch[1:]]
        if rest[0] is None:
            return (x,) if self.x_misc else x  # a bare list would pass for (x, y)
        return (x, *(one for one in rest if one is not None))


def warn_about_channels(shape, what):
    """Pictures have 1, 3 or 4 channels; anything else is probably another layout."""
    if shape[-1] not in (1, 3, 4):
        warn(
            f"{what} got pictures of shape {shape[1:]}, so of {shape[-1]} channels, where 1, 3 or "
            "4 are usual: channels come last"
        )


def part_of(subset, generator):
    """(start, stop) as fractions of each class, None for all; validation is first, as in Keras."""
    fraction = generator._validation_split
    one_of("subset", subset, ("training", "validation", None))
    if subset is None:
        if fraction:
            warn(
                f"validation_split={fraction} has no effect without subset='training' or "
                "subset='validation': all pictures are used"
            )
        return None
    if not fraction:
        message = f"subset={subset!r} needs ImageDataGenerator(validation_split=...), e.g. 0.2"
        if subset == "validation":
            raise ValueError(message)
        warn(f"{message}; without it all pictures are used")
    return (0, fraction) if subset == "validation" else (fraction, 1)


def _check_classes_of_parts(y, at):
    """Sorted data is a classic trap: one part has classes that the other has not."""
    one_hot = y.ndim == 2 and y.shape[1] > 1
    classes = y.argmax(axis=1) if one_hot else y
    first, second = np.unique(classes[:at]), np.unique(classes[at:])
    if np.array_equal(first, second):
        return
    only = np.setxor1d(first, second)
    message = (
        f"{len(only)} classes are in one part only of validation_split (the first rows validate), "
        f"such as {only[:5].tolist()}: shuffle x and y before"
    )
    if one_hot:
        warn(message)
    else:
        raise ValueError(f"{message}, or give ignore_class_split=True for y that has no classes")


def picture_saver(folder, prefix, suffix, names):
    """A function that writes the pictures of a batch into a folder; None without a folder."""
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise ValueError(f"save_to_dir={str(folder)!r} is no folder: create it before")
    from PIL import Image

    if f".{suffix}".lower() not in Image.registered_extensions():
        raise ValueError(f"save_format is 'png', 'jpeg' or another of Pillow's, not {suffix!r}")

    def save(batch, index_array, random):
        for picture, number in zip(batch, index_array, strict=True):
            name = f"{prefix}_{number}_{random.randint(names)}.{suffix}"
            array_to_img(picture, scale=True).save(Path(folder, name))

    return save
