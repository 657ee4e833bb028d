"""ImageDataGenerator: what it refuses, and that batches depend on seeds and on nothing else."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import minicnn
from minicnn import layers
from minicnn.data.pictures import read_picture
from minicnn.errors import PictureError
from minicnn.preprocessing import image
from minicnn.preprocessing.image import DataFrameIterator, DirectoryIterator, ImageDataGenerator

X = np.random.default_rng(0).integers(0, 256, (22, 6, 5, 3)).astype(np.uint8)
Y = np.arange(22) % 2
EVERYTHING = {
    "rotation_range": 30,
    "width_shift_range": 0.1,
    "height_shift_range": [1, 2],
    "zoom_range": 0.2,
    "shear_range": 5.0,
    "channel_shift_range": 10.0,
    "brightness_range": (0.8, 1.2),
    "horizontal_flip": True,
}


@pytest.fixture
def folder(tmp_path):
    """cats (7 pictures) and dogs (5), of mixed sizes; the last channel tells which is which."""
    random = np.random.default_rng(0)
    for label, (name, count) in enumerate((("cats", 7), ("dogs", 5))):
        (tmp_path / name).mkdir()
        for number in range(count):
            picture = random.integers(0, 200, (12 + number, 10, 3), np.uint8)
            picture[..., 2] = 255 * label
            Image.fromarray(picture).save(tmp_path / name / f"{number}.png")
    return tmp_path


def equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def linear_model(*shape):
    model = minicnn.Sequential(
        [layers.Input(shape), layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")]
    )
    model.compile(
        minicnn.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"data_format": "channels_first"}, "transpose"),
        ({"validation_split": 1.0}, "validation_split"),
        ({"validation_split": "0.2"}, "fraction"),
        ({"zoom_range": (1, 2, 3)}, "zoom_range"),
        ({"zoom_range": "0.2"}, "zoom_range"),
        ({"brightness_range": 0.5}, "brightness_range"),
        ({"brightness_range": (0.5, None)}, "brightness_range"),
        ({"rotation_range": (10, 20)}, "rotation_range"),
        ({"rotation_range": float("nan")}, "rotation_range"),
        ({"width_shift_range": "a"}, "width_shift_range"),
        ({"height_shift_range": -2}, "height_shift_range"),
        ({"fill_mode": "black"}, "nearest, reflect"),
        ({"interpolation_order": 6}, "interpolation order"),
        ({"rescale": "1/255"}, "rescale"),
        ({"preprocessing_function": 3}, "preprocessing_function"),
        ({"dtype": "uint8"}, "float"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageDataGenerator(**arguments)


@pytest.mark.parametrize(
    "name, setting",
    [
        ("zca_whitening", "featurewise_center"),
        ("featurewise_std_normalization", "featurewise_center"),
        ("samplewise_std_normalization", "samplewise_center"),
    ],
)
def test_a_setting_that_needs_another_turns_it_on(name, setting):
    with pytest.warns(UserWarning, match=setting):
        assert getattr(ImageDataGenerator(**{name: True}), setting) is True


@pytest.mark.parametrize(
    "x, arguments, message",
    [
        (X[0], {}, r"x\[None\]"),
        (list(X), {}, "np.stack"),
        (np.array([["a"]]), {}, "pictures"),
        (X, {"y": Y[:5]}, r"y \(5,\)"),
        (X, {"sample_weight": np.ones(3)}, "sample_weight"),
        ([X, np.ones(3)], {}, r"x\[1\]\[0\]"),
        (X[:0], {}, "no pictures"),
        (X, {"batch_size": 0}, "batch_size"),
        (X, {"seed": -1}, "seed"),
        (X, {"subset": "test"}, "'training', 'validation'"),
        (X, {"subset": "validation"}, "validation_split"),
        (X, {"save_to_dir": "no/such/folder"}, "create it"),
    ],
)
def test_arguments_of_flow_are_checked(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageDataGenerator().flow(x, **arguments)


def test_flow_warns_of_what_keras_runs_and_is_probably_a_mistake():
    with pytest.warns(UserWarning, match="no effect without subset"):
        assert ImageDataGenerator(validation_split=0.2).flow(X).n == len(X)
    with pytest.warns(UserWarning, match="validation_split=..."):
        assert ImageDataGenerator().flow(X, subset="training").n == len(X)
    with pytest.warns(UserWarning, match="channels come last"):
        ImageDataGenerator().flow(X.transpose(0, 3, 1, 2))


def test_sorted_labels_are_not_split():
    generator = ImageDataGenerator(validation_split=0.5)
    with pytest.raises(ValueError, match="shuffle x and y"):
        generator.flow(X, np.sort(Y), subset="training")
    with pytest.warns(UserWarning, match="shuffle x and y"):
        generator.flow(X, np.eye(2)[np.sort(Y)], subset="training")
    kept = generator.flow(X, np.sort(Y), subset="validation", ignore_class_split=True)
    np.testing.assert_array_equal(kept.y, np.zeros(11))


def test_batches_depend_on_seed_pass_and_index_only():
    def batches():
        return ImageDataGenerator(**EVERYTHING).flow(X, Y, batch_size=4, seed=3)

    one, other = batches(), batches()
    first = [one[index] for index in range(len(one))]
    with ThreadPoolExecutor(3) as pool:
        mixed = [4, 0, 5, 2, 1, 3]
        again = dict(zip(mixed, pool.map(other.__getitem__, mixed), strict=True))
    for index, batch in enumerate(first):
        equal(batch, again[index])
    for flow in (one, other):
        flow.on_epoch_end()
    second = [one[index] for index in range(len(one))]
    for index, batch in enumerate(second):
        equal(batch, other[index])
    assert not np.array_equal(first[0][0], second[0][0])
    labels = np.concatenate([batch[1] for batch in second])
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(Y))


def test_next_and_indices_give_the_same_batches():
    flows = [ImageDataGenerator(**EVERYTHING).flow(X, Y, 8, seed=1) for _ in range(2)]
    for _ in range(2):
        for index in range(len(flows[0])):
            assert flows[1].batch_index == index
            equal(flows[0][index], flows[1].next())
        flows[0].on_epoch_end()
    assert flows[0].total_batches_seen == flows[1].total_batches_seen == 6
    with pytest.raises(ValueError, match="0 to 2, not 3"):
        flows[0][3]


def test_next_from_several_threads_hands_out_each_batch_once():
    flow = ImageDataGenerator().flow(np.arange(60.0).reshape(60, 1, 1, 1), batch_size=1, seed=0)
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.extend(next(flow) for _ in range(15)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(float(x.ravel()[0]) for x in seen) == list(range(60))


def test_without_a_seed_the_package_seed_decides():
    results = []
    for _ in range(2):
        minicnn.set_random_seed(4)
        results.append(next(ImageDataGenerator(**EVERYTHING).flow(X, Y)))
    equal(*results)
    assert not np.array_equal(results[0][0], next(ImageDataGenerator(**EVERYTHING).flow(X, Y))[0])


def test_reset_starts_a_pass_anew():
    flow = ImageDataGenerator().flow(X, Y, batch_size=8, shuffle=False)
    first = next(flow)
    next(flow)
    flow.reset()
    assert flow.batch_index == 0
    equal(next(flow), first)


def test_the_user_keeps_his_pictures_and_his_random_numbers():
    x = X.astype(np.float32)
    before, state = x.copy(), np.random.get_state()[1].copy()
    generator = ImageDataGenerator(
        rescale=0.1, samplewise_center=True, preprocessing_function=lambda p: p + np.random.rand()
    )
    generator.fit(x, augment=True, seed=0)
    next(generator.flow(x, seed=0))
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_a_batch_is_its_pictures_one_by_one():
    for arguments in (EVERYTHING, {**EVERYTHING, "interpolation_order": 3}):
        generator = ImageDataGenerator(rescale=1 / 255, samplewise_center=True, **arguments)
        batch = generator.prepare(X, np.random.RandomState(1))
        random = np.random.RandomState(1)
        for picture, prepared in zip(X.astype(np.float32), batch, strict=True):
            expected = generator.standardize(generator.random_transform(picture, random))
            # The last bit of a coordinate decides on a grey level where brightness cuts off.
            assert np.mean(np.abs(prepared - expected) > 1e-5) < 0.02


def test_the_reference_operations_make_the_same_batches():
    flow = ImageDataGenerator(rotation_range=40, zoom_range=0.3).flow(X, seed=1)
    fast = flow[0]
    with minicnn.config.using(ops="reference"):
        np.testing.assert_allclose(flow[0], fast, atol=1e-3)


def test_a_subclass_changes_what_a_transform_is():
    class Inverted(ImageDataGenerator):
        def apply_transform(self, x, transform_parameters):
            return 255 - super().apply_transform(x, transform_parameters)

    plain, inverted = (
        next(kind(rotation_range=20).flow(X, seed=0)) for kind in (ImageDataGenerator, Inverted)
    )
    np.testing.assert_allclose(inverted, 255 - plain, atol=1e-3)


@pytest.mark.parametrize(
    "function", [lambda x: x[:2], lambda x: None, lambda x: x.sum(), lambda x: "a"]
)
def test_a_function_that_returns_something_else(function):
    flow = ImageDataGenerator(preprocessing_function=function).flow(X)
    with pytest.raises(ValueError, match=r"preprocessing_function returned .* \(6, 5, 3\)"):
        next(flow)


def test_a_function_may_return_whole_numbers():
    generator = ImageDataGenerator(
        preprocessing_function=lambda x: x.astype(np.uint8) // 2, rescale=2.0, dtype="float64"
    )
    batch = next(generator.flow(X, shuffle=False))
    assert batch.dtype == np.float64
    np.testing.assert_array_equal(batch, X // 2 * 2)


def test_statistics_that_were_never_computed_are_missed_once():
    flow = ImageDataGenerator(featurewise_center=True).flow(X, batch_size=4)
    with pytest.warns(UserWarning, match="fit") as caught:
        next(flow), next(flow)
    assert len(caught) == 1


@pytest.mark.parametrize("x", [X[0], np.zeros((0, 2, 2, 1))])
def test_fit_takes_pictures(x):
    with pytest.raises(ValueError, match="fit takes pictures"):
        ImageDataGenerator().fit(x)


def test_whitening_of_other_sizes_is_refused():
    generator = ImageDataGenerator(zca_whitening=True, featurewise_center=True)
    generator.fit(X)
    with pytest.raises(ValueError, match="same shape"):
        generator.standardize(np.zeros((3, 3, 3), np.float32))


def test_statistics_of_large_values_are_accurate():
    x = np.full((3000, 8, 8, 1), 255, np.uint8)
    x[::2] = 253
    generator = ImageDataGenerator(featurewise_center=True, featurewise_std_normalization=True)
    generator.fit(x)
    assert generator.mean.ravel() == 254 and generator.std.ravel() == 1


def test_pictures_are_saved_as_they_are_seen(tmp_path):
    flow = ImageDataGenerator(rescale=1 / 255).flow(
        X, batch_size=3, save_to_dir=tmp_path, save_prefix="seen", shuffle=False
    )
    next(flow)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[:7] for name in names] == ["seen_0_", "seen_1_", "seen_2_"]
    with pytest.raises(ValueError, match="save_format"):
        ImageDataGenerator().flow(X, save_to_dir=tmp_path, save_format="doc")


# -- folders --------------------------------------------------------------------------------------


def test_a_folder(folder, capsys):
    flow = ImageDataGenerator(rescale=1 / 255).flow_from_directory(
        folder, target_size=(8, 6), class_mode="binary", batch_size=5, shuffle=False
    )
    assert capsys.readouterr().out == "Found 12 images belonging to 2 classes.\n"
    assert flow.class_indices == {"cats": 0, "dogs": 1} and flow.num_classes == 2
    assert flow.samples == flow.n == 12 and len(flow) == 3
    assert flow.image_shape == (8, 6, 3)
    assert flow.filenames[0] == os.path.join("cats", "0.png")
    x, y = next(flow)
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_array_equal(y, flow.classes[:5])
    np.testing.assert_allclose(x[..., 2].mean(axis=(1, 2)), y)
    assert flow.filenames[: flow.batch_index * flow.batch_size] == flow.filenames[:5]


def test_the_parts_of_a_folder_are_all_of_it(folder):
    generator = ImageDataGenerator(validation_split=0.3)
    names = [
        generator.flow_from_directory(folder, subset=subset).filenames
        for subset in ("training", "validation")
    ]
    assert [len(part) for part in names] == [9, 3]
    assert len(set(names[0]) | set(names[1])) == 12


def test_a_class_too_small_to_be_in_both_parts(folder):
    for number in range(3, 5):
        (folder / "dogs" / f"{number}.png").unlink()
    generator = ImageDataGenerator(validation_split=0.3)
    with pytest.warns(UserWarning, match="no picture of class dogs"):
        assert generator.flow_from_directory(folder, subset="validation").samples == 2
    generator = ImageDataGenerator(validation_split=0.1)
    with pytest.raises(ValueError, match="too few pictures"):
        generator.flow_from_directory(folder, subset="validation")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"target_size": 64}, "pair of positive integers"),
        ({"target_size": (5,)}, r"target_size is a pair .*, not \(5,\)$"),
        ({"target_size": 5.5}, "target_size is a pair .*, not 5.5$"),
        ({"target_size": (5, True)}, "target_size is a pair"),
        ({"target_size": (64, 64, 3)}, "color_mode decides"),
        ({"target_size": (64, 0)}, "positive"),
        ({"color_mode": "gray"}, "'grayscale', 'rgb', 'rgba'"),
        ({"class_mode": "one-hot"}, "class_mode is one of 'binary', 'categorical'"),
        ({"class_mode": "raw"}, "class_mode"),
        ({"interpolation": "cubic"}, "'bicubic', 'bilinear'"),
        ({"subset": "test"}, "subset"),
        ({"classes": ["cats", "cows"]}, "cows"),
    ],
)
def test_arguments_about_folders_are_checked(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageDataGenerator().flow_from_directory(folder, **arguments)


def test_folders_that_are_not_there_or_hold_nothing(tmp_path):
    with pytest.raises((ValueError, OSError), match="nowhere"):
        ImageDataGenerator().flow_from_directory(tmp_path / "nowhere")
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match="(?s)" + tmp_path.name + ".*jpg"):
        ImageDataGenerator().flow_from_directory(tmp_path)


def test_number_of_classes_and_class_mode(folder):
    (folder / "cows").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "cows" / "a.png")
    with pytest.warns(UserWarning, match="is for 2 classes, .* has 3"):
        ImageDataGenerator().flow_from_directory(folder, class_mode="binary")
    with pytest.warns(UserWarning, match="one class only"):
        ImageDataGenerator().flow_from_directory(folder, classes=["cats"])


def test_modes_of_pictures(folder):
    size = (9, 9)
    deep = np.full(size, 257 * 200, np.uint16)
    Image.fromarray(deep).save(folder / "dogs" / "deep.png")
    Image.new("1", size, 1).save(folder / "dogs" / "line.png")
    Image.new("CMYK", size, (0, 0, 0, 55)).save(folder / "dogs" / "print.jpg")
    Image.new("RGBA", size, (200, 200, 200, 255)).save(folder / "dogs" / "alpha.png")
    Image.new("L", size, 200).convert("P").save(folder / "dogs" / "table.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    picture = Image.new("RGB", (9, 5), (200, 200, 200))
    picture.paste((0, 0, 0), (0, 0, 9, 2))
    picture.save(folder / "dogs" / "turned.jpg", exif=exif, quality=100)
    for color_mode, channels in (("rgb", 3), ("grayscale", 1), ("rgba", 4)):
        flow = ImageDataGenerator().flow_from_directory(
            folder, (9, 9), color_mode, classes=["dogs"], class_mode="sparse", shuffle=False
        )
        x, _ = next(flow)
        assert x.shape == (11, 9, 9, channels)
        names = map(os.path.basename, flow.filenames)
        pictures = dict(zip(names, x, strict=True))
        for name in ("deep.png", "print.jpg", "alpha.png", "table.png"):
            np.testing.assert_allclose(pictures[name][..., 0], 200, atol=1, err_msg=name)
        assert (pictures["line.png"] == 255).all()
        turned = pictures["turned.jpg"][..., 0]
        assert turned[:, 0].min() > 150 and turned[:, -1].max() < 50


def test_hidden_and_empty_class_folders(folder):
    (folder / ".cache").mkdir()
    Image.new("RGB", (3, 3)).save(folder / ".cache" / "a.png")
    (folder / "dogs" / ".DS_Store").write_bytes(b"\0")
    flow = ImageDataGenerator().flow_from_directory(folder, class_mode="sparse")
    assert flow.class_indices == {"cats": 0, "dogs": 1} and flow.samples == 12


@pytest.mark.parametrize("name", ["a b.png", "Bär 猫.png", "line\nbreak.png", b"\xff\xfe.png"])
def test_names_of_all_kinds(folder, name):
    path = os.path.join(os.fsencode(folder / "cats"), os.fsencode(name))
    os.rename(folder / "cats" / "0.png", path)
    flow = ImageDataGenerator().flow_from_directory(folder, (4, 4), batch_size=12)
    assert next(flow)[0].shape == (12, 4, 4, 3)
    assert os.path.join("cats", os.fsdecode(name)) in flow.filenames


def test_a_file_that_vanishes_or_is_damaged_is_named(folder):
    generator = ImageDataGenerator()
    flow = generator.flow_from_directory(folder, (8, 8), class_mode="sparse", batch_size=4)
    os.truncate(folder / "dogs" / "3.png", 60)
    with pytest.raises(PictureError, match=r"3\.png"):
        linear_model(8, 8, 3).fit(flow, verbose=0)
    (folder / "dogs" / "3.png").unlink()
    with pytest.raises((PictureError, OSError), match=r"3\.png"):
        linear_model(8, 8, 3).fit(flow, verbose=0)


def test_training_does_not_depend_on_the_number_of_threads(folder):
    weights = []
    for workers in (1, 3):
        minicnn.set_random_seed(1)
        model = linear_model(8, 8, 3)
        flow = ImageDataGenerator(**EVERYTHING).flow_from_directory(
            folder, (8, 8), class_mode="sparse", batch_size=5, seed=7
        )
        flow.workers = workers
        model.fit(flow, epochs=3, verbose=0)
        model.fit(flow, epochs=2, steps_per_epoch=2, verbose=0)
        weights.append(model.get_weights())
    equal(*weights)


def test_more_steps_than_batches_see_other_transforms():
    seen = []

    class Watched(minicnn.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(flow.total_batches_seen)

    flow = ImageDataGenerator(rotation_range=20).flow(X, Y, batch_size=11)
    linear_model(6, 5, 3).fit(flow, steps_per_epoch=4, verbose=0, callbacks=[Watched()])
    assert seen == [0, 0, 2, 2] and flow.total_batches_seen == 4


def test_fit_evaluate_predict(folder):
    generator = ImageDataGenerator(rescale=1 / 255)
    flow = generator.flow_from_directory(
        folder, (8, 8), class_mode="sparse", batch_size=5, shuffle=False
    )
    model = linear_model(8, 8, 3)
    history = model.fit(flow, epochs=30, validation_data=flow, verbose=0)
    assert history.history["val_accuracy"][-1] == 1.0
    assert model.evaluate(flow, verbose=0, return_dict=True)["accuracy"] == 1.0
    probabilities = model.predict(flow, verbose=0)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), flow.classes)
    pictures = generator.flow_from_directory(folder, (8, 8), class_mode=None, shuffle=False)
    np.testing.assert_allclose(model.predict(pictures, verbose=0), probabilities, rtol=1e-5)


# -- tables ---------------------------------------------------------------------------------------


def table(folder):
    names = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.png"))
    return {
        "filename": names,
        "class": [name[:4] for name in names],
        "age": list(range(len(names))),
        "weight": [0.5 * i for i in range(len(names))],
    }


class Frame:
    """The part of a data frame that is used."""

    def __init__(self, columns):
        self.data, self.columns = columns, list(columns)

    def __getitem__(self, name):
        return iter(self.data[name])


def structured(columns):
    kinds = [(name, "U20" if isinstance(c[0], str) else float) for name, c in columns.items()]
    return np.array(list(zip(*columns.values(), strict=True)), kinds)


@pytest.mark.parametrize("kind", [dict, Frame, structured])
def test_a_table(folder, kind, capsys):
    flow = ImageDataGenerator().flow_from_dataframe(
        kind(table(folder)),
        folder,
        weight_col="weight",
        target_size=(8, 8),
        class_mode="sparse",
        shuffle=False,
    )
    assert "Found 12 validated image filenames belonging to 2 classes." in capsys.readouterr().out
    x, y, weight = next(flow)
    assert flow.class_indices == {"cats": 0, "dogs": 1}
    np.testing.assert_array_equal(y, [0] * 7 + [1] * 5)
    np.testing.assert_array_equal(weight, 0.5 * np.arange(12))
    np.testing.assert_array_equal(x[..., 2].mean(axis=(1, 2)), 255 * y)


def test_without_a_generator_nothing_is_changed(folder):
    common = {"target_size": (8, 8), "shuffle": False, "seed": 1}
    flow = DataFrameIterator(table(folder), folder, **common)
    x, y = next(flow)
    files = [os.path.join(folder, name) for name in flow.filenames]
    np.testing.assert_array_equal(
        x, [read_picture(file, size=(8, 8), interpolation="nearest") for file in files]
    )
    assert y.sum(axis=0).tolist() == [7, 5]
    equal(next(DirectoryIterator(folder, None, **common)), (x, y))


def test_numbers_as_targets(folder):
    arguments = {"directory": folder, "target_size": (4, 4), "shuffle": False, "batch_size": 3}
    generator, columns = ImageDataGenerator(), table(folder)
    for y_col, expected in (("age", [0, 1, 2]), (["age", "weight"], [[0, 0], [1, 0.5], [2, 1]])):
        for class_mode in ("raw", "other"):
            flow = generator.flow_from_dataframe(
                columns, y_col=y_col, class_mode=class_mode, **arguments
            )
            np.testing.assert_array_equal(next(flow)[1], expected)
    flow = generator.flow_from_dataframe(
        columns, y_col=["age", "weight"], class_mode="multi_output", **arguments
    )
    equal(next(flow)[1], ([0, 1, 2], [0, 0.5, 1]))
    flow = generator.flow_from_dataframe(columns, class_mode="input", **arguments)
    equal(*[[one] for one in next(flow)])


def test_several_classes_of_one_picture(folder):
    columns = table(folder)
    columns["class"] = [["cats"], ("dogs", "cats"), "dogs", ["cows"]] + ["cats"] * 8
    flow = ImageDataGenerator().flow_from_dataframe(
        columns, folder, target_size=(4, 4), shuffle=False, classes=["dogs", "cats"]
    )
    assert flow.samples == 11 and flow.labels[1] == [0, 1]
    np.testing.assert_array_equal(next(flow)[1][:4], [[0, 1], [1, 1], [1, 0], [0, 1]])


def test_the_parts_of_a_table(folder):
    generator = ImageDataGenerator(validation_split=0.25)
    parts = [
        generator.flow_from_dataframe(table(folder), folder, subset=subset).filenames
        for subset in ("validation", "training")
    ]
    assert parts[0] + parts[1] == table(folder)["filename"] and len(parts[0]) == 3


def test_rows_without_a_file_are_left_out(folder):
    columns = table(folder)
    columns["filename"][2] = "cats/nothing.png"
    with pytest.warns(UserWarning, match=r"1 of 12 rows .*nothing\.png"):
        assert ImageDataGenerator().flow_from_dataframe(columns, folder).samples == 11
    with pytest.raises(ValueError, match="none of the 12 rows"):
        ImageDataGenerator().flow_from_dataframe(columns, folder / "cats")
    flow = ImageDataGenerator().flow_from_dataframe(columns, folder, validate_filenames=False)
    with pytest.raises((PictureError, OSError), match=r"nothing\.png"):
        next(flow)


@pytest.mark.parametrize(
    "changes, arguments, error, message",
    [
        ({}, {"x_col": "path"}, ValueError, "x_col='path'; it has filename, class, age, weight"),
        ({}, {"y_col": "age"}, TypeError, "class_mode='raw'"),
        ({}, {"y_col": "age", "class_mode": "sparse"}, TypeError, "takes text"),
        ({}, {"class_mode": "raw"}, TypeError, "takes numbers"),
        ({}, {"class_mode": "multi_output", "y_col": "age"}, TypeError, "list of columns"),
        ({}, {"weight_col": "class"}, TypeError, "weight_col"),
        ({}, {"classes": ["cows"]}, ValueError, "no picture of the classes"),
        ({"filename": list(range(12))}, {}, TypeError, "file names"),
        ({"class": ["cats"] * 3}, {}, ValueError, "3 rows"),
        ({}, {"colour": "rgb"}, TypeError, "colour"),
    ],
)
def test_tables_are_checked(folder, changes, arguments, error, message):
    with pytest.raises(error, match=message):
        ImageDataGenerator().flow_from_dataframe(
            {**table(folder), **changes}, directory=folder, **arguments
        )


def test_arguments_of_old_versions(folder):
    with pytest.warns(UserWarning, match="has_ext"):
        ImageDataGenerator().flow_from_dataframe(table(folder), folder, has_ext=True)


# -- single pictures ------------------------------------------------------------------------------


def test_pictures_are_not_changed_in_place():
    x = X[0].astype(np.float32)
    before = x.copy()
    image.random_rotation(x, 20, row_axis=0, col_axis=1, channel_axis=2)
    image.random_brightness(x, (0.5, 2.0))
    image.random_channel_shift(x, 20.0, channel_axis=2)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: image.apply_affine_transform(x[0], theta=3), "3 axes"),
        (lambda x: image.apply_affine_transform(x, row_axis=0), "row_axis"),
        (lambda x: image.apply_affine_transform(x, channel_axis=1, row_axis=0), "channels"),
        (lambda x: image.apply_affine_transform(x, order=7), "order"),
        (lambda x: image.apply_affine_transform(x, fill_mode="edge"), "fill_mode"),
        (lambda x: image.random_zoom(x, 0.2), "pair of numbers"),
        (lambda x: image.random_brightness(x, 0.2), "pair of numbers"),
    ],
)
def test_functions_check_their_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(X[0])
