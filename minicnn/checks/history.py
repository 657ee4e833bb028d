"""What the curves of a training say, in words."""

import numpy as np

from minicnn.checks.findings import Finding
from minicnn.metrics.classification import percent


def validated_epochs(figures, held_out):
    """Numbers (from 1) of the epochs that the figures in `held_out` belong to, of all `figures`.

    All of them, or every k-th (validation_freq=k): the history does not say k, so the largest that
    gives so many.
    """
    return len(figures) // len(held_out) * np.arange(1, len(held_out) + 1)


def best_epoch(history):
    """Number (from 1) of the epoch with the smallest validation loss; None without one.

    The epoch that EarlyStopping and ModelCheckpoint keep unless told otherwise.
    """
    logs = getattr(history, "history", history)
    held = np.asarray(logs.get("val_loss", ()), float)
    if not np.isfinite(held).any():
        return None
    return int(validated_epochs(logs.get("loss", held), held)[np.nanargmin(held)])


def overfitting_in_words(history):
    """What `check_overfitting` finds as sentences, a line each; "" without validation data."""
    found = check_overfitting(history)
    parts = () if found.verdict == "skipped" else (found.measured, found.advice)
    return "\n".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)


def check_overfitting(history, gap=0.1):
    """Training against validation at the best epoch and after it, as a sentence with advice.

    history: what `fit` returned, or its dict of lists.
    """
    logs = getattr(history, "history", history)
    name = "overfitting"
    if not logs.get("val_loss"):
        return Finding(name, "skipped", "trained without validation data")
    loss, held = np.asarray(logs["loss"], float), np.asarray(logs["val_loss"], float)
    epoch = best_epoch(logs)
    if epoch is None:
        return Finding(name, "fail", "the validation loss was never finite", "", "a lower rate")
    best, known_loss = int(np.nanargmin(held)), loss[epoch - 1]
    accuracy = next((n for n in logs if "acc" in n and f"val_{n}" in logs), None)
    figures = {"best_epoch": epoch, "epochs": len(loss)}
    told = f"best epoch {epoch} of {len(loss)}: loss {known_loss:.3g} in training, "
    told += f"{held[best]:.3g} in validation"
    apart = held[best] > 1.5 * known_loss + 0.1
    if accuracy:
        known, other = float(logs[accuracy][epoch - 1]), float(logs[f"val_{accuracy}"][best])
        figures |= {"accuracy": known, "val_accuracy": other}
        told += f"; accuracy {percent(known)} and {percent(other)}"
        apart = known - other > gap
    rising = len(held) - best > 3 and held[-1] > 1.1 * held[best] and loss[-1] < known_loss
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
