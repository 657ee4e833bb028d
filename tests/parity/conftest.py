"""Parity with real Keras 3. It is imported here: where it is missing all fails, nothing skips."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import pytest

import minicnn

if keras.backend.backend() != "jax":
    raise RuntimeError(f"KERAS_BACKEND must be jax for these tests, not {keras.backend.backend()}")
# Compiling is most of the time here; without XLA's optimisations it takes half of it.
jax.config.update("jax_disable_most_optimizations", True)


def pytest_configure(config):
    # Keras's variables do not take NumPy's `copy` yet; all other warnings are errors.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def same_names():
    """Both libraries count layer names from the start."""
    keras.backend.clear_session()
    minicnn.backend.clear_session()
