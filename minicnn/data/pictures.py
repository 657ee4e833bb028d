"""Picture files as arrays, and back: the one place where files are decoded. Pillow loads on use.

Every mode becomes 8 bits a channel: 16-bit values are divided by 257 and rounded (65535 -> 255),
floating-point ones in 0..1 are multiplied by 255, palettes and CMYK become colours, alpha is left
out unless "rgba" is asked for. The EXIF orientation is applied. Of animations the first frame
counts.
"""

import contextlib
import io
import os
from pathlib import Path

import numpy as np

from minicnn import config
from minicnn.errors import PictureError, warn

CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}
INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest")
LARGEST_PIXELS = 89_478_485  # Pillow's own limit: 256 MB of RGB

_MODES = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}


def read_picture(
    path, color_mode="rgb", size=None, interpolation="bilinear", crop_to_aspect_ratio=False
):
    """The picture in a file as uint8 (h, w, c), resized to size = (height, width) if given.

    crop_to_aspect_ratio keeps proportions: what is too long is cut off evenly on both sides.
    """
    with load_img(path, color_mode, size, interpolation, crop_to_aspect_ratio) as picture:
        array = np.array(picture)
    return array if array.ndim == 3 else array[..., None]


def load_img(
    path, color_mode="rgb", target_size=None, interpolation="nearest", keep_aspect_ratio=False
):
    """The picture in a file (or an io.BytesIO) as a PIL.Image of 8 bits a channel. As in Keras.

    PictureError, with the path and the reason, for what cannot be decoded.
    """
    if color_mode not in _MODES:
        raise ValueError(f"color_mode is 'grayscale', 'rgb' or 'rgba', not {color_mode!r}")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation is one of {', '.join(INTERPOLATIONS)}, not {interpolation!r}"
        )
    with _decoded(path) as whole:
        picture = _with_mode(whole, _MODES[color_mode], path)
    if target_size is not None and picture.size != tuple(target_size[1::-1]):
        picture = _resized(picture, target_size[:2], interpolation, keep_aspect_ratio)
    return picture


@contextlib.contextmanager
def _decoded(path):
    """The picture of a file, decoded and the right way up."""
    from PIL import Image, ImageOps

    if not isinstance(path, str | bytes | os.PathLike | io.BytesIO):
        raise TypeError(f"a picture is given by its path or an io.BytesIO, not {path!r}")
    try:
        opened = Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(path, f"is too large: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise PictureError(path, f"is no picture that Pillow knows, {_beginning(path)}") from error
    except OSError as error:
        raise PictureError(path, f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged header raises SyntaxError, struct.error, ...
        raise PictureError(path, f"has a damaged header: {error}") from error
    with opened:
        width, height = opened.size
        if width * height > LARGEST_PIXELS:
            raise PictureError(
                path, f"has {width} x {height} pixels, more than {LARGEST_PIXELS} in all"
            )
        if getattr(opened, "n_frames", 1) > 1:
            warn(f"{_shown(path)} has {opened.n_frames} frames, the first one is taken")
        try:
            opened.load()
            yield ImageOps.exif_transpose(opened)
        except (PictureError, MemoryError):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
            raise PictureError(path, f"is damaged: {error}") from error


def _beginning(path):
    """What a file that is no picture seems to be."""
    if isinstance(path, io.BytesIO):
        start = path.getvalue()[:16]
    else:
        with open(path, "rb") as file:
            start = file.read(16)
    return f"it begins with {start!r}" if start else "it is empty"


def _shown(path):
    return "a picture" if isinstance(path, io.BytesIO) else repr(os.fsdecode(path))


def _with_mode(picture, mode, path):
    """8 bits a channel, and the channels of the mode."""
    from PIL import Image

    if picture.mode[0] in "IF":  # 16 or 32 bits, or floating point
        values = np.asarray(picture).astype(np.float64)
        if not np.isfinite(values).all():
            raise PictureError(path, "holds NaN or infinity")
        if picture.mode == "F":
            values = values * 255 if values.max() <= 1 else values
        elif picture.mode != "I" or values.max() > 255:
            values = values / 257
        picture = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    elif picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert(mode) if picture.mode != mode else picture.copy()


def _resized(picture, size, interpolation, crop):
    from PIL import Image

    height, width = size
    box = None
    if crop:
        w, h = picture.size
        crop_h, crop_w = min(h, w * height // width), min(w, h * width // height)
        top, left = (h - crop_h) // 2, (w - crop_w) // 2
        box = (left, top, left + crop_w, top + crop_h)
    resample = getattr(Image.Resampling, interpolation.upper())
    return picture.resize((width, height), resample, box=box)


def img_to_array(img, data_format=None, dtype=None):
    """A PIL.Image, or an array (h, w) or (h, w, c), as an array (h, w, c). As in Keras."""
    _check_data_format(data_format)
    x = np.asarray(img, dtype=config.floatx if dtype is None else dtype)
    if x.ndim not in (2, 3):
        raise ValueError(f"a picture has shape (h, w) or (h, w, c), not {x.shape}")
    return x if x.ndim == 3 else x[..., None]


def array_to_img(x, data_format=None, scale=True, dtype=None):
    """An array (h, w, c) as a PIL.Image; scale stretches its values to 0..255. As in Keras."""
    from PIL import Image

    _check_data_format(data_format)
    x = np.asarray(x, dtype=config.floatx if dtype is None else dtype)
    if x.ndim != 3 or x.shape[2] not in CHANNELS.values():
        raise ValueError(f"a picture has shape (h, w, c) with 1, 3 or 4 channels, not {x.shape}")
    if scale:
        x = x - np.min(x)
        largest = np.max(x)
        x = (x / largest if largest != 0 else x) * 255
    if x.shape[2] == 1:
        return Image.fromarray(x[..., 0].astype(np.int32 if np.max(x) > 255 else np.uint8))
    return Image.fromarray(x.astype(np.uint8))


def save_img(path, x, data_format=None, file_format=None, scale=True, **kwargs):
    """Write an array (h, w, c) as a picture file, of the format that the path ends in. As in Keras.

    kwargs go to PIL.Image.save.
    """
    if file_format is None and isinstance(path, str | os.PathLike):
        file_format = Path(path).suffix[1:]
    file_format = "jpeg" if file_format and file_format.lower() == "jpg" else file_format
    picture = array_to_img(x, data_format, scale)
    if picture.mode == "RGBA" and file_format and file_format.lower() == "jpeg":
        warn("JPEG files have no alpha: it is left out")
        picture = picture.convert("RGB")
    picture.save(path, format=file_format or None, **kwargs)


def _check_data_format(value):
    if value not in (None, "channels_last"):
        raise ValueError(
            f"pictures are (height, width, channels), data_format='channels_last', not {value!r}; "
            "convert with x.transpose(1, 2, 0)"
        )
