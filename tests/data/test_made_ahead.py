"""Batches that worker threads make before their turn."""

import threading

import numpy as np
import pytest

import minicnn
from minicnn import layers
from minicnn.data.batches import Epochs, make_batches
from minicnn.utils import PyDataset


class Counted(PyDataset):
    """Batch i is [[100 * epoch + i]]; knows who asked for what."""

    def __init__(self, length=7, bad=None, **arguments):
        super().__init__(**arguments)
        self.length, self.bad = length, bad
        self.epoch, self.threads, self.asked = 0, set(), []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.threads.add(threading.current_thread().name)
        self.asked.append(index)
        if index == self.bad:
            raise OSError(f"batch {index} cannot be read")
        return np.array([[100.0 * self.epoch + index]])

    def on_epoch_end(self):
        self.epoch += 1


def numbers(batches):
    return [float(x[0, 0]) for x, _, _ in batches]


@pytest.mark.parametrize("workers, queue", [(1, 10), (2, 1), (3, 2), (4, 50)])
@pytest.mark.parametrize("steps", [None, 3, 7, 10])
def test_what_is_made_does_not_depend_on_threads(workers, queue, steps):
    data = Counted(workers=workers, max_queue_size=queue)
    epochs = Epochs(make_batches(data), steps)
    seen = [numbers(epochs.epoch()) for _ in range(4)]
    plain = Epochs(make_batches(Counted()), steps)
    assert seen == [numbers(plain.epoch()) for _ in range(4)]
    main = threading.current_thread().name
    assert data.threads == {main} if workers == 1 else main not in data.threads


def test_every_pass_over_the_data_ends_with_on_epoch_end():
    epochs = Epochs(make_batches(Counted(3, workers=2)), 7)
    assert numbers(epochs.epoch()) == [0, 1, 2, 100, 101, 102, 200]
    assert numbers(epochs.epoch()) == [301, 302, 400, 401, 402, 500, 501]
    epochs = Epochs(make_batches(Counted(3)), 3)
    assert [numbers(epochs.epoch())[0] for _ in range(3)] == [0, 100, 200]


def test_no_more_batches_are_made_than_the_queue_takes():
    data = Counted(workers=2, max_queue_size=3)
    batches = iter(make_batches(data))
    next(batches)
    batches.pause()
    assert set(data.asked) <= {0, 1, 2, 3}
    assert numbers(batches) == [1, 2, 3, 4, 5, 6]


def test_threads_end_with_the_epoch():
    before = threading.active_count()
    epochs = Epochs(make_batches(Counted(workers=3)), None)
    numbers(epochs.epoch())
    assert threading.active_count() == before


def test_an_error_comes_in_its_turn_and_ends_the_threads():
    before = threading.active_count()
    batches = iter(make_batches(Counted(bad=4, workers=3)))
    assert [float(next(batches)[0][0, 0]) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="batch 4 cannot be read"):
        next(batches)
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["workers", "max_queue_size"])
def test_arguments_are_checked(name):
    with pytest.raises(ValueError, match=name):
        PyDataset(**{name: 1.5})


def test_training_with_workers():
    weights = []
    for workers in (1, 3):
        minicnn.set_random_seed(0)
        model = minicnn.Sequential([layers.Input((1,)), layers.Dense(1)])
        model.compile("sgd", "mse")

        class Lines(Counted):
            def __getitem__(self, index):
                x = super().__getitem__(index) / 1000
                return x, 2 * x

        model.fit(Lines(workers=workers), epochs=3, verbose=0)
        model.evaluate(Lines(workers=workers), verbose=0)
        weights.append(model.predict(Lines(workers=workers), verbose=0))
    np.testing.assert_array_equal(*weights)
