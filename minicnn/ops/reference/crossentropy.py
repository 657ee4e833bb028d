"""The crossentropy of a softmax, computed from the logits x (n, c), and its gradient.

    q_i = exp(x_i) / sum_j exp(x_j)         log q_i = z_i - log sum_j exp(z_j),  z = x - max x
    l = -sum_i t_i log q_i                  dl/dx_i = q_i sum_j t_j - t_i

The targets t may sum to any number. Exact for any logits: no probability is rounded before its
logarithm is taken.
"""

import numpy as np

from minicnn.ops.reference.output import deliver


# NaN and infinity travel on into value and gradient: no warning here.
@np.errstate(invalid="ignore", over="ignore", divide="ignore")
def softmax_crossentropy(x, targets, factors, smoothing=0.0, out=None):
    """l (n,) in float64, and factors[i] dl_i/dx_i (n, c) in x's type; None where factors is None.

    targets: distributions (n, c), or integer labels (n,); the row of a label outside 0..c-1 has
    value and gradient 0. smoothing s: t (1 - s) + s / c instead of t. A target of 0 counts 0 even
    where log q is infinite. All arithmetic is in float64.
    """
    classes = x.shape[1]
    labels = targets[:, None] if targets.ndim == 1 else None
    t = targets if labels is None else labels == np.arange(classes)
    t = t.astype(np.float64) * (1 - smoothing) + smoothing / classes
    z = x.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    e = np.exp(z)
    total = e.sum(axis=1, keepdims=True)
    log_q = z - np.log(total)
    values = -np.multiply(t, log_q, where=(t != 0) | np.isnan(log_q), out=np.zeros(t.shape)).sum(1)
    gradient = e / total * t.sum(axis=1, keepdims=True) - t
    if labels is not None:
        known = (labels >= 0) & (labels < classes)
        values, gradient = np.where(known[:, 0], values, 0), np.where(known, gradient, 0)
    if factors is None:
        return values, None
    return values, deliver(gradient * factors[:, None], x.dtype, out)
