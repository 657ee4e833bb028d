"""Progress: a live line in a terminal, one plain line per epoch everywhere else."""

import importlib.util
import math
import sys
import time

import numpy as np

from minicnn.callbacks.base import Callback

_INTERVAL = 0.25  # seconds between two drawings of the live line
_BAR = (5, 30)  # narrowest and widest bar, in characters


class ProgbarLogger(Callback):
    """Shows epoch, step, time left, time per step, loss and metrics.

    The live line is drawn at most four times a second, and only in a terminal (or a notebook that
    has ipywidgets), with verbose=1; what stays of an epoch is always one line of plain text.
    ms/step leaves out the first step, in which kernels may be compiled, and validation. `fit`,
    `evaluate` and `predict` add one to every run that is not silent; predict leaves no line.
    """

    def __init__(self):
        self.console = None  # a rich Console to draw on instead of standard output's
        self.verbose, self.epochs, self.target, self.seen = 1, 1, None, 0
        self._in_fit, self._live, self._title = False, None, ""

    def set_params(self, params):
        self.params = params
        verbose = params.get("verbose", 1)
        self.verbose = 1 if verbose == "auto" else int(verbose)
        self.epochs, self.target = params.get("epochs", 1), params.get("steps")
        self._in_fit = False

    # -- hooks ------------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        self._in_fit = True

    def on_train_end(self, logs=None):
        self._in_fit = False
        self.close()

    def on_epoch_begin(self, epoch, logs=None):
        self._begin(f"Epoch {epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, batch, logs=None):
        self._step(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._end(logs)

    def on_test_begin(self, logs=None):
        if not self._in_fit:
            self._begin("Evaluate")
        elif self._live is not None:
            self._draw(note="validating")

    def on_test_batch_end(self, batch, logs=None):
        if not self._in_fit:
            self._step(batch, logs)

    def on_test_end(self, logs=None):
        if not self._in_fit:
            self._end(logs)

    def on_predict_begin(self, logs=None):
        self._begin("Predict", draw=False)  # short predictions in a loop should not flicker

    def on_predict_batch_end(self, batch, logs=None):
        self._step(batch, None)

    def on_predict_end(self, logs=None):
        self.close(keep=False)

    # -- one epoch --------------------------------------------------------------------------------

    def _begin(self, title, draw=True):
        self.close()
        self._title, self._logs, self.seen, self._bar_width = title, {}, 0, _BAR[1]
        self._start = self._first = self._last = time.perf_counter()
        self._due = self._start + _INTERVAL
        self._console = self._find_console() if self.verbose == 1 else None
        if draw and self._console is not None:
            self._draw()

    def _step(self, batch, logs):
        self._last = now = time.perf_counter()
        self.seen = batch + 1
        if self.seen == 1:
            self._first = now
        if self._console is not None and now >= self._due:
            self._logs = logs or {}
            self._due = now + _INTERVAL
            self._draw()

    def _end(self, logs):
        console = self._console
        self.close(keep=False)
        if self.verbose == 0:
            return
        spent = time.perf_counter() - self._start
        count = [] if self.target else [f"{self.seen} steps"]  # nobody knew it before
        parts = [self._title, *count, _seconds(spent), *self._rate(), *_values(logs or {})]
        if console is None or console.is_jupyter:
            print(" - ".join(parts), flush=True)
        else:
            from rich.text import Text

            line = Text.assemble((parts[0], "bold"), *(f" - {part}" for part in parts[1:]))
            console.print(line, soft_wrap=True)

    def close(self, keep=True):
        """End the live line; `keep` leaves what it shows on the screen."""
        if self._live is not None:
            self._live.transient = not keep
            self._live.stop()
            self._live = None

    def _pace(self):
        """Seconds per step, without the first one as soon as there are more."""
        if self.seen < 2:
            return self._last - self._start
        return (self._last - self._first) / (self.seen - 1)

    def _rate(self):
        """The pace as a list of one text, empty before the first step."""
        return [_per_step(self._pace())] if self.seen else []

    # -- the live line ----------------------------------------------------------------------------

    def _find_console(self):
        """The console to draw on; None where a line that changes would only do harm."""
        console = self.console
        if console is None:
            terminal = bool(getattr(sys.stdout, "isatty", bool)())
            if not terminal and "ipykernel" not in sys.modules:
                return None
            from rich.console import Console  # here, not above: it takes 50 ms to import

            # given as an argument, because rich takes FORCE_COLOR for a terminal, too
            console = Console(force_terminal=terminal, highlight=False)
        if getattr(sys.stdout, "rich_proxied_file", None) is not None:
            return None  # inside another display, as when a callback calls evaluate()
        if console.is_jupyter:
            return console if importlib.util.find_spec("ipywidgets") else None
        return console if console.is_terminal and not console.is_dumb_terminal else None

    def _draw(self, note=""):
        if self._live is None:
            from rich.live import Live

            # No thread: it is drawn by the steps. Other callbacks may print while it stands there.
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                redirect_stdout=not self._console.is_jupyter,
                redirect_stderr=bool(getattr(sys.stderr, "isatty", bool)()),
            )
            self._live.start()
        self._live.update(self._line(note), refresh=True)

    def _line(self, note):
        """Title, bar, count, time left, time per step, values: one line, cut to the width."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        left = []
        if self.target and 1 < self.seen < self.target:
            left = [f"ETA {_clock(self._pace() * (self.target - self.seen))}"]
        count = f"{self.seen}/{self.target}" if self.target else f"{self.seen} steps"
        notes = [note] if note else []
        tail = " ".join([count, *left, *self._rate(), *_values(self._logs), *notes])
        room = self._console.width - len(self._title) - len(tail) - 3
        self._bar_width = min(self._bar_width, room)  # it only shrinks, and does not dance
        if not self.target or self._bar_width < _BAR[0]:
            line = Text.assemble((self._title, "bold"), f" {tail}")
            line.no_wrap, line.overflow = True, "ellipsis"
            return line
        grid = Table.grid(padding=(0, 1, 0, 0))
        bar = ProgressBar(total=self.target, completed=self.seen, width=self._bar_width)
        grid.add_row(Text(self._title, "bold"), bar, Text(tail))
        return grid


# -- numbers as text ------------------------------------------------------------------------------


def _values(logs):
    """The numbers in the logs as "name: value", by name, those of validation last."""
    order = sorted(logs, key=lambda name: (name.startswith("val_"), name))
    return [f"{name}: {_number(name, logs[name])}" for name in order if np.size(logs[name]) == 1]


def _number(name, value):
    value = float(np.reshape(value, ()))
    decimals = value == 0 or 1e-3 <= abs(value) < 1e6 or not math.isfinite(value)
    return f"{value:.4f}" if decimals and name != "learning_rate" else f"{value:.4g}"


def _seconds(seconds):
    return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _per_step(seconds):
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        value = seconds * factor
        if value >= 1 or unit == "us":
            return f"{value:.1f}{unit}/step" if value < 9.95 else f"{value:.0f}{unit}/step"
