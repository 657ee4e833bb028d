"""Single layers in JAX, compiled by XLA (networks: Keras on JAX)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.engines import by_kind


class Engine:
    def __init__(self, options):
        pass  # XLA's threads follow the processors that the process may use

    def about(self):
        return {"jax": jax.__version__}

    def open_layer(self, layer):
        arrays = [jnp.asarray(array) for array in layer.arrays()]
        functions = _MAKE[layer.kind](layer, *(array.shape for array in arrays))
        compiled = {name: jax.jit(function) for name, function in functions.items()}
        self.calls = {
            name: (lambda function=function: function(*arrays).block_until_ready())
            for name, function in compiled.items()
        }
        return self.calls

    def layer_result(self, direction):
        return np.array(self.calls[direction]())

    def close(self):
        self.calls = None
        jax.clear_caches()


def _linear(function, x_shape, kernel_shape):
    """The three directions of a function of (x, kernel) that is linear in both."""
    x_like = jax.ShapeDtypeStruct(x_shape, jnp.float32)
    kernel_like = jax.ShapeDtypeStruct(kernel_shape, jnp.float32)

    def input_grad(x, kernel, bias, dy):
        return jax.linear_transpose(lambda x: function(x, kernel), x_like)(dy)[0]

    def kernel_grad(x, kernel, bias, dy):
        return jax.linear_transpose(lambda kernel: function(x, kernel), kernel_like)(dy)[0]

    return {
        "forward": lambda x, kernel, bias, dy: function(x, kernel) + bias,
        "input_grad": input_grad,
        "kernel_grad": kernel_grad,
    }


def _convolution(layer, x_shape, kernel_shape, *_):
    def convolution(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (layer.strides,) * 2,
            layer.pads,
            rhs_dilation=(layer.dilation,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=layer.groups,
        )

    return _linear(convolution, x_shape, kernel_shape)


def _dense(layer, x_shape, kernel_shape, *_):
    return _linear(lambda x, kernel: x @ kernel, x_shape, kernel_shape)


def _from_forward(forward):
    """Value and gradient of a function of (x, gamma, beta)."""

    def input_grad(x, gamma, beta, dy):
        gradients = jax.vjp(forward, x, gamma, beta)[1](dy)
        return gradients[0]

    return {"forward": lambda x, gamma, beta, dy: forward(x, gamma, beta), "input_grad": input_grad}


def _pool(layer, *_):
    window, strides = (1, *layer.size, 1), (1, layer.strides, layer.strides, 1)
    pads = ((0, 0), *layer.pads, (0, 0))

    def largest(x, gamma, beta):
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)

    def average(x, gamma, beta):
        total = lax.reduce_window(x, 0.0, lax.add, window, strides, pads)
        return total / (layer.size[0] * layer.size[1])

    return _from_forward(largest if layer.kind == "max_pool" else average)


def _batch_norm(layer, *_):
    def forward(x, gamma, beta):
        mean = x.mean((0, 1, 2))
        variance = ((x - mean) ** 2).mean((0, 1, 2))
        return (x - mean) * (gamma * lax.rsqrt(variance + 1e-3)) + beta

    return _from_forward(forward)


_MAKE = by_kind(_convolution, _dense, _pool, _batch_norm)
