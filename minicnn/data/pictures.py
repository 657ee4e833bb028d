"""Picture files as arrays, and back: the one place where files are decoded. Pillow loads on use.

Every mode becomes 8 bits a channel v, exactly so:

    1 bit                 0 or 255
    16-bit grey           round(v / 257), so 65535 -> 255; 16-bit colour: floor(v / 256), by Pillow
    32-bit grey           v if no value is above 255, else as 16 bits
    floating point        round(255 v) if no value is above 1, else round(v); clipped to 0..255
    palette               its colours; transparency becomes alpha
    CMYK                  R = (255 - C) (255 - K) / 255 and so on, by Pillow, without profiles
    alpha                 left out, not blended, unless "rgba" is asked for; 255 where there is none
    colour to grey        (19595 R + 38470 G + 7471 B + 32768) >> 16, ITU-R 601, by Pillow

The EXIF orientation is applied. Of animations and of files with several pages the first one
counts, with a warning, as there is for a file of another kind than its name says.
"""

import contextlib
import io
import os
import threading
from pathlib import Path

import numpy as np

from minicnn import config
from minicnn.data.ahead import doing
from minicnn.errors import PictureError, warn

CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}
INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest")
_MODES = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}


def read_picture(
    path,
    color_mode="rgb",
    size=None,
    interpolation="bilinear",
    crop_to_aspect_ratio=False,
    pad_to_aspect_ratio=False,
    note=None,
):
    """The picture in a file as uint8 (h, w, c), resized to size = (height, width) if given.

    crop_to_aspect_ratio keeps proportions: what is too long is cut off evenly on both sides;
    pad_to_aspect_ratio does, too: what is too short gets black borders. Shrinking averages over
    all pixels (antialiasing), except "nearest". note(kind, path, text) is told what is odd about
    a file that can be read; without it, that is a warning, once for each folder and kind.
    """
    _check_arguments(color_mode, interpolation, crop_to_aspect_ratio, pad_to_aspect_ratio)
    doing(path)
    picture = _decode(path, color_mode, note or _warn_once)
    if size is not None and picture.size != tuple(size[1::-1]):
        resize = _padded if pad_to_aspect_ratio else _resized
        picture = resize(picture, tuple(size), interpolation, crop_to_aspect_ratio)
    array = np.array(picture)
    return array if array.ndim == 3 else array[..., None]


def load_img(
    path, color_mode="rgb", target_size=None, interpolation="nearest", keep_aspect_ratio=False
):
    """The picture in a file (or an io.BytesIO) as a PIL.Image of 8 bits a channel. As in Keras.

    PictureError, with the path and the reason, for what cannot be decoded, and for more than
    config.largest_picture pixels, before any is decoded.
    """
    _check_arguments(color_mode, interpolation)
    picture = _decode(path, color_mode, _warn_once)
    if target_size is not None and picture.size != tuple(target_size[1::-1]):
        picture = _resized(picture, target_size[:2], interpolation, keep_aspect_ratio)
    return picture


def _check_arguments(color_mode, interpolation, crop=False, pad=False):
    if color_mode not in _MODES:
        raise ValueError(f"color_mode is 'grayscale', 'rgb' or 'rgba', not {color_mode!r}")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation is one of {', '.join(INTERPOLATIONS)}, not {interpolation!r}"
        )
    if crop and pad:
        raise ValueError("crop_to_aspect_ratio and pad_to_aspect_ratio exclude each other")


def _decode(path, color_mode, note):
    """The picture of a file, decoded, the right way up, in its mode; all errors name the file."""
    from PIL import Image, ImageOps

    if not isinstance(path, str | bytes | os.PathLike | io.BytesIO):
        raise TypeError(f"a picture is given by its path or an io.BytesIO, not {path!r}")
    limit = config.largest_picture
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow's own limit, a warning and then an error
    try:
        opened = Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(path, f"is too large ({error}); {_RAISE_LIMIT}") from error
    except Image.UnidentifiedImageError as error:
        raise PictureError(path, _what_else(path)) from error
    except OSError as error:
        raise PictureError(path, f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged header raises SyntaxError, struct.error, ...
        raise PictureError(path, f"has a damaged header: {error}") from error
    with opened:
        width, height = opened.size
        if width * height > limit:
            raise PictureError(
                path, f"has {width} x {height} pixels, more than {limit:,} in all; {_RAISE_LIMIT}"
            )
        try:
            _look(opened, path, note)
            opened.load()
            return _with_mode(ImageOps.exif_transpose(opened), _MODES[color_mode], path)
        except (PictureError, MemoryError, UserWarning):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
            raise PictureError(path, f"is damaged: {error}") from error


_RAISE_LIMIT = "set minicnn.config.largest_picture if it is meant to be"


def _look(opened, path, note):
    """Tell what is odd about a picture that can be read."""
    from PIL import Image

    # Phones store a second picture (a depth map, a thumbnail) behind the JPEG and call it MPO.
    if opened.format != "MPO" and getattr(opened, "is_animated", False):
        frames = getattr(opened, "n_frames", "several")
        note("frames", path, f"has {frames} frames, the first one is taken")
    if isinstance(path, io.BytesIO):
        return
    expected = Image.registered_extensions().get(os.path.splitext(os.fsdecode(path))[1].lower())
    alike = {expected, opened.format} <= {"JPEG", "MPO"}
    if expected and expected != opened.format and not alike:
        note("suffix", path, f"is a {opened.format} file by its content")


_told = set()
_telling = threading.Lock()


def _warn_once(kind, path, text):
    """A folder of GIFs is told of once."""
    folder = None if isinstance(path, io.BytesIO) else os.path.dirname(os.fsdecode(path))
    with _telling:
        if folder is not None and (kind, folder) in _told:
            return
        _told.add((kind, folder))
    rest = "" if folder is None else " (told once for each folder)"
    warn(f"{_shown(path)} {text}{rest}")


_BEGINNINGS = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML file"),
    (b"<svg", "an SVG drawing, which has no pixels"),
    (b"%pdf", "a PDF file"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"version https://git-lfs", "the pointer of a file in Git LFS"),
)


def _what_else(path):
    """What a file that is no picture seems to be."""
    if isinstance(path, io.BytesIO):
        start = path.getvalue()[:64]
    else:
        with open(path, "rb") as file:
            start = file.read(64)
    if not start:
        return "is empty"
    shown = f"it begins with {start[:16]!r}"
    if start[4:8] == b"ftyp":
        kind = start[8:12].decode("ascii", "replace")
        if kind in ("heic", "heix", "mif1", "msf1"):
            return "is a HEIC picture, which Pillow cannot decode: save it as JPEG"
        return f"is no picture but a film or an unknown kind of picture ({kind!r})"
    small = start.lstrip().lower()
    for beginning, what in _BEGINNINGS:
        if small.startswith(beginning):
            return f"is no picture but {what}, {shown}"
    if not start.strip(b"\0"):
        return "is no picture, it is filled with zeros"
    with contextlib.suppress(UnicodeDecodeError):
        if start[:60].decode("ascii").isprintable():
            return f"is no picture but text, {shown}"
    return f"is no picture that Pillow knows, {shown}"


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


def _padded(picture, size, interpolation, crop):
    """Resized so that all of it is seen, in the middle of a black picture."""
    from PIL import Image

    (height, width), (w, h) = size, picture.size
    ratio = max(h / height, w / width)
    inner = max(1, min(height, int(h / ratio))), max(1, min(width, int(w / ratio)))
    whole = Image.new(picture.mode, (width, height))
    place = (width - inner[1]) // 2, (height - inner[0]) // 2
    whole.paste(_resized(picture, inner, interpolation, False), place)
    return whole


def img_to_array(img, data_format=None, dtype=None):
    """A PIL.Image, or an array (h, w) or (h, w, c), as an array (h, w, c). As in Keras."""
    check_data_format(data_format)
    x = np.asarray(img, dtype=config.floatx if dtype is None else dtype)
    if x.ndim not in (2, 3):
        raise ValueError(f"a picture has shape (h, w) or (h, w, c), not {x.shape}")
    return x if x.ndim == 3 else x[..., None]


def array_to_img(x, data_format=None, scale=True, dtype=None):
    """An array (h, w, c) as a PIL.Image; scale stretches its values to 0..255. As in Keras."""
    from PIL import Image

    check_data_format(data_format)
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


def check_data_format(value):
    if value not in (None, "channels_last"):
        raise ValueError(
            f"pictures are (height, width, channels), data_format='channels_last', not {value!r}; "
            "convert with x.transpose(1, 2, 0)"
        )
