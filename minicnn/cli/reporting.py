"""The report at the end: a table on the terminal, a folder of figures with the numbers as JSON."""

import json

from minicnn import visualization


def print_report(figures, what, words=""):
    """Accuracy, classes, confusion matrix; words: on overfitting."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"\n{figures.count} {what}:")
    console.print(figures)
    if words:
        console.print(words, soft_wrap=True, markup=False)


def write_report(folder, figures, listing, preparation, predictions, history=None, more=None):
    """The files of `visualization.write_report`, and report.json."""
    paths, labels = listing.paths, listing.labels
    visualization.write_report(
        folder,
        figures,
        lambda index: preparation.read(paths[index]),
        labels,
        predictions,
        paths,
        history,
    )
    told = {**figures.as_dict(), **(more or {})}
    told["mistakes"] = visualization.list_mistakes(labels, predictions, listing.class_names, paths)
    if history is not None:
        told["history"] = {n: [float(v) for v in vs] for n, vs in history.history.items()}
    (folder / "report.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
