"""How kernels are compiled and kept: `@kernel` for one thread, `@parallel_kernel` for all of them.

Compiled kernels are stored in one folder per environment: its name is a hash of this file, of the
versions of Numba, llvmlite and NumPy, and of the processor. A kernel's file name holds a hash of
the source of its module and of every module of this package that it imports, so that a kernel is
never stale, not even when a function it calls from another file changes (Numba's own cache only
looks at the kernel's own file). One file per signature means that processes which compile at the
same time cannot mix up their results. Numba's global settings stay as they are.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.resources
import os
import pickle
import sys
import tempfile
import threading
import types
import warnings
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core import caching, compiler, config, serialize
from numba.core.registry import cpu_target

from minicnn.ops import recording
from minicnn.ops.fast import linking, threads

# error_model: a division by zero gives inf or nan, as in NumPy, not an exception.
# fastmath: a * b + c may become one instruction; nothing else may be reordered, so that sums have
# a fixed order and NaN propagates.
# no_cfunc_wrapper: nobody calls them from C.
OPTIONS = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract"},
    "no_cfunc_wrapper": True,
}


def kernel(function):
    """Compile `function` for one thread; kernels may call it, and so may Python."""
    return _compiled(function, parallel=False)


def parallel_kernel(function):
    """Compile `function`, whose outermost loop is a `prange`; callable from Python only.

    The call holds the process-wide lock and uses as many threads as `minicnn.config` says. In a
    forked child in which threads cannot be started, and on threads that make data while another
    one trains, the same code runs serially and without the lock.
    """
    compiled = _compiled(function, parallel=True)

    @functools.cache
    def serial():
        return _compiled(function, parallel=False)

    @functools.wraps(function)
    def launch(*arguments):
        if _listed is not None:
            _listed[compiled, tuple(map(compiled.typeof_pyval, arguments))] = None
            return None
        if threads.serial_only or threads.makes_data():
            return serial()(*arguments)
        result = threads.launch(compiled, arguments)
        if result is None:
            recording.note(compiled, arguments)
        else:
            recording.cannot_repeat()  # Python goes on with the result
        return result

    launch.dispatcher = compiled
    return launch


_listed = None  # {(dispatcher, types): None} while launches are only listed


@contextlib.contextmanager
def listing():
    """`with listing() as kernels:` parallel kernels are not run but listed: (dispatcher, types).

    Their results are then whatever was in memory. For processes that compile for another one.
    """
    global _listed
    _listed = {}
    try:
        yield _listed
    finally:
        _listed = None


def _compiled(function, parallel):
    if config.DISABLE_JIT:
        return function
    dispatcher = linking.Dispatcher(function, {"parallel": parallel, **OPTIONS})
    dispatcher._cache = _KernelCache(function, parallel)
    return dispatcher


def environment_key():
    """What the machine code of all kernels depends on, as a short hash."""
    digest = hashlib.sha256(_source(__name__) + _source(linking.__name__))
    versions = (sys.version_info[:2], numba.__version__, llvmlite.__version__, np.__version__)
    settings = (config.OPT, config.BOUNDSCHECK, config.LOOP_VECTORIZE, config.SLP_VECTORIZE)
    settings += (config.DEBUGINFO_DEFAULT, config.ENABLE_AVX)
    processor = cpu_target.target_context.codegen().magic_tuple()
    digest.update(repr((versions, settings, processor)).encode())
    return digest.hexdigest()[:16]


@functools.cache
def _source(module):
    """The source of a module of this package."""
    name = module.removeprefix(f"{__package__}.") + ".py"
    return importlib.resources.files(__package__).joinpath(name).read_bytes()


@functools.cache
def _modules():
    """The names of all modules of this package."""
    files = (file.name for file in importlib.resources.files(__package__).iterdir())
    return {f"{__package__}.{name.removesuffix('.py')}" for name in files if name.endswith(".py")}


@functools.cache
def _imported(module):
    """The modules of this package that one of them imports at its top, directly."""
    found = set()
    for statement in ast.parse(_source(module)).body:
        if isinstance(statement, ast.ImportFrom):
            if statement.module == __package__:
                found |= {f"{__package__}.{alias.name}" for alias in statement.names}
            elif statement.module.startswith(f"{__package__}."):
                found.add(statement.module)
    return found


def _functions(function):
    """The function and those that its closure holds, which may be of modules it does not import."""
    yield function
    for cell in function.__closure__ or ():
        inner = getattr(cell.cell_contents, "py_func", cell.cell_contents)
        if isinstance(inner, types.FunctionType):
            yield from _functions(inner)


def _source_key(function):
    """Hash of all source that a kernel is made of."""
    files, wanted = set(), set()
    for part in _functions(function):
        files.add(part.__code__.co_filename)  # a kernel need not lie in this package
        if part.__module__.startswith(f"{__package__}."):
            wanted.add(part.__module__)
        else:
            wanted |= _modules()  # any of them may be called
    seen = set()
    while wanted:
        module = wanted.pop()
        seen.add(module)
        wanted |= _imported(module) - seen
    # In the folder's name, both; and what only Python runs.
    seen -= {__name__, linking.__name__, threads.__name__}
    hashes = [hashlib.sha256(_source(module)).hexdigest() for module in sorted(seen)]
    return hashes + [_file_hash(file) for file in sorted(files)]


@functools.cache
def _file_hash(file):
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""  # inside a zip archive: the sources of the modules cover it


def _wanted_folder():
    """$NUMBA_CACHE_DIR, else $MINICNN_CACHE, else the user's cache folder."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return Path(os.environ["NUMBA_CACHE_DIR"]) / "minicnn"
    if os.environ.get("MINICNN_CACHE"):
        return Path(os.environ["MINICNN_CACHE"])
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "minicnn" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "minicnn"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minicnn"


def _is_writable(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


@functools.cache
def cache_folders():
    """Where kernels are looked for; new ones go into the last.

    Two when the wanted folder cannot be written: what lies there is used all the same.
    """
    wanted = _wanted_folder() / environment_key()
    if _is_writable(wanted):
        return (wanted,)
    temporary = Path(tempfile.mkdtemp(prefix="minicnn-"))
    warnings.warn(
        f"compiled kernels cannot be kept in {wanted} (not writable), they go to {temporary} "
        "for this run; set MINICNN_CACHE to a folder that can be written",
        UserWarning,
        stacklevel=2,
    )
    return wanted, temporary


crew = None  # processes that compile, too: an object with `start`, `claim` and `await_file`

_announced = threading.Event()


def _announce_compilation():
    """One line on stderr before the first compilation, which makes the first step slow."""
    if not _announced.is_set():
        _announced.set()
        print("minicnn: compiling kernels for this processor (once, some seconds)", file=sys.stderr)


class _KernelCache(caching._Cache):
    """Machine code of one kernel on disk: a file per signature, written whole or not at all."""

    def __init__(self, function, parallel):
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._function, self._parallel = function, parallel

    @functools.cached_property
    def _variant(self):
        return self._parallel, _source_key(self._function)

    @property
    def cache_path(self):
        return str(cache_folders()[-1])

    def _file_name(self, signature, is_part):
        key = repr((self._name, self._variant, signature))
        ending = "part" if is_part else "kernel"
        return f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.{ending}"

    def load_overload(self, sig, target_context):
        target_context.refresh()
        is_part = linking.is_part(target_context)
        name = self._file_name(sig, is_part)
        found = self._load(name, target_context)
        if found is None:
            _announce_compilation()
            if crew is not None and not is_part:
                crew.start()
                if not crew.claim(name):
                    crew.await_file(cache_folders()[-1] / name)
                    found = self._load(name, target_context)
        return found

    def _load(self, name, target_context):
        for folder in cache_folders():
            try:
                payload = pickle.loads((folder / name).read_bytes())
            except (OSError, EOFError, pickle.UnpicklingError):
                continue  # not there, or cut off by a full disk: compile it again
            return compiler.CompileResult._rebuild(target_context, *payload)
        return None

    def save_overload(self, sig, data):
        if data.library.has_dynamic_globals:
            raise RuntimeError(
                f"kernel {self._name} refers to an address of this process; "
                "pass arrays as arguments, not as globals"
            )
        folder, is_part = cache_folders()[-1], isinstance(data.library, linking.Part)
        try:
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(serialize.dumps(data._reduce()))
            os.chmod(file.name, 0o644)  # the folder may be shared
            os.replace(file.name, folder / self._file_name(sig, is_part))
        except OSError as error:
            warnings.warn(
                f"a compiled kernel could not be kept in {folder}: {error}",
                UserWarning,
                stacklevel=2,
            )

    def enable(self):
        """Always enabled: Numba's interface asks for this method."""

    def disable(self):
        """Always enabled: Numba's interface asks for this method."""

    def file_name(self, signature):
        """Name of the file of a kernel that Python calls."""
        return self._file_name(signature, False)

    def flush(self):
        for file in cache_folders()[-1].glob(f"{self._name}-*.*"):
            file.unlink(missing_ok=True)
