"""PyTorch, eager or compiled, contiguous or channels_last."""

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import networks


class Engine:
    def __init__(self, options):
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        self.compiled = "compile" in options.mode
        self.last = "channels_last" in options.mode
        self.format = torch.channels_last if self.last else torch.contiguous_format

    def about(self):
        return {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        }

    def open_network(self, name, batch_size, values, check):
        self.network = network = networks.NETWORKS[name]
        model = networks.torch_model(network, values, dropout=not check, exact=check)
        self.plain = model.to(memory_format=self.format)
        self.model = torch.compile(self.plain, dynamic=False) if self.compiled else self.plain
        x, y = networks.pictures(network, batch_size)
        self.x = self._placed(torch.from_numpy(x).permute(0, 3, 1, 2))
        self.y = torch.from_numpy(y)
        if network.optimizer:
            self.loss = networks.torch_loss(network)
            self.optimizer = networks.torch_optimizer(network, self.plain.parameters())

    def _placed(self, x):
        return x.contiguous(memory_format=self.format)

    def _gradients(self):
        self.plain.train()
        self.optimizer.zero_grad()
        loss = self.loss(self.model(self.x), self.y)
        loss.backward()
        return float(loss.detach())

    def train(self):
        loss = self._gradients()
        self.optimizer.step()
        return loss

    def predict(self):
        self.plain.eval()
        with torch.inference_mode():
            return networks.torch_outputs(self.network, self.model(self.x))

    def check(self):
        outputs = self.predict().numpy()
        if outputs.ndim == 4:
            outputs = outputs.transpose(0, 2, 3, 1)
        results = {"outputs": outputs}
        if self.network.optimizer:
            results["loss"] = self._gradients()
            gradients = networks.torch_gradients(self.plain)
            results |= {f"gradient {name}": value for name, value in gradients.items()}
        return results

    def open_layer(self, layer):
        x, kernel, bias, dy = (torch.from_numpy(array) for array in layer.arrays())
        if layer.kind == "dense":
            self.calls = _dense(x, kernel.T.contiguous(), bias, dy)
        else:
            x, dy = (self._placed(array.permute(0, 3, 1, 2)) for array in (x, dy))
            if layer.kind == "convolution":
                kernel = self._placed(kernel.permute(3, 2, 0, 1))
            self.calls = _MAKE[layer.kind](layer, x, kernel, bias, dy)
        return self.calls

    def layer_result(self, direction):
        value = self.calls[direction]()
        if value.ndim == 4:
            value = value.permute((2, 3, 1, 0) if direction == "kernel_grad" else (0, 2, 3, 1))
        elif direction == "kernel_grad":
            value = value.T
        return np.ascontiguousarray(value.numpy())

    def close(self):
        self.model = self.plain = self.calls = self.optimizer = None
        torch._dynamo.reset() if self.compiled else None


def _dense(x, kernel, bias, dy):
    return {
        "forward": lambda: F.linear(x, kernel, bias),
        "input_grad": lambda: dy @ kernel,
        "kernel_grad": lambda: dy.T @ x,
    }


def _convolution(layer, x, kernel, bias, dy):
    strides, dilation = (layer.strides,) * 2, (layer.dilation,) * 2
    padding = tuple(before for before, _ in layer.pads)

    def gradients(*mask):
        return torch.ops.aten.convolution_backward(
            dy, x, kernel, [0], strides, padding, dilation, False, [0, 0], layer.groups, mask
        )

    return {
        "forward": lambda: F.conv2d(x, kernel, bias, strides, padding, dilation, layer.groups),
        "input_grad": lambda: gradients(True, False, False)[0],
        "kernel_grad": lambda: gradients(False, True, False)[1],
    }


def _max_pool(layer, x, kernel, bias, dy):
    where = (layer.size, (layer.strides,) * 2, tuple(before for before, _ in layer.pads))
    aten = torch.ops.aten
    index = aten.max_pool2d_with_indices(x, *where)[1]
    return {
        "forward": lambda: aten.max_pool2d_with_indices(x, *where)[0],
        "input_grad": lambda: aten.max_pool2d_with_indices_backward(
            dy, x, *where, (1, 1), False, index
        ),
    }


def _average_pool(layer, x, kernel, bias, dy):
    where = (layer.size, (layer.strides,) * 2, tuple(before for before, _ in layer.pads))
    return {
        "forward": lambda: F.avg_pool2d(x, *where),
        "input_grad": lambda: torch.ops.aten.avg_pool2d_backward(dy, x, *where, False, True, None),
    }


def _batch_norm(layer, x, gamma, beta, dy):
    moving = torch.zeros_like(gamma), torch.ones_like(gamma)
    aten = torch.ops.aten
    _, mean, inverse = aten.native_batch_norm(x, gamma, beta, *moving, True, 0.01, 1e-3)
    arrays = (dy, x, gamma, *moving, mean, inverse)
    return {
        "forward": lambda: aten.native_batch_norm(x, gamma, beta, *moving, True, 0.01, 1e-3)[0],
        "input_grad": lambda: aten.native_batch_norm_backward(*arrays, True, 1e-3, [True] * 3)[0],
    }


_MAKE = {
    "convolution": _convolution,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "batch_norm": _batch_norm,
}
