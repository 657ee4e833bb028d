"""Predictions averaged over several views of each picture (test-time augmentation)."""

import numpy as np


def predict_views(model, x, mirror=True, shift=1, batch_size=32):
    """The mean of what `model` predicts for pictures x (n, h, w, c) and views of them.

    mirror: also the pictures mirrored, left for right. shift s > 0: half the weight goes to two
    views moved diagonally by s pixels, up left and down right, with reflected borders, each also
    mirrored. Six predictions in all. Outputs are averaged as they come: logits or probabilities.
    """
    x = np.asarray(x)
    if x.ndim != 4:
        raise ValueError(f"x is pictures (n, h, w, c), not an array of shape {x.shape}")
    if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift < min(x.shape[1:3]):
        raise ValueError(f"shift is an integer from 0 to the pictures' size, not {shift!r}")

    def both_ways(pictures):
        straight = model.predict(pictures, batch_size=batch_size, verbose=0)
        if not mirror:
            return straight
        mirrored = model.predict(pictures[:, :, ::-1], batch_size=batch_size, verbose=0)
        return (straight + mirrored) / 2

    unmoved = both_ways(x)
    if not shift:
        return unmoved
    height, width = x.shape[1:3]
    border = ((0, 0), (shift, shift), (shift, shift), (0, 0))
    wide = np.pad(x, border, mode="reflect")
    moved = both_ways(wide[:, :height, :width])
    moved += both_ways(wide[:, 2 * shift :, 2 * shift :])
    return unmoved / 2 + moved / 4
