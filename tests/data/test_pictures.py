"""Decoding of picture files, and what a folder of them holds."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from minicnn.data.folders import index_directory
from minicnn.data.pictures import array_to_img, img_to_array, load_img, read_picture, save_img
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


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "gif"])
def test_damaged_files_are_named(tmp_path, suffix):
    whole = io.BytesIO()
    random = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    array_to_img(random).save(whole, "jpeg" if suffix == "jpg" else suffix.replace("tif", "tiff"))
    whole = whole.getvalue()
    path = tmp_path / f"cut.{suffix}"
    for part in range(20):
        path.write_bytes(whole[: len(whole) * part // 20])
        with pytest.raises(PictureError, match=f"cut.{suffix}") as caught:
            read_picture(path)
        assert caught.value.path == path and caught.value.reason


def test_files_that_are_no_pictures(tmp_path):
    path = tmp_path / "page.jpg"
    path.write_text("<html>not found</html>")
    with pytest.raises(PictureError, match="no picture .*<html>"):
        read_picture(path)
    with pytest.raises(PictureError, match="cannot be read: No such file"):
        read_picture(tmp_path / "nothing.png")
    with pytest.raises(TypeError, match="path"):
        read_picture(3)


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(path)
    with pytest.raises(PictureError, match="too large|pixels"):
        read_picture(path)


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


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: load_img("a.png", color_mode="gray"), "color_mode"),
        (lambda: load_img("a.png", interpolation="cubic"), "bicubic"),
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
