"""Kernels that only move data: how near they come to a triad which moves as many bytes.

Bytes are those a kernel cannot avoid: each array once, or twice where the equation needs the whole
array before it can start on the second pass (batch statistics).
"""

import numpy as np

import minicnn
from benchmarks import roofline
from minicnn import layers, losses, ops
from minicnn.data import batches

SMALL, LARGE = (64, 32, 32, 32), (256, 32, 32, 64)  # 8.4 and 67 MB of float32
POOL = ((2, 2), (2, 2), "valid")
PARAMETERS = 4 << 20


def kernels():
    """{name: function that prepares it and returns (call, bytes)}."""
    found = {}
    for shape in (SMALL, LARGE):
        size = f"{4 * np.prod(shape) / 1e6:.0f} MB"
        for name, make in _ON_MAPS.items():
            found[f"{name}, {size}"] = lambda make=make, shape=shape: make(shape)
    found |= _OTHERS
    return found


def prepare(name):
    """({"kernel": call, "triad": call}, bytes)."""
    call, byte_count = kernels()[name]()
    return {"kernel": call, "triad": roofline.triad(byte_count)}, byte_count


def _normal(shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _moved(*arrays):
    return sum(array.nbytes for array in arrays)


def _unary(function):
    def make(shape):
        x = _normal(shape)
        return lambda: function(x), 2 * x.nbytes

    return make


def _binary(function):
    def make(shape):
        dy, saved = _normal(shape), _normal(shape)
        return lambda: function(dy, saved), 3 * dy.nbytes

    return make


def _max_pool(shape):
    x = _normal(shape)
    return lambda: ops.max_pool2d(x, *POOL), _moved(x, *ops.max_pool2d(x, *POOL))


def _max_pool_grad(shape):
    x = _normal(shape)
    y, index = ops.max_pool2d(x, *POOL)
    dy = y.copy()
    return lambda: ops.max_pool2d_grad(dy, index, shape, *POOL), _moved(x, dy, index)


def _average_pool(shape):
    x = _normal(shape)
    return lambda: ops.average_pool2d(x, *POOL), _moved(x, ops.average_pool2d(x, *POOL))


def _average_pool_grad(shape):
    x = _normal(shape)
    dy = ops.average_pool2d(x, *POOL).copy()
    return lambda: ops.average_pool2d_grad(dy, shape, *POOL), _moved(x, dy)


def _global_average(shape):
    x = _normal(shape)
    return lambda: ops.global_average_pool2d(x), x.nbytes


def _global_average_grad(shape):
    dy = _normal((shape[0], shape[3]))
    return lambda: ops.global_average_pool2d_grad(dy, shape), 4 * int(np.prod(shape))


def _scales(shape):
    return np.ones(shape[-1], np.float32), np.zeros(shape[-1], np.float32)


def _batch_norm(shape):
    x, (gamma, beta) = _normal(shape), _scales(shape)
    return lambda: ops.batch_norm_train(x, gamma, beta, 1e-3), 3 * x.nbytes


def _batch_norm_grad(shape):
    x, dy, (gamma, beta) = _normal(shape), _normal(shape), _scales(shape)
    _, mean, variance = ops.batch_norm_train(x, gamma, beta, 1e-3)
    statistics = (mean, variance, 1e-3)
    return lambda: ops.batch_norm_train_grad(dy, x, gamma, *statistics), 5 * x.nbytes


def _batch_norm_inference(shape):
    x, (gamma, beta) = _normal(shape), _scales(shape)
    return lambda: ops.batch_norm_inference(x, gamma, beta, beta, gamma, 1e-3), 2 * x.nbytes


def _from_bytes(shape):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    scale, dtype = 1 / 255, np.dtype(np.float32)
    return lambda: ops.scale_shift(x, scale, 0.0, dtype), 5 * x.nbytes


_ON_MAPS = {
    "max pooling": _max_pool,
    "max pooling, gradient": _max_pool_grad,
    "average pooling": _average_pool,
    "average pooling, gradient": _average_pool_grad,
    "global average": _global_average,
    "global average, gradient": _global_average_grad,
    "batch norm, training": _batch_norm,
    "batch norm, gradient": _batch_norm_grad,
    "batch norm, inference": _batch_norm_inference,
    "ReLU": _unary(lambda x: ops.activate(x, ("relu",))),
    "ReLU, gradient": _binary(lambda dy, y: ops.activate_grad(dy, y, ("relu",))),
    "sigmoid": _unary(lambda x: ops.activate(x, ("sigmoid",))),
    "sigmoid, gradient": _binary(lambda dy, y: ops.activate_grad(dy, y, ("sigmoid",))),
    "GELU": _unary(lambda x: ops.activate(x, ("gelu",))),
    "GELU, gradient": _binary(lambda dy, x: ops.activate_grad(dy, x, ("gelu",))),
    "SiLU": _unary(lambda x: ops.activate(x, ("silu",))),
    "SiLU, gradient": _binary(lambda dy, x: ops.activate_grad(dy, x, ("silu",))),
    "dropout": _unary(lambda x: ops.dropout(x, 0.3, 12345)),
    "dropout, gradient": _unary(lambda dy: ops.dropout_grad(dy, 0.3, 12345)),
    "sum of two": _binary(lambda a, b: ops.add([a, b])),
    "uint8 to float32": _from_bytes,
}


def _crossentropy(samples, classes):
    def make():
        logits = _normal((samples, classes))
        labels = np.random.default_rng(0).integers(0, classes, samples)
        loss = losses.SparseCategoricalCrossentropy(from_logits=True)
        return lambda: loss.value_and_grad(labels, logits), 2 * logits.nbytes

    return make


def _optimizer(name, passes, *arguments):
    """`arguments`: numbers as they are, "slot" for a buffer of the optimiser's, None."""

    def make():
        value, gradient = _normal(PARAMETERS), 1e-3 * _normal(PARAMETERS)
        rest = [np.ones_like(value) if a == "slot" else a for a in arguments]
        update = getattr(ops, name)
        return lambda: update(value, gradient, *rest), passes * value.nbytes

    return make


def _gather(count, shape, dtype):
    def make():
        x = np.random.default_rng(0).integers(0, 256, (50_000 // 8, *shape)).astype(dtype)
        index = np.random.default_rng(0).permutation(len(x))[:count]
        return lambda: batches.pick(x, index), 2 * count * x[0].nbytes

    return make


def _augmentation(name, *arguments, **more):
    def make():
        x = np.random.default_rng(0).uniform(0, 255, (256, 32, 32, 3)).astype(np.float32)
        minicnn.set_random_seed(0)
        layer = getattr(layers, name)(*arguments, **more)
        return lambda: layer(x, training=True), 2 * x.nbytes

    return make


_OTHERS = {
    "softmax and crossentropy with gradient, 65536 x 10": _crossentropy(65536, 10),
    "softmax and crossentropy with gradient, 8192 x 1000": _crossentropy(8192, 1000),
    "SGD, 4 million parameters": _optimizer("sgd_update", 3, 1e-6),
    "SGD with momentum": _optimizer("momentum_update", 5, "slot", 1e-6, 0.9, False),
    "RMSprop": _optimizer("rmsprop_update", 5, "slot", None, None, 1e-6, 0.9, 0.0, 1e-7),
    "Adam": _optimizer("adam_update", 7, "slot", "slot", None, 1e-6, 0.9, 0.999, 1e-7),
    "shuffled batch, 256 uint8 pictures 32x32x3": _gather(256, (32, 32, 3), np.uint8),
    "shuffled batch, 256 float32 pictures 32x32x3": _gather(256, (32, 32, 3), np.float32),
    "random flip, 256 pictures 32x32x3": _augmentation("RandomFlip", "horizontal"),
    "random translation, 256 pictures 32x32x3": _augmentation("RandomTranslation", 0.1, 0.1),
    "random rotation, 256 pictures 32x32x3": _augmentation("RandomRotation", 0.1),
    "random crop to 28x28, 256 pictures": _augmentation("RandomCrop", 28, 28),
}
