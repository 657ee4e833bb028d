"""The graph that calling layers on symbolic tensors builds: tensors, nodes, their order."""

from minicnn import config


class SymbolicTensor:
    """Output `index` of a node: a shape (None where the batch decides) and a type, no values."""

    __slots__ = ("dtype", "index", "name", "node", "shape")

    def __init__(self, shape, node, index=0, dtype=None, name=None):
        self.shape, self.node, self.index = tuple(shape), node, index
        self.dtype, self.name = dtype or config.floatx, name

    ndim = property(lambda self: len(self.shape))

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            f"{self!r} is symbolic and has no values: pass it to a layer, e.g. "
            "Activation('relu')(tensor), or give data to the model"
        )

    def __repr__(self):
        return f"<SymbolicTensor {self.name} shape={self.shape} dtype={self.dtype}>"


class Node:
    """One use of a layer: the tensors it reads and the tensors it makes."""

    __slots__ = ("inputs", "layer", "many", "outputs", "training")

    def __init__(self, layer, inputs, output_shapes, many=False, training=None, dtypes=None):
        self.layer, self.inputs, self.many, self.training = layer, list(inputs), many, training
        dtypes = dtypes or [layer.dtype] * len(output_shapes)
        self.outputs = [
            SymbolicTensor(shape, self, i, dtype, layer.name if i == 0 else f"{layer.name}_{i}")
            for i, (shape, dtype) in enumerate(zip(output_shapes, dtypes, strict=True))
        ]

    def __repr__(self):
        return f"<Node of {self.layer.name}>"


def topological(outputs):
    """Nodes that the tensors depend on, every node after those it reads, in order of calling."""
    order, state = [], {}
    stack = [(tensor.node, False) for tensor in reversed(outputs)]
    while stack:  # an explicit stack: a chain of 1,000 layers is legal and Python's is not as deep
        node, expanded = stack.pop()
        if expanded:
            if state[node] != "done":
                state[node] = "done"
                order.append(node)
        elif node not in state:
            state[node] = "open"
            stack.append((node, True))
            stack.extend((tensor.node, False) for tensor in reversed(node.inputs))
    return order


def is_symbolic(value):
    """Whether a layer was called with symbolic tensors (one, or a list or dict of them)."""
    if isinstance(value, list | tuple):
        return any(is_symbolic(item) for item in value)
    if isinstance(value, dict):
        return any(is_symbolic(item) for item in value.values())
    return isinstance(value, SymbolicTensor)
