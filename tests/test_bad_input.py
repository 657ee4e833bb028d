"""Bad input gets one clear error, early, that names the place, what was given, and the fix.

Every message here was read: the patterns hold what a user needs in order to mend the line.
"""

import re
import warnings

import numpy as np
import pytest

import minicnn
from minicnn import Model, Sequential, callbacks, layers, losses, metrics, optimizers
from minicnn.layers import (
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    Rescaling,
    Reshape,
    Softmax,
    UpSampling2D,
    ZeroPadding2D,
)

N = 10


def pictures(*shape):
    return np.random.default_rng(0).normal(size=shape or (N, 8, 8, 3)).astype(np.float32)


def labels(k=3):
    return np.arange(N) % k


def network(shape=(8, 8, 3), units=3, last="softmax", loss="sparse_categorical_crossentropy"):
    parts = [Conv2D(4, 3, name="first"), MaxPooling2D(name="pool"), Flatten()]
    start = [] if shape is None else [Input(shape, name="pixels")]
    model = Sequential([*start, *parts, Dense(units, activation=last, name="probs")], name="net")
    model.compile("sgd", loss, metrics=["accuracy"])
    return model


def refused(message, function, *args, kind=ValueError, **kwargs):
    """The call raises, on one line, a message that contains all these words in this order."""
    pattern = ".*".join(re.escape(word) for word in message.split(" ... "))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind, match=pattern) as caught:
            function(*args, **kwargs)
    assert "\n" not in str(caught.value)


def fit_refused(message, x, y, **arguments):
    """fit refuses, and so does every other way of giving these data; no weight was touched."""
    model = arguments.pop("model", None) or network()
    before = model.get_weights()
    refused(message, model.fit, x, y, verbose=0, **arguments)
    refused(message, model.evaluate, x, y, verbose=0)
    refused(message, model.fit, iter([(x, y)]), verbose=0)
    refused(message, model.train_on_batch, x, y)
    refused(message, model.test_on_batch, x, y)
    good = pictures(), labels()
    if model.output_shape == (None, 3) and isinstance(model.loss, str) and "sparse" in model.loss:
        refused(f"validation_data: ... {message}", model.fit, *good, validation_data=(x, y),
                verbose=0)  # fmt: skip
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


# -- rank and channels of x ------------------------------------------------------------------------

WRONG_X = {
    "no channels": ((N, 8, 8), "got (10, 8, 8) ... np.repeat(x[..., None], 3, -1)"),
    "one channel": ((N, 8, 8, 1), "got (10, 8, 8, 1) ... np.repeat(x, 3, -1)"),
    "channels first": ((N, 3, 8, 8), "got (10, 3, 8, 8) ... x.transpose(0, 2, 3, 1)"),
    "flat": ((N, 192), "got (10, 192) ... x.reshape((-1, 8, 8, 3))"),
    "an axis too many": ((N, 1, 8, 8, 3), "got (10, 1, 8, 8, 3) ... x.reshape((-1, 8, 8, 3))"),
    "another size": ((N, 5, 8, 3), "got (10, 5, 8, 3) ... build the model for (5, 8, 3)"),
    "another size and rank": ((N, 7), "got (10, 7) ... build the model for (7,)"),
}


@pytest.mark.parametrize(("shape", "message"), WRONG_X.values(), ids=WRONG_X)
def test_x_of_a_wrong_shape(shape, message):
    message = f"'net' expects inputs of shape (None, 8, 8, 3) ... 'pixels', {message}"
    fit_refused(message, pictures(*shape), labels())
    refused(message, network().predict, pictures(*shape), verbose=0)
    refused(message, network().predict_on_batch, pictures(*shape))
    refused(message, network(), pictures(*shape))


def test_a_single_picture():
    refused("'net' ... got (8, 8, 3) ... x[None]", network().predict, pictures(8, 8, 3), verbose=0)


def test_grey_pictures_without_their_axis():
    model = network(shape=(8, 8, 1))
    refused("got (10, 8, 8) ... x[..., None]", model.predict, pictures(N, 8, 8), verbose=0)


WRONG_FIRST_X = {
    "no channels": ((N, 8, 8), "Conv2D 'first' expects 4 axes ... (None, 8, 8) ... x[..., None]"),
    "flat": ((N, 192), "Conv2D 'first' expects 4 axes ... (None, 192) ... Reshape"),
    "small": ((N, 2, 2, 3), "Conv2D 'first' ... (3, 3) ... larger ... (2, 2) ... padding='same'"),
}


@pytest.mark.parametrize(("shape", "message"), WRONG_FIRST_X.values(), ids=WRONG_FIRST_X)
def test_first_x_of_a_model_without_input_shape(shape, message):
    model = network(shape=None)
    refused(message, model.fit, pictures(*shape), labels(), verbose=0)
    refused(message, model.predict, pictures(*shape), verbose=0)
    model.fit(pictures(), labels(), verbose=0)  # the mistake left no trace


def test_x_that_is_no_array_of_numbers():
    model = network()
    refused("'net' works on numbers, not on an array of type <U1", network(shape=None).predict,
            np.full((2, 8, 8, 3), "a"), verbose=0)  # fmt: skip
    refused("x holds Python objects ... resize", model.predict, [[1, 2], [3]], verbose=0)
    refused("x holds Python objects", model.fit, np.array([None] * N), labels(), verbose=0)
    refused("not NoneType", model.predict, None, verbose=0, kind=TypeError)
    listed = [pictures(8, 8, 3) for _ in range(N)]
    refused("x has 8 and y has 10 ... np.stack(x)", model.fit, listed, labels(), verbose=0)
    refused("x is a single number", model.fit, 3.0 * np.ones(()), labels(), verbose=0)


SHAPES_IN_THE_GRAPH = {
    "rank": (
        lambda: Sequential([Input((8, 8, 3)), Flatten(), Conv2D(3, 3, name="late")]),
        "Conv2D 'late' expects 4 axes ... (None, 192); put the layer before Flatten",
    ),
    "rank of pooling": (
        lambda: Sequential([Input((8,)), UpSampling2D(name="up")]),
        "UpSampling2D 'up' expects 4 axes (n, height, width, channels), got shape (None, 8)",
    ),
    "channels of a shared Conv2D": (
        lambda: [conv(Input((8, 8, c))) for conv in [Conv2D(2, 3, name="c")] for c in (3, 4)],
        "Conv2D 'c' was built for 3 input channels, got shape (None, 8, 8, 4)",
    ),
    "features of a shared Dense": (
        lambda: [dense(Input((k,))) for dense in [Dense(2, name="d")] for k in (3, 4)],
        "Dense 'd' was built for 3 input features, got shape (None, 4) ... layer of their own",
    ),
    "channels of a shared BatchNormalization": (
        lambda: [norm(Input((k,))) for norm in [BatchNormalization(name="b")] for k in (3, 4)],
        "BatchNormalization 'b' was built for 3 channels on axis -1, got shape (None, 4)",
    ),
    "shapes of Add": (
        lambda: Add(name="sum")([Input((4, 4, 8)), Input((4, 4, 3))]),
        "Add 'sum' adds inputs of equal shape, got [(None, 4, 4, 8), (None, 4, 4, 3)] ... shortcut",
    ),
    "shapes of Concatenate": (
        lambda: Concatenate(name="cat")([Input((8, 2)), Input((4, 2))]),
        "Concatenate 'cat' joins inputs that agree on all axes but -1, got [(None, 8, 2), (None, 4",
    ),
    "one input of Add": (
        lambda: Add(name="sum")(Input((4,))),
        "Add 'sum' joins a list of two or more inputs, got (None, 4)",
    ),
    "sizes of Reshape": (
        lambda: Sequential([Input((8,)), Reshape((3, 3), name="r")]),
        "Reshape 'r' cannot make (3, 3) out of (8,): 8 numbers against 9",
    ),
    "numbers of Rescaling": (
        lambda: Sequential([Input((4, 4, 3)), Rescaling([1.0, 2.0], name="r")]),
        "Rescaling 'r' has 2 numbers as scale for an input (None, 4, 4, 3) ... one per channel",
    ),
    "axis of Softmax": (
        lambda: Sequential([Input((8,)), Softmax(axis=3, name="s")]),
        "Softmax 's' works along axis 3, which an input (None, 8) does not have",
    ),
    "axis of BatchNormalization": (
        lambda: Sequential([Input((8,)), BatchNormalization(axis=3, name="b")]),
        "BatchNormalization 'b' normalises axis 3, which an input (None, 8) does not have",
    ),
    "groups": (
        lambda: Sequential([Input((4, 4, 3)), Conv2D(4, 3, groups=2, name="c")]),
        "Conv2D 'c' got 3 input channels, which do not divide into 2 groups",
    ),
    "unknown size": (
        lambda: Sequential([Input((None, None, 3)), Flatten(), Dense(3, name="d")]),
        "Dense 'd' needs to know axes (-1,) of its input (None, None); give Input a full shape",
    ),
    "noise shape": (
        lambda: Sequential([Input((8, 4)), Dropout(0.5, (None, 3, 1), name="n")])(
            np.ones((1, 8, 4)), training=True
        ),
        "Dropout 'n' has noise_shape (None, 3, 1), which does not broadcast to (1, 8, 4)",
    ),
    "rank 1": (lambda: Dense(3, name="d")(np.ones(4)), "Dense 'd' expects at least 2 axes"),
}


@pytest.mark.parametrize(("make", "message"), SHAPES_IN_THE_GRAPH.values(), ids=SHAPES_IN_THE_GRAPH)
def test_shapes_that_do_not_fit_a_layer(make, message):
    refused(message, make)


# -- windows larger than the input -----------------------------------------------------------------

TOO_LARGE = {
    "kernel": (
        [Conv2D(2, 5, name="big")],
        "Conv2D 'big' has a kernel of (5, 5) ... larger than its input of (4, 4) ... 'same'",
    ),
    "dilated kernel": (
        [Conv2D(2, 3, dilation_rate=2, name="big")],
        "Conv2D 'big' has a kernel of (3, 3) with dilation (2, 2), larger than ... (4, 4)",
    ),
    "pool": ([MaxPooling2D(5, name="big")], "'big' has a window of (5, 5), larger ... (4, 4)"),
    "too much pooling": (
        [MaxPooling2D(), MaxPooling2D(), MaxPooling2D(name="last")],
        "MaxPooling2D 'last' has a window of (2, 2), larger than its input of (1, 1) pixels",
    ),
}


@pytest.mark.parametrize(("parts", "message"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_windows_larger_than_the_input(parts, message):
    def configured():
        return [type(part).from_config(part.get_config()) for part in parts]

    refused(message, lambda: Sequential([Input((4, 4, 3)), *configured()]))
    refused(message, Sequential(configured()).predict, pictures(2, 4, 4, 3), verbose=0)
    model = Sequential([Input((None, None, 3)), *configured()])  # only the data tell
    refused(message, model.predict, pictures(2, 4, 4, 3), verbose=0)
    same = [type(p).from_config({**p.get_config(), "padding": "same"}) for p in parts]
    assert Sequential([Input((4, 4, 3)), *same]).output_shape[0] is None


# -- labels and targets ----------------------------------------------------------------------------

WRONG_LABELS = {
    "from 1": (labels() + 1, "is 3 at index 2 ... has 3 classes, labels are 0..2; ... use y - 1"),
    "too large": (labels() * 100, "is 100 at index 1 ... 3 classes ... give the last layer 201"),
    "negative": (labels() - 1, "is -1 at index 0 ... labels are 0..2; count the classes from 0"),
    "fractions": (labels() + 0.5, "is 0.5 at index 0: labels are integers"),
    "text": (np.array([*"abcabcabca"]), "holds <U1, not numbers: map class names to integers"),
    "NaN": (np.where(labels() == 1, np.nan, labels()), "is nan at index 1: remove or replace it"),
    "infinity": (np.where(labels() == 1, np.inf, labels()), "is inf at index 1"),
    "one-hot": (np.eye(3)[labels()], "has shape (10, 3): one-hot ... use categorical_crossentropy"),
    "one-hot of a column": (
        labels()[:, None, None],
        "has shape (10, 1, 1) ... needs one integer label per sample, (n,), for ... (n, 3)",
    ),
}


@pytest.mark.parametrize(("y", "message"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels_that_do_not_fit(y, message):
    fit_refused(f"y of output 'probs' {message}", pictures(), y)


def test_labels_as_objects():
    refused("y holds Python objects ... map class names to integers", network().fit, pictures(),
            np.array([*"abcabcabca"], object), verbose=0)  # fmt: skip


WRONG_TARGETS = {
    "labels for categorical": (
        dict(loss="categorical_crossentropy"),
        labels(),
        "'probs' has shape (10,): integer labels ... sparse_categorical_crossentropy, or ... "
        "to_categorical(y, 3)",
    ),
    "a column of labels for categorical": (
        dict(loss="categorical_crossentropy"),
        labels()[:, None],
        "'probs' has shape (10, 1): integer labels ... sparse_categorical_crossentropy",
    ),
    "one-hot of other classes": (
        dict(loss="categorical_crossentropy"),
        np.eye(4)[labels(4)],
        "'probs' has shape (10, 4); CategoricalCrossentropy needs the output's shape (n, 3)",
    ),
    "(n,) against (n, k)": (
        dict(loss="mse", last=None),
        labels().astype(np.float32),
        "'probs' has shape (10,), one number per sample, and the output (n, 3) needs y of the same",
    ),
    "(n, 1) against (n, k)": (
        dict(loss="mae", last=None),
        labels()[:, None].astype(np.float32),
        "'probs' has shape (10, 1), one number per sample, and the output (n, 3) needs",
    ),
    "(n, k) against (n, 1)": (
        dict(loss="mse", last=None, units=1),
        np.eye(3)[labels()],
        "'probs' has shape (10, 3); the output (n, 1) needs y of the same shape",
    ),
    "(n, n) against (n, 1)": (
        dict(loss="huber", last=None, units=1),
        np.zeros((N, N)),
        "'probs' has shape (10, 10); the output (n, 1) needs y of the same shape",
    ),
    "binary (n,) against (n, k)": (
        dict(loss="binary_crossentropy", last="sigmoid"),
        labels(2),
        "'probs' has shape (10,), one number per sample, and the output (n, 3) needs",
    ),
    "NaN": (
        dict(loss="mse", last=None, units=1),
        np.where(labels() == 1, np.nan, 0.0),
        "'probs' is nan at index 1: remove or replace it",
    ),
}


@pytest.mark.parametrize(("arguments", "y", "message"), WRONG_TARGETS.values(), ids=WRONG_TARGETS)
def test_targets_that_do_not_fit(arguments, y, message):
    fit_refused(f"y of output {message}", pictures(), y, model=network(**arguments))


def test_targets_that_fit_after_a_reshape_are_taken():
    x, y = pictures(), labels(2).astype(np.float32)
    model = network(loss="mse", last=None, units=1)
    assert model.evaluate(x, y, verbose=0) == model.evaluate(x, y[:, None], verbose=0)
    model = network(loss="sparse_categorical_crossentropy")
    assert model.evaluate(x, y, verbose=0) == model.evaluate(x, labels(2)[:, None], verbose=0)


def test_what_keras_runs_and_is_probably_a_mistake_warns():
    model = network(loss="binary_crossentropy", last="sigmoid", units=1)
    with pytest.warns(UserWarning, match="'probs' is 2 at index 2.*expects 0..1"):
        model.fit(pictures(), labels(), verbose=0)
    with pytest.warns(UserWarning, match="'probs': softmax over one unit is always 1; use sigmoid"):
        model = network(loss="categorical_crossentropy", units=1)
    with pytest.warns(UserWarning, match="single class is constant: use binary_crossentropy"):
        model.fit(pictures(), labels(2), verbose=0)
    with pytest.warns(UserWarning, match="'probs' ends in linear, but SparseCategorical.*logits"):
        network(last=None)


# -- NaN in x, lengths -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_x_that_is_not_finite(value):
    x = pictures()
    x[3, 1, 2, 0] = value
    fit_refused(
        f"'net' got {value} in x at index (3, 1, 2, 0) of input 'pixels', shape (10, 8, 8, 3)",
        x,
        labels(),
    )


def test_not_finite_in_one_of_several_inputs():
    a, b = Input((4,), name="a"), Input((3,), name="b")
    model = Model([a, b], Dense(1)(Concatenate()([a, b])), name="two")
    model.compile("sgd", "mse")
    x = {"b": np.full((N, 3), np.nan), "a": np.ones((N, 4))}
    refused("'two' got nan ... (0, 0) of input 'b', shape (10, 3)", model.fit, x, np.ones(N))


def test_lengths_that_differ():
    fit_refused("x has 10 and y has 9", pictures(), labels()[:9])
    x, y = pictures(), labels()
    for weight in (np.ones(9), np.ones((9, 1))):
        refused("x has 10 and sample_weight has 9", network().fit, x, y, sample_weight=weight)
    refused("one weight per sample, shape (10,)", network().fit, x, y, verbose=0,
            sample_weight=np.ones((N, 2)))  # fmt: skip
    refused("sample_weight holds NaN", network().fit, x, y, sample_weight=np.full(N, np.nan))
    refused("y is missing", network().fit, x)
    refused("validation_data: give (x, y)", network().fit, x, y, validation_data=x, verbose=0)
    refused("validation_data: ... not int", network().fit, x, y, validation_data=3, verbose=0,
            kind=TypeError)  # fmt: skip
    refused("x holds no samples", network().predict, x[:0], verbose=0)


def test_numbers_of_inputs_and_outputs():
    a, b = Input((4,), name="a"), Input((3,), name="b")
    h = Concatenate()([a, b])
    model = Model([a, b], [Dense(1, name="p")(h), Dense(2, name="q")(h)], name="two")
    model.compile("sgd", "mse")
    x, y = [np.ones((N, 4)), np.ones((N, 3))], [np.ones((N, 1)), np.ones((N, 2))]
    refused("'two' takes 2 inputs, got shapes", model.fit, x[:1], y, verbose=0)
    refused("'two' needs inputs ['a', 'b'], got ['a']", model.fit, {"a": x[0]}, y, verbose=0)
    refused("y has 1 arrays for 2 outputs ['p', 'q']", model.fit, x, y[:1], verbose=0)
    refused("y names output 'pp'. Did you mean 'p'?", model.fit, x, {"pp": y[0]}, verbose=0)
    refused("output 'q' has a loss but no targets", model.fit, x, {"p": y[0]}, verbose=0)
    refused("loss has 3 entries for 2 outputs ['p', 'q']", model.compile, "sgd", ["mse"] * 3)
    refused("loss names output 'w'", model.compile, "sgd", {"w": "mse"})
    refused("a dict by output name or a list", model.compile, "sgd", "mse", metrics=["mae"] * 3)
    refused("class_weight works for models with one output", model.fit, x, y, verbose=0,
            class_weight={0: 1.0})  # fmt: skip


# -- unknown names, with the closest ---------------------------------------------------------------

UNKNOWN = {
    "activation": (lambda: Conv2D(3, 3, activation="rellu"), "activation 'rellu' ... 'relu'?"),
    "initializer": (lambda: Dense(3, kernel_initializer="he_norml"), "'he_norml' ... 'he_normal'?"),
    "regularizer": (lambda: Dense(3, bias_regularizer="l1l22"), "regularizer 'l1l22' ... 'l1l2'?"),
    "constraint": (lambda: Dense(3, kernel_constraint="nonneg_"), "constraint 'nonneg_' ... non"),
    "padding": (lambda: Conv2D(3, 3, padding="sam"), "'valid' or 'same' as padding, not 'sam'"),
    "optimizer": (lambda: network().compile("adm"), "optimizer 'adm'. Did you mean 'adam'?"),
    "loss": (
        lambda: network().compile("adam", "categorical_crossentropi"),
        "loss 'categorical_crossentropi'. Did you mean 'categorical_crossentropy'?",
    ),
    "metric": (
        lambda: network().compile("adam", "mse", metrics=["acuracy"]),
        "metric 'acuracy'. Did you mean 'accuracy'?",
    ),
    "weighted metric": (
        lambda: network().compile("adam", "mse", weighted_metrics=["precison"]),
        "metric 'precison'. Did you mean 'precision'?",
    ),
    "metric of an output": (
        lambda: network().compile("adam", "mse", metrics={"prob": "mae"}),
        "metrics names output 'prob'. Did you mean 'probs'?",
    ),
    "layer": (lambda: network().get_layer("frist"), "no layer 'frist'. Did you mean 'first'?"),
    "layer class": (
        lambda: layers.deserialize({"class_name": "Conv2d", "config": {}}),
        "layer class 'Conv2d'. Did you mean 'Conv2D'?",
    ),
    "optimizer by name": (lambda: optimizers.get("sgdd"), "'sgdd'. Did you mean 'sgd'?"),
    "loss by name": (
        lambda: losses.get("mean_square_error"),
        "Did you mean 'mean_squared_error'?",
    ),
    "metric by name": (lambda: metrics.get("precison"), "Did you mean 'precision'?"),
    "argument of an optimizer": (
        lambda: optimizers.Adam(learning_rat=0.1),
        "Adam takes no argument 'learning_rat'. Did you mean 'learning_rate'?",
    ),
    "an old argument of an optimizer": (lambda: optimizers.SGD(lr=0.1), "called learning_rate"),
}


@pytest.mark.parametrize(("make", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_names(make, message):
    refused(message, make)


def test_unknown_arguments_of_layers_and_models():
    for make, message in (
        (lambda: Dense(3, activaton="relu"), "Dense ... no argument 'activaton' ... 'activation'"),
        (lambda: Conv2D(3, 3, paddding="same"), "Conv2D ... no argument 'paddding' ... 'padding'"),
        (lambda: Model(input=1, outputs=2), "Model takes no argument 'input'. ... 'inputs'?"),
        (lambda: Sequential(layer=[]), "Sequential takes no argument 'layer'. ... 'layers'?"),
        (lambda: Dense(unit=3), "'units'"),
        (lambda: network().compile(optimiser="adam"), "compile() ... 'optimiser'"),
        (lambda: network().fit(epoch=3), "fit() ... 'epoch'"),
        (lambda: Conv2D(3, 3, name=5), "Conv2D: name is a string, not 5"),
        (lambda: network().compile("adam", 3), "3 is no loss"),
        (
            lambda: network(loss="mse").compile("adam", "mse", ["accuracy"]),
            "loss_weights holds a number for each output, not 'accuracy' ... metrics=[...]",
        ),
    ):
        refused(message, make, kind=TypeError)


# -- trained models that are not here --------------------------------------------------------------


@pytest.mark.parametrize("name", ["VGG16", "ResNet50", "MobileNetV2"])
def test_image_models_are_refused_by_name(name):
    message = f"'{name}': minicnn has no trained image models ... build the network"
    refused(message, lambda: getattr(minicnn.applications, name)(weights="imagenet"),
            kind=ImportError)  # fmt: skip
    refused(message, exec, f"from minicnn.applications import {name}", kind=ImportError)


def test_families_of_image_models_are_refused_by_name():
    message = "minicnn has no trained image models"
    for code in (
        "from minicnn.applications.vgg16 import VGG16, preprocess_input",
        "import minicnn.applications.resnet50 as r; r.ResNet50()",
        "from minicnn.applications import vgg16; vgg16.VGG16()",
    ):
        refused(message, exec, code, kind=ImportError)
    assert not hasattr(minicnn.applications, "__path__")


# -- numbers out of range --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 2.5, "8", True, np.nan])
def test_batch_size_and_epochs(value):
    x, y, model = pictures(), labels(), network()
    for name in ("batch_size", "epochs", "steps_per_epoch"):
        refused(f"{name} is a positive integer, not {value!r}", model.fit, x, y, **{name: value})
    for name in ("validation_batch_size", "validation_steps"):
        refused(f"{name} is a positive integer, not {value!r}", model.fit, x, y, verbose=0,
                validation_data=(x, y), **{name: value})  # fmt: skip
    refused(f"batch_size is a positive integer, not {value!r}", model.evaluate, x, y, value)
    refused(f"batch_size is a positive integer, not {value!r}", model.predict, x, value)
    refused(f"steps is a positive integer, not {value!r}", model.predict, x, steps=value)


def test_numpy_integers_are_integers():
    network().fit(pictures(), labels(), batch_size=np.int64(4), epochs=np.int32(1), verbose=0)


def test_other_arguments_of_fit():
    x, y, model = pictures(), labels(), network()
    for arguments, message in (
        (dict(initial_epoch=3), "initial_epoch is an integer in 0..epochs=1, not 3"),
        (dict(initial_epoch=-1), "initial_epoch is an integer in 0..epochs=1, not -1"),
        (dict(initial_epoch="1"), "initial_epoch is an integer in 0..epochs=1, not '1'"),
        (dict(validation_split="a"), "validation_split is a fraction in [0, 1), not 'a'"),
        (dict(validation_split=1.0), "validation_split is a fraction in [0, 1), not 1.0"),
        (dict(verbose=3), "verbose is 'auto', 0, 1 or 2, not 3"),
    ):
        refused(message, model.fit, x, y, **arguments)
    refused("write EarlyStopping(...) with brackets", model.fit, x, y,
            callbacks=[callbacks.EarlyStopping], kind=TypeError)  # fmt: skip
    refused("not 'early'", model.fit, x, y, callbacks=["early"], kind=TypeError)


ARGUMENTS = {
    "filters 0": (lambda: Conv2D(0, 3, name="c"), "Conv2D 'c' ... integer as filters, not 0"),
    "filters 2.5": (lambda: Conv2D(2.5, 3), "positive integer as filters, not 2.5"),
    "kernel 0": (lambda: Conv2D(2, 0), "an integer >= 1 or a pair of them as kernel_size, not 0"),
    "kernel of 3": (lambda: Conv2D(2, (3, 3, 3)), "pair of them as kernel_size, not (3, 3, 3)"),
    "strides 0": (lambda: Conv2D(2, 3, strides=0), "as strides, not 0"),
    "groups": (lambda: Conv2D(3, 3, groups=2), "filters divisible by groups, not 3 filters, 2"),
    "strides and dilation": (
        lambda: Conv2D(3, 3, strides=2, dilation_rate=2),
        "strides or dilation_rate above 1, not both: (2, 2) and (2, 2)",
    ),
    "channels first": (
        lambda: Conv2D(3, 3, data_format="channels_first"),
        "data_format='channels_last', not 'channels_first' ... x.transpose(0, 2, 3, 1)",
    ),
    "dtype": (lambda: Conv2D(3, 3, dtype="float16"), "'float32' or 'float64', not 'float16'"),
    "units 0": (lambda: Dense(0), "Dense ... takes a positive integer as units, not 0"),
    "units as text": (lambda: Dense("10"), "positive integer as units, not '10'"),
    "rate above 1": (lambda: Dropout(1.5), "Dropout ... a number in [0, 1) as rate, not 1.5"),
    "rate in percent": (lambda: Dropout(20), "a number in [0, 1) as rate, not 20"),
    "pool 0": (lambda: MaxPooling2D(0), "MaxPooling2D ... as pool_size, not 0"),
    "padding -1": (lambda: ZeroPadding2D(-1), "ZeroPadding2D ... >= 0 ... as padding, not -1"),
    "size 0": (lambda: UpSampling2D(0), "UpSampling2D ... as size, not 0"),
    "reshape 0": (lambda: Reshape((0, 3)), "positive sizes and at most one -1, not (0, 3)"),
    "momentum": (lambda: BatchNormalization(momentum=2), "a number in [0, 1] as momentum, not 2"),
    "epsilon": (lambda: BatchNormalization(epsilon="a"), "a number >= 0 as epsilon, not 'a'"),
    "axis": (lambda: layers.Softmax(axis=None), "Softmax ... an integer as axis, not None"),
    "max_value": (lambda: layers.ReLU("6"), "ReLU ... a number >= 0 as max_value, not '6'"),
    "sizes": (lambda: Reshape((2, "a")), "Reshape ... an integer as each size of target_shape"),
    "input 0": (lambda: Input((0, 3), name="i"), "InputLayer 'i' ... None as shape, not (0, 3)"),
    "input -1": (lambda: Input(batch_shape=(None, -1)), "None as batch_shape, not (None, -1)"),
    "input_shape": (lambda: Dense(3, input_shape=(4.5,)), "None as input_shape, not (4.5,)"),
    "no shape": (lambda: Input(), "InputLayer ... needs shape=, without the batch axis"),
    "weights": (lambda: Dense(3, weights="imagenet"), "as weights, not 'imagenet'; minicnn has no"),
    "slope": (lambda: layers.LeakyReLU(-1), "LeakyReLU ... >= 0 as negative_slope, not -1"),
    "learning rate": (lambda: optimizers.SGD(-0.1), "SGD ... >= 0 as learning_rate, not -0.1"),
    "clipnorm": (lambda: optimizers.SGD(clipnorm=0), "SGD ... > 0 as clipnorm, not 0"),
}


@pytest.mark.parametrize(("make", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_of_layers_and_optimizers(make, message):
    refused(message, make)


# -- models that are not ready ---------------------------------------------------------------------


def test_models_that_are_not_ready():
    x, y = pictures(), labels()
    plain = Sequential([Input((8, 8, 3)), Flatten(), Dense(3)], name="plain")
    for method in (plain.fit, plain.evaluate, plain.train_on_batch, plain.test_on_batch):
        refused("Sequential 'plain' is not compiled: call compile(", method, x, y)
    plain.compile("sgd")
    refused("Sequential 'plain' was compiled without a loss", plain.fit, x, y)
    empty = Sequential(name="empty")
    refused("Sequential 'empty' has no layers: add some first", empty.predict, x)
    unbuilt = network(shape=None)
    refused("'net' is not built: its weights depend on the input shape", unbuilt.count_params)
    refused("'net' is not built: give its first layer input_shape=", lambda: unbuilt.output_shape)


def test_graphs_that_are_wrong():
    a, b = Input((4,), name="a"), Input((4,), name="b")
    h = Dense(2, name="h")(a)
    refused("disconnected: the outputs depend on input 'a' (None, 4)", Model, b, h)
    refused("disconnected", Model, [b], [Add()([h, Dense(2)(b)])])
    refused("as outputs ... not <Dense", Model, a, Dense(2), kind=TypeError)
    refused("needs inputs= and outputs=", Model, a)
    array = "as inputs ... not an array of shape (2, 4)"
    refused(array, Model, np.ones((2, 4)), h, kind=TypeError)
    refused("takes layers, not <class", Sequential, [Dense])
    refused("takes a list of layers, not <Dense", Sequential, Dense(3))
    refused("symbolic tensors and arrays mixed", Add(name="s"), [h, np.ones((1, 2))])
    refused("is symbolic and has no values: pass it to a layer", np.mean, h, kind=TypeError)
    for operation in (lambda: h + h, lambda: 2 * h, lambda: -h, lambda: h[:, 0], lambda: [*h]):
        refused("operators do not work on it: use layers, e.g. Add()", operation, kind=TypeError)
    refused("takes layers with one output", Sequential, [Model(a, [h, Dense(2)(a)])])


def test_older_names_of_arguments_are_taken_with_a_warning():
    with pytest.warns(UserWarning, match="alpha is now called negative_slope") as caught:
        layer = layers.LeakyReLU(alpha=0.1)
    assert layer.negative_slope == 0.1
    assert caught[0].filename == __file__
