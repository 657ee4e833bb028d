"""minicnn evaluate, predict, info: what is done with a model file."""

import json
import os
from pathlib import Path

import click
import numpy as np

from minicnn.cli import EXIT_FAULT, cards, fail, folders, say
from minicnn.cli.reporting import print_report, write_report
from minicnn.data.folders import pictures_under
from minicnn.metrics.classification import classification_report, percent

TOGETHER = 1024  # pictures that are held in memory at once


def evaluate_on_folder(path, directory, batch_size, report, as_json, damaged):
    """Figures of a model on a folder per class."""
    model = cards.open_model(path)
    names, preparation = cards.read(model, path)
    parts = folders.parts_of(directory)
    if parts:
        part = "test" if "test" in parts else "validation"
        directory = parts[part]
        say(f"evaluating on {directory}")
    listing = folders.list_pictures(directory, names)
    if names is None:
        outputs = max(2, model.outputs[0].shape[1])
        if len(listing.class_names) != outputs:
            fail(
                f"{path} has {outputs} outputs and no class names, {directory} has "
                f"{len(listing.class_names)} classes"
            )
        _without_card(path, listing.class_names)
    predictions, good = _predictions(
        model, listing.paths, preparation, batch_size, damaged == "refuse"
    )
    listing = listing.rows(good)
    figures = classification_report(listing.labels, predictions, listing.class_names)
    if listing.missing:
        say(f"minicnn: warning: {directory} has no picture of {', '.join(listing.missing)}")
    if as_json:
        click.echo(json.dumps({**figures.as_dict(), "model": os.fspath(path)}, indent=2))
    else:
        print_report(figures, "pictures")
    if report is not None:
        write_report(report, figures, listing, preparation, predictions)
        say(f"report: {report}")


def _without_card(path, names=None):
    told = f"its classes are taken to be {', '.join(names)}; " if names else ""
    say(
        f"minicnn: warning: {path} was not written by minicnn train: {told}pixels go in as 0..255, "
        "the answer is wrong if it was trained on others"
    )


def _predictions(model, paths, preparation, batch_size, refuse):
    """(predictions (n, k), which of the files could be read), some pictures at a time."""
    rows, good, errors = [], [], []
    for at in range(0, len(paths), TOGETHER):
        pixels = []
        for i, path in enumerate(paths[at : at + TOGETHER], at):
            read = folders.try_read(preparation, path)
            if isinstance(read, np.ndarray):
                pixels.append(read)
                good.append(i)
            else:
                errors.append((path, read))
        if pixels:
            rows.append(model.predict(np.stack(pixels), batch_size=batch_size, verbose=0))
    folders.tell_damaged(errors, len(paths), refuse)
    return np.concatenate(rows), np.array(good, np.int64)


def predict_pictures(path, pictures, batch_size, as_json):
    """A line, or an entry, for each picture; exit code 1 if one could not be read."""
    model = cards.open_model(path)
    names, preparation = cards.read(model, path)
    if names is None:
        _without_card(path)
        names = [str(i) for i in range(max(2, model.outputs[0].shape[1]))]
    pictures = _with_folders(pictures)
    answers, failed = [], 0
    for at in range(0, len(pictures), TOGETHER):
        some = pictures[at : at + TOGETHER]
        read = [folders.try_read(preparation, os.fspath(one)) for one in some]
        pixels = [one for one in read if isinstance(one, np.ndarray)]
        rows = iter(())
        if pixels:
            made = model.predict(np.stack(pixels), batch_size=batch_size, verbose=0)
            rows = iter(made if made.shape[1] > 1 else np.hstack([1 - made, made]))
        for file, one in zip(some, read, strict=True):
            if not isinstance(one, np.ndarray):
                failed += 1
                answers.append({"file": os.fspath(file), "error": one.reason})
                say(f"minicnn: error: {file} {one.reason}")
                continue
            row = next(rows)
            best = int(row.argmax())
            answers.append(
                {
                    "file": os.fspath(file),
                    "class": names[best],
                    "probability": float(row[best]),
                    "probabilities": {n: float(p) for n, p in zip(names, row, strict=True)},
                }
            )
            if not as_json:
                click.echo(f"{file}: {names[best]} {percent(float(row[best]))}")
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    if failed:
        raise click.exceptions.Exit(EXIT_FAULT)


def _with_folders(given):
    """The files; of a folder the pictures in it."""
    found = []
    for one in given:
        inside = sorted(pictures_under(one)) if one.is_dir() else [one]
        if not inside:
            fail(f"{one} holds no picture")
        found += [Path(file) for file in inside]
    return found


def describe(path, as_json):
    """The model's layers and what its file tells of it."""
    from minicnn import __version__

    model = cards.open_model(path)
    card = cards.card_of(model, path)
    names, preparation, trained = card or (None, None, None)
    told = {
        "file": os.fspath(path),
        "bytes": path.stat().st_size,
        "name": model.name,
        "inputs": [list(tensor.shape[1:]) for tensor in model.inputs],
        "outputs": [list(tensor.shape[1:]) for tensor in model.outputs],
        "parameters": int(sum(p.size for p in model.weights)),
        "trainable_parameters": int(sum(p.size for p in model.trainable_weights)),
        "layers": len(model.layers),
        "classes": names,
        "preparation": preparation and cards.as_dict(preparation),
        "training": trained,
        "version": __version__,
    }
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    model.summary()
    shapes = {key: ", ".join(_shape(one) for one in told[key]) for key in ("inputs", "outputs")}
    click.echo(f"\nfile: {path}, {told['bytes']:,} bytes")
    click.echo(f"input: {shapes['inputs']}; output: {shapes['outputs']}")
    if card is None:
        click.echo("classes: the file does not name them")
    else:
        click.echo(f"classes: {', '.join(names)}")
        cropped = "cropped to shape" if preparation.crop_to_aspect_ratio else "stretched"
        click.echo(
            f"pictures: {preparation.color_mode}, {cropped} to {_shape(preparation.size)} "
            f"({preparation.interpolation})"
        )
        for name, value in trained.items():
            if isinstance(value, dict):
                value = ", ".join(f"{key} {one}" for key, one in value.items())
            elif isinstance(value, list):
                value = " to ".join(percent(one) for one in value)
            elif isinstance(value, float):
                value = percent(value)
            click.echo(f"{name.replace('_', ' ')}: {value}")
    click.echo(f"read by minicnn {__version__}")


def _shape(shape):
    return " x ".join("any" if one is None else str(one) for one in shape)
