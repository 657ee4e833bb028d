"""A trained array and its gradient. Layers hold Parameters, optimisers move them."""

import contextvars

import numpy as np

from minicnn.ops import recording

# While a file is loaded: (name, shape, dtype) -> array, in place of initialisers. It refuses what
# the file does not hold before anything is allocated.
allocate = contextvars.ContextVar("allocate", default=None)


class Parameter:
    """value and grad of one weight; `state`: training writes it, but no gradient moves it.

    The optimiser may move `value` and `grad` into flat buffers of its own (`rebind`), therefore
    nobody keeps a reference to the arrays: ask the Parameter each time, and write with `assign`.
    """

    __slots__ = (
        "_grad",
        "_is_empty",
        "constraint",
        "name",
        "owner",
        "regularizer",
        "state",
        "trainable",
        "value",
    )

    changes = 0  # counts assignments to public attributes of any Parameter

    def __init__(self, value, name, trainable=True, regularizer=None, constraint=None, state=False):
        self.value, self.name, self.state = value, name, state
        self.trainable = trainable and not state
        self.regularizer, self.constraint = regularizer, constraint
        # Allocated by the first backward pass or by the optimiser. Zeros are only written into it
        # when somebody looks: the first that is added to it after `zero_grad` takes their place.
        self._grad, self._is_empty = None, False
        self.owner = None  # the optimiser buffer that holds the arrays

    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)
    size = property(lambda self: self.value.size)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if not name.startswith("_"):
            Parameter.changes += 1

    @property
    def grad(self):
        """The sum of what was accumulated since `zero_grad`; None before there is memory for it."""
        if self._is_empty:
            self._grad.fill(0)
            self._is_empty = False
        return self._grad

    @grad.setter
    def grad(self, gradient):
        self._grad, self._is_empty = gradient, False

    def zero_grad(self):
        """Begin a new sum."""
        self._is_empty = self._grad is not None

    def room(self, dtype):
        """Memory to write a gradient of this dtype to that is accumulated next, or None."""
        return self._grad if self._is_empty and self._grad.dtype == dtype else None

    def accumulate(self, gradient):
        """Add to the gradient (a layer that is used twice adds twice)."""
        if self._grad is None:
            self.grad = np.array(gradient, self.value.dtype)
            recording.cannot_repeat()  # the next time there will be memory for it
        elif not self._is_empty:
            recording.noted(np.add, self._grad, gradient, self._grad)
        else:
            self.take_as_written()
            recording.note_written(self)
            if gradient is not self._grad:  # it is where it was written to, if it had `room`
                recording.noted(np.copyto, self._grad, gradient)

    def take_as_written(self):
        """The sum has begun: its memory holds the first gradient, or will in a moment."""
        self._is_empty = False

    def assign(self, value):
        """Overwrite the value in place; shapes must agree."""
        value = np.asarray(value)
        if value.shape != self.value.shape:
            raise ValueError(f"{self.name} has shape {self.value.shape}, not {value.shape}")
        self.value[...] = value

    def rebind(self, value, grad, owner):
        """Move into other memory, keeping the contents."""
        value[...] = self.value
        grad[...] = 0 if self.grad is None else self.grad
        self.value, self.grad, self.owner = value, grad, owner

    def numpy(self):
        """A copy of the value."""
        return self.value.copy()

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype=dtype)

    def __repr__(self):
        kind = "state" if self.state else "parameter"
        return f"<{kind} {self.name} {self.value.shape} {self.value.dtype}>"
