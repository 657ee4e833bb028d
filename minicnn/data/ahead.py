"""Results made by threads before their turn, in the order in which they were asked for.

Design: the threads fetch the next job themselves, under a lock, so that what makes jobs (a
generator of the user, a shuffle) runs ahead, too. Results wait in a dict until the consumer asks
for their number; it is never more than `ahead` results behind. The threads know the crew, but not
the iterator that the consumer holds: when that one is dropped, they end. They are daemons: one
that hangs in a dead network drive keeps neither an epoch nor the end of the process waiting.
"""

import atexit
import os
import threading
import time
import weakref

# Threads that decode while the network trains: also with one processor two, one waits for the disk.
WORKERS = max(2, min(4, os.cpu_count() or 1))
AHEAD = 2 * WORKERS  # batches made before their turn
TIMEOUT = 300.0  # seconds: a network drive that comes back does so within minutes
LEAVE = 1.0  # seconds that threads are given to end, when the interpreter ends or one hangs

_crews = weakref.WeakSet()


class Worker(threading.Thread):
    """A thread that can say what it is doing."""

    doing = None


def doing(what):
    """Note what this thread is busy with (a path), for the message if it hangs or fails."""
    thread = threading.current_thread()
    if isinstance(thread, Worker):
        thread.doing = what


class MadeAhead:
    """make(job) for each of `jobs`, in their order, by threads, at most `ahead` before their turn.

    An exception comes in its turn, with a note that names the thread. TimeoutError when a result
    takes longer than `timeout` seconds (None: wait for ever), with what the threads are doing.
    """

    def __init__(self, make, jobs, workers=WORKERS, ahead=AHEAD, timeout=TIMEOUT):
        self.make, self.jobs = make, iter(jobs)
        self.workers, self.ahead, self.timeout = workers, ahead, timeout
        self.back = []  # jobs that were fetched, but whose results nobody took
        self.crew = self.ender = None

    def __iter__(self):
        return self

    def __next__(self):
        if self.crew is None:
            self.crew = _Crew(self.make, self.jobs, self.back, self.workers, self.ahead)
            self.ender = weakref.finalize(self, self.crew.stop)
            self.ender.atexit = False  # the function below does it for all, and waits
        try:
            good, result = self.crew.take(self.timeout)
        except BaseException:  # a timeout, Ctrl-C
            self.pause(LEAVE)
            raise
        if good:
            return result
        self.pause(LEAVE)
        raise result

    def pause(self, patience=None):
        """End the threads and forget what they made: the source may change before it is needed.

        patience: seconds to wait for what they are doing, None: until it is done.
        """
        if self.crew is not None:
            self.ender.detach()
            self.back = self.crew.leave(patience)
            self.crew = None


class _Crew:
    """Threads and what they share."""

    def __init__(self, make, jobs, back, workers, ahead):
        self.make, self.jobs, self.ahead = make, jobs, ahead
        self.back = list(reversed(back))
        self.source = threading.Lock()  # held by the thread that fetches a job
        self.change = threading.Condition()
        self.fetched = self.taken = 0
        self.end = None  # number of results, once it is known
        self.pending = {}  # number -> job, until its result is taken
        self.results = {}  # number -> (True, result) or (False, exception)
        self.stopped = False
        self.threads = [
            Worker(target=self.work, name=f"batches_{number}", daemon=True)
            for number in range(workers)
        ]
        _crews.add(self)
        for thread in self.threads:
            thread.start()

    def work(self):
        """What each thread does."""
        me = threading.current_thread()
        while True:
            with self.source:
                with self.change:
                    while not self._over() and self.fetched - self.taken >= self.ahead:
                        self.change.wait()
                    if self._over():
                        return
                    number = self.fetched
                try:
                    job = self.back.pop() if self.back else next(self.jobs)
                except StopIteration:
                    self._ends_at(number)
                    return
                except BaseException as error:  # of the user's generator
                    self._put(number, (False, _noted(error, me)))
                    self._ends_at(number + 1)
                    return
                with self.change:
                    self.pending[number] = job
                    self.fetched += 1
            try:
                result = (True, self.make(job))
            except StopIteration as error:  # it would pass for the end of the data
                late = RuntimeError("the data source let a StopIteration out of `next`")
                late.__cause__ = error
                result = (False, _noted(late, me))
            except BaseException as error:  # for the thread that waits for it
                result = (False, _noted(error, me))
            me.doing = None
            self._put(number, result)
            del job, result  # an idle thread keeps no batch alive

    def _over(self):
        return self.stopped or self.end is not None

    def _put(self, number, result):
        with self.change:
            self.results[number] = result
            self.change.notify_all()

    def _ends_at(self, number):
        with self.change:
            self.end = number
            self.change.notify_all()

    def take(self, timeout):
        """(True, the next result), or (False, the exception that stands in its place)."""
        start = time.monotonic()
        with self.change:
            number = self.taken
            while number not in self.results:
                if self.end is not None and number >= self.end:
                    return False, StopIteration()
                left = None if timeout is None else timeout - (time.monotonic() - start)
                if left is not None and left <= 0:
                    raise TimeoutError(self._late(number, timeout))
                self.change.wait(left)
            self.taken += 1
            self.pending.pop(number, None)
            self.change.notify_all()
            return self.results.pop(number)

    def _late(self, number, timeout):
        busy = [
            f"thread {thread.name} is busy with {thread.doing!r}"
            for thread in self.threads
            if thread.doing is not None
        ]
        return (
            f"batch {number} is not there after {timeout:g} s"
            + (f": {', '.join(busy)}" if busy else "")
            + "; set the attribute `timeout` of the data (seconds, None: wait for ever) if it "
            "needs longer"
        )

    def stop(self):
        """Tell the threads to end after what they are doing."""
        with self.change:
            self.stopped = True
            self.results.clear()
            self.change.notify_all()

    def leave(self, patience):
        """Stop, wait for the threads, and return the jobs whose results nobody took."""
        self.stop()
        end = None if patience is None else time.monotonic() + patience
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(None if end is None else max(0.0, end - time.monotonic()))
        with self.change:
            left = [self.pending[number] for number in sorted(self.pending)]
        return left + list(reversed(self.back))


def _noted(error, thread):
    what = "" if thread.doing is None else f", busy with {thread.doing!r}"
    error.add_note(f"in the worker thread {thread.name}{what}")
    return error


@atexit.register
def _stop_all():
    """Threads inside compiled code should come out of it before the libraries are taken down."""
    crews = list(_crews)
    for crew in crews:
        crew.stop()
    end = time.monotonic() + LEAVE
    for thread in (thread for crew in crews for thread in crew.threads):
        thread.join(max(0.0, end - time.monotonic()))
