"""What callbacks decide, against Keras's on the same logs; a model that only counts stands in."""

import itertools
import types

import keras
import numpy as np
import pytest
from oracle import close

from minicnn import callbacks, metrics


class Weights:
    """Stands for a model whose only weight is the number of the epoch."""

    def __init__(self):
        self.epoch, self.stop_training, self.metrics = None, False, []
        self.optimizer = types.SimpleNamespace(learning_rate=0.1)
        self.files = []

    def get_weights(self):
        return [np.array(self.epoch)]

    def set_weights(self, weights):
        self.epoch = int(weights[0])

    def save(self, filepath, overwrite=True):
        self.files.append(("model", str(filepath)))

    def save_weights(self, filepath, overwrite=True):
        self.files.append(("weights", str(filepath)))


def run(callback, logs, batches=0):
    """A trainer's calls; returns what a user sees of it."""
    model, seen = Weights(), []
    callback.set_params({"epochs": len(logs), "steps": batches, "verbose": 0})
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, entry in enumerate(logs):
        entry = dict(entry)
        model.epoch = epoch
        callback.on_epoch_begin(epoch)
        for batch in range(batches):
            callback.on_train_batch_begin(batch)
            callback.on_train_batch_end(batch, dict(entry))
        callback.on_epoch_end(epoch, entry)
        seen.append((float(model.optimizer.learning_rate), entry.get("learning_rate")))
        if model.stop_training:
            break
    callback.on_train_end()
    return {"epochs": len(seen), "weights": model.epoch, "rates": seen, "files": model.files}


def both(name, logs, *args, batches=0, **options):
    """What ours and Keras's callback of that name make of the logs."""
    return [
        run(getattr(module, name)(*args, **options), logs, batches)
        for module in (callbacks, keras.callbacks)
    ]


def series(seed, name="val_loss", epochs=14):
    """A value that falls, stays and rises, by other amounts than the min_deltas below."""
    steps = np.random.default_rng(seed).choice([-0.21, -0.053, 0.0, 0.0, 0.117, 0.32], epochs)
    values = 2 + np.cumsum(steps)
    return [{"loss": 1.0, name: float(value)} for value in values]


def grid(**choices):
    """All combinations, as keyword arguments."""
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_early_stopping(seed):
    logs, stopped = series(seed), 0
    for options in grid(
        patience=[0, 1, 3],
        min_delta=[0, 0.1],
        restore_best_weights=[False, True],
        start_from_epoch=[0, 4],
        baseline=[None, 1.9],
        mode=["auto", "max"],
    ):
        ours, theirs = both("EarlyStopping", logs, **options)
        assert ours == theirs, options
        stopped += ours["epochs"] < len(logs)
    assert stopped > 20


@pytest.mark.parametrize("seed", range(4))
def test_reduce_lr_on_plateau(seed):
    logs, reduced = series(seed), 0
    for options in grid(
        patience=[1, 2, 4],
        factor=[0.1, 0.7],
        min_delta=[1e-4, 0.1],
        cooldown=[0, 2],
        min_lr=[0.0, 0.05],
        mode=["auto", "max"],
    ):
        ours, theirs = both("ReduceLROnPlateau", logs, **options)
        assert ours["epochs"] == theirs["epochs"]
        close(ours["rates"], theirs["rates"], what=str(options))
        reduced += ours["rates"][-1][0] < 0.1
    assert reduced > 20


@pytest.mark.parametrize("monitor", ["loss", "val_loss"])
def test_direction_of_the_loss(monitor):
    logs = series(1, monitor)
    ours, theirs = both("EarlyStopping", logs, monitor=monitor, patience=1)
    assert ours == theirs


METRICS = [
    "Accuracy",
    "BinaryAccuracy",
    "SparseCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "Precision",
    "Recall",
    "AUC",
    "F1Score",
    "R2Score",
    "MeanSquaredError",
    "MeanAbsoluteError",
    "RootMeanSquaredError",
    "KLDivergence",
    "Poisson",
    "Hinge",
    "CategoricalCrossentropy",
    "LogCoshError",
    "FalsePositives",
    "FalseNegatives",
    "TruePositives",
    "TrueNegatives",
    "CosineSimilarity",
]


@pytest.mark.parametrize("name", METRICS)
def test_direction_of_metrics(name):
    """mode="auto" goes by the metric's class; both refuse to guess about counts."""
    theirs = getattr(getattr(keras.metrics, name)(), "_direction", None)
    model = Weights()
    model.metrics = [getattr(metrics, name)(name="given")]
    callback = callbacks.EarlyStopping("val_given", patience=1)
    callback.set_model(model)
    callback.on_train_begin()
    ours = "up"
    try:
        for epoch, value in enumerate((1.0, 2.0, 3.0)):
            callback.on_epoch_end(epoch, {"val_given": value})
    except ValueError:
        ours = None
    if model.stop_training:
        ours = "down"
    assert ours == theirs


def test_learning_rate_scheduler():
    logs = series(0)
    for schedule in (lambda epoch: 0.1 / (epoch + 1), lambda epoch, rate: rate * 0.9):
        ours, theirs = both("LearningRateScheduler", logs, schedule)
        close(ours["rates"], theirs["rates"])


@pytest.mark.parametrize("seed", range(2))
def test_model_checkpoint(seed, tmp_path):
    logs, saved = series(seed), 0
    for options in grid(
        save_best_only=[False, True],
        save_weights_only=[False, True],
        mode=["auto", "max"],
        save_freq=["epoch", 3],
        initial_value_threshold=[None, 1.9],
    ):
        if options["save_best_only"] and options["save_freq"] != "epoch":
            continue  # Keras calls its comparison before the end of an epoch has set it
        ending = ".weights.h5" if options["save_weights_only"] else ".keras"
        path = str(tmp_path / ("{epoch:02d}-{val_loss:.2f}" + ending))
        ours, theirs = both("ModelCheckpoint", logs, path, batches=4, **options)
        assert ours["files"] == theirs["files"], options
        saved += len(ours["files"])
    assert saved > 50


def test_csv_logger(tmp_path):
    for options in grid(separator=[",", ";"], append=[False, True]):
        files = []
        for module, name in ((callbacks, "ours.csv"), (keras.callbacks, "theirs.csv")):
            for seed in (0, 1):  # twice: a second run appends or starts anew
                run(module.CSVLogger(tmp_path / name, **options), series(seed, epochs=3))
            files.append((tmp_path / name).read_text().splitlines())
        assert files[0] == files[1], options


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
def test_terminate_on_nan(value):
    logs = [{"loss": 0.5}, {"loss": value}, {"loss": 0.4}]
    ours, theirs = both("TerminateOnNaN", logs, batches=2)
    assert ours == theirs
    assert ours["epochs"] == (3 if np.isfinite(value) else 2)


def test_history():
    logs = series(3, epochs=4)
    found = []
    for module in (callbacks, keras.callbacks):
        history = module.History()
        run(history, logs)
        found.append((history.history, history.epoch))
    assert found[0] == found[1]


def test_hooks():
    """Keras's callbacks have the same hooks."""
    ours = {name for name in dir(callbacks.Callback) if name.startswith("on_")}
    assert ours == {name for name in dir(keras.callbacks.Callback) if name.startswith("on_")}
