"""Pictures from files and folders against Keras: decoding, order, splits, geometry of resizing."""

import io
import os

import keras
import numpy as np
import pytest
from keras.src.utils import dataset_utils, image_utils
from PIL import Image

import minicnn
from minicnn.data.pictures import read_picture
from minicnn.preprocessing import image

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (11, 14, 4), np.uint8)
FORMATS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def written(mode, kind, **options):
    """A picture of this mode as a file in memory."""
    whole = Image.fromarray(PIXELS).convert("RGB").convert(mode)
    if "A" in mode:
        whole = Image.fromarray(PIXELS).convert(mode)
    file = io.BytesIO()
    whole.save(file, kind, **options)
    return file.getvalue()


FILES = {
    "png": written("RGB", "png"),
    "grey png": written("L", "png"),
    "alpha": written("RGBA", "png"),
    "grey with alpha": written("LA", "png"),
    "palette": written("P", "png"),
    "one bit": written("1", "png"),
    "gif": written("P", "gif"),
    "bmp": written("RGB", "bmp"),
    "jpeg": written("RGB", "jpeg", quality=90),
    "grey jpeg": written("L", "jpeg"),
    "cmyk jpeg": written("CMYK", "jpeg"),
    "webp": written("RGB", "webp"),
    "16-bit colour": b"P6 14 11 65535\n" + RANDOM.bytes(14 * 11 * 3 * 2),
    "10-bit colour": b"P6 14 11 1023\n"
    + RANDOM.integers(0, 1024, (14, 11, 3)).astype(">u2").tobytes(),
}
SIZES = {
    "as it is": {},
    "nearest": {"target_size": (7, 9)},
    "bilinear": {"target_size": (20, 8), "interpolation": "bilinear"},
    "bicubic": {"target_size": (8, 31), "interpolation": "bicubic"},
    "lanczos": {"target_size": (5, 31), "interpolation": "lanczos"},
    "box": {"target_size": (5, 3), "interpolation": "box"},
    "hamming": {"target_size": (6, 6), "interpolation": "hamming"},
    "cut": {"target_size": (6, 13), "interpolation": "bilinear", "keep_aspect_ratio": True},
    "cut at the sides": {"target_size": (13, 6), "keep_aspect_ratio": True},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["grayscale", "rgb", "rgba"])
def test_load_img(mode, size):
    for name, content in FILES.items():
        ours, theirs = (
            library.utils.img_to_array(
                library.utils.load_img(io.BytesIO(content), color_mode=mode, **SIZES[size])
            )
            for library in (minicnn, keras)
        )
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs, name)


# With dtype="uint8", Keras divides in place by the largest value, which NumPy refuses.
@pytest.mark.parametrize(
    "scale, dtype", [(s, d) for s in (True, False) for d in (None, "float64")] + [(False, "uint8")]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_as_pictures_and_back(channels, scale, dtype, tmp_path):
    for number, x in enumerate((PIXELS[..., :channels], RANDOM.uniform(0, 9, (5, 4, channels)))):
        pictures = [
            library.utils.array_to_img(x, scale=scale, dtype=dtype) for library in (minicnn, keras)
        ]
        assert pictures[0].mode == pictures[1].mode
        arrays = [
            library.utils.img_to_array(picture, dtype=dtype)
            for library, picture in zip((minicnn, keras), pictures, strict=True)
        ]
        assert arrays[0].dtype == arrays[1].dtype
        np.testing.assert_array_equal(*arrays)
        paths = [tmp_path / f"{library.__name__}{number}.png" for library in (minicnn, keras)]
        minicnn.utils.save_img(paths[0], x, scale=scale)
        keras.utils.save_img(paths[1], x, scale=scale)
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_names_of_the_older_module():
    for name in ("load_img", "img_to_array", "array_to_img", "save_img"):
        assert getattr(image, name) is getattr(minicnn.utils, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("pictures")
    count = 0
    for name, number in (("b", 9), ("A", 4), ("c d", 6)):
        for i in range(number):
            inside = top / name / ("deep" if i % 3 == 2 else "")
            inside.mkdir(parents=True, exist_ok=True)
            path = inside / f"{i * 7 % 10}{FORMATS[i % 5]}"
            Image.fromarray(PIXELS[..., :3]).save(path, "jpeg" if "jp" in path.suffix else None)
            count += 1
    (top / "A" / "notes.txt").write_text("nothing")
    (top / ".hidden").mkdir()
    assert count == 19
    return top


def keras_index(folder, **arguments):
    given = {"labels": "inferred", "shuffle": False, "verbose": False, **arguments}
    return dataset_utils.index_directory(str(folder), formats=FORMATS, **given)


def labels_of(data):
    """The labels of a pass in the order of file_paths, and these."""
    return data.file_paths, [int(y) for _, y in data.unbatch()]


@pytest.mark.parametrize("class_names", [None, ["c d", "b", "A"]])
@pytest.mark.parametrize("seed", [None, 0, 123])
def test_files_and_labels_have_the_same_order(folder, class_names, seed):
    """With a seed the list is shuffled once; a pass shuffles again, where Keras uses tf.data."""
    shuffle = {} if seed is None else {"shuffle": True, "seed": seed}
    paths, labels, names = keras_index(folder, class_names=class_names, **shuffle)
    given = {"class_names": class_names, "image_size": (4, 4), "verbose": False}
    data = minicnn.utils.image_dataset_from_directory(
        folder, **given, shuffle=seed is not None, seed=seed
    )
    assert data.class_names == names
    assert data.file_paths == paths
    of_file = dict(zip(paths, labels.tolist(), strict=True))
    assert [data.class_names.index(os.path.relpath(p, folder).split(os.sep)[0]) for p in paths] == [
        of_file[path] for path in data.file_paths
    ]
    if seed is None:
        assert labels_of(data) == (paths, labels.tolist())
    else:
        assert sorted(labels_of(data)[1]) == sorted(labels.tolist())


def test_all_files_without_classes(folder):
    paths, labels, _ = keras_index(folder, labels=None, shuffle=True, seed=5)
    data = minicnn.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(4, 4), seed=5, verbose=False
    )
    assert labels is None and data.class_names is None
    assert data.file_paths == paths


def test_labels_of_ones_own(folder):
    given = [i % 3 for i in range(19)]
    paths, labels, names = keras_index(folder, labels=list(given))
    data = minicnn.utils.image_dataset_from_directory(
        folder, labels=given, image_size=(4, 4), shuffle=False, verbose=False
    )
    assert data.class_names == names
    assert labels_of(data) == (paths, list(labels))


@pytest.mark.parametrize("fraction", [0.1, 0.33, 0.5, 0.9])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.filterwarnings("ignore:classes .* are in the")
def test_splits_are_the_same(folder, fraction, shuffle):
    paths, labels, _ = keras_index(folder, shuffle=shuffle, seed=3)
    parts = {}
    for subset in ("training", "validation"):
        expected, _ = dataset_utils.get_training_or_validation_split(
            paths, labels, fraction, subset
        )
        arguments = {"validation_split": fraction, "image_size": (4, 4), "verbose": False}
        data = minicnn.utils.image_dataset_from_directory(
            folder, subset=subset, seed=3, shuffle=shuffle, **arguments
        )
        assert data.file_paths == expected
        parts[subset] = expected
    both = minicnn.utils.image_dataset_from_directory(
        folder, subset="both", seed=3, shuffle=shuffle, **arguments
    )
    assert [part.file_paths for part in both] == [parts["training"], parts["validation"]]


@pytest.mark.parametrize("mode", ["int", "binary", "categorical"])
def test_labels_in_each_mode(folder, mode):
    names = ["b", "c d"] if mode == "binary" else None
    _, labels, classes = keras_index(folder, class_names=names)
    data = minicnn.utils.image_dataset_from_directory(
        folder, label_mode=mode, class_names=names, image_size=4, shuffle=False, verbose=False
    )
    (_, y), *_ = data.batch(99) if not data.batched else data
    expected = {
        "int": np.asarray(labels, np.int32),
        "binary": np.asarray(labels, np.float32)[:, None],
        "categorical": keras.utils.to_categorical(labels, len(classes)).astype(np.float32),
    }[mode]
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)


# Keras resizes without averaging, so smaller pictures differ by intent; larger ones must not.
SMOOTH = np.asarray(Image.fromarray(PIXELS[..., :3]).resize((30, 24), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def smooth(tmp_path_factory):
    path = tmp_path_factory.mktemp("smooth") / "a.png"
    Image.fromarray(SMOOTH).save(path)
    return path


@pytest.mark.parametrize("size", [(24, 30), (48, 60), (61, 77), (30, 90), (90, 30)])
@pytest.mark.parametrize("crop", [False, True])
def test_enlarging_is_that_of_keras(smooth, size, crop):
    x = SMOOTH.astype(np.float32)
    if crop:
        theirs = image_utils.smart_resize(x, size)
    else:
        theirs = np.asarray(keras.ops.image.resize(x, size))
    apart = np.abs(read_picture(smooth, size=size, crop_to_aspect_ratio=crop) - theirs)
    if crop:  # Pillow mixes in the pixels beyond the cut, up to half of one on either side
        edge = 4
        apart = apart[edge:-edge, edge:-edge]
    assert apart.max() < 1.1  # bytes, rounded along both axes


@pytest.mark.parametrize("size", [(7, 11), (24, 30), (61, 77)])
def test_nearest_is_that_of_keras(smooth, size):
    theirs = keras.ops.image.resize(SMOOTH.astype(np.float32), size, interpolation="nearest")
    ours = read_picture(smooth, size=size, interpolation="nearest")
    rows, columns = (
        np.abs(place - np.round(place)) > 1e-6  # between two pixels: either is the nearest
        for place in ((np.arange(n) + 0.5) * m / n for n, m in zip(size, (24, 30), strict=True))
    )
    assert rows.sum() > len(rows) / 2 and columns.sum() > len(columns) / 2
    some = np.ix_(rows, columns)
    np.testing.assert_array_equal(ours[some], np.asarray(theirs)[some])


def test_borders_are_where_keras_has_them(smooth):
    theirs = np.asarray(
        keras.ops.image.resize(SMOOTH.astype(np.float32), (60, 60), pad_to_aspect_ratio=True)
    )
    ours = read_picture(smooth, size=(60, 60), pad_to_aspect_ratio=True)
    assert np.abs(ours[8:52] - theirs[8:52]).max() <= 1  # Keras mixes the rows beside the border
    for part in (ours, theirs):
        assert not part[:5].any() and not part[55:].any()
        assert part[7].any() and part[52].any()
