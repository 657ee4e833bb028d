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

    def _refuse(self, *other):
        raise TypeError(
            f"{self!r} is symbolic, Python's operators do not work on it: use layers, e.g. "
            "Add()([a, b]) or Rescaling(scale, offset)(a)"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refuse
    __rtruediv__ = __neg__ = __pow__ = __matmul__ = __getitem__ = __iter__ = _refuse

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


def topological(outputs, inputs=()):
    """Nodes on the way from `inputs` to `outputs`, every node after those it reads.

    Depth-first in the order of the arguments; the walk ends at tensors of `inputs` (where these
    come from input layers, the nodes of those are part of it).
    """
    given = {id(tensor) for tensor in inputs if tensor.node.inputs}
    order, visited, done = [], {}, set()
    stack = [(tensor.node, False) for tensor in reversed(outputs) if id(tensor) not in given]
    while stack:  # an explicit stack: a chain of 1,000 layers is legal and Python's is not as deep
        node, expanded = stack.pop()
        if expanded:
            if node not in done:
                done.add(node)
                order.append(node)
        elif node not in visited:
            visited[node] = len(visited)
            stack.append((node, True))
            above = [t.node for t in reversed(node.inputs) if id(t) not in given]
            stack.extend((node, False) for node in above)
    return order, visited


def layers_by_depth(order, visited, unused=()):
    """Layers of the nodes, farthest from the outputs first: the order of Keras's `model.layers`.

    Depth is the longest way to an output; ties go by the order of the depth-first walk. `unused`
    are input layers that lead to no output.
    """
    depth = dict.fromkeys(order, 0)
    layer_depth, first_visit = dict.fromkeys(unused, 0), dict.fromkeys(unused, -1)
    for node in reversed(order):
        depth[node] = max(depth[node], layer_depth.get(node.layer, 0))
        layer_depth[node.layer] = depth[node]
        first_visit[node.layer] = min(visited[node], first_visit.get(node.layer, len(visited)))
        for tensor in node.inputs:
            if tensor.node in depth:
                depth[tensor.node] = max(depth[tensor.node], depth[node] + 1)
    return sorted(layer_depth, key=lambda layer: (-layer_depth[layer], first_visit[layer]))


def is_symbolic(value):
    """Whether a layer was called with symbolic tensors (one, or a list or dict of them)."""
    if isinstance(value, list | tuple):
        return any(is_symbolic(item) for item in value)
    if isinstance(value, dict):
        return any(is_symbolic(item) for item in value.values())
    return isinstance(value, SymbolicTensor)
