"""ONNX Runtime: prediction with the networks that PyTorch exports, and single layers forward."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks import networks


class Engine:
    def __init__(self, options):
        self.threads = options.threads
        self.session = None

    def about(self):
        return {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}

    def _start(self, model, x):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
        name = self.session.get_inputs()[0].name
        self.binding = {name: np.ascontiguousarray(x)}

    def _run(self):
        return self.session.run(None, self.binding)[0]

    def open_network(self, name, batch_size, values, check):
        x, _ = networks.pictures(networks.NETWORKS[name], batch_size)
        with tempfile.TemporaryDirectory() as folder:
            file, weights = Path(folder, "network.onnx"), Path(folder, "weights.npz")
            np.savez(weights, **values)
            # In another process: PyTorch's threads must not live beside the runtime's.
            subprocess.run(
                [sys.executable, "-m", __name__, name, str(batch_size), str(int(check)),
                 str(weights), str(file)],
                check=True,
                stdout=sys.stderr,
            )  # fmt: skip
            self._start(str(file), x.transpose(0, 3, 1, 2))

    def predict(self):
        return self._run()

    def check(self):
        outputs = self.predict()
        return {"outputs": outputs.transpose(0, 2, 3, 1) if outputs.ndim == 4 else outputs}

    def open_layer(self, layer):
        node, constants = _node(layer)
        x = layer.arrays()[0]
        y_shape = layer.output_shape
        if x.ndim == 4:
            x = x.transpose(0, 3, 1, 2)
            y_shape = (y_shape[0], y_shape[3], y_shape[1], y_shape[2])
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, y_shape)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        self._start(model.SerializeToString(), x)
        self.calls = {"forward": self._run}
        return self.calls

    def layer_result(self, direction):
        y = self.calls[direction]()
        return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y

    def close(self):
        self.session = None


def _node(layer):
    """The layer as one ONNX node and its constants."""
    _, kernel, bias, _ = layer.arrays()
    window = {
        "kernel_shape": layer.size,
        "strides": (layer.strides,) * 2,
        "pads": [before for before, _ in layer.pads] + [after for _, after in layer.pads],
    }
    if layer.kind == "convolution":
        window |= {"dilations": (layer.dilation,) * 2, "group": layer.groups}
        constants = {"kernel": np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), "bias": bias}
        return helper.make_node("Conv", ["x", "kernel", "bias"], ["y"], **window), constants
    if layer.kind == "dense":
        return helper.make_node("Gemm", ["x", "kernel", "bias"], ["y"]), {
            "kernel": kernel,
            "bias": bias,
        }
    if layer.kind in ("max_pool", "average_pool"):
        kind = "MaxPool" if layer.kind == "max_pool" else "AveragePool"
        return helper.make_node(kind, ["x"], ["y"], **window), {}
    raise NotImplementedError("no batch statistics in ONNX Runtime's inference")


def export(name, batch_size, check, weights, file):
    """Write a network with its last activation as ONNX."""
    import torch

    network = networks.NETWORKS[name]
    model = networks.torch_model(network, dict(np.load(weights)), dropout=False, exact=bool(check))

    class WithOutputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return networks.torch_outputs(network, self.model(x))

    x = torch.from_numpy(networks.pictures(network, batch_size)[0].transpose(0, 3, 1, 2))
    torch.onnx.export(WithOutputs().eval(), (x,), file, dynamo=True, external_data=False)


if __name__ == "__main__":
    export(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
