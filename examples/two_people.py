"""Tell two people (or more, or any things) apart from a handful of your own photographs.

DIR holds a folder for each, with photographs of any size and orientation:

    DIR/anna/*.jpg    DIR/ben/*.jpg

    python two_people.py DIR                       train, and report what the result is worth
    python two_people.py --predict new.jpg ...     ask the trained network

With a few dozen photographs a network learns them by heart, and its accuracy looks better than it
is. So: copies and bursts stay on one side of the split, the data are examined before training, and
at the end stand the curves, the confusion matrix, the mistakes and the guess that has to be beaten.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from minicnn import Input, Sequential, check_training, load_model, set_random_seed
from minicnn.callbacks import EarlyStopping, ReduceLROnPlateau
from minicnn.data.folders import pictures_under
from minicnn.data.splitting import groups_of_alike, stratified_split
from minicnn.errors import PictureError
from minicnn.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    GlobalAveragePooling2D,
    MaxPooling2D,
    RandomBrightness,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    Rescaling,
)
from minicnn.metrics import classification_report
from minicnn.optimizers import Adam
from minicnn.utils import img_to_array, load_img
from minicnn.visualization import write_report

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def read_photograph(path, size):
    """uint8 (size, size, 3): upright (EXIF), the middle of it, made smaller with all its pixels."""
    picture = load_img(
        str(path), target_size=(size, size), interpolation="bilinear", keep_aspect_ratio=True
    )
    return img_to_array(picture, dtype="uint8")


def read_folders(directory, size):
    """(pixels (n, size, size, 3), class numbers (n,), paths, names of the classes)."""
    if not directory.is_dir():
        sys.exit(f"{directory} is no folder")
    folders = sorted(p for p in directory.iterdir() if p.is_dir() and p.name[0] not in "._")
    pixels, labels, paths, names = [], [], [], []
    for folder in folders:
        read = 0
        for path in map(Path, pictures_under(folder)):
            try:
                pixels.append(read_photograph(path, size))
            except PictureError as error:
                print(f"left out: {error}")
                continue
            labels.append(len(names))
            paths.append(path)
            read += 1
        if read:
            names.append(folder.name)
            print(f"{folder.name}: {read} photographs")
    if len(names) < 2:
        sys.exit(
            f"{directory} has {len(names)} folders with photographs: one for each, two at least"
        )
    return np.stack(pixels), np.array(labels), paths, names


def build_model(size, classes, momentum=0.9):
    """Small, since the data are: 25,000 weights. What is drawn at random happens in training only.

    Every photograph is seen mirrored, moved, turned, nearer, darker: never twice the same.
    """
    model = Sequential(
        [
            Input((size, size, 3)),
            RandomFlip("horizontal"),
            RandomTranslation(0.08, 0.08),
            RandomRotation(0.04),  # of a full turn: 14 degrees
            RandomZoom(0.15),
            RandomBrightness(0.15),
            Rescaling(1 / 127.5, offset=-1),
        ]
    )
    for filters in (16, 32, 64):
        model.add(Conv2D(filters, (3, 3), padding="same", activation="relu"))
        model.add(BatchNormalization(momentum=momentum))
        model.add(MaxPooling2D((2, 2)))
    model.add(GlobalAveragePooling2D())
    model.add(Dropout(0.3))
    model.add(Dense(classes, activation="softmax"))
    return model


def split(pixels, labels, paths, names, seed):
    """The rows of each part; copies and photographs that look alike are in one."""
    groups = groups_of_alike(paths, pixels)
    alike = len(groups) - len(np.unique(groups))
    if alike:
        print(f"copies of other photographs, or like them: {alike}; kept in one part with those")
    rows = stratified_split(labels, groups, SHARES, seed)
    for part, some in rows.items():
        counts = np.bincount(labels[some], minlength=len(names))
        print(f"{part}: " + ", ".join(f"{n} {c}" for n, c in zip(names, counts, strict=True)))
        if not counts.all():
            sys.exit(f"too few photographs of {names[counts.argmin()]}: none is left for {part}")
    return rows


def report(model, history, parts, names, output):
    """What the answers are worth; parts: {name: (pixels, labels, paths)}.

    The photographs that it was trained on and those that chose the epoch are shown beside those
    that it has never seen: how far the last are behind is what it has learnt by heart.
    """
    lines = []
    for part in ("train", "validation", "test"):
        pixels, labels, paths = parts[part]
        predictions = model.predict(pixels, verbose=0)
        figures = classification_report(labels, predictions, names)
        lines.append(f"{part:<12}{figures.headline}")
    # What follows is about the last of them, the test photographs.
    heading = "\n".join(lines)
    text = write_report(output, figures, pixels, labels, predictions, paths, history, heading)
    print(f"\n{text}")
    return figures


def train(arguments):
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    set_random_seed(arguments.seed)
    pixels, labels, paths, names = read_folders(arguments.directory, arguments.size)
    rows = split(pixels, labels, paths, names, arguments.seed)
    x, y = pixels[rows["train"]], labels[rows["train"]]
    held_out = pixels[rows["validation"]], labels[rows["validation"]]

    model = build_model(arguments.size, len(names))
    model.compile(Adam(0.002), "sparse_categorical_crossentropy", metrics=["accuracy"])
    batch_size = max(4, min(32, len(x) // 8))
    # Labels, scale, copies, can it learn at all? Copies of the model are trained for this.
    check_training(model, x, y, held_out, batch_size=batch_size, steps=arguments.check_steps)
    # Rare classes count as much as frequent ones.
    weights = {c: len(y) / (len(names) * count) for c, count in enumerate(np.bincount(y))}
    history = model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=arguments.epochs,
        validation_data=held_out,
        class_weight=weights,
        callbacks=[
            ReduceLROnPlateau(factor=0.5, patience=max(2, arguments.patience // 3)),
            EarlyStopping(patience=arguments.patience, restore_best_weights=True),
        ],
    )
    parts = {
        part: (pixels[some], labels[some], [paths[i] for i in some]) for part, some in rows.items()
    }
    figures = report(model, history, parts, names, output)
    # Names and preparation go into the file, so that predicting needs nothing else.
    model.notes = {
        "pictures": {
            "class_names": names,
            "preparation": {
                "size": [arguments.size, arguments.size],
                "color_mode": "rgb",
                "interpolation": "bilinear",
                "crop_to_aspect_ratio": True,
            },
            "training": {"test_accuracy": figures.accuracy},
        }
    }
    path = output / "two_people.keras"
    model.save(path)
    print(f"\nmodel: {path}; report and pictures: {output}")
    return model, figures


def predict(arguments):
    """A line for each photograph: every name with its probability."""
    path = arguments.output / "two_people.keras"
    if not path.is_file():
        sys.exit(f"{path} is missing: train first (python two_people.py DIR)")
    model = load_model(path)
    names, size = model.notes["pictures"]["class_names"], model.inputs[0].shape[1]
    answers = {}
    for photograph in arguments.predict:
        try:
            pixels = read_photograph(photograph, size)
        except PictureError as error:
            print(f"left out: {error}")
            continue
        (row,) = model.predict(pixels[None], verbose=0)
        answers[photograph] = names[row.argmax()]
        shares = ", ".join(f"{names[i]} {100 * row[i]:.0f} %" for i in np.argsort(-row))
        print(f"{photograph}: {shares}")
    return answers


def parse_arguments(given):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, nargs="?", metavar="DIR")
    parser.add_argument("--predict", nargs="+", metavar="PHOTO", help="ask the trained network")
    parser.add_argument("--size", type=int, default=96, help="of the network's input (96)")
    parser.add_argument("--epochs", type=int, default=150, help="at most (150)")
    parser.add_argument("--patience", type=int, default=25, help="epochs without a better one (25)")
    parser.add_argument("--check-steps", type=int, default=100, help="per check; 0: none (100)")
    parser.add_argument("--output", type=Path, default=Path("people-output"), metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(given)
    if (arguments.directory is None) == (arguments.predict is None):
        parser.error("give DIR to train, or --predict with photographs")
    return arguments


def main(given=None):
    arguments = parse_arguments(given)
    return predict(arguments) if arguments.predict else train(arguments)


if __name__ == "__main__":
    main()
