"""What operations on pictures accept, and the weights of resizing; the same for both sets."""

import functools

import numpy as np

FILL_MODES = ("reflect", "mirror", "nearest", "wrap", "grid-wrap", "constant", "grid-constant")

RESIZE_METHODS = ("bilinear", "nearest", "bicubic", "lanczos3", "lanczos5")


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


def triangle(x):
    """Weight of a pixel at distance x >= 0 for linear interpolation."""
    return np.maximum(0, 1 - x)


def keys_cubic(x):
    """Cubic convolution with a = -1/2 (Keys 1981, equation 15)."""
    near, far = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x >= 2, 0, np.where(x >= 1, far, near))


def lanczos(x, radius):
    """sinc(x) sinc(x / radius) within the radius."""
    return np.where(x > radius, 0, np.sinc(x) * np.sinc(x / radius))


WINDOWS = {
    "bilinear": triangle,
    "bicubic": keys_cubic,
    "lanczos3": functools.partial(lanczos, radius=3),
    "lanczos5": functools.partial(lanczos, radius=5),
}


@functools.lru_cache(maxsize=64)
def resize_matrix(length, new_length, method, antialias):
    """A (new_length, length): row i holds the weights of the input pixels for output pixel i.

    Half-pixel centres: output pixel i lies at (i + 1/2) length / new_length - 1/2. Weights are the
    window's at the distances, made to add up to 1; antialias widens it when there are fewer pixels.
    """
    ratio = length / new_length
    if method == "nearest":
        # In float32, as Keras: a border between two pixels falls to the same side.
        at = (np.arange(new_length, dtype=np.float32) + 0.5) * np.float32(length)
        return np.eye(length)[np.floor(at / np.float32(new_length)).astype(np.int64)]
    centre = (np.arange(new_length) + 0.5) * ratio - 0.5
    distance = np.abs(centre[:, None] - np.arange(length))
    weights = WINDOWS[method](distance / (max(ratio, 1) if antialias else 1))
    weights[np.abs(weights) < 1e-12] = 0  # zeros of the sine that rounding missed
    return weights / weights.sum(axis=1, keepdims=True)


def check_resize(size, interpolation):
    """The new size as two positive integers."""
    if interpolation not in RESIZE_METHODS:
        raise ValueError(
            f"interpolation is {interpolation!r}: give one of {', '.join(RESIZE_METHODS)}."
        )
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}: give (height, width), both positive.")
    return int(size[0]), int(size[1])


def check_per_picture(name, values, n, dtype):
    """One number per picture, as an array of this type."""
    values = np.ascontiguousarray(values, dtype)
    if values.shape != (n,):
        raise ValueError(f"{name} has shape {values.shape}: {n} pictures need ({n},).")
    return values


def check_order(order, n):
    """A permutation of the pictures of the batch."""
    order = np.ascontiguousarray(order, np.int64)
    if order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
        raise ValueError(f"order is no permutation of the {n} pictures: give each index once.")
    return order


def check_boxes(boxes, n, h, w):
    """Boxes (n, 4): first row, last row + 1, first column, last column + 1; cut to the picture."""
    boxes = np.asarray(boxes)
    if boxes.shape != (n, 4) or boxes.dtype.kind not in "iu":
        raise ValueError(
            f"boxes are {boxes.dtype} of shape {boxes.shape}: {n} pictures need integers ({n}, 4)."
        )
    return np.clip(boxes.astype(np.int64), 0, (h, h, w, w))


def check_places(rows, columns, n, h, w):
    """Indices (n, rows), (n, columns) of pixels to fetch; -1 asks for the fill value."""
    checked = []
    for name, places, size in (("rows", rows, h), ("columns", columns, w)):
        places = np.ascontiguousarray(places, np.int64)
        if places.ndim != 2 or len(places) != n:
            raise ValueError(f"{name} has shape {places.shape}: {n} pictures need ({n}, count).")
        if places.size and not -1 <= places.min() <= places.max() < size:
            raise ValueError(
                f"{name} run from {places.min()} to {places.max()}: -1 (fill) to {size - 1} exist."
            )
        checked.append(places)
    return checked


def check_colours(x):
    """Three channels, red, green and blue."""
    if x.shape[-1] != 3:
        raise ValueError(f"x has {x.shape[-1]} channels: colours need 3 (red, green, blue).")


SECOND_KEY = 0x9E3779B97F4A7C15  # a normal number needs two random words: key and key ^ SECOND_KEY
