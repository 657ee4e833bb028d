"""Pictures changed at random while a network trains: keras.preprocessing.image.ImageDataGenerator.

The generator draws what to do with a picture (`get_random_transform`), does it (`apply_transform`)
and scales the result (`standardize`); its `flow...` methods return iterators over batches
(image_iterators.py, image_file_iterators.py) that call it.
"""

import inspect
import math
import threading

import numpy as np

from minicnn import config, ops
from minicnn.data.batches import positive
from minicnn.data.image_file_iterators import DataFrameIterator, DirectoryIterator
from minicnn.data.image_iterators import NumpyArrayIterator, warn_about_channels
from minicnn.data.image_transforms import (
    affine_matrix,
    apply_affine_transform,
    apply_brightness_shift,
    apply_channel_shift,
    check_fill,
    draw_shift,
    draw_zoom,
    is_number,
    pair,
)
from minicnn.errors import warn

_AFFINE = {"theta": 0, "tx": 0, "ty": 0, "shear": 0, "zx": 1, "zy": 1}  # what leaves x as it is
_NO_EFFECT = {
    "drop_duplicates": "drop them from the table before",
    "has_ext": "file names have their suffix",
    "sort": "shuffle=False keeps the order of the table",
}
_global_generator = threading.Lock()  # held while a user's function draws from ours


class ImageDataGenerator:
    """Batches of randomly changed, normalised pictures (h, w, c). Arguments as in Keras.

    Angles (rotation_range, shear_range) are degrees; shifts are fractions of the picture (below 1),
    pixels, or a list to choose from; zoom_range z means [1 - z, 1 + z]; rescale is applied after
    preprocessing_function and before centring. featurewise_* and zca_whitening need `fit`.
    Transforms are those of Keras 3, also where they surprise: width_shift_range moves pictures up
    and down, height_shift_range left and right, and what is not square turns about a point beside
    its middle (see `affine_matrix`).
    """

    def __init__(
        self,
        featurewise_center=False,
        samplewise_center=False,
        featurewise_std_normalization=False,
        samplewise_std_normalization=False,
        zca_whitening=False,
        zca_epsilon=1e-6,
        rotation_range=0,
        width_shift_range=0.0,
        height_shift_range=0.0,
        brightness_range=None,
        shear_range=0.0,
        zoom_range=0.0,
        channel_shift_range=0.0,
        fill_mode="nearest",
        cval=0.0,
        horizontal_flip=False,
        vertical_flip=False,
        rescale=None,
        preprocessing_function=None,
        data_format=None,
        validation_split=0.0,
        interpolation_order=1,
        dtype=None,
    ):
        for name, value in {
            "zca_epsilon": zca_epsilon,
            "rotation_range": rotation_range,
            "shear_range": shear_range,
            "channel_shift_range": channel_shift_range,
            "cval": cval,
            "rescale": 1 if rescale is None else rescale,
        }.items():
            if not is_number(value):
                raise ValueError(f"ImageDataGenerator takes a number as {name}, not {value!r}")
        for name, value in {
            "width_shift_range": width_shift_range,
            "height_shift_range": height_shift_range,
        }.items():
            _check_shift(name, value)
        if brightness_range is not None:
            brightness_range = pair("brightness_range", brightness_range)
        if is_number(zoom_range):
            zoom_range = [1 - zoom_range, 1 + zoom_range]
        elif not isinstance(zoom_range, list | tuple):
            raise ValueError(f"zoom_range is a number or a pair of them, not {zoom_range!r}")
        check_fill(fill_mode, interpolation_order)
        data_format = config.image_data_format if data_format is None else data_format
        if data_format != "channels_last":
            raise ValueError(
                f"ImageDataGenerator takes images as (n, height, width, channels), data_format="
                f"'channels_last', not {data_format!r}; convert once with x.transpose(0, 2, 3, 1)"
            )
        if not is_number(validation_split) or not 0 <= validation_split < 1:
            raise ValueError(
                f"validation_split is a fraction in [0, 1), not {validation_split!r}; 0.2 keeps "
                "a fifth of the pictures for subset='validation'"
            )
        if preprocessing_function is not None and not callable(preprocessing_function):
            raise ValueError(
                f"preprocessing_function is a function of one picture (h, w, c) that returns it "
                f"changed, not {preprocessing_function!r}"
            )
        dtype = np.dtype(config.floatx if dtype is None else dtype)
        if dtype.kind != "f":
            raise ValueError(f"ImageDataGenerator makes float pictures, dtype={dtype} is not one")
        if zca_whitening:
            if not featurewise_center:
                _warn_overridden("zca_whitening", "featurewise_center=True")
            if featurewise_std_normalization:
                _warn_overridden("zca_whitening", "featurewise_std_normalization=False")
            featurewise_center, featurewise_std_normalization = True, False
        if featurewise_std_normalization and not featurewise_center:
            _warn_overridden("featurewise_std_normalization", "featurewise_center=True")
            featurewise_center = True
        if samplewise_std_normalization and not samplewise_center:
            _warn_overridden("samplewise_std_normalization", "samplewise_center=True")
            samplewise_center = True

        self.featurewise_center = featurewise_center
        self.samplewise_center = samplewise_center
        self.featurewise_std_normalization = featurewise_std_normalization
        self.samplewise_std_normalization = samplewise_std_normalization
        self.zca_whitening, self.zca_epsilon = zca_whitening, zca_epsilon
        self.rotation_range = rotation_range
        self.width_shift_range, self.height_shift_range = width_shift_range, height_shift_range
        self.brightness_range = brightness_range
        self.shear_range = shear_range
        self.zoom_range = pair("zoom_range", zoom_range)
        self.channel_shift_range = channel_shift_range
        self.fill_mode, self.cval = fill_mode, cval
        self.horizontal_flip, self.vertical_flip = horizontal_flip, vertical_flip
        self.rescale = rescale
        self.preprocessing_function = preprocessing_function
        self.data_format = data_format
        self.row_axis, self.col_axis, self.channel_axis = 1, 2, 3
        self.interpolation_order = interpolation_order
        self.dtype = dtype.name
        self._validation_split = validation_split
        self.mean = self.std = self.zca_whitening_matrix = None
        self._told_to_fit = False

    # -- batches ----------------------------------------------------------------------------------

    def flow(
        self,
        x,
        y=None,
        batch_size=32,
        shuffle=True,
        sample_weight=None,
        seed=None,
        save_to_dir=None,
        save_prefix="",
        save_format="png",
        ignore_class_split=False,
        subset=None,
    ):
        """Batches of the pictures x (n, h, w, c), for ever: x, (x, y) or (x, y, sample_weight).

        x may be a pair [pictures, other inputs]; subset is "training" or "validation".
        """
        return NumpyArrayIterator(
            x,
            y,
            self,
            batch_size=batch_size,
            shuffle=shuffle,
            sample_weight=sample_weight,
            seed=seed,
            data_format=self.data_format,
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
            ignore_class_split=ignore_class_split,
            subset=subset,
            dtype=self.dtype,
        )

    def flow_from_directory(
        self,
        directory,
        target_size=(256, 256),
        color_mode="rgb",
        classes=None,
        class_mode="categorical",
        batch_size=32,
        shuffle=True,
        seed=None,
        save_to_dir=None,
        save_prefix="",
        save_format="png",
        follow_links=False,
        subset=None,
        interpolation="nearest",
        keep_aspect_ratio=False,
    ):
        """Batches of the picture files in a folder that has a folder for each class.

        class_mode: "categorical" (one-hot), "binary", "sparse", "input" (y is x), None (no y).
        """
        return DirectoryIterator(
            directory,
            self,
            target_size=target_size,
            color_mode=color_mode,
            keep_aspect_ratio=keep_aspect_ratio,
            classes=classes,
            class_mode=class_mode,
            data_format=self.data_format,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
            follow_links=follow_links,
            subset=subset,
            interpolation=interpolation,
            dtype=self.dtype,
        )

    def flow_from_dataframe(
        self,
        dataframe,
        directory=None,
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
        save_to_dir=None,
        save_prefix="",
        save_format="png",
        subset=None,
        interpolation="nearest",
        validate_filenames=True,
        **kwargs,
    ):
        """Batches of the picture files that a table names, one row per picture.

        dataframe: a pandas or Polars frame, or a dict of lists. Also class_mode "raw" (y_col's
        numbers) and "multi_output" (a list of columns, an array for each).
        """
        ignored = kwargs.keys() & _NO_EFFECT.keys()
        for name in ignored:
            warn(f"flow_from_dataframe ignores {name}: {_NO_EFFECT[name]}")
        if kwargs.keys() - ignored:
            known = inspect.signature(self.flow_from_dataframe).parameters
            raise TypeError(
                f"flow_from_dataframe has no argument {', '.join(kwargs.keys() - ignored)}; its "
                f"arguments are {', '.join(name for name in known if name != 'kwargs')}"
            )
        return DataFrameIterator(
            dataframe,
            directory,
            self,
            x_col=x_col,
            y_col=y_col,
            weight_col=weight_col,
            target_size=target_size,
            color_mode=color_mode,
            classes=classes,
            class_mode=class_mode,
            data_format=self.data_format,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            save_to_dir=save_to_dir,
            save_prefix=save_prefix,
            save_format=save_format,
            subset=subset,
            interpolation=interpolation,
            dtype=self.dtype,
            validate_filenames=validate_filenames,
        )

    def prepare(self, pictures, random):
        """A new batch (n, h, w, c): each picture changed at random, then standardised.

        random: numpy.random.RandomState, from which the user's function draws, too.
        """
        pictures, given = ops.arena.empty(np.shape(pictures), self.dtype), pictures
        pictures[...] = given
        batch = ops.arena.empty(pictures.shape, self.dtype)
        if self.preprocessing_function or self._is_changed():
            for row, picture in zip(batch, pictures, strict=True):
                parameters = self.get_random_transform(picture.shape, random)
                with _DrawsFrom(random):
                    row[...] = self.standardize(self.apply_transform(picture, parameters))
            return batch
        parameters = [self.get_random_transform(pictures.shape[1:], random) for _ in pictures]
        moved = self._all_affine(pictures, parameters)
        for row, picture, drawn in zip(batch, moved, parameters, strict=True):
            row[...] = self._scale(self._recolor_and_flip(picture, drawn))
        return self._whiten(batch)

    def _is_changed(self):
        """Whether a subclass has an apply_transform or a standardize of its own."""
        own = ImageDataGenerator.apply_transform, ImageDataGenerator.standardize
        return (type(self).apply_transform, type(self).standardize) != own

    # -- one picture ------------------------------------------------------------------------------

    def get_random_transform(self, img_shape, seed=None):
        """Drawn parameters of a transform of a picture (h, w, c), as a dict; angles in degrees.

        seed: an integer (the numbers are then those that Keras draws), a RandomState, or None for
        NumPy's global generator.
        """
        random = seed
        if seed is None:
            random = np.random
        elif not isinstance(seed, np.random.RandomState):
            random = np.random.RandomState(seed)
        theta = shear = 0
        if self.rotation_range:
            theta = random.uniform(-self.rotation_range, self.rotation_range)
        tx = draw_shift(random, self.height_shift_range, img_shape[0])
        ty = draw_shift(random, self.width_shift_range, img_shape[1])
        if self.shear_range:
            shear = random.uniform(-self.shear_range, self.shear_range)
        zx, zy = draw_zoom(random, self.zoom_range)
        flip_horizontal = random.random() < 0.5 and bool(self.horizontal_flip)
        flip_vertical = random.random() < 0.5 and bool(self.vertical_flip)
        intensity = brightness = None
        if self.channel_shift_range:
            intensity = random.uniform(-self.channel_shift_range, self.channel_shift_range)
        if self.brightness_range is not None:
            brightness = random.uniform(*self.brightness_range)
        return {
            "theta": theta,
            "tx": tx,
            "ty": ty,
            "shear": shear,
            "zx": zx,
            "zy": zy,
            "flip_horizontal": flip_horizontal,
            "flip_vertical": flip_vertical,
            "channel_shift_intensity": intensity,
            "brightness": brightness,
        }

    def apply_transform(self, x, transform_parameters):
        """The picture x (h, w, c) changed as the dict says; what it leaves out is not done."""
        affine = {name: transform_parameters.get(name, usual) for name, usual in _AFFINE.items()}
        x = apply_affine_transform(
            x,
            **affine,
            row_axis=0,
            col_axis=1,
            channel_axis=2,
            fill_mode=self.fill_mode,
            cval=self.cval,
            order=self.interpolation_order,
        )
        return self._recolor_and_flip(x, transform_parameters)

    def random_transform(self, x, seed=None):
        """The picture x (h, w, c) changed at random."""
        return self.apply_transform(x, self.get_random_transform(np.shape(x), seed))

    def standardize(self, x):
        """preprocessing_function, rescale, centring, scaling, whitening: a picture or a batch.

        A float array is changed in place, as in Keras.
        """
        return self._whiten(self._scale(x))

    def _all_affine(self, batch, parameters):
        """The affine part of `apply_transform`, for all pictures in one call where that goes."""
        affine = [{name: one.get(name, _AFFINE[name]) for name in _AFFINE} for one in parameters]
        if all(one == _AFFINE for one in affine):
            return batch
        if self.interpolation_order > 1 or batch.dtype not in (np.float32, np.float64):
            only_affine = [self.apply_transform(x, p) for x, p in zip(batch, affine, strict=True)]
            return np.stack(only_affine)
        matrices = np.stack([affine_matrix(*batch.shape[1:3], **one) for one in affine])
        interpolation = "bilinear" if self.interpolation_order else "nearest"
        return ops.affine_transform(batch, matrices, self.fill_mode, self.cval, interpolation)

    def _recolor_and_flip(self, x, parameters):
        if parameters.get("channel_shift_intensity") is not None:
            x = apply_channel_shift(x, parameters["channel_shift_intensity"], 2)
        if parameters.get("flip_horizontal", False):
            x = x[:, ::-1]
        if parameters.get("flip_vertical", False):
            x = x[::-1]
        if parameters.get("brightness") is not None:
            x = apply_brightness_shift(x, parameters["brightness"], False)
        return x

    def _scale(self, x):
        """All of `standardize` but whitening."""
        x = np.asarray(x)
        if self.preprocessing_function:
            x = self._preprocessed(x)
        if x.dtype.kind != "f":
            x = x.astype(self.dtype)
        if self.rescale:
            x *= self.rescale
        if self.samplewise_center:
            x -= np.mean(x, keepdims=True)
        if self.samplewise_std_normalization:
            x /= np.std(x, keepdims=True) + 1e-6
        if self.featurewise_center and self._fitted(self.mean, "featurewise_center"):
            x -= self.mean
        if self.featurewise_std_normalization and self._fitted(
            self.std, "featurewise_std_normalization"
        ):
            x /= self.std + 1e-6
        return x

    def _whiten(self, x):
        if not self.zca_whitening or not self._fitted(self.zca_whitening_matrix, "zca_whitening"):
            return x
        matrix = self.zca_whitening_matrix
        size = math.prod(x.shape[-3:])
        if size != len(matrix):
            raise ValueError(
                f"zca_whitening was fitted on pictures of {len(matrix)} numbers, these of shape "
                f"{x.shape[-3:]} have {size}: fit it on pictures of the same shape"
            )
        return (x.reshape(-1, size) @ matrix).reshape(x.shape)

    def _preprocessed(self, x):
        y = np.asarray(self.preprocessing_function(x))
        if y.shape != x.shape or y.dtype.kind not in "fiub":
            raise ValueError(
                f"preprocessing_function returned {_described(y)} for a picture of shape "
                f"{x.shape}: it must return an array of numbers of the same shape"
            )
        return y

    def _fitted(self, statistic, name):
        if statistic is None and not self._told_to_fit:
            self._told_to_fit = True
            warn(f"{name} does nothing before the generator's fit(x) has seen data: call it first")
        return statistic is not None

    # -- statistics -------------------------------------------------------------------------------

    def fit(self, x, augment=False, rounds=1, seed=None):
        """Statistics of the pictures x (n, h, w, c) for featurewise_* and zca_whitening.

        augment: of `rounds` randomly changed copies of x. The mean and deviation are per channel;
        whitening multiplies by U diag(sqrt(n) / (s + zca_epsilon)) U^T, where U s V^T are the
        centred pictures as columns (as in Keras). preprocessing_function is not applied.
        """
        x = np.array(x, dtype=self.dtype)
        if x.ndim != 4 or not x.size:
            raise ValueError(
                f"fit takes pictures (n, height, width, channels), not shape {x.shape}; one "
                "picture x is x[None], grey ones x[..., None]"
            )
        warn_about_channels(x.shape, "fit")
        if self.rescale:
            x *= self.rescale
        if augment:
            random = None if seed is None else np.random.RandomState(seed)
            rounds = range(positive("rounds", rounds))
            x = np.stack([self.random_transform(one, random) for _ in rounds for one in x])
            x = x.astype(self.dtype, copy=False)
        axes = (0, 1, 2)
        if self.featurewise_center:  # float64: sums of millions of values
            self.mean = np.mean(x, axes, np.float64, keepdims=True)[0].astype(self.dtype)
            x -= self.mean
        if self.featurewise_std_normalization:
            self.std = np.std(x, axes, np.float64, keepdims=True)[0].astype(self.dtype)
            x /= self.std + 1e-6
        if self.zca_whitening:
            self.zca_whitening_matrix = _whitening(x.reshape(len(x), -1), self.zca_epsilon)


class _DrawsFrom:
    """Inside, NumPy's global generator continues `random`: a user's function then draws the same
    numbers whichever thread it runs on. One thread at a time.
    """

    def __init__(self, random):
        self.random = random

    def __enter__(self):
        _global_generator.acquire()
        self.before = np.random.get_state()
        np.random.set_state(self.random.get_state())

    def __exit__(self, *error):
        self.random.set_state(np.random.get_state())
        np.random.set_state(self.before)
        _global_generator.release()


def _whitening(flat, epsilon):
    """U diag(sqrt(n) / (s + epsilon)) U^T of the rows (n, d) that are flat^T = U s V^T."""
    n, d = flat.shape
    if n > d:  # the d x d sums of products are less work than the singular vectors of all rows
        squares, u = np.linalg.eigh(flat.T.astype(np.float64) @ flat)
        s = np.sqrt(np.maximum(squares, 0))
    else:
        u, s, _ = np.linalg.svd(flat.T, full_matrices=False)
    return ((u * (math.sqrt(n) / (s + epsilon))) @ u.T).astype(flat.dtype)


def _check_shift(name, value):
    numbers = np.asarray(value)
    good = numbers.ndim <= 1 and numbers.dtype.kind in "fiu" and bool(np.isfinite(numbers).all())
    if not good or (numbers.ndim == 0 and numbers.dtype.kind == "i" and numbers < 0):
        raise ValueError(
            f"{name} is a fraction below 1, a number of pixels, or a list of numbers to choose "
            f"from, not {value!r}"
        )


def _warn_overridden(name, setting):
    warn(f"{name}=True sets {setting}: give both to say the same")


def _described(y):
    return "nothing" if y.dtype == object else f"an array of {y.dtype}, shape {y.shape}"
