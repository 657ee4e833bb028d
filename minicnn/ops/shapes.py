"""Shape arithmetic of both op sets and the layers: paddings, output sizes, fusible names."""

import numpy as np

# Activations whose derivative follows from the output y: backward needs y only, so the op that
# made y may apply them in its epilogue (see FUSIBLE) and the input need not be kept.
DERIVATIVE_FROM_OUTPUT = frozenset(
    {"relu", "leaky_relu", "elu", "selu", "sigmoid", "tanh", "exponential", "log_sigmoid"}
)
FUSIBLE = frozenset({"relu", "leaky_relu", "elu", "sigmoid", "tanh"})
RECTIFIERS = frozenset({"relu", "leaky_relu"})  # a slope below zero, and nothing else


def effective_size(kernel, dilation):
    """Extent of a dilated kernel: kernel 3 with dilation 2 covers 5 pixels."""
    return (kernel - 1) * dilation + 1


def resolve_padding(padding, input_size, kernel_size, strides=(1, 1), dilation=(1, 1)):
    """((top, bottom), (left, right)) for "valid", "same" or an explicit pair of pairs.

    "same" is TensorFlow's and Keras's rule: ceil(size / stride) outputs, the odd pixel at the end.
    """
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        return tuple(padding[0]), tuple(padding[1])
    pairs = []
    for size, kernel, stride, rate in zip(input_size, kernel_size, strides, dilation, strict=True):
        total = max((-(-size // stride) - 1) * stride + effective_size(kernel, rate) - size, 0)
        pairs.append((total // 2, total - total // 2))
    return tuple(pairs)


def window_output_size(input_size, kernel_size, strides, padding, dilation=(1, 1)):
    """(height, width) that a sliding window of this geometry produces; sizes may be None."""
    if None in input_size:
        per_axis = []
        for i, size in enumerate(input_size):
            if size is None:
                per_axis.append(None)
            else:
                pair = ((padding[i],) * 2) if not isinstance(padding, str) else padding
                one = window_output_size(
                    (size,) * 2, (kernel_size[i],) * 2, (strides[i],) * 2, pair, (dilation[i],) * 2
                )
                per_axis.append(one[0])
        return tuple(per_axis)
    pads = resolve_padding(padding, input_size, kernel_size, strides, dilation)
    return tuple(
        (size + sum(pad) - effective_size(kernel, rate)) // stride + 1
        for size, pad, kernel, stride, rate in zip(
            input_size, pads, kernel_size, strides, dilation, strict=True
        )
    )


def conv2d_shape(input_shape, kernel_shape, strides, padding, dilation=(1, 1)):
    """(n, h, w, filters) of a convolution of (n, h, w, c) with an HWIO kernel."""
    size = window_output_size(input_shape[1:3], kernel_shape[:2], strides, padding, dilation)
    return (input_shape[0], *size, kernel_shape[3])


def pool2d_shape(input_shape, pool_size, strides, padding):
    """(n, h, w, c) of a pooling of (n, h, w, c)."""
    size = window_output_size(input_shape[1:3], pool_size, strides, padding)
    return (input_shape[0], *size, input_shape[3])


def pool_padding(padding, input_size, pool_size, strides):
    """resolve_padding, less than one window on every side: each window then holds a pixel."""
    pads = resolve_padding(padding, input_size, pool_size, strides)
    for pair, size in zip(pads, pool_size, strict=True):
        if max(pair) >= size:
            raise ValueError(f"padding {pads} with pool_size {pool_size}: pad less than a window.")
    return pads


def window_index_dtype(pool_size):
    """Smallest type that numbers the cells of a pooling window."""
    return np.uint8 if pool_size[0] * pool_size[1] <= 256 else np.int32


def check_one_of_activation_and_floor(activation):
    """conv2d's two ways to bound its sums do not go together."""
    if activation is not None:
        raise ValueError(f"conv2d takes activation or floor, not both: activation {activation!r}")


def check_rectifier(activation):
    """Sums and normalizations apply no other activation in their own pass."""
    if activation[0] not in RECTIFIERS:
        raise ValueError(
            f"activation {activation[0]!r} cannot be a part of this operation: "
            "pass ('relu',) or ('leaky_relu', slope), and apply others after"
        )


PAIRS = (2, 2), (2, 2)  # size and strides of the windows that other passes take the maxima of


def pooled_shape(shape, padding):
    """(n, ph, pw, f) of the maxima of 2x2 windows of (n, h, w, f)."""
    return (shape[0], *window_output_size(shape[1:3], *PAIRS, padding), shape[3])


def halved(shape):
    """(n, h/2, w/2, c) of (n, h, w, c) with even h and w."""
    if len(shape) != 4 or shape[1] % 2 or shape[2] % 2:
        raise ValueError(
            f"x has shape {shape}: batch_norm_max_pool takes (n, h, w, c) with even h and w; use "
            "batch_norm_train and max_pool2d for others"
        )
    return shape[0], shape[1] // 2, shape[2] // 2, shape[3]
