"""What is expected of a model's outputs: per output a loss, its weight, and metrics."""

import numpy as np

from minicnn import losses, metrics
from minicnn.configurable import closest
from minicnn.data.batches import flat


class Head:
    """One output: its name, loss, loss weight, metrics, and whether its loss works on logits."""

    def __init__(self, name, shape, activation, loss, weight, plain, weighted, prefix):
        self.name, self.shape, self.weight, self.prefix = name, shape, float(weight), prefix
        self.loss, self.activation, self.from_logits = loss, None, False
        if loss is not None:
            loss.check_activation(getattr(activation, "name", None), shape, name)
        if loss is not None and _fuses(loss, activation, shape):
            self.loss, self.activation, self.from_logits = loss.on_logits(), activation, True
        self.identifiers = [(one, False) for one in plain] + [(one, True) for one in weighted]
        self.metrics = None  # resolved when the first targets are seen

    def resolve_metrics(self, y):
        """Turn "accuracy" into a class by the shapes of y and the output, once, as Keras does."""
        if self.metrics is None:
            self.metrics = [
                (metrics.resolve(identifier, y.shape, self.shape, self.loss), weighted)
                for identifier, weighted in self.identifiers
            ]

    def check(self, y):
        """Refuse targets that do not fit this output."""
        if y is None:
            raise ValueError(f"output {self.name!r} has a loss but no targets: give y")
        if self.loss is not None:
            self.loss.check(y, self.shape, self.name)
        if y.dtype.kind == "f" and not finite(y):  # metrics without a loss, losses of the user's
            raise ValueError(
                f"y of output {self.name!r} holds NaN or infinity; find it with np.isnan(y)"
            )

    def prediction(self, output):
        """What the model predicts: `output`, or the activation of it where it is logits."""
        return self.activation.forward(output)[0] if self.from_logits else output


def finite(array):
    """Whether a float array holds neither NaN nor infinity, without a temporary of its size."""
    return array.size == 0 or bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def _fuses(loss, activation, shape):
    spec = getattr(activation, "spec", None)
    if loss.fuses == "softmax":
        return spec in (("softmax", -1), ("softmax", len(shape) - 1))
    return loss.fuses == "sigmoid" and spec == ("sigmoid",)


def _per_output(value, names, what):
    """A value, list or dict given by the user -> one entry per output."""
    if isinstance(value, dict):
        for name in value:
            if name not in names:
                raise ValueError(
                    f"{what} names output {name!r}.{closest(name, names)} Outputs: {list(names)}."
                )
        return [value.get(name) for name in names]
    if isinstance(value, list | tuple):
        if len(value) != len(names):
            raise ValueError(f"{what} has {len(value)} entries for {len(names)} outputs {names}")
        return list(value)
    return [value] * len(names)


def check_loss_weights(given):
    """TypeError unless all of them are numbers (or None)."""
    for one in flat(given):
        is_number = isinstance(one, int | float | np.number) and not isinstance(one, bool)
        if one is not None and not is_number:
            raise TypeError(
                f"loss_weights holds a number for each output, not {one!r}; metrics are given by "
                "name: compile(optimizer, loss, metrics=[...])"
            )


def make_heads(model, loss, loss_weights, plain, weighted):
    """The heads of a built model for what `compile` was given."""
    names = model.output_names
    single = len(names) == 1
    per_loss = _per_output(loss, names, "loss")
    per_weight = _per_output(loss_weights, names, "loss_weights")
    plains = _metric_lists(plain, names, "metrics")
    weighteds = _metric_lists(weighted, names, "weighted_metrics")
    return [
        Head(
            name,
            model.outputs[i].shape,
            model.output_activation(i),
            losses.get(per_loss[i]),
            1.0 if per_weight[i] is None else per_weight[i],
            plains[i],
            weighteds[i],
            "" if single else f"{name}_",
        )
        for i, name in enumerate(names)
    ]


def _metric_lists(value, names, what):
    """Metrics per output as lists; one output takes "m", [m, ...] or [[m, ...]]."""
    if isinstance(value, dict):
        entries = _per_output(value, names, what)
    elif len(names) == 1:
        nested = isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple)
        entries = [value[0] if nested else value]
    elif value is None or (isinstance(value, list | tuple) and len(value) == len(names)):
        entries = value or [None] * len(names)
    else:
        raise ValueError(
            f"{what} is a dict by output name or a list with one entry for each of the outputs "
            f"{names}, not {value!r}"
        )
    return [
        [] if one is None else list(one) if isinstance(one, list | tuple) else [one]
        for one in entries
    ]


def by_output(structure, heads, what):
    """Targets or sample weights as a list, one entry per output."""
    if isinstance(structure, dict):
        names = [head.name for head in heads]
        for name in structure:
            if name not in names:
                raise ValueError(
                    f"{what} names output {name!r}.{closest(name, names)} Outputs: {names}."
                )
        return [structure.get(name) for name in names]
    if what == "sample_weight" and not isinstance(structure, list):
        return [structure] * len(heads)
    entries = flat(structure) if structure is not None else [None] * len(heads)
    if len(entries) != len(heads):
        raise ValueError(
            f"{what} has {len(entries)} arrays for {len(heads)} outputs "
            f"{[head.name for head in heads]}"
        )
    return entries
