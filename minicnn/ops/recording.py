"""What a walk through layers comes down to: calls on arrays, recorded to be made again.

A step that repeats asks for the same kernels, on the same memory, in the same order. Between two of
them stand some tens of Python calls that find that out anew, and with the caches full of pixels
they take up to a tenth of a millisecond. A `Recorder` notes the calls with their arguments while a
walk goes through the layers; a `Recording` makes them again without the layers.

All that a walk does to numbers is therefore a launch of a kernel, which jit.py notes, or a call by
`noted`. What it only reads must stay as it is (`depends_on`). What changes from step to step is
known by name: inputs, outputs, gradients of the outputs, and the keys of random numbers
(`note_key`).

Arrays in memory that the walk took from the arena are noted by their address: layers give memory
back when they no longer need it, and the walk must find it free again. In the end the recording
claims it.
"""

import threading
import weakref
from typing import NamedTuple

import numpy as np

from minicnn.ops import arena


class _Current(threading.local):
    recorder = None


_current = _Current()  # of this thread


def noted(function, *arguments):
    """function(*arguments): NumPy's work on arrays that exist, such as np.copyto."""
    function(*arguments)
    note(function, arguments)


def note(function, arguments):
    """This call was made, and numbers depend on it."""
    if _current.recorder is not None:
        _current.recorder.add(function, arguments)


def depends_on(*arrays):
    """What a call takes as a fixed number was computed from these."""
    if _current.recorder is not None:
        for array in arrays:
            _current.recorder.guards.setdefault(id(array), (array, array.tobytes()))


def note_key(array, node, seed):
    """`array` holds the key of this node's random numbers, as Context.key makes it."""
    if _current.recorder is not None:
        _current.recorder.keys.append((array, node, seed))


def note_written(parameter):
    """The parameter's gradient began with what a call wrote."""
    if _current.recorder is not None:
        _current.recorder.written.append(parameter)


def cannot_repeat():
    """Something was done that a recording could not do again."""
    if _current.recorder is not None:
        _current.recorder.can_repeat = False


class _Part(NamedTuple):
    """An array as a piece of other memory: of what has a name, or of the arena's."""

    of: object  # ("input", number) and the like, or a weak reference to memory
    at: int  # in bytes
    shape: tuple
    strides: tuple
    dtype: np.dtype

    def within(self, memory):
        return np.ndarray(self.shape, self.dtype, memory, self.at, self.strides)


def _part(array, of, start):
    return _Part(of, _address(array) - start, array.shape, array.strides, array.dtype)


def _address(array):
    return array.__array_interface__["data"][0]


class Recorder:
    """Notes the calls of this thread within `with recorder:`."""

    def __init__(self, inputs):
        self.calls, self.keys, self.written = [], [], []
        self.guards = {}  # (array, bytes) by identity, as layers are asked several times
        self.named = []  # (name, array) of what is another array in every run
        self.taken = {}  # memory of the arena, see `arena.note_taken`
        self.turned_at = None  # number of calls before those of the walk back
        self.can_repeat = True
        self._give("input", inputs)

    def __enter__(self):
        _current.recorder = self
        arena.note_taken(self.taken)

    def __exit__(self, *error):
        _current.recorder = None
        arena.note_taken(None)

    def turn(self, gradients):
        """The walk goes back from here, with these gradients of the outputs (or None)."""
        self.turned_at = len(self.calls)
        self._give("gradient", gradients)

    def _give(self, name, arrays):
        for number, array in enumerate(arrays):
            if array is None:
                continue
            apart = not any(np.may_share_memory(array, other) for _, other in self.named)
            self.can_repeat = self.can_repeat and apart and array.flags.carray
            self.named.append(((name, number), array))

    def add(self, function, arguments):
        self.calls.append((function, [self._noted(argument) for argument in arguments]))

    def _noted(self, argument):
        if type(argument) is not np.ndarray:
            nested = isinstance(argument, list | tuple)
            if nested and any(isinstance(one, np.ndarray) for one in argument):
                self.can_repeat = False
            return argument
        at = _address(argument)
        for name, array in self.named:
            start = _address(array)
            if start <= at < start + array.nbytes:
                return _part(argument, name, start)
        memory = self.taken.get(id(argument.base))
        return argument if memory is None else _part(argument, memory, _address(argument.base))

    def finish(self, outputs, as_list):
        """The Recording, or None if the walk cannot be repeated or another thread has taken memory
        that was free for a while.

        The outputs get memory of their own in every run: their users may keep them. `as_list`: the
        walk gives a list of them, not the only one.
        """
        roots = [_root(output) for output in outputs]
        names = {id(root): (("output", n), self._start(root)) for n, root in enumerate(roots)}
        taken = {id(_root(array)) for _, array in self.named}
        if not self.can_repeat or taken & names.keys() or len(names) < len(roots):
            self.can_repeat = False
            return None
        held = arena.claim([ref for key, ref in self.taken.items() if key not in names])
        if held is None:
            return None
        calls = [(function, [self._resolved(one, names) for one in arguments])
                 for function, arguments in self.calls]  # fmt: skip
        made = [_part(one, *names[id(root)]) for one, root in zip(outputs, roots, strict=True)]
        fresh = [(name, root.nbytes) for root, (name, _) in zip(roots, names.values(), strict=True)]
        return Recording(calls, fresh, made if as_list else made[0], self)

    def _resolved(self, argument, names):
        """A noted argument as an array, or as a part of what has a name."""
        if isinstance(argument, _Part) and isinstance(argument.of, weakref.ref):
            argument = argument.within(argument.of())
        known = names.get(id(_root(argument))) if isinstance(argument, np.ndarray) else None
        return argument if known is None else _part(argument, *known)

    def _start(self, root):
        """The address from which on there are arrays in this memory."""
        at = _address(root)
        return at + -at % arena.ALIGNMENT if id(root) in self.taken else at


def _root(array):
    """The array that owns the memory."""
    return array if array.base is None else array.base


class Recording:
    """The calls of a walk through the layers, and back if it went back."""

    def __init__(self, calls, fresh, outputs, recorder):
        turned_at = len(calls) if recorder.turned_at is None else recorder.turned_at
        self._parts = calls[:turned_at], calls[turned_at:]
        self._fresh, self._outputs = fresh, outputs
        self._keys = recorder.keys
        self._guards = list(recorder.guards.values())
        self._written = recorder.written
        self._open = tuple(map(_open_places, self._parts))

    def is_current(self):
        """Whether what was computed outside of the calls would still be the same."""
        return all(array.tobytes() == before for array, before in self._guards)

    def walk(self, inputs, key_of):
        """The outputs for these inputs (arrays like those recorded), and what `walk_back` needs;
        key_of(node, seed) are the keys of this step."""
        for array, node, seed in self._keys:
            array[...] = key_of(node, seed)
        named = {("input", number): array for number, array in enumerate(inputs)}
        named.update((name, arena.empty((size,), np.uint8)) for name, size in self._fresh)
        self._make(0, named)
        if isinstance(self._outputs, list):
            return [part.within(named[part.of]) for part in self._outputs], named
        return self._outputs.within(named[self._outputs.of]), named

    def walk_back(self, gradients, named):
        """The gradients of the parameters, from those of the outputs (None where there is none)."""
        named.update((("gradient", number), array) for number, array in enumerate(gradients))
        self._make(1, named)
        for parameter in self._written:
            parameter.take_as_written()

    def _make(self, number, named):
        from minicnn.ops.fast import threads  # here: `import minicnn` loads no Numba

        for arguments, place, part in self._open[number]:
            arguments[place] = part.within(named[part.of])
        threads.launch_all(self._parts[number])
        for arguments, place, _ in self._open[number]:
            arguments[place] = None  # their memory belongs to others


def _open_places(calls):
    """(arguments, place, part) of what is another array in every run."""
    return [
        (arguments, place, argument)
        for _, arguments in calls
        for place, argument in enumerate(arguments)
        if isinstance(argument, _Part)
    ]
