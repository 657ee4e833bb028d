"""image_dataset_from_directory on folders as people have them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minicnn
from minicnn import layers
from minicnn.data import pipeline
from minicnn.data.folders import compare_parts, index_directory, shared_files
from minicnn.data.pictures import read_picture
from minicnn.errors import PictureError
from minicnn.utils import image_dataset_from_directory

QUIET = dict(image_size=(12, 10), batch_size=4, verbose=False)


def make(folder, **arguments):
    return image_dataset_from_directory(folder, **{**QUIET, **arguments})


def put(path, value=0, size=(6, 5), **arguments):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8))
    picture.save(os.fsencode(path), path.suffix[1:].replace("jpg", "jpeg"), **arguments)
    return path


@pytest.fixture
def small(tmp_path):
    for number in range(6):
        put(tmp_path / "ab"[number % 2] / f"{number}.png", 10 * number)
    return tmp_path


def test_pictures_and_labels_are_those_of_the_files(picture_folder, capsys):
    data = make(picture_folder, shuffle=False, verbose=True)
    assert capsys.readouterr().out == "Found 30 files belonging to 3 classes.\n"
    assert data.class_names == ["cat", "dog", "ship"] and len(data) == 8
    assert data.file_paths == index_directory(picture_folder).paths
    x, y = (np.concatenate(column) for column in zip(*data, strict=True))
    assert x.dtype == np.float32 and x.shape == (30, 12, 10, 3)
    assert y.dtype == np.int32 and y.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    for got, path in zip(x, data.file_paths, strict=True):
        np.testing.assert_array_equal(got, read_picture(path, size=(12, 10)))


def test_threads_and_shuffling_change_the_order_alone(picture_folder, monkeypatch):
    passes = []
    for workers in (1, 4):
        monkeypatch.setattr(pipeline, "WORKERS", workers)
        data = make(picture_folder, seed=3)
        passes.append([[np.concatenate(c) for c in zip(*data, strict=True)] for _ in range(2)])
    for one, other in zip(passes[0], passes[1], strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    (x, y), (again, _) = passes[0]
    assert (x != again).any() and sorted(y.tolist()) == [0] * 10 + [1] * 10 + [2] * 10
    assert x.sum(dtype=np.float64) == again.sum(dtype=np.float64)


@pytest.mark.parametrize(
    "mode, shape, dtype",
    [("int", (4,), np.int32), ("categorical", (4, 2), np.float32), ("binary", (4, 1), np.float32)],
)
def test_label_modes(small, mode, shape, dtype):
    _, y = next(iter(make(small, label_mode=mode, shuffle=False)))
    assert y.shape == shape and y.dtype == dtype
    classes = y.argmax(1) if mode == "categorical" else y.reshape(-1)
    assert classes.tolist() == [0, 0, 0, 1]


def test_without_labels(small):
    for arguments in ({"labels": None}, {"label_mode": None}):
        x = next(iter(make(small, shuffle=False, **arguments)))
        assert isinstance(x, np.ndarray) and x[:, 0, 0, 0].tolist() == [0, 20, 40, 10]
    assert make(small, labels=None).class_names is None
    assert make(small, label_mode=None).class_names == ["a", "b"]


def test_labels_of_ones_own(small):
    data = make(small, labels=[2, 0, 1, 1, 0, 2], shuffle=False, label_mode="categorical")
    y = np.concatenate([y for _, y in data])
    assert y.argmax(1).tolist() == [2, 0, 1, 1, 0, 2] and data.class_names == ["0", "1", "2"]


def test_single_samples_colours_and_sizes(small):
    x, y = next(iter(make(small, batch_size=None, color_mode="rgba", image_size=7)))
    assert x.shape == (7, 7, 4) and y.shape == () and (x[..., 3] == 255).all()
    assert next(iter(make(small, color_mode="grayscale")))[0].shape == (4, 12, 10, 1)


def test_proportions(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(wide).save(tmp_path / name / "1.png")
    shape = dict(image_size=(9, 9), interpolation="nearest")
    cut = next(iter(make(tmp_path, crop_to_aspect_ratio=True, **shape)))[0]
    assert (cut == 200).all()
    padded = next(iter(make(tmp_path, pad_to_aspect_ratio=True, **shape)))[0][0, ..., 0]
    assert (padded[:3] == 0).all() and (padded[6:] == 0).all()
    assert (padded[3:6] == [0] * 3 + [200] * 3 + [0] * 3).all()
    with pytest.raises(ValueError, match="exclude each other"):
        make(tmp_path, crop_to_aspect_ratio=True, pad_to_aspect_ratio=True)


def test_splits(picture_folder, capsys):
    common = dict(validation_split=0.2, seed=1)
    both = make(picture_folder, subset="both", verbose=True, **common)
    assert "Using 24 files for training.\nUsing 6 files for validation." in capsys.readouterr().out
    apart = [make(picture_folder, subset=s, **common) for s in ("training", "validation")]
    for one, other in zip(both, apart, strict=True):
        assert one.file_paths == other.file_paths and one.class_names == ["cat", "dog", "ship"]
    assert not set(both[0].file_paths) & set(both[1].file_paths)
    first, second = ([y.tolist() for _, y in both[1]] for _ in range(2))
    assert first == second  # the validation part of "both" is not shuffled
    with pytest.warns(UserWarning, match="cat, dog are in the training .* ship .* validation"):
        make(picture_folder, subset="training", validation_split=0.34, shuffle=False)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(labels="a"), "labels"),
        (dict(labels=[1, 2]), "2 labels were given for the 6 pictures"),
        (dict(labels=[0.5] * 6), "class numbers"),
        (dict(labels=[0] * 6, class_names=["a"]), "class_names"),
        (dict(label_mode="one-hot"), "label_mode"),
        (dict(label_mode="categorical", labels=[0, 1, 5, 0, 1, 5]), "0..2"),
        (dict(class_names=["a", "z"]), "'z' has no folder"),
        (dict(color_mode="gray"), "color_mode"),
        (dict(batch_size=0), "batch_size"),
        (dict(image_size=(3, 3, 3)), "image_size is .*color_mode decides"),
        (dict(image_size=(5,)), r"image_size is a pair .*, not \(5,\)$"),
        (dict(image_size=5.5), "image_size is a pair .*, not 5.5$"),
        (dict(image_size=0), r"image_size is a pair .*, not \(0, 0\)$"),
        (dict(image_size=True), "image_size is a pair .*, not True$"),
        (dict(interpolation="lanczos5"), "interpolation"),
        (dict(data_format="channels_first"), "channels_last"),
        (dict(format="torch"), "format"),
        (dict(on_error="ignore"), "on_error"),
        (dict(subset="training"), "go together"),
        (dict(validation_split=0.2), "go together"),
        (dict(validation_split=2, subset="both", seed=1), "fraction"),
        (dict(validation_split=0.2, subset="test", seed=1), "subset"),
        (dict(validation_split=0.2, subset="both"), "needs a seed"),
        (dict(validation_split=0.01, subset="both", seed=1), "no picture of 6 for validation"),
    ],
)
def test_arguments_are_checked(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(small, **arguments)


def test_binary_takes_two_classes(picture_folder, small):
    with pytest.raises(ValueError, match="2 classes.*has 3"):
        make(picture_folder, label_mode="binary")
    shutil.rmtree(small / "b")
    with pytest.warns(UserWarning, match="one class only, 'a'"):
        make(small)


def test_what_folders_hold_besides(small):
    (small / "a" / ".DS_Store").write_bytes(b"\0")
    put(small / ".hidden" / "1.png")
    put(small / "a" / ".thumbnail.png")
    make(small)
    (small / "empty").mkdir()
    put(small / "loose.jpg")
    (small / "a" / "phone.HEIC").write_bytes(b"\0")
    with pytest.warns(UserWarning) as told:
        data = make(small)
    (message,) = (str(one.message) for one in told)
    assert "1 .heic (save them as JPEG or PNG)" in message and "no picture: empty" in message
    assert "1 pictures lie beside the folders of classes: 'loose.jpg'" in message
    assert data.class_names == ["a", "b"] and len(data.file_paths) == 6


def test_parts_are_no_classes(tmp_path):
    for part in ("train", "test"):
        put(tmp_path / part / "cat" / "1.png")
    with pytest.warns(UserWarning, match="test, train are taken for classes: give the folder of"):
        make(tmp_path)


def test_names_of_all_kinds(tmp_path):
    names = [b"a b.png", "Bär 猫.png".encode(), b"line\nbreak.png", b"\xff\xfe.png"]
    for name in names:
        put(tmp_path / "ä ö" / os.fsdecode(name), 7)
        put(tmp_path / os.fsdecode(b"\xfe") / os.fsdecode(name), 7)
    for folder in (tmp_path, str(tmp_path), os.fsencode(tmp_path)):
        data = make(folder)
        assert sum((x == 7).all(axis=(1, 2, 3)).sum() for x, _ in data) == 8
    (tmp_path / "ä ö" / "new\nline.png").write_bytes(b"")
    with pytest.raises(PictureError, match=r"new\\nline.png' is empty"):
        list(make(tmp_path))


# -- damaged files --------------------------------------------------------------------------------


@pytest.fixture
def damaged(small):
    (small / "a" / "0.png").write_bytes(b"<html>404</html>")
    whole = (small / "b" / "1.png").read_bytes()
    (small / "b" / "1.png").write_bytes(whole[: len(whole) // 2])
    return small


def test_damaged_files_are_errors_with_their_path(damaged):
    with pytest.raises(PictureError, match="a/0.png' is no picture but an HTML page") as caught:
        list(make(damaged, shuffle=False))
    assert "0.png" in caught.value.__notes__[0]


def test_damaged_files_may_be_left_out(damaged):
    data = make(damaged, on_error="skip", batch_size=2, shuffle=False)
    with pytest.warns(UserWarning) as told:
        batches = [y.tolist() for _, y in data]
    assert batches == [[0], [0], [1, 1]] or batches == [[0], [0, 1], [1]]
    (message,) = (str(one.message) for one in told)
    assert "2 of 6 pictures cannot be read and are left out" in message
    assert "0.png" in message and "1.png" in message
    assert sum(len(y) for _, y in data) == 4  # and it is not told again
    singles = make(damaged, on_error="skip", batch_size=None, shuffle=False)
    with pytest.warns(UserWarning, match="2 of 6"):
        assert [int(y) for _, y in singles.cache()] == [0, 0, 1, 1]


def test_an_error_if_nothing_can_be_read(small):
    for path in small.rglob("*.png"):
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="6 of 6"),
        pytest.raises(PictureError, match="is empty, and none of the other 5"),
    ):
        list(make(small, on_error="skip"))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_files_that_vanish_during_an_epoch(small, on_error):
    model = minicnn.Sequential([layers.Flatten(), layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = make(small, on_error=on_error, batch_size=1, shuffle=False)

    class Remove(minicnn.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            (small / "b" / "5.png").unlink(missing_ok=True)

    def run():
        model.fit(data, epochs=3, verbose=0, callbacks=[Remove()])

    if on_error == "raise":
        with pytest.raises(PictureError, match="5.png' cannot be read: No such file") as caught:
            run()
        assert any("batch 5 of the data" in note for note in caught.value.__notes__)
    else:
        with pytest.warns(UserWarning, match="1 of 6 pictures cannot be read"):
            run()
        assert model.optimizer.iterations == 6 + 5 + 5


def test_odd_files_are_told_once_with_their_number(small):
    os.rename(small / "a" / "0.png", small / "a" / "0.jpg")
    frames = [Image.new("L", (4, 4), value) for value in (40, 200)]
    for name in ("x.gif", "y.gif"):
        frames[0].save(small / "b" / name, save_all=True, append_images=frames[1:])
    data = make(small)
    with pytest.warns(UserWarning) as told:
        for _ in range(2):
            assert sum(len(y) for _, y in data) == 8
    (message,) = (str(one.message) for one in told)
    assert "1 of 8 pictures are of another kind than their name says" in message
    assert "0.jpg' is a PNG file by its content" in message
    assert "2 of 8 pictures hold several frames, the first is taken" in message


# -- parts ----------------------------------------------------------------------------------------


def test_parts_are_compared(tmp_path):
    for number in range(4):
        put(tmp_path / "train" / "ab"[number % 2] / f"{number}.png", number)
        put(tmp_path / "test" / "a" / f"{number}.png", 100 + number)
    put(tmp_path / "train" / "c" / "1.png", 50)
    parts = {name: index_directory(tmp_path / name) for name in ("train", "test")}
    with pytest.warns(UserWarning) as told:
        compare_parts(parts)
    (message,) = (str(one.message) for one in told)
    assert "class 'b' is in train only" in message and "class 'c' is in train only" in message
    shutil.copy(tmp_path / "train" / "a" / "2.png", tmp_path / "test" / "a" / "copy.png")
    parts["test"] = index_directory(tmp_path / "test")
    with pytest.warns(UserWarning, match=r"1 files are in two parts, e.g. .*2.png' \(train\) = "):
        compare_parts(parts)
    ((first, second),) = shared_files({name: one.paths for name, one in parts.items()})
    assert (first[0], Path(second[1]).name) == ("train", "copy.png")
    same = {"train": ["a"], "test": ["a"]}
    (tmp_path / "test" / "a" / "copy.png").unlink()
    compare_parts({p: index_directory(tmp_path / p, class_names=c) for p, c in same.items()})


def test_training_and_predicting_from_a_folder(picture_folder):
    train, held_out = make(
        picture_folder, subset="both", validation_split=0.2, seed=1, label_mode="categorical"
    )
    model = minicnn.Sequential(
        [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3, activation="softmax")]
    )
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    flipped = train.cache().shuffle(8).map(lambda x, y: (x[:, :, ::-1], y)).prefetch(2)
    assert flipped.class_names == train.class_names
    history = model.fit(flipped, epochs=2, validation_data=held_out.cache(), verbose=0).history
    assert len(history["val_accuracy"]) == 2
    assert model.predict(held_out, verbose=0).shape == (6, 3)
