"""Layers and objects of the user's own as activations of other layers."""

import numpy as np
import pytest

from minicnn import Conv2D, Dense, Input, LeakyReLU, Sequential, check_gradients, load_model


class Square:
    """y = x^2."""

    def forward(self, x, context=None):
        return x * x, x

    def backward(self, dy, saved, needs_dx=True):
        return 2 * saved * dy


@pytest.mark.parametrize("activation", [LeakyReLU(0.1), Square()])
@pytest.mark.parametrize("layer", [Conv2D, Dense])
def test_gradient(layer, activation):
    arguments = (4, 3) if layer is Conv2D else (4,)
    x = np.random.default_rng(5).normal(size=(2, 5, 6, 3))
    assert check_gradients(layer(*arguments, activation=activation), x, verbose=False)


def test_layer_as_activation_through_a_file(tmp_path):
    model = Sequential([Input((5, 5, 2)), Conv2D(3, 3, activation=LeakyReLU(0.1))])
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    x = np.random.default_rng(5).normal(size=(2, 5, 5, 2)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert again.layers[0].activation.negative_slope == 0.1
    assert (model.predict(x, verbose=0) < 0).any()
