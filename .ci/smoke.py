"""The installed package, away from the checkout: train a little, save, load, predict the same."""

import importlib.metadata
import sys
from pathlib import Path

import numpy as np

import minicnn
from minicnn import BatchNormalization, Conv2D, Dense, Flatten, Input, MaxPooling2D, Rescaling
from minicnn.datasets import cifar10

checkout = Path(sys.argv[1]).resolve()
location = Path(minicnn.__file__).resolve()
if "site-packages" not in location.parts or location.is_relative_to(checkout):
    sys.exit(f"minicnn comes from {location}, not from the wheel")
version = importlib.metadata.version("minicnn-numba")
if version != minicnn.__version__:
    sys.exit(f"the distribution is {version}, the package says {minicnn.__version__}")

(x, y), (x_test, y_test) = cifar10.load_sample()
minicnn.set_random_seed(1)
model = minicnn.Sequential(
    [
        Input((32, 32, 3)),
        Rescaling(1 / 255),
        Conv2D(16, 3, padding="same", activation="relu"),
        BatchNormalization(),
        MaxPooling2D(),
        Conv2D(32, 3, activation="relu"),
        MaxPooling2D(),
        Flatten(),
        Dense(10, activation="softmax"),
    ]
)
model.summary()
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
before = model.evaluate(x[:512], y[:512], verbose=0)[0]
history = model.fit(x[:512], y[:512], validation_data=(x_test[:256], y_test[:256]), epochs=2)
if not history.history["loss"][-1] < before:
    sys.exit(f"training did not reduce the loss: {before} -> {history.history['loss']}")

predicted = model.predict(x_test[:256], verbose=0)
model.save("smoke.keras")
again = minicnn.load_model("smoke.keras").predict(x_test[:256], verbose=0)
if not np.array_equal(predicted, again):
    sys.exit("the loaded model predicts something else")
with minicnn.config.using(ops="reference"):
    by_numpy = model.predict(x_test[:256], verbose=0)
if not np.allclose(predicted, by_numpy, atol=1e-4):
    sys.exit("the compiled operations and the readable ones disagree")

from minicnn.ops.fast import threads  # noqa: E402  after the launches: says what they ran on

layer = threads.numba.threading_layer()
print(f"minicnn {version}, Python {sys.version.split()[0]}: passed ({layer} threads)")
