"""The report at the end: a table on the terminal, a folder of figures."""

import json
from pathlib import Path

from minicnn.metrics.classification import percent
from minicnn.visualization import confusion_matrix, curves, worst_mistakes
from minicnn.visualization.report import mistakes

MISTAKES = 12


def print_report(figures, what, fitting=None):
    """Accuracy, classes, confusion matrix, overfitting in words."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"\n{figures.count} {what}:")
    console.print(figures)
    if fitting is not None and fitting.verdict != "skipped":
        console.print(f"{fitting.measured[0].upper()}{fitting.measured[1:]}.", soft_wrap=True)
        if fitting.advice:
            console.print(f"{fitting.advice[0].upper()}{fitting.advice[1:]}.", soft_wrap=True)


def write_report(folder, figures, listing, preparation, predictions, history=None, more=None):
    """report.json, report.txt, confusion.png, worst_mistakes.png and, of a training, curves.png."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wrong, shares = mistakes(listing.labels, predictions)
    worst = wrong[:MISTAKES]
    said = predictions.argmax(axis=1) if predictions.shape[1] > 1 else predictions[:, 0] > 0.5
    told = {
        **figures.as_dict(),
        **(more or {}),
        "mistakes": [
            {
                "file": listing.paths[i],
                "is": listing.class_names[listing.labels[i]],
                "said": listing.class_names[int(said[i])],
                "probability": float(shares[i]),
            }
            for i in wrong
        ],
    }
    if history is not None:
        told["history"] = {n: [float(v) for v in vs] for n, vs in history.history.items()}
        curves(history, folder / "curves.png")
    _write(folder / "report.json", json.dumps(told, indent=2) + "\n")
    lines = [str(figures), "", "mistakes, the surest first:"]
    lines += [
        f"{one['file']}: is {one['is']}, said {one['said']} ({percent(one['probability'])})"
        for one in told["mistakes"]
    ]
    _write(folder / "report.txt", "\n".join(lines) + "\n")
    confusion_matrix(figures, path=folder / "confusion.png")
    worst_mistakes(
        [preparation.read(listing.paths[i]) for i in worst],
        listing.labels[worst],
        predictions[worst],
        listing.class_names,
        folder / "worst_mistakes.png",
        MISTAKES,
        [Path(listing.paths[i]).name for i in worst],
    )


def _write(path, text):
    path.write_text(text, encoding="utf-8")
