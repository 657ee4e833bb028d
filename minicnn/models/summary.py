"""The table that `model.summary()` prints."""

import re
import sys

from minicnn import graph


def print_summary(
    model,
    line_length=None,
    print_fn=None,
    expand_nested=False,
    show_trainable=False,
    layer_range=None,
):
    """Layers with type, output shape, number of parameters (and what they read, if no chain).

    line_length: width in characters, else what the columns need within the terminal. print_fn gets
    the whole text in one call. layer_range: two regular expressions, first and last layer shown.
    As in Keras.
    """
    from rich.console import Console  # here, not above: it takes 50 ms to import

    terminal = print_fn is None and bool(getattr(sys.stdout, "isatty", bool)())
    console = Console(force_terminal=terminal, force_jupyter=False, highlight=False)
    if line_length is not None:
        if line_length < 40:
            raise ValueError(f"summary: line_length is at least 40, not {line_length!r}")
        console.width = line_length
    with console.capture() as capture:
        _print(model, console, line_length, expand_nested, show_trainable, layer_range)
    text = capture.get().rstrip("\n")
    (print if print_fn is None else print_fn)(text)


def _print(model, console, line_length, expand_nested, show_trainable, layer_range):
    from rich import box
    from rich.table import Table
    from rich.text import Text

    connected = not _is_chain(model)
    table = Table(box=box.HEAVY_HEAD, width=line_length)
    table.add_column("Layer (type)", overflow="fold")
    table.add_column("Output Shape", overflow="fold")
    table.add_column("Param #", justify="right", no_wrap=True)
    if connected:
        table.add_column("Connected to", overflow="fold")
    if show_trainable:
        table.add_column("Trainable", justify="center", no_wrap=True)
    branch = "- " if console.options.ascii_only else "└ "

    def add_rows(parent, layers, depth):
        calls = _calls(parent)
        for layer in layers:
            indent = "   " * depth + branch if depth else ""
            row = [
                Text.assemble(f"{indent}{layer.name} (", (type(layer).__name__, "cyan"), ")"),
                Text(_output_shape(layer, calls)),
                Text(f"{layer.count_params():,}" if layer.built else "0 (unbuilt)"),
            ]
            if connected:
                row.append(Text("\n".join(_sources(layer, calls)) or "-"))
            if show_trainable:
                row.append(("Y" if layer.trainable else "N") if layer.weights else "-")
            table.add_row(*row)
            if expand_nested and getattr(layer, "layers", None):
                add_rows(layer, layer.layers, depth + 1)

    add_rows(model, _in_range(model, layer_range), 0)
    console.print(Text(f'Model: "{model.name}"', "bold"))
    console.print(table)
    for what, arrays in _totals(model):
        count = sum(array.size for array in arrays)
        size = _memory(sum(array.size * array.dtype.itemsize for array in arrays))
        console.print(Text.assemble((f" {what} params: ", "bold"), f"{count:,} ({size})"))


def _totals(model):
    """What is counted below the table, and the arrays of each."""
    trained, fixed = model.trainable_weights, model.non_trainable_weights
    optimizer = model.optimizer
    built = optimizer is not None and optimizer.parameters
    slots = [array for _, array in optimizer.state()] if built else []
    totals = [
        ("Total", [*trained, *fixed, *slots]),
        ("Trainable", trained),
        ("Non-trainable", fixed),
    ]
    return [*totals, ("Optimizer", slots)] if slots else totals


def _memory(size):
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return f"{size:.2f} {unit}"
        size /= 1024


# -- how the layers are connected -----------------------------------------------------------------


def _nodes(model):
    """The calls in a model's graph, without those of input layers; none before it is built."""
    if getattr(model, "graph", None) is None:
        return []
    order, _ = graph.topological(model.outputs, model.inputs)
    return [node for node in order if node.inputs]


def _is_chain(model):
    """Whether every layer is used once and reads the one before it."""
    nodes = _nodes(model)
    if not nodes:
        return True
    before = model.inputs
    for node in nodes:
        if len(before) != 1 or len(node.inputs) != 1 or node.inputs[0] is not before[0]:
            return False
        before = node.outputs
    return len({node.layer for node in nodes}) == len(nodes)


def _calls(model):
    """layer -> its nodes in the graph of `model`, in order."""
    calls = {}
    inputs = [tensor.node for tensor in model.inputs] if _nodes(model) else []
    for node in [*inputs, *_nodes(model)]:
        if node not in calls.setdefault(node.layer, []):
            calls[node.layer].append(node)
    return calls


def _sources(layer, calls):
    """What the layer reads: "name", or "name[call][output]" where that is not yet clear."""
    found = []
    for tensor in [tensor for node in calls.get(layer, ()) for tensor in node.inputs]:
        source, made = tensor.node.layer, tensor.node
        nodes = calls.get(source, [made])
        place = "" if nodes == [made] and len(made.outputs) == 1 else f"[{nodes.index(made)}]"
        found.append(f"{source.name}{place}[{tensor.index}]" if place else source.name)
    return found


def _output_shape(layer, calls):
    """Shape of the layer's output in this graph; several outputs or sizes one below the other."""
    nodes = calls.get(layer) or layer.nodes[:1]
    shapes = dict.fromkeys(tensor.shape for node in nodes for tensor in node.outputs)
    return "\n".join(str(shape) for shape in shapes) or "?"


def _in_range(model, layer_range):
    layers = model.layers
    if layer_range is None:
        return layers
    if (
        not isinstance(layer_range, list | tuple)
        or len(layer_range) != 2
        or not all(isinstance(one, str) for one in layer_range)
    ):
        raise ValueError(f"summary: layer_range is two names of layers, not {layer_range!r}")
    found = []
    for pattern in layer_range:
        found.append([i for i, layer in enumerate(layers) if re.match(pattern, layer.name)])
        if not found[-1]:
            names = ", ".join(layer.name for layer in layers)
            raise ValueError(f"summary: no layer matches {pattern!r}; there are {names}")
    first, last = min(found[0]), max(found[1])
    if first > last:
        first, last = min(found[1]), max(found[0])
    return layers[first : last + 1]
