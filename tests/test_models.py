"""Models as graphs: what Keras scripts do with them, and the values, orders and names they get."""

import copy
import json
import pickle

import numpy as np
import pytest

from minicnn import (
    Model,
    Sequential,
    check_gradients,
    config,
    initializers,
    layers,
    losses,
    models,
    ops,
    optimizers,
    set_random_seed,
)
from minicnn.configurable import serialize
from minicnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    LeakyReLU,
    MaxPooling2D,
    ReLU,
    Softmax,
)
from minicnn.models import model_from_json
from minicnn.parameter import Parameter
from minicnn.utils import clear_session


@pytest.fixture(autouse=True)
def fresh_names_and_seed():
    clear_session()
    set_random_seed(0)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def classes(n, k, seed=0):
    return np.random.default_rng(seed).integers(0, k, n)


def names(model):
    return [layer.name for layer in model.layers]


def shapes(arrays):
    return [tuple(array.shape) for array in arrays]


def randomize(model, seed=1):
    generator = np.random.default_rng(seed)
    for parameter in model.weights:
        value = generator.normal(size=parameter.shape) * 0.5
        parameter.assign(np.abs(value) + 0.5 if "variance" in parameter.name else value)


def residual_net():
    x = Input((6, 6, 3), name="in")
    h = Conv2D(4, 3, padding="same", name="c1")(x)
    h = ReLU(name="r1")(BatchNormalization(name="b1")(h))
    h = Conv2D(4, 3, padding="same", name="c2")(h)
    h = Add(name="a")([h, Conv2D(4, 1, name="short")(x)])
    return Model(x, Dense(2, name="d")(GlobalAveragePooling2D(name="g")(h)))


# -- orders and names, as real Keras 3.15 gives them -----------------------------------------------


def test_order_of_a_residual_net():
    model = residual_net()
    assert names(model) == ["in", "c1", "b1", "r1", "c2", "short", "a", "g", "d"]
    kernel, bias, four = (3, 3, 3, 4), (4,), (4,)
    block = [kernel, bias, four, four, four, four, (3, 3, 4, 4), bias, (1, 1, 3, 4), bias]
    assert shapes(model.get_weights()) == [*block, (4, 2), (2,)]
    assert shapes(model.trainable_weights) == [*block[:4], *block[6:], (4, 2), (2,)]
    assert shapes(model.non_trainable_weights) == [four, four]
    assert model.count_params() == 302


def test_order_of_an_inception_block():
    x = Input((8, 8, 2), name="i")
    t1 = Conv2D(1, 1, name="t1")(x)
    t2 = Conv2D(2, 3, padding="same", name="t2b")(Conv2D(1, 1, name="t2a")(x))
    t3 = Conv2D(3, 1, name="t3b")(MaxPooling2D(3, 1, "same", name="t3a")(x))
    model = Model(x, Concatenate(name="c3")([t1, t2, t3]))
    assert names(model) == ["i", "t2a", "t3a", "t1", "t2b", "t3b", "c3"]
    assert names(Model(x, [t1, t2])) == ["i", "t2a", "t1", "t2b"]


def test_order_of_inputs_that_join_late_or_not_at_all():
    a, b, c = Input((4,), name="a"), Input((3,), name="b"), Input((3,), name="c")
    h = Dense(4, name="h2")(Dense(4, name="h1")(a))
    late = Model([a, b], Dense(2, name="h3")(Concatenate(name="k")([h, b])))
    assert names(late) == ["a", "h1", "h2", "b", "k", "h3"]
    assert names(Model([b, c], Dense(2, name="h4")(b))) == ["b", "c", "h4"]


def test_order_of_weights_of_nested_models():
    inner = Sequential([Input((4,)), Dense(3), BatchNormalization(), Dense(2)], name="inner")
    outer = Sequential([Input((5,)), Dense(4, name="o1"), inner, Dense(1, name="o2")])
    assert names(outer) == ["o1", "inner", "o2"]
    three = [(3,)] * 4
    expected = [(5, 4), (4,), (4, 3), (3,), *three, (3, 2), (2,), (2, 1), (1,)]
    assert shapes(outer.get_weights()) == expected


def test_order_of_several_outputs():
    a, b = Input((4,), name="A"), Input((3,), name="B")
    h = Concatenate(name="cat")([a, b])
    p, q = Dense(2, name="P")(h), Dense(1, name="Q")(Dense(6, name="H")(h))
    assert names(Model([a, b], [p, q])) == ["A", "B", "cat", "H", "P", "Q"]
    assert names(Model([b, a], [q, p])) == ["A", "B", "cat", "H", "Q", "P"]


def test_automatic_names_count_as_in_keras():
    model = Sequential([Input((8, 8, 3)), Conv2D(2, 3), Conv2D(2, 3), MaxPooling2D(), ReLU()])
    assert names(model) == ["conv2d", "conv2d_1", "max_pooling2d", "re_lu"]
    assert model.name == "sequential"
    assert Sequential().name == "sequential_1"
    assert [p.name for p in model.weights[:2]] == ["conv2d/kernel", "conv2d/bias"]


def test_two_layers_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two layers named 'k'.*another name"):
        x = Input((4,))
        Model(x, Dense(2, name="k")(Dense(4, name="k")(x)))
    with pytest.raises(ValueError, match="already has a layer named 'k'"):
        Sequential([Dense(2, name="k"), Dense(2, name="k")])
    layer = Dense(2)
    with pytest.raises(ValueError, match="already has a layer named 'dense'"):
        Sequential([layer, layer])


def test_one_name_in_a_model_and_in_one_nested_in_it():
    inner = Sequential([Input((4,)), Dense(3, name="same")], name="inner")
    outer = Sequential([Input((4,)), Dense(4, name="same"), inner])
    assert outer.get_layer("same").units == 4
    assert outer.get_layer("inner").get_layer("same").units == 3


# -- graphs ----------------------------------------------------------------------------------------


def test_residual_net_computes_what_its_layers_compute():
    model, x = residual_net(), numbers(5, 6, 6, 3)
    randomize(model)
    layer = {one.name: one for one in model.layers}
    path = layer["c2"](layer["r1"](layer["b1"](layer["c1"](x))))
    h = layer["a"]([path, layer["short"](x)])
    expected = layer["d"](layer["g"](h))
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_gradient_of_a_residual_net(training):
    model = residual_net()
    randomize(model)
    report = check_gradients(
        model, numbers(3, 6, 6, 3), training=training, entries=6, verbose=False
    )
    assert report.passed, list(report)
    assert all(row.largest > 0 for row in report if row.name != "c1/bias" or not training)


def test_gradient_where_one_tensor_is_read_three_times():
    x = Input((4,))
    h = Dense(4, activation="tanh")(x)
    model = Model(x, Add()([h, Dense(4)(h), h, Activation("sigmoid")(h)]))
    report = check_gradients(model, numbers(3, 4), verbose=False)
    assert report.passed, list(report)


def test_a_layer_used_twice_adds_its_gradients():
    x, shared = Input((4,)), Dense(4, activation="tanh")
    model = Model(x, Dense(2)(shared(shared(x))))
    assert len(model.weights) == 4
    report = check_gradients(model, numbers(3, 4), verbose=False)
    assert report.passed, list(report)
    array = numbers(3, 4)
    expected = model.layers[-1](shared(shared(array)))
    np.testing.assert_allclose(model(array), expected, rtol=1e-6)


def test_siamese_inputs():
    a, b = Input((4,)), Input((4,))
    encode = Sequential([Input((4,)), Dense(3, activation="tanh"), Dense(2)])
    model = Model([a, b], Concatenate()([encode(a), encode(b)]))
    assert model.count_params() == 4 * 3 + 3 + 3 * 2 + 2
    x = [numbers(3, 4), numbers(3, 4, seed=1)]
    expected = np.concatenate([encode(x[0]), encode(x[1])], axis=1)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-6)
    assert check_gradients(model, x, verbose=False).passed


def test_a_layer_in_two_models_is_trained_by_both():
    x, shared = Input((4,)), Dense(3, name="shared")
    h = shared(x)
    one, two = Model(x, Dense(2)(h)), Model(x, Dense(1)(h))
    data = numbers(8, 4)
    before = shared.get_weights()[0]
    one.compile(optimizers.SGD(0.1, momentum=0.9), "mse")
    two.compile("adam", "mse")
    for _ in range(2):
        one.fit(data, numbers(8, 2), verbose=0)
        after_one = shared.get_weights()[0]
        assert not np.array_equal(after_one, before)
        np.testing.assert_array_equal(one.get_weights()[0], two.get_weights()[0])
        two.fit(data, numbers(8, 1), verbose=0)
        before = shared.get_weights()[0]
        assert not np.array_equal(after_one, before)
        np.testing.assert_array_equal(one.get_weights()[0], two.get_weights()[0])


def test_a_step_with_a_shared_layer_is_the_step_by_hand():
    x, shared = Input((4,)), Dense(2, use_bias=False)
    model, other = Model(x, shared(x)), Model(x, Dense(1)(shared(x)))
    data, y = numbers(8, 4), numbers(8, 2, seed=1)
    other.compile("sgd", "mse")
    other.fit(data, numbers(8, 1), verbose=0)  # the kernel now lies in its optimiser's buffer
    kernel = shared.get_weights()[0]
    model.compile(optimizers.SGD(0.5), "mse")
    model.fit(data, y, verbose=0)
    gradient = data.T @ (data @ kernel - y) / 8  # 2 / (8 * 2 outputs) of the squared error's half
    np.testing.assert_allclose(shared.get_weights()[0], kernel - 0.5 * gradient, rtol=1e-5)


def test_a_tensor_inside_is_an_output_too():
    model = residual_net()
    features = Model(model.input, [model.get_layer("r1").output, model.output])
    x = numbers(3, 6, 6, 3)
    inner, outer = features.predict(x, verbose=0)
    assert inner.shape == (3, 6, 6, 4)
    np.testing.assert_array_equal(outer, model.predict(x, verbose=0))
    layer = {one.name: one for one in model.layers}
    apart = layer["r1"](layer["b1"](layer["c1"](x)))
    np.testing.assert_allclose(inner, apart, rtol=1e-5, atol=1e-6)
    report = check_gradients(features, x, entries=6, verbose=False)  # its gradients add up
    assert report.passed, list(report)


def test_a_model_from_the_middle_of_another():
    model = Sequential([Input((4,)), Dense(3, activation="relu"), Dense(5), Dense(2)])
    upper = Model(model.layers[0].output, model.output)
    x, middle = numbers(3, 4), numbers(3, 3)
    np.testing.assert_allclose(
        upper.predict(model.layers[0](x), verbose=0), model.predict(x, verbose=0), rtol=1e-6
    )
    again = Model.from_config(json.loads(json.dumps(upper.get_config())))
    again.set_weights(upper.get_weights())
    np.testing.assert_array_equal(
        again.predict(middle, verbose=0), upper.predict(middle, verbose=0)
    )


def test_output_without_loss():
    x = Input((4,))
    h = Dense(3, name="features")(x)
    model = Model(x, [Dense(2, activation="softmax", name="class")(h), h])
    model.compile("sgd", {"class": "sparse_categorical_crossentropy"}, metrics={"class": ["acc"]})
    history = model.fit(numbers(8, 4), {"class": classes(8, 2)}, verbose=0).history
    assert set(history) == {"loss", "class_acc"}
    model.compile("sgd", ["sparse_categorical_crossentropy", None])
    model.fit(numbers(8, 4), [classes(8, 2), None], verbose=0)


def test_gradient_with_an_output_used_inside_and_losses_on_both():
    x = Input((4,))
    h = Dense(3, activation="softmax", name="inner")(x)
    model = Model(x, [h, Dense(2, name="outer")(h)])
    model.compile("sgd", ["categorical_crossentropy", "mse"], loss_weights=[0.3, 2.0])
    y = [np.eye(3, dtype=np.float32)[classes(5, 3)], numbers(5, 2)]
    report = check_gradients(model, numbers(5, 4), y, verbose=False)
    assert report.passed, list(report)
    assert not any(head.from_logits for head in model.heads)  # its softmax has another reader


def test_the_same_output_twice():
    x = Input((4,))
    h = Dense(3, activation="softmax")(x)
    model = Model(x, [h, h])
    assert len(set(model.output_names)) == 2
    first, second = model.predict(numbers(2, 4), verbose=0)
    np.testing.assert_array_equal(first, second)
    model.compile("sgd", ["categorical_crossentropy", "mse"])
    y = np.eye(3, dtype=np.float32)[classes(5, 3)]
    assert check_gradients(model, numbers(5, 4), [y, y], verbose=False).passed


def test_a_chain_of_many_layers():
    x = h = Input((2,))
    for _ in range(1500):  # more than Python's recursion limit
        h = Activation("linear")(h)
    model = Model(x, h)
    array = numbers(2, 2)
    np.testing.assert_array_equal(model.predict(array, verbose=0), array)
    again = Model.from_config(model.get_config())
    assert len(again.layers) == 1501


# -- calls -----------------------------------------------------------------------------------------


def test_eager_calls():
    model = Sequential([Input((4,)), Dense(3), BatchNormalization(), Dropout(0.5)])
    x = numbers(16, 4)
    inference = model(x)
    assert type(inference) is np.ndarray
    np.testing.assert_array_equal(inference, model.predict(x, verbose=0))
    np.testing.assert_array_equal(inference, model(x, training=False))
    np.testing.assert_array_equal(model(x.tolist()), inference)
    training = model(x, training=True)  # drops, and moves the moving statistics
    assert (training == 0).any()
    assert not np.array_equal(model(x), inference)
    np.testing.assert_array_equal(Dense(2, kernel_initializer="ones")(np.ones((1, 3))), [[3, 3]])


def test_training_false_in_a_call_holds_for_the_whole_model():
    inner = Sequential([Input((3,)), BatchNormalization(), Dropout(0.9)])
    x = Input((3,))
    frozen = Model(x, inner(x, training=False))
    moving = Model(x, inner(x))
    data, y = numbers(32, 3) + 5, numbers(32, 3)
    before = inner.get_weights()
    frozen.compile(optimizers.SGD(0.0), "mse")
    loss = frozen.fit(data, y, batch_size=32, verbose=0).history["loss"][0]
    assert loss == pytest.approx(np.mean((data / np.sqrt(1.001) - y) ** 2), rel=1e-5)
    np.testing.assert_array_equal(inner.get_weights()[2:], before[2:])
    moving.compile(optimizers.SGD(0.0), "mse")
    moving.fit(data, y, verbose=0)
    assert not np.array_equal(inner.get_weights()[2], before[2])


def test_lists_and_dicts_of_one_input():
    x, array = Input((4,), name="x"), numbers(5, 4)
    layer = Dense(2)
    expected = layer(array)
    for inputs in (x, [x], (x,), {"x": x}, {"other": x}):
        model = Model(inputs, [layer(x)])
        name = "other" if isinstance(inputs, dict) and "other" in inputs else "x"
        given = [{name: array}] if isinstance(inputs, dict) else [array, [array], {name: array}]
        for one in given:
            np.testing.assert_array_equal(model.predict(one, verbose=0), expected)
            model.compile(optimizers.SGD(0.0), "mse")
            assert model.evaluate(one, expected, verbose=0) == 0
            assert model.fit(one, [expected], verbose=0).history["loss"] == [0]
        np.testing.assert_array_equal(model(given[0]), expected)


def test_dict_of_inputs_in_any_order():
    a, b = Input((4,), name="a"), Input((3,), name="b")
    model = Model([a, b], Concatenate()([Dense(2)(a), b]))
    x = {"b": numbers(5, 3), "a": numbers(5, 4)}
    expected = model.predict([x["a"], x["b"]], verbose=0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    np.testing.assert_array_equal(model(x), expected)
    with pytest.raises(ValueError, match=r"needs inputs \['a', 'b'\], got \['a', 'c'\]"):
        model.predict({"a": x["a"], "c": x["b"]}, verbose=0)
    with pytest.raises(ValueError, match="takes 2 inputs"):
        model.predict(x["a"], verbose=0)


def test_dict_of_outputs():
    x = Input((4,))
    outputs = {"u": Dense(2, name="first")(x), "v": Dense(1, name="second")(x)}
    model = Model(x, outputs)
    data = numbers(6, 4)
    predicted = model.predict(data, batch_size=4, verbose=0)
    assert {name: y.shape for name, y in predicted.items()} == {"u": (6, 2), "v": (6, 1)}
    np.testing.assert_array_equal(model(data)["v"], predicted["v"])
    assert model.output_shape == {"u": (None, 2), "v": (None, 1)}
    model.compile("sgd", {"u": "mse", "v": "mae"}, metrics={"v": ["mse"]})
    history = model.fit(data, {"v": numbers(6, 1), "u": numbers(6, 2)}, verbose=0).history
    assert set(history) == {"loss", "u_loss", "v_loss", "v_mse"}
    again = Model.from_config(json.loads(json.dumps(model.get_config())))
    assert list(again.predict(data, verbose=0)) == ["u", "v"]
    nested = Model(x, Concatenate()(list(model(x).values())))
    assert nested.output_shape == (None, 3)


# -- nested models ---------------------------------------------------------------------------------


def test_nested_models_compute_gradients():
    inner = Sequential([Input((5,)), Dense(4, activation="tanh"), BatchNormalization()])
    a, b = Input((3,)), Input((2,))
    two = Model([a, b], [Add()([Dense(5)(a), Dense(5)(b)]), Dense(2)(b)])
    x, y = Input((3,)), Input((2,))
    u, v = two([x, y])
    model = Model([x, y], Concatenate()([inner(u), inner(Dense(5)(v)), v]))
    randomize(model)
    data = [numbers(6, 3), numbers(6, 2)]
    report = check_gradients(model, data, entries=5, verbose=False)
    assert report.passed, list(report)
    assert report[0].largest > 0 and report[1].largest > 0


def test_half_used_outputs_of_a_nested_model():
    a = Input((3,))
    two = Model(a, [Dense(5)(a), Dense(2)(a)])
    x = Input((3,))
    model = Model(x, two(x)[1])
    report = check_gradients(model, numbers(4, 3), verbose=False)
    assert report.passed
    assert sum(row.largest == 0 for row in report) == 2  # the kernel and bias nobody reads


def huge(**more):
    """A layer whose outputs are 1e4 times its inputs."""
    return Dense(3, kernel_initializer=initializers.Constant(1e4 * np.eye(3)), **more)


FUSED = {
    "Dense(softmax)": lambda: Sequential([Input((3,)), huge(activation="softmax")]),
    "Activation": lambda: Sequential([Input((3,)), huge(), Activation("softmax")]),
    "Softmax": lambda: Sequential([Input((3,)), huge(), Softmax()]),
    "nested": lambda: Sequential(
        [Input((3,)), Sequential([Input((3,)), huge(activation="softmax")])]
    ),
    "twice nested": lambda: Sequential([Input((3,)), FUSED["nested"]()]),
    "functional": lambda: (lambda x: Model([x], [FUSED["nested"]()(x)]))(Input((3,))),
}


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_softmax_is_fused_with_its_loss(make):
    model = make()
    model.compile(optimizers.SGD(1.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.array([[1, 0, -1]], np.float32)
    loss, accuracy = model.evaluate(x, [2], verbose=0)
    assert loss == 2e4  # from probabilities it would be log(1e7) = 16
    assert accuracy == 0
    assert model.heads[0].from_logits
    np.testing.assert_array_equal(model.predict(x, verbose=0), [[1, 0, 0]])  # still probabilities
    before = model.get_weights()[1]
    model.fit(x, [2], verbose=0)
    np.testing.assert_array_equal(model.get_weights()[1] - before, [-1, 0, 1])


def test_softmax_in_one_of_several_nested_outputs_is_fused():
    a = Input((3,))
    inner = Model(a, [Dense(1)(a), huge(activation="softmax")(a)])
    x = Input((3,))
    model = Model(x, inner(x))
    model.compile("sgd", ["mse", "sparse_categorical_crossentropy"])
    assert [head.from_logits for head in model.heads] == [False, True]
    x, y = np.array([[1, 0, -1]], np.float32), [np.zeros((1, 1)), np.array([2])]
    mse, crossentropy = model.evaluate(x, y, verbose=0)[1:]
    assert crossentropy == 2e4 > mse


NOT_FUSED = {
    "read by another layer": lambda x, p: Model(x, [p, Dense(1)(p)]),
    "another layer comes last": lambda x, p: Model(x, Flatten()(p)),
    "an output twice": lambda x, p: Model(x, [p, p]),
}


@pytest.mark.parametrize("make", NOT_FUSED.values(), ids=NOT_FUSED)
def test_softmax_that_something_else_reads_is_not_fused(make):
    x = Input((3,))
    model = make(x, Dense(3, activation="softmax", name="p")(x))
    model.compile("sgd", ["sparse_categorical_crossentropy", None][: len(model.outputs)])
    assert not model.heads[0].from_logits


def test_softmax_with_an_activity_regularizer_is_not_fused():
    layer = Dense(3, activation="softmax", activity_regularizer="l2")
    model = Sequential([Input((4,)), layer])
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert not model.heads[0].from_logits
    assert check_gradients(model, numbers(4, 4), classes(4, 3), verbose=False).passed


def test_loss_with_from_logits_is_not_applied_to_a_fused_softmax():
    model = Sequential([Input((4,)), Dense(3)])
    model.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = numbers(6, 4), classes(6, 3)
    plain = model.evaluate(x, y, verbose=0)
    soft = Sequential([model, Activation("softmax")])
    soft.compile("sgd", "sparse_categorical_crossentropy")
    assert soft.evaluate(x, y, verbose=0) == plain


# -- several outputs -------------------------------------------------------------------------------


def two_heads():
    a, b = Input((4,), name="a"), Input((3,), name="b")
    h = Concatenate()([a, b])
    model = Model([a, b], [Dense(2, activation="softmax", name="p")(h), Dense(1, name="q")(h)])
    randomize(model)
    return model, [numbers(8, 4), numbers(8, 3)], [classes(8, 2), numbers(8, 1)]


def test_history_keys_and_values_of_several_outputs():
    model, x, y = two_heads()
    model.compile(
        optimizers.SGD(0.0),
        loss={"p": "sparse_categorical_crossentropy", "q": "mse"},
        loss_weights={"p": 2.0, "q": 3.0},
        metrics={"p": ["accuracy"], "q": "mae"},
        weighted_metrics={"q": ["mae"]},
    )
    history = model.fit(x, y, validation_data=(x, y), verbose=0).history
    keys = {"loss", "p_loss", "q_loss", "p_accuracy", "q_mae", "q_weighted_mae"}
    assert set(history) == keys | {f"val_{key}" for key in keys}
    p, q = model.predict(x, verbose=0)
    p_loss = -np.log(p[np.arange(8), y[0]]).mean()
    q_loss = np.mean((q - y[1]) ** 2)
    assert history["p_loss"][0] == pytest.approx(p_loss, rel=1e-5)
    assert history["q_loss"][0] == pytest.approx(q_loss, rel=1e-5)  # not weighted, as in Keras
    assert history["val_loss"][0] == pytest.approx(2 * p_loss + 3 * q_loss, rel=1e-5)
    assert history["p_accuracy"][0] == np.float32(np.mean(p.argmax(1) == y[0]))
    assert history["q_mae"][0] == pytest.approx(np.abs(q - y[1]).mean(), rel=1e-5)
    values = model.evaluate(x, y, verbose=0)
    assert values == list(model.evaluate(x, y, verbose=0, return_dict=True).values())
    assert model.metrics_names == [
        "loss", "p_loss", "q_loss", "p_accuracy", "q_mae", "q_weighted_mae",
    ]  # fmt: skip


@pytest.mark.parametrize("as_dict", [False, True])
def test_targets_as_list_or_dict(as_dict):
    model, x, y = two_heads()
    losses = ["sparse_categorical_crossentropy", "mse"]
    if as_dict:
        y = {"q": y[1], "p": y[0]}
        losses = {"q": losses[1], "p": losses[0]}
        x = {"b": x[1], "a": x[0]}
    model.compile("sgd", losses)
    first = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=3, epochs=5, verbose=0)
    assert model.evaluate(x, y, verbose=0)[0] < first[0]


def test_gradient_of_several_inputs_and_outputs_with_loss():
    model, x, y = two_heads()
    model.compile("sgd", ["sparse_categorical_crossentropy", "huber"], loss_weights=[0.5, 4.0])
    report = check_gradients(model, x, y, verbose=False)
    assert report.passed, list(report)
    assert [row.name for row in report][:2] == ["x[0]", "x[1]"]


def test_sample_weights_per_output():
    model, x, y = two_heads()
    model.compile("sgd", {"p": "sparse_categorical_crossentropy", "q": "mse"})
    zero, one = np.zeros(8), np.ones(8)
    result = model.evaluate(x, y, sample_weight={"p": zero, "q": one}, verbose=0, return_dict=True)
    assert result["p_loss"] == 0 < result["q_loss"]
    listed = model.evaluate(x, y, sample_weight=[zero, one], verbose=0, return_dict=True)
    assert listed == result
    halved = model.evaluate(x, y, sample_weight=0.5 * one, verbose=0)[0]
    assert halved == pytest.approx(0.5 * model.evaluate(x, y, verbose=0)[0], rel=1e-6)


# -- Sequential ------------------------------------------------------------------------------------


def stack(**first):
    return [Conv2D(2, 3, **first), MaxPooling2D(), Flatten(), Dense(3)]


STARTS = {
    "Input": lambda: Sequential([Input((6, 6, 1)), *stack()]),
    "InputLayer": lambda: Sequential([layers.InputLayer((6, 6, 1)), *stack()]),
    "InputLayer(input_shape)": lambda: Sequential(
        [layers.InputLayer(input_shape=(6, 6, 1)), *stack()]
    ),
    "input_shape": lambda: Sequential(stack(input_shape=(6, 6, 1))),
    "batch_input_shape": lambda: Sequential(stack(batch_input_shape=(None, 6, 6, 1))),
    "fixed batch": lambda: Sequential(stack(batch_input_shape=(4, 6, 6, 1))),
    "Input(batch_shape)": lambda: Sequential([Input(batch_shape=(4, 6, 6, 1)), *stack()]),
    "build": lambda: Sequential(stack()),
}


@pytest.mark.parametrize("make", STARTS.values(), ids=STARTS)
def test_ways_to_give_the_input_shape(make):
    model = make()
    if not model.built:
        model.build((None, 6, 6, 1))
    assert model.built
    assert model.input_shape[1:] == (6, 6, 1)
    assert model.output_shape[1:] == (3,)
    assert names(model) == ["conv2d", "max_pooling2d", "flatten", "dense"]
    assert model.count_params() == 3 * 3 * 2 + 2 + 8 * 3 + 3
    assert model.predict(numbers(5, 6, 6, 1), verbose=0).shape == (5, 3)


def test_input_dim():
    model = Sequential([Dense(3, input_dim=4), Dense(2)])
    assert model.input_shape == (None, 4)
    assert model.count_params() == 4 * 3 + 3 + 3 * 2 + 2


@pytest.mark.parametrize("first_use", ["fit", "predict", "call", "evaluate", "train_on_batch"])
def test_a_sequential_without_shape_is_built_by_its_first_data(first_use):
    model = Sequential([Dense(3, activation="relu"), Dense(2)])
    assert not model.built and model.weights == [] and names(model) == ["dense", "dense_1"]
    model.compile("sgd", "mse")
    x, y = numbers(8, 4), numbers(8, 2)
    if first_use == "call":
        model(x)
    elif first_use == "predict":
        model.predict(x, verbose=0)
    elif first_use == "train_on_batch":
        model.train_on_batch(x, y)
    else:
        getattr(model, first_use)(x, y, verbose=0)
    assert shapes(model.get_weights()) == [(4, 3), (3,), (3, 2), (2,)]
    with pytest.raises(ValueError, match=r"\(None, 4\)"):
        model.predict(numbers(8, 5), verbose=0)


def test_a_wrong_shape_leaves_no_trace_in_a_sequential():
    model = Sequential(stack())
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="conv2d.*add the channel axis"):
        model.fit(numbers(4, 6, 6), numbers(4, 3), verbose=0)
    with pytest.raises(ValueError, match="max_pooling2d.*larger than its input"):
        model.fit(numbers(4, 3, 3, 5), numbers(4, 3), verbose=0)
    model.fit(numbers(4, 6, 6, 1), numbers(4, 3), verbose=0)
    assert model.get_weights()[0].shape == (3, 3, 1, 2)


def test_a_wrong_shape_does_not_touch_weights_that_existed():
    trained = Sequential([Input((4,)), Dense(3)])
    before = trained.get_weights()
    model = Sequential([Flatten(), Sequential([ReLU(), trained]), Conv2D(2, 3)])
    with pytest.raises(ValueError, match="conv2d"):
        model.predict(numbers(2, 4), verbose=0)
    for a, b in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_add_that_fails_leaves_the_model_as_it_was():
    model = Sequential([Input((6, 6, 1)), Conv2D(2, 3)])
    with pytest.raises(ValueError, match="larger than its input"):
        model.add(Conv2D(2, 5))
    model.add(Conv2D(3, 3))
    assert model.output_shape == (None, 2, 2, 3)
    assert len(model.layers) == 2
    with pytest.raises(ValueError, match="takes layers, not 'relu'"):
        model.add("relu")
    with pytest.raises(ValueError, match="Input only as its first"):
        model.add(Input((3,)))


def test_add_and_pop():
    model = Sequential()
    for layer in (Input((4,)), Dense(3), Dense(2)):
        model.add(layer)
    x = numbers(5, 4)
    model.compile("sgd", "mse")
    model.fit(x, numbers(5, 2), verbose=0)
    first = model.layers[0]
    popped = model.pop()
    assert popped.units == 2 and model.output_shape == (None, 3)
    np.testing.assert_array_equal(model.predict(x, verbose=0), first(x))
    model.fit(x, numbers(5, 3), verbose=0)  # the compiled loss now applies to the new output
    model.add(Dense(7))
    assert model.predict(x, verbose=0).shape == (5, 7)
    model.pop(), model.pop()
    with pytest.raises(ValueError, match="no layers to remove"):
        model.pop()


def test_weights_argument():
    kernel, bias = numbers(4, 2), numbers(2)
    layer = Dense(2, weights=[kernel, bias], input_shape=(4,))
    model = Sequential([layer])
    np.testing.assert_array_equal(layer.get_weights()[0], kernel)
    np.testing.assert_allclose(model.predict(np.eye(4), verbose=0), kernel + bias, rtol=1e-6)
    with pytest.raises(ValueError, match=r"dense_1/kernel has shape \(5, 2\), not \(4, 2\)"):
        Sequential([Dense(2, weights=[kernel, bias], input_shape=(5,))])


def test_a_sequential_continues_from_a_model():
    base = residual_net()
    model = Sequential([base, ReLU(), Dense(1)])
    assert model.built and model.input_shape == (None, 6, 6, 3)
    assert names(model)[0] == base.name
    x = Input((6, 6, 3))
    assert Model(x, model(x)).output_shape == (None, 1)


# -- looking at a model ----------------------------------------------------------------------------


def test_get_layer():
    model = residual_net()
    assert model.get_layer("c2").name == "c2"
    assert model.get_layer(index=1) is model.layers[1]
    assert model.get_layer(index=-1).name == "d"
    with pytest.raises(ValueError, match="no layer 'shrt'. Did you mean 'short'"):
        model.get_layer("shrt")
    with pytest.raises(ValueError, match="has 9 layers, there is no layer 9"):
        model.get_layer(index=9)
    with pytest.raises(ValueError, match="a name or an index"):
        model.get_layer()


def test_shapes_of_layers_and_models():
    model = residual_net()
    conv = model.get_layer("c1")
    assert conv.input_shape == (None, 6, 6, 3) and conv.output_shape == (None, 6, 6, 4)
    assert model.get_layer("a").input_shape == [(None, 6, 6, 4)] * 2
    assert model.input_shape == (None, 6, 6, 3) and model.output_shape == (None, 2)
    assert model.input.shape == (None, 6, 6, 3) and model.output.shape == (None, 2)
    assert conv.output.shape == (None, 6, 6, 4)
    with pytest.raises(AttributeError, match="never called"):
        Dense(3).output_shape  # noqa: B018


def test_sizes_that_only_the_data_know():
    x = Input((None, None, 3))
    model = Model(x, GlobalAveragePooling2D()(Conv2D(2, 3)(x)))
    assert model.layers[1].output_shape == (None, None, None, 2)
    assert model.predict(numbers(2, 5, 7, 3), verbose=0).shape == (2, 2)
    assert model.predict(numbers(2, 9, 4, 3), verbose=0).shape == (2, 2)
    known = Input((5, 5, 2))
    assert Add()([Conv2D(2, 1)(x), known]).shape == (None, 5, 5, 2)


def test_a_layer_built_by_hand_keeps_its_weights():
    layer = Conv2D(1, 2, use_bias=False)
    layer.build((None, None, None, 1))
    layer.set_weights([np.ones((2, 2, 1, 1))])
    np.testing.assert_array_equal(layer(np.ones((1, 3, 3, 1))), np.full((1, 2, 2, 1), 4))
    assert len(layer.weights) == 1


def test_get_and_set_weights():
    model, other = residual_net(), residual_net()
    x = numbers(3, 6, 6, 3)
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(other.predict(x, verbose=0), model.predict(x, verbose=0))
    weights = model.get_weights()
    weights[0][...] = 7  # copies: the model does not change
    assert not (model.get_weights()[0] == 7).any()
    wrong = [np.zeros_like(w) for w in weights[:-1]] + [np.zeros(9)]
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"d/bias has shape \(2,\), not \(9,\)"):
        model.set_weights(wrong)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)  # all or nothing
    with pytest.raises(ValueError, match="has 12 weights, 3 were given"):
        model.set_weights(wrong[:3])
    with pytest.raises(ValueError, match="not built yet"):
        Dense(3).set_weights([np.zeros(3)])
    with pytest.raises(ValueError, match="not built"):
        Dense(3).count_params()


CONFIGS = {
    "residual": residual_net,
    "two heads": lambda: two_heads()[0],
    "sequential": lambda: Sequential([Input((6, 6, 1)), *stack()], name="chain"),
    "nested": lambda: Sequential([residual_net(), Dense(3)]),
    "functional in functional": lambda: (lambda x: Model(x, residual_net()(x)))(Input((6, 6, 3))),
    "a layer twice": lambda: (lambda x, d: Model(x, d(ReLU()(d(x)))))(Input((4,)), Dense(4)),
}


@pytest.mark.parametrize("make", CONFIGS.values(), ids=CONFIGS)
def test_model_from_its_config(make):
    model = make()
    randomize(model)
    plain = json.loads(json.dumps(serialize(model)))
    again = layers.deserialize(plain)
    assert json.loads(json.dumps(again.get_config())) == json.loads(json.dumps(model.get_config()))
    assert type(again) is type(model) and names(again) == names(model)
    assert [p.name for p in again.weights] == [p.name for p in model.weights]
    again.set_weights(model.get_weights())
    x = [numbers(3, *t.shape[1:]) for t in model.inputs]
    for a, b in zip(again(x), model(x), strict=True):
        np.testing.assert_array_equal(a, b)
    through_json = model_from_json(model.to_json())
    assert type(through_json) is type(model) and names(through_json) == names(model)
    assert through_json.to_json() == model.to_json()


def test_calls_with_a_mode_keep_it_in_the_config():
    x, dropout = Input((4,)), Dropout(0.5)
    model = Model(x, dropout(x, training=True))
    again = Model.from_config(model.get_config())
    assert (again.predict(numbers(8, 4), verbose=0) == 0).any()


def test_an_unbuilt_sequential_from_its_config():
    model = Sequential(stack())
    again = Sequential.from_config(json.loads(json.dumps(model.get_config())))
    assert not again.built and names(again) == names(model)
    again.build((None, 6, 6, 1))
    assert again.count_params() == 47


def test_clone_model_has_fresh_weights():
    model = residual_net()
    clone = models.clone_model(model)
    assert clone.layers[1] is not model.layers[1]
    assert shapes(clone.get_weights()) == shapes(model.get_weights())
    assert not np.array_equal(clone.get_weights()[0], model.get_weights()[0])


# -- trainable -------------------------------------------------------------------------------------


def count_calls(monkeypatch, *operations):
    """How often each operation runs from now on."""
    ops.conv2d  # noqa: B018  bind the set before its names are replaced
    counts = dict.fromkeys(operations, 0)
    for name in operations:
        original = getattr(ops, name)

        def counted(*args, name=name, original=original, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(ops, name, counted)
    return counts


GRADIENTS = ("conv2d_input_grad", "conv2d_kernel_grad", "batch_norm_train_grad", "bias_grad")


def small_conv_net():
    model = Sequential([Input((6, 6, 3))])
    for _ in range(3):
        model.add(Conv2D(4, 3, padding="same"))
        model.add(BatchNormalization())
    model.add(GlobalAveragePooling2D())
    model.add(Dense(2))
    model.compile("sgd", "mse")
    return model


def test_the_first_layer_computes_no_input_gradient(monkeypatch):
    model = small_conv_net()
    counts = count_calls(monkeypatch, *GRADIENTS)
    model.train_on_batch(numbers(4, 6, 6, 3), numbers(4, 2))
    assert counts == {
        "conv2d_input_grad": 2,
        "conv2d_kernel_grad": 3,
        "batch_norm_train_grad": 3,
        "bias_grad": 4,
    }


@pytest.mark.parametrize("activation", ["relu", "tanh", LeakyReLU(0.2), "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_derivatives_applied_by_the_layer_above_change_nothing(activation, bias):
    def model(apart):
        inside = None if apart else activation
        model = Sequential([Input((7, 7, 3))])
        for layer in (BatchNormalization(), MaxPooling2D(2), MaxPooling2D(3, 2, padding="same")):
            model.add(Conv2D(4, 3, padding="same", use_bias=bias, activation=inside))
            if apart:
                model.add(Activation(activation))
            model.add(layer)
        model.add(Flatten())
        model.add(Dense(2))
        model.compile("sgd", "mse")
        return model

    together, apart = model(False), model(True)
    values = [numbers(*w.shape, seed=i) for i, w in enumerate(apart.trainable_weights)]
    x, y = numbers(5, 7, 7, 3), numbers(5, 2)
    gradients = []
    for one in (together, apart):
        for parameter, value in zip(one.trainable_weights, values, strict=True):
            parameter.assign(value)
        one.train_on_batch(x, y)
        gradients.append([parameter.grad for parameter in one.trainable_weights])
    for a, b in zip(*gradients, strict=True):
        assert np.abs(b).max() > 1e-4
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * np.abs(b).max())


def test_frozen_layers_cost_nothing(monkeypatch):
    model = small_conv_net()
    for layer in model.layers[:4]:
        layer.trainable = False
    counts = count_calls(monkeypatch, *GRADIENTS)
    before = model.get_weights()
    model.train_on_batch(numbers(4, 6, 6, 3), numbers(4, 2))
    assert counts == {
        "conv2d_input_grad": 0,
        "conv2d_kernel_grad": 1,
        "batch_norm_train_grad": 1,
        "bias_grad": 2,
    }
    changed = [not np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True)]
    assert not any(changed[:12]) and all(changed[12:])  # moving statistics stay, too


def test_a_frozen_layer_between_trained_ones_passes_the_gradient_on(monkeypatch):
    model = small_conv_net()
    model.layers[2].trainable = False
    counts = count_calls(monkeypatch, *GRADIENTS)
    before = model.get_weights()
    model.train_on_batch(numbers(4, 6, 6, 3), numbers(4, 2))
    assert counts["conv2d_input_grad"] == 2 and counts["conv2d_kernel_grad"] == 2
    changed = [not np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True)]
    assert [i for i, one in enumerate(changed) if not one] == [6, 7]


def test_a_frozen_nested_model_costs_nothing(monkeypatch):
    base = Sequential([Input((6, 6, 3)), Conv2D(4, 3), BatchNormalization(), Conv2D(4, 3)])
    base.trainable = False
    model = Sequential([Input((6, 6, 3)), base, GlobalAveragePooling2D(), Dense(2)])
    model.compile("sgd", "mse")
    counts = count_calls(monkeypatch, *GRADIENTS)
    before = base.get_weights()
    model.fit(numbers(4, 6, 6, 3), numbers(4, 2), verbose=0)
    assert counts["conv2d_input_grad"] == counts["conv2d_kernel_grad"] == 0
    assert [p.name for p in model.trainable_weights] == ["dense/kernel", "dense/bias"]
    for a, b in zip(base.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_trainable_may_change_after_compile_and_keeps_the_optimizer_state():
    model = Sequential([Input((4,)), Dense(3), Dense(2)])
    model.compile(optimizers.SGD(0.1, momentum=0.9), "mse")
    x, y = numbers(8, 4), numbers(8, 2)

    def changed():
        before = model.get_weights()
        model.fit(x, y, verbose=0)
        pairs = zip(model.get_weights(), before, strict=True)
        return [not np.array_equal(a, b) for a, b in pairs]

    assert changed() == [True] * 4
    momentum = dict(model.optimizer.state())
    model.layers[0].trainable = False
    assert changed() == [False, False, True, True]
    after = dict(model.optimizer.state())
    frozen = [name for name in momentum if name.startswith("dense_kernel")]
    assert frozen
    for name in frozen:
        np.testing.assert_array_equal(after[name], momentum[name])
    model.layers[0].trainable = True
    assert changed() == [True] * 4
    assert model.optimizer.iterations == 3


def test_a_layer_frozen_by_a_callback_stops_at_once():
    from minicnn.callbacks import LambdaCallback

    model = Sequential([Input((4,)), Dense(3), Dense(2)])
    model.compile("sgd", "mse")
    kernels = []

    def freeze(epoch, logs):
        kernels.append(model.get_weights()[0])
        model.layers[0].trainable = False

    callback = LambdaCallback(on_epoch_end=freeze)
    model.fit(numbers(8, 4), numbers(8, 2), epochs=3, callbacks=[callback], verbose=0)
    np.testing.assert_array_equal(kernels[0], kernels[2])


def test_two_models_that_take_turns_in_training_one_of_them():
    """Generator and discriminator: a part of two compiled models, thawed and frozen every step."""
    judge = Sequential([Input((4,)), Dense(8, activation="relu"), Dropout(0.2)])
    judge.add(Dense(1, activation="sigmoid"))
    judge.compile("adam", "binary_crossentropy")
    maker = Sequential([Input((2,)), Dense(8, activation="relu"), Dense(4)])
    both = Sequential([maker, judge])
    both.compile("adam", "binary_crossentropy")
    real, noise, answers = numbers(8, 4), numbers(8, 2), np.repeat([1.0, 0.0], 8)
    for step in range(3):
        before = maker.get_weights(), judge.get_weights()
        judge.trainable = True
        judge.train_on_batch(np.concatenate([real, maker.predict(noise, verbose=0)]), answers)
        assert all(map(np.array_equal, maker.get_weights(), before[0]))
        judged = judge.get_weights()
        assert not any(map(np.array_equal, judged, before[1]))
        judge.trainable = False
        both.train_on_batch(noise, np.ones(8))
        assert all(map(np.array_equal, judge.get_weights(), judged))
        assert not any(map(np.array_equal, maker.get_weights(), before[0]))
        assert judge.optimizer.iterations == both.optimizer.iterations == step + 1


def test_copies_train_apart():
    model = residual_net()
    model.compile("adam", "mse")
    x, y = numbers(4, 6, 6, 3), numbers(4, 2)
    model.fit(x, y, verbose=0)
    before = model.get_weights()
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        again.fit(x, y, shuffle=False, verbose=0)
        assert not any(map(np.array_equal, again.trainable_weights, model.trainable_weights))
        assert again.optimizer.iterations == 2
    assert all(map(np.array_equal, model.get_weights(), before))


def test_freezing_all_warns():
    model = Sequential([Input((4,)), Dense(3), BatchNormalization()])
    model.trainable = False
    model.compile("sgd", "mse")
    assert model.trainable_weights == [] and not model.layers[0].trainable
    before = model.get_weights()
    with pytest.warns(UserWarning, match="no trainable weights"):
        model.fit(numbers(8, 4), numbers(8, 3), verbose=0)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_that_are_never_trained_stay_so():
    class Scaled(layers.Layer):
        def build(self, input_shape):
            ones = lambda shape, dtype: np.ones(shape, dtype)  # noqa: E731
            self.fixed = self.add_weight("fixed", (), ones, trainable=False)
            self.factor = self.add_weight("factor", (), ones)

        def forward(self, x, context):
            return x * self.factor.value, x

        def backward(self, dy, saved, needs_dx):
            self.factor.accumulate(np.sum(dy * saved))
            return dy * self.factor.value

    layer = Scaled()
    layer.ensure_built((None, 3))
    assert [p.name for p in layer.weights] == ["scaled/factor", "scaled/fixed"]
    layer.trainable = False
    layer.trainable = True
    assert [p.trainable for p in layer.weights] == [True, False]
    assert check_gradients(layer, numbers(2, 3), verbose=False).passed


def test_parts_of_a_composite_layer_count_as_its_own():
    class Block(layers.Layer):
        def __init__(self, units, **base):
            super().__init__(**base)
            self.units = units
            self.inner = Dense(units, name="inner")

        def build(self, input_shape):
            self.inner.ensure_built(input_shape)

        def compute_output_shape(self, input_shape):
            return self.inner.compute_output_shape(input_shape)

        def forward(self, x, context):
            return self.inner.forward(x, context)

        def backward(self, dy, saved, needs_dx):
            return self.inner.backward(dy, saved, needs_dx)

    block = Block(3)
    model = Sequential([Input((4,)), block])
    assert shapes(model.weights) == [(4, 3), (3,)] and block.count_params() == 15
    assert all(isinstance(p, Parameter) for p in model.weights)
    model.trainable = False
    assert not block.inner.trainable
    model.trainable = True
    assert check_gradients(model, numbers(2, 4), verbose=False).passed


# -- types -----------------------------------------------------------------------------------------


def test_a_model_in_float64():
    with config.using(floatx="float64"):
        model = residual_net()
    assert {p.dtype for p in model.weights} == {np.dtype(np.float64)}
    y = model.predict(numbers(2, 6, 6, 3), verbose=0)
    assert y.dtype == np.float64
    model.compile("adam", "mse")
    model.fit(numbers(4, 6, 6, 3), numbers(4, 2), verbose=0)
    assert {p.dtype for p in model.weights} == {np.dtype(np.float64)}
