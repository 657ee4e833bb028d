"""Checks of a model as it stands: nothing is trained here. A head is what an output should be."""

import math

import numpy as np

from minicnn.checks import arrays
from minicnn.checks.findings import Finding
from minicnn.context import Context
from minicnn.layers.normalization import BatchNormalization
from minicnn.metrics.classification import percent

DEAD = 0.5  # share of units in a layer


def classes_of(heads, y):
    """Class numbers, if this is a classification with one output; else None."""
    if len(heads) != 1 or heads[0].loss is None or isinstance(y, dict | list) or y is None:
        return None
    if heads[0].loss.expects is None and heads[0].shape[-1] < 2:
        return None
    return None if y.ndim > 2 else arrays.class_numbers(y)


def _outputs(model, x):
    """[(layer, output)] of a pass over x in inference mode, without those of inner models."""
    seen = []

    def watch(layer, y):
        if not hasattr(layer, "graph"):
            seen.append((layer, y))

    # Infinity is a finding, not a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        model.forward(model.cast_inputs(x), Context(watch=watch))
    return seen


def check_input_scale(model, x):
    """The input of the first layer with weights: what stands before may scale itself."""
    given, what = model.cast_inputs(x), "the input"
    for layer, y in _outputs(model, x):
        if isinstance(layer, BatchNormalization):
            return Finding("input scale", "pass", f"{layer.name!r} normalises the input")
        if layer.trainable_weights or np.ndim(y) != np.ndim(given):
            break
        given, what = y, f"what {layer.name!r} gives"
    return arrays.check_scale(given, what=what)


def ignorant_loss(head, y, classes):
    """(loss of saying nothing in particular, the same in words, loss of knowing class shares).

    Softmax over k: 1 / k each, crossentropy ln k. Sigmoid: 1 / 2. Regression: the mean of y.
    """
    loss, shape = head.loss, (len(y), *head.shape[1:])
    expects = loss.expects
    if expects is None:
        mean = np.broadcast_to(np.mean(y, axis=0, keepdims=True, dtype=np.float64), y.shape)
        value = float(loss(y, np.broadcast_to(mean.reshape(len(y), -1), shape)))
        return value, "the loss of always saying the mean of y", 0.0
    even = 0.5 if expects == "sigmoid" else 1 / shape[-1]
    even = 0.0 if getattr(loss, "from_logits", False) else even
    value = float(loss(y, np.full(shape, even)))
    k = 2 if expects == "sigmoid" else shape[-1]
    if abs(value - math.log(k)) > 1e-3 * abs(value) or classes is None:
        return value, "the loss of an even guess", 0.0
    shares = np.bincount(classes) / len(classes)
    entropy = float(-np.sum(shares * np.log(np.where(shares > 0, shares, 1))))
    told = f"ln {k}"
    if entropy < 0.98 * value:
        told += f" ({entropy:.4g} once the classes' shares are learnt)"
    return value, told, min(value, entropy)


def check_first_loss(first, penalty, head, y, classes):
    """An untrained network knows nothing: ln k for k classes, more is a fault."""
    name = "first loss"
    guess, what, least = ignorant_loss(head, y, classes)
    figures = {"first_loss": first, "guess": guess}
    measured = f"{first:.4g}" + (f" besides penalties of {penalty:.3g}" if penalty else "")
    expected = f"near {guess:.4g}, {what}"
    if not math.isfinite(first) or first > 4 * guess + 1:
        return Finding(
            name,
            "fail",
            measured,
            expected,
            "scale the input to about -1..1; look at the initialisers, and whether the last "
            "activation suits the loss",
            figures,
        )
    # Glorot weights behind a batch normalisation make logits of about +-1.5 themselves.
    if first > guess + 1.25:
        advice = "outputs are large before any training: input scale, initialisers"
    elif first < least * 0.5:
        advice = "less than not knowing anything allows: is y, or what follows from it, in x?"
    else:
        return Finding(name, "pass", measured, expected, figures=figures)
    return Finding(name, "warn", measured, expected, advice, figures)


def dead_units(model, x):
    """(layer, dead units, units) of every layer with weights or an activation, on inputs x.

    A unit, channel of a picture, is dead where its output is one number for all inputs.
    """
    found = []
    for layer, y in _outputs(model, x):
        active = layer.weights or type(layer).__name__ in ("ReLU", "LeakyReLU", "Activation")
        if active and isinstance(y, np.ndarray) and y.ndim >= 2 and len(y) > 1:
            rows = y.reshape(-1, y.shape[-1])
            dead = rows.max(axis=0) == rows.min(axis=0)
            found.append((layer, int(dead.sum()), rows.shape[1]))
    return found


def check_dead(worst):
    """The verdict on the worst layer, (share, layer, dead, units, when) or None."""
    name, expected = "dead units", f"less than {percent(DEAD)} of a layer's units"
    if worst is None:
        return Finding(name, "skipped", "no layer with weights, or a single input")
    share, layer, dead, units, when = worst
    if not dead:
        return Finding(name, "pass", "every unit answers to its input", expected)
    measured = f"{dead} of {units} units of {layer.name!r} are constant {when}"
    verdict = "fail" if dead == units else "warn" if share >= DEAD else "pass"
    advice = "a lower learning rate, scaled inputs, he_normal initialisers or LeakyReLU"
    return Finding(name, verdict, measured, expected, advice if verdict != "pass" else "")
