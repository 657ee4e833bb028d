"""Callbacks against small fake models: what is called when, what stops, what is written."""

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest

from minicnn import config
from minicnn.callbacks import (
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    Lookahead,
    ModelCheckpoint,
    ProgbarLogger,
    ReduceLROnPlateau,
    SwapEMAWeights,
    TerminateOnNaN,
)
from minicnn.layers import BatchNormalization, Dense, Input, ReLU
from minicnn.losses import SparseCategoricalCrossentropy
from minicnn.models import Sequential
from minicnn.optimizers import SGD
from minicnn.optimizers.schedules import ExponentialDecay
from minicnn.utils import set_random_seed

NAN = float("nan")


class FakeOptimizer:
    learning_rate = 0.1


class FakeModel:
    """Its one weight is the number of the epoch in which it was set."""

    def __init__(self):
        self.stop_training, self.optimizer = False, FakeOptimizer()
        self.weights, self.saved = [np.zeros(1)], []

    def get_weights(self):
        return [array.copy() for array in self.weights]

    def set_weights(self, weights):
        self.weights = [array.copy() for array in weights]

    def save(self, path, overwrite=True):
        Path(path).write_text("model")
        self.saved.append(Path(path).name)

    def save_weights(self, path, overwrite=True):
        Path(path).write_text("weights")
        self.saved.append(Path(path).name)


def run(callbacks, values, name="val_loss", steps=1, model=None):
    """An epoch for each value of `name`, as `fit` would run it; returns the model and its logs."""
    model = model or FakeModel()
    epochs = len(values)
    run = CallbackList(callbacks, True, False, model, epochs=epochs, steps=steps, verbose=0)
    seen = []
    run.on_train_begin()
    for epoch, value in enumerate(values):
        run.on_epoch_begin(epoch)
        for step in range(steps):
            run.on_train_batch_begin(step)
            model.weights[0][...] = epoch + 1
            run.on_train_batch_end(step, {"loss": 1.0})
            if model.stop_training:
                break
        logs = {"loss": 1.0, name: value}
        run.on_epoch_end(epoch, logs)
        seen.append(logs)
        if model.stop_training:
            break
    run.on_train_end(logs)
    return model, seen


# -- Callback, CallbackList -----------------------------------------------------------------------


def test_hooks_come_in_order_and_know_model_and_params():
    calls = []

    class Record(Callback):
        def on_train_begin(self, logs=None):
            calls.append(("train", self.params["epochs"], self.model))

        def on_epoch_begin(self, epoch, logs=None):
            calls.append(("epoch", epoch))

        def on_batch_begin(self, batch, logs=None):  # the older name
            calls.append(("batch", batch))

        def on_train_batch_end(self, batch, logs=None):
            calls.append(("after", batch, logs["loss"]))

        def on_epoch_end(self, epoch, logs=None):
            calls.append(("end", epoch, logs["val_loss"]))

    model, _ = run(Record(), [3.0], steps=2)
    assert calls == [
        ("train", 1, model),
        ("epoch", 0),
        ("batch", 0),
        ("after", 0, 1.0),
        ("batch", 1),
        ("after", 1, 1.0),
        ("end", 0, 3.0),
    ]


def test_only_overridden_hooks_are_called():
    calls = CallbackList([EarlyStopping(), History(), CSVLogger("x.csv")])._calls
    assert calls["on_train_batch_begin"] == calls["on_train_batch_end"] == []
    assert calls["on_test_batch_end"] == calls["on_predict_batch_end"] == []
    assert len(calls["on_epoch_end"]) == 3


def test_a_subclass_that_calls_the_base_hook_is_called_once():
    calls = []

    class Both(Callback):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)

        def on_batch_end(self, batch, logs=None):
            calls.append(batch)

    run(Both(), [1.0])
    assert calls == [0]


def test_callback_list_adds_history_and_progress_once():
    history, display = History(), ProgbarLogger()
    model = FakeModel()
    both = CallbackList([[history], (display,)], True, True, model, epochs=1, steps=1, verbose=0)
    assert both.callbacks == [history, display] and model.history is history
    added = CallbackList(None, add_history=True, add_progbar=True)
    assert [type(one) for one in added.callbacks] == [History, ProgbarLogger]
    assert CallbackList(both).callbacks == both.callbacks


def test_objects_of_other_libraries_need_only_the_hooks():
    class Foreign:
        seen = 0

        def set_model(self, model): ...

        def set_params(self, params): ...

        def on_epoch_end(self, epoch, logs=None):
            self.seen += 1

    foreign = Foreign()
    run(foreign, [1.0, 2.0])
    assert foreign.seen == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(EarlyStopping, r"write EarlyStopping\(...\)"), ("csv", "not 'csv'"), (print, "LambdaCallb")],
)
def test_what_is_no_callback_is_refused(wrong, message):
    with pytest.raises(TypeError, match=message):
        CallbackList([wrong])


def test_history_has_a_list_per_name():
    model, _ = run(None, [3.0, 2.0])
    assert model.history.history == {"loss": [1.0, 1.0], "val_loss": [3.0, 2.0]}
    assert model.history.epoch == [0, 1]


def test_lambda_callback():
    seen = []
    run(
        LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["val_loss"])),
            on_batch_end=lambda batch, logs: seen.append(batch),
            on_train_end=lambda logs: seen.append("end"),
        ),
        [5.0],
    )
    assert seen == [0, (0, 5.0), "end"]
    with pytest.raises(TypeError, match="Did you mean 'on_epoch_end'"):
        LambdaCallback(on_epochs_end=print)
    with pytest.raises(TypeError, match="on_epoch_end is a function, not 3"):
        LambdaCallback(on_epoch_end=3)


# -- EarlyStopping --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "arguments", "epochs", "best"),
    [
        ([3, 2, 1, 2, 3, 0], {"patience": 2}, 5, 3),
        ([3, 2, 1], {"patience": 1}, 3, 3),  # the epochs run out
        ([1, 2, 2], {"patience": 5}, 3, 1),  # they run out after the best one
        ([1, 2, 3], {}, 2, 1),
        ([3, 2.95, 2.9, 2], {"patience": 2, "min_delta": 0.2}, 3, 1),
        ([NAN, 2, NAN, 3, 3], {"patience": 2}, 4, 2),
        ([NAN, NAN, NAN, 1], {"patience": 2}, 2, None),
        ([9, 8, 1, 2, 3], {"patience": 1, "start_from_epoch": 2}, 4, 3),
        ([3, 2.5, 2.4, 2.3], {"patience": 3, "baseline": 1.0}, 4, 4),
        ([3, 0.5, 0.6, 0.7], {"patience": 2, "baseline": 1.0}, 4, 2),
        ([1, 2, 3, 2], {"patience": 1, "mode": "max"}, 4, 3),
        ([1, 2, 3, 2], {"patience": 1, "monitor": "val_accuracy"}, 4, 3),
    ],
)
def test_early_stopping(values, arguments, epochs, best):
    stopping = EarlyStopping(restore_best_weights=True, **arguments)
    model, seen = run(stopping, values, arguments.get("monitor", "val_loss"))
    assert len(seen) == epochs
    assert model.weights[0] == (best or epochs)  # NaN is never best: nothing to restore
    assert stopping.best_epoch + 1 == (best or 1)


def test_early_stopping_leaves_weights_alone_unless_asked(capsys):
    stopping = EarlyStopping(patience=1, verbose=1)
    model, _ = run(stopping, [1, 2, 3])
    assert model.weights[0] == 2 and stopping.best_weights is None
    assert capsys.readouterr().out == "Epoch 2: early stopping\n"


def test_early_stopping_can_be_used_again():
    stopping = EarlyStopping(patience=1, restore_best_weights=True)
    run(stopping, [0, 1, 2])
    model, seen = run(stopping, [9, 8, 7])
    assert len(seen) == 3 and model.weights[0] == 3


# -- the monitored value --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("monitor", "hint"),
    [
        ("val_acc", "Did you mean 'val_accuracy'"),
        ("acc", "Did you mean 'accuracy'"),
        ("val_los", "Did you mean 'val_loss'"),
    ],
)
def test_a_missing_value_is_said_once_with_the_closest_name(monitor, hint):
    stopping = EarlyStopping(monitor)
    with pytest.warns(UserWarning) as caught:
        for epoch in range(3):
            logs = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}
            stopping.on_epoch_end(epoch, logs)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert hint in text and "There are: accuracy, loss, val_accuracy, val_loss." in text


def test_validation_that_is_missing_altogether_is_named():
    with pytest.warns(UserWarning, match="give fit validation_data or validation_split"):
        run(EarlyStopping(), [1.0], name="accuracy")


def test_the_direction_comes_from_the_name_then_from_the_class():
    class AUC:
        name = "score"

    model = FakeModel()
    model.metrics = [AUC()]
    stopping = EarlyStopping("val_score", restore_best_weights=True)
    run(stopping, [1, 3, 2], "val_score", model=model)
    assert stopping.best == 3
    with pytest.raises(ValueError, match="give mode='max' or mode='min'"):
        run(EarlyStopping("val_score"), [1, 2], "val_score")
    with pytest.warns(UserWarning, match="not 'maximum'; 'auto' is taken"):
        assert EarlyStopping(mode="maximum").mode == "auto"


@pytest.mark.parametrize("name", ["patience", "start_from_epoch"])
def test_counts_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} is an integer >= 0, not -1"):
        EarlyStopping(**{name: -1})


# -- learning rate --------------------------------------------------------------------------------


def test_reduce_lr_on_plateau(capsys):
    callback = ReduceLROnPlateau(factor=0.5, patience=2, cooldown=1, min_lr=0.02, verbose=1)
    model, seen = run(callback, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    rates = [logs["learning_rate"] for logs in seen]
    # two epochs without improvement, then one of cooldown, in which nothing is counted
    assert rates == [0.1, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.02, 0.02, 0.02]
    assert capsys.readouterr().out.startswith(
        "Epoch 3: ReduceLROnPlateau reducing learning rate to 0.05\n"
    )
    assert model.history.history["learning_rate"] == rates


def test_reduce_lr_starts_anew_on_improvement_and_ignores_nan():
    model, _ = run(ReduceLROnPlateau(factor=0.5, patience=2), [3, 3, 2, 2, 1, 1])
    assert model.optimizer.learning_rate == 0.1
    model, _ = run(ReduceLROnPlateau(factor=0.5, patience=2), [NAN, NAN])
    assert model.optimizer.learning_rate == 0.05


def test_reduce_lr_arguments():
    with pytest.raises(ValueError, match=r"factor lies in \[0, 1\), not 1.5"):
        ReduceLROnPlateau(factor=1.5)
    with pytest.raises(TypeError, match="Did you mean 'cooldown'"):
        ReduceLROnPlateau(cool_down=1)
    with pytest.warns(UserWarning, match="epsilon is now called min_delta"):
        assert ReduceLROnPlateau(epsilon=0.5).min_delta == 0.5


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (lambda epoch: 1.0 / (epoch + 1), [1.0, 0.5]),
        (lambda epoch, rate: rate * 0.5, [0.05, 0.025]),
        (lambda epoch, rate=None: np.float32(rate), [float(np.float32(0.1))] * 2),
    ],
)
def test_learning_rate_scheduler(schedule, rates):
    model, seen = run(LearningRateScheduler(schedule), [1, 1])
    assert [logs["learning_rate"] for logs in seen] == rates
    assert type(model.optimizer.learning_rate) is float


def test_learning_rate_scheduler_refuses():
    with pytest.raises(TypeError, match="schedule is a function"):
        LearningRateScheduler(0.1)
    for rate in (None, NAN, -1.0, "0.1", True):
        scheduler = LearningRateScheduler({0: rate}.get)
        with pytest.raises(ValueError, match="a learning rate is a number >= 0"):
            run(scheduler, [1.0])
    with pytest.raises(TypeError, match="unsupported operand"):  # the schedule's own mistakes show
        run(LearningRateScheduler(lambda epoch, rate: rate + "1"), [1.0])


# -- ModelCheckpoint ------------------------------------------------------------------------------


def test_checkpoint_every_epoch_fills_the_template(tmp_path):
    path = tmp_path / "new folder" / "{epoch:02d}-{val_loss:.2f}.keras"
    model, _ = run(ModelCheckpoint(path), [1.5, 1.25])
    assert model.saved == ["01-1.50.keras", "02-1.25.keras"]


@pytest.mark.parametrize(
    ("values", "arguments", "epochs"),
    [
        ([3, 2, 4, 1], {}, [1, 2, 4]),
        ([NAN, 2, NAN, 3], {}, [2]),
        ([3, 2, 4, 1], {"mode": "max"}, [1, 3]),
        ([3, 2, 4, 1], {"initial_value_threshold": 2.5}, [2, 4]),
        ([3, 2, 4, 1], {"save_best_only": False}, [1, 2, 3, 4]),
    ],
)
def test_checkpoint_of_the_best(tmp_path, values, arguments, epochs):
    path = tmp_path / "{epoch}.keras"
    model, _ = run(ModelCheckpoint(path, **{"save_best_only": True, **arguments}), values)
    assert model.saved == [f"{epoch}.keras" for epoch in epochs]


def test_checkpoint_every_few_batches_counts_over_epochs(tmp_path):
    path = tmp_path / "{epoch}-{batch}.weights.h5"
    model, _ = run(ModelCheckpoint(path, save_freq=4, save_weights_only=True), [1, 1], steps=5)
    assert model.saved == ["1-4.weights.h5", "2-3.weights.h5"]


def test_checkpoint_of_the_best_at_batches(tmp_path):
    checkpoint = ModelCheckpoint(
        tmp_path / "{epoch}.keras", monitor="loss", save_freq=1, save_best_only=True
    )
    model, _ = run(checkpoint, [1, 1])
    assert model.saved == ["1.keras"]


def test_checkpoint_messages(tmp_path, capsys):
    path = tmp_path / "m.keras"
    run(ModelCheckpoint(path, save_best_only=True, verbose=1), [2.0, 3.0])
    assert capsys.readouterr().out.splitlines() == [
        f"Epoch 1: val_loss improved from none to 2.00000, saving model to {path}",
        "Epoch 2: val_loss did not improve from 2.00000",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filepath": "model.h5"}, "ends in '.keras', not 'model.h5'"),
        ({"filepath": "m.keras", "save_weights_only": True}, "ends in '.weights.h5'"),
        ({"filepath": "m.keras", "save_freq": 0}, "save_freq is 'epoch' or a number"),
        ({"filepath": "m.keras", "save_freq": "batch"}, "not 'batch'"),
        ({"filepath": "{epoch.keras"}, "filepath '{epoch.keras'"),
        ({"filepath": "{batch}.keras"}, "give save_freq=number of batches"),
    ],
)
def test_checkpoint_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        ModelCheckpoint(**arguments)


def test_checkpoint_names_what_the_template_may_hold(tmp_path):
    with pytest.raises(KeyError, match="names 'val_acc'.*There are: epoch, loss, val_loss"):
        run(ModelCheckpoint(tmp_path / "{val_acc}.keras"), [1.0])
    with pytest.raises(ValueError, match="format code 'd'"):
        run(ModelCheckpoint(tmp_path / "{val_loss:d}.keras"), [1.0])


def test_checkpoint_without_its_value_saves_and_says_so(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.keras", "val_f1", save_best_only=True)
    with pytest.warns(UserWarning, match="there is no 'val_f1'"):
        model, _ = run(checkpoint, [1.0, 2.0])
    assert model.saved == ["1.keras", "2.keras"]


# -- CSVLogger, TerminateOnNaN --------------------------------------------------------------------


def rows(path, separator=","):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter=separator))


def test_csv_logger_appends_in_the_order_of_the_header(tmp_path):
    path = tmp_path / "logs" / "log.csv"
    run(CSVLogger(path), [0.5, 0.25])
    assert rows(path) == [["epoch", "loss", "val_loss"], ["0", "1.0", "0.5"], ["1", "1.0", "0.25"]]
    run(CSVLogger(path, append=True), [0.125])
    assert rows(path)[3:] == [["0", "1.0", "0.125"]]
    run(CSVLogger(path, separator=";"), [1.5])
    assert rows(path, ";") == [["epoch", "loss", "val_loss"], ["0", "1.0", "1.5"]]


def test_csv_logger_keeps_columns_for_later_validation(tmp_path):
    logger = CSVLogger(tmp_path / "log.csv")
    logger.on_train_begin()
    logger.on_epoch_end(0, {"loss": 1.0, "counts": np.array([1, 2])})
    logger.on_epoch_end(1, {"loss": 0.5, "counts": np.array([3, 4]), "val_loss": 2.0})
    assert rows(tmp_path / "log.csv") == [
        ["epoch", "counts", "loss", "val_counts", "val_loss"],
        ["0", "[1, 2]", "1.0", "NA", "NA"],
        ["1", "[3, 4]", "0.5", "NA", "2.0"],
    ]
    with pytest.raises(ValueError, match="separator is one character"):
        CSVLogger("x.csv", separator="tab")


@pytest.mark.parametrize("loss", [NAN, math.inf])
def test_terminate_on_nan(loss, capsys):
    model, callback = FakeModel(), TerminateOnNaN()
    callback.set_model(model)
    callback.on_train_batch_end(0, {"loss": 1.0})
    assert not model.stop_training
    callback.on_train_batch_end(3, {"loss": loss})
    assert model.stop_training and "Batch 3: the loss is" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="at batch 3"):
        TerminateOnNaN(raise_error=True).on_train_batch_end(3, {"loss": loss})


# -- in a real `fit` ------------------------------------------------------------------------------


@pytest.fixture
def model():
    """Batch normalisation and two classes; computed by NumPy, so that nothing is compiled."""
    with config.using(ops="reference", seed=None):
        set_random_seed(2)
        model = Sequential([Input((4,)), Dense(8), BatchNormalization(), ReLU(), Dense(2)])
        loss = SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=["accuracy"])
        yield model


@pytest.fixture
def data():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int64")


def test_fit_restores_the_best_weights_with_their_moving_statistics(model, data):
    x, y = data
    kept = []
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(model.get_weights()))
    # against the wrong labels: validation gets worse from the first epoch on
    stopping = EarlyStopping(patience=2, restore_best_weights=True)
    history = model.fit(
        x, y, 16, 10, 0, [keep, stopping], validation_data=(x, 1 - y), shuffle=False
    )
    losses = history.history["val_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 == len(kept) < 10
    for mine, wanted, last in zip(model.get_weights(), kept[best], kept[-1], strict=True):
        assert np.array_equal(mine, wanted)
        assert not np.array_equal(mine, last)


def test_fit_reduces_the_learning_rate(model, data):
    history = model.fit(
        *data, epochs=4, verbose=0, callbacks=ReduceLROnPlateau("loss", 0.5, 1, min_delta=100)
    )
    first = history.history["learning_rate"][0]
    assert history.history["learning_rate"] == pytest.approx([first, first, first / 2, first / 4])
    assert history.params == {"epochs": 4, "steps": 2, "verbose": 0}


@pytest.mark.parametrize(
    "callback", [ReduceLROnPlateau("loss"), LearningRateScheduler(lambda epoch: 0.1)]
)
def test_a_rate_that_follows_a_schedule_is_refused_at_the_start(model, data, callback):
    model.compile(SGD(ExponentialDecay(0.1, 10, 0.5)), model.compiled["loss"])
    with pytest.raises(TypeError, match="follows ExponentialDecay and cannot be set"):
        model.fit(*data, verbose=0, callbacks=callback)
    assert model.optimizer.iterations == 0


def test_swap_ema_weights(model, data):
    model.compile(SGD(0.1, use_ema=True, ema_momentum=0.9), model.compiled["loss"])
    seen = {}

    def look(when):
        return lambda *_: seen.setdefault(when, []).append(model.get_weights()[0])

    model.fit(
        *data,
        batch_size=8,
        epochs=3,
        validation_data=data,
        verbose=0,
        callbacks=[
            LambdaCallback(on_epoch_begin=look("before"), on_train_batch_end=look("step")),
            SwapEMAWeights(swap_on_epoch=True),
            LambdaCallback(
                on_epoch_begin=look("begin"), on_test_end=look("tested"), on_epoch_end=look("end")
            ),
            LambdaCallback(on_test_begin=look("test")),
        ],
    )
    steps = seen["step"]
    average = steps[0]
    for number, weights in enumerate(steps):
        average = 0.9 * average + 0.1 * weights if number else weights
        if number % 8 == 7:
            epoch = number // 8
            np.testing.assert_allclose(seen["test"][epoch], average, rtol=1e-5)
            np.testing.assert_array_equal(seen["tested"][epoch], weights)
            np.testing.assert_array_equal(seen["end"][epoch], seen["test"][epoch])
            if epoch:
                np.testing.assert_array_equal(seen["begin"][epoch], steps[8 * epoch - 1])
    np.testing.assert_array_equal(model.get_weights()[0], seen["end"][-1])
    assert not np.allclose(average, steps[-1], rtol=1e-3)


def test_swap_ema_weights_needs_averages(model, data):
    with pytest.raises(ValueError, match="use_ema=True"):
        model.evaluate(*data, verbose=0, callbacks=[SwapEMAWeights()])


def test_fit_warns_once_at_the_line_that_called_it(model, data):
    with pytest.warns(UserWarning, match="Did you mean 'val_accuracy'") as caught:
        model.fit(
            *data, epochs=3, verbose=0, validation_split=0.5, callbacks=EarlyStopping("val_acc")
        )
    assert [one.filename for one in caught] == [__file__]


def test_fit_stops_inside_an_epoch(model, data):
    batches = []

    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            batches.append(batch)
            self.model.stop_training = batch == 1

    model.fit(*data, batch_size=8, epochs=3, verbose=0, callbacks=[Stop()])
    assert batches == [0, 1]


def test_fit_ends_at_nan(model, data, capsys):
    def spoil(batch, logs):
        if batch == 1:
            model.layers[-1].bias.assign([NAN, NAN])

    with pytest.warns(RuntimeWarning, match="the loss is nan"):
        history = model.fit(
            *data,
            batch_size=8,
            epochs=3,
            verbose=0,
            callbacks=[LambdaCallback(on_train_batch_end=spoil), TerminateOnNaN()],
        )
    assert len(history.epoch) == 1 and "Batch 2: the loss is nan" in capsys.readouterr().out


def test_fit_evaluate_and_predict_print_plain_lines(model, data, capsys):
    model.fit(*data, epochs=3, validation_data=data)
    line = r"Epoch {}/3 - \S+s - \S+s/step - accuracy: 0\.\d{{4}} - loss: \S+ - val_accuracy: "
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    for epoch, text in enumerate(printed, 1):
        assert re.match(line.format(epoch), text), text
    model.evaluate(*data)
    assert re.fullmatch(
        r"Evaluate - \S+s - \S+s/step - accuracy: \S+ - loss: \S+\n", capsys.readouterr().out
    )
    model.predict(data[0])
    model.fit(*data, verbose=0)
    assert capsys.readouterr().out == ""


def test_checkpoints_of_fit_can_be_loaded(model, data, tmp_path):
    checkpoint = ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True, monitor="loss"
    )
    whole = ModelCheckpoint(tmp_path / "best.keras", monitor="loss", save_best_only=True)
    model.fit(*data, epochs=2, verbose=0, callbacks=[checkpoint, whole])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1.weights.h5",
        "2.weights.h5",
        "best.keras",
    ]
    expected = model.predict(data[0], verbose=0)
    model.load_weights(tmp_path / "1.weights.h5")
    assert not np.array_equal(model.predict(data[0], verbose=0), expected)
    model.load_weights(tmp_path / "2.weights.h5")
    assert np.array_equal(model.predict(data[0], verbose=0), expected)


def test_lookahead_moves_the_weights_to_a_slow_average():
    x, y = np.ones((8, 1), np.float32), np.zeros((8, 1), np.float32)
    model = Sequential([Input((1,)), Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile("sgd", "mse")  # w -= 0.01 * 2 w: a step multiplies w by 0.98
    model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[Lookahead(3, 0.5, power=1.0)])
    w = slow = 0.98
    for step in range(1, 9):
        w = w * 0.98 if step > 1 else w
        if step % 3 == 0:
            d = 0.5 * step / 8
            w = slow = d * slow + (1 - d) * w
    np.testing.assert_allclose(model.get_weights()[0], [[slow]], rtol=1e-6)


@pytest.mark.parametrize("arguments", [dict(every=0), dict(momentum=1.0), dict(power=-1)])
def test_lookahead_refuses(arguments):
    with pytest.raises(ValueError, match="Lookahead"):
        Lookahead(**arguments)
