"""Every hand-written gradient against central differences, in float64.

For one number w the loss is computed at w + e and w - e; (L(w + e) - L(w - e)) / 2e must agree
with what backward says. Dropout and batch statistics are the same in all these computations.
Where w itself lies at a kink (ReLU of 0, equal maxima), a difference to one side may agree instead;
if both differ, the gradient is a convention there, and the number is left out.
"""

import contextlib
from dataclasses import dataclass

import numpy as np

from minicnn.context import Context
from minicnn.data.batches import as_arrays
from minicnn.layers.base import Layer
from minicnn.models.heads import by_output
from minicnn.models.model import Model

# dL/dw = sum over k of coefficient L(w + k e) / e, with an error of order e^2
CENTRAL = {1: 0.5, -1: -0.5}
ONE_SIDED = ({0: -1.5, 1: 2.0, 2: -0.5}, {0: 1.5, -1: -2.0, -2: 0.5})


@dataclass
class GradientRow:
    """One checked array: its name and shape, entries compared, the worst relative error."""

    name: str
    shape: tuple
    entries: int
    error: float
    passed: bool
    largest: float  # largest gradient seen; 0.0 means that the check saw nothing


class GradientReport(list):
    """Rows of a gradient check; true when all passed."""

    @property
    def passed(self):
        return all(row.passed for row in self)

    def __bool__(self):
        return self.passed


def check_gradients(
    model_or_layer,
    x,
    y=None,
    sample_weight=None,
    training=True,
    epsilon=1e-6,
    tolerance=1e-6,
    entries=20,
    seed=0,
    verbose=True,
):
    """Compare the gradients of x and of every trainable weight with central differences.

    A compiled model with y is checked through its loss and regularisers; a layer, or a model
    without y, through a random weighted sum of its outputs. `entries` numbers per array are
    compared (the largest gradients and random ones). The relative error is |a - n| over the
    larger of |a|, |n| and a thousandth of the array's largest gradient; at most `tolerance` passes,
    beyond what rounding of the loss explains. Prints a table; returns a GradientReport, which is
    true if all passed. Weights are left as they were.
    """
    # Not default_rng(seed): x is often made by just that, and must not equal the projections.
    generator = np.random.default_rng([seed, 1])
    if not isinstance(model_or_layer, Layer):
        raise TypeError(f"check_gradients takes a model or a layer, not {model_or_layer!r}")
    many = isinstance(x, list | tuple)
    inputs = [np.array(one, np.float64) for one in (x if many else [x])]
    model_or_layer.ensure_built([one.shape for one in inputs] if many else inputs[0].shape)
    with _double_precision(model_or_layer):
        check = _Check(
            model_or_layer, inputs, many, as_arrays(y), sample_weight, training, generator
        )
        report = check.run(epsilon, tolerance, entries)
    if verbose:
        _print(report, model_or_layer.name)
    return report


class _Check:
    """The function whose gradient is checked."""

    def __init__(self, layer, inputs, many, y, sample_weight, training, generator):
        self.layer, self.inputs, self.many, self.generator = layer, inputs, many, generator
        self.training = training
        self.with_loss = y is not None
        if self.with_loss:
            if not isinstance(layer, Model):
                raise ValueError("y is given, but a layer has no loss: leave y out")
            heads = layer.heads
            self.targets = by_output(y, heads, "y")
            self.sample_weight = by_output(sample_weight, heads, "sample_weight")
            for head, target in zip(heads, self.targets, strict=True):
                head.check(target)
        self.projections = None
        self.magnitude = 0.0  # of the numbers that the loss is a sum of

    def value(self, keep=False):
        """(loss, gradients of the outputs, saved) at the current weights and inputs."""
        logits = frozenset()
        if self.with_loss:
            logits = frozenset(i for i, h in enumerate(self.layer.heads) if h.from_logits)
        context = Context(
            training=self.training,
            keep=keep,
            seed=1,
            logits=logits,
            penalties=[],
            frozen_state=True,
        )
        x = self.inputs if self.many else self.inputs[0]
        outputs, saved = self.layer.forward(x, context)
        arrays = outputs if isinstance(outputs, list) else [outputs]
        if self.with_loss:
            loss, dy = self.layer._loss_and_grad(outputs, self.targets, self.sample_weight)
            loss += sum(context.penalties) + sum(self.layer.losses)
            self.magnitude = max(abs(loss), *(float(np.abs(y).max(initial=0)) for y in arrays))
            return loss, dy, saved
        if self.projections is None:
            self.projections = [self.generator.normal(size=y.shape) for y in arrays]
        terms = [y * p for y, p in zip(arrays, self.projections, strict=True)]
        loss = sum(float(np.sum(term)) for term in terms) + sum(context.penalties)
        self.magnitude = abs(loss) + sum(float(np.sum(np.abs(term))) for term in terms)
        return loss, self.projections if len(arrays) > 1 else self.projections[0], saved

    def run(self, epsilon, tolerance, entries):
        parameters = self.layer.trainable_weights
        for parameter in parameters:
            parameter.grad = np.zeros_like(parameter.value)
        _, dy, saved = self.value(keep=True)
        dx = self.layer.backward(dy, saved, True)
        if self.with_loss:
            for parameter in parameters:
                if parameter.regularizer is not None:
                    parameter.accumulate(parameter.regularizer.grad(parameter.value))
        names = ["x"] if len(self.inputs) == 1 else [f"x[{i}]" for i in range(len(self.inputs))]
        dx = dx if isinstance(dx, list) else [dx]
        checked = [*zip(names, self.inputs, dx, strict=True)]
        checked += [(p.name, p.value, p.grad) for p in parameters]
        return GradientReport(
            self._compare(name, array, gradient, epsilon, tolerance, entries)
            for name, array, gradient in checked
        )

    def _compare(self, name, array, gradient, epsilon, tolerance, entries):
        gradient = np.zeros_like(array) if gradient is None else np.asarray(gradient)
        if gradient.shape != array.shape:
            return GradientRow(name, array.shape, 0, np.inf, False, 0.0)
        flat_array, flat_gradient = array.reshape(-1), gradient.reshape(-1)
        largest = float(np.abs(flat_gradient).max(initial=0.0))
        chosen = self._choose(flat_gradient, entries)
        compared = [
            self._compare_entry(flat_array, i, flat_gradient[i], epsilon, tolerance, largest)
            for i in chosen
        ]
        errors = [error for error, _ in compared if error is not None]
        agreed = [agrees for error, agrees in compared if error is not None]
        passed = all(agreed) and (bool(agreed) or not compared)
        worst = max(errors, default=0.0)
        return GradientRow(name, array.shape, len(errors), worst, passed, largest)

    def _compare_entry(self, array, index, analytic, epsilon, tolerance, largest):
        """Relative error of one number, and whether it is small enough; (None, None) at a kink."""

        def error(rule, step):
            numeric = self._difference(array, index, rule, step)
            # The losses are sums of terms rounded in their last bits: the division magnifies that.
            noise = 4e-16 * sum(map(abs, rule.values())) * self.magnitude / step
            scale = max(abs(analytic), abs(numeric), 1e-3 * largest, 1e-12)
            relative = float(abs(analytic - numeric) / scale)
            return relative, relative <= tolerance + noise / scale, numeric

        # A kink (ReLU, max) between w - e and w + e spoils one step size, hardly two.
        attempts = []
        for step in (epsilon, epsilon / 16, epsilon * 16):
            attempts.append(error(CENTRAL, step))
            if attempts[-1][1]:
                return attempts[-1][:2]
        right, left = (error(rule, epsilon) for rule in ONE_SIDED)
        for one in (right, left):
            if one[1]:
                return one[:2]
        if abs(right[2] - left[2]) > 1e-3 * max(abs(right[2]), abs(left[2]), 1e-3 * largest):
            return None, None
        return min(attempts)[:2]

    def _difference(self, array, index, rule, step):
        """The numeric derivative with respect to one number, which is put back."""
        before, numeric = array[index], 0.0
        for steps, coefficient in rule.items():
            array[index] = before + steps * step
            numeric += coefficient * self.value()[0] / step
        array[index] = before
        return numeric

    def _choose(self, gradient, entries):
        if gradient.size <= entries:
            return range(gradient.size)
        top = np.argsort(-np.abs(gradient), kind="stable")[: entries // 2]
        rest = self.generator.choice(gradient.size, entries, replace=False)
        return list(dict.fromkeys([*top.tolist(), *rest.tolist()]))[:entries]


@contextlib.contextmanager
def _double_precision(layer):
    """All weights of a layer and its parts as float64; afterwards the old arrays again."""
    types = [(one, one.dtype) for one in layer.parts()]
    arrays = [(p, p.value, p.grad) for p in layer.weights]
    try:
        for one, _ in types:
            one.dtype = "float64"
        for parameter, value, _ in arrays:
            parameter.value = value.astype(np.float64)
        yield
    finally:
        for one, dtype in types:
            one.dtype = dtype
        for parameter, value, gradient in arrays:
            parameter.value, parameter.grad = value, gradient


def _print(report, name):
    from rich.console import Console  # 60 ms of import that a training script need not pay
    from rich.table import Table

    table = Table(title=f"Gradient check of {name}: hand-written against central differences")
    table.add_column("parameter", overflow="fold")
    table.add_column("shape")
    table.add_column("entries", justify="right")
    table.add_column("worst relative error", justify="right")
    table.add_column("verdict")
    for row in report:
        error = f"{row.error:.1e}" if np.isfinite(row.error) else "wrong shape"
        verdict = "[green]ok[/]" if row.passed else "[red]WRONG[/]"
        if not row.passed and not row.entries and np.isfinite(row.error):
            verdict = "[red]UNDECIDED: kinks[/]"
        if row.passed and row.largest == 0.0:
            verdict = "ok (gradient is zero)"
        table.add_row(row.name, str(row.shape), str(row.entries), error, verdict)
    Console().print(table)


__all__ = ["GradientReport", "GradientRow", "check_gradients"]
