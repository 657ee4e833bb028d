"""Dataset: what tf.data's methods do, made ahead by threads; nothing is left behind."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import minicnn
from minicnn import layers
from minicnn.data import AUTOTUNE, Dataset, ahead, pipeline, split_dataset
from minicnn.data.ahead import MadeAhead

X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.arange(10)


def pairs():
    return Dataset.from_tensor_slices((X, Y))


def numbers(data):
    """First numbers of the elements, batches as lists."""
    found = []
    for element in data:
        while isinstance(element, tuple):
            element = element[-1]
        found.append(np.asarray(element).tolist())
    return found


CHAINS = {
    "plain": (lambda d: d, list(range(10))),
    "batch": (lambda d: d.batch(4), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
    "drop": (lambda d: d.batch(4, drop_remainder=True), [[0, 1, 2, 3], [4, 5, 6, 7]]),
    "unbatch": (lambda d: d.batch(4).unbatch(), list(range(10))),
    "unbatch behind": (lambda d: d.batch(4).map(lambda x, y: (x, y)).unbatch(), list(range(10))),
    "rebatch": (lambda d: d.batch(4).unbatch().batch(5), [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
    "map": (lambda d: d.map(lambda x, y: (x, y * 2)), list(range(0, 20, 2))),
    "map to a list": (lambda d: d.map(lambda x, y: [x, y + 1]), list(range(1, 11))),
    "filter": (lambda d: d.filter(lambda x, y: y % 3 == 0), [0, 3, 6, 9]),
    "take": (lambda d: d.take(3), [0, 1, 2]),
    "take all": (lambda d: d.take(-1).take(100), list(range(10))),
    "skip": (lambda d: d.skip(7), [7, 8, 9]),
    "skip all": (lambda d: d.skip(-1), []),
    "skip more": (lambda d: d.skip(11), []),
    "repeat": (lambda d: d.take(2).repeat(3), [0, 1, 0, 1, 0, 1]),
    "for ever": (lambda d: d.take(2).repeat().take(5), [0, 1, 0, 1, 0]),
    "never": (lambda d: d.repeat(0), []),
    "concatenate": (lambda d: d.take(2).concatenate(d.skip(8)), [0, 1, 8, 9]),
    "enumerate": (lambda d: d.skip(8).enumerate(5).map(lambda i, e: i), [5, 6]),
    "prefetch": (
        lambda d: d.batch(5).prefetch(AUTOTUNE).prefetch(3),
        [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]],
    ),
    "cache": (lambda d: d.batch(5).cache(), [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
    "zip": (lambda d: Dataset.zip(d, Dataset.range(3, 6)), [3, 4, 5]),
    "range": (lambda d: Dataset.range(2, 9, 3), [2, 5, 8]),
    "generator": (lambda d: Dataset.from_generator(lambda: iter([3, 4])), [3, 4]),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("workers", [1, 4])
def test_elements_and_their_number(name, workers, monkeypatch):
    monkeypatch.setattr(pipeline, "WORKERS", workers)
    chain, expected = CHAINS[name]
    data = chain(pairs())
    for _ in range(3):  # again and again
        assert numbers(data) == expected
    if data.cardinality() != -2:
        assert data.cardinality() == len(data) == len(expected)
    else:
        with pytest.raises(TypeError, match="only known after"):
            len(data)


def test_endless_data_has_no_length():
    data = pairs().batch(2).repeat()
    assert data.cardinality() == -1 and data.endless and bool(data)
    with pytest.raises(TypeError, match="for ever"):
        len(data)
    assert "endless" in repr(data)


def test_specification():
    x, y = pairs().batch(4).element_spec
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((None, 2), np.float32, (None,), Y.dtype)
    data = Dataset.from_tensor_slices({"a": X, "b": (Y, Y)})
    assert data.element_spec["a"].shape == (2,)
    batch = next(iter(data.batch(3)))
    assert batch["a"].shape == (3, 2) and batch["b"][1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [1, 3, 10, 50])
@pytest.mark.parametrize("workers", [1, 3])
def test_shuffling(size, workers, monkeypatch):
    monkeypatch.setattr(pipeline, "WORKERS", workers)
    data = pairs().shuffle(size, seed=5)
    first, second = numbers(data), numbers(data)
    assert sorted(first) == sorted(second) == list(range(10))
    assert (first == second) == (size == 1)
    again = pairs().shuffle(size, seed=5)
    assert [numbers(again), numbers(again)] == [first, second]
    assert all(value <= place + size - 1 for place, value in enumerate(first))
    same = pairs().shuffle(size, seed=5, reshuffle_each_iteration=False)
    assert numbers(same) == numbers(same) == first
    # repeat goes through the passes
    assert numbers(pairs().shuffle(size, seed=5).repeat(2)) == first + second


def test_shuffling_follows_the_seed_of_all():
    orders = []
    for _ in range(2):
        minicnn.set_random_seed(3)
        orders.append(numbers(pairs().shuffle(10)))
    assert orders[0] == orders[1] != list(range(10))


def test_skip_of_what_is_shuffled_anew_is_told():
    with pytest.warns(UserWarning, match="no part to hold out"):
        pairs().shuffle(10).batch(2).skip(1)
    pairs().shuffle(10, reshuffle_each_iteration=False).skip(1)
    pairs().shuffle(10).take(1)


def test_cache_keeps_what_was_made():
    made = []

    def count(x, y):
        made.append(int(y))
        return np.full((3, 3), float(y), np.float32), y

    data = pairs().shuffle(10, seed=0).map(count).cache()
    first = numbers(data)
    assert sorted(made) == list(range(10))
    assert numbers(data) == numbers(data) == first and len(made) == 10  # also the order, as tf.data
    shuffled = data.shuffle(10, seed=1)
    assert numbers(shuffled) != numbers(shuffled) and len(made) == 10
    x, _ = next(iter(data))
    x += 100  # nobody else sees it
    assert next(iter(data))[0].max() < 10 and x.dtype == np.float32


def test_cache_stays_within_its_limit():
    made = []

    def picture(y):
        made.append(int(y))
        return np.full((10, 10), y, np.float32)

    data = Dataset.range(10).map(picture).cache(limit=450)  # a byte per number: 4 of 100
    with pytest.warns(UserWarning, match=r"4 of 10 elements take 400 bytes of limit=450") as told:
        for _ in range(3):
            assert [int(x[0, 0]) for x in data] == list(range(10))
    assert len(told) == 1 and len(made) == 10 + 2 * 6
    wide = Dataset.range(3).map(lambda y: np.full(2, y + 0.5)).cache()
    assert [x.tolist() for _ in range(2) for x in wide][3:] == [[y + 0.5] * 2 for y in range(3)]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pairs().cache("file"), "in memory"),
        (lambda: pairs().cache(limit=0), "limit"),
        (lambda: pairs().batch(0), "batch_size"),
        (lambda: pairs().shuffle(0), "buffer_size"),
        (lambda: pairs().take(-2), "count"),
        (lambda: pairs().skip(1.5), "count"),
        (lambda: pairs().repeat("a"), "count"),
        (lambda: pairs().prefetch(-5), "buffer_size"),
        (lambda: Dataset.from_tensor_slices((X, Y[:3])), "equal length"),
        (lambda: Dataset.from_tensor_slices(3), "first axis"),
        (lambda: list(pairs().map(lambda x, y: None)), "<lambda>, returned None"),
        (lambda: list(Dataset.range(3).map(lambda i: np.zeros(i)).batch(3)), r"\(0,\) and \(1,\)"),
        (lambda: pairs().take(0).peek(), "empty"),
        (lambda: split_dataset(X), "left_size or right_size"),
        (lambda: split_dataset(X, 0.7, 0.7), "more than"),
        (lambda: split_dataset(X, 11), "10 samples"),
        (lambda: split_dataset(X, 10), "both need some"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: pairs().map(3),
        lambda: pairs().concatenate([1]),
        lambda: Dataset.zip(pairs(), [1]),
        lambda: Dataset.from_generator(iter([1])),
        lambda: split_dataset("abc", 1),
        lambda: split_dataset(X, "a"),
    ],
)
def test_what_has_the_wrong_type(call):
    with pytest.raises(TypeError):
        call()


# -- threads --------------------------------------------------------------------------------------


def test_functions_run_on_worker_threads_in_order():
    names = set()

    def slow_at_first(y):
        names.add(threading.current_thread().name)
        time.sleep(0.02 if y < 2 else 0)
        return y

    data = Dataset.range(12).map(slow_at_first, num_parallel_calls=AUTOTUNE)
    assert numbers(data) == list(range(12))
    assert threading.current_thread().name not in names


def test_map_calls_one_at_a_time_unless_told_otherwise():
    inside, most = [], []

    def watched(y):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        return y

    numbers(Dataset.range(10).map(watched))
    assert max(most) == 1


def test_an_error_comes_in_its_turn_and_says_where_from():
    def broken(y):
        if y == 3:
            raise OSError("disk is gone")
        return y

    seen, before = [], threading.active_count()
    with pytest.raises(OSError, match="disk is gone") as caught:
        for y in Dataset.range(10).map(broken):
            seen.append(int(y))
    assert seen == [0, 1, 2]
    assert "worker thread batches_" in caught.value.__notes__[0]
    assert threading.active_count() == before


def test_generators_of_the_user_run_ahead_and_may_fail():
    def broken():
        yield 1
        raise KeyError("x")

    data = Dataset.from_generator(broken)
    for _ in range(2):
        iterator = iter(data)
        assert next(iterator) == 1
        with pytest.raises(KeyError):
            next(iterator)
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(Dataset.range(3).map(lambda y: next(iter(()))))


def test_threads_end_when_the_iterator_is_dropped():
    before = threading.active_count()
    for data in (pairs().repeat(), pairs().map(lambda x, y: x).batch(2).repeat()):
        iterator = iter(data)
        next(iterator)
        assert threading.active_count() > before
        del iterator
        gc.collect()
        assert threading.active_count() == before
    made = MadeAhead(lambda job: job, itertools.count())
    next(made)
    del made
    gc.collect()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_no_more_is_made_than_asked_for():
    made = []
    iterator = iter(Dataset.range(1000).map(lambda y: made.append(y) or y).prefetch(5))
    next(iterator)
    time.sleep(0.1)
    assert len(made) <= 6
    iterator.close()


def test_a_hanging_worker_is_named():
    release = threading.Event()

    def hang(y):
        ahead.doing("/drive/a.jpg")
        release.wait(20)
        return y

    data = Dataset.range(3).map(hang, num_parallel_calls=2)
    data.timeout = 0.2
    start = time.monotonic()
    with pytest.raises(
        TimeoutError, match=r"batch 0 .* 0.2 s: thread batches_\d is busy with '/dri"
    ):
        next(iter(data))
    assert time.monotonic() - start < 10
    release.set()


EXIT = """
import sys, time
from minicnn.data import Dataset
from minicnn.data.ahead import MadeAhead
iterator = iter(Dataset.range(1000).map(lambda y: time.sleep(float(sys.argv[1])) or y, 2))
next(iterator)
made = MadeAhead(lambda y: time.sleep(float(sys.argv[1])), range(100))
next(made)
print("done", time.time(), flush=True)
"""


@pytest.mark.parametrize("seconds", [0.01, 0.3])
def test_the_interpreter_ends_with_live_workers(seconds):
    run = subprocess.run(
        [sys.executable, "-c", EXIT, str(seconds)], capture_output=True, text=True, timeout=60
    )
    ended = time.time()
    assert run.returncode == 0 and run.stderr == ""
    assert ended - float(run.stdout.split()[1]) < 10  # a thread that hangs gets a second


# -- training -------------------------------------------------------------------------------------


def classifier():
    minicnn.set_random_seed(0)
    model = minicnn.Sequential([layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def problem(count=37):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 4)).astype(np.float32), random.integers(0, 3, count)


def test_training_as_from_arrays():
    x, y = problem()
    data = Dataset.from_tensor_slices((x, y)).batch(8)
    found = []
    for arguments in ((data,), (x, y)):
        model = classifier()
        batch = {} if len(arguments) == 1 else {"batch_size": 8}
        history = model.fit(
            *arguments,
            **batch,
            epochs=2,
            shuffle=False,
            verbose=0,
            class_weight={0: 2.0, 1: 0.5},
            validation_data=arguments[0] if len(arguments) == 1 else (x, y),
        ).history
        found.append((history, model.evaluate(*arguments, **batch, verbose=0), model))
    (ours, value, model), (expected, wanted, other) = found
    for name in expected:
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(data, verbose=0), other.predict(x, verbose=0))


def test_training_by_steps():
    x, y = problem()
    before = threading.active_count()
    data = Dataset.from_tensor_slices((x, y)).shuffle(37).batch(8).repeat()
    model = classifier()
    with pytest.raises(ValueError, match="give steps_per_epoch, or data.repeat"):
        model.fit(data, verbose=0)
    history = model.fit(
        data, epochs=3, steps_per_epoch=7, validation_data=data, validation_steps=2, verbose=0
    ).history
    assert len(history["val_loss"]) == 3 and model.optimizer.iterations == 21
    with pytest.raises(ValueError, match=r"single samples: .* data.batch\(32\)"):
        model.fit(Dataset.from_tensor_slices((x, y)), verbose=0)
    assert threading.active_count() == before


def test_nothing_is_left_open_after_training(picture_folder, capsys):
    data = minicnn.utils.image_dataset_from_directory(
        picture_folder, image_size=(8, 8), batch_size=4
    )
    model = minicnn.Sequential([layers.Flatten(), layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")

    def left():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    model.fit(data, verbose=0)
    before = left()
    model.fit(data, epochs=3, verbose=0)
    model.fit(data, steps_per_epoch=2, epochs=2, verbose=0)

    class Stop(minicnn.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    model.fit(data, verbose=0, callbacks=[Stop()])
    for _ in data:
        break
    assert left() == before


def bad_batches(kind):
    x, y = problem(8)
    yield x, y
    if kind == "raises":
        raise OSError("disk is gone")
    yield {
        "wide": (x[:, :3], y),
        "deep": (x[..., None], y),
        "text": (x, np.array(["a"] * 8)),
        "objects": ([[1, 2], [3]], y),
        "none": None,
        "no targets": (x, None),
        "short": (x, y[:5]),
        "four": (x, y, y, y),
        "nan": (x * np.nan, y),
        "classes": (x, y + 7),
        "weights": (x, y, np.full(8, np.nan)),
    }[kind]


KINDS = ["wide", "deep", "text", "objects", "none", "short", "four", "nan", "classes", "weights"]


@pytest.mark.parametrize("kind", [*KINDS, "no targets", "raises"])
def test_bad_batches_are_told_by_their_number(kind):
    model = classifier()
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        model.fit(bad_batches(kind), verbose=0)
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "batch 1 " in told
    assert model.optimizer.iterations == 1


def test_a_generator_without_end_is_told(monkeypatch):
    monkeypatch.setattr("minicnn.data.batches.ENDLESS", 20)

    def for_ever():
        for number in itertools.count():
            if number == 30:
                return
            yield problem(8)

    with pytest.warns(UserWarning, match="20 batches in one epoch and not ended.*steps_per_epoch"):
        classifier().fit(for_ever(), verbose=0)


# -- two parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes", [(0.8, None), (None, 2), (8, 2), (0.8, 0.2), (3, 2), (0.75, 0.25)]
)
def test_split_dataset(sizes):
    left, right = split_dataset((X, Y), *sizes)
    left, right = numbers(left), numbers(right)
    assert left == list(range(len(left))) and right == list(range(10 - len(right), 10))
    a, b = split_dataset((X, Y), *sizes, shuffle=True, seed=0)
    assert not set(numbers(a)) & set(numbers(b)) and numbers(a) == numbers(a) != left


def test_split_of_batches():
    left, right = split_dataset(pairs().batch(3), left_size=0.6)
    assert numbers(left) == [[0, 1, 2], [3, 4, 5]] and numbers(right) == [[6, 7, 8], [9]]


# -- memory ---------------------------------------------------------------------------------------

STREAM = """
import resource, sys
import numpy as np
import minicnn
from minicnn import layers
from minicnn.data import Dataset
minicnn.config.ops = "reference"
model = minicnn.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(1)])
model.compile("sgd", "mse")
make = lambda i: (np.full((256, 256, 3), i % 7, np.float32), np.float32([i % 7]))
model.fit(Dataset.range(8).map(make).batch(4), verbose=0)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + (200 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
data = Dataset.range(1000).map(make, 2).batch(4)  # 786 MB
model.fit(data.cache(limit=10 << 20) if sys.argv[1] == "cache" else data, verbose=0)
print("streamed")
"""


@pytest.mark.parametrize("kind", ["plain", "cache"])
def test_data_larger_than_memory_streams(kind):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STREAM, kind],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.strip() == "streamed", run.stderr
