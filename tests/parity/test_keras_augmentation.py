"""Augmentation and preprocessing layers against Keras's, for the same drawn parameters.

`transform_images(images, transformation)` of both is called with one transformation: values and
gradients agree. The draws themselves come from other generators; their distributions are compared.
"""

import jax
import keras
import numpy as np
import pytest
from oracle import close, numbers

from minicnn import layers

pytestmark = pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")


def column(values):
    return np.asarray(values, np.float32).reshape(-1, 1, 1, 1)


def flips_of(theirs, drawn, shape):
    which = 1 if theirs.mode == "horizontal" else 0
    return {"flips": drawn["flips"][:, which].reshape(-1, 1, 1, 1)}


def rotation_of(theirs, drawn, shape):
    n, h, w, _ = shape
    zeros, ones = np.zeros(n, np.float32), np.ones(n, np.float32)
    angle = drawn["angle"].astype(np.float32)
    matrix = theirs._compute_affine_matrix(
        0.5, 0.5, angle, zeros, zeros, ones, zeros, zeros, height=h, width=w
    )
    return {"rotation_matrix": matrix}


def same(theirs, drawn, shape):
    float32 = {k: np.asarray(v, np.float32) for k, v in drawn.items()}
    return {**float32, "input_shape": shape}


def mask_of(boxes, shape):
    i, j = np.arange(shape[1])[:, None], np.arange(shape[2])
    top, bottom, left, right = boxes.T[:, :, None, None]
    inside = (top <= i) & (i < bottom) & (left <= j) & (j < right)
    return np.broadcast_to(inside[..., None], shape)


def erasing_of(theirs, drawn, shape):
    return {
        "apply_erasing": np.ones(shape[0], bool),
        "batch_masks": mask_of(drawn["boxes"], shape),
        "fill_value": np.broadcast_to(np.clip(theirs.fill_value, *theirs.value_range), shape),
    }


def cut_mix_of(theirs, drawn, shape):
    return {**drawn, "batch_masks": mask_of(drawn["boxes"], shape)}


AFFINE = [
    dict(fill_mode=mode, interpolation=interpolation, fill_value=7.0)
    for mode in ("reflect", "wrap", "constant", "nearest")
    for interpolation in ("bilinear", "nearest")
]
CASES = [
    ("RandomFlip", dict(mode="horizontal"), flips_of),
    ("RandomFlip", dict(mode="vertical"), flips_of),
    *(("RandomRotation", dict(factor=0.4, **more), rotation_of) for more in AFFINE),
    *(
        ("RandomTranslation", dict(height_factor=0.6, width_factor=(-0.9, 0.3), **more), same)
        for more in AFFINE[2::3]
    ),
    *(
        ("RandomZoom", dict(height_factor=0.6, width_factor=(-0.5, 0.9), **more), same)
        for more in AFFINE[3::3]
    ),
    ("RandomZoom", dict(height_factor=(0.2, 0.5)), same),
    *(
        ("RandomShear", dict(x_factor=0.7, y_factor=(0.1, 0.9), **more), same)
        for more in AFFINE[:4:3]
    ),
    ("RandomContrast", dict(factor=0.8), lambda *a: {"contrast_factor": column(*a[1].values())}),
    ("RandomContrast", dict(factor=(0.1, 0.9), value_range=(50, 190)), None),
    ("RandomBrightness", dict(factor=0.5), lambda *a: {"rgb_delta": column(*a[1].values())}),
    ("RandomBrightness", dict(factor=(0.1, 0.3), value_range=(20, 200)), None),
    ("RandomSaturation", dict(factor=(0.2, 0.9), value_range=(0, 1)), same),
    ("RandomSaturation", dict(factor=0.9), same),
    ("RandomHue", dict(factor=1.0), same),
    ("RandomHue", dict(factor=(0.1, 0.5), value_range=(-10, 270)), same),
    ("RandomErasing", dict(factor=(1, 1), fill_value=(10.0, 300.0, 30.0)), erasing_of),
    ("MixUp", dict(alpha=0.4), same),
    ("CutMix", dict(factor=1.0), cut_mix_of),
]
IDS = [f"{name}-{'-'.join(map(str, arguments.values()))}" for name, arguments, _ in CASES]
each_case = pytest.mark.parametrize(("name", "arguments", "translate"), CASES, ids=IDS)


def both(name, arguments):
    ours = getattr(layers, name)(**arguments, seed=5)
    return ours, getattr(keras.layers, name)(**arguments, seed=5)


def translated(translate, theirs, drawn, shape):
    if translate is None:  # one number per picture, in Keras of the picture's rank
        return {key: column(value) for key, value in drawn.items()}
    transformation = translate(theirs, drawn, shape)
    for key in ("permutation_order",):
        if key in transformation:
            transformation[key] = np.asarray(drawn[key], np.int32)
    return transformation


@each_case
def test_transformed_pictures_and_gradients(name, arguments, translate):
    shape = (6, 9, 11, 3)
    ours, theirs = both(name, arguments)
    x, dy = numbers(*shape, low=0, high=255), numbers(*shape, seed=1)
    drawn = ours.get_random_transformation(x)
    transformation = translated(translate, theirs, drawn, shape)
    y, pull = jax.vjp(lambda x: theirs.transform_images(x, transformation, training=True), x)
    # Keras computes coordinates in float32: 1e-6 of a picture's width, times the step between
    # neighbouring pixels, up to 255.
    tolerance = 2e-5 if "fill_mode" in arguments or "_factor" in str(arguments) else 1e-5
    close(ours.transform_images(x, drawn), y, tolerance, "y")
    dx = ours.transform_grad(dy, x if ours.needs_input else x.shape, drawn)
    assert np.abs(dx).max() > 0
    close(dx, pull(dy)[0], tolerance, "dx")
    np.testing.assert_array_equal(ours.transform_images(x, drawn, training=False), x)


def test_flips_in_both_directions():
    """One draw for both directions is Keras's; ours draws them apart."""
    ours, theirs = both("RandomFlip", {})
    x, flips = numbers(8, 4, 5, 3), np.random.default_rng(0).random((8, 1, 1, 1)) < 0.5
    close(ours.transform_images(x, {"flips": flips}), theirs.transform_images(x, {"flips": flips}))
    drawn = layers.RandomFlip(seed=1).get_random_transformation(np.zeros((400, 2, 2, 1)))["flips"]
    assert {tuple(row) for row in drawn} == {(a, b) for a in (0, 1) for b in (0, 1)}


@pytest.mark.parametrize("size", [(4, 5), (9, 3), (9, 11)])
def test_crops(size):
    ours, theirs = both("RandomCrop", dict(height=size[0], width=size[1]))
    x, dy = numbers(3, 9, 11, 2), numbers(3, *size, 2, seed=1)
    room = 9 - size[0], 11 - size[1]
    for start in {(0, 0), room, (room[0] // 2, room[1] // 3)}:
        y, pull = jax.vjp(lambda x, s=start: theirs.transform_images(x, s), x)
        np.testing.assert_array_equal(ours.transform_images(x, {"starts": start}), y)
        dx = ours.transform_grad(dy, x.shape, {"starts": start})
        np.testing.assert_array_equal(dx, pull(dy)[0])


@pytest.mark.parametrize(("shape", "size"), [((4, 9), (6, 5)), ((12, 4), (5, 6)), ((3, 3), (7, 9))])
def test_pictures_smaller_than_the_crop(shape, size):
    """As Keras documents for RandomCrop and does in CenterCrop: the largest window, resized."""
    x = numbers(2, *shape, 3)
    expected = keras.layers.CenterCrop(*size)(x)
    close(layers.RandomCrop(*size)(x), expected)
    close(layers.CenterCrop(*size)(x), expected)


@pytest.mark.parametrize("parts", [("brightness", "contrast"), ("saturation", "hue"), None])
def test_colour_jitter_is_its_parts_in_keras_order(parts):
    parts = parts or ("brightness", "contrast", "saturation", "hue")
    factors = {f"{part}_factor": (0.3, 0.6) for part in parts}
    ours = layers.RandomColorJitter(seed=3, **factors)
    x = numbers(4, 5, 6, 3, low=0, high=255)
    drawn = ours.get_random_transformation(x)
    expected = x
    for part in ("brightness", "contrast", "saturation", "hue"):
        if part in parts:
            cls = getattr(keras.layers, f"Random{part.capitalize()}")
            one = {k: np.asarray(v, np.float32) for k, v in drawn[part].items()}
            if part in ("brightness", "contrast"):
                one = {k: column(v) for k, v in one.items()}
            expected = cls((0.3, 0.6)).transform_images(expected, one)
    close(ours.transform_images(x, drawn), expected, 2e-5)


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_mixed_labels(name):
    ours, theirs = both(name, {})
    x, labels = numbers(6, 5, 7, 3), np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1]]
    drawn = ours.get_random_transformation(x)
    transformation = {k: np.asarray(v) for k, v in drawn.items() if k != "boxes"}
    transformation["batch_masks"] = np.zeros(x.shape, bool)
    expected = theirs.transform_labels(labels, transformation, training=True)
    close(ours.transform_labels(labels, drawn), expected)
    mixed = ours({"images": x, "labels": labels})
    assert set(mixed) == {"images", "labels"}
    close(mixed["labels"].sum(axis=1), np.ones(6, np.float32))


# -- distributions of the draws --------------------------------------------------------------------

DRAWS = [
    ("RandomRotation", dict(factor=0.3), "angle"),
    ("RandomRotation", dict(factor=(-0.1, 0.4)), "angle"),
    ("RandomTranslation", dict(height_factor=0.2, width_factor=(0.1, 0.3)), "translations"),
    ("RandomZoom", dict(height_factor=0.4, width_factor=(-0.2, 0.1)), "height_zoom"),
    ("RandomZoom", dict(height_factor=0.4, width_factor=(-0.2, 0.1)), "width_zoom"),
    ("RandomZoom", dict(height_factor=(0.1, 0.4)), "width_zoom"),
    ("RandomShear", dict(x_factor=0.5, y_factor=(0.1, 0.2)), "shear_factor"),
    ("RandomContrast", dict(factor=(0.2, 0.7)), "contrast_factor"),
    ("RandomBrightness", dict(factor=0.3), "rgb_delta"),
    ("RandomBrightness", dict(factor=(-0.3, 0.1), value_range=(1, 3)), "rgb_delta"),
    ("RandomSaturation", dict(factor=(0.1, 0.6)), "factor"),
    ("RandomHue", dict(factor=0.8), "factor"),
    ("MixUp", dict(alpha=0.7), "mix_weight"),
    ("CutMix", dict(factor=(0.8, 0.8)), "mix_weight"),
    ("RandomFlip", dict(mode="horizontal"), "flips"),
]


@pytest.mark.parametrize(("name", "arguments", "key"), DRAWS)
def test_draws_have_keras_distribution(name, arguments, key):
    ours, theirs = both(name, arguments)
    x, count = np.zeros((8000, 4, 6, 3), np.float32), 8000
    a = np.asarray(ours.get_random_transformation(x)[key], np.float64).reshape(count, -1)
    b = np.asarray(theirs.get_random_transformation(x)[key], np.float64).reshape(count, -1)
    a = a[:, 1:] if key == "flips" else a
    assert a.shape == b.shape
    for i in range(a.shape[1]):
        # Quantiles of 8000 uniform numbers lie within 0.02 of each other (Smirnov, p = 1e-3: 0.031)
        levels = np.linspace(0, 1, 21)
        spread = np.ptp(b[:, i])
        difference = np.abs(np.quantile(a[:, i], levels) - np.quantile(b[:, i], levels))
        assert difference.max() <= 0.08 * spread + 1e-6
        assert difference.mean() <= 0.03 * spread + 1e-6


def test_erased_boxes_have_keras_distribution():
    arguments = dict(factor=0.7, scale=(0.1, 0.5))
    ours, theirs = both("RandomErasing", arguments)
    x = np.zeros((3000, 20, 30, 1), np.float32)
    a = mask_of(ours.get_random_transformation(x)["boxes"], x.shape)
    t = theirs.get_random_transformation(x)
    b = np.asarray(t["batch_masks"]) & np.asarray(t["apply_erasing"])[:, None, None, None]
    for masks in (a, b):
        assert abs(masks.any(axis=(1, 2, 3)).mean() - 0.35) < 0.04
    assert abs(a.mean() - b.mean()) < 0.015
    assert np.abs(a.mean(axis=(0, 3)) - b.mean(axis=(0, 3))).max() < 0.06
    close(a.any(axis=(1, 3)).sum(1).max(), b.any(axis=(1, 3)).sum(1).max(), 0.15)


# -- resizing and normalization --------------------------------------------------------------------


@pytest.mark.parametrize(
    "interpolation", ["bilinear", "nearest", "bicubic", "lanczos3", "lanczos5"]
)
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", [None, "crop_to_aspect_ratio", "pad_to_aspect_ratio"])
def test_resizing(interpolation, antialias, mode):
    more = {mode: True, "fill_value": 3.0} if mode else {}
    more.update(interpolation=interpolation, antialias=antialias)
    for shape, size in [((13, 3), (4, 9)), ((5, 7), (8, 7))]:
        ours, theirs = (kind.Resizing(*size, **more) for kind in (layers, keras.layers))
        x, dy = numbers(2, *shape, 3), numbers(2, *size, 3, seed=1)
        y, pull = jax.vjp(lambda x, layer=theirs: layer.transform_images(x), x)
        close(ours(x), y, what=f"{shape} {size}")
        close(ours.backward(dy, x.shape, True), pull(dy)[0], what=f"dx {shape} {size}")
        close(ours(x[0]), theirs(x[0]))


def test_adapt():
    x = numbers(50, 4, 5, 3) * np.float32([1, 10, 100]) + 7
    batches = [(x[:20], None), (x[20:27], None), (x[27:], None)]
    for axis in (-1, (1, 3), None, 2):
        theirs = keras.layers.Normalization(axis=axis)
        theirs.adapt(x)
        for data in (x, [one for one, _ in batches], iter(batches), (x[i : i + 9] for i in (0, 9))):
            ours = layers.Normalization(axis=axis)
            ours.adapt(data)
            if not hasattr(data, "gi_frame"):  # the last one is other data
                close(ours.mean, theirs.mean)
                close(ours.variance, theirs.variance)
                close(ours(x), theirs(x))
        inverse = layers.Normalization(axis=axis, invert=True, mean=None)
        inverse.adapt(x)
        close(inverse(layers_output(axis, x)), x)


def layers_output(axis, x):
    layer = layers.Normalization(axis=axis)
    layer.adapt(x)
    return layer(x)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        dict(mean=2.0, variance=9.0),
        dict(mean=2.0, variance=0.0),
        dict(axis=None, mean=2.0, variance=9.0),
        dict(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0]),
        dict(axis=(1, 3), mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0]),
        dict(axis=1, mean=[1.0, 2.0, 3.0, 4.0], variance=[4.0, 5.0, 6.0, 1.0]),
    ],
    ids=str,
)
def test_given_mean_and_variance(arguments, invert):
    x = numbers(3, 4, 2, 3)
    ours, theirs = (
        kind.Normalization(**arguments, invert=invert) for kind in (layers, keras.layers)
    )
    theirs.build(x.shape)
    close(ours(x), theirs(x))


def test_normalization_travels_in_files(tmp_path):
    import minicnn

    x = numbers(40, 4, 4, 3) * 5 + 2
    layer = layers.Normalization()
    layer.adapt(x)
    model = minicnn.Sequential([minicnn.Input((4, 4, 3)), layer, layers.Flatten()])
    model.save(tmp_path / "ours.keras")
    theirs = keras.models.load_model(tmp_path / "ours.keras")
    close(model.predict(x, verbose=0), theirs.predict(x, verbose=0))
    adapted = keras.layers.Normalization()
    adapted.adapt(x * 3)
    theirs = keras.Sequential([keras.Input((4, 4, 3)), adapted, keras.layers.Flatten()])
    theirs.save(tmp_path / "theirs.keras")
    again = minicnn.load_model(tmp_path / "theirs.keras")
    close(again.predict(x, verbose=0), theirs.predict(x, verbose=0))
