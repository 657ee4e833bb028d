"""Random transformations of pictures: drawn by `draw`, done by `transform`, undone in backward."""

import itertools
import zlib

import numpy as np

from minicnn import randomness
from minicnn.layers import arguments
from minicnn.layers.pictures import PictureLayer


class RandomLayer(PictureLayer):
    """In training y = transform(x, draw(...)), one draw per picture; otherwise y = x.

    A layer with a seed draws the same for the same training step from run to run; without one it
    follows `set_random_seed`. Called on arrays, it counts its calls instead of steps.
    """

    needs_input = False  # whether the gradient depends on x

    def __init__(self, *, seed: int | None = None, **base):
        super().__init__(**base)
        self.seed = arguments.optional_seed(self, seed)
        kind = zlib.crc32(type(self).__name__.encode())  # layers with equal seeds differ
        own = randomness.next_seed() if self.seed is None else self.seed
        self._stream, self._calls = randomness.mix(own, kind), itertools.count()

    # -- what a layer defines ---------------------------------------------------------------------

    def draw(self, shape, key, first_sample):
        """A dict of parameters for pictures of this shape; row i depends on sample i alone."""
        raise NotImplementedError(f"{type(self).__name__} defines no draw(shape, key, first)")

    def transform(self, x, transformation):
        """y, a new array."""
        raise NotImplementedError(f"{type(self).__name__} defines no transform(x, transformation)")

    def transform_grad(self, dy, x, transformation):
        """dx; x is the input where `needs_input`, else its shape."""
        raise NotImplementedError(f"{type(self).__name__} defines no transform_grad")

    # -- in a model -------------------------------------------------------------------------------

    def forward(self, x, context):
        if not context.training:
            return x, None
        # A seed alone fixes the draws: the seed of the training run is left out then.
        run = context.seed if self.seed is None else 0
        key = randomness.mix(run, context.step, context.node, self._stream)
        transformation = self.draw(x.shape, key, context.first_sample)
        y = self.transform(x, transformation)
        return y, (x if self.needs_input else x.shape, transformation)

    def backward(self, dy, saved, needs_dx):
        if not needs_dx or saved is None:
            return dy
        return self.transform_grad(dy, *saved)

    # -- on arrays --------------------------------------------------------------------------------

    def get_random_transformation(self, data, training=True, seed=None):
        """Parameters drawn for an array of pictures or a dict with one; None if not training.

        The same seed draws the same; without one, every call draws anew.
        """
        if not training:
            return None
        shape = np.shape(data["images"] if isinstance(data, dict) else data)
        shape = (1, *shape) if len(shape) == 3 else shape
        self.check_input_shape(shape)
        if seed is None:
            run = randomness.next_seed() if self.seed is None else next(self._calls)
        else:
            run = arguments.optional_seed(self, seed)
        return self.draw(shape, randomness.mix(run, self._stream), 0)

    def apply(self, x, transformation, training):
        if not training or transformation is None:
            return x
        return self.transform(x, transformation)


def factor_range(layer, name, value, low, high, of_one):
    """A number or two of them in [low, high] -> (smaller, larger); of_one(f): the pair for one."""
    pair = of_one(value) if _is_number(value) else value
    fits = isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_is_number, pair))
    given = (value,) if _is_number(value) else value
    if not fits or not all(low <= number <= high for number in given):
        layer.fail(f"takes a number in [{low}, {high}] or two of them as {name}, not {value!r}")
    return tuple(sorted(map(float, pair)))


def to_both_sides(factor):
    """The pair that one factor of a movement stands for."""
    return -abs(factor), abs(factor)


def _is_number(value):
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def pixel_range(layer, value):
    """(darkest, brightest) of the pixels: (0, 255), (0, 1) ..."""
    fits = isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))
    if not fits or value[0] == value[1]:
        layer.fail(f"takes (darkest, brightest) as value_range, as (0, 255), not {value!r}")
    return tuple(sorted(value))


def between(uniform, bounds):
    """Numbers in [0, 1) stretched to the bounds."""
    low, high = bounds
    return low + uniform * (high - low)
