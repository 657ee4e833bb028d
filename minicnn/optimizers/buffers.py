"""Flat memory for many parameters: one update then runs over one array instead of dozens."""

import numpy as np

from minicnn.ops import arena


class FlatBuffer:
    """Values and gradients of parameters of one dtype, one behind the other.

    Each begins at a multiple of 64 bytes; the gaps hold zeros. `places` maps each parameter to its
    slice, in order. A parameter stays in its first buffer for good: other optimisers that train it
    (a layer in two models, a model compiled again) use the buffer where it is.
    """

    def __init__(self, parameters):
        dtype = parameters[0].dtype
        step = arena.ALIGNMENT // dtype.itemsize
        self.places, start = {}, 0
        for parameter in parameters:
            self.places[parameter] = slice(start, start + parameter.size)
            start += -(-parameter.size // step) * step
        self.values, self.grads = arena.zeros((start,), dtype), arena.zeros((start,), dtype)
        for parameter in parameters:
            self.take(parameter)

    def take(self, parameter):
        """Move the parameter's arrays here, unless they are here already; whether they were not."""
        if parameter.owner is self and np.may_share_memory(parameter.value, self.values):
            return False
        place, shape = self.places[parameter], parameter.shape
        parameter.rebind(self.values[place].reshape(shape), self.grads[place].reshape(shape), self)
        return True

    def runs(self, trained):
        """Slices that cover the parameters in `trained` and no other, neighbours joined."""
        joined, last = [], None
        for parameter, place in self.places.items():
            if parameter not in trained:
                last = None
            elif last is None:
                joined.append(place)
                last = place
            else:
                joined[-1] = slice(joined[-1].start, place.stop)
        return joined


def pack(parameters):
    """The buffers of these parameters, and whether any of their arrays has moved; those that are in
    none get one for each dtype."""
    loose, has_moved = {}, False
    for parameter in parameters:
        if parameter.owner is None:
            loose.setdefault(parameter.dtype, []).append(parameter)
        else:
            # A copied model has arrays outside its buffer.
            has_moved |= parameter.owner.take(parameter)
    for group in loose.values():
        FlatBuffer(group)
    buffers = list(dict.fromkeys(parameter.owner for parameter in parameters))
    return buffers, has_moved or bool(loose)
