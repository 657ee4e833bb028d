"""Models in threads, in forked children, at the end of a process, two hundred times over."""

import ast
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import Sequential, config, layers
from minicnn.callbacks import LambdaCallback

PACKAGE = Path(minicnn.__file__).parent
NETWORK = """
import multiprocessing, os, sys, threading, time
import numpy as np
import numba
import minicnn
from minicnn import config, layers

def make():
    minicnn.set_random_seed(0)
    model = minicnn.Sequential([
        layers.Input((4, 4, 3)), layers.MaxPooling2D(), layers.BatchNormalization(),
        layers.Flatten(), layers.Dense(4, activation="softmax"),
    ])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model

x = np.random.default_rng(0).random((16, 4, 4, 3), dtype=np.float32)
y = np.arange(16) % 4

def train(steps=100):
    with making:
        model = make()
    for _ in range(steps):
        model.train_on_batch(x, y)
    return model

making = threading.Lock()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(program, **environment): the program after NETWORK, in a process of its own."""
    cache = tmp_path_factory.mktemp("cache")  # compiled once for all of them

    def execute(program, **environment):
        done = subprocess.run(
            [sys.executable, "-c", NETWORK + textwrap.dedent(program)],
            env={
                **{k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"},
                "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path]),
                "MINICNN_CACHE": str(cache),
                "NUMBA_NUM_THREADS": "2",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, (done.returncode, done.stderr)
        return done

    return execute


LAYERS = ["default", "workqueue", *(["omp"] if sys.platform == "linux" else [])]


@pytest.mark.parametrize("layer", LAYERS)
def test_eight_threads_and_forked_children(layer, run):
    """Four threads train, four predict, 100 times each; then children predict."""
    program = """
        model = train()
        weights = [w.tobytes() for w in model.get_weights()]
        expected = model.predict(x, verbose=0)
        finished = []

        def trains():
            finished.append([w.tobytes() for w in train().get_weights()] == weights)

        def predicts():
            same = [(model.predict_on_batch(x) == expected).all() for _ in range(100)]
            finished.append(all(same))

        workers = [threading.Thread(target=work) for work in (trains, predicts) * 4]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        assert finished == [True] * 8, finished

        def child():
            assert (model.predict(x, verbose=0) == expected).all()
            assert [w.tobytes() for w in train(100).get_weights()] == weights

        if "fork" in multiprocessing.get_all_start_methods():
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    child()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0
        assert (model.predict(x, verbose=0) == expected).all()
        """
    run(program, NUMBA_THREADING_LAYER=layer)


def test_a_process_that_ends_while_threads_work(run):
    program = """
        model = train(1)

        def forever():
            while True:
                model.predict_on_batch(x)
                model.predict(x, batch_size=4, verbose=0)

        for _ in range(4):
            threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.2)
        """
    assert "Traceback" not in run(program).stderr


def test_settings_that_change_between_calls(run):
    """The user's number of threads, affinity and variables move no bit."""
    program = """
        expected = [w.tobytes() for w in train(20).get_weights()]
        for number in (1, 2, 1):
            numba.set_num_threads(number)
            assert [w.tobytes() for w in train(20).get_weights()] == expected
            assert numba.get_num_threads() == number
        os.environ["NUMBA_NUM_THREADS"] = "2"
        os.environ["OMP_NUM_THREADS"] = "1"
        for threads in (1, 2, 1):
            config.threads = threads
            assert [w.tobytes() for w in train(20).get_weights()] == expected
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            assert [w.tobytes() for w in train(20).get_weights()] == expected
        """
    run(program)


def test_memory_stays_flat(run):
    """200 epochs, 200 models, 200 predictions: the largest memory grows by less than 1 MB each."""
    program = """
        import gc
        try:
            import resource
            unit = 1 if sys.platform == "darwin" else 1024
            def peak():
                return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        except ImportError:
            import tracemalloc
            tracemalloc.start()
            def peak():
                return tracemalloc.get_traced_memory()[1]

        model = train(1)
        works = {
            "epochs": lambda count: model.fit(x, y, batch_size=8, epochs=count, verbose=0),
            "models": lambda count: [train(1) and None for _ in range(count)],
            "predictions": lambda count: [model.predict(x, verbose=0) for _ in range(count)],
        }
        for name, work in works.items():
            work(100)
            gc.collect()
            before = peak()
            work(200)
            assert peak() - before < 1e6, (name, peak() - before)
        """
    run(program)


def small_model():
    model = Sequential([layers.Input((3,)), layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


X, Y = np.ones((8, 3), np.float32), np.zeros(8, int)


def test_one_model_in_two_threads():
    """A second thread may not train it, but predict, and train it afterwards."""
    with config.using(ops="reference"):
        model = small_model()
        inside, go_on = threading.Event(), threading.Event()

        def wait(epoch, logs):
            inside.set()
            assert go_on.wait(60)

        callback = LambdaCallback(on_epoch_begin=wait)
        trainer = threading.Thread(
            target=model.fit, args=[X, Y], kwargs={"callbacks": [callback], "verbose": 0}
        )
        trainer.start()
        try:
            assert inside.wait(60)
            for train in (model.fit, model.train_on_batch):
                with pytest.raises(ValueError, match="trained in another thread"):
                    train(X, Y)
            assert model.predict(X, verbose=0).shape == (8, 2)
        finally:
            go_on.set()
            trainer.join()
        assert len(model.history.history["loss"]) == 1
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    "file", sorted((PACKAGE / "ops" / "fast").glob("*.py")), ids=lambda f: f.stem
)
def test_no_kernel_raises(file):
    """An exception inside a parallel loop loses memory: arguments are checked before it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            names = {getattr(one, "id", getattr(one, "attr", "")) for one in node.decorator_list}
            if names & {"kernel", "parallel_kernel"}:
                raised = [
                    one.lineno for one in ast.walk(node) if isinstance(one, ast.Raise | ast.Assert)
                ]
                assert not raised, f"{node.name} raises in line {raised}"
