"""Threads of the fast kernels: how many, on which threading layer, one kernel at a time.

Numba's layers differ in what kills the process. `tbb` survives two Python threads and a fork;
`omp` kills a forked child that launches a kernel; `workqueue` aborts when two Python threads
launch at once. Hence: tbb where its library can be loaded, one lock around every launch, and
serial kernels in a child forked from a process that runs on omp.
"""

import ctypes
import math
import os
import site
import sys
import threading
import time
import warnings
from pathlib import Path

import numba
from numba.np.ufunc import parallel as numba_parallel

from minicnn import config

serial_only = False  # set in a forked child whose threading layer does not survive a fork
_lock = threading.RLock()
_warned_about = set()


def launch(compiled, arguments):
    """Run a parallel kernel with the configured number of threads, alone in the process."""
    return launch_all(((compiled, arguments),))


def launch_all(calls):
    """The same for many kernels and what stands between them: (function, arguments) each; the
    result of the last."""
    wanted, result = count(), None
    with _lock:
        if wanted > 1:
            _spread.check()
        before = _numbas_setting()  # it belongs to the user's kernels
        if before != wanted:
            numba.set_num_threads(wanted)
        try:
            for function, arguments in calls:
                result = function(*arguments)
        finally:
            if before != wanted:
                numba.set_num_threads(before)
    return result


def _numbas_setting():
    """numba.get_num_threads(), without the two locks that it takes to look whether threads have
    been started: it is asked before every launch, and they are most of what it costs (2 us)."""
    started = getattr(numba_parallel, "_get_num_threads", None)
    return started() if started else numba.get_num_threads()


class _Spread:
    """Keeps Numba's workers off the processor of the thread that launches kernels (Linux).

    After a pause the system may wake a worker where the launching thread runs, which has done all
    the work before the worker's turn comes; so the worker never looks busy and is not moved. On two
    processors that lasted for seconds at half speed (Linux 6.18, tbb). A worker that is found there
    may run on all processors but that one, until it is found beside the launching thread again.
    """

    INTERVAL = 0.05  # seconds between two checks, which take about 20 us a worker

    def __init__(self):
        self.due, self.earlier, self.workers = 0.0, None, []
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self.own_processor = getattr(libc, "sched_getcpu", None)

    def check(self):
        """Look, if it is time; called before a launch."""
        now = time.monotonic()
        if now < self.due or self.own_processor is None:
            return
        self.due = now + self.INTERVAL
        try:
            self._find_workers()
            self._part()
        except OSError:
            self.own_processor = None  # a thread that has ended, a system that forbids: leave it

    def _find_workers(self):
        """The threads that came with the first launch, if nothing else started threads then."""
        if self.workers:
            return
        tasks = {int(name) for name in os.listdir("/proc/self/task")}
        if self.earlier is None:
            self.earlier, self.due = tasks, 0.0
            return
        new = tasks - self.earlier - {thread.native_id for thread in threading.enumerate()}
        if len(new) <= numba.config.NUMBA_NUM_THREADS:  # tbb starts one more than it uses
            self.workers = sorted(new)

    def _part(self):
        here, everywhere = self.own_processor(), os.sched_getaffinity(0)
        for worker in self.workers:
            if _last_processor(worker) == here and len(everywhere) > 1:
                os.sched_setaffinity(worker, everywhere - {here})


def _last_processor(task):
    """Where a thread of this process ran last: field 39 of its stat, the 37th after the name."""
    with open(f"/proc/self/task/{task}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[36])


def makes_data():
    """Whether this thread works ahead of training (data/ahead.py): it computes alone, so that it
    neither waits for the lock that the training thread takes kernel after kernel, nor holds it."""
    if threading.get_ident() == _main:  # asked before every launch, so the usual answer is quick
        return False
    return getattr(threading.current_thread(), "computes_alone", False)


def count():
    """Threads a kernel uses: `config.threads`, else as many as this process may keep busy."""
    limit = numba.config.NUMBA_NUM_THREADS  # fixed when Numba starts: affinity or the variable
    if config.threads is None:
        return min(limit, _quota())
    if config.threads > limit and config.threads not in _warned_about:
        _warned_about.add(config.threads)
        warnings.warn(
            f"config.threads = {config.threads}, but Numba was started with {limit}: using "
            f"{limit}; set NUMBA_NUM_THREADS={config.threads} before Python starts",
            UserWarning,
            stacklevel=2,
        )
    return min(config.threads, limit)


def _quota():
    global _known_quota
    if _known_quota is None:
        _known_quota = _cgroup_quota()
    return _known_quota


_known_quota = None


def _cgroup_quota(root=Path("/sys/fs/cgroup"), own=Path("/proc/self/cgroup")):
    """Whole processors that the container's quota allows (version 2 or 1), at least 1."""
    limits = []
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        here = root / ("cpu" if controllers else "") / path.lstrip("/")
        while here.is_relative_to(root):
            quota, period = [*" ".join(_lines(here / "cpu.max")).split(), "", ""][:2]
            if not quota:
                quota = "".join(_lines(here / "cpu.cfs_quota_us"))
                period = "".join(_lines(here / "cpu.cfs_period_us"))
            if quota.isdigit() and period.isdigit():
                limits.append(max(1, int(quota) // int(period)))
            here = here.parent
    return min(limits, default=math.inf)


def _lines(file):
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _load_tbb():
    """Load the library of the `tbb` wheel, which lies where the loader does not look.

    Numba finds it by name once it is in the process; where there is none it takes another layer.
    """
    name = {"linux": "libtbb.so.12", "darwin": "libtbb.12.dylib"}.get(sys.platform)
    if name is None or numba.config.THREADING_LAYER not in (
        "default",
        "tbb",
        "safe",
        "threadsafe",
        "forksafe",
    ):
        return
    folders = (sys.prefix, sys.base_prefix, site.getuserbase())
    for candidate in (name, *(str(Path(folder, "lib", name)) for folder in folders)):
        try:
            ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL)
            return
        except OSError:
            continue  # not there: the next place


def _after_fork_in_child():
    global _lock, _main, _spread, serial_only
    _main = threading.main_thread().ident  # the thread that forked
    _lock = threading.RLock()  # another thread of the parent may have held it
    _spread = _Spread()  # the parent's workers are not here
    started = numba_parallel._threading_layer  # None until the first launch
    serial_only = started == "omp"


_load_tbb()
_main = threading.main_thread().ident
_spread = _Spread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
