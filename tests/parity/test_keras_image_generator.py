"""ImageDataGenerator against Keras's: arguments, transforms, draws, statistics, batches."""

import inspect
import warnings

import numpy as np
import pytest
from keras.src.legacy.preprocessing import image as theirs
from oracle import close, numbers

from minicnn.preprocessing import image as ours

# Keras asks SciPy for the function under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:Please import `affine_transform`")

PICTURE = numbers(19, 14, 3, low=0, high=255)
WIDE = numbers(9, 16, 1, seed=1, low=0, high=255)
FILL_MODES = ["nearest", "constant", "reflect", "wrap"]
PARAMETERS = {
    "rotation": {"theta": 33.0},
    "shift": {"tx": 2.5, "ty": -4.0},
    "shear": {"shear": -21.0},
    "zoom": {"zx": 0.7, "zy": 1.4},
    "affine": {"theta": -70.0, "tx": 3, "ty": -1.25, "shear": 12, "zx": 1.2, "zy": 0.8},
    "flips": {"flip_horizontal": True, "flip_vertical": True},
    "channels": {"channel_shift_intensity": 31.5},
    "darker": {"brightness": 0.37},
    "brighter": {"brightness": 1.9},
    "all": {
        "theta": 14.0,
        "tx": 1.0,
        "ty": 2.0,
        "shear": 9.0,
        "zx": 0.9,
        "zy": 1.1,
        "flip_horizontal": True,
        "channel_shift_intensity": -12.0,
        "brightness": 1.2,
    },
}
RANGES = {
    "none": {},
    "fractions": {"width_shift_range": 0.2, "height_shift_range": 0.3},
    "pixels": {"width_shift_range": 3, "height_shift_range": 2.5},
    "lists": {"width_shift_range": [1, 2, 5], "height_shift_range": [-0.1, 0.2]},
    "zoom pair": {"zoom_range": (0.5, 0.9)},
    "tutorial": {"rotation_range": 40, "shear_range": 0.2, "zoom_range": 0.2},
    "all": {
        "rotation_range": 90,
        "width_shift_range": 0.1,
        "height_shift_range": 0.1,
        "shear_range": 20.0,
        "zoom_range": 0.3,
        "channel_shift_range": 20.0,
        "brightness_range": (0.5, 1.5),
        "horizontal_flip": True,
        "vertical_flip": True,
    },
}


# Of the iterators Keras calls what `flow...` calls; the base class has another hook to override.
METHODS = (
    "flow flow_from_directory flow_from_dataframe standardize get_random_transform apply_transform "
    "random_transform fit"
)


def arguments_of(function):
    return [
        (one.name, one.default, one.kind) for one in inspect.signature(function).parameters.values()
    ]


def test_arguments():
    names = [name for name in ours.__all__ if hasattr(theirs, name)]
    assert len(names) >= 14
    for name in names:
        assert arguments_of(getattr(ours, name)) == arguments_of(getattr(theirs, name)), name
    for name in METHODS.split():
        mine, keras = (getattr(one.ImageDataGenerator, name) for one in (ours, theirs))
        assert arguments_of(mine) == arguments_of(keras), name


def both(**arguments):
    return ours.ImageDataGenerator(**arguments), theirs.ImageDataGenerator(**arguments)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("what", PARAMETERS)
def test_a_transform_with_given_parameters(what, fill_mode, order):
    mine, keras = both(fill_mode=fill_mode, cval=90.0, interpolation_order=order)
    for x in (PICTURE, WIDE):
        y = mine.apply_transform(x.copy(), PARAMETERS[what])
        expected = keras.apply_transform(x.copy(), PARAMETERS[what])
        # Brightness cuts off the digits after the point: a last bit can cost a whole grey level.
        off = np.abs(y - expected) > 1e-3
        assert np.mean(off) <= 0.01 * ("brightness" in PARAMETERS[what])
        assert y.shape == expected.shape and y.dtype == expected.dtype
        assert np.abs(y - expected).max() < 2


@pytest.mark.parametrize("low, high", [(0, 255), (-1, 1), (0, 300), (20, 20)])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_brightness_is_that_of_an_8_bit_picture(low, high, scale, channels):
    x = numbers(7, 5, channels, low=low, high=high) if high > low else np.full((7, 5, 1), 20.0)
    for factor in (0.0, 0.3, 1.0, 2.5):
        y = ours.apply_brightness_shift(x.astype("float32"), factor, scale)
        expected = theirs.apply_brightness_shift(x.astype("float32"), factor, scale)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("what", RANGES)
def test_drawn_parameters(what, seed):
    mine, keras = both(**RANGES[what])
    drawn = mine.get_random_transform(PICTURE.shape, seed=seed)
    assert drawn == keras.get_random_transform(PICTURE.shape, seed=seed)
    np.random.seed(seed)
    assert mine.get_random_transform(PICTURE.shape) == drawn  # from NumPy's generator without one


RANDOM_FUNCTIONS = {
    "random_rotation": (40,),
    "random_shift": (0.2, 0.3),
    "random_shear": (25,),
    "random_zoom": ((0.6, 1.3),),
    "random_channel_shift": (30.0,),
    "random_brightness": ((0.5, 1.5),),
}


@pytest.mark.parametrize("name", RANDOM_FUNCTIONS)
def test_functions_of_one_picture(name):
    for last in (True, False):
        x = PICTURE if last or name == "random_brightness" else PICTURE.transpose(2, 0, 1)
        axes = {} if not last else {"row_axis": 0, "col_axis": 1, "channel_axis": 2}
        if name == "random_channel_shift":
            axes = {"channel_axis": 2 if last else 0}
        elif name == "random_brightness":
            axes = {"scale": last}
        results = []
        for library in (ours, theirs):
            np.random.seed(5)
            results.append(getattr(library, name)(x.copy(), *RANDOM_FUNCTIONS[name], **axes))
        close(*results, what=name)


def test_affine_transform_of_whole_numbers_and_other_axes():
    whole = PICTURE.astype(np.uint8)
    arguments = {"theta": 25, "tx": 3, "row_axis": 1, "col_axis": 0, "channel_axis": 2}
    for x in (whole, PICTURE.astype(np.float64)):
        y = ours.apply_affine_transform(x, **arguments)
        expected = theirs.apply_affine_transform(x, **arguments)
        assert y.dtype == expected.dtype
        close(y, expected, 1e-9)


BATCH = numbers(40, 5, 4, 3, seed=3, low=0, high=255)


@pytest.mark.parametrize("augment", [False, True])
def test_statistics(augment):
    mine, keras = both(
        featurewise_center=True,
        featurewise_std_normalization=True,
        rescale=1 / 255,
        rotation_range=30,
        horizontal_flip=True,
    )
    for one in (mine, keras):
        one.fit(BATCH.copy(), augment=augment, rounds=2, seed=7)
    close(mine.mean, keras.mean)
    close(mine.std, keras.std)
    close(mine.standardize(BATCH.copy()), keras.standardize(BATCH.copy()))
    close(mine.standardize(BATCH[0].copy()), keras.standardize(BATCH[0].copy()))


def test_standardize_in_place_and_with_a_function():
    arguments = {
        "preprocessing_function": lambda x: x + 1,
        "rescale": 0.5,
        "samplewise_center": True,
        "samplewise_std_normalization": True,
    }
    mine, keras = both(**arguments)
    for x in (BATCH, BATCH[0]):
        close(mine.standardize(x.copy()), keras.standardize(x.copy()))
    mine = ours.ImageDataGenerator(rescale=2.0)
    x = np.ones((2, 2, 1), np.float32)
    assert mine.standardize(x) is x and x.max() == 2


@pytest.mark.parametrize("size", [(3, 3), (7, 7)])  # fewer and more numbers than pictures
def test_whitening(size):
    x = numbers(40, *size, 1, seed=4, low=0, high=1)
    mine, keras = both(zca_whitening=True, featurewise_center=True, zca_epsilon=0.5)
    for one in (mine, keras):
        one.fit(x.copy())
    close(mine.zca_whitening_matrix, keras.zca_whitening_matrix, 1e-4)
    close(mine.standardize(x.copy()), keras.standardize(x.copy()), 1e-4)


LABELS = np.arange(40) % 5


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("subset", [None, "training", "validation"])
def test_batches_of_arrays(shuffle, subset):
    split = 0.25 if subset else 0.0
    flows = [
        one.flow(
            BATCH.copy(),
            LABELS,
            batch_size=7,
            shuffle=shuffle,
            seed=11,
            subset=subset,
            sample_weight=LABELS + 0.5,
        )
        for one in both(rotation_range=20, horizontal_flip=True, validation_split=split)
    ]
    assert len(flows[0]) == len(flows[1]) and flows[0].n == flows[1].n
    for _ in range(2 * len(flows[0]) + 1):  # more than two passes
        assert flows[0].batch_index == flows[1].batch_index
        for one, expected in zip(next(flows[0]), next(flows[1]), strict=True):
            close(one, expected)
    for flow in flows:
        flow.reset()
    for one, expected in zip(next(flows[0]), next(flows[1]), strict=True):
        close(one, expected)


def test_batches_by_index():
    flows = [one.flow(BATCH.copy(), LABELS, 9, seed=2) for one in both(zoom_range=0.3)]
    for index in range(len(flows[0])):
        for one, expected in zip(flows[0][index], flows[1][index], strict=True):
            close(one, expected)


def test_a_function_that_draws():
    def erase(x):
        x[: np.random.randint(1, 5)] = np.random.uniform()
        return x

    flows = [
        one.flow(BATCH.copy(), batch_size=8, shuffle=True, seed=3)
        for one in both(preprocessing_function=erase)
    ]
    before = np.random.get_state()[1].copy()
    mine = [next(flows[0]) for _ in range(3)]
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # the user's stream is his
    for batch in mine:
        close(batch, next(flows[1]))


def test_flow_without_targets_and_with_other_inputs():
    flows = [one.flow([BATCH, [LABELS, BATCH]], LABELS, seed=1) for one in both()]
    (x, y), (expected_x, expected_y) = (next(flow) for flow in flows)
    for one, expected in zip([*x, y], [*expected_x, expected_y], strict=True):
        close(one, expected)
    close(*(next(one.flow(BATCH, seed=1)) for one in both()))


@pytest.fixture
def folder(tmp_path, capsys):
    from PIL import Image

    random = np.random.default_rng(0)
    for name, count in (("cats", 7), ("dogs", 5)):
        (tmp_path / name).mkdir()
        for number in range(count):
            picture = random.integers(0, 256, (12 + number, 10, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("class_mode", ["categorical", "binary", "sparse", "input", None])
@pytest.mark.parametrize("subset", [None, "training", "validation"])
def test_batches_of_a_folder(folder, class_mode, subset):
    split = 0.4 if subset else 0.0
    flows = [
        one.flow_from_directory(
            str(folder),
            target_size=(8, 9),
            class_mode=class_mode,
            batch_size=4,
            seed=5,
            subset=subset,
            color_mode="grayscale" if class_mode == "sparse" else "rgb",
            interpolation="bilinear" if subset else "nearest",
        )
        for one in both(rotation_range=20, rescale=1 / 255, validation_split=split)
    ]
    mine, keras = flows
    assert mine.class_indices == keras.class_indices
    assert mine.filenames == keras.filenames and mine.filepaths == keras.filepaths
    assert mine.samples == keras.samples and mine.image_shape == keras.image_shape
    assert mine.num_classes == keras.num_classes
    np.testing.assert_array_equal(mine.classes, keras.classes)
    np.testing.assert_array_equal(mine.labels, keras.labels)
    for _ in range(len(mine) + 1):
        one, expected = next(mine), next(keras)
        if class_mode is None:
            one, expected = [one], [expected]
        for array, other in zip(one, expected, strict=True):
            assert array.dtype == other.dtype
            close(array, other)


def test_saved_pictures_have_the_same_names(folder, tmp_path):
    for name, generator in zip(("mine", "keras"), both(horizontal_flip=True), strict=True):
        (tmp_path / name).mkdir()
        next(
            generator.flow_from_directory(
                str(folder),
                classes=["cats", "dogs"],
                seed=1,
                batch_size=5,
                save_to_dir=str(tmp_path / name),
                save_prefix="aug",
                save_format="jpeg",
            )
        )
    names = [sorted(p.name for p in (tmp_path / one).iterdir()) for one in ("mine", "keras")]
    assert names[0] == names[1] and len(names[0]) == 5


def test_settings_that_override_others():
    for arguments in (
        {"zca_whitening": True, "featurewise_std_normalization": True},
        {"featurewise_std_normalization": True},
        {"samplewise_std_normalization": True},
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mine, keras = both(**arguments)
        for name in (
            "featurewise_center",
            "featurewise_std_normalization",
            "samplewise_center",
            "zoom_range",
            "dtype",
            "data_format",
            "row_axis",
            "col_axis",
            "channel_axis",
        ):
            assert getattr(mine, name) == getattr(keras, name)
