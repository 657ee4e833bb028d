"""Files between minicnn and real Keras: each opens what the other wrote and predicts the same."""

import io
import json
import re
import zipfile

import cases
import h5py
import keras
import numpy as np
import pytest
from oracle import close, disagreements, numbers

import minicnn
from minicnn import layers, losses, metrics, optimizers
from minicnn.saving import weights

# Keras's variables speak NumPy 1 when it writes them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:output .* ends in linear"),
    pytest.mark.filterwarnings(
        "ignore:[^E]*Exception encountered|.*Explicitly requested dtype int64"
    ),
]

# A class per line of cases.py is enough here: the arguments are compared by the other files.
LAYER_CASES = {
    f"{cls.__name__}-{i}": (cls, arguments, shape)
    for cls, entries in cases.LAYERS.items()
    for i, (arguments, shape) in enumerate(entries)
    if cls is not layers.RandomCrop  # Keras's leaves pictures as they are when it predicts
}


def layer_of(cls, arguments):
    return cls(**arguments) if isinstance(arguments, dict) else cls(*arguments)


def inputs_for(model, n=4):
    arrays = [numbers(n, *tensor.shape[1:], seed=i) for i, tensor in enumerate(model.inputs)]
    return arrays if len(arrays) > 1 else arrays[0]


def randomize(model):
    """Weights that are all different, variances positive; for models of either library."""
    generator = np.random.default_rng(3)
    values = []
    for weight in model.weights:
        value, name = (
            generator.normal(size=weight.shape) * 0.4,
            getattr(weight, "path", weight.name),
        )
        if name.endswith("count"):  # an integer in Keras
            value = np.array(3)
        values.append(np.abs(value) + 0.5 if "variance" in name else value)
    model.set_weights(values)


def all_close(ours, theirs, tolerance=1e-5):
    ours, theirs = [x if isinstance(x, list) else [x] for x in (ours, theirs)]
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(b).max() > 0
        close(a, b, tolerance)


def check_both_ways(model, folder):
    """minicnn -> Keras -> minicnn; every file predicts what the first model predicts."""
    x = inputs_for(model)
    expected = model.predict(x, verbose=0)
    model.save(folder / "ours.keras")
    theirs = keras.models.load_model(folder / "ours.keras")
    all_close(expected, theirs.predict(x, verbose=0))
    assert [layer.name for layer in theirs.layers] == [layer.name for layer in model.layers]
    theirs.save(folder / "theirs.keras")
    again = minicnn.load_model(folder / "theirs.keras")
    all_close(again.predict(x, verbose=0), expected)
    for a, b in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    return theirs, again


@pytest.mark.parametrize("case", LAYER_CASES)
def test_every_layer(case, tmp_path):
    cls, arguments, shape = LAYER_CASES[case]
    inputs = [minicnn.Input(s) for s in shape] if isinstance(shape, list) else minicnn.Input(shape)
    model = minicnn.Model(inputs, layer_of(cls, arguments)(inputs))
    randomize(model)
    theirs, again = check_both_ways(model, tmp_path)
    assert not disagreements(model.layers[-1].get_config(), again.layers[-1].get_config())


def classifier(kind):
    """The tutorials' network for CIFAR-10, smaller, of either library."""
    library = kind.layers
    model = kind.Sequential([kind.Input((16, 16, 3)), library.Rescaling(1 / 255)])
    for filters, rate in ((4, 0.2), (8, 0.3)):
        for _ in range(2):
            model.add(library.Conv2D(filters, 3, padding="same", activation="relu"))
            model.add(library.BatchNormalization())
        model.add(library.MaxPooling2D())
        model.add(library.Dropout(rate))
    model.add(library.Flatten())
    model.add(library.Dense(10, activation="softmax", kernel_regularizer="l2"))
    return model


def residual(kind):
    """Paths that split and join, a layer used twice, a nested model, two inputs and outputs."""
    library = kind.layers
    image, extra = kind.Input((8, 8, 3), name="image"), kind.Input((4,), name="extra")
    stem = library.Conv2D(4, 3, padding="same", name="stem")(image)
    shared = library.Conv2D(4, 3, padding="same", activation="relu")
    joined = library.Add()([stem, shared(shared(stem))])
    inner = kind.Sequential([kind.Input((8, 8, 4)), library.Flatten(), library.Dense(6)], name="in")
    features = inner(joined)
    part_input = kind.Input((6,))
    split = library.Dense(5, name="deep")(part_input)
    part = kind.Model(part_input, [split, library.Dense(3)(split)], name="part")
    wide, narrow = part(features)
    both = library.Concatenate()([wide, extra, library.Dense(2)(features)])
    # The nested model once more, on other data.
    _, again = part(library.Dense(6, name="between")(both))
    return kind.Model([image, extra], [library.Dense(2, name="first")(both), again, narrow])


def unequal_paths(kind):
    """Layers whose order in the file is not the order in which they were made."""
    library = kind.layers
    x = kind.Input((5,), name="x")
    late = library.Dense(3, name="late")(x)
    deep = x
    for i in range(4):
        deep = library.Dense(3 + i, name=f"deep{i}")(deep)
    ends = library.Add()([late, library.Dense(3, name="last")(deep)])
    other = kind.Input((2,), name="other")
    return kind.Model([other, x], library.Concatenate()([library.Dense(1, name="o")(other), ends]))


def nested_in_nested(kind):
    """Sequential in Functional in Sequential, and a model as the first layer."""
    library = kind.layers
    core = kind.Sequential([kind.Input((6, 6, 2)), library.Conv2D(3, 3), library.ReLU()])
    x = kind.Input((6, 6, 2))
    middle = kind.Model(x, library.BatchNormalization()(core(x)))
    head = [library.GlobalAveragePooling2D(), library.Dense(4)]
    return kind.Sequential([kind.Input((6, 6, 2)), middle, *head])


def single_lists(kind):
    """One input and one output, given as lists."""
    x = kind.Input((3,))
    return kind.Model([x], [kind.layers.Dense(2)(x)])


def frozen(kind):
    """Some layers do not train."""
    model = kind.Sequential(
        [
            kind.Input((4,)),
            kind.layers.Dense(3),
            kind.layers.BatchNormalization(),
            kind.layers.Dense(2),
        ]
    )
    model.layers[0].trainable = False
    model.layers[1].trainable = False
    return model


MODELS = [classifier, residual, unequal_paths, nested_in_nested, single_lists, frozen]
each_model = pytest.mark.parametrize("make", MODELS)


@each_model
def test_keras_opens_our_models(make, tmp_path, same_names):
    model, twin = make(minicnn), make(keras)
    randomize(model)
    _, again = check_both_ways(model, tmp_path)
    for a, b in zip(model.layers, again.layers, strict=True):
        assert a.trainable == b.trainable
    # What Keras would have written itself: the same groups, shapes and names.
    twin.save(tmp_path / "twin.keras")
    assert contents(tmp_path / "ours.keras") == contents(tmp_path / "twin.keras")


def contents(path):
    """Every group and dataset of a file's weights, and the layers' names among the attributes."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        data = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(data) as file:
        file.visititems(lambda name, item: found.update({name: describe(item)}))
    found.pop(weights.DIGEST, None)
    return found


def describe(item):
    """Shape and name; the numbers in names of functional models are not Keras's."""
    return getattr(item, "shape", None), re.sub(
        r"(functional)_\d+", r"\1", item.attrs.get("name", "")
    )


@each_model
def test_we_open_models_of_keras(make, tmp_path):
    theirs = make(keras)
    randomize(theirs)
    theirs.save(tmp_path / "theirs.keras")
    ours = minicnn.load_model(tmp_path / "theirs.keras")
    x = inputs_for(ours)
    all_close(ours.predict(x, verbose=0), theirs.predict(x, verbose=0))
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    fresh = make(minicnn)
    fresh.load_weights(tmp_path / "theirs.weights.h5")
    all_close(fresh.predict(x, verbose=0), theirs.predict(x, verbose=0))


@each_model
def test_keras_loads_our_weights(make, tmp_path):
    ours, theirs = make(minicnn), make(keras)
    randomize(ours)
    ours.save_weights(tmp_path / "ours.weights.h5")
    theirs.load_weights(tmp_path / "ours.weights.h5")
    x = inputs_for(ours)
    all_close(ours.predict(x, verbose=0), theirs.predict(x, verbose=0))


OPTIMIZERS = {
    f"{cls.__name__}-{i}": cls(**arguments)
    for cls, entries in cases.OBJECTS.items()
    for i, arguments in enumerate(entries)
    if issubclass(cls, optimizers.Optimizer)
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_go_on_where_they_stopped(name, tmp_path):
    """Train here, load there: configuration, counters and slots arrive; and back again."""
    config = OPTIMIZERS[name].get_config()
    model = minicnn.Sequential([minicnn.Input((4,)), layers.Dense(3), layers.Dense(2)])
    model.compile(type(OPTIMIZERS[name]).from_config(config), "mse")
    x, y = numbers(16, 4), numbers(16, 2, seed=1)
    model.fit(x, y, epochs=2, batch_size=4, verbose=0)
    model.save(tmp_path / "ours.keras")
    theirs = keras.models.load_model(tmp_path / "ours.keras")
    kept = model.optimizer.state()
    assert len(theirs.optimizer.variables) == len(kept)
    for variable, (what, array) in zip(theirs.optimizer.variables, kept, strict=True):
        close(array, variable, 1e-6, what)
    theirs.save(tmp_path / "theirs.keras")
    again = minicnn.load_model(tmp_path / "theirs.keras")
    for (what, a), (_, b) in zip(again.optimizer.state(), kept, strict=True):
        close(a, b, 1e-6, what)
    assert again.optimizer.get_config().keys() == model.optimizer.get_config().keys()


LOSSES = [(c, a) for c, e in cases.OBJECTS.items() for a in e if issubclass(c, losses.Loss)]
METRICS = [(c, a) for c, e in cases.OBJECTS.items() for a in e if issubclass(c, metrics.Metric)]


@pytest.mark.parametrize(("cls", "arguments"), LOSSES)
def test_losses_arrive_in_keras(cls, arguments, tmp_path):
    compiled(tmp_path, cls(**arguments), None)


@pytest.mark.parametrize(("cls", "arguments"), METRICS)
def test_metrics_arrive_in_keras(cls, arguments, tmp_path):
    if cls.__name__ in ("Mean", "Sum", "MeanMetricWrapper"):
        return  # bases: nobody compiles with them
    compiled(tmp_path, "mse", cls(**arguments))


def compiled(folder, loss, metric):
    """A model with this loss and metric: Keras compiles the same, and we read Keras's file."""
    model = minicnn.Sequential([minicnn.Input((3,)), layers.Dense(2)])
    model.compile("sgd", loss, metrics=None if metric is None else [metric, "mae"])
    model.save(folder / "ours.keras")
    theirs = keras.models.load_model(folder / "ours.keras")
    assert theirs.compiled
    theirs.save(folder / "theirs.keras")
    first, second = (minicnn.load_model(folder / f"{n}.keras") for n in ("ours", "theirs"))
    assert first.get_compile_config() == model.get_compile_config()
    chosen = second.get_compile_config()
    if isinstance(metric, metrics.ConfusionMatrix):
        assert chosen["metrics"] == ["mae"]  # Keras has none
        return
    if isinstance(loss, losses.Huber):
        chosen["loss"]["config"]["delta"] = loss.delta  # Keras's own files lose it
    for name in ("loss", "metrics"):
        assert not disagreements(model.get_compile_config()[name], chosen[name])


def test_schedules_and_outputs(tmp_path):
    model = residual(minicnn)
    rate = optimizers.schedules.CosineDecay(0.1, 100, warmup_target=0.2, warmup_steps=10)
    names = model.output_names
    model.compile(
        optimizers.SGD(rate, momentum=0.9),
        loss={names[0]: "mse", names[1]: losses.Huber(0.5), names[2]: "mae"},
        loss_weights={names[0]: 2.0, names[1]: 0.5},
        metrics={names[0]: ["mae"]},
    )
    model.optimizer.build(model.trainable_weights)  # Keras warns where there are no slots yet
    theirs, again = check_both_ways(model, tmp_path)
    assert again.get_compile_config()["optimizer"] == model.get_compile_config()["optimizer"]
    assert again.optimizer.learning_rate == model.optimizer.learning_rate
    assert float(theirs.optimizer.learning_rate) == pytest.approx(rate(0))
    assert again.compiled["loss_weights"] == {names[0]: 2.0, names[1]: 0.5}


def test_models_that_only_we_make(tmp_path):
    """One that begins at an inner tensor of another, and calls with a training flag."""
    x = minicnn.Input((6, 6, 2), name="x")
    first = layers.BatchNormalization(name="n")(x, training=False)
    later = layers.Conv2D(2, 3, name="c")(layers.Dropout(0.5)(first, training=True), training=True)
    model = minicnn.Model(first, [layers.Flatten()(first), layers.Flatten()(later)])
    model.save(tmp_path / "m.keras")
    theirs = keras.models.load_model(tmp_path / "m.keras")
    assert theirs.inputs[0].name == "n_input"
    data = numbers(2, 6, 6, 2)
    all_close(model.predict(data, verbose=0)[0], theirs.predict(data, verbose=0)[0])
    flags = {
        entry["class_name"]: call["kwargs"]
        for entry in theirs.get_config()["layers"]
        for call in entry["inbound_nodes"]
    }
    assert flags["Dropout"]["training"] is True  # predict() of Keras 3 overrules it all the same
    assert "training" not in flags["Conv2D"]


def test_float64_and_integer_inputs(tmp_path):
    model = minicnn.Sequential([minicnn.Input((4, 4, 1), dtype="uint8"), layers.Rescaling(1 / 255)])
    model.save(tmp_path / "m.keras")
    theirs = keras.models.load_model(tmp_path / "m.keras")
    x = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
    all_close(model.predict(x, verbose=0), theirs.predict(x, verbose=0))
    assert str(minicnn.load_model(tmp_path / "m.keras").inputs[0].dtype) == "uint8"
    model = minicnn.Sequential([minicnn.Input((3,)), layers.Dense(2, dtype="float64")])
    model.save(tmp_path / "m.keras")
    again = minicnn.load_model(tmp_path / "m.keras")
    assert again.weights[0].dtype == np.float64


def test_configs_have_the_keys_of_keras(tmp_path):
    """Entry by entry, our config.json says nothing that Keras's own does not know."""
    model = classifier(minicnn)
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    model.save(tmp_path / "ours.keras")
    twin = classifier(keras)
    twin.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    twin.save(tmp_path / "theirs.keras")
    ours, theirs = (
        json.loads(zipfile.ZipFile(tmp_path / f"{name}.keras").read("config.json"))
        for name in ("ours", "theirs")
    )
    assert set(ours) == set(theirs)
    assert set(ours["compile_config"]) <= set(theirs["compile_config"])
    for a, b in zip(ours["config"]["layers"], theirs["config"]["layers"], strict=True):
        assert (a["module"], a["class_name"]) == (b["module"], b["class_name"])
        assert set(a["config"]) - {"activity_regularizer"} <= set(b["config"])
