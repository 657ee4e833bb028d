"""The files of small_files.py as fixtures."""

import pytest
from small_files import Parts, tiny_model

from minicnn import config


@pytest.fixture(autouse=True)
def without_compiling():
    """Files are the same for both sets of operations; the readable one needs no compiler."""
    with config.using(ops="reference"):
        yield


@pytest.fixture
def tiny():
    return tiny_model()


@pytest.fixture(scope="session")
def tiny_bytes(tmp_path_factory):
    """The bytes of the tiny model's .keras file."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.keras"
    tiny_model().save(path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """The bytes of the tiny model's .weights.h5 file."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.weights.h5"
    tiny_model().save_weights(path)
    return path.read_bytes()


@pytest.fixture
def parts(tiny_bytes, tmp_path):
    path = tmp_path / "parts.keras"
    path.write_bytes(tiny_bytes)
    return Parts(path)
