import math
import tracemalloc

import numpy as np
import pytest

from minicnn import config, datasets, initializers, ops
from minicnn.randomness import set_random_seed

RANDOM = [
    ("RandomNormal", {}, lambda i, o: 0.05),
    ("TruncatedNormal", {"stddev": 0.5}, lambda i, o: 0.5 * initializers.TRUNCATED_DEVIATION),
    ("RandomUniform", {}, lambda i, o: 0.05 / math.sqrt(3)),
    ("VarianceScaling", {}, lambda i, o: math.sqrt(1 / i)),
    ("VarianceScaling", {"scale": 3.0, "mode": "fan_out"}, lambda i, o: math.sqrt(3 / o)),
    ("VarianceScaling", {"distribution": "untruncated_normal"}, lambda i, o: math.sqrt(1 / i)),
    ("GlorotUniform", {}, lambda i, o: math.sqrt(2 / (i + o))),
    ("GlorotNormal", {}, lambda i, o: math.sqrt(2 / (i + o))),
    ("HeNormal", {}, lambda i, o: math.sqrt(2 / i)),
    ("HeUniform", {}, lambda i, o: math.sqrt(2 / i)),
    ("LecunNormal", {}, lambda i, o: math.sqrt(1 / i)),
    ("LecunUniform", {}, lambda i, o: math.sqrt(1 / i)),
]


@pytest.mark.parametrize(("name", "options", "deviation"), RANDOM)
def test_mean_and_deviation_follow_the_fans(name, options, deviation):
    shape = (3, 3, 40, 60)  # HWIO: fan_in 360, fan_out 540; 21,600 values
    values = getattr(initializers, name)(seed=1, **options)(shape, "float64")
    expected = deviation(360, 540)
    assert values.shape == shape
    assert abs(values.std() / expected - 1) < 0.02
    assert abs(values.mean()) < 4 * expected / math.sqrt(values.size)


@pytest.mark.parametrize(("name", "options", "deviation"), RANDOM)
def test_a_seed_repeats_itself_and_none_does_not(name, options, deviation):
    cls = getattr(initializers, name)
    seeded = cls(seed=7, **options)
    np.testing.assert_array_equal(seeded((4, 5)), seeded((4, 5)))
    single, double = seeded((4, 5), "float32"), seeded((4, 5), "float64")
    assert single.dtype == np.float32 and double.dtype == np.float64
    np.testing.assert_array_equal(single, double.astype(np.float32))
    free = cls(**options)
    assert np.any(free((4, 5)) != free((4, 5)))


def test_the_global_seed_fixes_unseeded_initializers():
    free = initializers.HeNormal()
    draws = []
    for _ in range(2):
        set_random_seed(11)
        draws.append((free((3, 4)), free((3, 4))))
    np.testing.assert_array_equal(draws[0], draws[1])
    config.seed = None


def test_truncated_values_lie_within_two_deviations():
    values = initializers.TruncatedNormal(mean=1.0, stddev=0.1, seed=3)((50_000,), "float64")
    assert 1.15 < values.max() <= 1.2 and 0.8 <= values.min() < 0.85


def test_constants():
    np.testing.assert_array_equal(initializers.Zeros()((2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(initializers.ones()(4), np.ones(4))
    np.testing.assert_array_equal(initializers.Constant(2.5)((2,)), [2.5, 2.5])
    np.testing.assert_array_equal(initializers.Identity(gain=3.0)((2, 3)), 3 * np.eye(2, 3))
    given = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(initializers.get(given)((2, 3)), given)
    assert initializers.Zeros()((2,)).dtype == config.floatx


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (6, 20), (20, 6), (2, 2, 9, 9)])
def test_orthogonal(shape):
    w = initializers.Orthogonal(gain=2.0, seed=5)(shape, "float64").reshape(-1, shape[-1])
    product = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_fans():
    assert initializers.fans(()) == (1, 1)
    assert initializers.fans((5,)) == (5, 5)
    assert initializers.fans((5, 7)) == (5, 7)
    assert initializers.fans((3, 2, 5, 7)) == (30, 42)
    assert initializers.fans((3, 2, 5, 7), (0, 3), (1,)) == (21, 2)


@pytest.mark.parametrize("name", initializers.table.classes)
def test_config_round_trip(name):
    initializer = initializers.get(name)
    again = initializers.deserialize(initializers.serialize(initializer))
    assert type(again) is type(initializer) and again.get_config() == initializer.get_config()
    assert initializers.get(initializer) is initializer
    assert type(initializers.get(type(initializer))) is type(initializer)


def test_names():
    for alias, name in {
        "normal": "RandomNormal", "uniform": "RandomUniform", "one": "Ones", "zero": "Zeros",
        "he_normal": "HeNormal", "glorot_uniform": "GlorotUniform",
    }.items():  # fmt: skip
        assert type(initializers.get(alias)).__name__ == name
    assert initializers.he_normal is initializers.HeNormal
    assert initializers.get(None) is None


def test_own_initializers_are_taken():
    class Ramp(initializers.Initializer):
        def values(self, shape):
            return np.arange(math.prod(shape)).reshape(shape)

    np.testing.assert_array_equal(initializers.get(Ramp())((3,), "float64"), [0, 1, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: initializers.get("he_norml"), "Did you mean 'he_normal'"),
        (lambda: initializers.get(3), "no initializer"),
        (lambda: initializers.HeNormal(seed=-1), "seed is None or an integer >= 0, not -1"),
        (lambda: initializers.HeNormal(seed=True), "seed"),
        (lambda: initializers.VarianceScaling(scale=0), "scale is a positive number"),
        (lambda: initializers.VarianceScaling(mode="fan"), "mode is 'fan_in'"),
        (lambda: initializers.VarianceScaling(distribution="cauchy"), "distribution is"),
        (lambda: initializers.Identity()((2, 2, 2)), "matrices"),
        (lambda: initializers.Orthogonal()((3,)), "two axes"),
        (lambda: initializers.Constant([1, 2])((3,)), r"shape \(2,\), the weight \(3,\)"),
    ],
)
def test_errors(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_dirac_hands_channels_on():
    kernel = initializers.Dirac(seed=0)((3, 3, 4, 6))
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype(np.float32)
    y = ops.conv2d(x, kernel, padding="same")
    np.testing.assert_allclose(y[..., :4], x, atol=1e-6)
    rest = kernel[..., 4:]
    assert 0.5 / 6 < np.abs(rest).max() <= 1 / 6 and rest.std() > 0.05
    with pytest.raises(ValueError, match="kernels"):
        initializers.Dirac()((3, 4, 4))


def test_whitening_kernel_makes_patches_white():
    generator = np.random.default_rng(0)
    pictures = generator.normal(size=(200, 9, 9, 3)) @ generator.normal(size=(3, 3))
    pictures[:, 1:] += pictures[:, :-1]
    kernel = initializers.whitening_kernel(pictures, 2, epsilon=0.0)
    assert kernel.shape == (2, 2, 3, 24)
    y = ops.conv2d(pictures, kernel.astype(np.float64)).reshape(-1, 24)
    np.testing.assert_allclose(y[:, :12].T @ y[:, :12] / len(y), np.eye(12), atol=1e-4)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    with pytest.raises(ValueError, match="pictures"):
        initializers.whitening_kernel(pictures[0])


def test_whitening_kernel_holds_few_patches_at_a_time():
    """All patches of these pictures would take 12 MB as they are and 92 MB in float64."""
    (pictures, _), _ = datasets.cifar10.load_sample()
    pictures = pictures[:1000]
    tracemalloc.start()
    kernel = initializers.whitening_kernel(pictures, 2, epsilon=0.01)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6
    shifted = [pictures[:, i : 31 + i, j : 31 + j] for i in (0, 1) for j in (0, 1)]
    patches = np.stack(shifted, axis=3).reshape(-1, 12).astype(np.float64)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    whole = (vectors / np.sqrt(values + 0.01))[:, ::-1]
    # The sign of an eigenvector is nobody's choice.
    kernel = kernel.reshape(12, 24)[:, :12]
    np.testing.assert_allclose(kernel * np.sign(kernel[0]), whole * np.sign(whole[0]), rtol=1e-5)
