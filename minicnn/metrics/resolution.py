"""Which metric "accuracy" is: it depends on how the labels are written."""

from minicnn import losses
from minicnn.metrics.accuracy import (
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
)
from minicnn.metrics.base import Mean, Sum, get
from minicnn.metrics.regression import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)

_BY_SHAPE = {
    "accuracy": (BinaryAccuracy, SparseCategoricalAccuracy, CategoricalAccuracy),
    "crossentropy": (BinaryCrossentropy, SparseCategoricalCrossentropy, CategoricalCrossentropy),
}
_BY_SHAPE["acc"], _BY_SHAPE["ce"] = _BY_SHAPE["accuracy"], _BY_SHAPE["crossentropy"]


def resolve(identifier, y_true_shape, output_shape, loss=None):
    """The metric of an identifier, under the name that the user wrote.

    "accuracy" and "crossentropy" (short: "acc", "ce") follow the shapes, as in Keras: binary for
    outputs of one unit, sparse where y has no class axis, else categorical. Where the shape of y is
    not known (None) the loss decides; it also says whether the model's predictions are logits.
    """
    if not isinstance(identifier, str):
        return _of_predictions(get(identifier))
    if identifier.lower() not in _BY_SHAPE:
        metric = _of_predictions(get(identifier))
    else:
        loss = getattr(loss, "on_probabilities", loss)  # what the user chose before fusion
        binary, sparse, categorical = _BY_SHAPE[identifier.lower()]
        options = {}
        if identifier.lower() in ("crossentropy", "ce") and getattr(loss, "from_logits", False):
            options["from_logits"] = True
        if output_shape[-1] == 1:
            metric = binary(**options)
        elif _is_sparse(y_true_shape, output_shape, loss):
            metric = sparse(**options)
        else:
            metric = categorical(**options)
    metric.name = identifier
    return metric


def _of_predictions(metric):
    if type(metric) in (Mean, Sum):
        raise TypeError(
            f"{type(metric).__name__} collects values, not predictions: as a metric of a model use "
            "MeanMetricWrapper(fn), fn(y_true, y_pred) -> a value per sample"
        )
    return metric


def _is_sparse(y_true_shape, output_shape, loss):
    if y_true_shape is None:
        return isinstance(loss, losses.SparseCategoricalCrossentropy)
    return len(y_true_shape) < len(output_shape) or y_true_shape[-1] == 1
