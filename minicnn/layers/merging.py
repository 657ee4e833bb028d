"""Layers with several inputs: paths of a graph join here."""

import numpy as np

from minicnn import ops
from minicnn.layers import arguments
from minicnn.layers.base import Layer, computes_as, rectifier_of, table
from minicnn.layers.normalization import GradientOfNormalized, Normalized


def _agree(one, other):
    """Whether two shapes may be the same; None is any size."""
    return len(one) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(one, other, strict=True)
    )


def _known(sizes):
    """The size that some input knows, else None."""
    return next((size for size in sizes if size is not None), None)


class _Merging(Layer):
    takes_lists = True

    def check_input_shape(self, shape):
        if not isinstance(shape, list) or len(shape) < 2:
            self.fail(f"joins a list of two or more inputs, got {shape}")


@table.register()
class Add(_Merging):
    """Sum of inputs of equal shape: the end of a residual block (He et al. 2015)."""

    repeats = True

    def check_input_shape(self, shape):
        super().check_input_shape(shape)
        if not all(_agree(other[1:], shape[0][1:]) for other in shape[1:]):
            self.fail(
                f"adds inputs of equal shape, got {shape}; in a residual block give the shortcut a "
                "Conv2D(filters, 1, strides) of its own"
            )

    def compute_output_shape(self, input_shape):
        return tuple(map(_known, zip(*input_shape, strict=True)))

    def takes_over(self, following, context, x):
        """A rectifier, in the pass of the sum: the end of a residual block."""
        return int(computes_as(self, Add) and rectifier_of(following[0]) is not None)

    def forward(self, x, context):
        activation = rectifier_of(context.taken[0]) if context.taken else None
        if any(isinstance(one, Normalized) for one in x):
            y, terms = ops.add_normalized(x, activation), x
        else:
            y, terms = ops.add(x, activation), None
        return y, (len(x), terms, activation, None if activation is None else y)

    @property
    def adds_normalized(self):
        """A batch normalization at the end of a path is finished in the pass of the sum."""
        return computes_as(self, Add)

    @property
    def adds_gradients(self):
        """A sum's paths often end where others begin: their gradients and the rectifier's are one
        pass."""
        return computes_as(self, Add)

    def backward(self, dy, saved, needs_dx):
        count, terms, activation, after = saved
        dys = dy if isinstance(dy, list) else [dy]
        if activation is not None and terms is not None:
            dx, *sums = ops.add_normalized_grad(dys, after, activation, terms)
            return [
                GradientOfNormalized(dx, known) if isinstance(one, Normalized) else dx
                for one, known in zip(terms, sums, strict=True)
            ]
        if activation is not None:
            dx = ops.add_grad(dys, after, activation)
        else:
            dx = dys[0] if len(dys) == 1 else ops.add(dys)
        return [dx] * count


@table.register()
class Concatenate(_Merging):
    """Inputs side by side along `axis` (equal in all others)."""

    def __init__(self, axis: int = -1, **base):
        super().__init__(**base)
        self.axis = arguments.integer(self, "axis", axis)

    def check_input_shape(self, shape):
        super().check_input_shape(shape)
        rank = len(shape[0])
        if self.axis in (0, -rank) or not -rank <= self.axis < rank:
            self.fail(f"joins along an axis other than the batch, not axis {self.axis} of {shape}")
        rest = [[s for i, s in enumerate(one) if i != self.axis % rank] for one in shape]
        if not all(_agree(one, rest[0]) for one in rest):
            self.fail(f"joins inputs that agree on all axes but {self.axis}, got {shape}")

    def compute_output_shape(self, input_shape):
        shape = list(map(_known, zip(*input_shape, strict=True)))
        sizes = [one[self.axis] for one in input_shape]
        shape[self.axis] = None if None in sizes else sum(sizes)
        return tuple(shape)

    def forward(self, x, context):
        sizes = [one.shape[self.axis] for one in x]
        shape = list(x[0].shape)
        shape[self.axis] = sum(sizes)
        y = np.concatenate(x, self.axis, out=ops.arena.empty(shape, x[0].dtype))
        return y, np.cumsum(sizes)[:-1]

    def backward(self, dy, saved, needs_dx):
        return [np.ascontiguousarray(part) for part in np.split(dy, saved, self.axis)]


def add(inputs, **base):
    """Add()(inputs)."""
    return Add(**base)(inputs)


def concatenate(inputs, axis=-1, **base):
    """Concatenate(axis)(inputs)."""
    return Concatenate(axis, **base)(inputs)
