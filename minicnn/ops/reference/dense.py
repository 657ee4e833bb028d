"""A dense layer is one matrix product, and so is each of its gradients. The bias is added to every
row, so its gradient is the sum of the rows.

    y = x K + b        dx = dy K^T        dK = x^T dy        db = sum over rows of dy
"""

import numpy as np

from minicnn.ops.reference.elementwise import activate
from minicnn.ops.reference.output import deliver


def dense(x, kernel, bias=None, activation=None, out=None):
    """y = activation(x kernel + bias): (m, k), (k, n) -> (m, n)."""
    y = x @ kernel
    if bias is not None:
        y += bias
    if activation is not None:
        y = activate(y, activation)
    return deliver(y, x.dtype, out)


def dense_input_grad(dy, kernel, out=None):
    """dx (m, k) = dy (m, n) kernel^T."""
    return deliver(dy @ kernel.T, dy.dtype, out)


def dense_kernel_grad(x, dy, out=None):
    """dkernel (k, n) = x^T dy."""
    return deliver(x.T @ dy, x.dtype, out)


def bias_grad(dy, out=None):
    """db (n,): dy (..., n) summed over all axes but the last."""
    db = dy.reshape(-1, dy.shape[-1]).sum(axis=0, dtype=np.float64)
    return deliver(db, dy.dtype, out)
