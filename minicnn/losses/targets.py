"""What y may look like for an output of a given shape: refused here, before anything is computed.

NumPy would broadcast y of shape (n,) against an output (n, k) and train on nonsense; a label that
is out of range would index something else. Shapes have the batch first, entries may be None.
"""

import numpy as np

from minicnn.errors import warn


def check(loss, y, shape, name, ignored=None):
    """ValueError unless y fits `loss` (a class) and an output of this shape; else None."""
    where = f"y of output {name!r}" if name else "y_true"
    if y.dtype.kind not in "fiub":
        raise ValueError(
            f"{where} holds {y.dtype}, not numbers: map class names to integers 0..k-1, convert "
            "Python objects with y.astype('float32')"
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        at = first(~np.isfinite(y))
        raise ValueError(f"{where} is {y[at]} at index {at}: remove or replace it")
    loss.kind(loss, y, tuple(shape), where, ignored)


def align(y, shape, name):
    """y in exactly this shape, from which it may differ by a last axis of 1."""
    if y.shape == shape or y.shape in (shape + (1,), shape[:-1] if shape[-1:] == (1,) else shape):
        return y.reshape(shape)
    raise ValueError(f"{name}: y_true has shape {y.shape}, these predictions need {shape}")


# -- the kinds of targets --------------------------------------------------------------------------


def numbers(loss, y, shape, where, ignored):
    """A number for each output value: regression, binary labels."""
    if fits(y.shape, shape):
        return
    expected = f"the output {show(shape)} needs y of the same shape, for {loss.__name__}"
    if is_labels(y, shape):
        raise ValueError(
            f"{where} has shape {y.shape}, one number per sample, and {expected}; for class labels "
            "use sparse_categorical_crossentropy, or y = minicnn.utils.to_categorical(y)"
        )
    raise ValueError(f"{where} has shape {y.shape}; {expected}")


def one_hot(loss, y, shape, where, ignored):
    """A distribution over the classes of the last axis for each sample."""
    if fits(y.shape, shape):
        if shape[-1] == 1:
            warn(
                f"{loss.__name__} over a single class is constant: use binary_crossentropy with "
                "one sigmoid unit, or an output for each class"
            )
        if y.size and (y.min() < 0 or y.max() > 1):
            at = first((y < 0) | (y > 1))
            warn(f"{where} is {y[at]} at index {at}: {loss.__name__} expects probabilities 0..1")
        return
    if is_labels(y, shape):
        raise ValueError(
            f"{where} has shape {y.shape}: integer labels, but {loss.__name__} needs one-hot rows "
            f"{show(shape)}; use sparse_categorical_crossentropy, or "
            f"y = minicnn.utils.to_categorical(y, {shape[-1]})"
        )
    raise ValueError(
        f"{where} has shape {y.shape}; {loss.__name__} needs the output's shape {show(shape)}"
    )


def labels(loss, y, shape, where, ignored):
    """A class number 0..k-1 for each sample, k the output's last axis."""
    classes = shape[-1]
    if not fits(y.shape, shape[:-1]):
        if fits(y.shape, shape):
            raise ValueError(
                f"{where} has shape {y.shape}: one-hot rows, but {loss.__name__} needs integer "
                f"labels {show(shape[:-1])}; use categorical_crossentropy, or y = y.argmax(-1)"
            )
        raise ValueError(
            f"{where} has shape {y.shape}; {loss.__name__} needs one integer label per sample, "
            f"{show(shape[:-1])}, for the output {show(shape)}"
        )
    if y.dtype.kind == "f" and (wrong := y != np.floor(y)).any():
        at = first(wrong)
        raise ValueError(f"{where} is {y[at]} at index {at}: labels are integers 0..k-1")
    if y.dtype.kind == "b" and classes != 2:
        warn(f"{where} holds booleans, but the output has {classes} classes")
    if classes is None or not y.size:
        return
    outside = (y < 0) | (y >= classes)
    if ignored is not None:
        outside &= y != ignored
    if outside.any():
        at, plural = first(outside), "class" if classes == 1 else "classes"
        fix = f"give the last layer {int(y.max()) + 1} units"
        if classes == 1:
            fix = "with one sigmoid unit use binary_crossentropy"
        elif y.min() >= 1 and y.max() == classes:
            fix = "your labels begin with 1: use y - 1"
        elif y.min() < 0:
            fix = "count the classes from 0"
        raise ValueError(
            f"{where} is {y[at]} at index {at}: the output has {classes} {plural}, labels are "
            f"0..{classes - 1}; {fix}"
        )


def probabilities(loss, y, shape, where, ignored):
    """As `numbers`, and every one of them in 0..1."""
    numbers(loss, y, shape, where, ignored)
    if y.size and (y.min() < 0 or y.max() > 1):
        at = first((y < 0) | (y > 1))
        warn(
            f"{where} is {y[at]} at index {at}: {loss.__name__} expects 0..1, elsewhere it has no "
            "minimum; divide pixels by 255, map labels -1, 1 to 0, 1"
        )


def check_activation(loss, activation, shape, name):
    """Warn where the name of an output's last activation and a crossentropy contradict each other.

    activation None: not known, no check. The computation is defined in all cases, as in Keras.
    """
    if activation is None or loss.expects is None:
        return
    where, kind = f"output {name!r}", type(loss).__name__
    is_probability = activation in ("softmax", "sigmoid", "hard_sigmoid")
    if activation == "softmax" and shape[-1] == 1:
        warn(f"{where}: softmax over one unit is always 1; use sigmoid with binary_crossentropy")
    elif loss.from_logits and is_probability:
        warn(
            f"{where} ends in {activation}, but {kind} has from_logits=True and applies "
            f"{loss.expects} again: leave one of the two out"
        )
    elif not loss.from_logits and not is_probability:
        warn(
            f"{where} ends in {activation}, but {kind} expects probabilities: end in "
            f"{loss.expects}, or use {kind}(from_logits=True)"
        )
    elif not loss.from_logits and loss.expects == "softmax" and activation != "softmax":
        warn(
            f"{where} ends in {activation}, which treats every class by itself, but {kind} "
            "compares them: end in softmax, or use binary_crossentropy for several labels at once"
        )


# -- shapes ----------------------------------------------------------------------------------------


def fits(given, shape):
    """Same shape (None is any size), up to a last axis of 1 that one of the two leaves out."""
    if len(given) == len(shape) - 1 and shape[-1] == 1:
        shape = shape[:-1]
    elif len(given) == len(shape) + 1 and given[-1] == 1:
        given = given[:-1]
    return len(given) == len(shape) and all(
        size in (None, length) for length, size in zip(given, shape, strict=True)
    )


def is_labels(y, shape):
    """Whether y could be class numbers for an output (..., k)."""
    several = shape and (shape[-1] is None or shape[-1] > 1)
    return several and fits(y.shape, shape[:-1])


def first(mask):
    """Index of the first True: an int for vectors, else a tuple."""
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))
    return at[0] if len(at) == 1 else at


def show(shape):
    """(None, 10) as (n, 10)."""
    sizes = ["n" if size is None else str(size) for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"
