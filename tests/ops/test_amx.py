"""Products on the tile unit. Where there is none, the same tests check what is used instead."""

import os
import subprocess
import sys

import numpy as np
import pytest

from minicnn import config
from minicnn.ops.fast import (
    amx,
    amx_dense,
    amx_direct,
    amx_gradient,
    amx_winograd,
    amx_winograd_gradient,
    amx_winograd_rows,
    bands,
    convolution,
    dense,
    direct,
    sharing,
    winograd,
    winograd_panels,
)
from minicnn.ops.fast.pooled_convolution import conv2d_max_pool
from minicnn.ops.fast.pooling import max_pool2d
from minicnn.ops.reference import convolution as reference

GEOMETRIES = [  # n, h, w, channels, filters, kernel, strides, padding, dilation
    (2, 8, 8, 32, 32, (3, 3), (1, 1), "same", (1, 1)),
    (3, 7, 9, 24, 48, (3, 3), (1, 1), "same", (2, 1)),
    (1, 12, 6, 64, 10, (1, 1), (1, 1), "valid", (1, 1)),
    (2, 9, 11, 40, 70, (5, 5), (2, 2), "same", (1, 1)),
    (2, 9, 12, 33, 24, (3, 3), (2, 2), "valid", (1, 1)),
    (2, 12, 13, 64, 96, (3, 3), (3, 2), "valid", (1, 1)),
    (2, 16, 16, 64, 32, (1, 1), (2, 2), "valid", (1, 1)),
    (2, 10, 37, 32, 64, (1, 7), (1, 1), ((0, 0), (4, 3)), (1, 1)),
    (1, 70, 40, 32, 32, (2, 2), (3, 3), "valid", (1, 1)),
]


MORE_POSITIONS = [  # enough for the kernel's gradient
    (9, 16, 16, 32, 80, (3, 3), (1, 1), "same", (1, 1)),
    (9, 17, 31, 48, 32, (5, 5), (2, 2), "same", (1, 1)),
    (4, 30, 31, 16, 24, (3, 3), (1, 1), "valid", (1, 2)),
    (12, 16, 16, 40, 32, (2, 4), (1, 2), ((0, 2), (3, 0)), (1, 1)),
    (9, 16, 16, 64, 64, (1, 1), (1, 1), "valid", (1, 1)),
    (5, 21, 21, 41, 50, (1, 1), (1, 1), "valid", (1, 1)),
]


@pytest.fixture(autouse=True)
def _small_cases_are_no_exception(monkeypatch):
    """Winograd goes by blocks of tiles whatever the sizes, and by the unit also for a gradient of
    few channels."""
    monkeypatch.setattr(winograd_panels, "pays", lambda *_: False)
    monkeypatch.setattr(amx_winograd_rows, "LEAST_OF_A_TILE", 1 << 40)
    monkeypatch.setattr(amx_winograd_gradient, "LEAST", 1)
    monkeypatch.setattr(amx_winograd_gradient, "LEAST_PRODUCTS", 1)
    monkeypatch.setattr(amx_winograd_gradient, "LEAST_WORK", 1)
    convolution._chosen.cache_clear()
    yield
    convolution._chosen.cache_clear()


@pytest.fixture(params=["blocks", "rows"])
def on_unit(request, monkeypatch):
    """What Winograd's algorithm is on the tile unit: all the choices there are, one by one."""
    if request.param == "blocks":
        return amx_winograd
    monkeypatch.setattr(amx_winograd_rows, "LEAST_OF_A_TILE", 0)
    monkeypatch.setattr(amx_winograd_rows, "LEAST_BYTES", 0)
    monkeypatch.setattr(amx_winograd_rows, "LEAST_TILES", 0)
    return amx_winograd_rows


def integers(*shape, seed=0, largest=8):
    values = np.random.default_rng(seed).integers(-largest, largest + 1, shape)
    return values.astype(np.float32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def error(got, wanted):
    """Relative error, root mean square."""
    return np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2))


def without_unit(function, *arguments, **named):
    with config.using(amx="off"):
        return function(*arguments, **named)


@pytest.mark.parametrize("case", GEOMETRIES + MORE_POSITIONS)
def test_small_integers_give_exact_sums(case):
    n, h, w, c, f, size, strides, padding, dilation = case
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    x, kernel, bias = integers(n, h, w, c), integers(*size, c, f, seed=1), integers(f, seed=2)
    for activation in (None, ("relu",), ("leaky_relu", 0.25)):
        wanted = reference.conv2d(x, kernel, bias, activation=activation, **options)
        with config.using(convolution="direct"):
            got = convolution.conv2d(x, kernel, bias, activation=activation, **options)
        np.testing.assert_array_equal(got, wanted)
    dy = integers(*wanted.shape, seed=3)
    with config.using(convolution="direct"):
        got = convolution.conv2d_input_grad(dy, kernel, x.shape, **options)
        got_kernel = convolution.conv2d_kernel_grad(x, dy, kernel.shape, **options)
    wanted = reference.conv2d_input_grad(dy, kernel, x.shape, **options)
    np.testing.assert_array_equal(got, wanted)
    wanted = reference.conv2d_kernel_grad(x, dy, kernel.shape, **options)
    np.testing.assert_array_equal(got_kernel, wanted)


def test_integers_of_more_digits_than_a_part_give_exact_sums():
    x, kernel = integers(256, 304, largest=1 << 15), integers(304, 496, seed=1, largest=2)
    wanted = x.astype(np.float64) @ kernel
    np.testing.assert_array_equal(dense.dense(x, kernel), wanted)
    kernel, dy = integers(304, 496, seed=1, largest=1 << 14), integers(256, 496, largest=2)
    wanted = dy.astype(np.float64) @ kernel.T
    np.testing.assert_array_equal(dense.dense_input_grad(dy, kernel), wanted)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("ending", [None, ("relu",), ("leaky_relu", 0.25), "floor"], ids=str)
@pytest.mark.parametrize("size", [(8, 8), (9, 11), (3, 18), (34, 13)])
@pytest.mark.parametrize("channels, grouping", [(48, 1), (48, 2), (16, 1), (26, 2)])
def test_winograd_takes_floors_and_maxima(padding, ending, size, channels, grouping, on_unit):
    """In one pass what it gives in two, and the reference up to rounding; short steps, too."""
    x, kernel = normal(3, *size, channels), normal(3, 3, channels // grouping, 70, seed=1)
    bias, floor = normal(70, seed=2) - 4, normal(70, seed=3)  # most windows of a ReLU are all zero
    x[2, -1, -1, 0] = np.nan
    options = {"padding": "same", "groups": grouping}
    with config.using(convolution="winograd"):
        geometry = direct.geometry(x.shape, kernel.shape, (1, 1), "same", (1, 1), grouping)
        if amx.is_available():
            chosen = convolution.algorithm_for(geometry, x.dtype, convolution.FORWARD)
            assert chosen is (on_unit if channels // grouping > 16 else amx_winograd)
        if ending == "floor":
            options["floor"] = floor
            z = convolution.conv2d(x, kernel, bias, padding="same", groups=grouping)
            y = convolution.conv2d(x, kernel, bias, **options)
            np.testing.assert_array_equal(y, np.maximum(z, floor))
            assert (y == floor).any() and (y > floor).any()
        else:
            options["activation"] = ending
            y = convolution.conv2d(x, kernel, bias, **options)
            wanted, places = max_pool2d(y, (2, 2), (2, 2), padding)
            got, index = conv2d_max_pool(x, kernel, bias, pool=padding, **options)
            np.testing.assert_array_equal(got, wanted)
            np.testing.assert_array_equal(index, places)
        options["scale"] = normal(70, seed=4)
        y = convolution.conv2d(x, kernel, bias, **options)
        pooled = convolution.conv2d(x, kernel, bias, pool=padding, **options)
    np.testing.assert_array_equal(pooled, max_pool2d(y, (2, 2), (2, 2), padding)[0])
    plain = reference.conv2d(x[:2].astype(float), kernel, bias, pool=padding, **options)
    np.testing.assert_allclose(pooled[:2], plain, rtol=1e-4, atol=2e-4)  # of sums up to 70


DENSE = [  # rows, depth, columns
    (32, 16, 16),
    (33, 48, 80),  # a row more than a block, half a step, half a panel
    (64, 112, 48),
    (95, 64, 32),
    (96, 16, 96),
    (160, 272, 144),
]


@pytest.mark.parametrize("sizes", DENSE)
def test_dense_layers_give_exact_sums(sizes, monkeypatch):
    monkeypatch.setattr(dense, "WORTH_COMPILING", 0)
    rows, depth, columns = sizes
    if amx.is_available():
        assert dense._products(*sizes, np.dtype(np.float32)) is amx_dense
    x, kernel = integers(rows, depth), integers(depth, columns, seed=1)
    bias, dy = integers(columns, seed=2), integers(rows, columns, seed=3)
    wanted = x.astype(np.float64) @ kernel + bias
    for threads in (1, 2):
        with config.using(threads=threads):
            np.testing.assert_array_equal(dense.dense(x, kernel, bias), wanted)
            for activation, changed in (
                (("relu",), np.maximum(wanted, 0)),
                (("tanh",), np.tanh(wanted)),
            ):
                y = dense.dense(x, kernel, bias, activation)
                np.testing.assert_allclose(y, changed, rtol=1e-6)
            np.testing.assert_array_equal(dense.dense_input_grad(dy, kernel), dy @ kernel.T)
            np.testing.assert_array_equal(dense.dense_kernel_grad(x, dy), x.T @ dy)


def test_dense_layers_without_whole_tiles_go_without_the_unit():
    float32 = np.dtype(np.float32)
    for sizes in ((4096, 1000, 512), (4096, 512, 1000), (16, 2048, 2048)):
        assert dense._products(*sizes, float32) is not amx_dense
    assert dense._products(512, 512, 512, np.dtype(np.float64)) is not amx_dense
    assert dense._products(64, 64, 64, float32) is not amx_dense  # not worth compiling for
    assert not amx_dense.fits_gradient(100, 64, 64)


def test_bits_of_dense_layers_do_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr(dense, "WORTH_COMPILING", 0)
    x, kernel, dy = normal(96, 80), normal(80, 112, seed=1), normal(96, 112, seed=2)
    results = []
    for threads, few in ((1, 2), (2, 2), (2, 0)):  # two with copies of their own, and without
        monkeypatch.setattr(sharing, "FEW", few)
        with config.using(threads=threads):
            results.append((dense.dense(x, kernel), dense.dense_input_grad(dy, kernel),
                            dense.dense_kernel_grad(x, dy)))  # fmt: skip
    for again in results[1:]:
        for one, other in zip(results[0], again, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("grouping", [1, 2])
@pytest.mark.parametrize("unit", ["auto", "off"])
@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_bits_do_not_depend_on_threads(algorithm, unit, grouping, on_unit, monkeypatch):
    x, kernel = normal(3, 17, 14, 64), normal(3, 3, 64 // grouping, 96, seed=1)
    dy = normal(3, 17, 14, 96, seed=2)
    options = {"padding": "same", "groups": grouping}
    results = []
    for threads, few in ((1, 2), (2, 2), (2, 0), (1, 2)):  # see above
        monkeypatch.setattr(sharing, "FEW", few)
        amx_winograd._sizes.cache_clear()
        winograd._sizes.cache_clear()
        with config.using(convolution=algorithm, threads=threads, amx=unit):
            results.append((
                convolution.conv2d(x, kernel, **options),
                convolution.conv2d_input_grad(dy, kernel, x.shape, **options),
                convolution.conv2d_kernel_grad(x, dy, kernel.shape, **options),
            ))  # fmt: skip
    for again in results[1:]:
        for one, other in zip(results[0], again, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("c, f", [(64, 70), (160, 112), (288, 200), (520, 96)])
def test_large_transformed_kernels(c, f, on_unit, monkeypatch):
    """Which are asked for ahead, or made in slices, the last panel a whole one, or half of one."""
    monkeypatch.setattr(amx_winograd_rows, "SLICE_BYTES", 6 * amx_winograd_rows.A_STEP * 5)
    amx_winograd_rows._sizes.cache_clear()
    x, kernel, dy = normal(3, 17, 14, c), normal(3, 3, c, f, seed=1), normal(3, 17, 14, f, seed=2)
    with config.using(convolution="winograd"):
        shape = direct.geometry(x.shape, kernel.shape, (1, 1), "same", (1, 1), 1)
        for product in (convolution.FORWARD, convolution.INPUT_GRAD):
            chosen = convolution.algorithm_for(shape, x.dtype, product)
            assert chosen is (on_unit if amx.is_available() else winograd)
        y = convolution.conv2d(x, kernel, padding="same")
        dx = convolution.conv2d_input_grad(dy, kernel, x.shape, padding="same")
    amx_winograd_rows._sizes.cache_clear()
    exact = kernel.astype(np.float64)
    assert error(y, reference.conv2d(x.astype(np.float64), exact, padding="same")) < 2e-6
    wanted = reference.conv2d_input_grad(dy.astype(np.float64), exact, x.shape, padding="same")
    assert error(dx, wanted) < 2e-6


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "n, h, w, c, f",
    [(2, 9, 11, 24, 40), (3, 17, 14, 64, 96), (9, 16, 16, 34, 16), (1, 4, 4, 16, 68)],
)
@pytest.mark.parametrize("pieces", [False, True])
def test_gradient_by_tiles(n, h, w, c, f, groups, pieces, monkeypatch):
    """Of one piece of dk and one block of tiles, and of several of both; twice from used memory."""
    if pieces:
        monkeypatch.setattr(amx_winograd_gradient, "SIDE", 32)
        monkeypatch.setattr(amx_winograd_gradient, "BLOCK_BYTES", 0)
    amx_winograd_gradient._sizes.cache_clear()
    x, dy, kernel = normal(n, h, w, c * groups), normal(n, h, w, f * groups), (3, 3, c, f * groups)
    with config.using(convolution="winograd"):
        shape = direct.geometry(x.shape, kernel, (1, 1), "same", (1, 1), groups)
        chosen = convolution.algorithm_for(shape, x.dtype, convolution.KERNEL_GRAD)
        if amx.is_available() and groups == 1:
            assert chosen is amx_winograd_gradient
        got = [
            convolution.conv2d_kernel_grad(x, dy, kernel, padding="same", groups=groups)
            for _ in range(2)
        ]
    amx_winograd_gradient._sizes.cache_clear()
    exact = x.astype(np.float64), dy.astype(np.float64)
    wanted = reference.conv2d_kernel_grad(*exact, kernel, padding="same", groups=groups)
    assert error(got[0], wanted) < 2e-6
    np.testing.assert_array_equal(*got)


def spread(x):
    """Channels of very different magnitude."""
    return (x * 10.0 ** np.linspace(-6, 6, x.shape[-1])).astype(np.float32)


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
@pytest.mark.parametrize("kind", [np.asarray, np.abs, spread])
def test_errors_are_those_of_float32(kind, algorithm):
    """At most 1.5 times the error of the vector unit's sums, with 256 channels."""
    x, kernel = kind(normal(9, 15, 16, 256)), normal(3, 3, 256, 32, seed=1) * np.float32(0.02)
    dy = normal(9, 15, 16, 32, seed=2)
    exact = (x.astype(np.float64), kernel.astype(np.float64), dy.astype(np.float64))

    def three(ops, x, kernel, dy):
        return (
            ops.conv2d(x, kernel, padding="same"),
            ops.conv2d_input_grad(dy, kernel, x.shape, padding="same"),
            ops.conv2d_kernel_grad(x, dy, kernel.shape, padding="same"),
        )

    wanted = three(reference, *exact)
    with config.using(convolution=algorithm):
        got = three(convolution, x, kernel, dy)
        present = without_unit(three, convolution, x, kernel, dy)
    for value, before, exactly in zip(got, present, wanted, strict=True):
        assert 0 < error(value, exactly) <= 1.5 * error(before, exactly)


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
@pytest.mark.parametrize("alone", [False, True])
def test_numbers_too_small_for_three_normal_parts(alone, algorithm):
    """GELU makes such numbers: parts of theirs are not normal, and must not reach other lanes."""
    rng = np.random.default_rng(0)
    shape, kernel = (9, 16, 16, 32), normal(3, 3, 32, 64, seed=1)
    tiny = rng.choice([-1, 1], shape) * 10.0 ** rng.uniform(-45, -30, shape)
    x = np.where(alone | (rng.random(shape) < 0.2), tiny, normal(*shape)).astype(np.float32)
    dy = normal(9, 16, 16, 64, seed=2)
    with config.using(convolution=algorithm):
        found = [
            convolution.conv2d(x, kernel, padding="same"),
            convolution.conv2d_kernel_grad(x, dy, kernel.shape, padding="same"),
            convolution.conv2d_input_grad(np.tile(x, 2), kernel, x.shape, padding="same"),
        ]
    exact = [a.astype(np.float64) for a in (x, kernel, dy)]
    wanted = [
        reference.conv2d(*exact[:2], padding="same"),
        reference.conv2d_kernel_grad(exact[0], exact[2], kernel.shape, padding="same"),
        reference.conv2d_input_grad(np.tile(exact[0], 2), exact[1], x.shape, padding="same"),
    ]
    for a, b in zip(found, wanted, strict=True):
        if alone:  # the last bits of what is below 2^-110 are lost
            np.testing.assert_allclose(a, b, rtol=0, atol=2.0**-105)
        else:
            assert error(a, b) < 2e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_stays_not_finite(bad):
    x, kernel = normal(2, 9, 9, 64), normal(5, 5, 64, 32, seed=1)
    x[1, 4, 4, 3] = bad
    y = convolution.conv2d(x, kernel, padding="same")
    seen = np.zeros((2, 9, 9), bool)
    seen[1, 2:7, 2:7] = True  # a value reaches those outputs that see it, and no others
    assert not np.isfinite(y[seen]).any()
    assert np.isfinite(y[~seen]).all()
    kernel[0, 0, 0, 5] = bad
    y = convolution.conv2d(normal(2, 9, 9, 64), kernel, padding="valid")
    assert not np.isfinite(y[..., 5]).any() and np.isfinite(y[..., :5]).all()


def test_a_nan_with_any_payload_stays_one():
    x = normal(256, 256)
    x.view(np.uint32)[3, 5] = 0x7FFFFFFF  # its bits below the cut are set, too
    x.view(np.uint32)[4, 6] = 0xFFFFFFFF
    y = dense.dense(x, normal(256, 640, seed=1))
    assert np.isnan(y[3:5]).all() and np.isfinite(np.delete(y, (3, 4), axis=0)).all()


@pytest.mark.parametrize("channels, filters", [(16, 16), (14, 40), (24, 33), (48, 48), (40, 150)])
def test_winograd_leaves_no_nan_in_its_scratch(channels, filters):
    """Products take the place of inputs, and the rows of a block that do not exist are computed:
    neither reaches another tile, nor the next call."""
    x, kernel = normal(3, 10, 13, channels), normal(3, 3, channels, filters, seed=1)
    dirty = x.copy()
    dirty[1, 4, 5] = np.nan
    with config.using(convolution="winograd"):
        y = convolution.conv2d(dirty, kernel, padding="same")
        assert np.isnan(y[1, 3:6, 4:7]).all() and np.isfinite(y[::2]).all()
        again = convolution.conv2d(x, kernel, padding="same")
    wanted = reference.conv2d(x.astype(float), kernel, padding="same")
    assert error(again, wanted) < 2e-6


def test_nothing_beside_the_output_is_written():
    x, kernel, bias = normal(2, 9, 11, 40), normal(3, 3, 40, 45, seed=1), normal(45, seed=2)
    for algorithm in ("direct", "winograd"):
        memory = np.full(2 * 9 * 11 * 45 + 64, 77, np.float32)
        out = memory[32:-32].reshape(2, 9, 11, 45)
        with config.using(convolution=algorithm):
            convolution.conv2d(x, kernel, bias, padding="same", activation=("tanh",), out=out)
        assert (memory[:32] == 77).all() and (memory[-32:] == 77).all()
        wanted = reference.conv2d(x, kernel, bias, padding="same", activation=("tanh",))
        np.testing.assert_allclose(out, wanted, atol=1e-4)


def test_where_it_is_chosen(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(bands, "pays", lambda *_: False)  # direct, too: tested elsewhere

    def chosen(c=32, f=32, kernel=3, product=convolution.FORWARD, dtype=np.float32, n=8, strides=1):
        geometry = direct.geometry(
            (n, 16, 16, c), (kernel, kernel, c, f), (strides,) * 2, "same", (1, 1), 1
        )
        return convolution.choose(geometry, np.dtype(dtype), product, "auto", amx.is_available())

    here = amx.is_available()
    assert chosen(c=128, f=128, n=1) is winograd_panels  # tiles for one worker
    monkeypatch.setattr(winograd_panels, "pays", lambda *_: False)
    for c, f, n in ((512, 512, 8), (256, 256, 8), (128, 256, 4)):
        assert chosen(c=c, f=f, n=n) is (amx_winograd_rows if here else winograd)
    for c, f, n in ((256, 256, 16), (512, 512, 1), (128, 128, 2), (16, 512, 2)):
        assert chosen(c=c, f=f, n=n) is (amx_winograd if here else winograd)
    assert chosen() is (amx_winograd if here else winograd)
    assert chosen(kernel=5) is winograd
    assert chosen(kernel=7) is (amx_direct if here else direct)
    assert chosen(kernel=1) is (amx_direct if here else direct)
    assert chosen(kernel=1, product=convolution.INPUT_GRAD, strides=2) is direct
    assert chosen(f=16, kernel=7) is direct
    assert chosen(c=3, kernel=5) is chosen(dtype=np.float64, kernel=5) is direct
    for few in (chosen(c=16, f=16), chosen(c=16), chosen(f=16)):
        assert few is (amx_winograd if here else winograd)
    kernel_gradient = chosen(kernel=1, product=convolution.KERNEL_GRAD)
    assert kernel_gradient is (amx_gradient if here else direct)
    assert chosen(product=convolution.KERNEL_GRAD) is winograd
    for c, f, n in ((128, 128, 16), (64, 256, 16), (256, 256, 4)):
        kernel_gradient = chosen(c=c, f=f, n=n, product=convolution.KERNEL_GRAD)
        assert kernel_gradient is (amx_winograd_gradient if here else winograd)
    for c, f, n in ((64, 128, 64), (32, 512, 64), (128, 128, 8)):
        assert chosen(c=c, f=f, n=n, product=convolution.KERNEL_GRAD) is winograd
    kernel_gradient = chosen(kernel=5, product=convolution.KERNEL_GRAD)
    assert kernel_gradient is winograd
    kernel_gradient = chosen(kernel=7, product=convolution.KERNEL_GRAD)
    assert kernel_gradient is (amx_gradient if here else direct)
    assert chosen(kernel=1, n=1, product=convolution.KERNEL_GRAD) is direct
    gradient = chosen(c=12, f=32, kernel=7, product=convolution.INPUT_GRAD)
    assert gradient is direct  # few columns are most of a tile for nothing
    gradient = chosen(c=8, f=16, kernel=5, product=convolution.INPUT_GRAD)
    assert gradient is winograd  # which computes less, so that it matters less
    gradient = chosen(c=3, f=32, product=convolution.INPUT_GRAD)
    assert gradient is chosen(c=16, f=1) is (amx_winograd if here else winograd)
    assert chosen(c=24, f=2) is chosen(c=8, f=8) is winograd
    gradient = chosen(c=8, f=8, product=convolution.KERNEL_GRAD)
    assert gradient is chosen(c=8, f=4) is direct
    with config.using(amx="off"):
        assert not amx.is_available()
        assert chosen() is winograd
        assert chosen(kernel=5) is winograd


def test_switched_off_by_the_processor_that_numba_compiles_for():
    program = "from minicnn.ops.fast import amx; assert not amx.is_available()"
    environment = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"}
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment}, check=True)
