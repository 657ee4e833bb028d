"""Writing: the old file or the new one, whole, whatever happens in between."""

import errno
import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from small_files import fill, numbers, tiny_model

import minicnn
from minicnn.saving import disk

PATH = "model.keras"


def saved(folder):
    """A saved model, its file's bytes."""
    tiny_model().save(folder / PATH)
    return (folder / PATH).read_bytes()


# -- failing calls ---------------------------------------------------------------------------------

CALLS = ("open", "write", "fsync", "close", "replace")


class Failing:
    """os, in which call number `n` of the listed functions fails, and perhaps all after it."""

    def __init__(self, number, code, persistent):
        self.number, self.code, self.persistent = number, code, persistent
        self.count, self.failed = 0, []

    def __getattr__(self, name):
        function = getattr(os, name)
        return self.wrap(name, function) if name in CALLS else function

    def wrap(self, name, function):
        def call(*arguments, **keywords):
            self.count += 1
            due = self.count >= self.number if self.persistent else self.count == self.number
            if not due:
                return function(*arguments, **keywords)
            self.failed.append(name)
            if name == "close":
                function(*arguments)  # as on Linux: the descriptor is gone, the error remains
            if name == "write" and len(arguments[1]) > 8:
                function(arguments[0], arguments[1][: len(arguments[1]) // 2])  # a full disk
            raise OSError(self.code, os.strerror(self.code))

        return call


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EACCES", "EDQUOT"])
@pytest.mark.parametrize("existing", [True, False], ids=["overwriting", "new"])
def test_every_failing_call(code, persistent, existing, tmp_path, monkeypatch):
    """Fail the N-th call, N = 1, 2, ... until a save succeeds."""
    old = saved(tmp_path) if existing else None
    new = tiny_model()
    fill(new, seed=9)
    seen = set()
    for number in range(1, 100):
        system = Failing(number, getattr(errno, code), persistent)
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            patch.setattr(disk, "os", system)
            try:
                new.save(tmp_path / PATH)
                failed = False
            except OSError as error:
                assert error.errno == getattr(errno, code)
                failed = True
        seen.update(system.failed)
        if failed:
            assert os.listdir(tmp_path) == ([PATH] if existing else [])
            assert not existing or (tmp_path / PATH).read_bytes() == old
            continue
        # The new file is in place and whole. Syncing the folder comes after the rename: there is
        # no way back then, so that its failure is a warning.
        np.testing.assert_array_equal(
            minicnn.load_model(tmp_path / PATH).get_weights()[0], new.get_weights()[0]
        )
        assert os.listdir(tmp_path) == [PATH]
        assert bool(caught) == bool(system.failed)
        assert all("its folder could not be synced" in str(one.message) for one in caught)
        if not system.failed:
            break
        if old is not None:
            (tmp_path / PATH).write_bytes(old)
        else:
            os.remove(tmp_path / PATH)
    else:
        raise AssertionError("no save succeeded")
    assert seen == set(CALLS)
    assert number > 10


def test_a_folder_that_cannot_be_synced_is_a_warning(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(disk.os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        tiny_model().save(tmp_path / PATH)
    assert os.listdir(tmp_path) == []


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(disk.os, "write", lambda fd, data: write(fd, data[:1000]))
    tiny_model().save(tmp_path / PATH)
    monkeypatch.undo()
    assert minicnn.load_model(tmp_path / PATH).name == "tiny"


def test_an_interruption_leaves_the_old_file(tmp_path, monkeypatch):
    old = saved(tmp_path)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    for name in ("write", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(disk.os, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                tiny_model().save(tmp_path / PATH)
        assert os.listdir(tmp_path) == [PATH]
        assert (tmp_path / PATH).read_bytes() == old


def test_a_full_disk(tmp_path):
    """A limit on the size of files, as a full disk: an error, and the old file."""
    old = saved(tmp_path)
    program = f"""
        import resource, signal
        import minicnn
        model = minicnn.load_model({str(tmp_path / PATH)!r})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            model.save({str(tmp_path / PATH)!r})
        except OSError as error:
            print(error.errno)
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True
    )
    assert out.stdout.split() == [str(errno.EFBIG).encode()]
    assert os.listdir(tmp_path) == [PATH]
    assert (tmp_path / PATH).read_bytes() == old


# -- killed ----------------------------------------------------------------------------------------


def test_killed_at_any_moment(tmp_path):
    """SIGKILL 200 times a process that saves on and on: the file loads, and was saved whole."""
    path = tmp_path / PATH
    model = tiny_model()
    # Each model that is saved has one number in all places: a mixed file would have two.
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    model.save(path)
    program = f"""
        import os, random, signal, time
        import minicnn
        path = {str(path)!r}
        model = minicnn.load_model(path)
        draw = random.Random(0)
        for _ in range(200):
            start = int(model.weights[0].value.flat[0])
            child = os.fork()
            if child == 0:
                while True:
                    start += 1
                    for weight in model.weights:
                        weight.value[...] = start
                    model.save(path)
            time.sleep(draw.uniform(0, 0.04))  # a save takes some 10 ms
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            model = minicnn.load_model(path)
            print(*sorted({{float(n) for w in model.get_weights() for n in w.flat}}))
    """
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # fork warns of other threads
    )
    seen = [line.split() for line in out.stdout.splitlines()]
    assert len(seen) == 200
    assert all(len(numbers) == 1 for numbers in seen), "a file held parts of two models"
    assert len({numbers[0] for numbers in seen}) > 10, "hardly a save was finished"
    # What a kill may leave is a temporary file, which the next save does not mind.
    assert all(name == PATH or name.startswith(".minicnn-") for name in os.listdir(tmp_path))
    tiny_model().save(path)
    assert minicnn.load_model(path).name == "tiny"


# -- paths -----------------------------------------------------------------------------------------


def test_overwrite_false(tiny, tmp_path):
    for path, save in ((PATH, tiny.save), ("w.weights.h5", tiny.save_weights)):
        save(tmp_path / path, overwrite=False)
        old = (tmp_path / path).read_bytes()
        with pytest.raises(FileExistsError, match="exists; give overwrite=True to replace it"):
            save(tmp_path / path, overwrite=False)
        assert (tmp_path / path).read_bytes() == old
        save(tmp_path / path, overwrite=True)


def test_a_link_is_replaced_not_followed(tiny, tmp_path):
    (tmp_path / "other").write_bytes(b"precious")
    (tmp_path / PATH).symlink_to("other")
    tiny.save(tmp_path / PATH)
    assert (tmp_path / "other").read_bytes() == b"precious"
    assert not (tmp_path / PATH).is_symlink()
    assert minicnn.load_model(tmp_path / PATH).name == "tiny"


def test_missing_folder(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist; create it"):
        tiny.save(tmp_path / "nowhere" / PATH)


def test_permissions_are_those_of_a_new_file(tiny, tmp_path):
    mask = os.umask(0o027)
    try:
        tiny.save(tmp_path / PATH)
    finally:
        os.umask(mask)
    assert (tmp_path / PATH).stat().st_mode & 0o777 == 0o640


def test_relative_paths_and_bytes(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.save(PATH)
    tiny.save_weights(b"w.weights.h5")
    assert minicnn.load_model(PATH.encode()).name == "tiny"
    again = tiny_model()
    fill(again, seed=5)
    again.load_weights("w.weights.h5")
    x = numbers(2, 4, 4, 1)
    np.testing.assert_array_equal(again.predict(x, verbose=0), tiny.predict(x, verbose=0))
