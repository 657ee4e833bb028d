"""Batches of shuffled, shifted pictures that are mirrored in every other epoch."""

import numpy as np
import pytest

from minicnn.data import AlternatingFlips


def pictures(n=10, size=8):
    """Pictures whose pixels tell their number, row and column."""
    x = np.zeros((n, size, size, 3), np.uint8)
    x[..., 0] = np.arange(n)[:, None, None]
    x[..., 1], x[..., 2] = np.arange(size)[None, :, None], np.arange(size)[None, None]
    return x, np.arange(n)


def epoch(data):
    batches = [data[i] for i in range(len(data))]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def test_every_picture_comes_once_and_alternately_mirrored():
    x, y = pictures()
    data = AlternatingFlips(x, y, batch_size=5, shift=0, seed=1)
    seen = []
    for _ in range(4):
        shown, labels = epoch(data)
        assert sorted(labels) == list(range(10)) and shown.dtype == np.float32
        mirrored = np.empty(10, bool)
        for picture, label in zip(shown, labels, strict=True):
            flips = [np.array_equal(picture, one) for one in (x[label], x[label, :, ::-1])]
            assert sum(flips) == 1
            mirrored[label] = flips[1]
        seen.append(mirrored)
        data.on_epoch_end()
    assert 0 < seen[0].sum() < 10
    assert (seen[1] == ~seen[0]).all() and (seen[2] == seen[0]).all()


def test_shifts_reflect_the_border():
    x, y = pictures(400)
    shown, labels = epoch(AlternatingFlips(x, y, batch_size=100, shift=2, flip=False, seed=1))
    wide = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    moves = set()
    for picture, label in zip(shown, labels, strict=True):
        places = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.array_equal(picture, wide[label, i : i + 8, j : j + 8])
        ]
        assert len(places) == 1
        moves.update(places)
    assert len(moves) == 25


def test_what_fills_no_batch_is_left_out_and_the_seed_repeats():
    x, y = pictures(11)
    first, again = (AlternatingFlips(x, y, batch_size=4, seed=3) for _ in range(2))
    assert len(first) == 2
    for a, b in zip(epoch(first), epoch(again), strict=True):
        np.testing.assert_array_equal(a, b)
    other, _ = epoch(AlternatingFlips(x, y, batch_size=4, seed=4))
    assert not np.array_equal(epoch(first)[0], other)
    with pytest.raises(IndexError, match="2 batches"):
        first[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=np.zeros((4, 3))), "pictures"),
        (dict(batch_size=50), "no whole batch"),
        (dict(shift=-1), "shift"),
        (dict(shift=8), "shift"),
        (dict(y=np.zeros(3)), "samples"),
    ],
)
def test_bad_arguments(change, message):
    x, y = pictures()
    with pytest.raises(ValueError, match=message):
        AlternatingFlips(**{"x": x, "y": y, "batch_size": 2, **change})
