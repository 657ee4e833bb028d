"""warmup: nothing is left to compile, and the model is what it was."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import Model, Sequential, config, layers, losses

ROOT = Path(__file__).parents[1]


def network(loss="sparse_categorical_crossentropy", **compiled):
    minicnn.set_random_seed(0)
    model = Sequential(
        [
            layers.Input((6, 6, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", loss, metrics=["accuracy"], **compiled)
    return model


def data(count=12):
    x = np.random.default_rng(1).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return x, np.arange(count) % 3


def everything(model):
    """All that a step may change, as arrays."""
    state = [array for _, array in model.optimizer.state()] if model.optimizer.parameters else []
    return [*model.get_weights(), *state]


@pytest.mark.parametrize("steps_before", [0, 2])
def test_training_goes_on_as_if_there_had_been_no_warmup(steps_before):
    runs = []
    for warm in (False, True):
        model = network()
        x, y = data()
        for _ in range(steps_before):
            model.train_on_batch(x, y)
        results = model.get_metrics_result() if steps_before else None
        before = everything(model), [metric.name for metric in model.metrics], config.seed
        if warm:
            minicnn.warmup(model, batch_size=4)
        after = everything(model), [metric.name for metric in model.metrics], config.seed
        assert before[1:] == after[1:] and len(before[0]) == len(after[0])
        for one, other in zip(before[0], after[0], strict=True):
            np.testing.assert_array_equal(one, other)
        assert results is None or model.get_metrics_result() == results
        drawn = [np.random.random(3), minicnn.initializers.RandomNormal()((3,))]
        history = model.fit(x, y, batch_size=4, epochs=2, verbose=0).history
        runs.append([*drawn, *everything(model), *history.values()])
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_is_left_to_compile(tmp_path):
    """Neither by float32 nor by uint8 pictures; a second call compiles nothing, says nothing."""
    program = """
        import os, sys
        sys.path.insert(0, TESTS)
        from test_warmup import data, minicnn, network
        from minicnn.ops.fast import jit

        def kept():
            return sorted(os.listdir(jit.cache_folders()[-1]))

        model = network()
        minicnn.warmup(model, 4)
        first = kept()
        assert len(first) > 10
        x, y = data()
        for pictures in (x, x.astype("float32")):
            model.fit(pictures, y, batch_size=4, validation_data=(pictures, y), verbose=0)
            model.predict(pictures, verbose=0)
        minicnn.warmup(model, 4)
        assert kept() == first, set(kept()) - set(first)
        """
    variables = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(program).replace("TESTS", repr(str(ROOT / "tests"))),
        ],
        env={**variables, "MINICNN_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "compiling kernels" in done.stderr


@pytest.mark.parametrize("name", sorted(losses.table.classes))
def test_targets_are_made_up_for_every_loss(name):
    model = network(losses.get(name))
    minicnn.warmup(model, 2)
    assert model.optimizer.iterations == 0


def test_several_inputs_and_outputs():
    a, b = layers.Input((4,), name="a"), layers.Input((4, 4, 1), batch_size=2, name="b")
    joined = layers.concatenate([a, layers.Flatten()(b)])
    outputs = {
        "kind": layers.Dense(3, activation="softmax")(joined),
        "size": layers.Dense(1)(joined),
        "unused": layers.Dense(2)(joined),
    }
    model = Model([a, b], outputs)
    model.compile("sgd", {"kind": "sparse_categorical_crossentropy", "size": "mse"})
    before = model.get_weights()
    minicnn.warmup(model, 2)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_prediction_needs_no_compile():
    model = Sequential([layers.Input((4,)), layers.Dense(2)])
    minicnn.warmup(model, training=False)
    assert model.optimizer is None


def test_the_reference_operations_compile_nothing(monkeypatch):
    model = network()
    with config.using(ops="reference"):
        monkeypatch.setattr(Sequential, "forward", None)
        minicnn.warmup(model)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: minicnn.warmup("resnet"), "warmup takes a built model, not 'resnet'"),
        (lambda: minicnn.warmup(network(), 0), "batch_size"),
        (lambda: minicnn.warmup(Sequential([layers.Dense(2)])), "is not built: give its first"),
        (
            lambda: minicnn.warmup(Sequential([layers.Input((4,)), layers.Dense(2)])),
            r"is not compiled: call compile\(...\) first, or warmup\(model, training=False\)",
        ),
        (
            lambda: minicnn.warmup(
                Sequential([layers.Input((None, None, 3)), layers.GlobalMaxPooling2D()]),
                training=False,
            ),
            "warmup needs sizes in place of None",
        ),
        (
            lambda: minicnn.warmup(network(loss=None)),
            "was compiled without a loss",
        ),
    ],
)
def test_errors(act, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
