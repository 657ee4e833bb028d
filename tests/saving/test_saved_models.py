"""What comes back from a file: the same model, compiled as it was, with its training state."""

import json
import time
import zipfile

import numpy as np
import pytest
from small_files import fill, numbers, tiny_model

import minicnn
from minicnn import (
    Input,
    Model,
    Sequential,
    callbacks,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    optimizers,
    regularizers,
    saving,
)
from minicnn.errors import FormatError
from minicnn.layers import Add, BatchNormalization, Conv2D, Dense, Dropout, Flatten, ReLU
from minicnn.saving import registry


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.keras"


@pytest.fixture(autouse=True)
def no_registrations(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_names", {})


def round_trip(model, path, **options):
    model.save(path)
    return minicnn.load_model(path, **options)


def data_for(model, n=5):
    arrays = [numbers(n, *tensor.shape[1:], seed=i) for i, tensor in enumerate(model.inputs)]
    return arrays if len(arrays) > 1 else arrays[0]


def same(a, b):
    """Bit-equal predictions, equal weights in the same order, equal configs."""
    x = data_for(a)
    for one, other in zip(
        _list(a.predict(x, verbose=0)), _list(b.predict(x, verbose=0)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert np.abs(one).max() > 0
    for one, other in zip(a.weights, b.weights, strict=True):
        assert (one.name, one.trainable, one.state) == (other.name, other.trainable, other.state)
        np.testing.assert_array_equal(one.value, other.value)
    assert saving.serialize_keras_object(a) == saving.serialize_keras_object(b)
    assert [layer.name for layer in a.layers] == [layer.name for layer in b.layers]


def _list(value):
    return value if isinstance(value, list) else [value]


# -- architectures ---------------------------------------------------------------------------------


def residual():
    image, extra = Input((8, 8, 3), name="image"), Input((4,), name="extra")
    stem = Conv2D(4, 3, padding="same", name="stem")(image)
    shared = Conv2D(4, 3, padding="same", activation="relu", name="twice")
    joined = Add()([stem, shared(shared(stem))])
    inner = Sequential([Input((8, 8, 4)), Flatten(), Dense(6)], name="inner")
    features = inner(joined)
    part_input = Input((6,))
    split = Dense(5, name="deep")(part_input)
    part = Model(part_input, [split, Dense(3)(split)], name="part")
    wide, narrow = part(features)
    both = layers.Concatenate()([wide, extra, Dense(2)(features)])
    _, again = part(Dense(6, name="between")(both))
    return Model([image, extra], [Dense(2, name="first")(both), again, narrow], name="whole")


def inside_of_another():
    """A model that begins at an inner tensor of another one, between two uses of a layer."""
    x = Input((4,), name="x")
    first = Dense(4, name="a")(x)
    dense = Dense(4, name="b")
    return Model(first, [dense(dense(first)), ReLU(name="r")(first)])


def after_a_part():
    """A model that begins at the output of a nested one."""
    y = Input((3,), name="y")
    x = Input((3,), name="x")
    start = Model(y, Dense(2, name="in")(y), name="part")(x)
    return Model(start, Dense(2, name="out")(start))


def shared_with_a_part():
    dense, other = Dense(4, name="both"), Dense(4, name="other")
    y = Input((4,), name="y")
    part = Model(y, other(dense(y)), name="part")
    x = Input((4,), name="x")
    return Model(x, Add()([part(x), dense(ReLU()(x)), other(x)]))


def with_training_flags():
    x = Input((6, 6, 2), name="x")
    h = BatchNormalization(name="n")(x, training=False)
    h = Dropout(0.5, name="d")(h, training=False)
    return Model(x, Conv2D(2, 3, name="c")(h, training=False))


def frozen():
    model = Sequential([Input((4,)), Dense(3), BatchNormalization(), Dense(2)])
    model.layers[0].trainable = False
    model.layers[1].trainable = False
    return model


def frozen_as_a_whole():
    model = Sequential([Input((4,)), Dense(3), Dense(2)])
    model.trainable = False
    model.layers[1].trainable = True
    return model


def decorated():
    """Every kind of part that a layer may have."""
    return Sequential(
        [
            Input((6, 6, 2)),
            Conv2D(
                3,
                2,
                activation="gelu",
                kernel_initializer=initializers.HeNormal(seed=3),
                kernel_regularizer=regularizers.L1L2(0.1, 0.2),
                bias_constraint=constraints.MaxNorm(2, axis=0),
                activity_regularizer="l2",
            ),
            layers.Rescaling([1.0, 2.0, 3.0], offset=np.float32(0.5)),
            Flatten(),
            Dense(2, activation="softmax", bias_initializer=initializers.Constant(np.pi)),
        ]
    )


def lists_of_one():
    x = Input((3,))
    return Model([x], [Dense(2)(x)])


def double_precision():
    return Sequential([Input((3,), dtype="float64"), Dense(2, dtype="float64")])


MODELS = [
    residual,
    inside_of_another,
    after_a_part,
    shared_with_a_part,
    with_training_flags,
    frozen,
]
MODELS += [frozen_as_a_whole, decorated, lists_of_one, double_precision]


@pytest.mark.parametrize("make", MODELS)
def test_round_trip(make, path):
    model = make()
    fill(model)
    again = round_trip(model, path)
    if make in (inside_of_another, after_a_part):  # its input gets an Input of its own
        assert again.inputs[0].name == ("a_input" if make is inside_of_another else "part_input")
        x = data_for(model)
        for a, b in zip(_list(again.predict(x)), _list(model.predict(x)), strict=True):
            np.testing.assert_array_equal(a, b)
        return
    same(model, again)
    assert type(again) is type(model)
    assert again.trainable == model.trainable
    flags = [step.training for step in model.graph.steps]
    # Conv2D does the same in training: Keras would refuse the flag there, so it is not written.
    wanted = [
        None if step.layer.name == "c" else flag
        for step, flag in zip(model.graph.steps, flags, strict=True)
    ]
    assert [step.training for step in again.graph.steps] == wanted
    assert again.compiled is None


def test_a_layer_in_two_models_is_one_layer(path):
    again = round_trip(shared_with_a_part(), path)
    for name in ("both", "other"):
        assert again.get_layer("part").get_layer(name) is again.get_layer(name)
    assert len(again.weights) == 4


def test_a_model_that_is_not_built(path):
    model = Sequential([Dense(3, name="d"), Dense(2)], name="later")
    with pytest.warns(UserWarning, match="'later' is not built and is saved without weights"):
        model.save(path)
    again = minicnn.load_model(path)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    assert again.predict(numbers(2, 5), verbose=0).shape == (2, 2)
    for save in (model.save_weights, model.load_weights):
        with pytest.raises(ValueError, match="is not built and has no weights yet"):
            save(path.with_name("w.weights.h5"))


def test_a_thousand_layers(path):
    h = x = Input((4,), name="x")
    for i in range(1000):
        h = Dense(4, name=f"d{i}")(h) if i % 100 == 0 else ReLU(name=f"r{i}")(h)
    model = Model(x, h)
    started = time.monotonic()
    again = round_trip(model, path)
    assert time.monotonic() - started < 10
    assert len(again.layers) == 1001


def test_loading_draws_no_random_numbers(tiny, path):
    tiny.save(path)
    minicnn.utils.set_random_seed(1)
    expected = initializers.RandomNormal()((3,))
    minicnn.utils.set_random_seed(1)
    minicnn.load_model(path)
    np.testing.assert_array_equal(initializers.RandomNormal()((3,)), expected)


def test_files_are_what_other_tools_expect(tiny, path):
    tiny.compile("adam", "mse")
    tiny.save(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
        assert archive.testzip() is None
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        metadata = json.loads(archive.read("metadata.json"))
        config = json.loads(archive.read("config.json"))
    assert set(metadata) == {"keras_version", "minicnn_version", "minicnn_format", "sha256"}
    assert metadata["minicnn_version"] == minicnn.__version__
    assert config["module"] == "keras" and config["class_name"] == "Sequential"
    assert [entry["module"] for entry in config["config"]["layers"]] == ["keras.layers"] * 5
    assert config["compile_config"]["optimizer"]["module"] == "keras.optimizers"


# -- training state --------------------------------------------------------------------------------


def trained(optimizer="adam", epochs=2, model=None):
    model = tiny_model() if model is None else model
    model.compile(optimizer, "mse", metrics=["mae"])
    train(model, epochs)
    return model


def train(model, epochs=1):
    x, y = numbers(12, 4, 4, 1), numbers(12, 1, seed=1)
    model.fit(x, y, epochs=epochs, batch_size=4, shuffle=False, verbose=0)


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.SGD(0.001, momentum=0.9, nesterov=True),
        optimizers.Adam(0.01, amsgrad=True, clipnorm=1.0, weight_decay=0.01),
        optimizers.RMSprop(optimizers.schedules.ExponentialDecay(0.01, 2, 0.5), centered=True),
        optimizers.Nadam(0.02, use_ema=True, ema_momentum=0.9),
        optimizers.Adagrad(0.1),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_training_goes_on_as_if_never_interrupted(optimizer, path):
    config = optimizer.get_config()
    model = trained(type(optimizer).from_config(config))
    model.optimizer.learning_rate  # noqa: B018
    again = round_trip(model, path)
    assert again.optimizer.get_config() == model.optimizer.get_config()
    assert again.optimizer.iterations == model.optimizer.iterations == 6
    same(model, again)
    for (_, a), (_, b) in zip(model.optimizer.state(), again.optimizer.state(), strict=True):
        np.testing.assert_array_equal(a, b)
    train(model, 2)
    train(again, 2)
    same(model, again)


def test_a_learning_rate_that_was_set_stays(path):
    model = trained("sgd")
    model.optimizer.learning_rate = 1 / 3
    assert round_trip(model, path).optimizer.learning_rate == 1 / 3


def test_compile_arguments(path):
    model = residual()
    names = model.output_names
    model.compile(
        "rmsprop",
        loss={names[0]: "mse", names[1]: losses.Huber(0.5), names[2]: losses.mae},
        loss_weights={names[0]: 2.0},
        metrics={names[0]: ["mae", metrics.RootMeanSquaredError(name="rmse")]},
        weighted_metrics=[[metrics.mse], [], []],
    )
    again = round_trip(model, path)
    assert again.get_compile_config() == model.get_compile_config()
    assert isinstance(again.optimizer, optimizers.RMSprop)
    assert minicnn.load_model(path, compile=False).compiled is None
    x = data_for(model)
    y = [numbers(5, *t.shape[1:], seed=9) for t in model.outputs]
    assert again.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


def test_what_keras_lacks_is_kept_out_of_its_sight(path):
    model = Sequential([Input((3,)), Dense(2, activation="softmax")])
    confusion = metrics.ConfusionMatrix(2)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy", confusion])
    again = round_trip(model, path)
    assert again.get_compile_config() == model.get_compile_config()
    with zipfile.ZipFile(path) as archive:
        assert b"ConfusionMatrix" not in archive.read("config.json")
        assert b"ConfusionMatrix" in archive.read("metadata.json")


def test_frozen_layers_have_no_slots(path):
    model = frozen()
    model.compile("adam", "mse")
    model.fit(numbers(8, 4), numbers(8, 2, seed=1), verbose=0)
    again = round_trip(model, path)
    for (_, a), (_, b) in zip(model.optimizer.state(), again.optimizer.state(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_that_does_not_fit_is_a_warning(path):
    model = trained("adam")
    model.layers[0].trainable = False  # its slots are in the state, but not wanted again
    model.save(path)
    with pytest.warns(UserWarning, match="the optimizer starts anew: Adam has"):
        again = minicnn.load_model(path)
    assert again.optimizer.iterations == 0
    train(again)


def test_checkpoints_while_training(tmp_path):
    model = tiny_model()
    model.compile("adam", "mse")
    best = callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss", save_best_only=True)
    each = callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    x, y = numbers(12, 4, 4, 1), numbers(12, 1, seed=1)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[best, each])
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["1.weights.h5", "2.weights.h5", "3.weights.h5", "best.keras"]
    fresh = tiny_model()
    fresh.load_weights(tmp_path / "3.weights.h5")
    np.testing.assert_array_equal(fresh.predict(x, verbose=0), model.predict(x, verbose=0))
    assert minicnn.load_model(tmp_path / "best.keras").optimizer.iterations == 3


# -- the user's own classes ------------------------------------------------------------------------


class Scale(layers.Layer):
    """y = factor x weight."""

    def __init__(self, factor=1.0, initializer="ones", **base):
        super().__init__(**base)
        self.factor, self.initializer = factor, initializers.get(initializer)

    def build(self, input_shape):
        self.weight = self.add_weight("weight", (input_shape[-1],), self.initializer)

    def forward(self, x, context):
        return x * self.weight.value * self.factor, x

    def backward(self, dy, saved, needs_dx):
        self.weight.accumulate((dy * saved).sum(axis=0) * self.factor)
        return dy * self.weight.value * self.factor


class Pair(layers.Layer):
    """A composite: a layer in an attribute, two in a list, and a model."""

    def __init__(self, units, **base):
        super().__init__(**base)
        self.units = units
        self.zeta, self.alpha = Dense(units), Dense(units)
        self.model = Sequential([Dense(units)])
        self.several = [Scale(2.0), Scale(3.0)]
        self.sublayers += self.several

    def build(self, input_shape):
        for layer in (self.zeta, self.alpha, self.model, *self.several):
            layer.ensure_built(input_shape)

    def forward(self, x, context):
        for layer in (self.zeta, self.alpha, self.model, *self.several):
            x, _ = layer.forward(x, context)
        return x, None


class Halves(initializers.Initializer):
    def values(self, shape):
        return np.full(shape, 0.5)


class OwnConfig(Scale):
    """get_config and from_config by hand, as Keras's guide shows them."""

    def __init__(self, inner, **base):
        super().__init__(**base)
        self.inner = inner

    def get_config(self):
        config = super().get_config()
        config["inner"] = saving.serialize_keras_object(self.inner)
        return config

    @classmethod
    def from_config(cls, config):
        config["inner"] = saving.deserialize_keras_object(config["inner"])
        return cls(**config)


class OwnModel(Model):
    """A model class of the user's, with the constructor of Model."""

    def shout(self):
        return self.name.upper()


class OwnLoss(losses.Loss):
    def __init__(self, factor=1.0, **base):
        super().__init__(**base)
        self.factor = factor

    def per_sample(self, y_true, y_pred):
        return self.factor * (y_pred - y_true)[..., 0], np.full_like(y_pred, self.factor)


def own_metric(y_true, y_pred):
    return np.abs(y_true - y_pred)[..., 0]


OWN = {"Scale": Scale, "Halves": Halves, "own_metric": own_metric, "OwnLoss": OwnLoss}


def own_model():
    model = Sequential(
        [Input((3,)), Scale(2.0, Halves(), name="s"), Dense(1, kernel_initializer=Halves())]
    )
    model.compile("sgd", OwnLoss(3.0), metrics=[own_metric])
    return model


def test_own_classes_by_custom_objects(path):
    model = own_model()
    again = round_trip(model, path, custom_objects=OWN)
    same(model, again)
    assert type(again.layers[0]) is Scale and again.layers[0].factor == 2.0
    assert type(again.layers[0].initializer) is type(again.layers[1].kernel_initializer) is Halves
    assert again.compiled["loss"].factor == 3.0 and again.compiled["metrics"] == [own_metric]
    x, y = numbers(4, 3), numbers(4, 1)
    assert again.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    with saving.custom_object_scope(OWN):
        same(model, minicnn.load_model(path))
        with saving.CustomObjectScope({"Scale": ReLU}), pytest.raises(FormatError):
            minicnn.load_model(path)
        same(model, minicnn.load_model(path))


def test_own_classes_that_are_not_given_are_named(path):
    own_model().save(path)
    for given, name in (({}, "Scale"), ({"Scale": Scale}, "Halves")):
        with pytest.raises(FormatError, match=f"unknown class '{name}'.*pass custom_objects="):
            minicnn.load_model(path, custom_objects=given)
    parts = {"Scale": Scale, "Halves": Halves}
    with pytest.raises(FormatError, match="compile_config: unknown class 'OwnLoss'"):
        minicnn.load_model(path, custom_objects=parts)
    parts["OwnLoss"] = OwnLoss
    with pytest.raises(FormatError, match="'own_metric'.*compile=False"):
        minicnn.load_model(path, custom_objects=parts)
    assert minicnn.load_model(path, custom_objects=parts, compile=False).compiled is None


def test_registered_classes(path):
    class Other(ReLU):
        pass

    register = saving.register_keras_serializable
    for thing in (Scale, Halves, OwnLoss):
        assert register("mine")(thing) is thing
    register(name="metric_of_mine")(own_metric)
    model = own_model()
    same(model, round_trip(model, path))
    with zipfile.ZipFile(path) as archive:
        text = archive.read("config.json")
    assert b'"registered_name": "mine>Scale"' in text and b"Custom>metric_of_mine" in text
    assert set(saving.get_custom_objects()) == {
        "mine>Scale", "mine>Halves", "mine>OwnLoss", "Custom>metric_of_mine",
    }  # fmt: skip
    assert saving.get_registered_name(Scale) == "mine>Scale"
    assert saving.get_registered_object("mine>Scale") is Scale
    with pytest.raises(ValueError, match="mine>Scale is registered already"):
        register("mine", "Scale")(Other)
    with pytest.raises(ValueError, match="is registered already, as 'mine>Scale'"):
        register("again")(Scale)
    with pytest.raises(ValueError, match="has no get_config"):
        register()(type("Plain", (), {}))


def test_a_class_of_ours_may_be_replaced_for_one_call(path):
    class Louder(Dense):
        pass

    Louder.__name__ = "Dense"  # files know weights by the name of the class
    model = Sequential([Input((3,)), Dense(2)])
    again = round_trip(model, path, custom_objects={"Dense": Louder})
    assert type(again.layers[0]) is Louder


def test_composite_layers(path):
    model = Sequential([Input((4,)), Pair(4, name="p"), Dense(2)])
    fill(model)
    assert len(model.weights) == 10
    again = round_trip(model, path, custom_objects={"Pair": Pair, "Scale": Scale})
    other = Sequential([Input((4,)), Pair(4), Dense(2)])
    model.save_weights(path.with_name("w.weights.h5"))
    other.load_weights(path.with_name("w.weights.h5"))
    x = data_for(model)
    for one in (again, other):
        np.testing.assert_array_equal(one.predict(x, verbose=0), model.predict(x, verbose=0))
        for a, b in zip(model.get_weights(), one.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_own_configs_and_models(path):
    x = Input((3,), name="x")
    model = OwnModel(x, OwnConfig(Dense(2, name="kept"), name="o")(x), name="quiet")
    model.layers[-1].weight.value[...] = [1, 2, 3]
    again = round_trip(model, path, custom_objects={"OwnModel": OwnModel, "OwnConfig": OwnConfig})
    same(model, again)
    assert again.shout() == "QUIET" and again.layers[-1].inner.units == 2


def test_what_cannot_be_saved_says_so(path):
    model = Sequential([Input((3,)), Dense(1)])
    model.compile("sgd", "mse", metrics=[lambda y_true, y_pred: y_pred[..., 0]])
    with pytest.warns(UserWarning, match="saved without its compile arguments: a lambda cannot"):
        model.save(path)
    assert minicnn.load_model(path).compiled is None

    class Strange:
        def value_and_grad(self, y_true, y_pred, sample_weight=None):
            return 0.0, np.zeros_like(y_pred)

    model.compile("sgd", Strange())
    with pytest.warns(UserWarning, match="compile arguments: .*Strange object .* cannot be saved"):
        model.save(path)
    steep = minicnn.activations.leaky_relu.make(0.5)
    model = Sequential([Input((3,)), Dense(1, activation=steep)])
    with pytest.raises(ValueError, match="activation 'leaky_relu' with numbers of its own"):
        model.save(path.with_name("other.keras"))
    assert not path.with_name("other.keras").exists()


def test_objects_without_a_file():
    layer = Dense(3, kernel_regularizer=regularizers.L2(0.1), name="d")
    entry = saving.serialize_keras_object(layer)
    assert entry["module"] == "keras.layers" and entry["class_name"] == "Dense"
    again = saving.deserialize_keras_object(json.loads(json.dumps(entry)))
    assert again.get_config() == layer.get_config()
    given = {"a": [1, None, "x", (2.5, True)], "b": losses.Huber(0.5)}
    again = saving.deserialize_keras_object(saving.serialize_keras_object(given))
    assert again["a"] == [1, None, "x", [2.5, True]] and again["b"].delta == 0.5
    assert saving.deserialize_keras_object(None) is None
    with pytest.raises(FormatError, match="unknown class 'Scale'"):
        saving.deserialize_keras_object(saving.serialize_keras_object(Scale()))


# -- weights ---------------------------------------------------------------------------------------


def other_model(units=1):
    return Sequential(
        [
            Input((4, 4, 1)),
            Conv2D(1, 2, name="conv"),
            BatchNormalization(name="norm"),
            Flatten(),
            Dense(units, name="other"),
            *([Dense(1)] if units > 1 else []),
        ]
    )


def test_weights_are_found_by_place_not_by_name(tiny, tmp_path):
    path = tmp_path / "w.weights.h5"
    tiny.save_weights(path)
    model = other_model()
    assert model.load_weights(path) is None
    for a, b in zip(model.get_weights(), tiny.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_all_weights_or_none(suffix, tiny, tmp_path):
    path = tmp_path / f"w{suffix}"
    (tiny.save if suffix == ".keras" else tiny.save_weights)(path)
    model = other_model(units=3)
    before = model.get_weights()
    with pytest.raises(ValueError, match="does not fit model") as caught:
        model.load_weights(path)
    message = str(caught.value)
    assert "layer 'other' (Dense): other/kernel has shape (9, 3), the file's" in message
    assert "/layers/dense/vars/0 (9, 1) (and 3 more)" in message
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.warns(UserWarning, match="6 weights loaded, not: layer 'other'"):
        report = model.load_weights(path, skip_mismatch=True)
    assert report["loaded"] == [w.name for w in tiny.weights][:6]
    assert len(report["skipped"]) == 4
    for a, b in zip(model.get_weights()[:6], tiny.get_weights()[:6], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(model.get_weights()[6], before[6])


def test_a_report_of_a_perfect_fit(tiny, tmp_path):
    tiny.save_weights(tmp_path / "w.weights.h5")
    report = tiny.load_weights(tmp_path / "w.weights.h5", skip_mismatch=True)
    assert report == {"loaded": [w.name for w in tiny.weights], "skipped": []}


def test_weights_of_a_smaller_model_are_too_few(tmp_path):
    small = Sequential([Input((3,)), Dense(2)])
    large = Sequential([Input((3,)), Dense(2), Dense(2)])
    small.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(ValueError, match=r"\(2, 2\) is not in the file \(/layers/dense_1/vars/0\)"):
        large.load_weights(tmp_path / "w.weights.h5")
    large.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(ValueError, match=r"the file's /layers/dense_1/vars/0 .* has no place"):
        small.load_weights(tmp_path / "w.weights.h5")


def test_weights_keep_where_the_optimizer_put_them(path):
    model = trained()
    buffers = [weight.owner for weight in model.weights if weight.trainable]
    values = model.get_weights()
    model.save(path)
    train(model)
    model.load_weights(path)
    for weight, value in zip(model.weights, values, strict=True):
        np.testing.assert_array_equal(weight.value, value)
    assert [weight.owner for weight in model.weights if weight.trainable] == buffers
    train(model)
    assert not np.array_equal(model.get_weights()[0], values[0])
