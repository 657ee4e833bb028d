"""Memory that is lent and comes back."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from minicnn.ops import arena


@pytest.fixture(autouse=True)
def _no_buffers():
    arena.trim()
    yield
    arena.trim()


def test_a_buffer_comes_back_when_its_last_view_dies():
    first = arena.empty((64, 64))
    address, view = first.ctypes.data, first[3:].reshape(-1)
    del first
    assert arena.empty((64, 64)).ctypes.data != address  # `view` still looks at it
    del view
    assert arena.empty((64, 64)).ctypes.data == address


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_arrays_are_aligned_and_writable(dtype):
    array = arena.empty((3, 5, 1001), dtype)
    assert array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable
    assert array.ctypes.data % arena.ALIGNMENT == 0
    assert not arena.zeros((3, 5, 1001), dtype).any()


@pytest.mark.parametrize(("rows", "serves"), [(64, True), (40, True), (32, True), (31, False)])
def test_a_smaller_request_takes_a_buffer_of_at_most_twice_its_size(rows, serves):
    address = arena.empty((64, 1024)).ctypes.data
    assert (arena.empty((rows, 1024)).ctypes.data == address) == serves


@pytest.fixture
def _threads_change_often():
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("_threads_change_often")
def test_no_buffer_has_two_holders_in_different_threads():
    wrong = []

    def work(number):
        for _ in range(2000):
            array = arena.empty((1024 + number % 2,))
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_buffer_that_was_found_free_is_no_longer():
    """Between finding a buffer and making its array another thread may look for one."""
    new = arena._pool.take(8192)
    assert arena._pool.take(8192)[0] is not new[0]
    address = new[0].ctypes.data
    del new
    found = arena._pool.take(8192)
    assert found[0].ctypes.data == address
    assert arena._pool.take(8192)[0] is not found[0]


def test_an_array_that_outlives_this_module_says_nothing():
    """When the interpreter ends, what numpy holds dies after the globals of the arena."""
    script = "import numpy; from minicnn.ops import arena; numpy.kept = arena.empty((10_000,))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_scratch_is_one_memory_for_all_launches_of_a_thread():
    wanted = ((3, 1001), np.float32), arena.rows(2, 1001, np.float64), ((5,), np.uint8)
    first, second, third = arrays = arena.scratch(*wanted)
    assert [array.shape for array in arrays] == [(3, 1001), (2, 1008), (5,)]
    assert [array.dtype for array in arrays] == [np.float32, np.float64, np.uint8]
    for number, array in enumerate(arrays):
        assert array.ctypes.data % arena.ALIGNMENT == 0 and array.flags.c_contiguous
        array[:] = number
    assert (first == 0).all() and (second == 1).all() and (third == 2).all()  # none overlap

    (other,) = arena.scratch(((7,), np.int64))
    assert other.ctypes.data == first.ctypes.data
    again, *_ = arena.scratch(*wanted)
    assert again.ctypes.data == first.ctypes.data


def test_scratch_that_grows_leaves_what_was_handed_out_alone():
    (small,) = arena.scratch(((10,), np.float32))
    small[:] = 1
    (large,) = arena.scratch(((100_000,), np.float32))
    large[:] = 2
    assert (small == 1).all() and not np.shares_memory(small, large)


def test_scratch_of_two_threads_is_not_shared():
    (own,), theirs = arena.scratch(((1000,), np.float32)), []
    thread = threading.Thread(target=lambda: theirs.extend(arena.scratch(((1000,), np.float32))))
    thread.start()
    thread.join()
    assert not np.shares_memory(own, theirs[0])


def test_cuts_of_scratch_are_forgotten_when_there_are_many():
    for length in range(1, arena.MOST_CUTS + 10):
        (array,) = arena.scratch(((length,), np.uint8))
        assert array.shape == (length,)
    assert len(arena._scratch.arrays) <= arena.MOST_CUTS
