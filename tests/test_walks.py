"""Recorded steps give the bits that the layers give, and are given up when anything changes."""

import copy
import gc
import pickle
import threading

import cases
import numpy as np
import pytest
from test_cases import each_case, make

from minicnn import (
    Input,
    Model,
    Sequential,
    callbacks,
    config,
    layers,
    metrics,
    ops,
    set_random_seed,
)
from minicnn.layers.base import can_be_recorded
from minicnn.ops.recording import Recording

# Those of which no case is recorded, because part of their work is NumPy's.
BY_LAYER = {
    layers.CenterCrop,
    layers.Concatenate,
    layers.CutMix,
    layers.MixUp,
    layers.Normalization,
    layers.RandomBrightness,
    layers.RandomColorJitter,
    layers.RandomContrast,
    layers.RandomCrop,
    layers.RandomErasing,
    layers.RandomFlip,
    layers.RandomHue,
    layers.RandomRotation,
    layers.RandomSaturation,
    layers.RandomShear,
    layers.RandomTranslation,
    layers.RandomZoom,
    layers.Resizing,
}


@pytest.fixture
def recorded(monkeypatch):
    """A list to which every recorded walk adds an entry."""
    seen, walk = [], Recording.walk

    def counted(self, *arguments):
        seen.append(self)
        return walk(self, *arguments)

    monkeypatch.setattr(Recording, "walk", counted)
    return seen


def pictures(n, shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(dtype)


def weights(model):
    return [w.tobytes() for w in model.get_weights()]


def train(model, x, steps=5, n=6):
    """Weights and losses after steps on batches of different data, and predictions for them."""
    losses, y = [], pictures(steps * n, model.output_shape[1:], seed=1)
    for step in range(steps):
        part = slice(step * n, (step + 1) * n)
        given = [one[part] for one in x] if isinstance(x, list) else x[part]
        losses.append(model.train_on_batch(given, y[part]))
    predicted = []
    for i in range(0, steps * n, n):
        given = [one[i : i + n] for one in x] if isinstance(x, list) else x[i : i + n]
        predicted.append(model.predict_on_batch(given).tobytes())
    return weights(model), losses, predicted


def both_ways(build, x, recorded, **compiling):
    """What training gives recorded and layer by layer; the number of recorded walks."""
    results = []
    for run_eagerly in (False, True):
        set_random_seed(4)
        model, before = build(), len(recorded)
        model.compile("adam", "mse", run_eagerly=run_eagerly, **compiling)
        results.append(train(model, x))
        count = len(recorded) - before
        assert not (run_eagerly and count)
        results[-1] = (*results[-1], count)
    assert results[0][:3] == results[1][:3]
    return results[0][3]


@pytest.mark.filterwarnings("ignore:CutMix", "ignore:MixUp", "ignore:Normalization")
@each_case
def test_every_layer(cls, arguments, shape, recorded):
    """Below a layer whose gradient it makes, and above one that makes its own."""

    def build():
        several = isinstance(shape, list)
        inputs = [Input(one) for one in shape] if several else Input(shape)
        below = [layers.Dense(one.shape[-1])(one) for one in (inputs if several else [inputs])]
        layer = make(cls, arguments)
        top = layer(below if several else below[0])
        model = Model(inputs, layers.Dense(3)(layers.Flatten()(top)))
        build.repeats = can_be_recorded(layer)
        return model

    x = [pictures(30, one) for one in shape] if isinstance(shape, list) else pictures(30, shape)
    count = both_ways(build, x, recorded)
    assert count == (6 if build.repeats else 0)  # three steps and three predictions of five each


def test_which_layers_are_recorded():
    repeating = set()
    for cls, entries in cases.LAYERS.items():
        if cls is layers.InputLayer:
            continue
        built = [make(cls, arguments) for arguments, _ in entries]
        if any(map(can_be_recorded, built)):
            repeating.add(cls)
    assert set(cases.LAYERS) - repeating - {layers.InputLayer} == BY_LAYER


CONVOLUTIONS = {
    "winograd": dict(filters=24, kernel_size=3, padding="same"),
    "5x5": dict(filters=32, kernel_size=5, padding="same"),
    "dilated": dict(filters=16, kernel_size=3, padding="same", dilation_rate=2),
    "strided": dict(filters=16, kernel_size=3, strides=2),
    "1x1": dict(filters=40, kernel_size=1),
    "strided 1x1": dict(filters=40, kernel_size=1, strides=2),
    "7x7": dict(filters=20, kernel_size=7, padding="same"),
    "few groups": dict(filters=32, kernel_size=3, groups=2, padding="same"),
    "many groups": dict(filters=32, kernel_size=3, groups=8, padding="same"),
    "depthwise": dict(filters=32, kernel_size=3, groups=32, padding="same"),
    "more filters": dict(filters=64, kernel_size=3, padding="same"),
}


@pytest.mark.parametrize("convolution", ["auto", "direct"])
@pytest.mark.parametrize("settings", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_every_algorithm_of_convolution(settings, convolution, recorded):
    """With batch normalisation, whose scale is a part of the kernel in prediction, and maxima."""

    def build():
        return Sequential(
            [
                Input((12, 13, 32)),
                layers.Conv2D(32, 1, activation="relu"),
                layers.Conv2D(**settings),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.MaxPooling2D(),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3, activation="softmax"),
            ]
        )

    with config.using(convolution=convolution):
        assert both_ways(build, pictures(30, (12, 13, 32)), recorded) == 6


def classifier(channels=3, **settings):
    set_random_seed(4)
    model = Sequential(
        [
            Input((8, 8, channels)),
            layers.Rescaling(0.5),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )
    settings = {"metrics": ["accuracy"], **settings}
    model.compile("adam", "sparse_categorical_crossentropy", **settings)
    return model


def problem(n=64, dtype=np.float32):
    x = np.random.default_rng(5).integers(0, 256, (n, 8, 8, 3)).astype(dtype)
    return x, np.arange(n) % 4


def test_fit_with_a_smaller_last_batch_and_validation(recorded):
    x, y = problem(75)
    kept = []
    for run_eagerly in (False, True):
        model = classifier(run_eagerly=run_eagerly)
        history = model.fit(x, y, batch_size=8, epochs=3, validation_split=0.25, verbose=0).history
        kept.append((weights(model), history, model.predict(x, batch_size=8).tobytes()))
    assert kept[0] == kept[1]
    # 56 rows for training: 7 batches, 19 for validation: 2 and a smaller one; 9 and one in the end.
    assert len(recorded) == 3 * (7 - 2) + (9 - 2)


def residual():
    """A shared layer, a model in the model, sums, two inputs and two outputs."""
    a, b = Input((6, 6, 4), name="a"), Input((6, 6, 4), name="b")
    shared = layers.Conv2D(16, 3, padding="same")
    below = layers.ReLU()(layers.Add()([shared(a), shared(b)]))
    inner = Sequential([Input((6, 6, 16)), layers.Conv2D(16, 3, padding="same"),
                        layers.BatchNormalization(), layers.ReLU()])  # fmt: skip
    top = layers.ReLU()(layers.Add()([inner(below), below]))
    outputs = [layers.Dense(3)(layers.GlobalAveragePooling2D()(top)), layers.Conv2D(1, 1)(below)]
    return Model([a, b], outputs)


@pytest.mark.parametrize("losses", [["mse", "mse"], ["mse", None]])
def test_a_graph_with_several_inputs_and_outputs(losses, recorded):
    x = [pictures(30, (6, 6, 4), seed) for seed in (0, 1)]
    y = [pictures(30, (3,)), pictures(30, (6, 6, 1))]
    kept = []
    for run_eagerly in (False, True):
        set_random_seed(4)
        model = residual()
        model.compile("sgd", losses, run_eagerly=run_eagerly)
        for i in range(0, 30, 6):
            part = slice(i, i + 6)
            targets = [y[0][part], y[1][part] if losses[1] else None]
            model.train_on_batch([one[part] for one in x], targets)
        kept.append(weights(model))
    assert kept[0] == kept[1]
    assert len(recorded) == 3


def test_one_array_as_two_inputs(recorded):
    """Recorded with a = b it would read a in the place of b for ever."""
    model = Model(*((two := [Input((3,)), Input((3,))]), layers.Add()(two)))
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 5, np.float32)
    for _ in range(4):
        assert np.all(model.predict_on_batch([a, a]) == 2)
    assert np.all(model.predict_on_batch([a, b]) == 6)
    assert not recorded


def regularized():
    return Sequential(
        [
            Input((6, 6, 4)),
            layers.Conv2D(16, 3, kernel_regularizer="l2", kernel_constraint="max_norm"),
            layers.Flatten(),
            layers.Dense(3, bias_regularizer="l1"),
        ]
    )


def test_regularizers_and_constraints(recorded):
    assert both_ways(regularized, pictures(30, (6, 6, 4)), recorded) == 6


# -- What changes between steps --------------------------------------------------------------------


def freeze(model):
    model.layers[1].trainable = False


def thaw(model):
    model.layers[1].trainable = True


def drop_more(model):
    model.layers[4].rate = 0.8


def give_weights(model):
    model.set_weights([w + 0.25 for w in model.get_weights()])


def change_in_place(model):
    model.layers[2].moving_mean.value[...] += 1
    model.layers[1].kernel.value[...] *= 1.5


def freeze_one(model):
    model.layers[1].kernel.trainable = False


def other_activation(model):
    model.layers[1].activation = layers.LeakyReLU(0.2).function


def replace_array(model):
    kernel = model.layers[1].kernel
    kernel.value = kernel.value * 2


CHANGES = [freeze, thaw, drop_more, give_weights, change_in_place, freeze_one, other_activation]


@pytest.mark.parametrize("change", [*CHANGES, replace_array])
def test_changes_of_the_model_between_steps(change, recorded):
    x, y = problem()
    kept = []
    for run_eagerly in (False, True):
        model = classifier(run_eagerly=run_eagerly)
        seen = []
        for step in range(10):
            part = slice(step * 6, step * 6 + 6)
            seen.append(model.train_on_batch(x[part], y[part]))
            if step == 4:
                change(model)
        kept.append((seen, weights(model)))
    assert kept[0] == kept[1]
    assert len(recorded) >= 5


@pytest.mark.parametrize("change", [give_weights, change_in_place])
def test_changes_of_weights_between_predictions(change, recorded):
    """The scale of a batch normalisation is computed outside of the recorded calls."""
    x, _ = problem(8)
    model = classifier()
    for _ in range(4):
        model.predict_on_batch(x)
    change(model)
    again = [model.predict_on_batch(x) for _ in range(4)]
    model.run_eagerly = True
    expected = model.predict_on_batch(x)
    assert all(np.array_equal(one, expected) for one in again)
    assert len(recorded) == 4


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x[:5],
        lambda x: x.astype(np.uint8),
        lambda x: np.asfortranarray(x),
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
    ids=["fewer", "uint8", "other order", "read-only"],
)
def test_other_batches(other, recorded):
    x, _ = problem(8)
    model = classifier()
    outputs = [model.predict_on_batch(other(x) if step == 4 else x) for step in range(8)]
    model.run_eagerly = True
    for step, y in enumerate(outputs):
        assert np.array_equal(y, model.predict_on_batch(other(x) if step == 4 else x))
    assert len(recorded) == 3


@pytest.mark.parametrize("settings", [{"threads": 1}, {"convolution": "direct"}, {"amx": "off"}])
def test_other_settings(settings, recorded):
    x, _ = problem(8)
    model = classifier(channels=3)
    for _ in range(3):
        model.predict_on_batch(x)
    with config.using(**settings):
        model.predict_on_batch(x)
    assert len(recorded) == 1
    with config.using(ops="reference"):
        for _ in range(3):
            expected = model.predict_on_batch(x)
    assert len(recorded) == 1
    assert np.allclose(model.predict_on_batch(x), expected, atol=1e-5)


# -- What belongs to others ------------------------------------------------------------------------


class Keeper(metrics.Metric):
    """Keeps the predictions that it was given, without a copy."""

    def __init__(self):
        super().__init__(name="keeper")
        self.seen, self.copies = [], []

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.seen.append(y_pred)
        self.copies.append(y_pred.copy())

    def result(self):
        return 0.0

    def reset_state(self):
        pass


def test_outputs_that_somebody_keeps_stay_as_they_are(recorded):
    x, y = problem()
    model, keeper = classifier(metrics=[(kept := Keeper())]), kept
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    assert len(recorded) == 2 * (8 - 2)
    assert all(np.array_equal(*pair) for pair in zip(keeper.seen, keeper.copies, strict=True))


class Doubled(layers.Conv2D):
    calls = 0

    def forward(self, x, context):
        self.calls += 1
        y, saved = super().forward(x, context)
        return y * 2, saved


def own_class(model):
    model.add(Doubled(2, 1))


def own_method(model):
    layer = layers.Conv2D(2, 1)
    forward = layer.forward
    layer.forward = lambda x, context: forward(x * 2, context)
    model.add(layer)


def activity(model):
    model.add(layers.Conv2D(2, 1, activity_regularizer="l2"))


class Sine:
    def forward(self, x, context=None):
        return np.sin(x), x

    def backward(self, dy, saved, needs_dx=True):
        return dy * np.cos(saved)

    def serialize(self):
        return "sine"


def own_activation(model):
    model.add(layers.Conv2D(2, 1, activation=Sine()))


@pytest.mark.parametrize("add", [own_class, own_method, activity, own_activation])
def test_what_is_not_ours_is_always_called(add, recorded):
    def build():
        model = Sequential([Input((5, 5, 2)), layers.Conv2D(2, 1)])
        add(model)
        model.add(layers.Flatten())
        model.add(layers.Dense(3))
        return model

    assert both_ways(build, pictures(30, (5, 5, 2)), recorded) == 0


def test_copies_begin_anew(recorded):
    x, y = problem()
    model = classifier()
    for _ in range(4):
        model.train_on_batch(x, y)
    assert len(recorded) == 2
    before = weights(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.train_on_batch(x, y)
        assert weights(twin) != before
        assert weights(model) == before
    assert len(recorded) == 2
    model.train_on_batch(x, y)
    assert weights(model) == weights(twin)


def test_one_optimizer_for_two_models(recorded):
    x, y = problem()
    one, other = classifier(), classifier()
    other.compile(one.optimizer, "sparse_categorical_crossentropy")
    for _ in range(3):
        one.train_on_batch(x, y)
    other.train_on_batch(x, y)
    before = weights(one), weights(other)
    one.train_on_batch(x, y)
    assert weights(one) != before[0]
    assert weights(other) == before[1]


def test_an_error_between_forward_and_backward(recorded, monkeypatch):
    x, y = problem(8)
    model = classifier()
    for _ in range(3):
        model.train_on_batch(x, y)
    with pytest.raises(ValueError, match="class"):
        model.train_on_batch(x, y + 10)
    with monkeypatch.context() as patch:
        patch.setattr(model.optimizer, "zero_grad", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.train_on_batch(x, y)
    before = weights(model)
    model.train_on_batch(x, y)
    assert weights(model) != before


def test_two_threads_predict_with_one_model(recorded):
    x, _ = problem(64)
    model = classifier()
    expected = model.predict_on_batch(x)
    wrong = []

    def predict():
        for _ in range(30):
            wrong.append(not np.array_equal(model.predict_on_batch(x), expected))

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 120
    assert not any(wrong)


def test_memory_goes_back(recorded):
    """A record holds the memory of a step, and gives it back when the arena is trimmed."""
    ops.arena.trim()
    x, y = problem()
    model = classifier()
    for _ in range(2):
        model.train_on_batch(x, y)
    gc.collect()
    sizes = {n: len(buffers) for n, buffers in ops.arena._pool.buffers.items()}
    for _ in range(6):
        model.train_on_batch(x, y)
    after = {n: len(buffers) for n, buffers in ops.arena._pool.buffers.items()}
    assert len(recorded) == 6
    assert after == sizes
    recording = model._walks._recording
    assert recording is not None
    model.predict_on_batch(x)
    assert model._walks._recording is None
    for _ in range(3):
        model.train_on_batch(x, y)
    ops.arena.trim()
    assert model._walks._recording is None
    model.train_on_batch(x, y)


def test_a_smaller_batch_uses_the_memory_of_the_record(recorded):
    ops.arena.trim()
    x, y = problem(160)
    sizes = []
    for eagerly in (True, False):
        model = classifier(run_eagerly=eagerly)
        model.fit(x, y, batch_size=64, epochs=2, verbose=0, callbacks=[Sizes(sizes)])
        ops.arena.trim()
    assert sizes[:2] == sizes[2:]


class Sizes(callbacks.Callback):
    """Appends how many bytes the arena holds at the end of an epoch."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def on_epoch_end(self, epoch, logs=None):
        buffers = ops.arena._pool.buffers.values()
        self.sizes.append(sum(memory.nbytes for some in buffers for memory, _ in some))


def test_the_reference_operations_are_never_recorded(recorded):
    x, y = problem(8)
    with config.using(ops="reference"):
        model = classifier()
        for _ in range(4):
            model.train_on_batch(x, y)
    assert not recorded


def test_a_compile_that_fails_leaves_run_eagerly_as_it_was():
    model = classifier(run_eagerly=True)
    with pytest.raises(ValueError, match="2 entries for 1 output"):
        model.compile("adam", ["mse", "mse"])
    assert model.run_eagerly is True


def test_dead_models_are_not_kept_for_trim():
    gc.collect()
    before = len(ops.arena._holders)
    model = classifier()
    model.predict_on_batch(problem(8)[0])
    assert len(ops.arena._holders) == before + 1
    del model
    gc.collect()
    assert len(ops.arena._holders) == before
    ops.arena.trim()
