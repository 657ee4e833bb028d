"""A first tour of convolutional networks: what each step does to a picture, in small numbers.

    python first_cnn.py                    the tour; pictures go to first-cnn-output/
    python first_cnn.py --photo my.jpg     with your own photograph, of any size

Eight stops: kernel, padding, stride, ReLU, pooling, dropout, flatten and dense; then a small
network is trained on real pictures, and we look at what it sees. Read along in this file.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from minicnn import Input, Sequential, set_random_seed
from minicnn.datasets import cifar10
from minicnn.layers import (
    AveragePooling2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    MaxPooling2D,
    ReLU,
    Rescaling,
)
from minicnn.models import Model
from minicnn.utils import img_to_array, load_img

# A picture is a table of numbers: how bright it is at each place. This one shows a seven.
DRAWN = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 9, 9, 9, 9, 9, 9, 0],
        [0, 0, 0, 0, 0, 9, 9, 0],
        [0, 0, 0, 0, 9, 9, 0, 0],
        [0, 0, 0, 0, 9, 9, 0, 0],
        [0, 0, 0, 9, 9, 0, 0, 0],
        [0, 0, 0, 9, 9, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ],
    np.float32,
)
# A kernel is a smaller table of numbers. This one asks: is it brighter to the right of here than
# to the left?
VERTICAL_EDGES = np.array([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]], np.float32)
KERNELS = {
    "as it is": np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32),
    "blur": np.full((5, 5), 1 / 25, np.float32),
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32),
    "vertical edges": VERTICAL_EDGES,
    "horizontal edges": VERTICAL_EDGES.T,
    "outlines": np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32),
    "relief": np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32),
}


def heading(text):
    print(f"\n=== {text} ===")


def print_numbers(title, numbers):
    print(f"\n{title}  {numbers.shape}")
    numbers = numbers + 0.0  # 0, not -0
    width = max(len(f"{number:g}") for number in numbers.ravel()) + 2
    for row in np.atleast_2d(numbers):
        print("".join(f"{number:{width}g}" for number in row))


def draw_numbers(path, tables):
    """Tables side by side, each number in a cell that is coloured by it; tables: {title: array}."""
    rows = max(len(table) for table in tables.values())
    widths = [max(table.shape[1], 3) for table in tables.values()]
    figure = Figure(figsize=(0.42 * sum(widths) + 0.5, 0.42 * rows + 0.7), layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False, width_ratios=widths)[0]
    for axis, (title, table) in zip(axes, tables.items(), strict=True):
        most = max(abs(table).max(), 1)
        axis.imshow(table, cmap="RdBu", vmin=-most, vmax=most)
        for (row, column), number in np.ndenumerate(table):
            colour = "white" if abs(number) > 0.6 * most else "black"
            axis.text(column, row, f"{number:g}", ha="center", va="center", color=colour, size=8)
        axis.set_title(title, size=9)
        axis.set_axis_off()
    figure.savefig(path, dpi=120)
    print(f"-> {path}")


def draw_pictures(path, pictures, columns, size=2.2):
    """{title: picture (h, w) or (h, w, 3)} in rows; grey ones from their darkest to brightest."""
    rows = -(-len(pictures) // columns)
    height, width = next(iter(pictures.values())).shape[:2]
    figure = Figure(
        figsize=(size * columns, (size * height / width + 0.3) * rows), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
        axis.imshow(picture, cmap="gray")  # colours as they are
        axis.set_title(title, size=9)
    figure.savefig(path, dpi=120)
    print(f"-> {path}")


def convolve(picture, kernel, **options):
    """The layer Conv2D with one kernel of our own, on one grey picture (h, w)."""
    layer = Conv2D(1, kernel.shape, use_bias=False, **options)
    layer.build((None, None, None, 1))  # for pictures with one channel
    layer.set_weights([kernel[:, :, None, None]])  # (height, width, channels, filters)
    return layer(picture[None, :, :, None])[0, :, :, 0]


def act(layer, picture):
    """A layer on one grey picture (h, w)."""
    return layer(picture[None, :, :, None])[0, :, :, 0]


# -- the stops ------------------------------------------------------------------------------------


def a_kernel(output):
    heading("1. A kernel walks over a picture")
    print_numbers("the picture", DRAWN)
    print_numbers("the kernel", VERTICAL_EDGES)
    row, column = 2, 3
    window = DRAWN[row : row + 3, column : column + 3]
    print_numbers(f"what it covers at row {row}, column {column}", window)
    print_numbers("times the kernel, number by number", window * VERTICAL_EDGES)
    print(f"and all added up: {(window * VERTICAL_EDGES).sum():g}")
    edges = convolve(DRAWN, VERTICAL_EDGES)
    print_numbers("the same at every place: the feature map", edges)
    print("Above 0 where the picture gets brighter to the right, below 0 where it gets darker.")
    draw_numbers(
        output / "1_kernel.png",
        {"picture": DRAWN, "kernel": VERTICAL_EDGES, "feature map": edges},
    )
    return edges


def kernels_on_a_photograph(photograph, output):
    heading("2. Other kernels, a real picture")
    grey = photograph.mean(axis=2) / 255
    pictures = {"the picture": photograph}
    for name, kernel in KERNELS.items():
        result = convolve(grey.astype(np.float32), kernel)
        if "edges" in name or name == "outlines":
            result = abs(result)  # dark to light or light to dark: both are edges
        pictures[name] = np.clip(result, 0, 1)
        print(f"{name:<17} numbers from {result.min():6.2f} to {result.max():5.2f}")
    draw_pictures(output / "2_kernels.png", pictures, columns=4)


def padding_and_stride(output):
    heading("3. Padding and stride: how large the feature map is")
    maps = {
        "valid": convolve(DRAWN, VERTICAL_EDGES, padding="valid"),
        "same": convolve(DRAWN, VERTICAL_EDGES, padding="same"),
        "same, strides 2": convolve(DRAWN, VERTICAL_EDGES, padding="same", strides=2),
    }
    print("valid: the kernel stays inside, 8 - 3 + 1 = 6 places in each direction")
    print_numbers("same: a border of zeros is put around the picture, it stays 8", maps["same"])
    print_numbers("strides=2: every other place, half as large", maps["same, strides 2"])
    draw_numbers(output / "3_padding_stride.png", maps)
    return maps


def relu_and_pooling(edges, output):
    heading("4. ReLU and pooling")
    positive = act(ReLU(), edges)
    largest = act(MaxPooling2D(2), positive)
    mean = act(AveragePooling2D(2), positive)
    print_numbers("ReLU: what is below 0 becomes 0", positive)
    print_numbers("max-pooling: the largest of each 2 x 2 places", largest)
    print_numbers("average pooling: their mean", mean)
    draw_numbers(
        output / "4_relu_pooling.png",
        {"feature map": edges, "ReLU": positive, "max-pooling": largest, "average": mean},
    )
    return largest


def dropout_flatten_dense(pooled, output):
    heading("5. Dropout, flatten, dense")
    layer = Dropout(0.5)
    tables = {"input": pooled}
    for number in (1, 2):
        dropped = layer(pooled[None], training=True)[0]
        tables[f"dropped, step {number}"] = dropped
        print_numbers(
            f"dropout in training, step {number}: about half are 0, the others double", dropped
        )
    tables["when predicting"] = layer(pooled[None], training=False)[0]
    print_numbers("dropout when predicting: nothing happens", tables["when predicting"])
    print("A network that cannot rely on any single number learns several ways to an answer.")
    draw_numbers(output / "5_dropout.png", tables)

    flat = Flatten()(pooled[None, :, :, None])
    print_numbers("flatten: the table as one row", flat)
    dense = Dense(2, activation="softmax")
    dense.build(flat.shape)
    answer = dense(flat / 27)
    print("dense: each answer is a weighted sum of all of them; softmax makes shares of the sums")
    print_numbers("two answers, with weights drawn by chance", np.round(answer, 3))


def build_model():
    """A network of what we have seen; 20,000 weights, all of them learnt."""
    return Sequential(
        [
            Input((32, 32, 3)),
            Rescaling(1 / 127.5, offset=-1),
            Conv2D(16, (5, 5), padding="same", activation="relu", name="first"),
            MaxPooling2D(2),
            Conv2D(32, (3, 3), padding="same", activation="relu", name="second"),
            MaxPooling2D(2),
            Conv2D(32, (3, 3), padding="same", activation="relu", name="third"),
            MaxPooling2D(2),
            Dropout(0.2),
            Flatten(),
            Dense(10, activation="softmax"),
        ]
    )


def kernels_as_pictures(layer):
    """The kernels (h, w, 3) of a first layer, stretched to 0..1."""
    kernels = layer.get_weights()[0]
    kernels = kernels - kernels.min(axis=(0, 1, 2))
    return np.moveaxis(kernels / kernels.max(axis=(0, 1, 2)), -1, 0)


def train_a_network(arguments):
    heading("6. A network finds its own kernels")
    (x_train, y_train), (x_test, y_test) = cifar10.load_sample()  # 5,000 real pictures
    x_train, y_train = x_train[: arguments.limit], y_train[: arguments.limit]
    model = build_model()
    model.summary()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    first = model.layers[1]
    before = kernels_as_pictures(first)
    model.fit(
        x_train, y_train, batch_size=32, epochs=arguments.epochs, validation_data=(x_test, y_test)
    )
    after = kernels_as_pictures(first)
    kernels = {f"{i + 1}, before": kernel for i, kernel in enumerate(before[:8])}
    kernels |= {f"{i + 1}, after": kernel for i, kernel in enumerate(after[:8])}
    draw_pictures(arguments.output / "6_kernels.png", kernels, columns=8, size=1.2)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"{accuracy:.1%} of {len(x_test)} new pictures are recognised; guessing gives 10 %")
    return model, accuracy


def what_it_sees(model, picture, output):
    heading("7. What the network makes of a picture")
    convolutions = [layer for layer in model.layers if isinstance(layer, Conv2D)]
    watched = Model(model.inputs, [layer.output for layer in convolutions])
    maps = watched.predict(picture[None], verbose=0)
    pictures = {"the picture": picture}
    for layer, found in zip(convolutions, maps, strict=True):
        print(f"{layer.name}: {found.shape[3]} feature maps of {found.shape[1]} x {found.shape[2]}")
        strongest = np.argsort(-found[0].max(axis=(0, 1)))[: 7 if len(pictures) == 1 else 8]
        pictures |= {f"{layer.name}, {i + 1}": found[0, :, :, i] for i in strongest}
    draw_pictures(output / "7_feature_maps.png", pictures, columns=8, size=1.5)
    names = cifar10.CLASS_NAMES
    shares = model.predict(picture[None], verbose=0)[0]
    best = np.argsort(-shares)[:3]
    print("its answer: " + ", ".join(f"{names[i]} {shares[i]:.0%}" for i in best))


def any_size(model, photograph, output):
    heading("8. The same kernels on a large photograph")
    # A kernel does not mind how large a picture is; only flatten and dense do. So the layers
    # before them, with what they have learnt, make a network for pictures of any size.
    picture = Input((None, None, 3))
    x, outputs = picture, {}
    for layer in model.layers:
        if isinstance(layer, Flatten):
            break
        x = outputs[layer.name] = layer(x)
    convolutional = Model(picture, [outputs["first"], outputs["second"], x])
    all_maps = convolutional.predict(photograph[None], verbose=0)
    last = all_maps[-1].shape[1:]
    print(f"a photograph of shape {photograph.shape} ends as feature maps of shape {last}")
    pictures = {"the photograph": photograph}
    for name, count, maps in zip(("first", "second", "last"), (3, 2, 2), all_maps, strict=True):
        strongest = np.argsort(-maps[0].std(axis=(0, 1)))[:count]
        pictures |= {f"{name}, {i + 1}": maps[0, :, :, i] for i in strongest}
    draw_pictures(output / "8_photograph.png", pictures, columns=4, size=3)
    return last


def load_photograph(path):
    """Yours, at most 1,024 pixels wide and high, or a wall of 8 x 12 small pictures."""
    if path is not None:
        picture = load_img(path)
        picture.thumbnail((1024, 1024))
        return img_to_array(picture, dtype="uint8")
    (_, _), (pictures, _) = cifar10.load_sample()
    wall = pictures[:96].reshape(8, 12, 32, 32, 3)
    return wall.swapaxes(1, 2).reshape(8 * 32, 12 * 32, 3)


def parse_arguments(given):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photo", metavar="FILE", help="a photograph of your own, of any size")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--limit", type=int, metavar="N", help="train on the first N pictures")
    parser.add_argument("--output", type=Path, default=Path("first-cnn-output"), metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given=None):
    arguments = parse_arguments(given)
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    set_random_seed(arguments.seed)
    (_, _), (pictures, classes) = cifar10.load_sample()
    ship = pictures[classes[:, 0] == cifar10.CLASS_NAMES.index("ship")][0]
    photograph = load_photograph(arguments.photo)

    edges = a_kernel(output)
    kernels_on_a_photograph(ship if arguments.photo is None else photograph, output)
    maps = padding_and_stride(output)
    pooled = relu_and_pooling(edges, output)
    dropout_flatten_dense(pooled, output)
    model, accuracy = train_a_network(arguments)
    what_it_sees(model, ship, output)
    shape = any_size(model, photograph, output)
    print(f"\nall pictures are in {output}")
    return maps, accuracy, shape


if __name__ == "__main__":
    main()
