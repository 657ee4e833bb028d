"""The progress display, in a make-believe terminal and in a file."""

import io
import re
import sys

import numpy as np
import pytest
from rich.console import Console

from minicnn.callbacks import CallbackList, LambdaCallback, ProgbarLogger, display

TRAIN = {"loss": 1.3456, "accuracy": 0.5123}
ALL = {**TRAIN, "val_loss": 1.25, "val_accuracy": 0.55}
NUMBERS = "accuracy: 0.5123 - loss: 1.3456 - val_accuracy: 0.5500 - val_loss: 1.2500"


class Model:
    stop_training = False


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test moves it."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


class Terminal:
    """A console of 80 columns on a string, and what is on its screen."""

    def __init__(self):
        self.file = io.StringIO()
        self.console = Console(
            force_terminal=True, file=self.file, width=80, force_jupyter=False, color_system=None
        )
        self.logger = ProgbarLogger()
        self.logger.console = self.console

    @property
    def text(self):
        return self.file.getvalue()

    def drawings(self):
        """Lines of the live display, in the order drawn."""
        parts = re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", self.text)
        return [part.rstrip() for part in parts if part.startswith(("Epoch", "Evaluate", "Pred"))]

    def screen(self):
        """The lines that stay: carriage return, cursor up and erase are carried out."""
        lines, row = [""], 0
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.text):
            if token == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif token == "\x1b[1A":
                row -= 1
            elif token == "\x1b[2K":
                lines[row] = ""
            elif token == "\r" or token in ("\x1b[?25l", "\x1b[?25h"):
                continue  # everything that is written here fills a line or erases it before
            else:
                assert "\x1b" not in token, f"unexpected control sequence {token!r}"
                lines[row] += token
        return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def terminal():
    return Terminal()


def train(callbacks, clock, epochs=2, steps=10, known=True, verbose=1, first=5.0):
    """`epochs` epochs of steps of 40 ms, the first one `first` seconds, then 2 s of validation."""
    run = CallbackList(
        callbacks,
        add_progbar=True,
        model=Model(),
        epochs=epochs,
        steps=steps if known else None,
        verbose=verbose,
    )
    with run:
        run.on_train_begin()
        for epoch in range(epochs):
            run.on_epoch_begin(epoch)
            for step in range(steps):
                clock.now += first if step == 0 else 0.04
                run.on_train_batch_end(step, dict(TRAIN))
            run.on_test_begin()
            clock.now += 2.0
            run.on_test_batch_end(0, dict(TRAIN))
            run.on_test_end(dict(TRAIN))
            run.on_epoch_end(epoch, dict(ALL))
        run.on_train_end()


# -- not a terminal -------------------------------------------------------------------------------


def test_a_file_gets_one_plain_line_per_epoch(clock, tmp_path, monkeypatch):
    path = tmp_path / "log.txt"
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich alone would take the file for a terminal
    with open(path, "w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        train(None, clock, epochs=3)
    written = path.read_bytes()
    assert sum(byte < 32 and byte != 10 for byte in written) == 0
    assert written.decode().splitlines() == [
        f"Epoch {epoch}/3 - 7.4s - 40ms/step - {NUMBERS}" for epoch in (1, 2, 3)
    ]


def test_verbose_2_is_plain_in_a_terminal_too(clock, terminal, capsys):
    train(terminal.logger, clock, verbose=2)
    assert terminal.text == ""
    assert capsys.readouterr().out.count("\n") == 2


def test_verbose_0_is_silent(clock, terminal, capsys):
    train(terminal.logger, clock, verbose=0)
    assert terminal.text == capsys.readouterr().out == ""


def test_unknown_number_of_steps(clock, capsys):
    train(None, clock, epochs=1, known=False)
    assert capsys.readouterr().out == f"Epoch 1/1 - 10 steps - 7.4s - 40ms/step - {NUMBERS}\n"


def test_one_step_is_its_own_estimate(clock, capsys):
    train(None, clock, epochs=1, steps=1, first=0.5)
    assert " - 500ms/step - " in capsys.readouterr().out


def test_evaluate_is_one_line_and_predict_none(clock, capsys):
    run = CallbackList(None, add_progbar=True, model=Model(), epochs=1, steps=2, verbose=1)
    run.on_test_begin()
    for step in range(2):
        clock.now += 0.25
        run.on_test_batch_end(step, dict(TRAIN))
    run.on_test_end(dict(TRAIN))
    run.on_predict_begin()
    run.on_predict_batch_end(0, {"outputs": 0})
    run.on_predict_end()
    assert (
        capsys.readouterr().out
        == "Evaluate - 0.5s - 250ms/step - accuracy: 0.5123 - loss: 1.3456\n"
    )


def test_a_notebook_without_widgets_gets_plain_lines(clock, capsys, monkeypatch):
    logger = ProgbarLogger()
    logger.console = Console(force_jupyter=True)
    monkeypatch.setattr(display.importlib.util, "find_spec", lambda name: None)
    train(logger, clock)
    assert capsys.readouterr().out.count("\n") == 2


# -- a terminal -----------------------------------------------------------------------------------


def test_a_terminal_shows_a_live_line_and_keeps_the_last(clock, terminal):
    train(terminal.logger, clock, epochs=2, steps=20)
    drawn = terminal.drawings()
    assert drawn[0].endswith(" 0/20")
    middle = next(line for line in drawn if " 8/20 " in line)
    assert re.fullmatch(
        r"Epoch 1/2 [━╸╺ ]+ 8/20 ETA 0:00 40ms/step accuracy: 0.5123 loss: 1.3456", middle
    )
    assert all(len(line) <= 80 for line in drawn if "val_" not in line)
    assert any(line.endswith("validating") for line in drawn)
    assert terminal.screen() == [
        f"Epoch 1/2 - 7.8s - 40ms/step - {NUMBERS}",
        f"Epoch 2/2 - 7.8s - 40ms/step - {NUMBERS}",
    ]
    assert terminal.text.count("\x1b[?25h") == terminal.text.count("\x1b[?25l") > 0


def test_at_most_four_drawings_a_second(clock, terminal):
    run = CallbackList(
        terminal.logger, add_progbar=True, model=Model(), epochs=1, steps=1000, verbose=1
    )
    run.on_train_begin()
    run.on_epoch_begin(0)
    for step in range(1000):
        clock.now += 0.01
        run.on_train_batch_end(step, dict(TRAIN))
    assert 20 <= len(terminal.drawings()) <= 42  # in 10 seconds
    run.on_epoch_end(0, dict(TRAIN))


def test_time_left_does_not_count_the_first_step(clock, terminal):
    run = CallbackList(terminal.logger, model=Model(), epochs=1, steps=101, verbose=1)
    run.on_train_begin()
    run.on_epoch_begin(0)
    for step in range(11):
        clock.now += 60.0 if step == 0 else 1.0
        run.on_train_batch_end(step, dict(TRAIN))
    run.on_epoch_end(0, dict(TRAIN))
    assert " 11/101 ETA 1:30 1.0s/step " in terminal.drawings()[-2]


def test_unknown_number_of_steps_in_a_terminal(clock, terminal):
    train(terminal.logger, clock, epochs=1, known=False)
    assert any(re.match(r"Epoch 1/1 8 steps 40ms/step acc", one) for one in terminal.drawings())


def test_what_callbacks_print_stands_above_the_line(clock, terminal):
    speaker = LambdaCallback(
        on_train_batch_end=lambda batch, logs: print("step", batch) if batch == 3 else None,
        on_epoch_end=lambda epoch, logs: print("saved"),
    )
    train([speaker, terminal.logger], clock, epochs=1)
    screen = terminal.screen()
    assert screen == ["step 3", "saved", f"Epoch 1/1 - 7.4s - 40ms/step - {NUMBERS}"]


def test_an_error_gives_the_terminal_back(clock, terminal):
    def fail(batch, logs):
        if batch == 3:
            raise KeyboardInterrupt

    before = sys.stdout
    with pytest.raises(KeyboardInterrupt):
        train([LambdaCallback(on_train_batch_end=fail), terminal.logger], clock)
    assert sys.stdout is before
    assert terminal.text.count("\x1b[?25h") == terminal.text.count("\x1b[?25l") == 1
    assert len(terminal.screen()) == 1  # how far it came stays to be read


def test_evaluate_inside_a_callback_is_a_plain_line_above(clock, terminal):
    def evaluate(epoch, logs):
        inner = CallbackList(None, add_progbar=True, model=Model(), epochs=1, steps=1, verbose=1)
        inner.on_test_begin()
        inner.on_test_batch_end(0, dict(TRAIN))
        inner.on_test_end(dict(TRAIN))

    train([LambdaCallback(on_epoch_end=evaluate), terminal.logger], clock, epochs=1)
    screen = terminal.screen()
    assert len(screen) == 2
    assert screen[0].startswith("Evaluate - ") and screen[1].startswith("Epoch 1/1 - ")


def test_predict_shows_nothing_when_it_is_quick_and_leaves_nothing(clock, terminal):
    run = CallbackList(terminal.logger, model=Model(), epochs=1, steps=20, verbose=1)
    run.on_predict_begin()
    run.on_predict_batch_end(0, {})
    run.on_predict_end()
    assert terminal.text == ""
    run.on_predict_begin()
    for step in range(20):
        clock.now += 0.1
        run.on_predict_batch_end(step, {})
    run.on_predict_end()
    assert terminal.drawings() and terminal.screen() == []


def test_many_metrics_are_cut_to_the_width(clock, terminal):
    logs = {f"metric_number_{i}": 0.5 for i in range(10)}
    run = CallbackList(terminal.logger, model=Model(), epochs=1, steps=3, verbose=1)
    run.on_train_begin()
    run.on_epoch_begin(0)
    clock.now += 1.0
    run.on_train_batch_end(0, logs)
    line = terminal.drawings()[-1]
    assert len(line) == 80 and line.endswith("…")
    run.on_epoch_end(0, logs)


@pytest.mark.parametrize(
    ("logs", "text"),
    [
        ({"loss": 0.0}, "loss: 0.0000"),
        ({"b": -2, "val_a": 1, "a": 0.5}, "a: 0.5000 b: -2.0000 val_a: 1.0000"),
        ({"loss": 1e-4}, "loss: 0.0001"),
        ({"loss": 1.234567e-7}, "loss: 1.235e-07"),
        ({"loss": 1.5e9}, "loss: 1.5e+09"),
        ({"loss": float("nan"), "mse": float("inf")}, "loss: nan mse: inf"),
        ({"learning_rate": 0.00625}, "learning_rate: 0.00625"),
        ({"one": np.float32(0.5), "counts": np.zeros((2, 2))}, "one: 0.5000"),
    ],
)
def test_values(logs, text):
    assert " ".join(display._values(logs)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (32.0, "32s/step"),
        (1.25, "1.2s/step"),
        (0.0412, "41ms/step"),
        (0.0041, "4.1ms/step"),
        (0.00041, "410us/step"),
        (2e-7, "0.2us/step"),
        (0.0, "0.0us/step"),
    ],
)
def test_time_per_step(seconds, text):
    assert display._per_step(seconds) == text
