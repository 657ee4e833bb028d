"""Batches of picture files, found in a folder or named by a table."""

import os
from pathlib import Path

import numpy as np

from minicnn.data.batches import one_of
from minicnn.data.folders import SUFFIXES, index_directory
from minicnn.data.image_iterators import PictureIterator
from minicnn.data.pictures import Preparation, picture_size
from minicnn.errors import warn


class FileIterator(PictureIterator):
    """Batches of pictures that are read from files when they are needed.

    Subclasses find the files and set filenames, filepaths, and what `targets` needs.
    """

    class_modes = ("binary", "categorical", "input", "sparse", None)

    def __init__(
        self,
        image_data_generator,
        data_format,
        subset,
        dtype,
        saving,  # save_to_dir, save_prefix, save_format
        pictures,  # target_size, color_mode, interpolation, keep_aspect_ratio
        class_mode,
    ):
        super().__init__(image_data_generator, data_format, subset, dtype, saving, 10_000_000)
        one_of("class_mode", class_mode, self.class_modes)
        self.preparation = Preparation(picture_size("target_size", pictures[0]), *pictures[1:])
        self.target_size, self.image_shape = self.preparation.size, self.preparation.shape
        self.color_mode, self.class_mode = self.preparation.color_mode, class_mode
        self.interpolation = self.preparation.interpolation
        self.keep_aspect_ratio = bool(self.preparation.crop_to_aspect_ratio)
        self.classes = self.class_indices = self.sample_weight = None
        self.filenames, self.filepaths = [], []

    @property
    def labels(self):
        """What belongs to each file: class numbers."""
        return self.classes

    @property
    def num_classes(self):
        """Number of classes, 0 if there are none."""
        return len(self.class_indices or ())

    def make_batch(self, index_array, random):
        """x, (x, y) or (x, y, sample_weight)."""
        pictures = np.empty((len(index_array), *self.image_shape), np.uint8)
        for picture, number in zip(pictures, index_array, strict=True):
            picture[...] = self.preparation.read(self.filepaths[number])
        x = self.changed(pictures, index_array, random)
        if self.class_mode is None:
            return x
        y = x.copy() if self.class_mode == "input" else self.targets(index_array)
        return (x, y) if self.sample_weight is None else (x, y, self.sample_weight[index_array])

    def targets(self, index_array):
        """y of these samples."""
        if self.class_mode != "categorical":
            return np.asarray(self.classes)[index_array].astype(self.dtype)
        y = np.zeros((len(index_array), self.num_classes), self.dtype)
        for row, number in zip(y, index_array, strict=True):
            row[self.classes[number]] = 1
        return y


class DirectoryIterator(FileIterator):
    """Batches of the picture files in a folder that has a folder for each class."""

    def __init__(
        self,
        directory,
        image_data_generator,
        target_size=(256, 256),
        color_mode="rgb",
        classes=None,
        class_mode="categorical",
        batch_size=32,
        shuffle=True,
        seed=None,
        data_format=None,
        save_to_dir=None,
        save_prefix="",
        save_format="png",
        follow_links=False,
        subset=None,
        interpolation="nearest",
        keep_aspect_ratio=False,
        dtype=None,
    ):
        super().__init__(
            image_data_generator,
            data_format,
            subset,
            dtype,
            (save_to_dir, save_prefix, save_format),
            (target_size, color_mode, interpolation, keep_aspect_ratio),
            class_mode,
        )
        self.directory = directory
        index = index_directory(directory, class_names=classes or None, follow_links=follow_links)
        self.class_indices = {name: number for number, name in enumerate(index.class_names)}
        if class_mode in ("binary", "categorical"):
            _check_number_of_classes(class_mode, index.class_names, f"{directory}")
        labels, paths = np.asarray(index.labels, np.int32), list(index.paths)
        if self.split is not None:
            fraction = self.image_data_generator._validation_split
            chosen = _part_of_each_class(labels, self.split)
            missing = [
                name for name, k in self.class_indices.items() if k not in set(labels[chosen])
            ]
            if not len(chosen):
                raise ValueError(
                    f"no picture of {directory} is left for subset={subset!r} with "
                    f"validation_split={fraction}: too few pictures in each class"
                )
            if missing:
                warn(
                    f"subset={subset!r} of {directory} has no picture of class "
                    f"{', '.join(missing)}: too few for validation_split={fraction}"
                )
            labels, paths = labels[chosen], [paths[number] for number in chosen]
        self.classes = labels
        self.filepaths = paths
        self.filenames = [os.path.relpath(path, directory) for path in paths]
        self.begin(len(paths), batch_size, shuffle, seed)
        print(f"Found {self.samples} images belonging to {self.num_classes} classes.")


class DataFrameIterator(FileIterator):
    """Batches of the picture files that a table names: a column of file names, columns of labels.

    dataframe: anything whose columns are had by `dataframe[name]`: a pandas or Polars frame, a
    dict of lists, a structured array.
    """

    class_modes = (*FileIterator.class_modes[:-1], "multi_output", "raw", None)

    def __init__(
        self,
        dataframe,
        directory=None,
        image_data_generator=None,
        x_col="filename",
        y_col="class",
        weight_col=None,
        target_size=(256, 256),
        color_mode="rgb",
        classes=None,
        class_mode="categorical",
        batch_size=32,
        shuffle=True,
        seed=None,
        data_format="channels_last",
        save_to_dir=None,
        save_prefix="",
        save_format="png",
        subset=None,
        interpolation="nearest",
        keep_aspect_ratio=False,
        dtype="float32",
        validate_filenames=True,
    ):
        if class_mode == "other":  # its name before Keras 2.3
            class_mode = "raw"
        super().__init__(
            image_data_generator,
            data_format,
            subset,
            dtype,
            (save_to_dir, save_prefix, save_format),
            (target_size, color_mode, interpolation, keep_aspect_ratio),
            class_mode,
        )
        self.directory = directory or ""
        with_classes = class_mode in ("binary", "categorical", "sparse")
        names = _column(dataframe, x_col, "x_col")
        for name in names:
            if not isinstance(name, str | os.PathLike):
                raise TypeError(f"column x_col={x_col!r} holds file names, not {name!r}")
        paths = [os.path.join(self.directory, name) for name in names]
        keep = _rows_with_pictures(paths) if validate_filenames else range(len(paths))
        if with_classes:
            column = _column(dataframe, y_col, "y_col", len(names))
            labels, known = _known_classes(column, keep, classes, class_mode, y_col)
            keep = [i for i in keep if labels[i] is not None]
            self.class_indices = {name: number for number, name in enumerate(known)}
        elif classes:
            warn(f"classes is not used with class_mode={class_mode!r}")
        if self.split is not None:
            start, stop = (int(fraction * len(keep)) for fraction in self.split)
            keep = keep[start:stop]
        if not len(keep):
            raise ValueError(
                "the table has no picture"
                + (f" for subset={subset!r} among {len(names)} rows" if subset else "")
                + (f" of the classes {list(self.class_indices)}" if with_classes else "")
            )
        if with_classes:
            _check_number_of_classes(class_mode, known, f"column {y_col!r}")
        self.filenames = [names[i] for i in keep]
        self.filepaths = [paths[i] for i in keep]
        if with_classes:
            numbers = [[self.class_indices[name] for name in labels[i]] for i in keep]
            self.classes = [
                row[0] if isinstance(column[i], str) else row
                for i, row in zip(keep, numbers, strict=True)
            ]
        elif class_mode in ("multi_output", "raw"):
            self._targets = _numbers(dataframe, y_col, class_mode, keep, len(names))
        if weight_col is not None:
            weight = np.asarray(_column(dataframe, weight_col, "weight_col", len(names)))
            if weight.dtype.kind not in "fiub":
                raise TypeError(
                    f"column weight_col={weight_col!r} holds numbers, not {weight[0]!r}"
                )
            self.sample_weight = weight[list(keep)]
        self.begin(len(keep), batch_size, shuffle, seed)
        kind = "validated" if validate_filenames else "non-validated"
        end = f" belonging to {self.num_classes} classes." if with_classes else "."
        print(f"Found {self.samples} {kind} image filenames{end}")

    @property
    def labels(self):
        """Class numbers, or the numbers of y_col."""
        return self._targets if self.class_mode in ("multi_output", "raw") else self.classes

    def targets(self, index_array):
        """y of these samples."""
        if self.class_mode == "multi_output":
            return [one[index_array] for one in self._targets]
        if self.class_mode == "raw":
            return self._targets[index_array]
        return super().targets(index_array)


def _part_of_each_class(labels, part):
    """Numbers of the samples between two fractions of every class."""
    chosen = []
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        chosen.extend(members[int(part[0] * len(members)) : int(part[1] * len(members))])
    return np.array(chosen, np.int64)


def _check_number_of_classes(class_mode, names, where):
    if class_mode == "binary" and len(names) != 2:
        warn(
            f"class_mode='binary' is for 2 classes, {where} has {len(names)} "
            f"({', '.join(map(str, list(names)[:5]))}): 'categorical' or 'sparse' take any number"
        )
    elif class_mode == "categorical" and len(names) == 1:
        warn(f"{where} has one class only, {names[0]!r}: there is nothing to learn")


def _rows_with_pictures(paths):
    """Numbers of the paths that are picture files; one warning of the others."""
    keep, wrong = [], []
    for i, path in enumerate(paths):
        good = path.lower().endswith(SUFFIXES) and Path(path).is_file()
        (keep if good else wrong).append(i)
    if wrong and not keep:
        raise ValueError(
            f"none of the {len(paths)} rows names a picture file, the first is {paths[0]!r}: give "
            f"the folder as directory, and names with their suffix ({', '.join(SUFFIXES)})"
        )
    if wrong:
        warn(
            f"{len(wrong)} of {len(paths)} rows name no picture file and are left out, the first "
            f"is {paths[wrong[0]]!r} (files end in {', '.join(SUFFIXES)})"
        )
    return keep


def _column(table, name, argument, rows=None):
    """A column of the table as a list."""
    try:
        column = list(table[name])
    except (KeyError, IndexError, ValueError, TypeError) as error:
        if isinstance(table, dict):
            there = list(table)
        else:
            there = getattr(table, "columns", None)
            there = getattr(getattr(table, "dtype", None), "names", ()) if there is None else there
        raise ValueError(
            f"the table has no column {argument}={name!r}; it has "
            f"{', '.join(map(str, () if there is None else there))}"
        ) from error
    if rows is not None and len(column) != rows:
        raise ValueError(f"column {name!r} has {len(column)} rows, the file names have {rows}")
    return column


def _known_classes(column, keep, classes, class_mode, y_col):
    """(list of class names per kept row, None if it has none of `classes`; all class names)."""
    several = class_mode == "categorical"
    found = {}
    for row in keep:
        label = column[row]
        listed = several and isinstance(label, list | tuple)
        if not listed and not isinstance(label, str):
            raise TypeError(
                f"class_mode={class_mode!r} takes {'text or lists of text' if several else 'text'} "
                f"in column y_col={y_col!r}, not {label!r}; write numbers as text for classes, or "
                "give class_mode='raw' for numbers as they are"
            )
        found[row] = list(label) if listed else [label]
    if not classes:
        return found, sorted({name for names in found.values() for name in names})
    known = list(dict.fromkeys(classes))
    for row, names in found.items():
        found[row] = [name for name in names if name in known] or None
    return found, known


def _numbers(table, y_col, class_mode, keep, rows):
    """The numbers of one or several columns: a list with an array for each, or one array."""
    several = isinstance(y_col, list | tuple)
    if class_mode == "multi_output" and not several:
        raise TypeError(
            f"class_mode='multi_output' takes a list of columns as y_col, not {y_col!r}"
        )
    arrays = []
    for name in y_col if several else [y_col]:
        column = _column(table, name, "y_col", rows)
        arrays.append(np.asarray([column[i] for i in keep]))
        if arrays[-1].dtype.kind not in "fiub":
            raise TypeError(
                f"class_mode={class_mode!r} takes numbers in column y_col={name!r}, not "
                f"{column[keep[0]]!r}; class_mode='categorical' or 'sparse' takes names of classes"
            )
    if class_mode == "multi_output":
        return arrays
    return np.stack(arrays, axis=1) if several else arrays[0]
