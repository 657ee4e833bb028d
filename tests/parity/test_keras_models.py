"""Whole models against Keras: the same script, run with either library, from the same weights."""

import re

import keras
import numpy as np
import pytest
from oracle import close, numbers

import minicnn

pytestmark = pytest.mark.usefixtures("same_names")

N, K = 24, 3
X = numbers(N, 8, 8, 3)
LABELS = np.random.default_rng(1).integers(0, K, N)
ONE_HOT = np.eye(K, dtype=np.float32)[LABELS]

# At a real learning rate training is chaotic; at this one the weights move by a thousandth, which
# float32 holds with 4 digits. Compared are the moves, relative to the largest of a weight.
RATE = 1e-3
STEP_TOLERANCE = 1e-3
VALUE_TOLERANCE = 2e-5


def chain(lib):
    """The usual network, batch normalisation and regularisers included."""
    layers = lib.layers
    return lib.Sequential(
        [
            lib.Input((8, 8, 3)),
            layers.Rescaling(0.5, offset=0.1),
            layers.Conv2D(6, 3, padding="same", activation="relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, activation="elu", activity_regularizer="l2"),
            layers.BatchNormalization(momentum=0.9),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(
                7,
                activation="tanh",
                bias_regularizer=lib.regularizers.L1(0.03),
                kernel_constraint=lib.constraints.MaxNorm(0.9),
            ),
            layers.Dense(K, activation="softmax"),
        ]
    )


def residual(lib):
    """Paths that split and join, a layer that is used twice, a nested model."""
    layers = lib.layers
    block_input = lib.Input((4, 4, 8))
    y = layers.Conv2D(8, 3, padding="same", use_bias=False)(block_input)
    y = layers.BatchNormalization()(y)
    block = lib.Model(block_input, layers.ReLU()(y), name="block")

    x = inputs = lib.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    x = layers.Add()([x, block(x)])
    shared = layers.Conv2D(8, 1, activation="sigmoid")
    x = layers.Concatenate()([shared(x), shared(shared(x))])
    x = layers.UpSampling2D()(x)
    x = layers.LeakyReLU(negative_slope=0.1)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return lib.Model(inputs, layers.Dense(K)(x))


def several(lib, named=False):
    """Two inputs, two outputs, by name if so wished."""
    layers = lib.layers
    image, extra = lib.Input((8, 8, 3), name="image"), lib.Input((4,), name="extra")
    x = layers.Flatten()(layers.MaxPooling2D(4)(image))
    x = layers.concatenate([layers.Dense(6, activation="relu")(x), extra])
    kind = layers.Dense(K, activation="softmax", name="kind")(x)
    size = layers.Dense(1, name="size")(x)
    if named:
        return lib.Model({"image": image, "extra": extra}, {"kind": kind, "size": size})
    return lib.Model([image, extra], [kind, size])


def small(lib, units=K, activation="softmax"):
    layers = lib.layers
    return lib.Sequential(
        [lib.Input((4,)), layers.Dense(5, "tanh"), layers.Dense(units, activation)]
    )


def twins(make, *args, optimizer=None, **compiled):
    """Both libraries' model, with the weights of ours, compiled alike.

    Arguments that are functions are called with the library.
    """
    models = []
    for lib in (minicnn, keras):
        model = make(lib, *args)
        if not models:
            weights = [
                np.abs(w) + 0.5 if "variance" in p.name else w / np.sqrt(p.size / p.shape[-1])
                for i, p in enumerate(model.weights)
                for w in [numbers(*p.shape, seed=i)]
            ]
        model.set_weights(weights)
        if compiled:
            given = {k: v(lib) if callable(v) else v for k, v in compiled.items()}
            chosen = optimizer(lib) if optimizer else lib.optimizers.SGD(RATE, momentum=0.9)
            model.compile(optimizer=chosen, **given)
        models.append(model)
    return models


def compare_steps(before, ours, theirs):
    """How far each weight moved."""
    after = zip(before, ours.get_weights(), theirs.get_weights(), strict=True)
    for parameter, (old, a, b) in zip(ours.weights, after, strict=True):
        # Weights are rounded to 2^-24 of their size after each of the steps.
        digits = 4e-7 * np.abs(old).max(initial=0)
        step, expected = a - old, np.asarray(b) - old
        np.testing.assert_allclose(
            step,
            expected,
            rtol=0,
            atol=STEP_TOLERANCE * np.abs(expected).max() + digits,
            err_msg=parameter.name,
        )
        assert np.abs(step).max() > 20 * digits, f"{parameter.name} did not move"


def same_logs(ours, theirs, tolerance=VALUE_TOLERANCE):
    assert set(ours) == set(theirs)  # Keras sorts them, here the loss comes first
    for name, value in ours.items():
        close(value, theirs[name], tolerance, name)


TARGETS = {"kind": ONE_HOT, "size": numbers(N, 1, seed=7)}
INPUTS = {"image": X, "extra": numbers(N, 4, seed=8)}
MODELS = {
    "chain": (
        chain,
        X,
        ONE_HOT,
        dict(loss="categorical_crossentropy", metrics=["accuracy", "mse"]),
    ),
    "residual": (
        residual,
        X,
        LABELS,
        dict(
            loss=lambda lib: lib.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["acc"],
            weighted_metrics=["accuracy"],
        ),
    ),
    "several": (
        several,
        [INPUTS["image"], INPUTS["extra"]],
        [TARGETS["kind"], TARGETS["size"]],
        dict(
            loss=["categorical_crossentropy", "mse"],
            loss_weights=[0.7, 2.0],
            metrics=[["accuracy", "mse"], ["mae"]],
        ),
    ),
}


def pick(data, part):
    return [one[part] for one in data] if isinstance(data, list) else data[part]


@pytest.mark.parametrize("case", MODELS)
def test_training_step_by_step(case):
    make, x, y, compiled = MODELS[case]
    ours, theirs = both = twins(make, **compiled)
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    before = ours.get_weights()
    for step in range(5):
        part = slice(8 * (step % 3), 8 * (step % 3) + 8)
        batch = pick(x, part), pick(y, part)
        same_logs(*(model.train_on_batch(*batch, return_dict=True) for model in both))
    compare_steps(before, ours, theirs)

    same_logs(*(model.test_on_batch(*batch, return_dict=True) for model in both))
    same_logs(*(model.evaluate(x, y, 8, verbose=0, return_dict=True) for model in both))
    close(*(model.evaluate(x, y, 8, verbose=0) for model in both), VALUE_TOLERANCE)
    close(*(model.test_on_batch(*batch) for model in both), VALUE_TOLERANCE)  # in the same order
    close(*(model.train_on_batch(*batch) for model in both), VALUE_TOLERANCE)
    for a, b in zip(*(as_list(model.predict(x, 8, verbose=0)) for model in both), strict=True):
        close(a, b, VALUE_TOLERANCE)


def test_pixels_as_they_come():
    both = twins(chain)
    pixels = np.random.default_rng(9).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    close(*(model.predict(pixels, verbose=0) for model in both), VALUE_TOLERANCE)


def as_list(value):
    return value if isinstance(value, list) else [value]


def numbers_of_summary(model):
    lines = []
    model.summary(print_fn=lambda line, *args, **kwargs: lines.append(str(line)))
    text = "\n".join(lines)
    return [
        re.search(rf"{kind}params: *([\d,]+)", text)[1]
        for kind in ("Total ", "Trainable ", "Non-trainable ")
    ]


@pytest.mark.parametrize("case", MODELS)
def test_summary(case):
    ours, theirs = twins(MODELS[case][0])
    assert numbers_of_summary(ours) == numbers_of_summary(theirs)
    assert ours.count_params() == theirs.count_params()
    assert [layer.count_params() for layer in ours.layers] == [
        layer.count_params() for layer in theirs.layers
    ]
    assert [layer.output_shape for layer in ours.layers if not hasattr(layer, "batch_shape")] == [
        layer.output.shape for layer in theirs.layers if not hasattr(layer, "batch_shape")
    ]


F = numbers(N, 4, seed=30)
WEIGHTS = numbers(N, seed=31, low=0, high=2)
YES_OR_NO = (LABELS > 0).astype(np.float32)
CLASSES = dict(loss="categorical_crossentropy", metrics=["accuracy"], weighted_metrics=["acc"])
SPARSE = dict(loss="sparse_categorical_crossentropy", metrics=["accuracy"])

# name -> (arguments of the model, of compile, of fit, y)
FITS = {
    "plain": ((), CLASSES, dict(batch_size=10), ONE_HOT),
    "validation_split": ((), CLASSES, dict(validation_split=0.34), ONE_HOT),
    "validation_data": (
        (),
        CLASSES,
        dict(validation_data=(F[:8], ONE_HOT[:8], WEIGHTS[:8]), validation_freq=2),
        ONE_HOT,
    ),
    "sample_weight": ((), CLASSES, dict(sample_weight=WEIGHTS, validation_split=1 / 3), ONE_HOT),
    "class_weight": ((), CLASSES, dict(class_weight={0: 0.5, 1: 2.0, 2: 1.5}), ONE_HOT),
    "class_weight of labels": ((), SPARSE, dict(class_weight={0: 0.5, 2: 3.0}), LABELS),
    "initial_epoch": ((), SPARSE, dict(initial_epoch=1), LABELS[:, None]),
    "yes or no": (
        (1, "sigmoid"),
        dict(loss="binary_crossentropy", metrics=["accuracy", "Precision", "AUC"]),
        dict(class_weight={0: 1.0, 1: 2.0}),
        YES_OR_NO,
    ),
    "regression": (
        (2, None),
        dict(loss="huber", metrics=["mae", "MeanSquaredError"], weighted_metrics=["mae"]),
        dict(sample_weight=WEIGHTS),
        numbers(N, 2, seed=32),
    ),
    "rmsprop": (
        (),
        CLASSES | dict(optimizer=lambda lib: lib.optimizers.RMSprop(RATE, clipnorm=0.1)),
        {},
        ONE_HOT,
    ),
    "callbacks": (
        (),
        CLASSES,
        dict(
            callbacks=lambda lib: [
                lib.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10),
                lib.callbacks.EarlyStopping(
                    "accuracy", min_delta=10, patience=2, restore_best_weights=True
                ),
            ],
            epochs=5,
        ),
        ONE_HOT,
    ),
    "averages of weights": (
        (),
        CLASSES
        | dict(optimizer=lambda lib: lib.optimizers.Adam(RATE, use_ema=True, ema_momentum=0.5)),
        {},
        ONE_HOT,
    ),
}


@pytest.mark.parametrize("case", FITS)
def test_fit(case):
    """The same History, weights and predictions, without shuffling."""
    arguments, compiled, options, y = FITS[case]
    ours, theirs = both = twins(small, *arguments, **compiled)
    before = ours.get_weights()
    options = dict(epochs=3, batch_size=8, shuffle=False, verbose=0) | options
    histories = []
    for model, lib in zip(both, (minicnn, keras), strict=True):
        given = {k: v(lib) if callable(v) else v for k, v in options.items()}
        histories.append(model.fit(F, y, **given))
    assert histories[0].epoch == histories[1].epoch
    same_logs(*(history.history for history in histories))
    compare_steps(before, ours, theirs)
    close(*(model.predict(F, verbose=0) for model in both), VALUE_TOLERANCE)


def batches():
    """Without end, with sample weights."""
    while True:
        for at in range(0, N, 8):
            part = slice(at, at + 8)
            yield F[part], ONE_HOT[part], WEIGHTS[part]


def dataset(lib):
    """The batches of half an epoch, by number."""

    class Half(lib.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return F[8 * index : 8 * index + 8], ONE_HOT[8 * index : 8 * index + 8]

    return Half()


def test_fit_with_generators():
    both = twins(small, **CLASSES)
    before = both[0].get_weights()
    histories = [
        model.fit(
            batches(),
            steps_per_epoch=2,
            epochs=3,
            validation_data=dataset(lib),
            shuffle=False,
            verbose=0,
        ).history
        for model, lib in zip(both, (minicnn, keras), strict=True)
    ]
    same_logs(*histories)
    compare_steps(before, *both)
    evaluated = [
        model.evaluate(F, ONE_HOT, sample_weight=WEIGHTS, verbose=0, return_dict=True)
        for model in both
    ]
    same_logs(*evaluated)


@pytest.mark.parametrize(
    "weights", [dict(sample_weight=WEIGHTS), dict(class_weight={0: 3.0, 2: 0})]
)
def test_weights_in_single_batches(weights):
    both = twins(small, **SPARSE)
    same_logs(*(model.train_on_batch(F, LABELS, **weights, return_dict=True) for model in both))


def test_fit_with_dicts():
    """Inputs, targets, weights, losses and metrics by name."""
    compiled = dict(
        loss={"kind": "categorical_crossentropy", "size": "mae"},
        loss_weights={"kind": 0.5, "size": 3.0},
        metrics={"kind": ["accuracy"]},
        weighted_metrics={"size": ["mse"]},
    )
    both = twins(several, True, **compiled)
    weights = {"kind": WEIGHTS, "size": WEIGHTS[::-1]}
    options = dict(sample_weight=weights, batch_size=8, epochs=2, shuffle=False, verbose=0)
    before = both[0].get_weights()
    same_logs(*(model.fit(INPUTS, TARGETS, **options).history for model in both))
    compare_steps(before, *both)
    same_logs(*(model.evaluate(INPUTS, TARGETS, verbose=0, return_dict=True) for model in both))
    ours, theirs = (model.predict(INPUTS, verbose=0) for model in both)
    for name in TARGETS:
        close(ours[name], theirs[name], VALUE_TOLERANCE, name)


def test_an_output_without_loss():
    x, y = MODELS["several"][1:3]
    both = twins(several, loss=["categorical_crossentropy", None], metrics=[["accuracy"], None])
    options = dict(batch_size=8, shuffle=False, verbose=0)
    same_logs(*(model.fit(x, y, **options).history for model in both))


def test_frozen_layers():
    """Nothing of a frozen layer moves, a batch normalisation's statistics included."""
    both = twins(chain)
    x, y = X[:8], ONE_HOT[:8]
    for model in both:
        for layer in model.layers[:3]:
            layer.trainable = False
        model.compile("sgd", "categorical_crossentropy")
    before = both[0].get_weights()
    same_logs(*(model.train_on_batch(x, y, return_dict=True) for model in both))
    for parameter, old, a, b in zip(
        both[0].weights, before, *(m.get_weights() for m in both), strict=True
    ):
        frozen = parameter.name.split("/")[0] in {layer.name for layer in both[0].layers[:3]}
        assert np.array_equal(old, a) == frozen == np.array_equal(old, b), parameter.name


RESOLUTION = {
    "one-hot": (K, "softmax", "categorical_crossentropy", ONE_HOT),
    "labels": (K, "softmax", "sparse_categorical_crossentropy", LABELS),
    "labels in a column": (K, "softmax", "sparse_categorical_crossentropy", LABELS[:, None]),
    "yes or no": (1, "sigmoid", "binary_crossentropy", YES_OR_NO),
    "yes or no in a column": (1, "sigmoid", "binary_crossentropy", YES_OR_NO[:, None]),
    "several yes or no": (K, "sigmoid", "binary_crossentropy", 1 - ONE_HOT),
    "regression": (1, None, "mse", F[:, :1]),
}


@pytest.mark.parametrize("case", RESOLUTION)
def test_accuracy_by_shape(case):
    """What "accuracy" stands for follows from the shapes; the names of all values."""
    units, activation, loss, y = RESOLUTION[case]
    metrics = dict(metrics=["accuracy"], weighted_metrics=["accuracy", "acc"])
    both = twins(small, units, activation, loss=loss, **metrics)
    same_logs(*(model.evaluate(F, y, verbose=0, return_dict=True) for model in both))


def test_logits_as_large_as_they_come():
    """Softmax with its crossentropy is exact: Keras, too, needs from_logits for that."""
    ours, _ = twins(small, loss="categorical_crossentropy")
    _, theirs = twins(
        small, K, None, loss=lambda lib: lib.losses.CategoricalCrossentropy(from_logits=True)
    )
    for model in (ours, theirs):
        *rest, kernel, bias = model.get_weights()
        model.set_weights([*rest, kernel * 1e4, bias])
    close(*(model.evaluate(F, ONE_HOT, verbose=0) for model in (ours, theirs)), VALUE_TOLERANCE)
