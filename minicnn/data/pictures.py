"""Picture files as arrays, and back: the one place where files are decoded. Pillow loads on use.

Every mode becomes 8 bits a channel v, exactly so:

    1 bit                 0 or 255
    16-bit grey           round(v / 257), so 65535 -> 255
    16-bit colour         by Pillow: floor(v / 256) in PNG and TIFF, round(255 v / maximum) in PPM
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
import functools
import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minicnn import config
from minicnn.data.ahead import doing
from minicnn.data.batches import one_of
from minicnn.errors import PictureError, warn

CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}
_ORIENTATION = 0x0112  # in EXIF; from 5 on rows and columns change places
INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest")
_MODES = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}
# Whatever a file is called, no other decoder gets it: Pillow hands PostScript to Ghostscript, and
# takes some text for TGA.
_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True)
class Preparation:
    """How a picture file becomes an array (height, width, channels), of one size for all files.

    ValueError at construction for arguments that `read_picture` does not take.
    """

    size: tuple
    color_mode: str = "rgb"
    interpolation: str = "bilinear"
    crop_to_aspect_ratio: bool = False
    pad_to_aspect_ratio: bool = False

    def __post_init__(self):
        object.__setattr__(self, "size", picture_size("size", self.size))
        _check_arguments(
            self.color_mode, self.interpolation, self.crop_to_aspect_ratio, self.pad_to_aspect_ratio
        )

    @property
    def shape(self):
        """Of the array."""
        return (*self.size, CHANNELS[self.color_mode])

    def read(self, path, note=None):
        """The pixels of a file, uint8; PictureError if it cannot be read."""
        return read_picture(
            path,
            self.color_mode,
            self.size,
            self.interpolation,
            self.crop_to_aspect_ratio,
            self.pad_to_aspect_ratio,
            note,
        )


def picture_size(name, value):
    """(height, width) as integers, or ValueError that names the argument."""
    pair = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(map(_is_side, pair)):
        rest = ""
        if isinstance(pair, list | tuple) and len(pair) == 3:
            rest = ", without channels: color_mode decides about them"
        raise ValueError(
            f"{name} is a pair of positive integers (height, width), e.g. (96, 128), not {value!r}"
            f"{rest}"
        )
    return int(pair[0]), int(pair[1])


def _is_side(value):
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value > 0


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
    size = None if size is None else picture_size("size", size)
    doing(path)
    picture = _decode(path, color_mode, note or _warn_once)
    if size is not None and picture.size != size[::-1]:
        resize = _padded if pad_to_aspect_ratio else _resized
        picture = resize(picture, size, interpolation, crop_to_aspect_ratio)
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
    if isinstance(target_size, list | tuple) and len(target_size) == 3:
        target_size = target_size[:2]  # as Keras, whose scripts give a whole input shape, too
    size = None if target_size is None else picture_size("target_size", target_size)
    picture = _decode(path, color_mode, _warn_once)
    if size is not None and picture.size != size[::-1]:
        picture = _resized(picture, size, interpolation, keep_aspect_ratio)
    return picture


def look_at_header(path):
    """((height, width) the right way up, Pillow's name of the mode) of a file that stays packed."""
    with _opened(path) as opened:
        width, height = opened.size
        on_its_side = opened.getexif().get(_ORIENTATION, 1) >= 5
        return ((width, height) if on_its_side else (height, width)), opened.mode


def _check_arguments(color_mode, interpolation, crop=False, pad=False):
    one_of("color_mode", color_mode, tuple(CHANNELS))
    one_of("interpolation", interpolation, INTERPOLATIONS)
    if crop and pad:
        raise ValueError("crop_to_aspect_ratio and pad_to_aspect_ratio exclude each other")


def _decode(path, color_mode, note):
    """The picture of a file, decoded, the right way up, in its mode; all errors name the file."""
    from PIL import ImageOps

    with _opened(path) as opened:
        _look(opened, path, note)
        opened.load()
        _check_pixels(opened, path)  # what an icon unpacks to is not the size that it declares
        deep = opened.format == "PPM" and opened.mode == "I"  # Pillow stretches it to 16 bits
        ImageOps.exif_transpose(opened, in_place=True)
        return _with_mode(opened, _MODES[color_mode], path, deep)


@contextlib.contextmanager
def _opened(path):
    """A file of which only the header is read, of a size that may be decoded."""
    from PIL import Image

    if not isinstance(path, str | bytes | os.PathLike | io.BytesIO):
        raise TypeError(f"a picture is given by its path or an io.BytesIO, not {path!r}")
    with _limited_pillow():
        try:
            opened = Image.open(path, formats=_formats())
        except Image.DecompressionBombError as error:
            raise PictureError(path, _too_large()) from error
        except Image.UnidentifiedImageError as error:
            raise PictureError(path, _what_else(path)) from error
        except OSError as error:
            raise PictureError(path, f"cannot be read: {error.strerror or error}") from error
        except Exception as error:  # a damaged header raises SyntaxError, struct.error, ...
            raise PictureError(path, f"has a damaged header: {error}") from error
        with opened:
            _check_pixels(opened, path)
            try:
                yield opened
            except (PictureError, MemoryError, UserWarning):
                raise
            except Image.DecompressionBombError as error:
                raise PictureError(path, _too_large()) from error
            except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
                raise PictureError(path, f"is damaged: {error}") from error


def _check_pixels(opened, path):
    width, height = opened.size
    if width * height > config.largest_picture:
        raise PictureError(path, _too_large(f"{width} x {height} pixels, "))


def _too_large(size=""):
    limit = f"{config.largest_picture:,}"
    told = f"has {size}more than {limit} in all" if size else f"has more than {limit} pixels"
    return f"{told}; set minicnn.config.largest_picture if it is meant to be"


class _QuietLimit(int):
    """For Pillow, which warns of more pixels than MAX_IMAGE_PIXELS and refuses twice as many.

    Nothing is more than this number, so it never warns: our error stands alone. Twice the number
    is an ordinary one, and still refused where only Pillow sees what a file asks for.
    """

    def __lt__(self, pixels):
        return False


_decoding = threading.Lock()
_decoders = 0  # how many threads are inside `_limited_pillow`
_their_limit = None  # Pillow's, as it was before the first of them


@contextlib.contextmanager
def _limited_pillow():
    """Inside, Pillow's limit is ours; afterwards, and for other programs' pictures, its own."""
    global _decoders, _their_limit
    from PIL import Image

    with _decoding:
        if not _decoders:
            _their_limit = Image.MAX_IMAGE_PIXELS
        _decoders += 1
        Image.MAX_IMAGE_PIXELS = _QuietLimit(config.largest_picture)
    try:
        yield
    finally:
        with _decoding:
            _decoders -= 1
            if not _decoders:
                Image.MAX_IMAGE_PIXELS = _their_limit


@functools.cache
def _formats():
    """Those of the formats that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


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
    (b"%!ps", "a PostScript file"),
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


def _with_mode(picture, mode, path, deep):
    """8 bits a channel, and the channels of the mode; deep: of 16 bits, whatever its values."""
    from PIL import Image

    if picture.mode[0] in "IF":  # 16 or 32 bits, or floating point
        values = np.asarray(picture).astype(np.float64)
        if not np.isfinite(values).all():
            raise PictureError(path, "holds NaN or infinity")
        if picture.mode == "F":
            values = values * 255 if values.max() <= 1 else values
        elif deep or picture.mode != "I" or values.max() > 255:
            values = values / 257
        picture = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    elif picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert(mode) if picture.mode != mode else picture


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
