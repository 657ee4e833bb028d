"""The same network twice: in minicnn and in PyTorch, from one set of weights."""

import numpy as np

# The network of examples/cifar10.py: filters of each block of two convolutions, dropout after it.
CIFAR10_BLOCKS = ((32, 0.2), (64, 0.3), (128, 0.4))


def pictures(batch_size, seed=0):
    """Random pixels and labels: speed does not depend on what is in the picture."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 256, (batch_size, 32, 32, 3), dtype=np.uint8)
    return x, generator.integers(0, 10, batch_size)


def minicnn_cifar10(dropout=True):
    """A compiled minicnn model."""
    from minicnn import Input, Sequential, layers

    model = Sequential([Input((32, 32, 3)), layers.Rescaling(1 / 255)])
    for filters, rate in CIFAR10_BLOCKS:
        for _ in range(2):
            model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
            model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D(2))
        model.add(layers.Dropout(rate if dropout else 0.0))
    model.add(layers.Flatten())
    model.add(layers.Dense(10, activation="softmax"))
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def torch_cifar10(weights, dropout=True):
    """The same in PyTorch, with the weights of a minicnn model in their order."""
    import torch
    from torch import nn

    class Flatten(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    class Rescale(nn.Module):
        def forward(self, x):
            return x.float() / 255

    rest = [torch.tensor(w) for w in weights]
    channels, parts = 3, [Rescale()]
    with torch.no_grad():
        for filters, rate in CIFAR10_BLOCKS:
            for _ in range(2):
                convolution = nn.Conv2d(channels, filters, 3, padding="same")
                kernel, bias, gamma, beta, mean, variance = rest[:6]
                rest = rest[6:]
                convolution.weight.copy_(kernel.permute(3, 2, 0, 1))
                convolution.bias.copy_(bias)
                normalization = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
                normalization.weight.copy_(gamma)
                normalization.bias.copy_(beta)
                normalization.running_mean.copy_(mean)
                normalization.running_var.copy_(variance)
                parts += [convolution, nn.ReLU(), normalization]
                channels = filters
            parts += [nn.MaxPool2d(2), nn.Dropout(rate if dropout else 0.0)]
        dense = nn.Linear(128 * 4 * 4, 10)
        dense.weight.copy_(rest[0].T)
        dense.bias.copy_(rest[1])
    return nn.Sequential(*parts, Flatten(), dense)


def torch_gradients(model):
    """Gradients of a PyTorch model in the order and layout of minicnn's trainable weights."""
    found = []
    for part in model:
        if hasattr(part, "weight") and part.weight.grad is not None:
            gradient = part.weight.grad.numpy()
            if gradient.ndim == 4:
                gradient = gradient.transpose(2, 3, 1, 0)
            elif gradient.ndim == 2:
                gradient = gradient.T
            found += [np.ascontiguousarray(gradient), part.bias.grad.numpy()]
    return found
