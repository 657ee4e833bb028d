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


def test_scratch_of_nearly_one_length_is_one_buffer():
    first = arena.scratch(2, 100_000, np.float32)
    assert first.shape[0] == 2 and first.shape[1] >= 100_000 and first.flags.c_contiguous
    address = first.ctypes.data
    del first
    assert arena.scratch(2, 190_000, np.float32).ctypes.data == address
