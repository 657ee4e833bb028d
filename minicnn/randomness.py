"""Where seeds come from: one stream for everything that was given no seed, and keys for kernels."""

import contextlib
import random
import threading

import numpy as np

from minicnn import config

_MASK = (1 << 64) - 1
_lock = threading.Lock()
_stream = None


def set_random_seed(seed):
    """Make what follows repeatable: weights, shuffling, dropout; also `random` and `np.random`."""
    global _stream
    config.seed = seed
    random.seed(seed)
    np.random.seed(seed % 2**32)
    with _lock:
        _stream = np.random.Generator(np.random.PCG64(seed))


def next_seed():
    """A fresh 63-bit seed from the stream that `set_random_seed` restarts."""
    global _stream
    with _lock:
        if _stream is None:
            _stream = np.random.Generator(np.random.PCG64(config.seed))
        return int(_stream.integers(0, 2**63))


@contextlib.contextmanager
def untouched(seed):
    """All streams start anew at `seed` within the block, and are afterwards where they were."""
    global _stream
    before = random.getstate(), np.random.get_state(), config.seed
    with _lock:
        stream = _stream
    try:
        set_random_seed(seed)
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        config.seed = before[2]
        with _lock:
            _stream = stream


def generator(seed=None):
    """A numpy Generator from a seed, or from the stream when seed is None."""
    return np.random.Generator(np.random.PCG64(next_seed() if seed is None else seed))


def mix(*words):
    """A 64-bit key from integers: SplitMix64's finaliser (Steele, Lea, Flood 2014) per word."""
    key = 0x9E3779B97F4A7C15
    for word in words:
        key = (key ^ (word & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        key = (key ^ key >> 27) * 0x94D049BB133111EB & _MASK
        key ^= key >> 31
    return key


def uniforms(key, first_sample, n, count):
    """(n, count) numbers in [0, 1): row i is a function of key and first_sample + i alone."""
    words = np.arange(first_sample * count, (first_sample + n) * count, dtype=np.uint64)
    words = words * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)  # SplitMix64; uint64 wraps
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return ((words >> np.uint64(11)) * 2.0**-53).reshape(n, count)
