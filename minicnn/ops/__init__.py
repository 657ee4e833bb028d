"""The operations: `ops.conv2d(...)` runs the fast (Numba) or the reference (NumPy) version.

Both sets have the same names and signatures; `config.ops` chooses, and the set is imported at the
first use of any operation, so that `import minicnn` loads neither Numba nor SciPy.
"""

import importlib

from minicnn import config
from minicnn.ops import arena, shapes

NAMES = {
    "convolution": ("conv2d", "conv2d_input_grad", "conv2d_kernel_grad"),
    "pooled_convolution": ("conv2d_max_pool", "conv2d_max_pool_kernel_grad"),
    "dense": ("dense", "dense_input_grad", "dense_kernel_grad", "bias_grad"),
    "pooling": (
        "max_pool2d",
        "max_pool2d_grad",
        "max_pool2d_activation_grad",
        "average_pool2d",
        "average_pool2d_grad",
        "global_average_pool2d",
        "global_average_pool2d_grad",
        "global_max_pool2d",
        "global_max_pool2d_grad",
    ),
    "normalization": (
        "batch_norm_train",
        "batch_norm_statistics",
        "batch_norm_train_grad",
        "batch_norm_activation_grad",
        "batch_norm_inference",
        "batch_norm_inference_grad",
    ),
    "normalized_sum": ("add_normalized", "add_normalized_grad"),
    "pooled_normalization": ("batch_norm_max_pool", "batch_norm_max_pool_grad"),
    "elementwise": (
        "activate",
        "activate_grad",
        "activate_bias_grad",
        "softmax",
        "softmax_grad",
        "log_softmax",
        "log_softmax_grad",
        "scale_shift",
        "add",
        "add_grad",
        "dropout",
        "dropout_grad",
    ),
    "augmentation": (
        "affine_transform",
        "affine_transform_grad",
        "gather_pixels",
        "gather_pixels_grad",
        "resize",
        "resize_grad",
        "adjust_levels",
        "adjust_levels_grad",
        "adjust_saturation",
        "adjust_saturation_grad",
        "adjust_hue",
        "adjust_hue_grad",
        "erase_boxes",
        "cut_mix",
        "cut_mix_grad",
        "mix",
    ),
    "crossentropy": ("softmax_crossentropy",),
    "reshaping": ("zero_pad2d", "zero_pad2d_grad", "upsample2d", "upsample2d_grad"),
    "updates": (
        "adadelta_update",
        "adagrad_update",
        "adam_update",
        "adamax_update",
        "average_update",
        "lion_update",
        "momentum_update",
        "nadam_update",
        "rmsprop_update",
        "sgd_update",
        "sum_of_squares",
    ),
}

__all__ = [
    "NAMES",
    "arena",
    "shapes",
    *(name for names in NAMES.values() for name in names),  # noqa: PLE0604
]


def _bind():
    """Put the operations of the chosen set into this module; rebinding follows `config.ops`."""
    for file, names in NAMES.items():
        module = importlib.import_module(f"minicnn.ops.{config.ops}.{file}")
        globals().update({name: getattr(module, name) for name in names})


def _unbind():
    for names in NAMES.values():
        for name in names:
            globals().pop(name, None)


config.on_change("ops", _unbind)


def __getattr__(name):
    if not any(name in names for names in NAMES.values()):
        raise AttributeError(f"module 'minicnn.ops' has no operation {name!r}")
    _bind()
    return globals()[name]
