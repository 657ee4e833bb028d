"""Predictions averaged over views."""

import numpy as np
import pytest

from minicnn import Input, Sequential
from minicnn.layers import Flatten
from minicnn.models import predict_views


@pytest.fixture
def same():
    """A model whose output is its input's pixels."""
    return Sequential([Input((4, 5, 1)), Flatten()])


def test_six_views(same):
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 1)).astype(np.float32)
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")

    def both(pictures):
        return (pictures + pictures[:, :, ::-1]).reshape(3, -1) / 2

    expected = both(x) / 2 + both(wide[:, :4, :5]) / 4 + both(wide[:, 2:, 2:]) / 4
    np.testing.assert_allclose(predict_views(same, x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predict_views(same, x, shift=0), both(x), rtol=1e-5, atol=1e-6)
    plain = predict_views(same, x, mirror=False, shift=0)
    np.testing.assert_array_equal(plain, x.reshape(3, -1))


def test_bad_arguments(same):
    with pytest.raises(ValueError, match="pictures"):
        predict_views(same, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="shift"):
        predict_views(same, np.zeros((3, 4, 5, 1)), shift=4)
