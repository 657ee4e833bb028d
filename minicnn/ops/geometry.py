"""What affine transforms of pictures accept; the same for both sets of operations."""

import numpy as np

FILL_MODES = ("reflect", "mirror", "nearest", "wrap", "grid-wrap", "constant", "grid-constant")


def check_affine(matrices, n, fill_mode, interpolation):
    """The matrices as float64, after a look at all arguments of an affine transform."""
    matrices = np.asarray(matrices, np.float64)
    if matrices.shape != (n, 2, 3):
        raise ValueError(f"matrices have shape {matrices.shape}: {n} pictures need ({n}, 2, 3).")
    if not np.isfinite(matrices).all():
        raise ValueError("matrices hold NaN or infinity: give finite numbers.")
    if fill_mode not in FILL_MODES:
        raise ValueError(f"fill_mode is {fill_mode!r}: give one of {', '.join(FILL_MODES)}.")
    if interpolation not in ("bilinear", "nearest"):
        raise ValueError(f"interpolation is {interpolation!r}: give bilinear or nearest.")
    return matrices
