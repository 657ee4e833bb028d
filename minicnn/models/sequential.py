"""Sequential: a model that is one chain of layers."""

from minicnn.configurable import serialize
from minicnn.graph import SymbolicTensor
from minicnn.layers.base import Layer, table
from minicnn.layers.input import Input, InputLayer
from minicnn.models.model import Model


@table.register()
class Sequential(Model):
    """Layers one after another. As keras.Sequential: with or without Input, built on first data."""

    def __init__(self, layers=None, trainable: bool = True, name: str | None = None, **base):
        Layer.__init__(self, name=name, trainable=trainable, **base)
        self._single = self._single_output = True
        self._chain, self._tensors, self.graph = [], [], None
        if layers is not None and not isinstance(layers, list | tuple):
            self.fail(f"takes a list of layers, not {layers!r}")
        for layer in layers or []:
            self._append(layer)
        self._connect()

    def add(self, layer, rebuild=True):
        """Append a layer; where it does not fit, the model stays as it was."""
        tensors = list(self._tensors)
        self._append(layer)
        try:
            self._connect()
        except Exception:
            self._chain.pop()
            self._tensors = tensors
            raise

    def _append(self, layer):
        if isinstance(layer, SymbolicTensor) and isinstance(layer.node.layer, InputLayer):
            layer = layer.node.layer
        if not isinstance(layer, Layer):
            self.fail(f"takes layers, not {layer!r}")
        if isinstance(layer, InputLayer):
            if self._chain or self._tensors:
                self.fail(f"takes an Input only as its first element, not after {self._chain}")
            self._tensors = [layer.output]
            return
        if any(layer.name == other.name for other in self._chain):
            self.fail(f"already has a layer named {layer.name!r}; give this one another name=")
        self._chain.append(layer)

    def _connect(self):
        """Extend the graph to the layers that are not yet in it, once the input shape is known."""
        if not self._tensors and self._chain:
            first = self._chain[0]
            if first.batch_input_shape is not None:
                self._tensors = [Input(batch_shape=first.batch_input_shape, dtype=first.dtype)]
            elif isinstance(first, Model) and first.graph is not None and first._single:
                inner = first.inputs[0]
                self._tensors = [Input(batch_shape=inner.shape, dtype=inner.dtype)]
        if not self._tensors or not self._chain:
            return
        while len(self._tensors) <= len(self._chain):
            layer = self._chain[len(self._tensors) - 1]
            output = layer(self._tensors[-1])
            if isinstance(output, list | dict):
                self.fail(f"takes layers with one output; {layer.name!r} has {len(output)}")
            self._tensors.append(output)
        self._set_graph(self._tensors[:1], self._tensors[-1:])

    def pop(self, rebuild=True):
        """Remove the last layer and return it."""
        if not self._chain:
            self.fail("has no layers to remove")
        layer = self._chain.pop()
        if len(self._tensors) > len(self._chain) + 1:
            node = self._tensors.pop().node
            layer.nodes.remove(node)
        self.graph = None
        self.built = False
        self._connect()
        return layer

    def build(self, input_shape=None):
        """Make the weights for inputs of this shape (batch first)."""
        if self.graph is not None:
            return
        if not self._chain:
            self.fail("has no layers: add some first")
        if self._tensors:
            self._connect()
            return
        if input_shape is None:
            self.fail("needs an input shape: build((None, height, width, channels))")
        unbuilt = [p for layer in self._chain for p in layer.parts() if not p.built]
        self._tensors = [Input(batch_shape=(None, *tuple(input_shape)[1:]), dtype=self.dtype)]
        try:
            self._connect()
        except Exception:
            for layer in unbuilt:  # the next call may bring the right shape
                layer.unbuild()
            self._tensors = []
            raise

    def unbuild(self):
        super().unbuild()
        self.graph, self._tensors = None, []

    @property
    def layers(self):
        """The layers, without the Input."""
        return list(self._chain)

    def get_config(self):
        first = [self._tensors[0].node.layer] if self._tensors else []
        return {
            "name": self.name,
            "trainable": self.trainable,
            "layers": [serialize(layer) for layer in [*first, *self._chain]],
        }

    @classmethod
    def from_config(cls, config):
        """The model that `get_config` described, with fresh weights."""
        layers = [table.build(entry) for entry in config["layers"]]
        return cls(layers, name=config["name"], trainable=config.get("trainable", True))
