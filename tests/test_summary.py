"""The table of model.summary(): what it says, and that it fits where it is shown."""

import io
import sys

import pytest

from minicnn.layers import (
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    ReLU,
)
from minicnn.models import Model, Sequential


def text(model, **arguments):
    """The summary as `print_fn` gets it: one text."""
    parts = []
    model.summary(print_fn=parts.append, **arguments)
    assert len(parts) == 1
    return parts[0]


def rows(model, **arguments):
    """The table's rows as lists of cells, the heading first."""
    lines = text(model, **arguments).replace("┃", "│").splitlines()
    return [[cell.strip() for cell in one.split("│")[1:-1]] for one in lines if "│" in one]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def chain():
    return Sequential(
        [
            Input((8, 8, 3)),
            Conv2D(4, 3, name="conv"),
            BatchNormalization(name="norm"),
            Flatten(name="flat"),
            Dense(1000, name="top"),
        ],
        name="chain",
    )


@pytest.fixture
def residual():
    x = Input((4, 4, 8), name="image")
    shared = Conv2D(8, 3, padding="same", name="shared")
    y = Add(name="sum")([x, shared(shared(x))])
    return Model(x, GlobalAveragePooling2D(name="mean")(y), name="residual")


def test_a_chain(chain):
    assert text(chain).startswith('Model: "chain"\n')
    assert rows(chain) == [
        ["Layer (type)", "Output Shape", "Param #"],
        ["conv (Conv2D)", "(None, 6, 6, 4)", "112"],
        ["norm (BatchNormalization)", "(None, 6, 6, 4)", "16"],
        ["flat (Flatten)", "(None, 144)", "0"],
        ["top (Dense)", "(None, 1000)", "145,000"],
    ]
    assert text(chain).endswith(
        " Total params: 145,128 (566.91 KB)\n"
        " Trainable params: 145,120 (566.88 KB)\n"
        " Non-trainable params: 8 (32.00 B)"
    )


def test_a_functional_chain_needs_no_column_of_connections():
    x = Input((4,), name="x")
    found = rows(Model(x, ReLU(name="relu")(Dense(2, name="dense")(x))))
    assert [row[0] for row in found[1:]] == ["x (InputLayer)", "dense (Dense)", "relu (ReLU)"]
    assert found[0] == ["Layer (type)", "Output Shape", "Param #"]


def test_paths_that_join_and_a_layer_used_twice(residual):
    found = rows(residual)
    assert found[0][3] == "Connected to"
    assert found[1:] == [
        ["image (InputLayer)", "(None, 4, 4, 8)", "0", "-"],
        ["shared (Conv2D)", "(None, 4, 4, 8)", "584", "image"],
        ["", "", "", "shared[0][0]"],
        ["sum (Add)", "(None, 4, 4, 8)", "0", "image"],
        ["", "", "", "shared[1][0]"],
        ["mean (GlobalAveragePooling2D)", "(None, 8)", "0", "sum"],
    ]


def test_several_outputs():
    x = Input((4,), name="x")
    inner = Model(x, [Dense(2, name="a")(x), Dense(3, name="b")(x)], name="inner")
    y = Input((4,), name="y")
    left, right = inner(y)
    found = rows(Model(y, [ReLU(name="left")(left), ReLU(name="right")(right)]))
    assert ["inner (Model)", "(None, 2)", "25", "y"] in found
    assert ["right (ReLU)", "(None, 3)", "0", "inner[0][1]"] in found


def test_unbuilt_layers():
    model = Sequential([Dense(3, name="dense")], name="lazy")
    assert rows(model)[1:] == [["dense (Dense)", "?", "0 (unbuilt)"]]
    assert " Total params: 0 (0.00 B)" in text(model)


def test_nested_models_are_shown_on_demand(chain):
    model = Sequential([chain, Dense(2, name="dense")])
    assert [row[0] for row in rows(model)[1:]] == ["chain (Sequential)", "dense (Dense)"]
    found = rows(model, expand_nested=True)
    assert found[2] == ["└ conv (Conv2D)", "(None, 6, 6, 4)", "112"]
    assert len(found) == 7


def test_trainable(chain):
    chain.get_layer("conv").trainable = False
    assert [row[3] for row in rows(chain, show_trainable=True)] == ["Trainable", "N", "Y", "-", "Y"]
    assert " Trainable params: 145,008 " in text(chain)
    assert " Non-trainable params: 120 " in text(chain)


def test_layer_range(chain):
    assert [row[0] for row in rows(chain, layer_range=("norm", "fl.*"))[1:]] == [
        "norm (BatchNormalization)",
        "flat (Flatten)",
    ]
    assert len(rows(chain, layer_range=("top", "norm"))) == 4
    with pytest.raises(ValueError, match="no layer matches 'x'; there are conv, norm, flat, top"):
        chain.summary(layer_range=("x", "top"))
    with pytest.raises(ValueError, match="two names of layers, not 'conv'"):
        chain.summary(layer_range="conv")


@pytest.mark.parametrize("columns", [60, 80])
def test_it_fits_the_terminal(residual, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert max(map(len, text(residual, show_trainable=True).splitlines())) <= columns
    assert max(map(len, text(residual, line_length=columns - 10).splitlines())) == columns - 10
    with pytest.raises(ValueError, match="line_length is at least 40, not 10"):
        residual.summary(line_length=10)


def test_printed_without_control_codes_where_it_is_not_a_terminal(chain, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    chain.summary()
    printed = capsys.readouterr().out
    assert printed == text(chain) + "\n"
    assert "\x1b" not in printed


def test_an_output_that_knows_only_ascii(chain, monkeypatch):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", file)
    Sequential([chain]).summary(expand_nested=True)
    file.flush()
    assert b"- conv (Conv2D)" in file.buffer.getvalue()


def test_names_are_no_markup():
    assert rows(Sequential([Dense(1, name="[red]x[/red]")]))[1][0] == "[red]x[/red] (Dense)"


def test_the_optimizer_counts_once_it_is_built(chain):
    chain.compile("adam", "mse")
    assert "Optimizer" not in text(chain)
    chain.optimizer.build(chain.trainable_weights)
    slots = 2 * 145_120 + 2  # two moments for every trained number, step and rate
    assert f" Optimizer params: {slots:,} (1.11 MB)" in text(chain)
    assert f" Total params: {145_128 + slots:,} (1.66 MB)" in text(chain)
