"""check_training and CheckTraining: for each check a case that passes and a planted fault."""

import random
import threading
import warnings

import numpy as np
import pytest

import minicnn
from minicnn import callbacks, layers, optimizers, randomness
from minicnn.checks import Report, arrays
from minicnn.data import PyDataset


def pictures(count, seed=0, k=2, size=16):
    """Noise with a bright column whose place tells the class."""
    generator = np.random.default_rng([seed, 5])
    y = generator.permutation(np.arange(count) % k)
    x = generator.random((count, size, size, 3), np.float32) * 0.6
    for row, c in zip(x, y, strict=True):
        row[:, 2 + c * (size - 4) // k] += 0.6
    return x, y


def network(k=2, size=16, loss="sparse_categorical_crossentropy", rate=0.01, **compile_arguments):
    minicnn.set_random_seed(4)
    last = layers.Dense(k, activation="softmax")
    if loss == "binary_crossentropy" and k == 1:
        last = layers.Dense(1, activation="sigmoid")
    model = minicnn.Sequential(
        [layers.Input((size, size, 3)), layers.Conv2D(4, 3, strides=2), layers.LeakyReLU()]
        + [layers.Flatten(), layers.Dense(8, activation="tanh"), last]
    )
    compile_arguments.setdefault("metrics", ["accuracy"])
    model.compile(optimizers.Adam(rate), loss, **compile_arguments)
    return model


X, Y = pictures(320)
HELD = pictures(200, seed=1)
QUICK = dict(steps=30, samples=256, verbose=False)


def check(model, x=X, y=Y, validation_data=HELD, **arguments):
    return minicnn.check_training(model, x, y, validation_data, **{**QUICK, **arguments})


@pytest.fixture(scope="module")
def sound():
    return check(network())


CHECKS = (
    "labels",
    "input values",
    "input scale",
    "same preparation",
    "duplicates",
    "class balance",
    "sorted data",
    "label conflicts",
    "validation size",
    "first loss",
    "one batch",
    "real labels",
    "accuracy metric",
    "shuffled labels",
    "dead units",
    "current model",
)


@pytest.mark.parametrize("name", CHECKS)
def test_sound_data_pass(sound, name):
    expected = "skipped" if name in ("sorted data", "current model") else "pass"
    assert sound[name].verdict == expected, str(sound[name])


def test_the_report(sound, capsys):
    assert tuple(sound) == CHECKS and sound and not sound.failed and not sound.warned
    assert len(sound.skipped) == 2 and "labels" in sound and "label" not in sound
    with pytest.raises(KeyError, match="no check 'labls'; there are: labels,"):
        sound["labls"]
    text = str(sound)
    assert all(name in text for name in CHECKS) and "0 failed, 0 warnings" in text
    sound.print()
    assert "0 failed" in capsys.readouterr().out
    assert sound.as_dict()["class balance"]["majority_guess"] == 0.5
    assert repr(sound) == "<Training check: 14 pass, 2 skipped>"
    failed = Report([arrays.check_balance(np.zeros(5, int), 2)])
    assert not failed and "only class 0 occurs" in str(failed)


# -- planted faults -------------------------------------------------------------------------------


def test_labels_outside():
    report = check(network(), y=Y + 1)
    assert report["labels"].verdict == "fail" and not report
    assert report["first loss"].verdict == "skipped"


def test_nan_in_x():
    x = X.copy()
    x[7, 3] = np.nan
    report = check(network(), x)
    assert report["input values"].verdict == "fail" and "index 7" in report["input values"].measured


def test_constant_inputs():
    assert check(network(), X[:1].repeat(320, 0))["input values"].verdict == "fail"
    x = X.copy()
    x[5:9] = 0
    row = check(network(), x, steps=0)["input values"]
    assert row.verdict == "warn" and "4 of 320 inputs are constant" in row.measured


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pixels_that_nobody_scaled(dtype):
    x, held = ((np.clip(one, 0, 1) * 255).astype(dtype) for one in (X, HELD[0]))
    model = network()
    model.layers[3].activation = minicnn.activations.get("relu")
    report = check(model, x, validation_data=(held, HELD[1]), steps=0)
    assert report["input scale"].verdict == "fail"
    assert "Rescaling(1 / 255)" in report["input scale"].advice
    assert report["first loss"].verdict in ("warn", "fail")


def test_a_layer_that_scales():
    for first in (layers.Rescaling(1 / 255), layers.BatchNormalization()):
        model = minicnn.Sequential([layers.Input((16, 16, 3)), first, *network().layers])
        model.compile("adam", "sparse_categorical_crossentropy")
        assert check(model, X * 255, steps=0)["input scale"].verdict == "pass"


def test_splits_prepared_differently():
    report = check(network(), validation_data=(HELD[0] * 255, HELD[1]), steps=0)
    assert report["same preparation"].verdict == "fail"


def test_a_loss_far_from_not_knowing():
    model = network()
    model.layers[-1].kernel.assign(model.layers[-1].kernel.value * 40)
    row = check(model, steps=0)["first loss"]
    assert row.verdict == "fail" and "near 0.6931, ln 2" in row.expected


@pytest.mark.parametrize(
    ("loss", "k", "targets", "guess"),
    [
        ("binary_crossentropy", 1, Y, np.log(2)),
        ("categorical_crossentropy", 2, np.eye(2, dtype="float32")[Y], np.log(2)),
        ("mse", 2, np.eye(2, dtype="float32")[Y], 0.25),
    ],
)
def test_first_loss_of_other_losses(loss, k, targets, guess):
    report = check(network(k, loss=loss), X, targets, None, steps=0)
    assert report["first loss"].figures["guess"] == pytest.approx(guess, rel=1e-2)
    assert report["first loss"].verdict == "pass"
    assert report["class balance"].verdict == "pass"


def test_penalties_are_no_part_of_the_first_loss():
    model = network()
    model.layers[0].kernel.regularizer = minicnn.regularizers.L2(10.0)
    row = check(model, steps=0)["first loss"]
    assert row.verdict == "pass" and "penalties" in row.measured


def test_one_batch_that_cannot_be_learnt():
    model = network()
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.layers[-1].kernel.assign(np.zeros((8, 2)))
    model.layers[0].kernel.assign(np.zeros((3, 3, 3, 4)))  # nothing of the picture arrives
    report = check(model)
    assert report["one batch"].verdict == "fail"
    assert (
        report["real labels"].verdict == "fail"
        and "it says class" in report["real labels"].measured
    )
    assert report["dead units"].verdict == "fail"


def test_a_rate_that_is_too_low():
    row = check(network(rate=1e-9))["one batch"]
    assert row.verdict == "warn" and "Adam with learning rate 1e-09 is too slow" in row.advice


def test_labels_that_mean_nothing():
    y = np.random.default_rng(0).integers(0, 2, 320)
    held = HELD[0], np.random.default_rng(1).integers(0, 2, 200)
    report = check(network(), y=y, validation_data=held, steps=100)
    assert report["real labels"].verdict == "fail"
    assert "by heart" in report["real labels"].advice


def test_an_accuracy_that_counts_zeros():
    """binary_accuracy of one-hot rows of ten classes: 90 % for saying nothing."""
    x, y = pictures(320, k=10, size=24)
    held = pictures(200, seed=1, k=10, size=24)
    rows = np.eye(10, dtype="float32")
    model = network(10, 24, "categorical_crossentropy", metrics=["binary_accuracy"])
    report = check(model, x, rows[y], (held[0], rows[held[1]]), steps=10)
    assert report["accuracy metric"].verdict == "fail"
    assert report["shuffled labels"].verdict == "fail"


def test_dead_units():
    model = minicnn.Sequential(
        [layers.Input((16, 16, 3)), layers.Conv2D(4, 3, activation="relu")]
        + [layers.Flatten(), layers.Dense(2, activation="softmax")]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.layers[0].bias.assign(np.full(4, -100.0))
    row = check(model, steps=0)["dead units"]
    assert row.verdict == "fail" and "4 of 4 units of 'conv2d" in row.measured


def test_pictures_in_both_splits():
    held = np.concatenate([HELD[0][:150], X[:50]]), np.concatenate([HELD[1][:150], Y[:50]])
    row = check(network(), validation_data=held, steps=0)["duplicates"]
    assert row.verdict == "fail" and row.figures["exact"] == 50 and row.figures["near"] == 0
    assert row.figures["pairs"][0] == (0, 150)


def test_pictures_that_look_the_same():
    generator = np.random.default_rng(3)
    smooth = generator.random((40, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    noisy = smooth[:6] + generator.normal(0, 0.01, (6, 32, 32, 3))
    other = generator.random((20, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    row = arrays.check_duplicates(smooth, np.concatenate([other, noisy]))
    assert row.verdict == "warn" and row.figures["exact"] == 0 and row.figures["near"] == 6
    assert arrays.check_duplicates(smooth, other).verdict == "pass"


def test_one_class_is_most_of_it():
    y = (np.arange(320) % 10 == 0).astype(int)
    row = check(network(), y=y, steps=0)["class balance"]
    assert row.verdict == "warn" and row.figures["majority_guess"] == 0.9
    assert "class_weight" in row.advice
    row = check(network(3), steps=0)["class balance"]
    assert row.verdict == "warn" and "no sample of class 2" in row.measured


def test_sorted_data():
    order = np.argsort(Y, kind="stable")
    report = check(network(), X[order], Y[order], None, validation_split=0.5, steps=0)
    assert report["sorted data"].verdict == "fail"
    assert "classes [1] are in the validation tail only" in report["sorted data"].measured
    y = np.concatenate([np.zeros(150, int), np.arange(20) % 2, np.ones(150, int)])
    report = check(network(), X, y, None, validation_split=0.4, steps=0)
    assert report["sorted data"].verdict == "fail" and "differ by" in report["sorted data"].measured
    report = check(network(), X, Y, None, validation_split=0.2, steps=0)
    assert report["sorted data"].verdict == "pass"


def test_the_same_picture_with_two_labels():
    x, y = np.concatenate([X, X[:20]]), np.concatenate([Y, 1 - Y[:20]])
    row = check(network(), x, y, steps=0)["label conflicts"]
    assert row.verdict == "fail" and "20 of them with another label" in row.measured


def test_too_little_validation_data():
    small = check(network(), validation_data=(HELD[0][:12], HELD[1][:12]), steps=0)
    assert small["validation size"].verdict == "warn"
    tiny = check(network(), validation_data=(HELD[0][:3], HELD[1][:3]), steps=2)
    assert tiny["validation size"].verdict == "fail"
    assert tiny["real labels"].verdict == "skipped"


def test_wilson_interval():
    """Agresti and Coull 1998 and Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for right, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert arrays.wilson_interval(right, count) == pytest.approx((low, high), abs=5e-5)
    assert arrays.wilson_interval(0, 0) == (0.0, 1.0)
    assert arrays.smallest_telling(0.5, 3) is None


# -- the case that this is for --------------------------------------------------------------------


def test_a_model_that_says_the_majority_class():
    """96 % in the lab, a coin toss in use: 24 of 25 pictures show one person."""
    y = (np.arange(320) % 25 == 0).astype(int)
    held = HELD[0], (np.arange(200) % 25 == 0).astype(int)
    model = network()
    model.layers[-1].kernel.assign(np.zeros((8, 2)))
    model.layers[-1].bias.assign(np.array([3.0, 0.0]))
    model.fit(X, y, epochs=1, verbose=0)  # it counts as trained
    model.layers[-1].kernel.assign(np.zeros((8, 2)))
    assert model.evaluate(*held, verbose=0)[1] == pytest.approx(0.96)
    report = check(model, y=y, validation_data=held)
    row = report["current model"]
    assert row.verdict == "fail" and "says class 0 to everything" in row.measured
    assert "96.0 %" in row.expected and "coin toss" in row.advice
    assert report["class balance"].verdict == "warn"


def test_a_model_that_was_trained_well():
    model = network()
    model.fit(X, Y, epochs=4, verbose=0)
    report = check(model)
    assert report["current model"].verdict == "pass" and report, str(report)
    assert report["first loss"].verdict == "pass"  # of fresh weights


# -- nothing of the caller's changes --------------------------------------------------------------


def test_nothing_of_the_callers_changes():
    model = network()
    model.fit(X[:64], Y[:64], epochs=1, verbose=0)
    x, y = X.copy(), Y.copy()
    randomness.next_seed()
    weights = model.get_weights()
    state = [np.array(array) for _, array in model.optimizer.state()]
    history, seen = model.history, model.get_metrics_result()
    stream = randomness._stream.bit_generator.state
    numpys, pythons = np.random.get_state(), random.getstate()
    addresses = [parameter.value.ctypes.data for parameter in model.weights]
    check(model, x, y)
    assert (x == X).all() and (y == Y).all()
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    for before, (_, after) in zip(state, model.optimizer.state(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert model.history is history and model.get_metrics_result() == seen
    assert randomness._stream.bit_generator.state == stream
    assert random.getstate() == pythons
    np.testing.assert_array_equal(np.random.get_state()[1], numpys[1])
    assert [parameter.value.ctypes.data for parameter in model.weights] == addresses
    counted = minicnn.Sequential([layers.Dense(2)]).layers[0].name
    check(model, x, y, steps=0)
    after = minicnn.Sequential([layers.Dense(2)]).layers[0].name
    number = [int(name.partition("_")[2] or 0) for name in (counted, after)]
    assert number[1] == number[0] + 1  # and the counters of names stand where they stood


def test_a_model_that_was_compiled_anew():
    """Its weights lie in the buffers of an optimizer that has gone."""
    model = network()
    model.fit(X, Y, epochs=1, verbose=0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    weights = model.get_weights()
    assert check(model, steps=10)["one batch"].verdict in ("pass", "warn")
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_model_that_is_not_built_stays_so():
    model = minicnn.Sequential([layers.Flatten(), layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    report = check(model, steps=2)
    assert not model.built and report["labels"].verdict == "pass"


class Own(layers.Layer):
    """A layer that nobody registered."""

    def __init__(self, **base):
        super().__init__(**base)
        self.held = None

    def forward(self, x, context):
        return x * 2, None

    def backward(self, dy, saved, needs_dx):
        return dy * 2


def test_layers_of_the_users():
    last = layers.Dense(2, activation="softmax")
    model = minicnn.Sequential([layers.Input((16, 16, 3)), Own(), layers.Flatten(), last])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert check(model, steps=2)["first loss"].verdict == "pass"
    model.layers[0].held = threading.Lock()
    with pytest.raises(
        TypeError, match="check_training runs a copy of .* which cannot be copied: .*lock"
    ):
        check(model)


def test_the_same_report_twice():
    first, second = (check(network()).as_dict() for _ in range(2))
    assert str(first) == str(second)


# -- sources --------------------------------------------------------------------------------------


class Shifted:
    """Batches that can be run through again, drawn with NumPy's global numbers."""

    def __len__(self):
        return 10

    def __iter__(self):
        for at in range(0, 320, 32):
            yield X[at : at + 32] + np.random.normal(0, 0.01), Y[at : at + 32]


class Batches(PyDataset):
    def __init__(self, x, y, size=32):
        super().__init__()
        self.x, self.y, self.size = x, y, size
        self.asked = 0

    def __len__(self):
        return len(self.x) // self.size

    def __getitem__(self, index):
        self.asked += 1
        at = slice(index * self.size, (index + 1) * self.size)
        return self.x[at], self.y[at]


def test_sources_of_batches():
    source = Batches(X, Y)
    report = minicnn.check_training(network(), source, validation_data=Batches(*HELD), **QUICK)
    assert report and report["sorted data"].verdict == "pass" and source.asked == 8
    order = np.argsort(Y, kind="stable")
    source = Batches(X[order], Y[order])
    report = minicnn.check_training(network(), source, **{**QUICK, "steps": 0})
    assert report["sorted data"].verdict in ("warn", "fail")

    assert minicnn.check_training(network(), Shifted(), validation_data=HELD, **QUICK)

    def endless():
        while True:
            yield X[:32], Y[:32]

    report = minicnn.check_training(network(), endless(), **{**QUICK, "steps": 0})
    assert report["input values"].measured.startswith("256 inputs")


def test_several_inputs_and_outputs():
    a, b = layers.Input((16, 16, 3)), layers.Input((4,))
    joined = layers.Concatenate()([layers.Flatten()(a), b])
    outputs = [layers.Dense(2, activation="softmax")(joined), layers.Dense(1)(joined)]
    model = minicnn.Model([a, b], outputs)
    model.compile("adam", ["sparse_categorical_crossentropy", "mse"])
    x = [X, np.random.default_rng(0).random((320, 4), np.float32)]
    report = minicnn.check_training(model, x, [Y, Y.astype("float32")], **QUICK)
    assert report["input scale"].verdict == "skipped" and report["one batch"].verdict != "skipped"


def test_regression():
    model = minicnn.Sequential([layers.Input((16, 16, 3)), layers.Flatten(), layers.Dense(1)])
    model.compile(optimizers.Adam(0.003), "mse")
    y = X.mean(axis=(1, 2, 3)) * 50 - 15
    report = check(model, X, y, None)
    assert report["class balance"].verdict == "skipped"
    assert report["one batch"].verdict == "pass", str(report["one batch"])


def test_refused():
    with pytest.raises(TypeError, match="check_training takes a model"):
        minicnn.check_training(None, X, Y)
    with pytest.raises(ValueError, match="is not compiled"):
        minicnn.check_training(minicnn.Sequential([layers.Dense(2)]), X, Y)
    with pytest.raises(ValueError, match="steps is an integer >= 0"):
        check(network(), steps=-1)
    with pytest.raises(ValueError, match="differ in their number of samples"):
        check(network(), y=Y[:-1])
    with pytest.raises(ValueError, match="validation_split needs arrays"):
        minicnn.check_training(network(), Batches(X, Y), validation_split=0.2)


# -- during fit -----------------------------------------------------------------------------------


def told(*args, epochs=1, checker=None, model=None, **arguments):
    """What CheckTraining warned of."""
    checker = checker or callbacks.CheckTraining(patience=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (model or network()).fit(*args, epochs=epochs, verbose=0, callbacks=[checker], **arguments)
    messages = [str(one.message) for one in caught if "CheckTraining" in str(one.message)]
    assert len(messages) == len(checker.report.failed) + len(checker.report.warned)
    return [message.split(": ")[1] for message in messages]


def test_callback_is_silent_where_all_is_well():
    checker = callbacks.CheckTraining(patience=2)
    assert told(X, Y, epochs=4, validation_data=HELD, checker=checker) == []
    assert checker.report["first loss"].verdict == "pass"


def test_callback_before_training():
    order = np.argsort(Y, kind="stable")
    x = (np.clip(X, 0, 1) * 255).astype("uint8")[order]
    names = told(x, Y[order], validation_split=0.2, epochs=1)
    assert {"input scale", "sorted data", "first loss"} <= set(names)


def test_callback_while_training():
    generator = np.random.default_rng(2)
    y, held = generator.integers(0, 2, 320), (HELD[0], generator.integers(0, 2, 200))
    names = told(X, y, validation_data=held, epochs=8)
    assert names == ["validation accuracy", "overfitting"]


def test_callback_on_dead_units():
    model = network()
    model.layers[0].kernel.assign(np.zeros((3, 3, 3, 4)))
    model.layers[0].trainable = False
    assert "dead units" in told(X, Y, model=model, epochs=2)


@pytest.mark.parametrize("source", [lambda: Batches(X, Y), Shifted], ids=["indexed", "iterated"])
def test_callback_leaves_training_alone(source):
    results = []
    for extra in ([], [callbacks.CheckTraining()]):
        model = network()
        history = model.fit(source(), epochs=2, verbose=0, callbacks=extra)
        results.append((history.history["loss"], model.get_weights()))
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_callback_with_a_generator_that_runs_once():
    batches = ((X[at : at + 32], Y[at : at + 32]) for at in range(0, 320, 32))
    assert told(batches) == []


@pytest.mark.parametrize("arguments", [dict(patience=0), dict(gap=2), dict(samples=True)])
def test_callback_refuses(arguments):
    with pytest.raises(ValueError, match="CheckTraining: "):
        callbacks.CheckTraining(**arguments)
