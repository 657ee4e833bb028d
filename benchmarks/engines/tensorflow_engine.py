"""Single layers in TensorFlow, as graphs (networks: Keras on TensorFlow)."""

import numpy as np
import tensorflow as tf

from benchmarks.engines import by_kind


class Engine:
    def __init__(self, options):
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)

    def about(self):
        return {"tensorflow": tf.__version__}

    def open_layer(self, layer):
        x, kernel, bias, dy = (tf.constant(array) for array in layer.arrays())
        calls = _MAKE[layer.kind](layer, x, kernel, bias, dy)
        self.calls = {name: tf.function(call) for name, call in calls.items()}
        return self.calls

    def layer_result(self, direction):
        return np.array(self.calls[direction]())

    def close(self):
        self.calls = None


def _varying(*arrays):
    """Variables, because a graph of constants would be folded into its result."""
    return [tf.Variable(array, trainable=False) for array in arrays]


def _convolution(layer, x, kernel, bias, dy):
    x_shape, kernel_shape = x.shape, kernel.shape
    x, kernel, bias, dy = _varying(x, kernel, bias, dy)
    where = {
        "strides": [1, layer.strides, layer.strides, 1],
        "padding": "VALID",
        "dilations": [1, layer.dilation, layer.dilation, 1],
    }
    if layer.padding and layer.output_shape[1:3] == layer.x[1:3]:
        where["padding"] = "SAME"  # the same pixels
    elif layer.padding:
        pads = [(0, 0), *layer.pads, (0, 0)]
        where["padding"] = "EXPLICIT"
        where["explicit_paddings"] = [n for pair in pads for n in pair]
    if layer.groups == layer.x[-1] > 1:
        if where["padding"] == "EXPLICIT":  # the process would abort
            raise NotImplementedError("TensorFlow has no explicit padding of depthwise layers")
        per_channel = layer.filters // layer.groups
        filters = (*layer.size, layer.groups, per_channel)
        kernel = tf.Variable(tf.reshape(kernel, filters), trainable=False)
        raw = tf.raw_ops
        return {
            "forward": lambda: (
                raw.DepthwiseConv2dNative(input=x.value(), filter=kernel.value(), **where) + bias
            ),
            "input_grad": lambda: raw.DepthwiseConv2dNativeBackpropInput(
                input_sizes=x_shape, filter=kernel.value(), out_backprop=dy.value(), **where
            ),
            "kernel_grad": lambda: tf.reshape(
                raw.DepthwiseConv2dNativeBackpropFilter(
                    input=x.value(), filter_sizes=filters, out_backprop=dy.value(), **where
                ),
                kernel_shape,
            ),
        }
    raw = tf.raw_ops
    return {
        "forward": lambda: tf.nn.bias_add(
            raw.Conv2D(input=x.value(), filter=kernel.value(), **where), bias
        ),
        "input_grad": lambda: raw.Conv2DBackpropInput(
            input_sizes=x_shape, filter=kernel.value(), out_backprop=dy.value(), **where
        ),
        "kernel_grad": lambda: raw.Conv2DBackpropFilter(
            input=x.value(), filter_sizes=kernel_shape, out_backprop=dy.value(), **where
        ),
    }


def _dense(layer, x, kernel, bias, dy):
    x, kernel, bias, dy = _varying(x, kernel, bias, dy)
    return {
        "forward": lambda: tf.matmul(x, kernel) + bias,
        "input_grad": lambda: tf.matmul(dy, kernel, transpose_b=True),
        "kernel_grad": lambda: tf.matmul(x, dy, transpose_a=True),
    }


def _pool(layer, x, kernel, bias, dy):
    shape = x.shape
    x, dy = _varying(x, dy)
    where = {
        "ksize": [1, *layer.size, 1],
        "strides": [1, layer.strides, layer.strides, 1],
        "padding": "EXPLICIT" if layer.padding else "VALID",
    }
    raw = tf.raw_ops
    if layer.kind == "average_pool":
        return {
            "forward": lambda: raw.AvgPool(value=x.value(), **where),
            "input_grad": lambda: raw.AvgPoolGrad(orig_input_shape=shape, grad=dy.value(), **where),
        }
    if layer.padding:
        pads = [(0, 0), *layer.pads, (0, 0)]
        where["explicit_paddings"] = [n for pair in pads for n in pair]
    y = tf.Variable(raw.MaxPool(input=x.value(), **where), trainable=False)
    return {
        "forward": lambda: raw.MaxPool(input=x.value(), **where),
        "input_grad": lambda: raw.MaxPoolGrad(
            orig_input=x.value(), orig_output=y.value(), grad=dy.value(), **where
        ),
    }


def _batch_norm(layer, x, gamma, beta, dy):
    x, gamma, beta, dy = _varying(x, gamma, beta, dy)
    raw = tf.raw_ops
    nothing = tf.constant([], tf.float32)

    def forward():
        return raw.FusedBatchNormV3(
            x=x.value(),
            scale=gamma.value(),
            offset=beta.value(),
            mean=nothing,
            variance=nothing,
            epsilon=1e-3,
            is_training=True,
        )

    _, _, _, *reserved = forward()
    reserved = [tf.Variable(value, trainable=False) for value in reserved]

    def backward():
        return raw.FusedBatchNormGradV3(
            y_backprop=dy.value(),
            x=x.value(),
            scale=gamma.value(),
            reserve_space_1=reserved[0].value(),
            reserve_space_2=reserved[1].value(),
            reserve_space_3=reserved[2].value(),
            epsilon=1e-3,
            is_training=True,
        )

    return {"forward": lambda: forward()[0], "input_grad": lambda: backward()[0]}


_MAKE = by_kind(_convolution, _dense, _pool, _batch_norm)
