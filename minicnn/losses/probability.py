"""Losses of distributions: crossentropies, focal losses, Kullback-Leibler divergence, Poisson.

They are functions of log q, q the predicted probability, which is found in one of two ways:

    from logits x:          log q = x - log sum exp x       dx = g - q sum g          g = dl/dlog q
    from probabilities p:   q = p / sum p, clipped          dp = (g / q - sum g) / sum p

The first never takes the logarithm of a rounded probability and is exact for any logits, so models
that end in softmax or sigmoid are trained with it (`fuses`). Clipping to 1e-7 is Keras's rule.
"""

import numpy as np

from minicnn import ops
from minicnn.losses import targets
from minicnn.losses.base import (
    EPSILON,
    Loss,
    MeanLoss,
    clip_probability,
    function_of,
    table,
    weighted,
)

# -- many classes ----------------------------------------------------------------------------------


class _ClassLoss(Loss):
    """Base: l = -sum_i t_i log q_i, or what a subclass's `of_log` makes of log q."""

    kind, expects = staticmethod(targets.one_hot), "softmax"
    from_logits, label_smoothing = False, 0.0

    @property
    def fuses(self):
        return self.expects if not self.from_logits and self.axis == -1 else None

    def per_sample(self, t, y_pred):
        t = t * (1 - self.label_smoothing) + self.label_smoothing / t.shape[-1]
        log_q, q, clipped = self._log_probability(y_pred)
        value, g = self.of_log(t, log_q, q)
        return value, self._log_probability_grad(g, y_pred, q, clipped)

    def of_log(self, t, log_q, q):
        """l and dl/dlog q."""
        return -np.sum(weighted(t, log_q), axis=-1), -t

    def _log_probability(self, y_pred):
        if self.from_logits:
            x = y_pred - np.max(y_pred, axis=-1, keepdims=True)
            log_q = x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))
            return log_q, np.exp(log_q), None
        q, clipped = clip_probability(y_pred / _total(y_pred))
        return np.log(q), q, clipped

    def _log_probability_grad(self, g, y_pred, q, clipped):
        if self.from_logits:
            return g - q * np.sum(g, axis=-1, keepdims=True)
        g = np.where(clipped, 0, g)
        return (g / q - np.sum(g, axis=-1, keepdims=True)) / _total(y_pred)


def _total(p):
    total = np.sum(p, axis=-1, keepdims=True)
    return np.where(total == 0, 1, total)  # a row of zeros is clipped, not divided by 0


class _Crossentropy(_ClassLoss):
    """Base: from logits, values and gradient are one operation on the rows."""

    def _is_op(self):
        """Not where a subclass of the user's may have formulae of its own."""
        return self.from_logits and type(self).__module__ == __name__

    def values(self, y_true, y_pred):
        if not self._is_op():
            return super().values(y_true, y_pred)
        return self._by_rows(*self._aligned(np.asarray(y_true), np.asarray(y_pred)), None)[0]

    def _terms(self, y_true, y_pred, sample_weight, differentiate=True):
        if not self._is_op():
            return super()._terms(y_true, y_pred, sample_weight, differentiate)
        y_true, y_pred = self._aligned(y_true, y_pred)
        factors = self._factors(y_pred.shape[:-1], sample_weight, self.valid(y_true))
        values, gradient = self._by_rows(y_true, y_pred, factors if differentiate else None)
        return values, factors, gradient

    def _by_rows(self, y_true, y_pred, factors):
        """The values, and the gradient where factors are given."""
        if y_pred.dtype not in (np.float32, np.float64):
            y_pred = y_pred.astype(np.float64)
        shape, classes = y_pred.shape, y_pred.shape[-1]
        values, gradient = ops.softmax_crossentropy(
            y_pred.reshape(-1, classes),
            self._rows_of_targets(y_true, classes),
            None if factors is None else np.reshape(factors, -1),
            self.label_smoothing,
        )
        values = values.reshape(shape[:-1])[()]  # of a single sample a number
        return values, None if gradient is None else gradient.reshape(shape)

    def _rows_of_targets(self, t, classes):
        return t.reshape(-1, classes)


@table.register("cce")
class CategoricalCrossentropy(_Crossentropy):
    """-sum_i t_i log q_i for one-hot (or soft) t.

    label_smoothing s: t (1 - s) + s / classes instead of t (Szegedy et al. 2016).
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: str | None = None,
    ):
        super().__init__(name, reduction, dtype)
        self.from_logits, self.axis = from_logits, axis
        self.label_smoothing = _smoothing(label_smoothing)


@table.register()
class SparseCategoricalCrossentropy(_Crossentropy):
    """-log q_c for the label c, an integer. Samples labelled `ignore_class` do not count."""

    kind = staticmethod(targets.labels)

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: str | None = None,
    ):
        super().__init__(name, reduction, dtype)
        self.from_logits, self.ignore_class, self.axis = from_logits, ignore_class, axis

    def per_sample(self, c, y_pred):
        t = (c[..., None] == np.arange(y_pred.shape[-1])).astype(np.float64)
        valid = self.valid(c)
        if valid is not None:
            t *= valid[..., None]
            y_pred = np.where(valid[..., None], y_pred, 0)
        return super().per_sample(t, y_pred)

    def _rows_of_targets(self, c, classes):
        labels = c.reshape(-1).astype(np.int64)
        if self.ignore_class is not None:
            labels[labels == self.ignore_class] = -1  # no class: the row counts nothing
        return labels

    def valid(self, c):
        return None if self.ignore_class is None else c != self.ignore_class

    def _ignored(self):
        return self.ignore_class


@table.register()
class CategoricalFocalCrossentropy(_ClassLoss):
    """-sum_i alpha (1 - q_i)^gamma t_i log q_i: easy samples count less (Lin et al. 2018)."""

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "categorical_focal_crossentropy",
        dtype: str | None = None,
    ):
        super().__init__(name, reduction, dtype)
        self.alpha, self.gamma = alpha, gamma
        self.from_logits, self.axis = from_logits, axis
        self.label_smoothing = _smoothing(label_smoothing)

    def of_log(self, t, log_q, q):
        rest = -np.expm1(log_q)  # 1 - q without cancellation
        factor = np.asarray(self.alpha) * rest**self.gamma
        # d(1 - q)^gamma / dlog q = -gamma (1 - q)^gamma q / (1 - q); log q / (1 - q) -> -1
        ratio = np.where(rest == 0, -1, weighted(q, log_q) / np.where(rest == 0, 1, rest))
        g = factor * (self.gamma * t * ratio - t)
        return -np.sum(factor * weighted(t, log_q), axis=-1), g


# -- two classes -----------------------------------------------------------------------------------


class _BinaryLoss(MeanLoss):
    """Base of losses of one probability: log q and log (1 - q), with derivatives."""

    kind, expects = staticmethod(targets.probabilities), "sigmoid"

    @property
    def fuses(self):
        return None if self.from_logits else self.expects

    def _crossentropy(self, t, y_pred):
        """b = -t log q - (1 - t) log(1 - q), db/dy_pred, then q, 1 - q and dq/dy_pred."""
        if self.from_logits:
            tail = np.exp(-np.abs(y_pred))  # sigmoid and its logarithms without overflow
            log_q = np.minimum(y_pred, 0) - np.log1p(tail)
            log_rest = -np.maximum(y_pred, 0) - np.log1p(tail)
            q, rest = np.exp(log_q), np.exp(log_rest)
            b = -weighted(t, log_q) - weighted(1 - t, log_rest)
            return b, q - t, q, rest, q * rest
        q, clipped = clip_probability(y_pred)
        b = -t * np.log(q) - (1 - t) * np.log(1 - q)
        return b, np.where(clipped, 0, (1 - t) / (1 - q) - t / q), y_pred, 1 - y_pred, 1.0


@table.register("bce", "BCE")
class BinaryCrossentropy(_BinaryLoss):
    """Mean of -t log q - (1 - t) log(1 - q).

    label_smoothing s: t (1 - s) + s / 2 instead of t.
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "binary_crossentropy",
        dtype: str | None = None,
    ):
        super().__init__(reduction, name, dtype)
        self.from_logits, self.axis = from_logits, axis
        self.label_smoothing = _smoothing(label_smoothing)

    def element(self, t, y_pred):
        t = t * (1 - self.label_smoothing) + self.label_smoothing / 2
        return self._crossentropy(t, y_pred)[:2]


@table.register()
class BinaryFocalCrossentropy(_BinaryLoss):
    """Mean of w m^gamma b: b the binary crossentropy, m = t (1 - q) + (1 - t) q how wrong q is.

    w is 1, or t alpha + (1 - t)(1 - alpha) with apply_class_balancing (Lin et al. 2018).
    """

    def __init__(
        self,
        apply_class_balancing: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "binary_focal_crossentropy",
        dtype: str | None = None,
    ):
        super().__init__(reduction, name, dtype)
        self.apply_class_balancing, self.alpha, self.gamma = apply_class_balancing, alpha, gamma
        self.from_logits, self.axis = from_logits, axis
        self.label_smoothing = _smoothing(label_smoothing)

    def element(self, t, y_pred):
        t = t * (1 - self.label_smoothing) + self.label_smoothing / 2
        b, db, q, rest, dq = self._crossentropy(t, y_pred)
        m = t * rest + (1 - t) * q
        w = t * self.alpha + (1 - t) * (1 - self.alpha) if self.apply_class_balancing else 1.0
        power = m**self.gamma
        dm = (1 - 2 * t) * dq
        dpower = self.gamma * power * dm / np.where(m == 0, 1, m)
        return w * power * b, w * (power * db + dpower * b)


# -- divergences -----------------------------------------------------------------------------------


@table.register("kld", "KLD", "kullback_leibler_divergence")
class KLDivergence(Loss):
    """sum_i t_i log(t_i / p_i), both clipped to [1e-7, 1]."""

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "kl_divergence",
        dtype: str | None = None,
    ):
        super().__init__(name, reduction, dtype)

    def per_sample(self, t, y_pred):
        t, p = np.clip(t, EPSILON, 1), np.clip(y_pred, EPSILON, 1)
        gradient = np.where((y_pred < EPSILON) | (y_pred > 1), 0, -t / p)
        return np.sum(t * np.log(t / p), axis=-1), gradient


@table.register()
class Poisson(MeanLoss):
    """Mean of p - t log(p + 1e-7): minus the log likelihood of counts t, up to a constant."""

    def element(self, t, p):
        return p - t * np.log(p + EPSILON), 1 - t / (p + EPSILON)


def _smoothing(value):
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"label_smoothing is a number in [0, 1], not {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"label_smoothing is a number in [0, 1], not {value!r}")
    return value


categorical_crossentropy = function_of(CategoricalCrossentropy)
sparse_categorical_crossentropy = function_of(SparseCategoricalCrossentropy)
categorical_focal_crossentropy = function_of(CategoricalFocalCrossentropy)
binary_crossentropy = bce = BCE = function_of(BinaryCrossentropy)
binary_focal_crossentropy = function_of(BinaryFocalCrossentropy)
kl_divergence = kld = KLD = kullback_leibler_divergence = function_of(KLDivergence)
poisson = function_of(Poisson)
