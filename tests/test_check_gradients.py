"""check_gradients finds what is wrong, passes what is right, and leaves no trace."""

import numpy as np
import pytest

from minicnn import Model, Sequential, check_gradients, config, ops, set_random_seed
from minicnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
)
from minicnn.losses import Loss
from minicnn.regularizers import Regularizer


@pytest.fixture(autouse=True)
def seed():
    set_random_seed(0)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def check(layer, x, y=None, **more):
    return check_gradients(layer, x, y, verbose=False, **more)


def wrong_rows(report):
    return {row.name.split("/")[-1] for row in report if not row.passed}


# -- wrong gradients are caught: each mutant differs from the true layer in one line ---------------


class WrongSign(Dense):
    def backward(self, dy, saved, needs_dx):
        return -super().backward(dy, saved, needs_dx)


class NoBias(Dense):
    def backward(self, dy, saved, needs_dx):
        dx = super().backward(dy, saved, needs_dx)
        self.bias.grad[...] = 0
        return dx


class MeanForSum(Dense):
    def backward(self, dy, saved, needs_dx):
        dx = super().backward(dy, saved, needs_dx)
        self.bias.grad /= len(dy)
        return dx


class SwappedAxes(Dense):
    def backward(self, dy, saved, needs_dx):
        dx = super().backward(dy, saved, needs_dx)
        self.kernel.grad = self.kernel.grad.T.copy()
        return dx


class NotTransposed(Dense):
    def backward(self, dy, saved, needs_dx):
        super().backward(dy, saved, needs_dx)
        return dy @ self.kernel.value


class ForgottenActivation(Dense):
    def backward(self, dy, saved, needs_dx):
        x, after, _ = saved
        return super().backward(dy, (x, after, None), needs_dx)


class OverwrittenGradient(Dense):
    """Sets its gradient where it must add: wrong only for a layer that is used twice."""

    def backward(self, dy, saved, needs_dx):
        self.kernel.grad[...] = 0
        return super().backward(dy, saved, needs_dx)


class FlippedKernel(Conv2D):
    def backward(self, dy, saved, needs_dx):
        dx = super().backward(dy, saved, needs_dx)
        self.kernel.grad = np.ascontiguousarray(self.kernel.grad[::-1, ::-1])
        return dx


class OddPadding(Conv2D):
    """Puts the extra pixel of "same" before the picture."""

    def backward(self, dy, saved, needs_dx):
        return np.roll(super().backward(dy, saved, needs_dx), 1, axis=1)


class ForgottenScale(BatchNormalization):
    """Leaves the division by the standard deviation out."""

    def backward(self, dy, saved, needs_dx):
        variance = saved[2]
        return super().backward(dy, saved, needs_dx) * np.sqrt(variance + self.epsilon)


class ForgottenMean(BatchNormalization):
    """Treats the batch's statistics as constants."""

    def backward(self, dy, saved, needs_dx):
        x, mean, variance, *_ = saved
        return super().backward(dy, (x, mean, variance, False, None, None, None), needs_dx)


class NoRescaling(Dropout):
    def backward(self, dy, saved, needs_dx):
        return super().backward(dy, saved, needs_dx) * (1 - self.rate)


class OtherMask(Dropout):
    def backward(self, dy, saved, needs_dx):
        rate, key, first, noise_shape = saved
        return ops.dropout_grad(dy, rate, key + 1, first, noise_shape)


class AllMaxima(MaxPooling2D):
    """Hands the gradient to every pixel of the window."""

    def backward(self, dy, saved, needs_dx):
        return np.repeat(np.repeat(dy, 2, axis=1), 2, axis=2)


class OneOfTwo(Add):
    def backward(self, dy, saved, needs_dx):
        return [dy, 0 * dy]


class SlightlyWrong(Dense):
    """A relative error of 1e-4 in one entry of the kernel's gradient, the largest."""

    def backward(self, dy, saved, needs_dx):
        dx = super().backward(dy, saved, needs_dx)
        gradient = self.kernel.grad.reshape(-1)
        gradient[np.abs(gradient).argmax()] *= 1.0001
        return dx


MUTANTS = {
    "wrong sign": (lambda: WrongSign(5), (4,), {"x"}),
    "missing bias": (lambda: NoBias(5), (4,), {"bias"}),
    "mean for sum": (lambda: MeanForSum(5), (4,), {"bias"}),
    "swapped axes": (lambda: SwappedAxes(4), (4,), {"kernel"}),
    "not transposed": (lambda: NotTransposed(4), (4,), {"x"}),
    "forgotten activation": (
        lambda: ForgottenActivation(5, activation="tanh"),
        (4,),
        {"x", "kernel", "bias"},
    ),
    "flipped kernel": (lambda: FlippedKernel(3, 3), (5, 5, 2), {"kernel"}),
    "odd padding": (lambda: OddPadding(3, 2, padding="same"), (5, 5, 2), {"x"}),
    "forgotten scale": (lambda: ForgottenScale(), (5,), {"x"}),
    "forgotten mean": (lambda: ForgottenMean(), (5,), {"x"}),
    "no rescaling": (lambda: NoRescaling(0.5), (40,), {"x"}),
    "another mask": (lambda: OtherMask(0.5), (40,), {"x"}),
    "all maxima": (lambda: AllMaxima(), (4, 6, 2), {"x"}),
    "slightly wrong": (lambda: SlightlyWrong(5), (4,), {"kernel"}),
}


@pytest.mark.parametrize(("make", "shape", "wrong"), MUTANTS.values(), ids=MUTANTS)
def test_a_wrong_gradient_is_caught_where_it_is(make, shape, wrong):
    layer = make()
    x = numbers(6, *shape)
    report = check(layer, x)
    assert not report and not report.passed
    assert wrong_rows(report) == wrong
    right = type(layer).__bases__[0].from_config(layer.get_config())
    assert check(right, x).passed


def test_a_wrong_gradient_of_one_of_several_inputs():
    report = check(OneOfTwo(), [numbers(3, 4), numbers(3, 4, seed=1)])
    assert [(row.name, row.passed) for row in report] == [("x[0]", True), ("x[1]", False)]


def test_a_gradient_that_is_not_added_up():
    x, layer = Input((4,)), OverwrittenGradient(4)
    once = Model(x, layer(x))
    assert check(once, numbers(3, 4)).passed
    twice = Model(x, layer(layer(x)))
    assert wrong_rows(check(twice, numbers(3, 4))) == {"kernel"}


def test_a_wrong_layer_inside_a_model_is_named():
    model = Sequential(
        [
            Input((6, 6, 2)),
            Conv2D(4, 3, name="good"),
            FlippedKernel(3, 3, name="bad"),
            GlobalAveragePooling2D(),
            Dense(3, activation="softmax", name="last"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    report = check(model, numbers(4, 6, 6, 2), np.array([0, 1, 2, 0]))
    assert [row.name for row in report if not row.passed] == ["bad/kernel"]


def test_a_gradient_of_a_wrong_shape():
    class WrongShape(Dense):
        def backward(self, dy, saved, needs_dx):
            super().backward(dy, saved, needs_dx)
            return dy

    report = check(WrongShape(3), numbers(2, 4))
    assert not report.passed and report[0].error == np.inf


def test_a_wrong_loss_and_a_wrong_regularizer_are_caught():
    class Doubled(Loss):
        """The squared error with the gradient of half of it."""

        def per_sample(self, y_true, y_pred):
            return np.mean((y_pred - y_true) ** 2, -1), (y_pred - y_true) / y_pred.shape[-1]

    class Forgotten(Regularizer):
        def value(self, w):
            return float(np.sum(w**2))

        def grad(self, w):
            return w

    x, y = numbers(4, 3), numbers(4, 2, seed=1)
    model = Sequential([Input((3,)), Dense(2)])
    model.compile("sgd", Doubled())
    assert wrong_rows(check(model, x, y)) == {"x", "kernel", "bias"}
    model = Sequential([Input((3,)), Dense(2, kernel_regularizer=Forgotten())])
    model.compile("sgd", "mse")
    assert wrong_rows(check(model, x, y)) == {"kernel"}
    model = Sequential([Input((3,)), Dense(2, activity_regularizer=Forgotten())])
    model.compile("sgd", "mse")
    assert wrong_rows(check(model, x, y)) == {"x", "kernel", "bias"}


# -- right ones pass -------------------------------------------------------------------------------


def conv_net(**more):
    return Sequential(
        [
            Input((6, 6, 2)),
            Conv2D(4, 3, padding="same", activation="relu", **more),
            BatchNormalization(),
            MaxPooling2D(),
            Dropout(0.3),
            Flatten(),
            Dense(3, activation="softmax", **more),
        ]
    )


LOSSES = {
    "categorical": ("categorical_crossentropy", np.eye(3)[[0, 2, 1, 1]]),
    "sparse": ("sparse_categorical_crossentropy", np.array([0, 2, 1, 1])),
    "mse": ("mse", np.eye(3)[[0, 2, 1, 1]]),
    "kl": ("kl_divergence", np.full((4, 3), 1 / 3)),
}


@pytest.mark.parametrize(("loss", "y"), LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("training", [True, False])
def test_models_with_loss(loss, y, training):
    model = conv_net()
    model.compile("sgd", loss)
    report = check(model, numbers(4, 6, 6, 2), y, training=training)
    assert report.passed, list(report)
    assert all(row.largest > 0 for row in report)


def test_models_with_regularizers_and_weights():
    regularizers = dict(
        kernel_regularizer="l1_l2", bias_regularizer="l2", activity_regularizer="l1"
    )
    model = conv_net(**regularizers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    y, weights = np.array([0, 2, 1, 1]), np.array([0.0, 1, 2, 3])
    report = check(model, numbers(4, 6, 6, 2), y, sample_weight=weights)
    assert report.passed, list(report)


def test_a_gradient_that_is_zero_passes_and_says_so(capsys):
    model = Sequential([Input((5, 5, 2)), Conv2D(4, 3, name="c"), BatchNormalization()])
    report = check_gradients(model, numbers(3, 5, 5, 2))
    assert report.passed, list(report)  # the bias before a batch normalisation has no effect
    silent = Sequential([Input((3,)), Dense(2), Dense(2), Activation("relu")])
    silent.layers[1].set_weights([np.zeros((2, 2)), [-1, -1]])
    assert check_gradients(silent, numbers(3, 3)).passed
    assert "gradient is" in capsys.readouterr().out


def test_at_a_kink_the_gradient_of_one_side_counts():
    """The black border of pictures: ReLU of exactly 0 where the bias still is 0."""
    x = np.zeros((2, 6, 6, 1))
    x[:, 2:4, 2:4] = numbers(2, 2, 2, 1)
    parts = [Conv2D(4, 3, padding="same", activation="relu"), MaxPooling2D(), Flatten(), Dense(2)]
    model = Sequential([Input((6, 6, 1)), *parts])
    report = check(model, x, entries=36)
    assert report.passed, list(report)
    assert [row.entries for row in report][1:] == [36, 4, 36, 2]

    class Leaking(Conv2D):
        """Lets half of the gradient through where ReLU is 0."""

        def backward(self, dy, saved, needs_dx):
            x, after, _ = saved
            return super().backward(np.where(after > 0, dy, dy / 2), (x, after, None), needs_dx)

    wrong = Sequential([Input((6, 6, 1)), Leaking(4, 3, activation="relu"), Flatten(), Dense(2)])
    assert "bias" in wrong_rows(check(wrong, x))


def test_nothing_but_kinks_is_no_pass(capsys):
    model = Sequential([Input((3,)), Dense(2, kernel_initializer="zeros"), Activation("relu")])
    report = check_gradients(model, numbers(20, 3))
    assert not report.passed and [row.entries for row in report] == [20, 0, 2]
    assert "UNDECIDED" in capsys.readouterr().out


def test_frozen_parameters_are_not_checked():
    model = conv_net()
    model.layers[0].trainable = False
    report = check(model, numbers(4, 6, 6, 2))
    kinds = [row.name.split("/")[-1] for row in report]
    assert kinds == ["x", "gamma", "beta", "kernel", "bias"] and report.passed
    model.trainable = False
    report = check(model, numbers(4, 6, 6, 2))
    assert [row.name for row in report] == ["x"] and report.passed


def test_layers_alone_and_layers_not_yet_built():
    layer = Conv2D(3, 3, activation="elu")
    assert check(layer, numbers(2, 5, 5, 2)).passed
    assert layer.built and layer.kernel.shape == (3, 3, 2, 3)
    assert check(Sequential([Dense(3), Activation("gelu")]), numbers(2, 4)).passed


def test_with_the_reference_operations():
    with config.using(ops="reference"):
        assert check(conv_net(), numbers(3, 6, 6, 2)).passed


# -- what it leaves and what it says ---------------------------------------------------------------


def test_a_check_leaves_no_trace():
    model = conv_net()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = numbers(4, 6, 6, 2).astype(np.float32), np.array([0, 1, 2, 0])
    model.fit(x, y, verbose=0)
    before = [(p.value, p.value.copy(), p.grad, p.grad.copy()) for p in model.trainable_weights]
    state, given = model.get_weights(), x.copy()
    check(model, x, y)
    for p, (value, old, grad, old_grad) in zip(model.trainable_weights, before, strict=True):
        assert p.value is value and p.grad is grad  # still in the optimiser's buffer
        np.testing.assert_array_equal(value, old)
        np.testing.assert_array_equal(grad, old_grad)
    for a, b in zip(model.get_weights(), state, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(x, given)
    assert {one.dtype for one in model.parts()} == {"float32"}
    assert model.predict(x, verbose=0).dtype == np.float32
    model.fit(x, y, verbose=0)


def test_a_check_that_fails_leaves_no_trace():
    class Broken(Dense):
        def backward(self, dy, saved, needs_dx):
            raise RuntimeError("not yet")

    layer = Broken(3)
    layer(np.ones((1, 4)))
    with pytest.raises(RuntimeError, match="not yet"):
        check(layer, numbers(2, 4))
    assert layer.dtype == "float32" and layer.kernel.value.dtype == np.float32


def test_the_table(capsys):
    model = Sequential([Input((4,)), Dense(3, name="good"), NoBias(2, name="bad")])
    report = check_gradients(model, numbers(3, 4))
    out = capsys.readouterr().out
    for word in ("good/kernel", "bad/bias", "(4, 3)", "ok", "WRONG", "worst relative error"):
        assert word in out
    assert not report.passed
    assert [row.shape for row in report] == [(3, 4), (4, 3), (3,), (3, 2), (2,)]


def test_the_same_seed_checks_the_same_numbers():
    model, x = conv_net(), numbers(3, 6, 6, 2)
    assert list(check(model, x, seed=4)) == list(check(model, x, seed=4))


def test_what_it_refuses():
    with pytest.raises(TypeError, match="takes a model or a layer, not 'dense'"):
        check("dense", numbers(2, 3))
    with pytest.raises(ValueError, match="a layer has no loss: leave y out"):
        check(Dense(3), numbers(2, 3), numbers(2, 3))
    with pytest.raises(ValueError, match="is not compiled"):
        check(conv_net(), numbers(2, 6, 6, 2), np.array([0, 1]))
    model = conv_net()
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="the output has 3 classes"):
        check(model, numbers(2, 6, 6, 2), np.array([0, 3]))
