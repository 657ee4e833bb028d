"""Augmentation in use: when it acts, what repeats, what it takes, and what it refuses."""

import numpy as np
import pytest

import minicnn
from minicnn import Input, Model, Sequential, check_gradients, config, layers, set_random_seed
from minicnn.context import Context

SMALL = dict(height_factor=0.2, width_factor=0.2)
RANDOM = [
    (layers.CutMix, {}),
    (layers.MixUp, {}),
    (layers.RandomBrightness, dict(factor=0.4)),
    (layers.RandomColorJitter, dict(brightness_factor=0.2, hue_factor=0.5)),
    (layers.RandomContrast, dict(factor=0.5)),
    (layers.RandomCrop, dict(height=6, width=5)),
    (layers.RandomErasing, dict(factor=(1, 1))),
    (layers.RandomFlip, {}),
    (layers.RandomHue, dict(factor=0.5)),
    (layers.RandomRotation, dict(factor=0.2)),
    (layers.RandomSaturation, dict(factor=(0.6, 0.9))),
    (layers.RandomShear, dict(x_factor=0.3)),
    (layers.RandomTranslation, SMALL),
    (layers.RandomZoom, SMALL),
]
each_random = pytest.mark.parametrize(
    ("cls", "arguments"), RANDOM, ids=[cls.__name__ for cls, _ in RANDOM]
)


def pictures(n=12, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (n, 8, 9, 3)).astype(dtype)


def differs(a, b):
    return np.abs(np.asarray(a, np.float64) - b).max() > 1e-3


def in_training(layer, x, step=0, seed=1, first_sample=0):
    context = Context(training=True, seed=seed, step=step, first_sample=first_sample)
    layer.ensure_built(x.shape)
    return layer.forward(x, context)[0].copy()


def test_all_random_layers_are_here():
    random = {n for n in layers.__all__ if n.startswith("Random")} | {"CutMix", "MixUp"}
    assert random == {cls.__name__ for cls, _ in RANDOM}


@each_random
def test_acts_in_training_only_and_anew_at_every_step(cls, arguments):
    layer, x = cls(**arguments), pictures()
    first, second = in_training(layer, x), in_training(layer, x, step=1)
    assert differs(first, second)
    np.testing.assert_array_equal(first, in_training(layer, x))
    at_rest = layer.forward(x, Context())[0]
    if cls is layers.RandomCrop:
        assert at_rest.shape == (12, 6, 5, 3)
    else:
        np.testing.assert_array_equal(at_rest, x)


@each_random
def test_a_seed_fixes_the_draws_whatever_the_run_is_seeded_with(cls, arguments):
    x = pictures()
    one, other = cls(seed=3, **arguments), cls(seed=3, **arguments)
    np.testing.assert_array_equal(in_training(one, x, seed=1), in_training(other, x, seed=2))
    assert differs(in_training(one, x), in_training(cls(seed=4, **arguments), x))
    assert differs(one(x), one(x)), "calls draw anew"
    again = cls(seed=3, **arguments)
    np.testing.assert_array_equal(cls(seed=3, **arguments)(x), again(x))


@each_random
def test_set_random_seed_repeats_all(cls, arguments):
    x, runs = pictures(), []
    for _ in range(2):
        set_random_seed(5)
        layer = cls(**arguments)
        runs.append([layer(x), layer(x)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert differs(*runs[0])


@each_random
def test_pictures_do_not_depend_on_threads_or_on_the_split_of_the_batch(cls, arguments):
    layer, x = cls(seed=1, **arguments), pictures()
    whole = in_training(layer, x)
    with config.using(threads=1):
        np.testing.assert_array_equal(in_training(layer, x), whole)
    if cls not in (layers.MixUp, layers.CutMix):  # these mix what is in the batch
        parts = [in_training(layer, x[:5]), in_training(layer, x[5:], first_sample=5)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert differs(whole[0], whole[1])


@each_random
@pytest.mark.parametrize("op_set", ["fast", "reference"])
def test_gradients(cls, arguments, op_set):
    x = pictures(n=3, dtype=np.float64)
    if "value_range" in cls.__init__.__code__.co_varnames:
        arguments = {**arguments, "value_range": (-100, 400)}  # few pixels are clipped
    with config.using(ops=op_set):
        report = check_gradients(cls(seed=2, **arguments), x, training=True, verbose=False)
    assert report.passed, list(report)
    assert report[0].largest > 0


@each_random
def test_what_it_can_be_called_on(cls, arguments):
    layer, x = cls(seed=1, **arguments), pictures(dtype=np.uint8)
    batch, single = layer(x), layer(x[0])
    assert batch.dtype == single.dtype == np.float32
    assert single.shape == batch.shape[1:]
    np.testing.assert_array_equal(layer(x, training=False), layer(x.astype("f4"), training=False))
    labels = np.eye(12, dtype=np.float32)
    made = layer({"images": x, "labels": labels})
    assert made["images"].shape == batch.shape
    if cls not in (layers.MixUp, layers.CutMix):
        np.testing.assert_array_equal(made["labels"], labels)
    one = layer({"images": x[0], "labels": labels[0]})
    assert one["images"].shape == single.shape and one["labels"].shape == (12,)
    drawn = layer.get_random_transformation(x, seed=7)
    np.testing.assert_array_equal(
        layer.transform_images(x, drawn),
        layer.transform_images(x, layer.get_random_transformation(x, seed=7)),
    )
    assert layer.get_random_transformation(x, training=False) is None


def test_in_fit_and_predict():
    def trained(seed):
        set_random_seed(1)
        augment = [
            layers.RandomFlip("horizontal", seed=seed),
            layers.RandomRotation(0.1, seed=seed),
            layers.RandomErasing(seed=seed),
        ]
        head = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2, activation="softmax")]
        model = Sequential([Input((8, 9, 3)), *augment, *head])
        model.compile("sgd", "sparse_categorical_crossentropy")
        history = model.fit(pictures(), np.arange(12) % 2, epochs=3, batch_size=4, verbose=0)
        return model, history.history["loss"]

    (model, losses), (_, again), (_, other) = trained(1), trained(1), trained(2)
    assert losses == again
    assert losses != other
    x = pictures()
    np.testing.assert_array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))
    plain = Model(model.layers[3].input, model.output)
    np.testing.assert_allclose(model.predict(x, verbose=0), plain.predict(x, verbose=0), rtol=1e-6)


def test_a_forced_mode_in_a_graph():
    """training=False switches a layer off; training=True is what Keras writes for all of them."""
    x = pictures()
    inputs = Input((8, 9, 3))
    off = Model(inputs, layers.RandomFlip(seed=1)(inputs, training=False))
    np.testing.assert_array_equal(off(x, training=True), x)
    on = Model(inputs, layers.RandomFlip(seed=1)(inputs, training=True))
    np.testing.assert_array_equal(on.predict(x, verbose=0), x)
    assert differs(on(x, training=True), x)


def test_a_layer_with_weights_in_front_gets_its_gradient():
    inputs = Input((8, 9, 3))
    y = layers.Conv2D(3, 3, padding="same")(inputs)
    for layer in (
        layers.RandomRotation(0.1, seed=1),
        layers.RandomColorJitter((-9, 9), 0.1, 0.2, (0.4, 0.6), 0.1, seed=1),
        layers.MixUp(seed=1),
        layers.Resizing(5, 7, interpolation="bicubic"),
        layers.Normalization(mean=1.0, variance=2.0),
        layers.CenterCrop(4, 4),
    ):
        y = layer(y)
    model = Model(inputs, layers.Flatten()(y))
    x = np.random.default_rng(0).normal(size=(4, 8, 9, 3))
    assert check_gradients(model, x, training=True, verbose=False).passed


def test_mixing_inside_a_model_is_warned_about():
    model = Sequential([Input((8, 9, 3)), layers.MixUp(), layers.Flatten(), layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="mixes the pictures, but not their labels"):
        model.fit(pictures(), np.eye(2)[[0, 1] * 6], verbose=0)


def test_normalization_without_adapt_is_warned_about():
    layer = layers.Normalization()
    model = Sequential([Input((8, 9, 3)), layer, layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="changes nothing: call its adapt"):
        model.fit(pictures() / 255, np.zeros((12, 1)), verbose=0)


def test_normalization_is_exact_far_from_zero():
    x = np.random.default_rng(0).normal(1e6, 3, (500, 4)).astype(np.float32)
    layer = layers.Normalization()
    layer.adapt(x)
    y = layer(x)
    np.testing.assert_allclose(y.std(axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=0.05)
    assert minicnn.layers.Normalization.from_config(layer.get_config()).input_mean is None


def test_adapt_before_and_after_the_model_is_made():
    x = pictures()
    before, after = layers.Normalization(), layers.Normalization()
    before.adapt(x)
    models = [Sequential([Input((8, 9, 3)), layer, layers.Flatten()]) for layer in (before, after)]
    after.adapt(iter([x[:7], x[7:]]))
    a, b = (model.predict(x, verbose=0) for model in models)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(a.std(), 1, rtol=0.01)


def refused(message, make):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


X = np.zeros((2, 8, 9, 3), np.float32)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("flips 'horizontal'", lambda: layers.RandomFlip("sideways")),
        (r"number in \[-1, 1\] .* as factor, not 2", lambda: layers.RandomRotation(2)),
        ("as factor, not 'a'", lambda: layers.RandomRotation("a")),
        ("as factor, not None", lambda: layers.RandomBrightness(None)),
        ("fills in mode 'reflect'", lambda: layers.RandomRotation(0.1, fill_mode="mirror")),
        ("'nearest' or 'bilinear'", lambda: layers.RandomZoom(0.1, interpolation="bicubic")),
        ("finite as fill_value", lambda: layers.RandomZoom(0.1, fill_value=float("nan"))),
        ("above -1", lambda: layers.RandomZoom((-1, 0.5))),
        ("as height_factor, not None", lambda: layers.RandomZoom(None, 0.1)),
        ("as width_factor, not", lambda: layers.RandomTranslation(0.1, (0.1, 0.2, 0.3))),
        ("as x_factor, not -0.5", lambda: layers.RandomShear(-0.5)),
        ("positive integer as height", lambda: layers.RandomCrop(0, 4)),
        ("as factor, not 1.5", lambda: layers.RandomContrast(1.5)),
        ("as value_range", lambda: layers.RandomBrightness(0.1, value_range=(0, 0))),
        ("as value_range", lambda: layers.RandomHue(0.1, value_range=255)),
        ("as scale, not", lambda: layers.RandomErasing(scale=(0.1, 2))),
        ("as fill_value, not 'black'", lambda: layers.RandomErasing(fill_value="black")),
        ("has 2 numbers as fill_value", lambda: layers.RandomErasing(fill_value=[1, 2])(X)),
        ("> 0 as alpha", lambda: layers.MixUp(alpha=0)),
        ("seed, not 'x'", lambda: layers.RandomFlip(seed="x")),
        ("channels_last", lambda: layers.RandomFlip(data_format="channels_first")),
        ("3 channels", lambda: layers.RandomHue(0.1)(np.zeros((2, 4, 4, 1)))),
        ("3 channels", lambda: layers.RandomColorJitter(hue_factor=0.1)(np.zeros((2, 4, 4, 1)))),
        ("4 axes", lambda: layers.RandomFlip()(np.zeros((4, 4)))),
        (
            "transforms 'images' and 'labels'",
            lambda: layers.RandomFlip()({"images": X, "boxes": 1}),
        ),
        ("one array of pictures", lambda: layers.RandomFlip()([X, X])),
        ("one-hot labels", lambda: layers.MixUp()({"images": X, "labels": np.array([0, 1])})),
        ("interpolates bilinear, nearest", lambda: layers.Resizing(4, 4, "area")),
        ("cuts or pads", lambda: layers.Resizing(4, 4, "nearest", True, True)),
        ("fill_mode='constant'", lambda: layers.Resizing(4, 4, fill_mode="reflect")),
        ("positive integer as width", lambda: layers.CenterCrop(4, 1.5)),
        ("mean and variance together", lambda: layers.Normalization(mean=1.0)),
        ("equal shape", lambda: layers.Normalization(mean=[1.0], variance=[1.0, 2.0])),
        ("variance >= 0", lambda: layers.Normalization(mean=1.0, variance=-1.0)),
        ("finite numbers", lambda: layers.Normalization(mean=np.nan, variance=1.0)),
        ("axes of size", lambda: layers.Normalization(mean=[1.0] * 2, variance=[1.0] * 2)(X)),
        ("does not have", lambda: layers.Normalization(axis=5)(X)),
        ("leave them out to adapt", lambda: layers.Normalization(mean=1.0, variance=1.0).adapt(X)),
        ("are empty", lambda: layers.Normalization().adapt(X[:0])),
        ("are empty", lambda: layers.Normalization().adapt(iter([]))),
        ("not finite", lambda: layers.Normalization().adapt(X * np.nan)),
        ("batches that are arrays", lambda: layers.Normalization().adapt([1.0, 2.0])),
        ("not to int", lambda: layers.Normalization().adapt(3)),
        ("was built for", lambda: layers.Normalization().adapt([X, X[..., :2]])),
    ],
)
def test_refused(message, make):
    refused(message, make)
