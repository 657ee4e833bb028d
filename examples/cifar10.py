"""The classic CIFAR-10 network: train it, look at it, save it, load it again.

[Conv 3x3, ReLU, BatchNormalization] twice, MaxPooling, Dropout, at 32, 64 and 128 filters; then
one Dense softmax. Pixels are scaled inside the model, so the saved file takes raw 0..255 images.
RMSprop's learning rate falls from 0.001 to a last epoch of 0.001 / epochs.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from minicnn import Input, Sequential, load_model, set_random_seed
from minicnn.callbacks import LearningRateScheduler
from minicnn.datasets import cifar10
from minicnn.errors import DownloadError
from minicnn.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    MaxPooling2D,
    Rescaling,
)
from minicnn.utils import to_categorical


def build_model(momentum=0.99):
    """Three blocks of two convolutions each; 309,290 weights.

    momentum: of the moving statistics that BatchNormalization uses outside training.
    """
    model = Sequential([Input((32, 32, 3)), Rescaling(1 / 255)])
    for filters, rate in ((32, 0.2), (64, 0.3), (128, 0.4)):
        for _ in range(2):
            model.add(Conv2D(filters, (3, 3), padding="same", activation="relu"))
            model.add(BatchNormalization(momentum=momentum))
        model.add(MaxPooling2D((2, 2)))
        model.add(Dropout(rate))
    model.add(Flatten())
    model.add(Dense(10, activation="softmax"))
    return model


def load_pictures(arguments):
    """The full data set if it is here or can be downloaded, else the sample, with a notice."""
    if arguments.sample:
        return cifar10.load_sample()
    try:
        return cifar10.load_data(path=arguments.data)
    except DownloadError as error:
        print(f"\n*** CIFAR-10 is not here and cannot be downloaded: {error}", file=sys.stderr)
        print(
            "*** Using the embedded sample of 5,000 pictures instead: expect a much lower\n"
            "*** accuracy than on the full 60,000.\n",
            file=sys.stderr,
            flush=True,
        )
        return cifar10.load_sample()


def plot_curves(history, path):
    """Accuracy and loss per epoch, training against test pictures."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, name in zip(axes, ("accuracy", "loss"), strict=True):
        epochs = range(1, len(history[name]) + 1)
        axis.plot(epochs, history[name], "o-", label="training (with dropout)")
        axis.plot(epochs, history[f"val_{name}"], "o-", label="test")
        axis.set(title=name, xlabel="epoch", xticks=list(epochs))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N pictures")
    parser.add_argument(
        "--data", metavar="PATH", help="folder that holds CIFAR-10 (binary version)"
    )
    parser.add_argument("--sample", action="store_true", help="use the embedded sample")
    parser.add_argument("--output", type=Path, default=Path("cifar10-output"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    set_random_seed(arguments.seed)
    (x_train, y_train), (x_test, y_test) = load_pictures(arguments)
    x_train, y_train = x_train[: arguments.limit], y_train[: arguments.limit]
    x_test, y_test = x_test[: arguments.limit], y_test[: arguments.limit]
    print(f"{len(x_train)} training and {len(x_test)} test pictures")

    steps = arguments.epochs * -(-len(x_train) // arguments.batch_size)
    # Moving statistics start at 0 and 1 and forget that after several times 1 / (1 - momentum)
    # steps: Keras's 0.99 is for long trainings, a few hundred steps (the sample) need 0.9.
    model = build_model(momentum=0.99 if steps >= 1000 else 0.9)
    model.summary()
    model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])

    def falling_rate(epoch):
        """From 0.001 in equal steps towards 0: large steps first, fine ones at the end."""
        return 1e-3 * (1 - epoch / arguments.epochs)

    history = model.fit(
        x_train,
        to_categorical(y_train, 10),
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        validation_data=(x_test, to_categorical(y_test, 10)),
        callbacks=[LearningRateScheduler(falling_rate)],
    )
    curves = arguments.output / "curves.png"
    plot_curves(history.history, curves)
    print(f"curves: {curves}")

    loss, accuracy = model.evaluate(x_test, to_categorical(y_test, 10), verbose=0)
    print(f"test loss {loss:.4f}, test accuracy {accuracy:.4f}")
    predicted = model.predict(x_test, verbose=0).argmax(axis=1)
    for number, name in enumerate(cifar10.CLASS_NAMES):
        of_class = y_test[:, 0] == number
        if of_class.any():
            print(f"  {name:<12}{np.mean(predicted[of_class] == number):7.1%}")

    path = arguments.output / "cifar10.keras"
    model.save(path)
    again = load_model(path).predict(x_test[:100], verbose=0)
    same = np.array_equal(again, model.predict(x_test[:100], verbose=0))
    print(f"saved to {path}; the reloaded model predicts the same: {same}")
    if not same:
        sys.exit("the reloaded model predicts something else: this is a bug")


if __name__ == "__main__":
    main()
