"""How weights start. `initializer(shape, dtype)` returns a new array; kernels are HWIO.

A wide layer sums many products, so the variance of its weights is divided by the number of terms:
fan_in = kh kw channels going forward, fan_out = kh kw filters going backward. Values are drawn in
float64 and rounded, so that float32 and float64 start from the same numbers.
"""

import math

import numpy as np

from minicnn import config, configurable, randomness
from minicnn.configurable import Configurable, Table

table = Table("initializers", "initializer")


class Initializer(Configurable):
    """Base: a subclass defines values(shape)."""

    table = table

    def __call__(self, shape, dtype=None):
        """A new array of this shape; dtype None is `config.floatx`."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        return np.array(self.values(shape), dtype or config.floatx)

    def values(self, shape):
        raise TypeError(f"{type(self).__name__} defines no values(shape) -> array")


@table.register("constant")
class Constant(Initializer):
    """One value everywhere, or an array that is given."""

    def __init__(self, value: float = 0.0):
        self.value = value

    def values(self, shape):
        try:
            return np.broadcast_to(np.asarray(self.value, np.float64), shape)
        except ValueError:
            given = np.shape(self.value)
            raise ValueError(f"Constant has values of shape {given}, the weight {shape}") from None


@table.register("zero")
class Zeros(Initializer):
    """0 everywhere."""

    def values(self, shape):
        return np.zeros(shape)


@table.register("one")
class Ones(Initializer):
    """1 everywhere."""

    def values(self, shape):
        return np.ones(shape)


@table.register("IdentityInitializer")
class Identity(Initializer):
    """gain on the diagonal of a matrix, 0 elsewhere."""

    def __init__(self, gain: float = 1.0):
        self.gain = gain

    def values(self, shape):
        if len(shape) != 2:
            raise ValueError(f"Identity is for matrices, not for shape {shape}; use Orthogonal")
        return self.gain * np.eye(*shape)


class RandomInitializer(Initializer):
    """Base of the random ones: draw(generator, shape).

    With a seed every call gives the same values; without one every call draws new ones from the
    stream that `set_random_seed` restarts.
    """

    def __init__(self, seed: int | None = None):
        if seed is not None and (
            isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0
        ):
            raise ValueError(f"seed is None or an integer >= 0, not {seed!r}")
        self.seed = seed

    def values(self, shape):
        return self.draw(randomness.generator(self.seed), shape)

    def draw(self, generator, shape):
        raise TypeError(f"{type(self).__name__} defines no draw(generator, shape) -> array")


@table.register("normal")
class RandomNormal(RandomInitializer):
    """Normal distribution."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None):
        super().__init__(seed)
        self.mean, self.stddev = mean, stddev

    def draw(self, generator, shape):
        return generator.normal(self.mean, self.stddev, shape)


@table.register()
class TruncatedNormal(RandomNormal):
    """Normal distribution, values beyond two standard deviations drawn again."""

    def draw(self, generator, shape):
        return self.mean + self.stddev * _truncated(generator, shape)


@table.register("uniform")
class RandomUniform(RandomInitializer):
    """Uniform distribution over [minval, maxval)."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None):
        super().__init__(seed)
        self.minval, self.maxval = minval, maxval

    def draw(self, generator, shape):
        return generator.uniform(self.minval, self.maxval, shape)


@table.register()
class VarianceScaling(RandomInitializer):
    """Mean 0 and variance scale / fan, fan = fan_in, fan_out or their mean (fan_avg)."""

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
        input_axes: tuple | None = None,
        output_axes: tuple | None = None,
    ):
        super().__init__(seed)
        if not scale > 0:
            raise ValueError(f"scale is a positive number, not {scale!r}")
        if mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ValueError(f"mode is 'fan_in', 'fan_out' or 'fan_avg', not {mode!r}")
        distribution = "truncated_normal" if distribution == "normal" else distribution
        if distribution not in ("truncated_normal", "untruncated_normal", "uniform"):
            raise ValueError(
                "distribution is 'truncated_normal', 'untruncated_normal' or 'uniform', not "
                f"{distribution!r}"
            )
        self.scale, self.mode, self.distribution = scale, mode, distribution
        self.input_axes, self.output_axes = input_axes, output_axes

    def draw(self, generator, shape):
        fan_in, fan_out = fans(shape, self.input_axes, self.output_axes)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        deviation = math.sqrt(self.scale / max(1.0, fan))
        if self.distribution == "uniform":
            limit = math.sqrt(3) * deviation  # a uniform distribution over +-1 has variance 1/3
            return generator.uniform(-limit, limit, shape)
        if self.distribution == "untruncated_normal":
            return generator.normal(0, deviation, shape)
        return deviation / TRUNCATED_DEVIATION * _truncated(generator, shape)


# Standard deviation of a standard normal distribution cut off at +-2:
# sqrt(1 - 4 phi(2) / (Phi(2) - Phi(-2))).
TRUNCATED_DEVIATION = 0.8796256610342398


class _Preset(VarianceScaling):
    """VarianceScaling with three arguments fixed."""

    preset = (1.0, "fan_in", "truncated_normal")

    def __init__(
        self,
        seed: int | None = None,
        input_axes: tuple | None = None,
        output_axes: tuple | None = None,
    ):
        super().__init__(*self.preset, seed, input_axes, output_axes)


@table.register()
class GlorotUniform(_Preset):
    """Uniform over +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""

    preset = (1.0, "fan_avg", "uniform")


@table.register()
class GlorotNormal(_Preset):
    """Truncated normal of variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""

    preset = (1.0, "fan_avg", "truncated_normal")


@table.register()
class HeNormal(_Preset):
    """Truncated normal of variance 2 / fan_in, for ReLU (He et al. 2015)."""

    preset = (2.0, "fan_in", "truncated_normal")


@table.register()
class HeUniform(_Preset):
    """Uniform over +-sqrt(6 / fan_in), for ReLU (He et al. 2015)."""

    preset = (2.0, "fan_in", "uniform")


@table.register()
class LecunNormal(_Preset):
    """Truncated normal of variance 1 / fan_in, for SELU (Klambauer et al. 2017)."""

    preset = (1.0, "fan_in", "truncated_normal")


@table.register()
class LecunUniform(_Preset):
    """Uniform over +-sqrt(3 / fan_in) (LeCun et al. 1998)."""

    preset = (1.0, "fan_in", "uniform")


@table.register("OrthogonalInitializer")
class Orthogonal(RandomInitializer):
    """gain times a matrix with orthonormal columns or rows (Saxe et al. 2014).

    The kernel is looked at as a matrix (kh kw channels, filters).
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None):
        super().__init__(seed)
        self.gain = gain

    def draw(self, generator, shape):
        if len(shape) < 2:
            raise ValueError(f"Orthogonal needs two axes or more, not shape {shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(generator.normal(size=(max(rows, columns), min(rows, columns))))
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # else q depends on the QR routine's signs
        return self.gain * (q.T if rows < columns else q).reshape(shape)


@table.register()
class Dirac(RandomInitializer):
    """Convolution kernels whose first filters hand their channel on: filter f takes channel f.

    As many filters as there are channels are 1 at the kernel's middle and 0 elsewhere, so that a
    deep network begins as a shallow one; what is left over is uniform over +-sqrt(1 / fan_in).
    """

    def draw(self, generator, shape):
        if len(shape) not in (2, 4):
            raise ValueError(
                f"Dirac is for kernels ([kh, kw,] channels, filters), not shape {shape}"
            )
        *size, channels, filters = shape
        limit = math.sqrt(1 / max(1, fans(shape)[0]))
        kernel = generator.uniform(-limit, limit, shape)
        handed_on = min(channels, filters)
        kernel[..., :handed_on] = 0
        place = np.arange(handed_on)
        kernel[(*(length // 2 for length in size), place, place)] = 1
        return kernel


def whitening_kernel(pictures, kernel_size=2, epsilon=5e-4):
    """A kernel (k, k, c, 2 k k c) whose first half makes patches of `pictures` (n, h, w, c) white.

    Filter i is the eigenvector v_i of the uncentred covariance of all patches, divided by
    sqrt(eigenvalue + epsilon), largest eigenvalue first; the second half is the first with the
    sign changed, so that nothing is lost to a rectifier after it. `pictures` are to be scaled as
    the network sees them; some thousand are enough. Page 2018; Jordan 2024, arXiv:2404.00498.
    """
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or min(pictures.shape[1:3]) < kernel_size or not len(pictures):
        raise ValueError(
            f"whitening_kernel takes pictures (n, h, w, c) of {kernel_size} pixels or more, not "
            f"shape {pictures.shape}"
        )
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (kernel_size,) * 2, axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1)  # a view (n, rows, columns, k, k, c): nothing is copied
    n, rows, columns = windows.shape[:3]
    numbers = kernel_size**2 * pictures.shape[3]
    squares = np.zeros((numbers, numbers))
    step = max(1, 2**16 // columns)  # so many patches are copied at a time, 6 MB of 2 x 2 x 3
    for first in range(0, n, step):
        for row in range(rows):
            some = windows[first : first + step, row].astype(np.float64, "C")
            some = some.reshape(-1, numbers)
            squares += some.T @ some
    eigenvalues, vectors = np.linalg.eigh(squares / (n * rows * columns))
    filters = (vectors / np.sqrt(eigenvalues + epsilon))[:, ::-1]
    shape = (kernel_size, kernel_size, pictures.shape[3], -1)
    return np.concatenate([filters, -filters], axis=1).reshape(shape).astype(np.float32)


def fans(shape, input_axes=None, output_axes=None):
    """(fan_in, fan_out) of a weight: for a kernel (kh, kw, in, out) kh kw in and kh kw out."""
    if input_axes is not None and output_axes is not None:
        return tuple(math.prod(shape[axis] for axis in axes) for axes in (input_axes, output_axes))
    if len(shape) < 2:
        return (math.prod(shape),) * 2
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def _truncated(generator, shape):
    """Standard normal values within +-2."""
    values = generator.normal(size=shape)
    flat = values.reshape(-1)
    while (outside := np.flatnonzero(np.abs(flat) > 2)).size:
        flat[outside] = generator.normal(size=outside.size)
    return values


constant, zeros, ones, identity = Constant, Zeros, Ones, Identity
random_normal, truncated_normal, random_uniform = RandomNormal, TruncatedNormal, RandomUniform
variance_scaling, orthogonal = VarianceScaling, Orthogonal
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal = HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal
IdentityInitializer, OrthogonalInitializer = Identity, Orthogonal


def get(identifier):
    """None, a name, a config, a class, an object or an array -> None or an initializer."""
    if isinstance(identifier, Initializer):
        return identifier
    return Constant(identifier) if isinstance(identifier, np.ndarray) else table.get(identifier)


serialize, deserialize = configurable.serialize, table.build
