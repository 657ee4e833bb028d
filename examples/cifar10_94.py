"""CIFAR-10 to 94 % test accuracy in minutes on two CPU cores.

The recipe of airbench94 (Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024,
arXiv:2404.00498), made of ordinary parts of this library: a whitening first layer that is not
trained, identity (dirac) kernels, GELU, label smoothing, alternating flips, Nesterov momentum on a
triangular schedule with fast biases, Lookahead, and predictions averaged over six views.
--target 90 is a narrower network and a shorter training.
"""

import argparse
import time

import numpy as np

from minicnn import Input, Sequential, set_random_seed
from minicnn.callbacks import LambdaCallback, Lookahead
from minicnn.data import AlternatingFlips
from minicnn.datasets import cifar10
from minicnn.initializers import Dirac, VarianceScaling, whitening_kernel
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    MaxPooling2D,
    Normalization,
    Rescaling,
)
from minicnn.losses import CategoricalCrossentropy
from minicnn.models import predict_views
from minicnn.optimizers import SGD
from minicnn.optimizers.schedules import PiecewiseLinear
from minicnn.utils import to_categorical

# Mean and standard deviation of the training pictures' red, green and blue, of 255.
MEAN, DEVIATION = np.array([125.31, 122.95, 113.87]), np.array([62.99, 62.09, 66.70])

TARGETS = {94: {"widths": (64, 256, 256), "epochs": 10}, 90: {"widths": (32, 64, 128), "epochs": 8}}
BATCH = 1024
# Of mean losses; momentum 0.85 makes a step's whole effect 1 / 0.15 times the rate's.
RATE, MOMENTUM, DECAY, BIAS_RATE = 1.5, 0.85, 0.00133 / 0.15, 64
WHITENING_EPOCHS = 3  # after them the first layer's bias stays, too


def build_model(widths, pictures):
    """Whitening, three groups of two convolutions, one dense layer; logits."""
    model = Sequential([Input((32, 32, 3)), Normalization(mean=MEAN, variance=DEVIATION**2)])
    whitening = Conv2D(24, 2, activation="gelu", name="whitening")
    model.add(whitening)
    for width in widths:
        for pool in (True, False):
            model.add(Conv2D(width, 3, padding="same", use_bias=False, kernel_initializer=Dirac()))
            if pool:
                model.add(MaxPooling2D(2))
            model.add(BatchNormalization(momentum=0.6, epsilon=1e-12, scale=False))
            model.add(Activation("gelu"))
    model.add(MaxPooling2D(3))
    model.add(Flatten())
    uniform = VarianceScaling(1 / 3, "fan_in", "uniform")  # +-1 / sqrt(fan_in)
    model.add(Dense(10, use_bias=False, kernel_initializer=uniform))
    model.add(Rescaling(1 / 9))
    scaled = (pictures - MEAN) / DEVIATION
    whitening.kernel.assign(whitening_kernel(scaled.astype(np.float32)))
    whitening.kernel.trainable = False
    return model


def triangle(steps):
    """Learning rate: up during the first 23 % of the steps, then down to 7 %."""
    return PiecewiseLinear([0, 0.23 * steps, steps], [0.2 * RATE, RATE, 0.07 * RATE])


def train(x_train, y_train, widths, epochs, callbacks=()):
    """The trained model."""
    model = build_model(widths, x_train[:5000])
    data = AlternatingFlips(x_train, to_categorical(y_train, 10), min(BATCH, len(x_train)), shift=2)
    optimizer = SGD(triangle(epochs * len(data)), MOMENTUM, nesterov=True, weight_decay=DECAY)
    optimizer.scale_learning_rate(BIAS_RATE, var_names=["beta"])
    model.compile(
        optimizer,
        CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
        metrics=["accuracy"],
    )
    whitening = model.get_layer("whitening")

    def freeze(epoch, logs):
        if epoch == WHITENING_EPOCHS:
            whitening.trainable = False

    callbacks = [Lookahead(every=5), LambdaCallback(on_epoch_begin=freeze), *callbacks]
    model.fit(data, epochs=epochs, callbacks=callbacks, verbose=2)
    return model


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=int, choices=sorted(TARGETS), default=94)
    parser.add_argument("--epochs", type=int, help="default: as the target needs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", metavar="PATH", help="folder that holds CIFAR-10")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N pictures")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    set_random_seed(arguments.seed)
    (x_train, y_train), (x_test, y_test) = cifar10.load_data(path=arguments.data)
    x_train, y_train = x_train[: arguments.limit], y_train[: arguments.limit]
    settings = TARGETS[arguments.target]
    epochs = arguments.epochs or settings["epochs"]
    start = time.perf_counter()
    model = train(x_train, y_train, settings["widths"], epochs)
    trained = time.perf_counter()
    logits = predict_views(model, x_test, batch_size=500)
    accuracy = np.mean(logits.argmax(axis=1) == y_test[:, 0])
    plain = np.mean(model.predict(x_test, batch_size=500, verbose=0).argmax(axis=1) == y_test[:, 0])
    print(
        f"seed {arguments.seed}, {epochs} epochs: test accuracy {accuracy:.4f} "
        f"(one view {plain:.4f}), training {trained - start:.0f} s, "
        f"six views of {len(x_test)} pictures {time.perf_counter() - trained:.0f} s"
    )


if __name__ == "__main__":
    main()
