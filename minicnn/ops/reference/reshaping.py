"""Padding puts zeros around the image; upsampling repeats its pixels or blends neighbours. All of
them are linear, y = A x, so each gradient is the transposed map, dx = A^T dy.

    padding:   y[i + top, j + left] = x[i, j]       dx = dy without its border
    nearest:   y[i, j] = x[i // s, j // s]          dx[p, q] = sum of the s x s block of dy
    bilinear:  y = A x B^T                          dx = A^T dy B
               A[i, p] = max(0, 1 - |r(i) - p|)     r(i) = (i + 1/2) / s - 1/2, kept on the image

A blends rows and B columns: output pixel i has its centre at r(i) between the centres of the input
pixels (half-pixel centres, as in Keras).
"""

import numpy as np

from minicnn.ops.reference.output import deliver


def zero_pad2d(x, padding, out=None):
    """(n, h, w, c) -> (n, top + h + bottom, left + w + right, c)."""
    rows, columns = padding
    return deliver(np.pad(x, ((0, 0), rows, columns, (0, 0))), x.dtype, out)


def zero_pad2d_grad(dy, padding, out=None):
    """dx: dy without its border."""
    (top, bottom), (left, right) = padding
    h, w = dy.shape[1] - top - bottom, dy.shape[2] - left - right
    return deliver(dy[:, top : top + h, left : left + w], dy.dtype, out)


INTERPOLATIONS = ("nearest", "bilinear")


def check_interpolation(name):
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {name!r}: give one of {', '.join(INTERPOLATIONS)}.")


def interpolation_matrix(length, factor):
    """A (length factor, length): row i holds the weights of the input pixels for output pixel i."""
    centre = (np.arange(length * factor) + 0.5) / factor - 0.5
    centre = np.clip(centre, 0, length - 1)
    return np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(length)))


def upsample2d(x, size, interpolation="nearest", out=None):
    """(n, h, w, c) -> (n, h sh, w sw, c) with size = (sh, sw); "nearest" or "bilinear"."""
    check_interpolation(interpolation)
    if interpolation == "nearest":
        y = x.repeat(size[0], axis=1).repeat(size[1], axis=2)
    else:
        A, B = (interpolation_matrix(x.shape[1 + axis], size[axis]) for axis in (0, 1))
        y = np.einsum("ip,npqc,jq->nijc", A, x, B, optimize=True)
    return deliver(y, x.dtype, out)


def upsample2d_grad(dy, size, interpolation="nearest", out=None):
    """dx (n, h, w, c) from dy (n, h sh, w sw, c)."""
    check_interpolation(interpolation)
    n, h, w, c = dy.shape[0], dy.shape[1] // size[0], dy.shape[2] // size[1], dy.shape[3]
    if interpolation == "nearest":
        dx = dy.reshape(n, h, size[0], w, size[1], c).sum(axis=(2, 4))
    else:
        A, B = interpolation_matrix(h, size[0]), interpolation_matrix(w, size[1])
        dx = np.einsum("ip,nijc,jq->npqc", A, dy, B, optimize=True)
    return deliver(dx, dy.dtype, out)
