"""Memory for activations and gradients: 64-byte aligned buffers that are used again and again.

Fresh pages cost a training step about half its speed (the kernel zeroes every page on first
touch). The arena keeps every buffer that it has handed out, and hands it out again once nobody but
the arena refers to it: the arrays made of a buffer, and all views of them, refer to it as their
`base`. So a value that somebody still holds is never overwritten, and a step that asks for the
sizes of the step before finds them all here. What a launch needs for itself is scratch, one piece
of memory for all launches of a thread.
"""

import bisect
import math
import sys
import threading
import weakref

import numpy as np

ALIGNMENT = 64  # one cache line, one AVX-512 vector
# A free buffer serves a request if it is at most this much larger: the smaller last batch of an
# epoch then fits into the buffers of the full ones without pinning a large buffer for a small need.
LARGEST_WASTE = 2.0
MOST_CUTS = 1024  # of the scratch memory that are remembered
SMALLEST = 4096  # below a page, numpy's own allocator is quicker and pages are not the cost


def _free(buffers, references):
    """(memory, start) of the first of `buffers` to whose memory so many references lead, or None.

    Of two threads that look at the same one at the same time, neither or one finds it free: both
    refer to the memory while they look, and the one that finds it does so until its array does.
    """
    for memory, start in buffers:
        if sys.getrefcount(memory) == references:
            return memory, start
    return None


# To memory that only a buffer holds; it is for the interpreter to say what it counts.
_UNUSED = next(n for n in range(1, 9) if _free([(np.empty(1), 0)], n) is not None)


class _Pool:
    def __init__(self):
        self.clear()

    def take(self, size):
        """(memory, where its first aligned byte is) of at least `size` bytes from there on."""
        found = _free(self.buffers.get(size, ()), _UNUSED)
        if found is not None:
            return found
        largest = size * LARGEST_WASTE
        for larger in self.sizes[bisect.bisect_right(self.sizes, size) :]:
            if larger > largest:
                break
            found = _free(self.buffers.get(larger, ()), _UNUSED)
            if found is not None:
                return found
        if size not in self.sizes:
            bisect.insort(self.sizes, size)
        memory = np.empty(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        self.buffers.setdefault(size, []).append((memory, start))
        return memory, start

    def clear(self):
        self.sizes, self.buffers = [], {}  # sorted; size -> [(memory, start)]


_pool = _Pool()


def empty(shape, dtype=np.float32):
    """An uninitialised C-contiguous array, 64-byte aligned when it is 4 kB or more."""
    dtype = np.dtype(dtype)
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size < SMALLEST:
        return np.empty(shape, dtype)
    memory, start = _pool.take(size)
    if _noted.taken is not None:
        _noted.taken[id(memory)] = weakref.ref(memory)
    return np.ndarray(shape, dtype, memory, start)


class _Noted(threading.local):
    taken = None


_noted = _Noted()  # of this thread


def note_taken(taken):
    """From now on put what this thread takes into the dict `taken`, {id of memory: weak reference};
    None: no longer. A weak reference does not keep the memory from being taken again."""
    _noted.taken = taken


def claim(references):
    """The memory behind these weak references, or None if anybody else uses a part of it."""
    return _claim(references, _CLAIMED)


def _claim(references, count):
    """As in `_free`, of two that want it at the same time neither or one gets it."""
    held = [reference() for reference in references]
    if any(memory is None or sys.getrefcount(memory) != count for memory in held):
        return None
    return held


def _count_of_claimed():
    buffers = [(np.empty(1), 0)]
    references = [weakref.ref(buffers[0][0])]
    return next(n for n in range(1, 9) if _claim(references, n) is not None)


_CLAIMED = _count_of_claimed()


class _Scratch(threading.local):
    """The memory that a thread's launches work in, and the arrays that were cut from it."""

    def __init__(self):
        self.memory, self.arrays = np.empty(0, np.uint8), {}

    def cut(self, wanted):
        starts, end = [], 0
        for shape, dtype in wanted:
            starts.append(end)
            size = math.prod(shape) * np.dtype(dtype).itemsize
            end += size + -size % ALIGNMENT
        if len(self.arrays) == MOST_CUTS:
            self.arrays.clear()
        if end > len(self.memory) - ALIGNMENT:
            self.arrays.clear()
            self.memory = np.empty(end + ALIGNMENT, np.uint8)
        first = -self.memory.ctypes.data % ALIGNMENT
        parts = zip(wanted, starts, strict=True)
        return [np.ndarray(*part, self.memory, first + start) for part, start in parts]


_scratch = _Scratch()


def scratch(*wanted):
    """Uninitialised arrays for the time of one launch, one for each (shape, dtype).

    They share one piece of memory with those of all other launches of this thread, which is still
    in the processors' caches then: whoever calls this again gives up what it got before. The list
    is the caller's to read only.
    """
    own = _scratch
    arrays = own.arrays.get(wanted)
    if arrays is None:
        arrays = own.arrays[wanted] = own.cut(wanted)
    return arrays


def rows(workers, length, dtype):
    """What `scratch` is asked for (workers, `length` or a little more), a row for every worker that
    begins with a cache line of its own."""
    dtype = np.dtype(dtype)
    line = ALIGNMENT // dtype.itemsize
    return (workers, length + -length % line), dtype


def zeros(shape, dtype=np.float32):
    """`empty`, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


_holders = []  # weak references; one step to add, to remove or to copy, whatever threads do


def forget_at_trim(holder):
    """Call `holder.forget()` at every `trim`: it holds arrays that it can do without."""
    _holders.append(weakref.ref(holder, _holders.remove))


def trim():
    """Forget all buffers (end of `fit`, before a large model): those that nobody looks at go back
    to the system at once, the others when their last array dies."""
    global _scratch
    for reference in _holders.copy():
        holder = reference()
        if holder is not None:
            holder.forget()
    _pool.clear()
    _scratch = _Scratch()
