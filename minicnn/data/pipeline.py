"""Data sets that iterate again and again, under the names of tf.data: map, batch, shuffle, cache.

Design: a Dataset is a function from the number of the pass to an iterator of *jobs*, functions
without arguments that make one element each. Taking, repeating and shuffling move jobs about and
cost next to nothing; `map` and `batch` wrap them; only at the end are they run, by worker threads
before their turn (ahead.py). So what an element is depends on the pass and its place in it, never
on the number of threads, and a shuffle buffer holds no pictures.
"""

import copy
import functools
import itertools
import math
import threading
from dataclasses import dataclass

import numpy as np

from minicnn import ops, randomness
from minicnn.data.ahead import AHEAD, LEAVE, TIMEOUT, WORKERS, MadeAhead
from minicnn.data.batches import positive
from minicnn.errors import warn

AUTOTUNE = -1
CACHE_LIMIT = 2 << 30  # bytes that `cache` keeps; 14,000 pictures of 224 x 224
LEFT_OUT = object()  # what a job returns in place of an element that there is not


@dataclass(frozen=True)
class ArraySpec:
    """Shape (None: the number of samples in a batch) and dtype of an array."""

    shape: tuple
    dtype: np.dtype


class Notes:
    """Messages of worker threads, told as warnings by the thread that iterates."""

    def __init__(self):
        self.messages, self.at_end = [], []

    def tell(self, end):
        """Warn; at the end of a pass with what is counted over it."""
        while self.messages:
            warn(self.messages.pop(0))
        for summary in self.at_end if end else ():
            message = summary()
            if message:
                warn(message)


class Dataset:
    """Elements (samples or batches) that are made anew, ahead of time, in every pass over them.

    class_names: of a folder of pictures. file_paths: of its files, None once some are left out.
    timeout: seconds that a pass waits for an element; None: for ever.
    """

    timeout = TIMEOUT

    def __init__(self, jobs, length=None, batched=None):
        self._jobs = jobs  # number of the pass -> iterator of jobs
        self._length = length  # None: only a pass will tell; math.inf
        self.batched = batched  # None: unknown
        self.class_names = self.file_paths = None
        self._ahead = AHEAD
        self._notes = Notes()
        self._passes = 0
        self._spec = None
        self._reshuffled = False
        self._singles = None  # the samples that this data set has batches of

    def _then(self, jobs, length=None, **changes):
        """The data set of other jobs, with the rest from this one."""
        new = copy.copy(self)
        new._jobs, new._length, new._passes, new._spec = jobs, length, 0, None
        new._singles = None
        for name, value in changes.items():
            setattr(new, name, value)
        return new

    # -- sources ----------------------------------------------------------------------------------

    @staticmethod
    def from_tensor_slices(tensors, name=None):
        """An element for each row of an array, or of a tuple or dict of arrays."""
        arrays = _each(np.asarray, tensors)
        found = list(_leaves(arrays))
        if not found or any(array.ndim == 0 for array in found):
            raise ValueError("from_tensor_slices takes arrays with a first axis of samples")
        counts = {len(array) for array in found}
        if len(counts) > 1:
            shapes = ", ".join(str(array.shape) for array in found)
            raise ValueError(f"from_tensor_slices takes arrays of equal length, not {shapes}")

        def row(index):
            return _each(lambda array: array[index], arrays)

        (count,) = counts
        return Dataset(
            lambda number: (functools.partial(row, i) for i in range(count)), count, False
        )

    @staticmethod
    def from_generator(generator, args=None, output_signature=None, name=None):
        """The elements that `generator(*args)` yields; it is called anew for every pass."""
        if not callable(generator):
            raise TypeError(
                f"from_generator takes a function that returns an iterator, not {generator!r}: "
                "give the function itself, without calling it"
            )

        def jobs(number):
            return (functools.partial(_self, one) for one in generator(*(args or ())))

        return Dataset(jobs)

    @staticmethod
    def range(*args, name=None):
        """The numbers of range(...), as int64."""
        return Dataset.from_tensor_slices(np.arange(*args, dtype=np.int64))

    @staticmethod
    def zip(*datasets, name=None):
        """Tuples of the elements at one place, up to the end of the shortest: zip(a, b), zip((a, b))."""
        if len(datasets) == 1 and isinstance(datasets[0], tuple | list):
            datasets = tuple(datasets[0])
        for one in datasets:
            if not isinstance(one, Dataset):
                raise TypeError(f"zip takes Datasets, not {type(one).__name__}")

        def jobs(number):
            together = zip(*(one._jobs(number) for one in datasets), strict=False)
            return (functools.partial(_run_all, some) for some in together)

        lengths = [one._length for one in datasets]
        length = None if None in lengths else min(lengths)
        new = datasets[0]._then(jobs, length, _notes=Notes())
        for one in datasets:
            new._notes.at_end += one._notes.at_end
        new._reshuffled = any(one._reshuffled for one in datasets)
        return new

    # -- iteration --------------------------------------------------------------------------------

    def __iter__(self):
        number = self._passes
        self._passes += 1
        made = MadeAhead(_run, self._jobs(number), WORKERS, self._ahead, self.timeout)
        try:
            for element in made:
                self._notes.tell(end=False)
                if element is not LEFT_OUT:
                    yield element
        finally:
            made.pause(LEAVE)
            self._notes.tell(end=True)

    def as_numpy_iterator(self):
        """The elements; they are NumPy arrays anyway."""
        return iter(self)

    def peek(self):
        """The first element of the next pass, without beginning it."""
        for job in self._jobs(self._passes):
            element = job()
            if element is not LEFT_OUT:
                return element
        raise ValueError("the data set is empty")

    def __len__(self):
        if self._length is None:
            raise TypeError("how many elements there are is only known after a pass over them")
        if self._length == math.inf:
            raise TypeError("the data set repeats for ever, it has no length")
        return self._length

    def __bool__(self):
        return True

    def cardinality(self):
        """Number of elements; -1 if they repeat for ever, -2 if it is not known. As in tf.data."""
        return {None: -2, math.inf: -1}.get(self._length, self._length)

    @property
    def endless(self):
        """Whether it repeats for ever."""
        return self._length == math.inf

    @property
    def element_spec(self):
        """Shapes and dtypes of an element, by the first one."""
        if self._spec is None:

            def spec(one):
                array = np.asarray(one)
                shape = (None, *array.shape[1:]) if self.batched else array.shape
                return ArraySpec(shape, array.dtype)

            self._spec = _each(spec, self.peek())
        return self._spec

    def __repr__(self):
        length = {None: "unknown", math.inf: "endless"}.get(self._length, self._length)
        return f"<Dataset of {'batches' if self.batched else 'elements'}, length {length}>"

    # -- transformations --------------------------------------------------------------------------

    def map(self, map_func, num_parallel_calls=None, deterministic=None, name=None):
        """map_func(element), or map_func(x, y) where elements are tuples; in the order of elements.

        It is called by worker threads, by one at a time unless num_parallel_calls is 2 or more or
        AUTOTUNE; it must not change its arguments' number of samples in place.
        """
        if not callable(map_func):
            raise TypeError(f"map takes a function, not {map_func!r}")
        lock = threading.Lock() if num_parallel_calls in (None, 0, 1) else None

        def mapped(job):
            element = job()
            if element is LEFT_OUT:
                return element
            arguments = element if isinstance(element, tuple) else (element,)
            if lock is None:
                result = map_func(*arguments)
            else:
                with lock:
                    result = map_func(*arguments)
            if result is None:
                raise ValueError(f"the function given to map, {_called(map_func)}, returned None")
            return tuple(result) if isinstance(result, list) else result

        return self._then(
            lambda number: (functools.partial(mapped, job) for job in self._jobs(number)),
            self._length,
        )

    def filter(self, predicate, name=None):
        """The elements for which predicate(element), or predicate(x, y), is true."""

        def tested(job):
            element = job()
            if element is LEFT_OUT:
                return element
            arguments = element if isinstance(element, tuple) else (element,)
            return element if predicate(*arguments) else LEFT_OUT

        def jobs(number):
            tests = (functools.partial(tested, job) for job in self._jobs(number))
            for element in self._made(tests):
                if element is not LEFT_OUT:
                    yield functools.partial(_self, element)

        return self._then(jobs, file_paths=None)

    def batch(
        self,
        batch_size,
        drop_remainder=False,
        num_parallel_calls=None,
        deterministic=None,
        name=None,
    ):
        """Batches of so many elements; the last is smaller unless drop_remainder."""
        size = positive("batch_size", batch_size)

        def jobs(number):
            singles = self._jobs(number)
            while some := list(itertools.islice(singles, size)):
                if len(some) == size or not drop_remainder:
                    yield functools.partial(_make_batch, some)

        length = self._length
        if length not in (None, math.inf):
            length = length // size if drop_remainder else -(-length // size)
        kept = self if not drop_remainder else None
        return self._then(jobs, length, batched=True, _singles=kept, _ahead=AHEAD)

    def unbatch(self, name=None):
        """The samples of the batches, one by one."""
        if self._singles is not None:
            return self._then(self._singles._jobs, self._singles._length, batched=False)

        def jobs(number):
            for element in self._made(self._jobs(number)):
                if element is not LEFT_OUT:
                    for i in range(len(next(_leaves(element)))):
                        yield functools.partial(_each, lambda array, i=i: array[i], element)

        return self._then(jobs, batched=False)

    def shuffle(self, buffer_size, seed=None, reshuffle_each_iteration=True, name=None):
        """Elements in random order, in another one in each pass; seeded.

        Each is drawn from the next buffer_size elements: uniform if that is all of them. The
        buffer holds no data, so len(data) is a good choice.
        """
        size = positive("buffer_size", buffer_size)
        seed = randomness.next_seed() if seed is None else int(seed)
        again = reshuffle_each_iteration is not False

        def jobs(number):
            random = randomness.generator(randomness.mix(seed, number if again else 0))
            source = self._jobs(number)
            buffer = list(itertools.islice(source, size))
            if len(buffer) < size or self._length == size:
                for index in random.permutation(len(buffer)):
                    yield buffer[index]
                return
            for job in source:
                index = int(random.integers(size))
                yield buffer[index]
                buffer[index] = job
            for index in random.permutation(len(buffer)):
                yield buffer[index]

        return self._then(jobs, self._length, _reshuffled=again or self._reshuffled)

    def repeat(self, count=None, name=None):
        """The elements `count` times over, for ever if it is None or -1."""
        if count in (None, -1):
            count = math.inf
        elif isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
            raise ValueError(f"count is an integer >= 0, or None for ever, not {count!r}")

        def jobs(number):
            rounds = itertools.count() if count == math.inf else range(count)
            first = number * count if count != math.inf else number << 40
            for one in rounds:
                empty = True
                for job in self._jobs(first + one):
                    empty = False
                    yield job
                if empty:
                    return

        length = self._length
        if length is not None:
            length = 0 if 0 in (length, count) else length * count
        return self._then(jobs, length)

    def take(self, count, name=None):
        """The first `count` elements; -1: all."""
        count = _count(count)
        stop = None if count == -1 else count
        length = self._length
        if length is not None and stop is not None:
            length = min(length, stop)
        return self._then(
            lambda number: itertools.islice(self._jobs(number), stop), length, file_paths=None
        )

    def skip(self, count, name=None):
        """All but the first `count` elements; -1: none is left."""
        count = _count(count)
        if self._reshuffled and count > 0:
            warn(
                "skip of a data set that is shuffled anew for each pass: in the next pass its "
                "elements are others, so it is no part to hold out; split first, or give "
                "shuffle(..., reshuffle_each_iteration=False)"
            )
        start = math.inf if count == -1 else count
        length = self._length
        if length is not None:
            length = length if length == math.inf else max(0, length - start)
        if count == -1:
            return self._then(lambda number: iter(()), 0, file_paths=None)
        return self._then(
            lambda number: itertools.islice(self._jobs(number), start, None),
            length,
            file_paths=None,
        )

    def concatenate(self, dataset, name=None):
        """The elements of this data set, then those of another."""
        if not isinstance(dataset, Dataset):
            raise TypeError(f"concatenate takes a Dataset, not {type(dataset).__name__}")

        def jobs(number):
            return itertools.chain(self._jobs(number), dataset._jobs(number))

        lengths = (self._length, dataset._length)
        notes = Notes()
        notes.at_end = [*self._notes.at_end, *dataset._notes.at_end]
        both = self.file_paths is not None and dataset.file_paths is not None
        return self._then(
            jobs,
            None if None in lengths else sum(lengths),
            batched=self.batched if self.batched == dataset.batched else None,
            class_names=self.class_names if self.class_names == dataset.class_names else None,
            file_paths=[*self.file_paths, *dataset.file_paths] if both else None,
            _reshuffled=self._reshuffled or dataset._reshuffled,
            _notes=notes,
        )

    def enumerate(self, start=0, name=None):
        """Tuples (number, element)."""

        def numbered(number, job):
            element = job()
            return element if element is LEFT_OUT else (number, element)

        def jobs(number):
            for index, job in enumerate(self._jobs(number), start):
                yield functools.partial(numbered, np.int64(index), job)

        return self._then(jobs, self._length, batched=None)

    def prefetch(self, buffer_size, name=None):
        """Let the worker threads be so many elements ahead; they are anyway, AUTOTUNE says it."""
        if buffer_size in (AUTOTUNE, None, 0):
            return self._then(self._jobs, self._length, _singles=self._singles)
        size = positive("buffer_size", buffer_size)
        return self._then(self._jobs, self._length, _ahead=max(size, 1), _singles=self._singles)

    def cache(self, filename="", name=None, limit=CACHE_LIMIT):
        """Keep elements in memory in the first pass, at most `limit` bytes of them, for the next.

        Whole numbers 0..255, as pixels are, take a byte each. What does not fit is made anew in
        each pass. The order of what comes before is that of the first pass ever after, as in
        tf.data: shuffle behind it.
        """
        if filename:
            raise ValueError(
                f"cache(filename={filename!r}) is not done: elements are kept in memory, up to "
                "cache(limit=bytes); decoded pictures on disk would be read slower than JPEGs"
            )
        store = _Store(positive("limit", limit), self._notes, self._length)

        def made(index, job):
            if index in store:
                return store.get(index)
            element = job()
            store.put(index, element)
            return element

        def jobs(number):
            if store.complete():
                yield from (functools.partial(store.get, i) for i in range(store.length))
                return
            index = -1
            for index, job in enumerate(self._jobs(0)):
                yield functools.partial(made, index, job)
            store.length = index + 1

        return self._then(jobs, self._length)

    def _made(self, jobs):
        """Elements made by threads, in the midst of a pipeline whose next stage must see them."""
        made = MadeAhead(_run, jobs, WORKERS, self._ahead, self.timeout)
        try:
            yield from made
        finally:
            made.pause(LEAVE)


class _Store:
    """Elements by their number, packed, up to a number of bytes."""

    def __init__(self, limit, notes, length):
        self.limit, self.notes, self.total = limit, notes, length
        self.length = None  # known after a pass
        self.elements, self.used, self.full = {}, 0, False
        self.lock = threading.Lock()

    def __contains__(self, index):
        return index in self.elements

    def complete(self):
        return self.length is not None and len(self.elements) == self.length

    def get(self, index):
        element = self.elements[index]
        return element if element is LEFT_OUT else _each(_Packed.array, element)

    def put(self, index, element):
        if self.full:
            return
        packed = element if element is LEFT_OUT else _each(_Packed, element)
        size = 0 if element is LEFT_OUT else sum(one.values.nbytes for one in _leaves(packed))
        with self.lock:
            if index in self.elements or self.full:
                return
            if self.used + size <= self.limit:
                self.elements[index] = packed
                self.used += size
                return
            self.full = True
        of = "" if self.total in (None, math.inf) else f" of {self.total}"
        self.notes.messages.append(
            f"the cache is full: {len(self.elements)}{of} elements take {self.used:,} bytes of "
            f"limit={self.limit:,}; the others are made anew in each pass (cache(limit=...))"
        )


class _Packed:
    """An array, in bytes where nothing is lost by that."""

    def __init__(self, value):
        array = np.asarray(value)
        self.dtype = array.dtype
        self.values = np.array(array)  # a copy: the element itself goes on to whoever may write
        wide = array.dtype.kind in "fiu" and array.itemsize > 1 and array.size
        if wide and array.min() >= 0 and array.max() <= 255:  # False for NaN
            small = array.astype(np.uint8)
            if np.array_equal(small, array):
                self.values = small

    def array(self):
        new = ops.arena.empty(self.values.shape, self.dtype) if self.values.ndim else None
        if new is None:
            return self.values.astype(self.dtype)[()]
        new[...] = self.values
        return new


# -- elements: arrays, and tuples and dicts of them -----------------------------------------------


def _each(function, element):
    if isinstance(element, dict):
        return {name: _each(function, one) for name, one in element.items()}
    if isinstance(element, tuple):
        return tuple(_each(function, one) for one in element)
    return function(element)


def _leaves(element):
    if isinstance(element, dict):
        element = tuple(element.values())
    if isinstance(element, tuple):
        for one in element:
            yield from _leaves(one)
    else:
        yield element


def _self(element):
    return element


def _run(job):
    return job()


def _run_all(jobs):
    elements = tuple(job() for job in jobs)
    return LEFT_OUT if any(one is LEFT_OUT for one in elements) else elements


def _make_batch(jobs):
    elements = [element for job in jobs if (element := job()) is not LEFT_OUT]
    return _stack(elements) if elements else LEFT_OUT


def _stack(elements):
    first = elements[0]
    if isinstance(first, dict):
        return {name: _stack([one[name] for one in elements]) for name in first}
    if isinstance(first, tuple):
        return tuple(map(_stack, zip(*elements, strict=True)))
    first = np.asarray(first)
    if first.dtype.kind not in "biufc":
        return np.stack(elements)
    batch = ops.arena.empty((len(elements), *first.shape), first.dtype)
    for number, one in enumerate(elements):
        if np.shape(one) != first.shape:
            raise ValueError(
                f"the elements of a batch have shapes {first.shape} and {np.shape(one)}: make "
                "them equal with map before batch"
            )
        batch[number] = one
    return batch


def _count(count):
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < -1:
        raise ValueError(f"count is an integer >= 0, or -1, not {count!r}")
    return int(count)


def _called(function):
    return getattr(function, "__name__", repr(function))
