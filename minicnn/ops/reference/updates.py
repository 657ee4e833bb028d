"""One step of each optimiser, element by element: a new value from the old one and its gradient.

These ops are the exception to the rule that an op writes nothing but `out`: they change `value` and
the slots (what the optimiser remembers of earlier steps) in place, because both fill one flat
buffer for a whole model. All arrays are 1-D, of one length and dtype; g is the gradient.

Sources: optimizers/*.py, where each rule has its paper.
"""

import numpy as np

__all__ = [
    "adadelta_update",
    "adagrad_update",
    "adam_update",
    "adamax_update",
    "average_update",
    "lion_update",
    "momentum_update",
    "nadam_update",
    "rmsprop_update",
    "sgd_update",
    "sum_of_squares",
]


def sgd_update(value, g, rate):
    """value -= rate g."""
    value -= rate * g


def momentum_update(value, g, velocity, rate, momentum, nesterov):
    """v = momentum v - rate g; value += v, or with nesterov value += momentum v - rate g."""
    velocity[...] = momentum * velocity - rate * g
    value += momentum * velocity - rate * g if nesterov else velocity


def rmsprop_update(value, g, square, momentum, mean, rate, rho, beta, epsilon):
    """s = rho s + (1 - rho) g^2; value -= rate g / sqrt(s + epsilon).

    mean (or None): a = rho a + (1 - rho) g, and s - a^2 under the root instead of s.
    momentum (or None): m = beta m + step; value -= m instead of the step.
    """
    square[...] = rho * square + (1 - rho) * g * g
    variance = square
    if mean is not None:
        mean[...] = rho * mean + (1 - rho) * g
        variance = square - mean * mean
    step = rate * g / np.sqrt(variance + epsilon)
    if momentum is not None:
        momentum[...] = beta * momentum + step
        step = momentum
    value -= step


def adam_update(value, g, m, v, v_max, rate, beta_1, beta_2, epsilon):
    """m += (1 - beta_1)(g - m); v += (1 - beta_2)(g^2 - v); value -= rate m / (sqrt(v) + epsilon).

    rate holds the correction for the zeros that m and v start from. v_max (or None): the largest v
    so far, taken instead of v.
    """
    m += (1 - beta_1) * (g - m)
    v += (1 - beta_2) * (g * g - v)
    if v_max is not None:
        v = np.maximum(v_max, v, out=v_max)
    value -= rate * m / (np.sqrt(v) + epsilon)


def adamax_update(value, g, m, u, rate, beta_1, beta_2, epsilon):
    """m += (1 - beta_1)(g - m); u = max(beta_2 u, |g|); value -= rate m / (u + epsilon)."""
    m += (1 - beta_1) * (g - m)
    np.maximum(beta_2 * u, np.abs(g), out=u)
    value -= rate * m / (u + epsilon)


def nadam_update(value, g, m, v, rate, beta_1, beta_2, epsilon, ahead, now, correction):
    """Adam looking ahead: value -= rate (ahead m + now g) / (sqrt(correction v) + epsilon)."""
    m += (1 - beta_1) * (g - m)
    v += (1 - beta_2) * (g * g - v)
    value -= rate * (ahead * m + now * g) / (np.sqrt(correction * v) + epsilon)


def adagrad_update(value, g, square, rate, epsilon):
    """s += g^2; value -= rate g / sqrt(s + epsilon)."""
    square += g * g
    value -= rate * g / np.sqrt(square + epsilon)


def adadelta_update(value, g, square, square_step, rate, rho, epsilon):
    """s = rho s + (1 - rho) g^2; step = sqrt(d + eps) / sqrt(s + eps) g; value -= rate step;
    d = rho d + (1 - rho) step^2.
    """
    square[...] = rho * square + (1 - rho) * g * g
    step = np.sqrt(square_step + epsilon) / np.sqrt(square + epsilon) * g
    square_step[...] = rho * square_step + (1 - rho) * step * step
    value -= rate * step


def lion_update(value, g, m, rate, beta_1, beta_2):
    """value -= rate sign(beta_1 m + (1 - beta_1) g); m = beta_2 m + (1 - beta_2) g."""
    value -= rate * np.sign(beta_1 * m + (1 - beta_1) * g)
    m[...] = beta_2 * m + (1 - beta_2) * g


def average_update(average, value, momentum):
    """average = momentum average + (1 - momentum) value."""
    average[...] = momentum * average + (1 - momentum) * value


def sum_of_squares(x):
    """The sum of x^2 as a float, added up in float64."""
    return float(np.sum(np.square(x, dtype=np.float64)))
