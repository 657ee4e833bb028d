"""What the curves of a training say, in words."""

import numpy as np

from minicnn.checks.findings import Finding
from minicnn.metrics.classification import percent


def check_overfitting(history, gap=0.1):
    """Training against validation at the best epoch and after it, as a sentence with advice.

    history: what `fit` returned, or its dict of lists.
    """
    logs = getattr(history, "history", history)
    name = "overfitting"
    if not logs.get("val_loss"):
        return Finding(name, "skipped", "trained without validation data")
    loss, held = np.asarray(logs["loss"], float), np.asarray(logs["val_loss"], float)
    if not np.isfinite(held).any():
        return Finding(name, "fail", "the validation loss was never finite", "", "a lower rate")
    best = int(np.nanargmin(held))
    accuracy = next((n for n in logs if "acc" in n and f"val_{n}" in logs), None)
    figures = {"best_epoch": best + 1, "epochs": len(held)}
    told = f"best epoch {best + 1} of {len(held)}: loss {loss[best]:.3g} in training, "
    told += f"{held[best]:.3g} in validation"
    apart = held[best] > 1.5 * loss[best] + 0.1
    if accuracy:
        known, other = float(logs[accuracy][best]), float(logs[f"val_{accuracy}"][best])
        figures |= {"accuracy": known, "val_accuracy": other}
        told += f"; accuracy {percent(known)} and {percent(other)}"
        apart = known - other > gap
    rising = len(held) - best > 3 and held[-1] > 1.1 * held[best] and loss[-1] < loss[best]
    if rising:
        told += f"; then the validation loss rose to {held[-1]:.3g} while training went on falling"
    if apart:
        return Finding(
            name,
            "warn",
            told,
            "both alike",
            "it overfits: it knows its training pictures by heart; more (and more varied) "
            "pictures, augmentation, dropout or a smaller network",
            figures,
        )
    if best == len(held) - 1 and len(held) > 1:
        advice = "validation was still improving when training ended: more epochs may help"
        return Finding(name, "pass", told, "both alike", advice, figures)
    return Finding(name, "pass", told, "both alike", "", figures)
