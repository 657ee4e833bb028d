"""Checks on every public class that is no layer: configs, files, and what a copy computes."""

import json
import os

import cases
import numpy as np
import pytest

from minicnn import (
    Dense,
    Input,
    Sequential,
    callbacks,
    load_model,
    optimizers,
    set_random_seed,
)
from minicnn.configurable import Table, serialize

ROOMS = ("initializers", "regularizers", "constraints", "losses", "metrics", "optimizers")
EACH = [
    pytest.param(cls, arguments, id=f"{cls.table.module}-{cls.__name__}-{i}")
    for cls, entries in cases.OBJECTS.items()
    for i, arguments in enumerate(entries)
]


def of_rooms(*rooms):
    chosen = [one for one in EACH if one.values[0].table.module in rooms]
    return pytest.mark.parametrize(("cls", "arguments"), chosen)


@pytest.mark.parametrize("room", [*ROOMS, "optimizers.schedules"])
def test_every_class_has_a_case(room):
    listed = {cls.__name__ for cls in cases.OBJECTS if cls.table.module == room}
    missing = set(Table.all[room].classes) - listed
    assert missing <= cases.OBJECTS_ELSEWHERE


@pytest.mark.parametrize(("cls", "arguments"), EACH)
def test_config_round_trip(cls, arguments):
    made = cls(**arguments)
    entry = json.loads(json.dumps(serialize(made)))
    again = cls.table.build(entry)
    assert type(again) is cls
    assert again.get_config() == made.get_config()
    assert cls.from_config(made.get_config()).get_config() == made.get_config()
    for name, value in arguments.items():
        assert entry["config"][name] == value


def small_model(activation="softmax", **compiled):
    set_random_seed(3)
    model = Sequential([Input((4,)), Dense(3, activation=activation)])
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compiled})
    return model


def rows(n=12):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, 4)).astype(np.float32)
    return x, np.eye(3, dtype=np.float32)[generator.integers(0, 3, n)]


def through_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return load_model(tmp_path / "model.keras")


@of_rooms("optimizers")
def test_optimizer_goes_on_after_a_file_as_if_nothing_had_been(cls, arguments, tmp_path):
    x, y = rows()
    model = small_model(optimizer=cls(**arguments))
    for _ in range(3):
        model.train_on_batch(x, y)
    again = through_file(model, tmp_path)
    assert type(again.optimizer) is cls
    assert again.optimizer.get_config() == model.optimizer.get_config()
    assert again.optimizer.iterations == 3
    for _ in range(2):
        model.train_on_batch(x, y)
        again.train_on_batch(x, y)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@of_rooms("optimizers.schedules")
def test_schedule_through_a_file(cls, arguments, tmp_path):
    from minicnn.optimizers import SGD

    x, y = rows()
    model = small_model(optimizer=SGD(cls(**arguments)))
    for _ in range(4):
        model.train_on_batch(x, y)
    again = through_file(model, tmp_path)
    assert float(again.optimizer.learning_rate) == float(model.optimizer.learning_rate)
    assert again.optimizer.get_config() == model.optimizer.get_config()


@of_rooms("losses")
def test_loss_through_a_file(cls, arguments, tmp_path):
    x, y = rows()
    if cls.__name__.startswith("Sparse"):
        y = y.argmax(axis=1)
    kind = "sigmoid" if cls.__name__.startswith("Binary") else "softmax"
    model = small_model(None if "from_logits" in arguments else kind, loss=cls(**arguments))
    again = through_file(model, tmp_path)
    assert again.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


@of_rooms("metrics")
def test_metric_through_a_file(cls, arguments, tmp_path):
    if cls.__name__ in ("Mean", "Sum"):
        with pytest.raises((TypeError, ValueError), match=cls.__name__):
            small_model(metrics=[cls(**arguments)])
        return
    x, y = rows()
    if cls.__name__.startswith("Sparse"):
        y = y.argmax(axis=1)
        model = small_model(metrics=[cls(**arguments)], loss="sparse_categorical_crossentropy")
    else:
        model = small_model(metrics=[cls(**arguments)])
    again = through_file(model, tmp_path)
    ours, theirs = (one.evaluate(x, y, verbose=0, return_dict=True) for one in (model, again))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


@of_rooms("initializers", "regularizers", "constraints")
def test_parts_of_a_layer_through_a_file(cls, arguments, tmp_path):
    role = {
        "initializers": "kernel_initializer",
        "regularizers": "kernel_regularizer",
        "constraints": "kernel_constraint",
    }[cls.table.module]
    model = Sequential([Input((4,)), Dense(4, **{role: cls(**arguments)})])
    model.compile("sgd", "mse")
    again = through_file(model, tmp_path)
    part = getattr(again.layers[0], role)
    assert type(part) is cls
    assert part.get_config() == getattr(model.layers[0], role).get_config()
    x = rows()[0]
    assert again.evaluate(x, x, verbose=0) == model.evaluate(x, x, verbose=0)


def test_every_callback_has_a_case():
    listed = {cls.__name__ for cls in cases.CALLBACKS}
    assert set(callbacks.__all__) - listed == cases.CALLBACKS_ELSEWHERE


@pytest.mark.parametrize(
    ("cls", "arguments"), cases.CALLBACKS.items(), ids=[c.__name__ for c in cases.CALLBACKS]
)
def test_training_with_a_callback(cls, arguments, tmp_path):
    arguments = {
        name: value.replace(cases.FOLDER, f"{tmp_path}/") if isinstance(value, str) else value
        for name, value in arguments.items()
    }
    x, y = rows()
    model = small_model(optimizer=optimizers.SGD(use_ema=True))
    history = model.fit(x, y, epochs=2, callbacks=[cls(**arguments)], verbose=0)
    assert history.epoch == [0, 1]
    assert history.history["loss"][1] < history.history["loss"][0]
    files = [value for value in arguments.values() if str(tmp_path) in str(value)]
    assert all(os.path.getsize(file) > 0 for file in files)
