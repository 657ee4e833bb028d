"""Memory for activations and gradients: 64-byte aligned buffers that are used again and again.

Fresh pages cost a training step about half its speed (the kernel zeroes every page on first
touch). A buffer handed out by `empty` goes back to the pool by itself when the last array that
looks at it dies, so a value that somebody still holds is never overwritten, and a step that asks
for the sizes of the step before finds them all here.
"""

import bisect

import numpy as np

ALIGNMENT = 64  # one cache line, one AVX-512 vector
# A free buffer serves a request if it is at most this much larger: the smaller last batch of an
# epoch then fits into the buffers of the full ones without pinning a large buffer for a small need.
LARGEST_WASTE = 2.0
SHORTEST_SCRATCH = 1 << 20  # bytes; what a launch does not touch of it costs nothing
SMALLEST = 4096  # below a page, numpy's own allocator is quicker and pages are not the cost


class _Pool:
    """Free buffers by size, without a lock: each change is one call into a list or dict, which no
    other thread and no garbage collection that ends a _Lease can come between."""

    def __init__(self):
        self.sizes, self.free = [], {}  # sorted; size -> buffers, perhaps none

    def take(self, size):
        at, largest = bisect.bisect_left(self.sizes, size), size * LARGEST_WASTE
        for waiting in self.sizes[at:]:
            if waiting > largest:
                break
            try:
                return self.free[waiting].pop()
            except (KeyError, IndexError):
                continue  # all of this size are on loan
        memory = np.empty(size + ALIGNMENT, np.uint8)
        start = memory.ctypes.data  # asked once: it takes a microsecond
        return memory, start + (-start) % ALIGNMENT, size

    def give(self, buffer, insort=bisect.insort):  # bound here, see _Lease.__del__
        size = buffer[2]
        try:
            self.free[size].append(buffer)
        except KeyError:
            insort(self.sizes, size)  # first: a size missing here is never found
            self.free.setdefault(size, []).append(buffer)

    def clear(self):
        self.sizes, self.free = [], {}


_pool = _Pool()


class _Lease:
    """Owner of a buffer on loan; numpy keeps it alive as the `base` of every view."""

    __slots__ = ("__array_interface__", "buffer")

    def __init__(self, shape, dtype, size):
        self.buffer = _pool.take(size)  # (memory, address of its first aligned byte, size)
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (self.buffer[1], False),
            "version": 3,
        }

    def __del__(self, give=_pool.give):  # bound here: globals are gone when the interpreter ends
        buffer = getattr(self, "buffer", None)
        if buffer is not None:  # Ctrl-C may have ended __init__ before there was one
            give(buffer)


def empty(shape, dtype=np.float32):
    """An uninitialised C-contiguous array, 64-byte aligned when it is 4 kB or more."""
    dtype = np.dtype(dtype)
    shape = tuple(shape)
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size < SMALLEST:
        return np.empty(shape, dtype)
    return np.asarray(_Lease(shape, dtype, size))


def scratch(workers, length, dtype):
    """(workers, `length` or more) for the time of one launch: a row for every worker.

    Rows have few lengths, so that launches of all kinds get the same buffers, which are still in
    the caches of the same processors: 1.03 times the training steps of small batches.
    """
    dtype = np.dtype(dtype)
    row = max(1 << (length * dtype.itemsize - 1).bit_length(), SHORTEST_SCRATCH)
    return empty((workers, row // dtype.itemsize), dtype)


def zeros(shape, dtype=np.float32):
    """`empty`, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def trim():
    """Hand all waiting buffers back to the system (end of `fit`, before a large model)."""
    _pool.clear()
