"""fit, evaluate, predict and single steps: sources of data, arguments, values, repeatability."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from minicnn import Model, Sequential, config, losses, optimizers, set_random_seed
from minicnn.callbacks import Callback, LambdaCallback
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    SpatialDropout2D,
)
from minicnn.utils import PyDataset, Sequence, to_categorical

COUNT = 37  # no multiple of any batch size here


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def problem(n=COUNT, features=4, k=3):
    x = numbers(n, features)
    return x, (x @ numbers(features, k, seed=7)).argmax(axis=1)


def classifier(optimizer=None, k=3, **more):
    set_random_seed(5)
    model = Sequential([Input((4,)), Dense(8, activation="tanh"), Dense(k, activation="softmax")])
    optimizer = optimizers.SGD(0.5) if optimizer is None else optimizer
    model.compile(optimizer, "sparse_categorical_crossentropy", **more)
    return model


def frozen_classifier(**more):
    """A classifier whose weights do not move, so that every loss can be computed by hand."""
    return classifier(optimizers.SGD(0.0), **more)


def sample_losses(model, x, y):
    return -np.log(model.predict(x, verbose=0)[np.arange(len(y)), y])


class Record(Callback):
    """What happened, in order."""

    def __init__(self):
        super().__init__()
        self.events, self.batches, self.logs = [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.events.append(f"begin {epoch}")

    def on_epoch_end(self, epoch, logs=None):
        self.events.append(f"end {epoch}")
        self.logs.append(dict(logs))

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)


# -- sources of data -------------------------------------------------------------------------------


def in_batches(x, y, size=8, weights=None):
    for at in range(0, len(x), size):
        rows = slice(at, at + size)
        yield (x[rows], y[rows]) if weights is None else (x[rows], y[rows], weights[rows])


def forever(x, y, size=8):
    while True:
        yield from in_batches(x, y, size)


class Batches(Sequence):
    def __init__(self, x, y, size=8):
        super().__init__()
        self.x, self.y, self.size, self.asked, self.epochs = x, y, size, [], 0

    def __len__(self):
        return -(-len(self.x) // self.size)

    def __getitem__(self, index):
        self.asked.append(index)
        rows = slice(index * self.size, (index + 1) * self.size)
        return self.x[rows], self.y[rows]

    def on_epoch_end(self):
        self.epochs += 1


class Duck:
    """Like a Sequence, without being one."""

    def __init__(self, x, y):
        self.batches = list(in_batches(x, y))

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


class Loader:
    """Iterable with a length, as loaders of other libraries are; yields lists."""

    def __init__(self, x, y):
        self.batches = list(in_batches(x, y))

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return (list(batch) for batch in self.batches)


SOURCES = {
    "arrays": lambda x, y: dict(x=x, y=y, batch_size=8, shuffle=False),
    "lists of numbers": lambda x, y: dict(x=x.tolist(), y=y.tolist(), batch_size=8, shuffle=False),
    "lists of one array": lambda x, y: dict(x=[x], y=[y], batch_size=8, shuffle=False),
    "generator": lambda x, y: dict(x=forever(x, y), steps_per_epoch=5),
    "Sequence": lambda x, y: dict(x=Batches(x, y), shuffle=False),
    "like a Sequence": lambda x, y: dict(x=Duck(x, y), shuffle=False),
    "loader": lambda x, y: dict(x=Loader(x, y)),
    "steps": lambda x, y: dict(x=x, y=y, batch_size=8, shuffle=False, steps_per_epoch=5),
}


@pytest.fixture(scope="module")
def expected_history():
    x, y = problem()
    model = classifier(metrics=["accuracy"])
    history = model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    return history.history, model.get_weights()


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_all_sources_of_the_same_data_train_the_same(source, expected_history):
    model, (x, y) = classifier(metrics=["accuracy"]), problem()
    history = model.fit(**source(x, y), epochs=3, verbose=0)
    expected, weights = expected_history
    assert history is model.history
    assert history.history == expected
    assert history.epoch == [0, 1, 2]
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("source", ["generator", "Sequence", "loader"])
def test_evaluate_and_predict_take_the_same_sources(source):
    model, (x, y) = classifier(metrics=["accuracy"]), problem()
    expected = model.evaluate(x, y, verbose=0)
    make = {"generator": in_batches, "Sequence": Batches, "loader": Loader}[source]
    assert model.evaluate(make(x, y), verbose=0) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(
        model.predict(make(x, y), verbose=0), model.predict(x, verbose=0), rtol=1e-6
    )


def test_generators_without_length_and_unbuilt_models():
    x, y = problem()
    model = Sequential([Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    seen = []

    def watched():
        for batch in in_batches(x, y):
            seen.append(len(batch[0]))
            yield batch

    model.fit(watched(), verbose=0)
    assert seen == [8, 8, 8, 8, 5]  # the batch that told the shape is not lost
    assert model.optimizer.iterations == 5
    assert model.input_shape == (None, 4)


def test_a_generator_that_ends_with_its_epochs():
    model, (x, y) = classifier(), problem()
    batches = [batch for _ in range(2) for batch in in_batches(x, y)]
    history = model.fit(iter(batches), steps_per_epoch=5, epochs=2, verbose=0).history
    assert len(history["loss"]) == 2


def test_a_generator_that_runs_once_trains_one_epoch():
    model, (x, y) = classifier(), problem()
    with pytest.warns(UserWarning, match="generator has ended.*steps_per_epoch"):
        history = model.fit(in_batches(x, y), epochs=3, verbose=0).history
    assert len(history["loss"]) == 1
    assert model.optimizer.iterations == 5


def test_a_generator_that_is_too_short_ends_training():
    model, (x, y) = classifier(), problem()
    with pytest.warns(UserWarning, match=r"ended after 2 of 3 batches \(steps_per_epoch\)"):
        history = model.fit(in_batches(x, y), steps_per_epoch=3, epochs=5, verbose=0).history
    assert len(history["loss"]) == 2
    model = classifier()
    batches = [batch for _ in range(2) for batch in in_batches(x, y)]
    with pytest.warns(UserWarning, match="generator has ended"):
        history = model.fit(iter(batches), steps_per_epoch=5, epochs=3, verbose=0).history
    assert len(history["loss"]) == 2  # an epoch without batches is none


def test_an_empty_source_is_an_error():
    with pytest.raises(ValueError, match="yielded no batch"):
        classifier().fit(iter([]), verbose=0)
    with pytest.raises(ValueError, match="yielded no batch"):
        classifier().evaluate(iter([]), verbose=0)
    with pytest.raises(ValueError, match="x holds no samples"):
        classifier().fit(np.zeros((0, 4)), np.zeros(0, int), verbose=0)


def test_generators_of_weighted_batches():
    model, (x, y) = frozen_classifier(), problem()
    weights = np.linspace(0, 2, COUNT)
    expected = np.mean(weights * sample_losses(model, x, y))
    loss = model.evaluate(in_batches(x, y, weights=weights), verbose=0)
    assert loss == pytest.approx(expected, rel=1e-5)
    history = model.fit(in_batches(x, y, weights=weights), verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_what_a_generator_must_not_yield():
    x, y = problem()
    model = classifier()
    with pytest.raises(ValueError, match="not a tuple of 4"):
        model.fit(iter([(x, y, y, y)]), verbose=0)
    with pytest.raises(ValueError, match="x has 37 and y has 30"):
        model.fit(iter([(x, y[:30])]), verbose=0)
    with pytest.raises(ValueError, match="must yield y and sample_weight itself"):
        model.fit(iter([(x, y)]), y, verbose=0)
    with pytest.raises(TypeError, match="an array, a list, a generator or a Sequence, not int"):
        model.fit(3, verbose=0)
    with pytest.raises(ValueError, match="has a loss but no targets"):
        model.fit(iter([x]), verbose=0)
    later = iter([(x, y), (x, y + 5)])
    with pytest.raises(ValueError, match="the output has 3 classes"):
        model.fit(later, verbose=0)


def test_a_generator_that_raises_keeps_its_error():
    def broken():
        yield problem()
        raise RuntimeError("disk is gone")

    with pytest.raises(RuntimeError, match="disk is gone"):
        classifier().fit(broken(), verbose=0)


def test_sequences_are_shuffled_by_fit_alone():
    model, (x, y) = classifier(), problem()
    batches = Batches(x, y)
    model.fit(batches, epochs=3, verbose=0)
    epochs = [batches.asked[i : i + 5] for i in (0, 5, 10)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert batches.epochs == 3
    batches.asked.clear()
    model.fit(batches, shuffle=False, verbose=0)
    model.evaluate(batches, verbose=0)
    model.predict(batches, verbose=0)
    assert batches.asked == [0, 1, 2, 3, 4] * 3
    assert issubclass(Sequence, PyDataset)


def test_a_sequence_says_what_it_lacks():
    with pytest.raises(NotImplementedError, match="PyDataset defines no __len__"):
        classifier().fit(PyDataset(), verbose=0)


# -- arguments of fit ------------------------------------------------------------------------------


def test_epochs_initial_epoch_and_steps():
    model, (x, y) = classifier(), problem()
    record = Record()
    history = model.fit(x, y, epochs=5, initial_epoch=2, verbose=0, callbacks=[record])
    assert record.events == [f"{what} {e}" for e in (2, 3, 4) for what in ("begin", "end")]
    assert history.epoch == [2, 3, 4] and len(history.history["loss"]) == 3
    assert record.batches == [0, 1] * 3
    assert model.fit(x, y, epochs=2, initial_epoch=2, verbose=0).history == {}
    record = Record()
    model.fit(x, y, batch_size=8, steps_per_epoch=3, epochs=2, verbose=0, callbacks=[record])
    assert record.batches == [0, 1, 2] * 2
    record = Record()  # more steps than batches: the data begin again
    model.fit(x, y, batch_size=8, steps_per_epoch=7, verbose=0, callbacks=[record])
    assert record.batches == [*range(7)]


class Watched(Dense):
    """Keeps what it sees."""

    def forward(self, x, context):
        self.seen = [*getattr(self, "seen", []), x[:, 0].copy()]
        return super().forward(x, context)


def test_shuffle():
    layer = Watched(2)
    model = Sequential([Input((1,)), layer])
    model.compile("sgd", "mse")
    x = np.arange(20, dtype=np.float32)[:, None]

    def order(**arguments):
        layer.seen = []
        model.fit(x, np.zeros((20, 2)), batch_size=6, verbose=0, **arguments)
        return np.concatenate(layer.seen).astype(int).tolist()

    assert order(shuffle=False) == [*range(20)]
    first, second = order(), order()
    assert sorted(first) == sorted(second) == [*range(20)]
    assert first != [*range(20)] and first != second
    both = order(epochs=2)
    assert sorted(both[:20]) == sorted(both[20:]) and both[:20] != both[20:]
    set_random_seed(3)
    again = order()
    set_random_seed(3)
    assert order() == again


def test_validation_split_takes_the_last_rows_before_shuffling():
    layer = Watched(3, activation="softmax")
    model = Sequential([Input((4,)), layer])
    model.compile(optimizers.SGD(0.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = problem()
    history = model.fit(x, y, validation_split=0.2, batch_size=64, verbose=0).history
    train, held_out = layer.seen
    at = int(COUNT * 0.8)  # 29, as in Keras
    assert sorted(train) == sorted(x[:at, 0])
    assert held_out.tolist() == x[at:, 0].tolist()
    assert history["loss"][0] == pytest.approx(sample_losses(model, x[:at], y[:at]).mean(), 1e-5)
    expected = sample_losses(model, x[at:], y[at:]).mean()
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}


def test_validation_split_of_several_inputs_and_weights():
    a, b = Input((4,)), Input((2,))
    model = Model([a, b], Dense(1, kernel_initializer="zeros")(Concatenate()([a, b])))
    model.compile(optimizers.SGD(0.0), "mse")
    y, weights = np.arange(10.0), np.linspace(1, 2, 10)
    history = model.fit(
        [numbers(10, 4), numbers(10, 2)],
        y,
        sample_weight=weights,
        validation_split=0.3,
        verbose=0,
    ).history
    assert history["loss"][0] == pytest.approx(np.mean((y**2 * weights)[:7]))
    assert history["val_loss"][0] == pytest.approx(np.mean((y**2 * weights)[7:]))


def test_sorted_data_and_validation_split_warn():
    x = numbers(20, 4)
    y = np.repeat([0, 1], 10)
    with pytest.warns(UserWarning, match=r"classes \[1\].*only there.*shuffle"):
        classifier().fit(x, y, validation_split=0.5, verbose=0)
    model = Sequential([Input((4,)), Dense(2, activation="softmax")])
    model.compile("sgd", "categorical_crossentropy")
    with pytest.warns(UserWarning, match="only there"):
        model.fit(x, to_categorical(y), validation_split=0.5, verbose=0)
    model.compile("sgd", "mse")  # numbers, not classes: nothing to say
    model.fit(x, to_categorical(y), validation_split=0.5, verbose=0)


def test_validation_split_refuses_what_it_cannot_split():
    x, y = problem()
    for wrong in (1.0, -0.1, 2):
        with pytest.raises(ValueError, match="validation_split is a fraction"):
            classifier().fit(x, y, validation_split=wrong, verbose=0)
    with pytest.raises(ValueError, match="leaves 0 for training"):
        classifier().fit(x, y, validation_split=0.99, verbose=0)
    with pytest.raises(ValueError, match="needs arrays, x is a generator"):
        classifier().fit(in_batches(x, y), validation_split=0.2, verbose=0)


@pytest.mark.parametrize("kind", ["arrays", "list", "weights", "Sequence", "generator"])
def test_validation_data(kind):
    model, (x, y) = frozen_classifier(metrics=["accuracy"]), problem()
    weights = np.linspace(0, 1, COUNT)
    data, more = (x, y), {}
    if kind == "list":
        data = [x, y]
    elif kind == "weights":
        data = (x, y, weights)
    elif kind == "Sequence":
        data = Batches(x, y)
    elif kind == "generator":
        data, more = forever(x, y), dict(validation_steps=5)
    history = model.fit(x, y, validation_data=data, epochs=2, verbose=0, **more).history
    expected = sample_losses(model, x, y)
    if kind == "weights":
        expected = expected * weights
    assert history["val_loss"] == pytest.approx([expected.mean()] * 2, rel=1e-5)
    accuracy = np.mean(model.predict(x, verbose=0).argmax(1) == y)
    assert history["val_accuracy"] == pytest.approx([accuracy] * 2)


def test_validation_steps_use_the_same_rows_in_every_epoch():
    model, (x, y) = frozen_classifier(), problem()
    history = model.fit(
        x,
        y,
        validation_data=(x, y),
        validation_batch_size=5,
        validation_steps=2,
        epochs=3,
        verbose=0,
    ).history
    expected = sample_losses(model, x[:10], y[:10]).mean()
    assert history["val_loss"] == pytest.approx([expected] * 3, rel=1e-5)


def test_validation_freq():
    model, (x, y) = classifier(), problem()
    record = Record()
    model.fit(
        x, y, validation_data=(x, y), validation_freq=2, epochs=5, verbose=0, callbacks=[record]
    )
    assert ["val_loss" in logs for logs in record.logs] == [False, True, False, True, False]
    record = Record()
    model.fit(
        x, y, validation_data=(x, y), validation_freq=[1, 3], epochs=3, verbose=0, callbacks=record
    )
    assert ["val_loss" in logs for logs in record.logs] == [True, False, True]


def test_a_validation_generator_that_ends_warns_once():
    model, (x, y) = classifier(), problem()
    with pytest.warns(UserWarning, match="generator has ended") as seen:
        history = model.fit(x, y, validation_data=in_batches(x, y), epochs=3, verbose=0).history
    assert len(seen) == 1
    assert len(history["loss"]) == 3 and len(history["val_loss"]) == 1


@pytest.mark.parametrize("one_hot", [False, True])
def test_class_weight(one_hot):
    x, y = problem()
    table = {0: 2.0, 2: 5.0}  # class 1 counts once
    weights = np.array([2.0, 1.0, 5.0])[y]
    model = frozen_classifier()
    expected = np.mean(weights * sample_losses(model, x, y))
    if one_hot:
        model.compile(optimizers.SGD(0.0), "categorical_crossentropy")
    targets = to_categorical(y) if one_hot else y[:, None]
    history = model.fit(x, targets, class_weight=table, batch_size=8, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    history = model.fit(in_batches(x, targets), class_weight=table, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    loss = model.train_on_batch(x, targets, class_weight=table)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_class_weight_of_a_binary_output():
    model = Sequential([Input((4,)), Dense(1, activation="sigmoid", kernel_initializer="zeros")])
    model.compile(optimizers.SGD(0.0), "binary_crossentropy")
    y = np.array([0, 1, 1, 1])
    history = model.fit(numbers(4, 4), y, class_weight={0: 3, 1: 1}, verbose=0).history
    assert history["loss"][0] == pytest.approx(np.log(2) * 6 / 4, rel=1e-6)


def test_class_weight_moves_the_weights_by_the_weighted_gradient():
    x, y = problem()
    weights = np.array([2.0, 1.0, 5.0])[y]
    by_class, by_sample = classifier(), classifier()
    by_class.fit(x, y, class_weight={0: 2.0, 2: 5.0}, shuffle=False, epochs=2, verbose=0)
    by_sample.fit(x, y, sample_weight=weights, shuffle=False, epochs=2, verbose=0)
    for a, b in zip(by_class.get_weights(), by_sample.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_wrong_class_weights():
    x, y = problem()
    for wrong, message in (
        ([1, 2], "is a dict"),
        ({"a": 1}, "class numbers >= 0 as keys, not 'a'"),
        ({0: -1.0}, "a number >= 0, not -1.0"),
        ({0: np.nan}, "a number >= 0, not nan"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier().fit(x, y, class_weight=wrong, verbose=0)
    model = Sequential([Input((4,)), Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="class numbers or one-hot rows"):
        model.fit(x, numbers(COUNT), class_weight={0: 1}, verbose=0)


def test_sample_weight():
    model, (x, y) = frozen_classifier(metrics=["accuracy"], weighted_metrics=["acc"]), problem()
    weights = np.linspace(0, 3, COUNT)
    expected = np.mean(weights * sample_losses(model, x, y))  # Keras divides by the samples
    right = model.predict(x, verbose=0).argmax(1) == y
    for given in (weights, weights[:, None], weights.astype(np.float32)):
        result = model.evaluate(
            x, y, sample_weight=given, batch_size=8, verbose=0, return_dict=True
        )
        assert result["loss"] == pytest.approx(expected, rel=1e-5)
        assert result["accuracy"] == pytest.approx(right.mean())
        assert result["acc"] == pytest.approx(np.sum(right * weights) / weights.sum(), rel=1e-6)
    assert model.test_on_batch(x, y, weights)[0] == pytest.approx(expected, rel=1e-5)


def test_samples_of_weight_zero_do_not_train():
    x, y = problem()
    weights = (np.arange(COUNT) < 20).astype(np.float64)
    all_rows, some = classifier(), classifier()
    spoiled = y.copy()
    spoiled[20:] = (spoiled[20:] + 1) % 3
    for model, targets in ((all_rows, y), (some, spoiled)):
        model.fit(x, targets, sample_weight=weights, batch_size=COUNT, epochs=3, verbose=0,
                  shuffle=False)  # fmt: skip
    for a, b in zip(all_rows.get_weights(), some.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("verbose", ["auto", 0, 1, 2, True, False])
def test_verbose(verbose, capsys):
    model, (x, y) = classifier(metrics=["accuracy"]), problem()
    model.fit(x, y, epochs=2, verbose=verbose)
    out = capsys.readouterr().out
    if verbose in (0, False):
        assert out == ""
    else:
        assert "2/2" in out and "loss" in out and "accuracy" in out
    with pytest.raises(ValueError, match="verbose is 'auto', 0, 1 or 2, not 3"):
        model.fit(x, y, verbose=3)


def test_stop_training_from_a_callback():
    model, (x, y) = classifier(), problem()

    def stop(batch, logs):
        if batch == 1:
            model.stop_training = True

    record = Record()
    stopping = LambdaCallback(on_train_batch_end=stop)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[stopping, record])
    assert record.batches == [0, 1] and record.events == ["begin 0", "end 0"]
    model.fit(x, y, epochs=2, verbose=0)
    assert len(model.history.history["loss"]) == 2  # the flag is not remembered


def test_epoch_logs_are_means_over_the_epoch():
    model, (x, y) = frozen_classifier(metrics=["accuracy"]), problem()
    expected = sample_losses(model, x, y)
    seen = []
    logging = LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs["loss"]))
    history = model.fit(
        x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[logging]
    ).history
    running = [expected[: 8 * (i + 1)].mean() for i in range(5)]  # the last batch is smaller
    assert seen == pytest.approx(running * 2, rel=1e-5)
    assert history["loss"] == pytest.approx([expected.mean()] * 2, rel=1e-5)
    assert all(type(value) is float for value in [*seen, *history["loss"], *history["accuracy"]])


def test_regularizers_are_part_of_the_loss():
    x, y = problem()
    model = Sequential([
        Input((4,)),
        Dense(3, kernel_regularizer="l2", bias_regularizer="l1", bias_initializer="ones",
              activity_regularizer="l2"),
    ])  # fmt: skip
    model.compile(optimizers.SGD(0.0), "mse", metrics=["mse"])
    targets = numbers(COUNT, 3)
    kernel, bias = model.get_weights()
    z = model.predict(x, verbose=0)
    plain, weights = np.mean((z - targets) ** 2), 0.01 * (np.sum(kernel**2) + np.abs(bias).sum())
    activity = 0.01 * np.sum(z**2) / COUNT  # per sample, as in Keras 3
    result = model.evaluate(x, targets, batch_size=64, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(plain + weights + activity, rel=1e-5)
    assert result["mse"] == pytest.approx(plain, rel=1e-5)
    history = model.fit(x, targets, batch_size=64, verbose=0).history
    assert history["loss"][0] == pytest.approx(plain + weights + activity, rel=1e-5)
    assert sum(model.losses) == pytest.approx(weights, rel=1e-5)


def test_interrupted_training_goes_on():
    model, (x, y) = classifier(), problem()

    def interrupt(epoch, logs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, verbose=0, callbacks=[LambdaCallback(on_epoch_end=interrupt)])
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=20, verbose=0)
    assert model.evaluate(x, y, verbose=0) < before


# -- evaluate and predict --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 32, COUNT, 1000])
def test_evaluate_is_the_value_by_hand(batch_size):
    model, (x, y) = classifier(metrics=["accuracy"]), problem()
    model.fit(x, y, epochs=2, verbose=0)
    p = model.predict(x, verbose=0).astype(np.float64)
    loss, accuracy = model.evaluate(x, y, batch_size=batch_size, verbose=0)
    assert loss == pytest.approx(-np.log(p[np.arange(COUNT), y]).mean(), rel=1e-5)
    assert accuracy == pytest.approx(np.mean(p.argmax(1) == y), rel=1e-6)
    by_name = model.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)
    assert by_name == {"loss": loss, "accuracy": accuracy}
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert model.evaluate(x, y, batch_size=batch_size, verbose=0) == loss  # no list of one


def test_evaluate_of_some_steps():
    model, (x, y) = classifier(), problem()
    expected = sample_losses(model, x[:14], y[:14]).mean()
    assert model.evaluate(x, y, batch_size=7, steps=2, verbose=0) == pytest.approx(expected, 1e-5)
    assert model.predict(x, batch_size=7, steps=2, verbose=0).shape == (14, 3)


def test_evaluate_changes_nothing():
    model = Sequential([Input((4,)), Dense(3), BatchNormalization(), Dropout(0.5)])
    model.compile("adam", "mse")
    model.fit(numbers(8, 4), numbers(8, 3), verbose=0)
    before, state = model.get_weights(), model.optimizer.state()
    first = model.evaluate(numbers(8, 4), numbers(8, 3), verbose=0)
    assert model.evaluate(numbers(8, 4), numbers(8, 3), verbose=0) == first
    model.predict(numbers(8, 4), verbose=0)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    for (_, a), (_, b) in zip(model.optimizer.state(), state, strict=True):
        np.testing.assert_array_equal(a, b)


def conv_net(**more):
    set_random_seed(5)
    return Sequential(
        [
            Input((9, 9, 3)),
            Conv2D(8, 3, padding="same", activation="relu"),
            BatchNormalization(),
            MaxPooling2D(),
            SpatialDropout2D(0.2),
            Conv2D(16, 3, activation="relu"),
            Dropout(0.3),
            Flatten(),
            Dense(5, activation="softmax"),
        ],
        **more,
    )


def test_predict_does_not_depend_on_order_or_company():
    model, x = conv_net(), numbers(33, 9, 9, 3)
    whole = model.predict(x, batch_size=33, verbose=0)
    assert whole.dtype == np.float32 and whole.shape == (33, 5)
    np.testing.assert_array_equal(model.predict(x, batch_size=33, verbose=0), whole)
    for size in (1, 7, 32):
        np.testing.assert_allclose(
            model.predict(x, batch_size=size, verbose=0), whole, rtol=1e-5, atol=1e-6
        )
    order = np.random.default_rng(0).permutation(33)
    np.testing.assert_allclose(model.predict(x[order], verbose=0), whole[order], 1e-5, 1e-6)
    np.testing.assert_allclose(model.predict(x[5:9], verbose=0), whole[5:9], 1e-5, 1e-6)
    np.testing.assert_array_equal(model.predict_on_batch(x), whole)


def test_predictions_belong_to_the_user():
    model, x = conv_net(), numbers(33, 9, 9, 3)
    first = model.predict_on_batch(x)
    kept = first.copy()
    for _ in range(3):
        model.predict_on_batch(x + 1)
        model(x - 1)
    np.testing.assert_array_equal(first, kept)
    identity = Sequential([Input((4,)), Activation("linear")])
    data = numbers(3, 4)
    y = identity.predict_on_batch(data)
    y[...] = 0
    assert data.any() and identity(data) is not data


def test_nan_in_x_is_predicted_as_nan():
    x = numbers(4, 9, 9, 3)
    x[2, 4, 4] = np.nan
    y = conv_net().predict(x, verbose=0)
    assert np.isnan(y[2]).all() and np.isfinite(y[[0, 1, 3]]).all()


# -- single batches --------------------------------------------------------------------------------


def test_train_on_batch_returns_the_values_of_its_batch():
    model, (x, y) = frozen_classifier(metrics=["accuracy"]), problem()
    for rows in (slice(0, 10), slice(10, 37)):
        expected = sample_losses(model, x[rows], y[rows]).mean()
        loss, accuracy = model.train_on_batch(x[rows], y[rows])
        assert loss == pytest.approx(expected, rel=1e-5)
        assert accuracy == pytest.approx(
            np.mean(model.predict(x[rows], verbose=0).argmax(1) == y[rows])
        )
        assert model.test_on_batch(x[rows], y[rows], return_dict=True) == pytest.approx(
            {"loss": loss, "accuracy": accuracy}
        )
    assert model.optimizer.iterations == 2


def test_train_on_batch_is_the_step_of_fit():
    x, y = problem()
    one, other = classifier("adam"), classifier("adam")
    one.fit(x, y, batch_size=8, shuffle=False, epochs=2, verbose=0)
    for _ in range(2):
        for batch in in_batches(x, y):
            other.train_on_batch(*batch)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_metrics_and_their_names():
    uncompiled = Sequential([Input((4,)), Dense(3)])
    assert uncompiled.metrics == [] and uncompiled.metrics_names == []
    model = classifier(
        metrics=["accuracy", "sparse_top_k_categorical_accuracy"], weighted_metrics=["accuracy"]
    )
    assert model.metrics_names == ["loss"]  # "accuracy" waits for the shape of y
    x, y = problem()
    names = ["loss", "accuracy", "sparse_top_k_categorical_accuracy", "weighted_accuracy"]
    assert [*model.evaluate(x, y, verbose=0, return_dict=True)] == names
    assert model.metrics_names == names
    assert len(model.metrics) == 4
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["acc", "acc", "acc"])
    assert [*model.evaluate(x, y, verbose=0, return_dict=True)] == ["loss", "acc", "acc_1", "acc_2"]


def test_a_function_as_metric():
    def share_of_zeros(y_true, y_pred):
        return np.mean(y_true == 0)

    model, (x, y) = classifier(metrics=[share_of_zeros]), problem()
    result = model.evaluate(x, y, batch_size=COUNT, verbose=0, return_dict=True)
    assert result["share_of_zeros"] == pytest.approx(np.mean(y == 0))


def test_compiling_again_starts_anew():
    model, (x, y) = classifier("adam", metrics=["accuracy"]), problem()
    model.fit(x, y, epochs=3, verbose=0)
    weights = model.get_weights()
    model.compile("adam", "sparse_categorical_crossentropy")
    assert model.optimizer.iterations == 0
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert isinstance(model.evaluate(x, y, verbose=0), float)
    model.fit(x, y, verbose=0)


def test_compile_config_round_trip():
    x, y = problem()
    model = classifier(optimizers.Adam(0.01, clipnorm=1.0), metrics=["accuracy"])
    settings = model.get_compile_config()
    other = classifier()
    other.compile_from_config(settings)
    assert other.get_compile_config() == settings
    assert other.optimizer.clipnorm == 1.0
    for one in (model, other):
        one.fit(x, y, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert Sequential([Dense(3)]).get_compile_config() is None


def test_arguments_of_compile_that_change_nothing():
    model, (x, y) = classifier(run_eagerly=True, steps_per_execution=4, jit_compile=True), problem()
    model.fit(x, y, verbose=0)


# -- repeatability ---------------------------------------------------------------------------------


def train_conv_net(seed=11, batch_size=16, optimizer="adam"):
    set_random_seed(seed)
    x, y = numbers(48, 9, 9, 3), np.arange(48) % 5
    model = Sequential(
        [
            Input((9, 9, 3)),
            Conv2D(8, 3, padding="same", activation="relu"),
            BatchNormalization(),
            MaxPooling2D(),
            SpatialDropout2D(0.2),
            Conv2D(16, 3, activation="relu"),
            Dropout(0.3),
            Flatten(),
            Dense(5, activation="softmax"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=batch_size, epochs=3, verbose=0)
    return model.get_weights()


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_seed_gives_the_same_weights():
    first = train_conv_net()
    assert_same(train_conv_net(), first)
    other = train_conv_net(seed=12)
    assert not np.array_equal(other[0], first[0])


def test_the_number_of_threads_does_not_matter():
    with config.using(threads=1):
        one = train_conv_net()
    assert_same(train_conv_net(), one)


def test_a_new_process_gives_the_same_weights():
    code = (
        "import hashlib, sys; sys.path[:0] = sys.argv[1:]; import test_training as t\n"
        "print(hashlib.sha256(b''.join(w.tobytes() for w in t.train_conv_net())).hexdigest())"
    )
    here = Path(__file__).parent
    digests = []
    for environment in ({}, {"NUMBA_NUM_THREADS": "1", "PYTHONHASHSEED": "3"}):
        run = subprocess.run(
            [sys.executable, "-c", code, str(here), str(here.parent)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.append(run.stdout.split()[-1])
    assert digests[0] == digests[1]


def test_dropout_draws_anew_at_every_step_and_node():
    set_random_seed(0)
    dropout = Dropout(0.5)
    x = Input((50,))
    model = Model(x, [dropout(x), dropout(x), Dropout(0.5)(x)])
    ones = np.ones((4, 50), np.float32)
    seen = []

    class Keep(losses.Loss):
        """Zero, and the outputs are kept."""

        def per_sample(self, y_true, y_pred):
            seen.append(y_pred.copy())
            return np.zeros(len(y_pred)), np.zeros_like(y_pred)

    class Bias(Dense):
        pass

    trained = Model(x, [Bias(50, kernel_initializer="identity")(y) for y in model(x)])
    trained.compile(optimizers.SGD(0.0), [Keep(), Keep(), Keep()])
    trained.fit(ones, [ones] * 3, epochs=2, verbose=0)
    masks = [mask > 0 for mask in seen]
    assert len(masks) == 6
    for i in range(6):
        assert 0.3 < masks[i].mean() < 0.7
        assert not (masks[i][0] == masks[i][1]).all()  # samples differ, too
        for j in range(i):
            assert 0.3 < (masks[i] == masks[j]).mean() < 0.7  # independent
    seen.clear()
    trained.evaluate(ones, [ones] * 3, verbose=0)
    assert all((one == 1).all() for one in seen)


def test_dropout_with_a_seed_repeats_across_runs_but_not_across_steps():
    def masks():
        set_random_seed(4)
        model = Sequential([Input((60,)), Dropout(0.5, seed=9)])
        ones = np.ones((2, 60), np.float32)
        return model(ones, training=True), model(ones, training=True)

    first, second = masks()
    assert not np.array_equal(first, second)
    again = masks()
    np.testing.assert_array_equal(again[0], first)
    np.testing.assert_array_equal(again[1], second)


def test_a_run_of_train_on_batch_repeats_too():
    def run():
        set_random_seed(2)
        model = Sequential([Input((4,)), Dense(30), Dropout(0.5), Dense(2)])
        model.compile("sgd", "mse")
        for _ in range(3):
            model.train_on_batch(numbers(8, 4), numbers(8, 2))
        return model.get_weights()

    assert_same(run(), run())


# -- arrays of all kinds ---------------------------------------------------------------------------


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def strided(x):
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), 99, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def on_disk(x, folder):
    array = np.memmap(folder / "x.bin", dtype=x.dtype, mode="w+", shape=x.shape)
    array[...] = x
    array.flush()
    return np.memmap(folder / "x.bin", dtype=x.dtype, mode="r", shape=x.shape)


class ArrayLike:
    """Like a data frame: an array on request."""

    def __init__(self, x):
        self.x, self.shape = x, x.shape

    def __array__(self, dtype=None, copy=None):
        return np.array(self.x, dtype=dtype)

    def __len__(self):
        return len(self.x)


FORMS = {
    "read-only": lambda x, folder: read_only(x),
    "strided": lambda x, folder: strided(x),
    "Fortran": lambda x, folder: np.asfortranarray(x),
    "backwards": lambda x, folder: x[::-1].copy()[::-1],
    "float64": lambda x, folder: x.astype(np.float64),
    "big endian": lambda x, folder: x.astype(">f4"),
    "memmap": on_disk,
    "like an array": lambda x, folder: ArrayLike(x),
}


@pytest.fixture(scope="module")
def plain_run():
    return run_on(numbers(20, 9, 9, 3), np.arange(20) % 5)


def run_on(x, y):
    set_random_seed(1)
    model = conv_net()
    model.compile("rmsprop", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    return [*model.get_weights(), model.predict(x, verbose=0)]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_arrays_of_all_kinds_train_the_same(form, plain_run, tmp_path):
    x, y = numbers(20, 9, 9, 3), np.arange(20) % 5
    given, targets = form(x, tmp_path), form(y, tmp_path / "..")
    before = np.array(given)
    assert_same(run_on(given, targets), plain_run)
    np.testing.assert_array_equal(np.asarray(given), before)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "bool"])
def test_types_that_are_converted(dtype):
    x = np.random.default_rng(0).integers(0, 2, (20, 9, 9, 3)).astype(dtype)
    y = np.arange(20) % 5
    assert_same(run_on(x, y.astype("uint8")), run_on(x.astype(np.float32), y))


def test_what_is_given_is_never_written_or_kept():
    x, y = numbers(20, 9, 9, 3), to_categorical(np.arange(20) % 5)
    weights = np.linspace(0.5, 1, 20)
    before = x.copy(), y.copy(), weights.copy()
    model = conv_net()
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, sample_weight=weights, validation_split=0.2, epochs=2, verbose=0)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model.train_on_batch(x, y)
    for array, old in zip((x, y, weights), before, strict=True):
        np.testing.assert_array_equal(array, old)
    assert max(sys.getrefcount(x), sys.getrefcount(y)) <= 2  # this name and the argument


def test_nothing_is_printed_or_warned_in_a_quiet_run(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, (x, y) = classifier(), problem()
        model.fit(x, y, validation_split=0.2, epochs=2, verbose=0)
        model.evaluate(x, y, verbose=0)
        model.predict(x, verbose=0)
    assert capsys.readouterr().out == ""


def test_warnings_point_at_the_line_that_called():
    x, y = problem()
    binary = Sequential([Input((4,)), Dense(1, activation="sigmoid")])
    binary.compile("sgd", "binary_crossentropy")
    frozen = classifier()
    frozen.trainable = False
    for call in (
        lambda: classifier().fit(in_batches(x, y), epochs=3, verbose=0),
        lambda: classifier().fit(x, y, validation_data=in_batches(x, y), epochs=2, verbose=0),
        lambda: classifier().evaluate(in_batches(x, y), steps=9, verbose=0),
        lambda: classifier().predict(in_batches(x, y), steps=9, verbose=0),
        lambda: frozen.train_on_batch(x, y),
        lambda: binary.fit(x, y, verbose=0),  # labels 0..2
        lambda: binary.evaluate(iter([(x, y)]), verbose=0),
    ):
        with pytest.warns(UserWarning) as seen:
            call()
        assert [Path(one.filename).name for one in seen] == ["test_training.py"]
