"""keras.applications under its name: every network is refused, with what to do instead.

This library comes without trained image models. Scripts ask for them as `applications.VGG16`, or
through a module for each family, as in `from keras.applications.vgg16 import VGG16`.
"""

import sys
import types

__all__ = []

_FAMILIES = (
    "convnext",
    "densenet",
    "efficientnet",
    "efficientnet_v2",
    "imagenet_utils",
    "inception_resnet_v2",
    "inception_v3",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3",
    "nasnet",
    "resnet",
    "resnet50",
    "resnet_v2",
    "vgg16",
    "vgg19",
    "xception",
)


def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(f"module 'minicnn.applications' has no attribute {name!r}")
    raise ImportError(
        f"{name!r}: minicnn has no trained image models and no ImageNet weights; build the network "
        "from minicnn.layers and train it, or load a file of yours with minicnn.load_model(path)"
    )


class _Family(types.ModuleType):
    """Refuses what is asked of it, as the module above does."""

    def __getattr__(self, name):
        return __getattr__(name)


for _family in _FAMILIES:
    _module = _Family(f"{__name__}.{_family}", "A family of networks that is not here.")
    globals()[_family] = sys.modules[_module.__name__] = _module
