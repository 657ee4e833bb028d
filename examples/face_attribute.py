"""A yes-or-no question to photographs of faces: is somebody smiling, wearing glasses, ...?

DIR holds train/, validation/ and test/, each with a folder for either answer:

    DIR/train/smiling/*.jpg    DIR/validation/smiling/*.jpg    DIR/test/smiling/*.jpg
    DIR/train/serious/*.jpg    DIR/validation/serious/*.jpg    DIR/test/serious/*.jpg

Pictures are read while the network trains, so there may be more of them than memory holds. With
--celeba the pictures of CelebA (which you have downloaded) are put into such folders first:

    python face_attribute.py smiling --celeba ~/celeba --attribute Smiling --limit 2000
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from minicnn import Input, Sequential, load_model, set_random_seed
from minicnn.callbacks import CheckTraining, EarlyStopping, ModelCheckpoint
from minicnn.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    GlobalAveragePooling2D,
    MaxPooling2D,
    Rescaling,
)
from minicnn.metrics import classification_report
from minicnn.optimizers import Adam
from minicnn.preprocessing.image import ImageDataGenerator
from minicnn.utils import img_to_array, load_img
from minicnn.visualization import write_report

HEIGHT, WIDTH = 218, 178  # of CelebA's aligned pictures; others are resized to it
PARTS = ("train", "validation", "test")  # CelebA's numbers for them are 0, 1, 2


def build_model(single_output=False, momentum=0.99):
    """Four blocks of convolution and pooling, then a small dense part.

    Pooling halves the picture, rounding up: 218 x 178, 109 x 89, 55 x 45, 28 x 23, 14 x 12.
    Two answers can be two numbers (softmax: they add up to 1) or one (sigmoid: the share of the
    second class). momentum: of the moving statistics of BatchNormalization.
    """
    model = Sequential([Input((HEIGHT, WIDTH, 3)), Rescaling(1 / 255)])
    for filters in (16, 32, 64, 128):
        model.add(Conv2D(filters, (3, 3), padding="same", activation="relu"))
        model.add(MaxPooling2D((2, 2), padding="same"))
    model.add(GlobalAveragePooling2D())
    model.add(Dense(64, activation="relu"))
    model.add(BatchNormalization(momentum=momentum))
    if single_output:
        model.add(Dense(1, activation="sigmoid"))
    else:
        model.add(Dense(2, activation="softmax"))
    return model


def read_table(celeba, name):
    """The rows of CelebA's list_NAME.txt, or of the .csv of its copies: lists of words."""
    for path in (celeba / f"list_{name}.txt", celeba / f"list_{name}.csv"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").replace(",", " ").splitlines()
            return [line.split() for line in lines if line.strip()]
    sys.exit(f"{celeba} holds no list_{name}.txt: it is part of CelebA, beside the pictures")


def sort_celeba(celeba, directory, attribute, limit):
    """CelebA's pictures into DIR/PART/with_ATTRIBUTE and DIR/PART/without_ATTRIBUTE.

    They are linked, and copied only where the file system has no links. limit: of pictures in each
    of the six folders. Who trains and who tests is CelebA's own decision (by person).
    """
    rows = read_table(celeba, "attr_celeba")
    start = next(i for i, row in enumerate(rows) if attribute in row or row[-1] in ("1", "-1"))
    names = [word for word in rows[start] if word != "image_id"]
    if attribute not in names:
        known = next((row for row in rows[:3] if "Smiling" in row), [])
        sys.exit(f"CelebA has no attribute {attribute!r}, it has: {' '.join(known)}")
    column = 1 + names.index(attribute)
    part_of = {row[0]: row[1] for row in read_table(celeba, "eval_partition")}
    folders = [celeba / "img_align_celeba" / "img_align_celeba", celeba / "img_align_celeba"]
    pictures = next((folder for folder in folders if folder.is_dir()), celeba)

    counts = {}
    for row in rows[start + 1 :]:
        part = PARTS[int(part_of[row[0]])]
        folder = directory / part / f"{'with' if row[column] == '1' else 'without'}_{attribute}"
        counts.setdefault(folder, 0)
        if limit is not None and counts[folder] >= limit:
            continue
        source, target = pictures / row[0], folder / row[0]
        if not source.is_file():
            sys.exit(f"{source} is missing: unpack img_align_celeba.zip in {celeba}")
        folder.mkdir(parents=True, exist_ok=True)
        counts[folder] += 1
        if not target.exists():
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
    for folder, count in sorted(counts.items()):
        print(f"{folder}: {count} pictures")


def make_generators(directory, batch_size, single_output, seed):
    """Batches of the three parts; those for training are mirrored, turned and zoomed a little."""
    changed = ImageDataGenerator(horizontal_flip=True, rotation_range=8, zoom_range=0.08)
    unchanged = ImageDataGenerator()
    classes, found = None, []
    for part in PARTS:
        generator = (changed if part == "train" else unchanged).flow_from_directory(
            directory / part,
            target_size=(HEIGHT, WIDTH),
            classes=classes,
            class_mode="binary" if single_output else "categorical",
            batch_size=batch_size,
            shuffle=part == "train",
            seed=seed,
            interpolation="bilinear",
        )
        classes = list(generator.class_indices)
        found.append(generator)
    if len(classes) != 2:
        sys.exit(f"{directory / 'train'} has the classes {', '.join(classes)}: two are wanted")
    return found


def report(model, test, history, output):
    """What the answers to the test pictures are worth, as text and as pictures."""
    names = list(test.class_indices)
    predictions = model.predict(test, verbose=0)
    figures = classification_report(test.classes, predictions, names)

    def picture(index):
        return img_to_array(load_img(test.filepaths[index]), dtype="uint8")

    text = write_report(
        output, figures, picture, test.classes, predictions, test.filepaths, history
    )
    print(f"\n{len(test.classes)} test pictures\n{text}")
    return figures


def parse_arguments(given):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--single-output", action="store_true", help="Dense(1), sigmoid")
    parser.add_argument("--epochs", type=int, default=30, help="at most (30)")
    parser.add_argument("--patience", type=int, default=5, help="epochs without a better one (5)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--output", type=Path, default=Path("face-output"), metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--celeba", type=Path, metavar="FOLDER", help="fill DIR from CelebA first")
    parser.add_argument("--attribute", default="Smiling", help="of list_attr_celeba.txt (Smiling)")
    parser.add_argument("--limit", type=int, metavar="N", help="pictures per part and answer")
    return parser.parse_args(given)


def main(given=None):
    arguments = parse_arguments(given)
    if arguments.celeba is not None:
        sort_celeba(arguments.celeba, arguments.directory, arguments.attribute, arguments.limit)
    for part in PARTS:
        if not (arguments.directory / part).is_dir():
            sys.exit(
                f"{arguments.directory / part} is missing: DIR holds train/, validation/ and "
                "test/, each with a folder for either class (two_people.py splits by itself)"
            )
    arguments.output.mkdir(parents=True, exist_ok=True)
    set_random_seed(arguments.seed)
    train, validation, test = make_generators(
        arguments.directory, arguments.batch_size, arguments.single_output, arguments.seed
    )
    names = list(train.class_indices)

    # Moving statistics need several times 1 / (1 - momentum) steps to arrive: 0.9 for small data.
    momentum = 0.99 if arguments.epochs * len(train) >= 1000 else 0.9
    model = build_model(arguments.single_output, momentum)
    model.summary()
    model.compile(Adam(arguments.learning_rate), "binary_crossentropy", metrics=["accuracy"])
    # Kept in the file: class names, and how a photograph becomes an input (for minicnn predict).
    model.notes = {
        "pictures": {
            "class_names": names,
            "preparation": {
                "size": [HEIGHT, WIDTH],
                "color_mode": "rgb",
                "interpolation": "bilinear",
                "crop_to_aspect_ratio": False,
            },
            "training": {"pictures": {"train": train.samples, "validation": validation.samples}},
        }
    }
    path = arguments.output / "face_attribute.keras"
    history = model.fit(
        train,
        epochs=arguments.epochs,
        validation_data=validation,
        callbacks=[
            CheckTraining(class_names=names),
            EarlyStopping(patience=arguments.patience),
            ModelCheckpoint(path, save_best_only=True),  # of all epochs the best one
        ],
    )
    model = load_model(path)
    figures = report(model, test, history, arguments.output)
    print(f"\nthe model of the best epoch: {path}; report and pictures: {arguments.output}")
    print(f"ask it: minicnn predict {path} photo.jpg")
    return model, figures


if __name__ == "__main__":
    main()
