"""The networks that are timed: each is described once and built for every library from that.

A network is a list of parts, `Part(kind, name, numbers)`; names tie weights to layers, so that all
libraries compute with the same ones. `keras_model` builds it with minicnn or with Keras, whose
calls are the same; `torch_model` with PyTorch.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """One layer; a residual part holds the parts of its two paths, which are added."""

    kind: str
    name: str = ""
    units: int = 0
    size: int = 3
    strides: int = 1
    bias: bool = True
    activation: str | None = None
    rate: float = 0.0
    inner: tuple = ()
    shortcut: tuple = ()


@dataclass(frozen=True)
class Network:
    """What is timed and how it is trained."""

    title: str
    input_shape: tuple
    parts: tuple
    optimizer: str = ""  # empty: prediction only
    classes: int = 10
    batch_sizes: tuple = (32,)
    check_batch_size: int = 8
    works: tuple = ("train", "predict")


def _convolution(name, filters, activation="relu", **more):
    return Part("convolution", name, filters, activation=activation, **more)


def _cifar10_convolutions():
    for block, (filters, rate) in enumerate(((32, 0.2), (64, 0.3), (128, 0.4))):
        for i in range(2):
            yield _convolution(f"conv{block}{i}", filters)
            yield Part("batch_norm", f"norm{block}{i}")
        yield Part("max_pool")
        yield Part("dropout", rate=rate)


def _celeba():
    for filters in (16, 32, 64, 128):
        yield _convolution(f"conv{filters}", filters)
        yield Part("max_pool")  # 218 x 178 ends as 14 x 12
    yield Part("global_average")
    yield Part("dense", "dense", 64, activation="relu")
    yield Part("batch_norm", "norm")
    yield Part("dense", "head", 1)


def _vgg():
    for filters in (64, 128, 256):
        for i in range(2):
            yield _convolution(f"conv{filters}{i}", filters, None, bias=False)
            yield Part("batch_norm", f"norm{filters}{i}")
            yield Part("relu")
        yield Part("max_pool")
    yield Part("global_average")
    yield Part("dense", "head", 10)


def _resnet20():
    """He et al. 2016, section 4.2, n = 3, with 1x1 projections where the shape changes."""
    yield _convolution("conv", 16, None, bias=False)
    yield Part("batch_norm", "norm")
    yield Part("relu")
    channels = 16
    for filters in (16, 32, 64):
        for block in range(3):
            at, strides, shortcut = f"{filters}{block}", 1, ()
            if filters != channels:
                channels, strides = filters, 2
                shortcut = (
                    _convolution(f"conv{at}s", filters, None, bias=False, size=1, strides=2),
                    Part("batch_norm", f"norm{at}s"),
                )
            inner = (
                _convolution(f"conv{at}a", filters, None, bias=False, strides=strides),
                Part("batch_norm", f"norm{at}a"),
                Part("relu"),
                _convolution(f"conv{at}b", filters, None, bias=False),
                Part("batch_norm", f"norm{at}b"),
            )
            yield Part("residual", at, inner=inner, shortcut=shortcut)
            yield Part("relu")
    yield Part("global_average")
    yield Part("dense", "head", 10)


NETWORKS = {
    "cifar10": Network(
        "CIFAR-10 network (examples/cifar10.py)",
        (32, 32, 3),
        (*_cifar10_convolutions(), Part("flatten"), Part("dense", "head", 10)),
        "rmsprop",
        batch_sizes=(64, 256),
        check_batch_size=16,
    ),
    "celeba": Network(
        "CelebA network, 218 x 178",
        (218, 178, 3),
        tuple(_celeba()),
        "adam",
        classes=1,
    ),
    "vgg": Network(
        "VGG-like 64-128-256 (two convolutions, batch norm, max pooling a block), 64 x 64",
        (64, 64, 3),
        tuple(_vgg()),
        "sgd",
        check_batch_size=4,
    ),
    "resnet20": Network(
        "ResNet-20",
        (32, 32, 3),
        tuple(_resnet20()),
        "sgd",
        batch_sizes=(128,),
        check_batch_size=16,
    ),
    "picture": Network(
        "one 900 x 900 picture through the CIFAR-10 network's convolutional part",
        (900, 900, 3),
        tuple(_cifar10_convolutions()),
        batch_sizes=(1,),
        check_batch_size=1,
        works=("predict",),
    ),
}


def pictures(network, count, seed=0):
    """Random pixels and labels: speed does not depend on what is in the picture."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 256, (count, *network.input_shape), dtype=np.uint8)
    if network.classes == 1:
        return x, generator.integers(0, 2, (count, 1)).astype(np.float32)
    return x, generator.integers(0, network.classes, count)


def weights(network, seed=1):
    """{"layer/number": array} in Keras's order and layout, made by minicnn and shaken a little.

    Without the shaking scales are one and offsets zero, which would hide a mix-up.
    """
    import minicnn

    minicnn.set_random_seed(seed)
    generator = np.random.default_rng(seed)
    found = {}
    for layer in keras_model(minicnn, network, dropout=False).layers:
        for i, value in enumerate(layer.get_weights()):
            noise = generator.uniform(0.9, 1.1, value.shape) if value.ndim == 1 else 1
            shift = 0.01 * (value.ndim == 1)
            found[f"{layer.name}/{i}"] = ((value + shift) * noise).astype(np.float32)
    return found


# -- minicnn and Keras -----------------------------------------------------------------------------


def keras_model(keras, network, dropout=True, optimizer=None):
    """The compiled model; `keras` is the module minicnn or keras."""
    layers = keras.layers
    inputs = keras.Input(network.input_shape, dtype="uint8")
    y = layers.Rescaling(1 / 255)(inputs)
    last = network.parts[-1]
    for part in network.parts:
        head = part is last and part.kind == "dense"
        activation = ("sigmoid" if network.classes == 1 else "softmax") if head else part.activation
        y = _keras_part(layers, part, y, activation, dropout)
    model = keras.Model(inputs, y)
    if network.optimizer:
        loss = "binary_crossentropy" if network.classes == 1 else "sparse_categorical_crossentropy"
        model.compile(optimizer or _keras_optimizer(keras.optimizers, network.optimizer), loss)
    return model


def _keras_part(layers, part, y, activation, dropout):
    if part.kind == "convolution":
        convolution = layers.Conv2D(
            part.units,
            part.size,
            strides=part.strides,
            padding="same",
            use_bias=part.bias,
            activation=activation,
            name=part.name,
        )
        return convolution(y)
    if part.kind == "residual":
        inner = shortcut = y
        for step in part.inner:
            inner = _keras_part(layers, step, inner, step.activation, dropout)
        for step in part.shortcut:
            shortcut = _keras_part(layers, step, shortcut, step.activation, dropout)
        return layers.Add()([inner, shortcut])
    if part.kind == "dropout" and not dropout:
        return y
    make = {
        "batch_norm": lambda: layers.BatchNormalization(name=part.name),
        "relu": lambda: layers.ReLU(),
        "max_pool": lambda: layers.MaxPooling2D(2, padding="same"),
        "dropout": lambda: layers.Dropout(part.rate),
        "flatten": lambda: layers.Flatten(),
        "global_average": lambda: layers.GlobalAveragePooling2D(),
        "dense": lambda: layers.Dense(part.units, activation=activation, name=part.name),
    }
    return make[part.kind]()(y)


def _keras_optimizer(optimizers, name):
    if name == "sgd":
        return optimizers.SGD(0.01, momentum=0.9)
    return optimizers.RMSprop(1e-3) if name == "rmsprop" else optimizers.Adam(1e-3)


def set_keras_weights(model, values):
    """Set the weights that `weights` made, by the names of layers."""
    for layer in model.layers:
        count = len(layer.get_weights())
        if count:
            layer.set_weights([values[f"{layer.name}/{i}"] for i in range(count)])


def keras_weights(model):
    """{"layer/number": array} of a model."""
    return {
        f"{layer.name}/{i}": np.array(value)
        for layer in model.layers
        for i, value in enumerate(layer.get_weights())
    }


# -- PyTorch ---------------------------------------------------------------------------------------


def torch_model(network, values, dropout=True, exact=False):
    """The network as PyTorch's users write it, ending in logits, with the given weights.

    Keras pads an even picture for stride 2 below and on the right only. `exact` does the same by a
    padded copy, for comparing results; what is timed pads all sides, the same amount of work
    without the copy.
    """
    import torch
    from torch import nn

    class Rescale(nn.Module):
        def forward(self, x):
            return x * (1 / 255)

    class Flatten(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    class GlobalAverage(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    class Residual(nn.Module):
        def __init__(self, inner, shortcut):
            super().__init__()
            self.inner, self.shortcut = inner, shortcut

        def forward(self, x):
            return self.inner(x) + self.shortcut(x)

    def tensor(name, i):
        return torch.tensor(values[f"{name}/{i}"])

    def convolution(part, channels):
        same = exact and part.strides == 2 and part.size == 3
        made = nn.Conv2d(
            channels,
            part.units,
            part.size,
            part.strides,
            padding=0 if same else part.size // 2,
            bias=part.bias,
        )
        made.weight.copy_(tensor(part.name, 0).permute(3, 2, 0, 1))
        if part.bias:
            made.bias.copy_(tensor(part.name, 1))
        modules = [nn.ZeroPad2d((0, 1, 0, 1))] if same else []
        modules.append(_named(made, part.name))
        return modules + [nn.ReLU()] * (part.activation == "relu")

    def dense(part, columns):
        made = nn.Linear(columns, part.units)
        made.weight.copy_(tensor(part.name, 0).T)
        made.bias.copy_(tensor(part.name, 1))
        return [_named(made, part.name)] + [nn.ReLU()] * (part.activation == "relu")

    def batch_norm(part, channels, flat):
        kind = nn.BatchNorm1d if flat else nn.BatchNorm2d
        made = kind(channels, eps=1e-3, momentum=0.01)
        targets = (made.weight, made.bias, made.running_mean, made.running_var)
        for i, target in enumerate(targets):
            target.copy_(tensor(part.name, i))
        return [_named(made, part.name)]

    def chain(parts, channels):
        modules, flat = [], False
        for part in parts:
            if part.kind == "convolution":
                modules += convolution(part, channels)
                channels = part.units
            elif part.kind == "batch_norm":
                modules += batch_norm(part, channels, flat)
            elif part.kind == "dense":
                modules += dense(part, values[f"{part.name}/0"].shape[0])
                channels, flat = part.units, True
            elif part.kind == "residual":
                inner, after = chain(part.inner, channels)
                shortcut = chain(part.shortcut, channels)[0] if part.shortcut else nn.Identity()
                modules.append(Residual(inner, shortcut))
                channels = after
            elif part.kind == "dropout":
                modules += [nn.Dropout(part.rate)] * dropout
            else:
                plain = {
                    "relu": nn.ReLU,
                    "max_pool": lambda: nn.MaxPool2d(2, ceil_mode=True),
                    "flatten": Flatten,
                    "global_average": GlobalAverage,
                }
                modules.append(plain[part.kind]())
        return nn.Sequential(*modules), channels

    with torch.no_grad():
        model, _ = chain(network.parts, network.input_shape[-1])
    return nn.Sequential(Rescale(), *model)


def _named(module, name):
    module.layer_name = name
    return module


def torch_gradients(model):
    """{"layer/number": gradient} in Keras's layout."""
    found = {}
    for module in model.modules():
        name = getattr(module, "layer_name", None)
        if name is None:
            continue
        gradient = module.weight.grad.numpy()
        if gradient.ndim == 4:
            gradient = gradient.transpose(2, 3, 1, 0)
        elif gradient.ndim == 2:
            gradient = gradient.T
        found[f"{name}/0"] = np.ascontiguousarray(gradient)
        if module.bias is not None:
            found[f"{name}/1"] = module.bias.grad.numpy()
    return found


def torch_loss(network):
    """The loss on logits."""
    from torch import nn

    return nn.BCEWithLogitsLoss() if network.classes == 1 else nn.CrossEntropyLoss()


def torch_outputs(network, y):
    """Probabilities of logits; what comes out of a network without a head stays as it is."""
    if not network.optimizer:
        return y
    return y.sigmoid() if network.classes == 1 else y.softmax(1)


def torch_optimizer(network, parameters):
    """The optimiser in its fused form where PyTorch has one for CPUs."""
    from torch import optim

    if network.optimizer == "sgd":
        return optim.SGD(parameters, 0.01, momentum=0.9, fused=True)
    if network.optimizer == "adam":
        return optim.Adam(parameters, 1e-3, eps=1e-7, fused=True)
    return optim.RMSprop(parameters, 1e-3, alpha=0.9, eps=1e-7)
