"""The real pictures inside the package: what they are, and that they have not changed."""

import hashlib
import importlib.util
import itertools
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from minicnn.datasets import cifar10
from minicnn.errors import IntegrityError

SAMPLE = files("minicnn.datasets") / "sample"


def load_make_sample():
    path = Path(__file__).with_name("make_sample.py")
    spec = importlib.util.spec_from_file_location("make_sample", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_sample = load_make_sample()


@pytest.fixture(scope="module")
def sample():
    return cifar10.load_sample()


def test_shapes_and_types(sample):
    (x_train, y_train), (x_test, y_test) = sample
    assert x_train.shape == (4000, 32, 32, 3) and y_train.shape == (4000, 1)
    assert x_test.shape == (1000, 32, 32, 3) and y_test.shape == (1000, 1)
    for array in (x_train, y_train, x_test, y_test):
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous and array.flags.writeable and array.base is None


def test_classes_are_balanced_and_mixed(sample):
    for (_, y), count in zip(sample, (400, 100), strict=True):
        assert np.bincount(y[:, 0]).tolist() == [count] * 10
        # Mixed: no run of one class is longer than chance makes it.
        assert max(len(list(run)) for _, run in itertools.groupby(y[:, 0])) <= 8
    assert len(cifar10.CLASS_NAMES) == 10


def test_pictures_are_distinct_and_the_pixels_are_these(sample):
    (x_train, y_train), (x_test, y_test) = sample
    assert len({picture.tobytes() for x in (x_train, x_test) for picture in x}) == 5000
    digest = hashlib.sha256()
    for array in (x_train, x_test, y_train, y_test):
        digest.update(array.tobytes())
    assert digest.hexdigest() == "1bdd874bbe3f54fa1146c9a3bda67e295a317a4d7af9111efe472db14580dbc5"


def test_statistics_are_those_of_the_data_set(sample):
    """Channel means and deviations of all 50,000: 125.3 123.0 113.9 and 63.0 62.1 66.7."""
    (x_train, _), _ = sample
    np.testing.assert_allclose(x_train.mean((0, 1, 2)), [125.3, 123.0, 113.9], atol=2)
    np.testing.assert_allclose(x_train.std((0, 1, 2)), [63.0, 62.1, 66.7], atol=1)


def test_choice_follows_its_rule(sample):
    """The smallest SHA-256: 400 of 5,000 lie in the lowest 8 % or so, 100 of 1,000 in 10 %."""
    for (x, y), share in zip(sample, (0.08, 0.1), strict=True):
        hashes = make_sample.record_hashes(x, y)
        assert 0.9 * share < int.from_bytes(max(hashes)[:4], "big") / 2**32 < 1.4 * share
        assert make_sample.choose(x, y, len(x)) == list(range(len(x)))


def test_rule_does_not_depend_on_the_order(sample):
    (x, y), _ = sample
    order = np.random.default_rng(0).permutation(600)
    chosen = order[make_sample.choose(x[order], y[order], 100)]
    np.testing.assert_array_equal(chosen, make_sample.choose(x[:600], y[:600], 100))


def test_coding_loses_nothing():
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (7, 32, 32, 3), np.uint8)
    y = random.integers(0, 10, (7, 1), np.uint8)
    found_x, found_y = cifar10.decode_sample(make_sample.encode(x, y))
    np.testing.assert_array_equal(found_x, x)
    np.testing.assert_array_equal(found_y, y)


def test_every_call_gives_new_arrays():
    (first, _), _ = cifar10.load_sample()
    first[:] = 0
    (second, _), _ = cifar10.load_sample()
    assert second.any()


def test_damage_is_an_error(monkeypatch):
    monkeypatch.setattr(cifar10, "SAMPLE_SHA256", "0" * 64)
    with pytest.raises(IntegrityError, match="damaged"):
        cifar10.load_sample()


def test_size_and_notice():
    assert len((SAMPLE / "cifar10.xz").read_bytes()) < 10e6
    notice = " ".join((SAMPLE / "NOTICE").read_text().split())
    for text in (
        "CIFAR-10 states no licence",
        "Learning Multiple Layers of Features from Tiny Images",
        "4,000 from its training split",
        "1,000 from its test split",
    ):
        assert text in notice
