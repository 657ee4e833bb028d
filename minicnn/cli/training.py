"""minicnn train: from folders to a model file and a report."""

import json
import math
import os
import time

import click
import numpy as np

from minicnn import callbacks, optimizers
from minicnn.checks.history import best_epoch, check_overfitting, overfitting_in_words
from minicnn.cli import EXIT_INTERRUPTED, cards, fail, folders, networks, say
from minicnn.cli.reporting import print_report, write_report
from minicnn.data.folders import classes_apart, compare_parts
from minicnn.data.pictures import Preparation
from minicnn.data.splitting import groups_of_alike, stratified_split
from minicnn.errors import warn
from minicnn.metrics.classification import classification_report, majority, percent
from minicnn.randomness import set_random_seed


def train_on_folder(
    directory,
    out,
    overwrite,
    size,
    color,
    split,
    epochs,
    patience,
    batch_size,
    learning_rate,
    augment,
    flip,
    balance,
    seed,
    memory,
    report,
    as_json,
    quiet,
    damaged,
):
    """The whole of it; the arguments are the options of the command."""
    started = time.monotonic()
    check_out(out, overwrite)
    if sum(split) >= 1:
        raise click.UsageError(f"--split {split[0]} {split[1]} leaves nothing for training")
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)  # say now that it cannot be written
    set_random_seed(seed)
    data = Data(directory, size, color, split, seed, memory, damaged == "refuse")
    train = data.listings["train"]
    augment = len(train) <= 20_000 if augment is None else augment
    model = networks.default_network(
        data.preparation.size,
        data.preparation.shape[2],
        len(train.class_names),
        len(train),
        augment,
        flip,
    )
    model.compile(
        optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    batch_size = batch_size or networks.batch_size_for(len(train))
    say(
        f"network: {networks.blocks_for(data.preparation.size)} blocks, "
        f"{model.count_params():,} parameters, {batch_size} pictures per step, "
        f"augmentation {'on' if augment else 'off'}"
    )
    trained = {"seed": seed, "pictures": {p: len(one) for p, one in data.listings.items()}}
    cards.write(model, train.class_names, data.preparation, trained)
    stopping = callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
    history = callbacks.History()
    callbacks_ = [
        callbacks.CheckTraining(max(5, patience // 2), class_names=train.class_names),
        callbacks.ReduceLROnPlateau(factor=0.5, patience=max(2, patience // 3)),
        stopping,
        callbacks.ModelCheckpoint(os.fspath(out), save_best_only=True),
        history,
    ]
    try:
        model.fit(
            *data.batches("train", batch_size, shuffle=True),
            batch_size=batch_size,
            epochs=epochs,
            validation_data=data.validation(batch_size),
            class_weight=balanced(train.labels) if balance else None,
            callbacks=callbacks_,
            verbose=0 if quiet else 1,
        )
    except KeyboardInterrupt:
        interrupted(out, history)
    if stopping.best_weights is None:
        fail("the validation loss was never finite, nothing was written: try --learning-rate 1e-4")
    part = "test" if "test" in data.listings else "validation"
    predictions = model.predict(data.batches(part, batch_size)[0], batch_size=batch_size, verbose=0)
    figures = classification_report(data.listings[part].labels, predictions, train.class_names)
    fitting = check_overfitting(history)
    low, high = figures.interval
    trained |= {
        "epochs": len(history.history["loss"]),
        f"{part}_accuracy": figures.accuracy,
        f"{part}_accuracy_95_percent_interval": [low, high],
        "majority_guess": figures.majority[1],
    }
    cards.write(model, train.class_names, data.preparation, trained)
    model.save(os.fspath(out))
    what = "test pictures" if part == "test" else "validation pictures, which also chose the epoch"
    told = {"part": part, "seconds": round(time.monotonic() - started, 1)}
    told |= {"overfitting": {"verdict": fitting.verdict, "told": fitting.measured}}
    if as_json:
        click.echo(json.dumps({**figures.as_dict(), **told, "model": os.fspath(out)}, indent=2))
    else:
        print_report(figures, what, overfitting_in_words(history))
    if report is not None:
        write_report(
            report,
            figures,
            data.listings[part],
            data.preparation,
            predictions,
            history=history,
            more=told,
        )
        say(f"report: {report}")
    say(f"model: {out}")


def check_out(out, overwrite):
    """Say now, not after an hour, that the model cannot be written."""
    if out.suffix != ".keras":
        raise click.UsageError(f"--out {out}: the name of a model file ends in .keras")
    folder = out.parent
    if not folder.is_dir():
        fail(f"{folder}: there is no such folder for --out {out.name}")
    if out.is_dir():
        fail(f"{out} is a folder")
    if not os.access(folder, os.W_OK):
        fail(f"{folder}: no permission to write there")
    if out.exists() and not overwrite:
        fail(f"{out} exists; --overwrite replaces it")


def balanced(labels):
    """Weights with which every class counts the same: n / (k n_c)."""
    counts = np.bincount(labels)
    present = np.flatnonzero(counts)
    return {int(c): len(labels) / (len(present) * counts[c]) for c in present}


def interrupted(out, history):
    """Ctrl-C in `fit`: the best model is in the file already."""
    logs, best = history.history, best_epoch(history)
    if best is None:
        say("interrupted before an epoch with a finite validation loss: nothing was written")
    else:
        say(
            f"interrupted after epoch {len(logs['loss'])}: the best model so far, of epoch "
            f"{best} (validation accuracy {percent(logs['val_accuracy'][best - 1])}), is in {out}"
        )
    raise click.exceptions.Exit(EXIT_INTERRUPTED)


class Data:
    """The pictures of DIR: `listings` and `pixels` by part, `preparation` shared."""

    def __init__(self, directory, size, color, shares, seed, memory, refuse):
        found = folders.parts_of(directory)
        if found:
            whole, listings = None, self._given(found)
        else:
            whole = folders.list_pictures(directory)
            check_classes(whole, directory)
            listings = {"train": whole}
        train = listings["train"]
        held = ", ".join(map("{} {}".format, train.class_names, train.counts))
        say(f"{directory}: {sum(map(len, listings.values()))} pictures, {held}")
        median, grey = folders.look_at(train.paths)
        size = size or networks.input_size(median, len(train) * (1 if found else 0.7))
        color = ("grayscale" if grey else "rgb") if color == "auto" else color
        self.preparation = Preparation(size, color)
        count = sum(map(len, listings.values()))
        self.fits = count * math.prod(self.preparation.shape) <= memory * 1e9
        self.seed, self.refuse, self.pixels = seed, refuse, {}
        self.listings = {part: self._read(part, one) for part, one in listings.items()}
        if whole is None:
            compare_parts(self.listings, self.pixels)
        else:
            self._split(shares)
            for note in classes_apart(self.listings):
                warn(note)
        self._told(median)
        if "validation" not in self.listings:
            fail("there are no pictures for validation: more pictures, or a larger --split")
        check_classes(self.listings["train"], "the train part")

    def _given(self, found):
        """The listings of train/, validation/ and test/; without validation/ test/ stands in."""
        train = folders.list_pictures(found["train"])
        check_classes(train, found["train"])
        listings = {"train": train}
        for part in ("validation", "test"):
            if part in found:
                listings[part] = folders.list_pictures(found[part], train.class_names)
        if "validation" not in listings:
            say(
                f"minicnn: warning: no validation/ beside {found['train']}: test/ is used to stop "
                "training, so its accuracy is a little too good"
            )
            listings["validation"] = listings.pop("test")
        return listings

    def _read(self, part, listing):
        pixels, good = folders.read_all(listing.paths, self.preparation, self.refuse, self.fits)
        if self.fits:
            self.pixels[part] = pixels
        return listing.rows(good)

    def _split(self, shares):
        """One folder into three parts, copies and look-alikes together."""
        whole, pixels = self.listings.pop("train"), self.pixels.pop("train", None)
        groups = groups_of_alike(whole.paths, pixels)
        alike = len(groups) - len(np.unique(groups))
        if alike:
            say(f"copies of other pictures, or like them: {alike}; kept in one part with those")
        wanted = {"train": 1 - sum(shares), "validation": shares[0], "test": shares[1]}
        for part, rows in stratified_split(whole.labels, groups, wanted, self.seed).items():
            if len(rows):
                self.listings[part] = whole.rows(rows)
                if pixels is not None:
                    self.pixels[part] = pixels[rows]

    def _told(self, median):
        height, width = self.preparation.size
        counts = ", ".join(f"{part} {len(one)}" for part, one in self.listings.items())
        best, share = majority(self.listings["train"].labels)
        name = self.listings["train"].class_names[best]
        say(f"parts: {counts}; always saying {name} is right in {percent(share)}")
        say(
            f"input: {height} x {width} {self.preparation.color_mode} (height x width; the median "
            f"picture has {median[0]:.0f} x {median[1]:.0f})"
            + ("" if self.fits else "; read anew in every epoch, they do not fit into --memory")
        )

    def batches(self, part, batch_size, shuffle=False):
        """What `fit` and `predict` take: (x, y), or (source,) where memory is too small."""
        listing = self.listings[part]
        if self.fits:
            return self.pixels[part], listing.labels
        seed = self.seed if shuffle else None
        return (folders.batches(listing, self.preparation, batch_size, seed),)

    def validation(self, batch_size):
        given = self.batches("validation", batch_size)
        return given if len(given) == 2 else given[0]


def check_classes(listing, where):
    """Two classes at least, each with a picture."""
    if len(listing.class_names) < 2:
        held = f"only {listing.class_names[0]!r}" if listing.class_names else "none"
        fail(f"{where} needs a folder of pictures for each of two or more classes, it holds {held}")
    if listing.missing:
        fail(f"{where} has no readable picture of {', '.join(listing.missing)}")
