"""Batches of (x, y, sample_weight) from arrays, generators and Sequence-like objects."""

import contextlib
import itertools

import numpy as np

from minicnn import randomness
from minicnn.data.ahead import LEAVE, TIMEOUT, MadeAhead
from minicnn.errors import warn


class PyDataset:
    """A data set of batches: define __len__ and __getitem__(index) -> (x, y) or (x, y, weight).

    `on_epoch_end` is called after every epoch. As keras.utils.PyDataset: with workers > 1 as many
    threads call __getitem__, at most max_queue_size batches ahead of training; the order stays.
    use_multiprocessing is accepted for scripts that pass it and means threads, too.
    """

    timeout = TIMEOUT  # seconds that `fit` waits for a batch of the threads; None: for ever

    def __init__(self, workers=1, use_multiprocessing=False, max_queue_size=10):
        self.workers = positive("workers", max(workers, 1))  # Keras takes 0 as one
        self.use_multiprocessing = use_multiprocessing
        self.max_queue_size = positive("max_queue_size", max_queue_size)

    def __len__(self):
        raise NotImplementedError(f"{type(self).__name__} defines no __len__ (number of batches)")

    def __getitem__(self, index):
        raise NotImplementedError(f"{type(self).__name__} defines no __getitem__(index)")

    def on_epoch_end(self):
        """Called after every epoch, e.g. to shuffle."""


Sequence = PyDataset
ENDLESS = 100_000  # batches of an epoch: with 32 samples each, more than ImageNet has twice


def as_arrays(value, what="x"):
    """numpy arrays, keeping a list, tuple or dict of several inputs or outputs as a structure."""
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: _as_array(one, what) for name, one in value.items()}
    if isinstance(value, tuple | list) and any(getattr(one, "ndim", 0) >= 1 for one in value):
        return [_as_array(one, what) for one in value]
    return _as_array(value, what)


def _as_array(value, what):
    if value is None:
        return None  # no targets for an output without a loss
    try:
        array = np.asarray(value)
    except ValueError:  # what NumPy says to rows of different lengths
        array = np.empty(0, object)
    if array.dtype == object:
        raise ValueError(
            f"{what} holds Python objects: rows of unequal length, None or text; make one array of "
            "equal rows of numbers (resize images, map class names to integers 0..k-1)"
        )
    return array


def flat(structure):
    """The arrays of a structure as a list."""
    if structure is None:
        return []
    if isinstance(structure, dict):
        return list(structure.values())
    return list(structure) if isinstance(structure, list | tuple) else [structure]


def pick(structure, index):
    """The structure with every array indexed."""
    if structure is None:
        return None
    if isinstance(structure, dict):
        return {name: pick(one, index) for name, one in structure.items()}
    if isinstance(structure, list):
        return [pick(one, index) for one in structure]
    return structure[index]


def sample_count(x, y=None, sample_weight=None):
    """Number of samples; ValueError if the arrays disagree or there are none."""
    counts = {}
    for what, structure in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        for array in flat(structure):
            if array is None:
                continue
            if array.ndim == 0:
                raise ValueError(f"{what} is a single number, not an array of samples")
            counts.setdefault(len(array), (what, array.shape))
    if len(counts) > 1:
        told = " and ".join(f"{what} has {shape[0]}" for what, shape in counts.values())
        shapes = " and ".join(str(shape) for _, shape in counts.values())
        fix = "every sample needs one row in each array, the first axis"
        if isinstance(x, list) and len(x) > 1:
            fix = f"{len(x)} arrays in a list are {len(x)} inputs, np.stack(x) makes one of them"
        raise ValueError(f"the arrays differ in their number of samples: {told} ({shapes}); {fix}")
    (count,) = counts
    if count == 0:
        raise ValueError("x holds no samples")
    return count


def positive(name, value):
    """A positive integer, or ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is a positive integer, not {value!r}")
    return int(value)


def one_of(name, value, allowed):
    """ValueError that names the argument, unless its value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(repr, allowed))}, not {value!r}")


class ArrayBatches:
    """Slices of arrays, in order or in a fresh random order each epoch."""

    def __init__(self, x, y=None, sample_weight=None, batch_size=32, shuffle=False, seed=None):
        self.x, self.y, self.sample_weight = x, y, sample_weight
        self.count = sample_count(x, y, sample_weight)
        self.batch_size = positive("batch_size", batch_size)
        self.generator = randomness.generator(seed) if shuffle else None

    def __len__(self):
        return -(-self.count // self.batch_size)

    def __iter__(self):
        if self.generator is None:
            indices = (
                slice(at, at + self.batch_size) for at in range(0, self.count, self.batch_size)
            )
        else:
            order = self.generator.permutation(self.count)
            indices = (
                order[at : at + self.batch_size] for at in range(0, self.count, self.batch_size)
            )
        for index in indices:
            yield pick(self.x, index), pick(self.y, index), pick(self.sample_weight, index)

    def on_epoch_end(self):
        """Nothing to do: the next `iter` draws the next order."""


class IndexedBatches:
    """Batches of an object with __len__ and __getitem__; their order is shuffled by `fit`."""

    def __init__(self, source, shuffle=False, seed=None):
        self.source = source
        self.generator = randomness.generator(seed) if shuffle else None
        self.ahead = None  # what threads are making

    def __len__(self):
        return len(self.source)

    def first(self):
        """The first batch, to build a model by."""
        return unpack(self.source[0])

    def __iter__(self):
        order = range(len(self.source))
        if self.generator is not None:
            order = self.generator.permutation(len(self.source)).tolist()
        if getattr(self.source, "workers", 1) < 2:
            return (unpack(self.source[index]) for index in order)
        source = self.source
        self.ahead = MadeAhead(
            lambda index: unpack(source[index]),
            order,
            source.workers,
            source.max_queue_size,
            getattr(source, "timeout", TIMEOUT),
        )
        return self.ahead

    def on_epoch_end(self):
        if self.ahead is not None:
            self.ahead.pause()
        if hasattr(self.source, "on_epoch_end"):
            self.source.on_epoch_end()

    def close(self):
        """No batch is needed any more: end the threads."""
        if self.ahead is not None:
            self.ahead.pause(LEAVE)


class IteratedBatches:
    """Batches of a generator or another iterable."""

    def __init__(self, source):
        if getattr(source, "batched", True) is False:
            raise ValueError(
                f"this {type(source).__name__} yields single samples: make batches of them, "
                "data.batch(32)"
            )
        self.source = source
        self.once = iter(source) is source  # a generator: it cannot start again
        self.endless = getattr(source, "endless", False)

    def __len__(self):
        if hasattr(self.source, "__len__"):
            return len(self.source)
        raise TypeError("a generator has no length")

    def first(self):
        """The first batch, to build a model by; a generator yields it again."""
        if hasattr(self.source, "peek"):
            return unpack(self.source.peek())
        batch = next(iter(self.source), None)
        if batch is None:
            raise ValueError("the data source yielded no batch")
        if self.once:
            self.source = itertools.chain([batch], self.source)
        return unpack(batch)

    def __iter__(self):
        for batch in self.source:
            yield unpack(batch)

    def on_epoch_end(self):
        if hasattr(self.source, "on_epoch_end"):
            self.source.on_epoch_end()


class BatchError(ValueError):
    """What a data source yields is no batch."""


def unpack(batch):
    """(x, y, sample_weight) of what a generator yields: x, (x,), (x, y) or (x, y, weight)."""
    if not isinstance(batch, tuple):
        if isinstance(batch, list) and len(batch) in (2, 3):
            batch = tuple(batch)  # as old generators yield
        else:
            batch = (batch,)
    if not 1 <= len(batch) <= 3:
        raise BatchError(
            f"a generator yields x, (x, y) or (x, y, sample_weight), not a tuple of {len(batch)}"
        )
    if batch[0] is None:
        raise BatchError("x is None; a generator yields x, (x, y) or (x, y, sample_weight)")
    names = ("x", "y", "sample_weight")
    try:
        return tuple(map(as_arrays, (*batch, None, None)[:3], names))
    except ValueError as error:
        raise BatchError(str(error)) from error


class Epochs:
    """Batches epoch by epoch; `steps` batches each where that number is given."""

    def __init__(self, batches, steps=None, what="steps_per_epoch"):
        self.batches, self.what = batches, what
        self.steps = None if steps is None else positive(what, steps)
        if self.steps is None and getattr(batches, "endless", False):
            raise ValueError(f"the data repeats for ever: give {what}, or data.repeat(count)")
        self.at = 0  # number of the batch that is asked for, or worked on
        self.running = None  # the iterator that an epoch of `steps` batches left unfinished
        self.started = self.exhausted = False

    @property
    def length(self):
        """Batches per epoch, None if only the end will tell."""
        if self.steps is not None:
            return self.steps
        try:
            return len(self.batches)
        except TypeError:
            return None

    def epoch(self):
        """The batches of the next epoch."""
        done = 0
        self.at = 0
        with self.numbered():
            for batch in self.batches if self.steps is None else self._some(self.steps):
                yield batch
                done += 1
                self.at = done
                if done == ENDLESS and self.length is None:
                    warn(
                        f"the generator has yielded {done:,} batches in one epoch and not ended; "
                        f"if it loops for ever give {self.what}"
                    )
        if not done:
            self._ended_without_batch()
        self.started = True
        self.batches.on_epoch_end()

    def _ended_without_batch(self):
        if not self.started:
            raise ValueError("the data source yielded no batch")
        if not self.exhausted:
            self.exhausted = True
            warn(
                "the generator has ended: it runs only once, so nothing is left for another epoch; "
                f"give {self.what} and let it loop for ever",
            )

    @contextlib.contextmanager
    def numbered(self):
        """Say of an error at which batch of the epoch it came."""
        try:
            yield
        except GeneratorExit:
            raise
        except Exception as error:
            if type(error) not in (BatchError, TypeError, ValueError):  # the user's, or of a file
                error.add_note(f"at batch {self.at} of the data (the first is 0)")
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"batch {self.at} (the first is 0): {error}") from error

    def close(self):
        """No further batch is needed: end the threads that make them."""
        self.running = None
        if hasattr(self.batches, "close"):
            self.batches.close()

    def restart(self):
        """Let the next epoch begin at the first batch, where that is possible."""
        if not getattr(self.batches, "once", False):
            self.running = None

    def _some(self, steps):
        """`steps` batches that continue where the last epoch stopped; start again at the end."""
        done = 0
        while done < steps:
            fresh, before = self.running is None, done
            if fresh:
                self.running = iter(self.batches)
            for batch in itertools.islice(self.running, steps - done):
                done += 1
                yield batch
            if done == steps:
                return
            self.running = None
            if getattr(self.batches, "once", False) or (fresh and done == before):
                if not done:
                    return
                warn(
                    f"the generator ended after {done} of {steps} batches ({self.what}); training "
                    "stops here: let it loop for ever, or lower the number",
                )
                self.exhausted = True
                return
            if done > before:
                self.batches.on_epoch_end()  # of a pass over the data, within an epoch


def make_batches(x, y=None, sample_weight=None, batch_size=None, shuffle=False, seed=None):
    """The right kind of batches for what the user gave."""
    if is_data(x):
        return ArrayBatches(
            as_arrays(x),
            as_arrays(y, "y"),
            as_arrays(sample_weight, "sample_weight"),
            32 if batch_size is None else batch_size,
            shuffle,
            seed,
        )
    if y is not None or sample_weight is not None:
        raise ValueError(
            f"x is a {type(x).__name__} of batches; it must yield y and sample_weight itself: "
            "leave these arguments out"
        )
    if batch_size is not None:
        positive("batch_size", batch_size)
    if hasattr(x, "__getitem__") and hasattr(x, "__len__"):
        return IndexedBatches(x, shuffle and isinstance(x, PyDataset), seed)
    if hasattr(x, "__iter__") or hasattr(x, "__next__"):
        return IteratedBatches(x)
    raise TypeError(f"x is an array, a list, a generator or a Sequence, not {type(x).__name__}")


def is_data(x):
    """Whether x is an array or a structure of arrays, not a source of batches."""
    if isinstance(x, dict | list | tuple | np.ndarray):
        return True
    return hasattr(x, "__array__") and not hasattr(x, "on_epoch_end")
