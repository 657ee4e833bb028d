"""minicnn itself."""

import numpy as np

import minicnn
from benchmarks.engines.keras_calls import KerasCalls
from minicnn import config, ops, set_random_seed


class Engine(KerasCalls):
    library = minicnn

    def __init__(self, options):
        config.threads = options.threads
        set_random_seed(0)

    def about(self):
        import numba

        from minicnn.ops.fast import amx, simd, threads

        lanes = simd.lanes(np.dtype(np.float32))
        ops.add([np.ones((64, 1024), np.float32)] * 2)  # starts the threads
        return {
            "minicnn": minicnn.__version__,
            "numba": numba.__version__,
            "threading_layer": numba.threading_layer(),
            "threads": threads.count(),
            "lanes": lanes,
            "tile_unit": amx.is_available(),
            "processor": numba.config.CPU_NAME or "host",
        }

    def open_layer(self, layer):
        x, kernel, bias, dy = layer.arrays()
        strides, dilation = (layer.strides,) * 2, (layer.dilation,) * 2
        if layer.kind == "convolution":
            where = (strides, layer.pads, dilation, layer.groups)
            self.calls = {
                "forward": lambda: ops.conv2d(x, kernel, bias, *where),
                "input_grad": lambda: ops.conv2d_input_grad(dy, kernel, x.shape, *where),
                "kernel_grad": lambda: ops.conv2d_kernel_grad(x, dy, kernel.shape, *where),
            }
        elif layer.kind == "dense":
            self.calls = {
                "forward": lambda: ops.dense(x, kernel, bias),
                "input_grad": lambda: ops.dense_input_grad(dy, kernel),
                "kernel_grad": lambda: ops.dense_kernel_grad(x, dy),
            }
        elif layer.kind == "max_pool":
            where = (layer.size, strides, layer.pads)
            _, index = ops.max_pool2d(x, *where)
            self.calls = {
                "forward": lambda: ops.max_pool2d(x, *where)[0],
                "input_grad": lambda: ops.max_pool2d_grad(dy, index, x.shape, *where),
            }
        elif layer.kind == "average_pool":
            where = (layer.size, strides, layer.pads)
            self.calls = {
                "forward": lambda: ops.average_pool2d(x, *where),
                "input_grad": lambda: ops.average_pool2d_grad(dy, x.shape, *where),
            }
        else:
            _, mean, variance = ops.batch_norm_train(x, kernel, bias, 1e-3)
            statistics = (mean, variance, 1e-3)
            self.calls = {
                "forward": lambda: ops.batch_norm_train(x, kernel, bias, 1e-3)[0],
                "input_grad": lambda: ops.batch_norm_train_grad(dy, x, kernel, *statistics)[0],
            }
        return self.calls

    def layer_result(self, direction):
        return np.array(self.calls[direction]())

    def kernel_names(self):
        from benchmarks import bandwidth

        return list(bandwidth.kernels())

    def open_kernel(self, name):
        from benchmarks import bandwidth

        return bandwidth.prepare(name)

    def peaks(self):
        from benchmarks import roofline

        return roofline.peaks()

    def fit(self, epochs):
        """`epochs` of what is open: three batches, the last a small one, and validation."""
        self.model.fit(
            self.x, self.y, batch_size=64, epochs=epochs, validation_split=0.1, verbose=0
        )

    def close(self):
        self.model = self.calls = None
        ops.arena.trim()
