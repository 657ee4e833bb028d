"""Real Keras opens what the command line writes: a network with augmentation, and notes."""

import keras
import numpy as np
import pytest

from minicnn.cli import networks

pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]


def test_keras_opens_a_model_with_notes(tmp_path):
    model = networks.default_network((24, 16), 3, 4, 1000, augment=True, flip=True)
    model.notes = {"pictures": {"class_names": ["a", "b", "c", "d"]}}
    path = tmp_path / "model.keras"
    model.save(path)
    theirs = keras.saving.load_model(path)
    x = np.random.default_rng(0).integers(0, 256, (3, 24, 16, 3)).astype(np.float32)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(np.asarray(theirs(x, training=False)), expected, atol=2e-6)
