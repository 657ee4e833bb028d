"""Curves of a training, the confusion matrix, the worst mistakes: figures, and files if wanted.

Figures are those of Matplotlib, each its own, without pyplot: nothing opens a window, and nothing
has to be closed. `write_report` puts them all into a folder, with a text beside them.
"""

import math
import os
from pathlib import Path

import numpy as np

from minicnn.checks.history import best_epoch, overfitting_in_words, validated_epochs
from minicnn.metrics.classification import percent


def _figure(width, height):
    from matplotlib.figure import Figure  # 0.2 s to import

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _saved(figure, path):
    if path is not None:
        os.makedirs(os.path.dirname(os.fspath(path)) or ".", exist_ok=True)
        figure.savefig(path)
    return figure


def curves(history, path=None):
    """Every figure of `fit` over the epochs, training beside validation.

    history: what `fit` returned, or its dict of lists. path: where to write it, e.g. "curves.png".
    A dotted line marks the same epoch in all panels: that of the smallest validation loss, whose
    weights EarlyStopping and ModelCheckpoint keep unless told otherwise.
    """
    logs = getattr(history, "history", history)
    names = [n for n in logs if not n.startswith("val_") and np.ndim(logs[n]) == 1]
    names = [n for n in names if n != "learning_rate"]
    if not names or not len(logs[names[0]]):
        raise ValueError("the history holds no epoch: fit first")
    best = best_epoch(logs)
    figure = _figure(4.8 * len(names), 3.6)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        epochs = np.arange(1, len(logs[name]) + 1)
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, logs[name], label="training", marker=marker)
        if f"val_{name}" in logs:
            held = logs[f"val_{name}"]
            few = "o" if len(held) == 1 else None
            axes.plot(validated_epochs(epochs, held), held, label="validation", marker=few)
        if best is not None:
            label = f"best epoch: {best}"
            axes.axvline(best, color="grey", linestyle=":", linewidth=1.2, label=label)
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return _saved(figure, path)


def confusion_matrix(confusion, class_names=None, path=None):
    """The counts as a table: rows the true classes, columns what they were called.

    confusion: (k, k), or a ClassificationReport. The colour is the share of the row.
    """
    if hasattr(confusion, "confusion"):
        class_names = class_names or confusion.class_names
        confusion = confusion.confusion
    confusion = np.asarray(confusion)
    k = len(confusion)
    names = [str(i) for i in range(k)] if class_names is None else [str(n) for n in class_names]
    side = min(max(3.0, 0.55 * k + 1.5), 20)
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, label="share of the true class")
    if k <= 30:
        for (i, j), count in np.ndenumerate(confusion):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(k), [_literal(n) for n in names], rotation=45, ha="right")
        axes.set_yticks(range(k), [_literal(n) for n in names])
    axes.set(xlabel="said", ylabel="is")
    return _saved(figure, path)


def worst_mistakes(pictures, y_true, y_pred, class_names=None, path=None, count=12, titles=None):
    """The wrong answers that the model was surest of, as pictures with both classes.

    pictures (n, h, w, c): uint8, or floats in 0..1 or 0..255; or a function of the index that
    returns one of them. y_true: class numbers (n,). y_pred: predictions (n, k) or (n, 1). titles: a
    line for each of the n, such as a file name.
    """
    order, shares = mistakes(y_true, y_pred)
    order = order[:count]
    said = _rows(y_pred).argmax(axis=1)
    true = np.asarray(y_true).reshape(-1)
    names = class_names or [str(i) for i in range(_rows(y_pred).shape[1])]
    columns = min(4, max(len(order), 1))
    lines = -(-max(len(order), 1) // columns)
    figure = _figure(2.6 * columns, 2.9 * lines)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    if not len(order):
        grid[0].text(0.5, 0.5, "no mistakes", ha="center", va="center")
    for axes, index in zip(grid, order, strict=False):
        picture = pictures(index) if callable(pictures) else pictures[index]
        axes.imshow(_shown(picture), cmap="gray", vmin=0, vmax=1)
        text = f"is {names[true[index]]}\nsaid {names[said[index]]} ({100 * shares[index]:.0f} %)"
        if titles is not None:
            text = f"{str(titles[index])[-32:]}\n{text}"
        axes.set_title(_literal(text), fontsize=8)
    return _saved(figure, path)


def mistakes(y_true, y_pred):
    """(indices of wrong answers, the surest first; the probability of every answer)."""
    rows, true = _rows(y_pred), np.asarray(y_true).reshape(-1)
    said, shares = rows.argmax(axis=1), rows.max(axis=1)
    wrong = np.flatnonzero(said != true)
    return wrong[np.argsort(-shares[wrong], kind="stable")], shares


def list_mistakes(y_true, y_pred, class_names, files):
    """The wrong answers, the surest first, as dicts of file, is, said and probability."""
    rows, true = _rows(y_pred), np.asarray(y_true).reshape(-1)
    return [
        {
            "file": os.fspath(files[i]),
            "is": class_names[true[i]],
            "said": class_names[rows[i].argmax()],
            "probability": float(rows[i].max()),
        }
        for i in mistakes(y_true, y_pred)[0]
    ]


def write_report(folder, figures, pictures, y_true, y_pred, files, history=None, heading=""):
    """report.txt, confusion.png, worst_mistakes.png and, of a training, curves.png in a folder.

    figures: the classification_report of y_true and y_pred. pictures: as `worst_mistakes` takes
    them, files: their paths. heading: lines that begin the text, after which come the figures,
    whether it overfits, and all mistakes by file. Returns what stands before those.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = "" if history is None else overfitting_in_words(history)
    text = "\n\n".join(part for part in (heading, str(figures), words) if part)
    wrong = [
        f"{one['file']}: is {one['is']}, said {one['said']} ({percent(one['probability'])})"
        for one in list_mistakes(y_true, y_pred, figures.class_names, files)
    ]
    lines = [text, "", "mistakes, the surest first:", *(wrong or ["none"])]
    (folder / "report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if history is not None:
        curves(history, folder / "curves.png")
    confusion_matrix(figures, path=folder / "confusion.png")
    titles = [os.path.basename(file) for file in files]
    path = folder / "worst_mistakes.png"
    worst_mistakes(pictures, y_true, y_pred, figures.class_names, path, titles=titles)
    return text


def _rows(y_pred):
    """Predictions with a column for each class."""
    y_pred = np.asarray(y_pred, np.float64)
    y_pred = y_pred.reshape(len(y_pred), math.prod(y_pred.shape[1:]))  # also where there are none
    return np.hstack([1 - y_pred, y_pred]) if y_pred.shape[1] == 1 else y_pred


def _shown(picture):
    """A picture as Matplotlib takes it: floats in 0..1, grey without its channel axis."""
    picture = np.asarray(picture)
    scale = 255.0 if picture.dtype == np.uint8 or picture.max(initial=0) > 2 else 1.0
    picture = np.clip(picture.astype(np.float32) / scale, 0, 1)
    return picture[..., 0] if picture.shape[-1] == 1 else picture


def _literal(text):
    """A dollar sign in a name is no formula."""
    return text.replace("$", r"\$")
