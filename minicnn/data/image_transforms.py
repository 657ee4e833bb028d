"""Geometric and colour changes of one picture, as keras.preprocessing.image has them.

The functions take arrays of any layout through `row_axis`, `col_axis` and `channel_axis`, whose
defaults are Keras's: (channels, rows, columns). A picture (h, w, c) has axes 0, 1, 2.
What is drawn at random comes from NumPy's global generator, as in Keras: `np.random.seed` repeats.
"""

import numpy as np

from minicnn import config, ops

FILL_MODES = ("constant", "mirror", "nearest", "reflect", "wrap")


def affine_matrix(height, width, theta=0, tx=0, ty=0, shear=0, zx=1, zy=1, rows_first=True):
    """The matrix (2, 3) from output pixels (row, column, 1) to input pixels (row, column).

    R(theta) T(tx, ty) S(shear) Z(zx, zy) about the middle in coordinates (x, y), angles in degrees;
    where rows come first x and y then change places. This is Keras 3's order of things: x was the
    height in the middle but is the column in the result, so tx moves along columns, and a picture
    that is not square turns about row width / 2 and column height / 2.
    """
    matrix = np.eye(3)
    if theta:
        angle = np.deg2rad(theta)
        cosine, sine = np.cos(angle), np.sin(angle)
        matrix = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    if tx or ty:
        matrix = matrix @ np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])
    if shear:
        angle = np.deg2rad(shear)
        matrix = matrix @ np.array([[1, -np.sin(angle), 0], [0, np.cos(angle), 0], [0, 0, 1]])
    if zx != 1 or zy != 1:
        matrix = matrix @ np.diag([zx, zy, 1.0])
    middle = np.array([[1, 0, height / 2 - 0.5], [0, 1, width / 2 - 0.5], [0, 0, 1]])
    back = np.array([[1, 0, 0.5 - height / 2], [0, 1, 0.5 - width / 2], [0, 0, 1]])
    matrix = middle @ matrix @ back
    if rows_first:
        matrix = matrix[np.ix_([1, 0, 2], [1, 0, 2])]
    return matrix[:2]


def resample(x, matrix, fill_mode="nearest", cval=0.0, order=1):
    """x (h, w, c) read at the places `matrix` (2, 3) says, by splines of an order in 0..5."""
    if order <= 1 and x.dtype in (np.float32, np.float64):
        interpolation = "bilinear" if order else "nearest"
        return ops.affine_transform(x[None], matrix[None], fill_mode, cval, interpolation)[0]
    from scipy import ndimage

    y = np.empty(x.shape, x.dtype)
    for channel in range(x.shape[2]):
        ndimage.affine_transform(
            x[..., channel],
            matrix[:, :2],
            matrix[:, 2],
            output=y[..., channel],
            order=order,
            mode=fill_mode,
            cval=cval,
        )
    return y


def apply_affine_transform(
    x,
    theta=0,
    tx=0,
    ty=0,
    shear=0,
    zx=1,
    zy=1,
    row_axis=1,
    col_axis=2,
    channel_axis=0,
    fill_mode="nearest",
    cval=0.0,
    order=1,
):
    """x turned by theta and sheared by shear degrees, shifted by tx, ty pixels, zoomed by zx, zy.

    As in Keras, also in what `affine_matrix` says of tx and of pictures that are not square.
    """
    x = np.asarray(x)
    if x.ndim != 3:
        raise ValueError(f"a picture has 3 axes (rows, columns, channels), not shape {x.shape}")
    axes = (row_axis, col_axis, channel_axis)
    if sorted(axes) != [0, 1, 2] or channel_axis == 1:
        raise ValueError(
            f"row_axis, col_axis, channel_axis are 0, 1, 2 in an order with the channels first or "
            f"last, not {axes}; (0, 1, 2) for (h, w, c)"
        )
    check_fill(fill_mode, order)
    if not (theta or tx or ty or shear or zx != 1 or zy != 1):
        return x
    rows_first = col_axis > row_axis
    image_axes = (0, 1) if channel_axis == 2 else (1, 2)
    matrix = affine_matrix(
        x.shape[row_axis], x.shape[col_axis], theta, tx, ty, shear, zx, zy, rows_first
    )
    image = x.transpose(*image_axes, channel_axis)
    image = resample(image, matrix, fill_mode, cval, order)
    return image if channel_axis == 2 else image.transpose(2, 0, 1)


def check_fill(fill_mode, order):
    """ValueError unless both are known."""
    if fill_mode not in FILL_MODES:
        raise ValueError(f"fill_mode is one of {', '.join(FILL_MODES)}, not {fill_mode!r}")
    if order not in range(6):
        raise ValueError(
            f"the interpolation order is 0 (nearest), 1 (bilinear) or a spline's 2 to 5, "
            f"not {order!r}"
        )


def apply_channel_shift(x, intensity, channel_axis=0):
    """x + intensity, kept within the picture's own smallest and largest value."""
    x = np.asarray(x)
    return np.clip(x + intensity, np.min(x), np.max(x))


def apply_brightness_shift(x, brightness, scale=True):
    """x (h, w, c) times brightness, in whole numbers 0..255 as an 8-bit picture; alpha stays.

    scale stretches the picture to 0..255 before. A picture with values outside of 0..255 is always
    stretched, and without scale put back to its range afterwards.
    """
    x = np.asarray(x)
    low, high = np.min(x), np.max(x)
    outside = bool(low < 0 or high > 255)
    dtype = np.dtype(config.floatx)
    levels = x.astype(dtype)
    if scale or outside:
        levels = levels - np.min(levels)
        largest = np.max(levels)
        if largest != 0:
            levels = levels / largest
        levels *= 255
    levels = levels.astype(np.uint8)
    bright = np.clip(levels * np.float32(brightness), 0, 255).astype(np.uint8)
    if levels.shape[-1] == 4:
        bright[..., 3] = levels[..., 3]
    y = bright.astype(dtype)
    if outside and not scale:
        y = y / 255 * (high - low) + low
    return y


def _moved(x, how, **affine):
    """x transformed; how: what the functions below take after the amount, in their order."""
    names = ("row_axis", "col_axis", "channel_axis", "fill_mode", "cval", "order")
    return apply_affine_transform(x, **affine, **dict(zip(names, how, strict=True)))


def random_rotation(
    x,
    rg,
    row_axis=1,
    col_axis=2,
    channel_axis=0,
    fill_mode="nearest",
    cval=0.0,
    interpolation_order=1,
):
    """x turned by an angle in [-rg, rg) degrees."""
    how = row_axis, col_axis, channel_axis, fill_mode, cval, interpolation_order
    return _moved(x, how, theta=np.random.uniform(-rg, rg))


def random_shift(
    x,
    wrg,
    hrg,
    row_axis=1,
    col_axis=2,
    channel_axis=0,
    fill_mode="nearest",
    cval=0.0,
    interpolation_order=1,
):
    """x shifted by fractions of its width and height in [-wrg, wrg) and [-hrg, hrg)."""
    tx = np.random.uniform(-hrg, hrg) * np.shape(x)[row_axis]
    ty = np.random.uniform(-wrg, wrg) * np.shape(x)[col_axis]
    how = row_axis, col_axis, channel_axis, fill_mode, cval, interpolation_order
    return _moved(x, how, tx=tx, ty=ty)


def random_shear(
    x,
    intensity,
    row_axis=1,
    col_axis=2,
    channel_axis=0,
    fill_mode="nearest",
    cval=0.0,
    interpolation_order=1,
):
    """x sheared by an angle in [-intensity, intensity) degrees."""
    how = row_axis, col_axis, channel_axis, fill_mode, cval, interpolation_order
    return _moved(x, how, shear=np.random.uniform(-intensity, intensity))


def random_zoom(
    x,
    zoom_range,
    row_axis=1,
    col_axis=2,
    channel_axis=0,
    fill_mode="nearest",
    cval=0.0,
    interpolation_order=1,
):
    """x zoomed by a factor for each direction in zoom_range; below 1 enlarges."""
    zx, zy = draw_zoom(np.random, pair("zoom_range", zoom_range))
    how = row_axis, col_axis, channel_axis, fill_mode, cval, interpolation_order
    return _moved(x, how, zx=zx, zy=zy)


def random_channel_shift(x, intensity_range, channel_axis=0):
    """x shifted in value by an amount in [-intensity_range, intensity_range)."""
    intensity = np.random.uniform(-intensity_range, intensity_range)
    return apply_channel_shift(x, intensity, channel_axis=channel_axis)


def random_brightness(x, brightness_range, scale=True):
    """x brightened by a factor in brightness_range."""
    low, high = pair("brightness_range", brightness_range)
    return apply_brightness_shift(x, np.random.uniform(low, high), scale)


def draw_zoom(random, zoom_range):
    """Factors for the two directions."""
    if zoom_range[0] == 1 and zoom_range[1] == 1:
        return 1, 1
    return random.uniform(zoom_range[0], zoom_range[1], 2)


def draw_shift(random, span, size):
    """Pixels to shift by along an axis of `size` pixels; the three meanings of a shift range.

    A float below 1 is a fraction of the size, a larger one pixels: uniform in +-span. An integer n
    is a whole number of pixels in -n < shift < n. Of a list one entry is taken, with either sign.
    """
    if np.ndim(span) == 0 and not span:
        return 0
    if np.ndim(span) == 0 and not isinstance(span, int | np.integer):
        shift = random.uniform(-span, span)
    elif np.size(span) == 0:
        return 0
    else:
        shift = random.choice(span) * random.choice([-1, 1])
    return shift * size if np.max(span) < 1 else shift


def is_number(value):
    """Whether value is a finite number; True and False are none."""
    numeric = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return numeric and bool(np.isfinite(value))


def pair(name, value):
    """Two numbers as a list, or ValueError that names the argument."""
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(is_number, value)):
        raise ValueError(f"{name} is a pair of numbers (low, high), not {value!r}")
    return [value[0], value[1]]
