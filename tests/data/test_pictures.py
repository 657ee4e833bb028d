"""Decoding of picture files, and what a folder of them holds."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import minicnn
from minicnn.data.folders import index_directory
from minicnn.data.pictures import (
    Preparation,
    array_to_img,
    img_to_array,
    load_img,
    look_at_header,
    read_picture,
    save_img,
)
from minicnn.errors import PictureError

RAMP = np.linspace(0, 255, 12 * 9 * 3).astype(np.uint8).reshape(12, 9, 3)


def test_a_picture_and_back(tmp_path):
    path = tmp_path / "a.png"
    save_img(path, RAMP, scale=False)
    for given in (path, str(path), os.fsencode(path), io.BytesIO(path.read_bytes())):
        np.testing.assert_array_equal(read_picture(given), RAMP)
    np.testing.assert_array_equal(img_to_array(load_img(path), dtype="uint8"), RAMP)
    assert img_to_array(load_img(path, "grayscale")).shape == (12, 9, 1)
    assert read_picture(path, "rgba").shape == (12, 9, 4)
    assert read_picture(path, size=(5, 7)).shape == (5, 7, 3)


def test_proportions_are_kept_by_cutting(tmp_path):
    x = np.zeros((10, 30, 3), np.uint8)
    x[:, 10:20] = 255
    save_img(tmp_path / "wide.png", x)
    path = tmp_path / "wide.png"
    assert (read_picture(path, "rgb", (4, 4), "nearest", True) == 255).all()
    assert read_picture(path, "rgb", (4, 4), "nearest").min() == 0


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff", "gif", "webp"])
def test_damaged_files_are_named(tmp_path, kind):
    whole = io.BytesIO()
    random = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    array_to_img(random).save(whole, kind)
    pixels, whole = read_picture(whole), whole.getvalue()
    path = tmp_path / f"cut.{kind}"
    for part in range(20):
        path.write_bytes(whole[: len(whole) * part // 20])
        with pytest.raises(PictureError, match=f"cut.{kind}") as caught:
            read_picture(path)
        assert caught.value.path == path and caught.value.reason
    for size in range(len(whole) - 20, len(whole)):  # never a part of it
        path.write_bytes(whole[:size])
        with contextlib.suppress(PictureError):
            np.testing.assert_array_equal(read_picture(path), pixels)


def test_damage_in_the_midst_of_a_png(tmp_path):
    path = tmp_path / "a.png"
    save_img(path, np.random.default_rng(0).integers(0, 256, (40, 40, 3)), scale=False)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(PictureError, match="is damaged"):
        read_picture(path)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "is empty"),
        (b"\0" * 100, "filled with zeros"),
        (b"<!DOCTYPE html><p>404", "an HTML page"),
        (b"  <HTML><p>404", "an HTML page"),
        (b"<svg xmlns=", "an SVG drawing"),
        (b"<?xml version", "an XML file"),
        (b"%PDF-1.7", "a PDF file"),
        (b"PK\x03\x04\x14", "a ZIP archive"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"see the other folder for the pictures, this one is full", "text"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC picture, .* save it as JPEG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a film"),
        (b"\x91\x82\x73\x64", "no picture that Pillow knows"),
    ],
)
def test_what_a_file_is_instead(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for given in (path, io.BytesIO(content)):
        with pytest.raises(PictureError, match=reason):
            read_picture(given)


def test_another_kind_than_the_name_says_is_told_once(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (3, 3)).save(tmp_path / f"{name}.jpg", "png")
    with pytest.warns(UserWarning, match="a.jpg' is a PNG file by its content .told once"):
        read_picture(tmp_path / "a.jpg")
    read_picture(tmp_path / "b.jpg")
    seen = []
    read_picture(tmp_path / "b.jpg", note=lambda *told: seen.append(told))
    assert seen == [("suffix", tmp_path / "b.jpg", "is a PNG file by its content")]


def test_phones_put_a_second_picture_into_their_files(tmp_path):
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (2, 2))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert read_picture(tmp_path / "a.jpg").shape == (4, 4, 3)  # and no warning


def chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(width, height, depth, colour, rows, *extra):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        *extra,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BOMBS = """
import resource, sys, warnings
from minicnn.data.pictures import read_picture
from minicnn.errors import PictureError
from PIL import Image
Image.init()
warnings.simplefilter("error")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_picture(path, size=(8, 8))
    except PictureError as error:
        assert "config.largest_picture" in str(error), error
    else:
        raise SystemExit("unpacked")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_bombs_are_not_unpacked(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in ("full", "header", "wide")]
    paths[0].write_bytes(png(10_000, 10_000, 1, 0, bytes(1251 * 10_000)))
    paths[1].write_bytes(png(65_500, 65_500, 8, 2, b""))
    paths[2].write_bytes(png(2**31 - 1, 1, 8, 0, b""))
    assert paths[0].stat().st_size < 100_000
    run = subprocess.run(
        [sys.executable, "-c", BOMBS, *map(str, paths)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 20_000  # kB


QUIET = """
import sys, warnings
from minicnn import config
from minicnn.cli.folders import look_at
from minicnn.data.pictures import read_picture
from minicnn.errors import PictureError
from PIL import Image
warnings.simplefilter("error", Image.DecompressionBombWarning)
theirs = Image.MAX_IMAGE_PIXELS
for limit in (config.largest_picture, 100_000_000, 1000):
    with config.using(largest_picture=limit):
        for look in (read_picture, lambda path: look_at([path, sys.argv[2]])):
            try:
                look(sys.argv[1])
            except PictureError as error:
                size = "" if limit == 1000 else "12000 x 12000 pixels, "
                assert str(error).startswith(f"{sys.argv[1]!r} has {size}more than {limit:,} ")
                assert str(error).endswith(
                    "; set minicnn.config.largest_picture if it is meant to be"
                )
assert Image.MAX_IMAGE_PIXELS == theirs
try:
    Image.open(sys.argv[1])
except Image.DecompressionBombWarning:
    print("Pillow warns others")
"""


def test_our_limit_alone_is_told(tmp_path):
    """Pillow's own warning begins at 89 million pixels, its error at twice as many."""
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    large.write_bytes(png(12_000, 12_000, 1, 0, b""))
    save_img(small, RAMP, scale=False)
    run = subprocess.run(
        [sys.executable, "-c", QUIET, large, small], capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stderr == "", run.stderr
    assert run.stdout == "Pillow warns others\n"


def test_pillows_limit_comes_back_after_the_last_thread(tmp_path):
    for number in range(8):
        save_img(tmp_path / f"{number}.png", RAMP, scale=False)
    theirs = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(4) as pool:
        paths = sorted(tmp_path.glob("*.png")) * 50
        assert {one.shape for one in pool.map(read_picture, paths)} == {(12, 9, 3)}
    assert Image.MAX_IMAGE_PIXELS is theirs


def test_an_icon_that_unpacks_to_more_than_it_says(tmp_path):
    inside = written(Image.new("RGB", (40, 40)), "png").getvalue()
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22)
    (tmp_path / "a.ico").write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + inside)
    with (
        warnings.catch_warnings(),
        minicnn.config.using(largest_picture=1000),
        pytest.raises(PictureError, match="40 x 40 pixels, more than 1,000"),
    ):
        warnings.filterwarnings("ignore", "Image was not the expected size")  # Pillow's
        read_picture(tmp_path / "a.ico")


def test_the_limit_can_be_set(tmp_path):
    save_img(tmp_path / "a.png", RAMP, scale=False)
    with minicnn.config.using(largest_picture=12 * 9 - 1):
        with pytest.raises(PictureError, match="9 x 12 pixels, more than 107 .*largest_picture"):
            read_picture(tmp_path / "a.png")
        with minicnn.config.using(largest_picture=12 * 9):
            read_picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="positive integer"):
        minicnn.config.largest_picture = 0


def written(picture, kind, **arguments):
    file = io.BytesIO()
    picture.save(file, kind, **arguments)
    return file


def written_tiff(pixels):
    """A TIFF of one strip of 16-bit colour, which Pillow reads but does not write."""
    height, width = pixels.shape[:2]
    data = pixels.astype("<u2").tobytes()
    bits, at = struct.pack("<3H", 16, 16, 16), 8 + len(data)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, at), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, height)]
    tags += [(279, 4, 1, len(data))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    header = b"II*\0" + struct.pack("<I", at + len(bits))
    return io.BytesIO(header + data + bits + struct.pack("<H", len(tags)) + entries + bytes(4))


def palette():
    picture = Image.new("P", (3, 1))
    picture.putpalette([10, 20, 30, 200, 100, 0, 7, 7, 7])
    picture.putdata([0, 1, 2])
    return picture


GREY = [[0, 100, 255]]
COLOURS = np.uint8([[[0, 128, 255], [255, 1, 2]]])
WIDE = np.uint16([[0, 128, 129, 257, 25_700, 65_534, 65_535]])
LUMA = [
    [(19595 * r + 38470 * g + 7471 * b + 32768) >> 16 for r, g, b in row]
    for row in COLOURS.tolist()
]
# name: (file, color_mode, pixels)
GOLDEN = {
    "1 bit": (
        written(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), "png"),
        "grayscale",
        [[[0], [255]]],
    ),
    "1 bit in colour": (written(Image.new("1", (1, 1), 1), "tiff"), "rgb", [[[255] * 3]]),
    "grey": (written(Image.fromarray(np.uint8(GREY)), "png"), "rgb", [[[v] * 3 for v in GREY[0]]]),
    "colour to grey": (
        written(Image.fromarray(COLOURS), "png"),
        "grayscale",
        [[[v] for v in LUMA[0]]],
    ),
    "palette": (written(palette(), "gif"), "rgb", [[[10, 20, 30], [200, 100, 0], [7, 7, 7]]]),
    "palette with transparency": (
        written(palette(), "png", transparency=b"\x00\x80"),
        "rgba",
        [[[10, 20, 30, 0], [200, 100, 0, 128], [7, 7, 7, 255]]],
    ),
    "the same without": (
        written(palette(), "png", transparency=b"\x00\x80"),
        "rgb",
        [[[10, 20, 30], [200, 100, 0], [7, 7, 7]]],
    ),
    "alpha": (written(Image.new("RGBA", (1, 1), (9, 8, 7, 6)), "png"), "rgba", [[[9, 8, 7, 6]]]),
    "alpha left out": (
        written(Image.new("RGBA", (1, 1), (9, 8, 7, 6)), "png"),
        "rgb",
        [[[9, 8, 7]]],
    ),
    "grey with alpha": (written(Image.new("LA", (1, 1), (9, 6)), "png"), "rgba", [[[9, 9, 9, 6]]]),
    "no alpha": (written(Image.new("RGB", (1, 1), (9, 8, 7)), "png"), "rgba", [[[9, 8, 7, 255]]]),
    "CMYK": (written(Image.new("CMYK", (1, 1), (255, 0, 51, 0)), "tiff"), "rgb", [[[0, 255, 204]]]),
    "CMYK, black": (written(Image.new("CMYK", (1, 1), (0, 0, 0, 255)), "tiff"), "rgb", [[[0] * 3]]),
    "16 bits": (
        written(Image.fromarray(WIDE), "png"),
        "grayscale",
        [[[0], [0], [1], [1], [100], [255], [255]]],
    ),
    "16 bits, TIFF": (
        written(Image.fromarray(WIDE), "tiff"),
        "rgb",
        [[[v] * 3 for v in (0, 0, 1, 1, 100, 255, 255)]],
    ),
    "16 bits in colour": (
        io.BytesIO(
            png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 0, 255, 256, 25_700, 65_279, 65_535))
        ),
        "rgb",
        [[[0, 0, 1], [100, 254, 255]]],
    ),
    "16 bits in colour, TIFF": (
        written_tiff(np.uint16([[[0, 255, 256], [25_700, 65_279, 65_535]]])),
        "rgb",
        [[[0, 0, 1], [100, 254, 255]]],
    ),
    "16 bits in colour, PPM": (  # rounded, where PNG and TIFF drop the lower byte
        io.BytesIO(b"P6 2 1 65535\n" + struct.pack(">6H", 0, 128, 129, 25_828, 25_829, 65_535)),
        "rgb",
        [[[0, 0, 1], [100, 101, 255]]],
    ),
    "10 bits in colour, PPM": (
        io.BytesIO(b"P6 1 1 1023\n" + struct.pack(">3H", 0, 3, 1023)),
        "rgb",
        [[[0, 1, 255]]],
    ),
    "16 bits, PGM, dark": (
        io.BytesIO(b"P5 3 1 65535\n" + struct.pack(">3H", 0, 200, 255)),
        "grayscale",
        [[[0], [1], [1]]],
    ),
    "32 bits": (
        written(Image.fromarray(np.int32([[0, 7, 255]])), "tiff"),
        "grayscale",
        [[[0], [7], [255]]],
    ),
    "32 bits, large": (
        written(Image.fromarray(np.int32([[0, 65_535]])), "tiff"),
        "grayscale",
        [[[0], [255]]],
    ),
    "floats": (
        written(Image.fromarray(np.float32([[0, 0.5, 1]])), "tiff"),
        "grayscale",
        [[[0], [128], [255]]],
    ),
    "floats to 255": (
        written(Image.fromarray(np.float32([[-3, 99.6, 300]])), "tiff"),
        "grayscale",
        [[[0], [100], [255]]],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_every_mode_becomes_eight_bits(name):
    file, mode, pixels = GOLDEN[name]
    got = read_picture(file, mode)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_the_right_way_up(kind, orientation):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 255  # a white corner, top left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored))
    file = written(picture.convert("RGB"), kind, exif=exif)
    got = read_picture(file, "grayscale")[..., 0]
    assert got.shape == (16, 32)
    np.testing.assert_array_equal(got > 128, upright > 128)


def test_sizes_of_all_kinds(tmp_path):
    save_img(tmp_path / "a.png", RAMP, scale=False)
    for size in ((5, 7), [5, 7], np.array([5, 7]), (np.int64(5), 7), (5, 7, 3)):
        assert load_img(tmp_path / "a.png", target_size=size).size == (7, 5)
    assert Preparation([5, 7], "rgba").read(tmp_path / "a.png").shape == (5, 7, 4)
    assert Preparation([5, 7]) == Preparation((5, 7)) and Preparation((5, 7)).shape == (5, 7, 3)


def test_a_header_says_what_a_picture_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert look_at_header(tmp_path / "a.jpg") == ((30, 20), "L")
    save_img(tmp_path / "b.png", RAMP, scale=False)
    assert look_at_header(tmp_path / "b.png") == ((12, 9), "RGB")
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(PictureError, match="c.png.* is no picture but text"):
        look_at_header(tmp_path / "c.png")


def test_damaged_exif_does_not_matter():
    file = written(Image.new("RGB", (4, 4), "red"), "jpeg", exif=b"Exif\0\0garbage!!")
    assert read_picture(file).shape == (4, 4, 3)


def test_all_of_it_is_seen_with_borders():
    tall = written(Image.new("RGB", (10, 40), "white"), "png")
    got = read_picture(tall, size=(8, 8), pad_to_aspect_ratio=True)[..., 0]
    assert (got[:, 3:5] == 255).all() and got.sum() == 16 * 255
    with pytest.raises(ValueError, match="exclude"):
        read_picture(tall, crop_to_aspect_ratio=True, pad_to_aspect_ratio=True)


def test_files_that_are_no_pictures(tmp_path):
    path = tmp_path / "page.jpg"
    path.write_text("<html>not found</html>")
    with pytest.raises(PictureError, match="no picture .*<html>"):
        read_picture(path)
    with pytest.raises(PictureError, match="cannot be read: No such file"):
        read_picture(tmp_path / "nothing.png")
    with pytest.raises(TypeError, match="path"):
        read_picture(3)


def test_the_first_frame_counts_with_a_note(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (40, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="2 frames"):
        assert (read_picture(tmp_path / "moving.gif", "grayscale") == 40).all()


def test_deep_pictures_are_scaled(tmp_path):
    values = np.array([[0, 257 * 7, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    for mode in ("grayscale", "rgb"):
        got = read_picture(tmp_path / "deep.png", mode)[0, :, 0]
        np.testing.assert_array_equal(got, [0, 7, 255])
    Image.fromarray(np.float32([[0, 0.5, 1]])).save(tmp_path / "real.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "real.tif")[0, :, 0], [0, 128, 255])
    Image.fromarray(np.float32([[0, np.nan]])).save(tmp_path / "real.tif")
    with pytest.raises(PictureError, match="NaN"):
        read_picture(tmp_path / "real.tif")


SIZE = r"{} is a pair of positive integers \(height, width\), e.g. \(96, 128\), not {}$"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: load_img("a.png", color_mode="gray"), "color_mode"),
        (lambda: load_img("a.png", interpolation="cubic"), "bicubic"),
        (lambda: load_img("a.png", target_size=(5,)), SIZE.format("target_size", r"\(5,\)")),
        (lambda: load_img("a.png", target_size=5.5), SIZE.format("target_size", "5.5")),
        (lambda: load_img("a.png", target_size=(5, 0)), SIZE.format("target_size", r"\(5, 0\)")),
        (
            lambda: load_img("a.png", target_size=(5, 5.0)),
            SIZE.format("target_size", r"\(5, 5.0\)"),
        ),
        (
            lambda: load_img("a.png", target_size=(1, 2, 3, 4)),
            SIZE.format("target_size", r"\(1, 2, 3, 4\)"),
        ),
        (
            lambda: load_img("a.png", target_size=(True, 2)),
            SIZE.format("target_size", r"\(True, 2\)"),
        ),
        (lambda: read_picture("a.png", size="64"), SIZE.format("size", "'64'")),
        (lambda: read_picture("a.png", size=(4, 4, 3)), "without channels: color_mode"),
        (lambda: Preparation(8), SIZE.format("size", "8")),
        (lambda: Preparation((8, 8), "gray"), "color_mode is one of 'grayscale', 'rgb', 'rgba'"),
        (lambda: array_to_img(np.zeros((2, 2))), "h, w, c"),
        (lambda: array_to_img(np.zeros((2, 2, 2))), "1, 3 or 4 channels"),
        (lambda: img_to_array(np.zeros((1, 2, 2, 1))), "h, w, c"),
        (lambda: img_to_array(np.zeros((2, 2)), "channels_first"), "transpose"),
    ],
)
def test_arguments_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def tree(tmp_path):
    for name in ("b/1.png", "b/deep/2.jpg", "a/3.png", "a/.hidden.png", ".git/4.png", "c/x.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(path) if path.suffix != ".txt" else path.write_text("")
    return tmp_path


def names(index, tree):
    return [os.path.relpath(path, tree) for path in index.paths]


def test_classes_of_a_folder(tree):
    with pytest.warns(UserWarning, match="no picture: c"):
        index = index_directory(tree)
    assert index.class_names == ["a", "b"]
    assert names(index, tree) == ["a/3.png", "b/1.png", "b/deep/2.jpg"]
    assert index.labels.tolist() == [0, 1, 1] and index.labels.dtype == np.int32
    index = index_directory(tree, class_names=["b", "a"])
    assert index.class_names == ["b", "a"] and index.labels.tolist() == [0, 0, 1]
    assert len(index_directory(tree, labels=None).paths) == 3


def test_a_link_that_leads_back_is_not_followed(tree):
    os.symlink(tree / "b", tree / "b" / "deep" / "again")
    index = index_directory(tree, class_names=["b"], follow_links=True)
    assert len(index.paths) == 2


@pytest.mark.parametrize("name, message", [("none", "does not exist"), ("b/1.png", "is a file")])
def test_what_is_no_folder(tree, name, message):
    with pytest.raises(ValueError, match=message):
        index_directory(tree / name)
    with pytest.raises(ValueError, match="class 'd' has no folder .*there are a, b, c"):
        index_directory(tree, class_names=["d"])
    with pytest.raises(ValueError, match="no picture"):
        index_directory(tree, class_names=["c"])
