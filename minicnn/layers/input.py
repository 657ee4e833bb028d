"""Input: where a graph begins."""

from minicnn.graph import Node, SymbolicTensor
from minicnn.layers.base import Layer, table


@table.register()
class InputLayer(Layer):
    """Holds the shape and type of one input of a model."""

    accepts_integers = repeats = True

    def __init__(
        self,
        shape: tuple | None = None,
        batch_size: int | None = None,
        dtype: str | None = None,
        sparse=None,
        ragged=None,
        batch_shape: tuple | None = None,
        input_tensor=None,
        optional: bool = False,
        name: str | None = None,
        **base,
    ):
        if shape is None and base.get("input_shape") is not None:
            shape = base.pop("input_shape")
        pixels = str(dtype) if str(dtype) in ("uint8", "int32", "int64") else None
        super().__init__(name=name, dtype=None if pixels else dtype, **base)
        if sparse or ragged or optional:
            self.fail("takes dense arrays only: leave sparse, ragged and optional out")
        if input_tensor is not None:
            self.fail("takes a shape; to continue from a tensor call the next layer on it")
        if batch_shape is None:
            if shape is None:
                self.fail("needs shape=, without the batch axis, e.g. shape=(32, 32, 3)")
            batch_shape = (batch_size, *self.as_shape("shape", shape))
        elif shape is not None:
            self.fail("takes shape or batch_shape, not both")
        self.batch_shape = self.as_shape("batch_shape", batch_shape)
        self.sparse, self.ragged, self.optional = False, False, False
        self.built = True
        node = Node(self, [], [self.batch_shape], dtypes=[pixels or self.dtype])
        self.nodes.append(node)

    def get_config(self):
        return {"batch_shape": list(self.batch_shape), "dtype": self.dtype, "name": self.name}

    def forward(self, x, context):
        return x, None

    def backward(self, dy, saved, needs_dx):
        return dy


def Input(
    shape=None,
    batch_size=None,
    dtype=None,
    sparse=None,
    ragged=None,
    batch_shape=None,
    name=None,
    tensor=None,
    optional=False,
) -> SymbolicTensor:
    """A symbolic tensor of `shape` (without the batch axis; None where the size may vary)."""
    layer = InputLayer(
        shape=shape,
        batch_size=batch_size,
        dtype=dtype,
        sparse=sparse,
        ragged=ragged,
        batch_shape=batch_shape,
        input_tensor=tensor,
        optional=optional,
        name=name,
    )
    return layer.output
