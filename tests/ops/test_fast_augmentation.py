"""Compiled operations on pictures equal the reference; affine transforms equal scipy.ndimage."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import config
from minicnn.ops.fast import augmentation as fast
from minicnn.ops.geometry import FILL_MODES, RESIZE_METHODS, resize_matrix
from minicnn.ops.reference import augmentation as reference

quick = settings(max_examples=25, deadline=None)
dtypes = st.sampled_from([np.float32, np.float64])
shapes = st.tuples(st.integers(1, 3), *[st.integers(1, 7)] * 2, st.sampled_from([1, 3, 17]))
colours = st.tuples(st.integers(1, 3), *[st.integers(1, 7)] * 2, st.just(3))
seeds = st.integers(0, 999)


def normal(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def near(dtype):
    return 4e-6 if dtype == np.float32 else 1e-13


def draws(seed):
    return np.random.default_rng([seed, 1])


def drawn_matrices(n, seed):
    """Arbitrary maps, and such with halves: every coordinate on a pixel or between two."""
    generator = draws(seed)
    if seed % 2:
        return generator.integers(-3, 4, (n, 2, 3)) * np.array([0.5, 0.5, 2.5])
    return generator.normal(size=(n, 2, 3)) * np.array([1, 1, 4])


def both(agree, name, *arguments, dtype, **more):
    def run(module):
        return lambda *given, out=None: getattr(module, name)(*given, out=out, **more)

    agree(run(fast), run(reference), *arguments, tolerance=near(dtype))


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("mode", FILL_MODES)
@quick
@given(shape=shapes, dtype=dtypes, seed=seeds)
def test_affine_transform(agree, mode, interpolation, shape, dtype, seed):
    x, matrices = normal(shape, dtype, seed), drawn_matrices(shape[0], seed)
    more = dict(fill_mode=mode, interpolation=interpolation, dtype=dtype)
    # matrices stay as they are: they are float64, whatever x is
    arguments = [x, matrices.tolist()]
    both(agree, "affine_transform", *arguments, fill_value=0.7, **more)
    both(agree, "affine_transform_grad", *arguments, **more)


@pytest.mark.parametrize("module", [fast, reference], ids=["fast", "reference"])
@pytest.mark.parametrize(("interpolation", "order"), [("bilinear", 1), ("nearest", 0)])
@pytest.mark.parametrize("mode", FILL_MODES)
def test_affine_transform_is_that_of_scipy(module, mode, interpolation, order):
    for seed in range(30):
        generator = draws(seed)
        x = normal((1, *generator.integers(1, 9, 2), 2), np.float64, seed)
        matrices = drawn_matrices(1, seed)
        y = module.affine_transform(x, matrices, mode, 0.7, interpolation)
        for channel in range(2):
            expected = scipy.ndimage.affine_transform(
                x[0, ..., channel],
                matrices[0, :, :2],
                matrices[0, :, 2],
                order=order,
                mode=mode,
                cval=0.7,
                prefilter=False,
            )
            np.testing.assert_allclose(y[0, ..., channel], expected, rtol=0, atol=1e-12)


@quick
@given(shape=shapes, dtype=dtypes, seed=seeds, size=st.tuples(*[st.integers(1, 8)] * 2))
def test_gather_pixels(agree, shape, dtype, seed, size):
    n, h, w, c = shape
    x, generator = normal(shape, dtype, seed), draws(seed)
    rows = generator.integers(-1, h, (n, size[0]))
    columns = generator.integers(-1, w, (n, size[1]))
    if seed % 2 and size[1] <= w:  # side by side: the short way
        columns = generator.integers(0, w - size[1] + 1, (n, 1)) + np.arange(size[1])
    both(agree, "gather_pixels", x, rows, columns, fill_value=0.5, dtype=dtype)
    dy = normal((n, *size, c), dtype, seed + 1)
    both(agree, "gather_pixels_grad", dy, rows, columns, input_shape=shape, dtype=dtype)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", RESIZE_METHODS)
@quick
@given(shape=shapes, dtype=dtypes, size=st.tuples(*[st.integers(1, 12)] * 2))
def test_resize(agree, method, antialias, shape, dtype, size):
    more = dict(interpolation=method, antialias=antialias, dtype=dtype)
    both(agree, "resize", normal(shape, dtype), size=size, **more)
    dy = normal((shape[0], *size, shape[3]), dtype, 1)
    both(agree, "resize_grad", dy, size=shape[1:3], **more)


@pytest.mark.parametrize("method", RESIZE_METHODS)
def test_a_resized_flat_picture_is_flat(method):
    for length, new_length in [(1, 5), (7, 3), (5, 5), (12, 31)]:
        for antialias in (False, True):
            matrix = resize_matrix(length, new_length, method, antialias)
            np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(resize_matrix(6, 6, method, False), np.eye(6))


@quick
@given(shape=shapes, dtype=dtypes, seed=seeds)
def test_adjust_levels(agree, shape, dtype, seed):
    x, dy, generator = normal(shape, dtype, seed), normal(shape, dtype, seed + 1), draws(seed)
    contrast, brightness = generator.uniform(0, 2, shape[0]), generator.normal(size=shape[0])
    contrast[generator.random(shape[0]) < 0.3] = 1
    arguments = [contrast.tolist(), brightness.tolist(), -1.0, 1.5]
    both(agree, "adjust_levels", x, *arguments, dtype=dtype)
    both(agree, "adjust_levels_grad", dy, x, *arguments, dtype=dtype)


@quick
@given(shape=colours, dtype=dtypes, seed=seeds)
def test_adjust_colours(agree, shape, dtype, seed):
    x, dy = normal(shape, dtype, seed) + dtype(1), normal(shape, dtype, seed + 1)
    x[0, 0, 0] = 0.25  # grey
    factors, shifts = draws(seed).uniform(-0.2, 2.5, shape[0]), draws(seed).uniform(-1, 1, shape[0])
    both(agree, "adjust_saturation", x, factors.tolist(), 0.0, 1.0, dtype=dtype)
    both(agree, "adjust_hue", x, shifts.tolist(), -0.5, 2.5, dtype=dtype)
    x = np.maximum(x, dtype(0.05))  # the gradient of the clipped saturation has v / R^2
    x += np.arange(3, dtype=dtype) / 4
    both(agree, "adjust_saturation_grad", dy, x, factors.tolist(), 0.0, 1.0, dtype=np.float32)
    both(agree, "adjust_hue_grad", dy, x, shifts.tolist(), -0.5, 2.5, dtype=np.float32)


def drawn_boxes(n, h, w, seed):
    """Also empty ones, and such that reach over the border."""
    generator = draws(seed)
    starts = generator.integers(-2, [h, w], (n, 2))
    ends = starts + generator.integers(0, [h + 2, w + 2], (n, 2))
    return np.stack([starts[:, 0], ends[:, 0], starts[:, 1], ends[:, 1]], axis=1)


@quick
@given(shape=shapes, dtype=dtypes, seed=seeds, noisy=st.booleans())
def test_boxes_and_mixtures(agree, shape, dtype, seed, noisy):
    x, dy, n = normal(shape, dtype, seed), normal(shape, dtype, seed + 1), shape[0]
    boxes, order = drawn_boxes(*shape[:3], seed), draws(seed).permutation(n)
    noise = (2**63 + 7 * seed, 2**33 + 3, 0.8, -1.0, 1.5) if noisy else None
    both(agree, "erase_boxes", x, boxes, np.arange(shape[3]).tolist(), noise, dtype=dtype)
    both(agree, "cut_mix", x, order, boxes, dtype=dtype)
    both(agree, "cut_mix_grad", dy, order, boxes, dtype=dtype)
    own, other = draws(seed).normal(size=(2, n)).tolist()
    both(agree, "mix", x, order, own, other, dtype=dtype)


@pytest.mark.parametrize("module", [fast, reference], ids=["fast", "reference"])
@quick
@given(shape=colours, seed=seeds)
def test_gradients_are_transposed_maps(module, shape, seed):
    """<y, dy> = <x, dx> for what is linear in x."""
    n, h, w, _ = shape
    x, matrices = normal(shape, np.float64, seed), drawn_matrices(n, seed)
    order, boxes = draws(seed).permutation(n), drawn_boxes(n, h, w, seed)
    own, other = draws(seed).normal(size=(2, n))
    inverse = np.argsort(order)
    rows, columns = draws(seed).integers(-1, h, (n, 4)), draws(seed).integers(-1, w, (n, 5))
    pairs = [
        (
            lambda x: module.gather_pixels(x, rows, columns),
            lambda dy: module.gather_pixels_grad(dy, rows, columns, shape),
        ),
        (
            lambda x: module.cut_mix(x, order, boxes),
            lambda dy: module.cut_mix_grad(dy, order, boxes),
        ),
        (
            lambda x: module.mix(x, order, own, other),
            lambda dy: module.mix(dy, inverse, own, other[inverse]),
        ),
        (
            lambda x: module.resize(x, (4, 9), "bicubic", True),
            lambda dy: module.resize_grad(dy, (h, w), "bicubic", True),
        ),
    ]
    for mode in FILL_MODES:
        for method in ("bilinear", "nearest"):
            pairs.append(
                (
                    lambda x, m=mode, i=method: module.affine_transform(x, matrices, m, 0.0, i),
                    lambda dy, m=mode, i=method: module.affine_transform_grad(dy, matrices, m, i),
                )
            )
    for forward, backward in pairs:
        y = forward(x)
        dy = normal(y.shape, np.float64, seed + 1)
        np.testing.assert_allclose((y * dy).sum(), (x * backward(dy)).sum(), rtol=0, atol=1e-10)


def test_noise_depends_on_sample_and_place_alone():
    x, boxes = np.zeros((4, 6, 5, 3), np.float32), np.array([[0, 6, 0, 5]] * 4)
    for name in ("fast", "reference"):
        with config.using(ops=name):
            from minicnn import ops

            whole = ops.erase_boxes(x, boxes, noise=(5, 0, 1.0, -9.0, 9.0))
            part = ops.erase_boxes(x[2:], boxes[2:], noise=(5, 2, 1.0, -9.0, 9.0))
        np.testing.assert_array_equal(whole[2:], part)
    many = fast.erase_boxes(
        np.zeros((1, 100, 100, 3)), np.array([[0, 100, 0, 100]]), noise=(1, 0, 2.0, -99.0, 99.0)
    )
    assert abs(many.mean()) < 0.05 and abs(many.std() - 2) < 0.05
    assert len(np.unique(many)) > 29_000


@pytest.mark.parametrize("module", [fast, reference], ids=["fast", "reference"])
def test_wrong_arguments_are_refused(module):
    x = np.ones((2, 4, 5, 3), np.float32)
    matrices = np.zeros((2, 2, 3))
    wrong = [
        ("affine_transform", (matrices[:1],), r"matrices have shape \(1, 2, 3\)"),
        ("affine_transform", (matrices * np.nan,), "finite"),
        ("affine_transform", (matrices, "around"), "fill_mode is 'around'"),
        ("affine_transform", (matrices, "wrap", 0.0, "cubic"), "interpolation is 'cubic'"),
        ("gather_pixels", ([[0]], [[0]]), "2 pictures need"),
        ("gather_pixels", ([[4]] * 2, [[0]] * 2), "rows run from 4 to 4"),
        ("resize", ((2, 2), "area"), "bilinear, nearest, bicubic"),
        ("resize", ((2, 0),), "both positive"),
        ("adjust_levels", ([1.0], [0.0, 0.0], 0, 1), "contrast has shape"),
        ("erase_boxes", ([[0, 1, 0, 1]],), "boxes are"),
        ("cut_mix", ([0, 0], [[0, 1, 0, 1]] * 2), "no permutation"),
        ("mix", ([1, 0], [1.0, 1.0], [0.0]), "other has shape"),
    ]
    for name, arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            getattr(module, name)(x, *arguments)
    for name in ("adjust_saturation", "adjust_hue"):
        with pytest.raises(ValueError, match="4 channels"):
            getattr(module, name)(np.ones((1, 2, 2, 4)), [1.0], 0, 1)


@pytest.mark.parametrize("module", [fast, reference], ids=["fast", "reference"])
def test_empty_batches(module):
    x = np.ones((0, 4, 5, 3), np.float32)
    none, boxes = np.zeros(0), np.zeros((0, 4), np.int64)
    assert module.affine_transform(x, np.zeros((0, 2, 3))).shape == x.shape
    assert module.resize(x, (2, 3)).shape == (0, 2, 3, 3)
    assert module.adjust_levels(x, none, none, 0, 1).shape == x.shape
    assert module.adjust_hue(x, none, 0, 1).shape == x.shape
    assert module.erase_boxes(x, boxes).shape == x.shape
    assert module.mix(x, [], none, none).shape == x.shape


@pytest.mark.parametrize("module", [fast, reference], ids=["fast", "reference"])
@pytest.mark.parametrize("channel", range(3))
def test_nan_stays(module, channel):
    x = np.full((1, 3, 4, 3), 0.4, np.float32)
    x[0, 1, 1] = [0.2, 0.3, 0.4]
    x[0, 1, 1, channel] = np.nan
    for y in (
        module.adjust_hue(x, [0.1], 0, 1),
        module.adjust_saturation(x, [0.7], 0, 1),
        module.adjust_levels(x, [1.0], [0.1], 0, 1),
        module.affine_transform(x, np.eye(2, 3)[None] + 0.01),
        module.resize(x, (6, 7), "bicubic"),
    ):
        assert np.isnan(y[..., channel]).any()
        assert not np.isnan(y[0, 0, 3]).any() or y.shape == (1, 6, 7, 3)
