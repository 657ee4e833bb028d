"""Small public functions against Keras, and the names that layers and models get by themselves."""

import warnings

import cases
import keras
import numpy as np
import pytest
from keras.src.utils import dataset_utils
from oracle import close, numbers

import minicnn


@pytest.mark.parametrize(
    ("labels", "classes"),
    [([0, 2, 1], None), ([0, 2, 1], 5), ([[0], [2]], None), ([[0, 1], [2, 0]], 3), ([1.0, 0.0], 2)],
)
def test_to_categorical(labels, classes):
    ours = minicnn.utils.to_categorical(labels, classes)
    close(ours, keras.utils.to_categorical(labels, classes), 0)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_normalize(axis, order):
    x = numbers(3, 4)
    x[1] = 0
    close(minicnn.utils.normalize(x, axis, order), keras.utils.normalize(x, axis, order))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("part", ["training", "validation"])
def test_files_of_a_split(tmp_path, shuffle, part):
    """The same files in the same order for the same seed: a split stays when a script moves."""
    for name in ("b/2.png", "b/deep/1.JPG", "a/10.gif", "a/9.bmp", "c d/x.jpeg", "a/n.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    suffixes = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
    paths, labels, names = dataset_utils.index_directory(
        str(tmp_path), "inferred", suffixes, shuffle=shuffle, seed=7, verbose=False
    )
    paths, _ = dataset_utils.get_training_or_validation_split(paths, labels, 0.4, part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class in one part only
        ours = minicnn.utils.image_dataset_from_directory(
            tmp_path, shuffle=shuffle, seed=7, validation_split=0.4, subset=part, verbose=False
        )
    assert ours.file_paths == paths and ours.class_names == names


@pytest.mark.usefixtures("same_names")  # for each class: Keras's RandomColorJitter names others
@pytest.mark.parametrize("cls", cases.LAYERS, ids=lambda cls: cls.__name__)
def test_names_of_layers(cls):
    """snake_case and a count: files, logs and get_layer go by them."""
    arguments = cases.LAYERS[cls][0][0]
    names = []
    for library in (minicnn, keras):
        make = getattr(library.layers, cls.__name__)
        for _ in range(2):
            one = make(**arguments) if isinstance(arguments, dict) else make(*arguments)
            names.append(one.name)
    assert names[:2] == names[2:]


@pytest.mark.usefixtures("same_names")
def test_names_in_models():
    found = []
    for library in (minicnn, keras):
        x = library.Input((3,))
        y = library.layers.Dense(2)(x)
        models = [
            library.Model(x, y),
            library.Model(x, y),
            library.Sequential([library.Input((3,)), library.layers.Dense(2)]),
            library.Sequential([library.layers.Dense(2)]),
        ]
        names = [model.name for model in models]
        for model in models[:3]:
            names += [layer.name for layer in model.layers]
            names += [w.name.split("/")[-1] for w in model.weights]
        found.append(names)
    assert found[0] == found[1]


@pytest.mark.usefixtures("same_names")
def test_a_model_that_is_built_by_its_first_data():
    x = numbers(2, 6, 6, 1)
    found = []
    for library in (minicnn, keras):
        layers = library.layers
        model = library.Sequential([layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)])
        assert not model.built
        model(x)
        assert model.built
        found.append([w.shape for w in model.weights])
        found[-1] += [model.input_shape[1:], model.output_shape[1:], model.count_params()]
    assert found[0] == found[1]


def test_backend():
    for name in ("epsilon", "floatx", "image_data_format"):
        assert getattr(minicnn.backend, name)() == getattr(keras.backend, name)()


def test_arrays_are_arrays():
    """What the libraries give back: predictions are NumPy arrays, weights lists of them."""
    for library in (minicnn, keras):
        model = library.Sequential([library.Input((3,)), library.layers.Dense(2)])
        assert type(model.predict(numbers(2, 3), verbose=0)) is np.ndarray
        assert all(type(one) is np.ndarray for one in model.get_weights())
