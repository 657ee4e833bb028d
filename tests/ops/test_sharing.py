"""Tasks of a launch: every one is done once, and first those of a worker's own share."""

import numpy as np
import pytest
from numba import prange

from minicnn import config
from minicnn.ops.fast import sharing
from minicnn.ops.fast.jit import kernel, parallel_kernel


@kernel
def _turns(worker, workers, taken, tasks):
    for turn in range(taken.size):
        tasks[turn] = sharing.task_of(turn, worker, workers, taken)


@parallel_kernel
def _all_workers(workers, taken, doers, counts):
    sharing.open_tasks(taken)
    for number in prange(workers):
        worker = np.int64(number)
        for turn in range(taken.size):
            task = sharing.task_of(turn, worker, workers, taken)
            if task >= 0:
                doers[task] = worker
                counts[worker, task] += 1


@pytest.mark.parametrize(
    "worker, workers, wanted",
    [
        (0, 1, [0, 1, 2, 3, 4, 5, 6]),
        (0, 2, [0, 1, 2, 6, 5, 4, 3]),
        (1, 2, [3, 4, 5, 6, 2, 1, 0]),
        (0, 3, [0, 1, 3, 2, 6, 5, 4]),  # shares 0..1, 2..3, 4..6
        (1, 3, [2, 3, 6, 5, 4, 1, 0]),
        (2, 3, [4, 5, 6, 1, 0, 3, 2]),
    ],
)
def test_own_tasks_come_first_then_those_of_others_from_their_ends(worker, workers, wanted):
    taken, tasks = np.zeros(7, np.int64), np.empty(7, np.int64)
    _turns(worker, workers, taken, tasks)
    assert tasks.tolist() == wanted
    assert (taken == 1).all()
    _turns((worker + 1) % workers, workers, taken, tasks)
    assert (tasks == -1).all()  # nothing is left


def test_what_somebody_has_is_left_out():
    taken, tasks = np.array([0, 1, 0, 1], np.int64), np.empty(4, np.int64)
    _turns(0, 2, taken, tasks)
    assert tasks.tolist() == [0, -1, -1, 2]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tasks", [1, 2, 3, 64, 1000])
def test_every_task_is_done_once(threads, tasks):
    for _ in range(50):
        taken = np.full(tasks, 5, np.int64)  # what the launch before left
        doers, counts = np.full(tasks, -1), np.zeros((2, tasks), np.int64)
        with config.using(threads=threads):
            _all_workers(2, taken, doers, counts)
        assert (counts.sum(axis=0) == 1).all() and (doers >= 0).all()
