"""Single layers that are timed: two frozen lists.

Frozen: the lists were written before the kernels were tuned and are not edited to flatter; a shape
that turns out slow stays. `padding` is a number of pixels on all four sides, which every library
can do. A first layer has no gradient for its input, because nobody computes that of a picture.
"""

from dataclasses import dataclass

import numpy as np

DIRECTIONS = ("forward", "input_grad", "kernel_grad")


@dataclass(frozen=True)
class Layer:
    """One layer at one size: x is (n, h, w, c), or (n, c) for a dense layer."""

    kind: str
    x: tuple
    filters: int = 0
    size: tuple = (3, 3)
    strides: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    first: bool = False

    @property
    def name(self):
        """As in the tables: what it is and its shape."""
        size = "x".join(map(str, self.x))
        words = [self.kind.replace("convolution", "conv").replace("_", " "), size]
        if self.kind in ("convolution", "dense"):
            words[1] += f"-{self.filters}"
        if self.kind in ("convolution", "max_pool", "average_pool"):
            words.append("{}x{}".format(*self.size))
        if self.strides > 1:
            words.append(f"stride {self.strides}")
        if self.dilation > 1:
            words.append(f"dilation {self.dilation}")
        if self.groups > 1:
            words.append("depthwise" if self.groups == self.x[-1] else f"{self.groups} groups")
        return " ".join(words)

    @property
    def directions(self):
        """What is timed of it; `input_grad` of a batch normalisation is all of its gradients."""
        if self.kind not in ("convolution", "dense"):
            return DIRECTIONS[:2]
        return ("forward", "kernel_grad") if self.first else DIRECTIONS

    @property
    def pads(self):
        """((top, bottom), (left, right)); a kernel with one row is padded left and right only."""
        return tuple((self.padding * (k > 1),) * 2 for k in self.size)

    @property
    def kernel_shape(self):
        """(kh, kw, channels of a group, filters) or (channels, filters)."""
        if self.kind == "dense":
            return self.x[1], self.filters
        return *self.size, self.x[3] // self.groups, self.filters

    @property
    def output_shape(self):
        """(n, oh, ow, filters), (n, filters)."""
        n, *pixels, channels = self.x
        if self.kind == "dense":
            return n, self.filters
        if self.kind == "batch_norm":
            return self.x
        if self.kind == "global_average":
            return n, channels
        out = [
            (length + 2 * pad - self.dilation * (k - 1) - 1) // self.strides + 1
            for length, (pad, _), k in zip(pixels, self.pads, self.size, strict=True)
        ]
        return n, *out, self.filters or channels

    @property
    def operations(self):
        """Multiplications and additions of the direct method, the same for each direction."""
        if self.kind not in ("convolution", "dense"):
            return 0
        return 2 * int(np.prod(self.output_shape)) * int(np.prod(self.kernel_shape[:-1]))

    @property
    def bytes(self):
        """Least traffic of a convolution or dense layer in any direction: every array once."""
        kernel = self.kernel_shape if self.kind in ("convolution", "dense") else (0,)
        return 4 * sum(int(np.prod(shape)) for shape in (self.x, kernel, self.output_shape))

    def shrunk(self):
        """The same layer with at most two samples, for comparing results."""
        return Layer(**{**self.__dict__, "x": (min(2, self.x[0]), *self.x[1:])})

    def arrays(self):
        """x, kernel, bias (or gamma, beta) and dy of float32, the same in every process.

        They begin at a cache line, as in every library's own memory: NumPy's begin 16 bytes after.
        """
        generator = np.random.default_rng([*self.x, self.filters, *self.size])

        def normal(shape, scale=1.0):
            return aligned(scale * generator.standard_normal(shape, np.float32))

        x, dy = normal(self.x), normal(self.output_shape)
        if self.kind in ("convolution", "dense"):
            spread = np.prod(self.kernel_shape[:-1]) ** -0.5
            return x, normal(self.kernel_shape, spread), normal(self.filters), dy
        gamma, beta = normal(self.x[-1], 0.1), normal(self.x[-1])
        gamma += 1
        return x, gamma, beta, dy


def aligned(array):
    """A copy as float32 that begins at a multiple of 64 bytes."""
    memory = np.empty(4 * array.size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    copy = memory[first : first + 4 * array.size].view(np.float32).reshape(array.shape)
    copy[...] = array
    return copy


def _square(n, h, w, channels, filters, k=3, **more):
    """A convolution with a square kernel that keeps the size (before its strides)."""
    more.setdefault("padding", (k - 1) * more.get("dilation", 1) // 2)
    return Layer("convolution", (n, h, w, channels), filters, (k, k), **more)


THREE_BY_THREE = (
    # the CIFAR-10 network
    _square(64, 32, 32, 32, 32),
    _square(256, 32, 32, 32, 32),
    _square(64, 16, 16, 64, 64),
    _square(64, 8, 8, 64, 128),
    _square(64, 8, 8, 128, 128),
    # the CelebA network
    _square(32, 109, 89, 16, 32),
    _square(32, 28, 23, 64, 128),
    # the VGG-like network
    _square(32, 64, 64, 64, 64),
    _square(32, 32, 32, 128, 128),
    _square(32, 16, 16, 256, 256),
    # ResNet-20; ResNet-18 on photographs
    _square(128, 32, 32, 16, 16),
    _square(128, 8, 8, 64, 64),
    _square(8, 56, 56, 64, 64),
    _square(8, 14, 14, 512, 512),
    # a large picture alone; odd sizes and channels that fill no vector
    _square(1, 450, 450, 64, 64),
    _square(8, 33, 47, 24, 40),
)

OTHERS = (
    # first layers
    _square(64, 32, 32, 3, 32, first=True),
    _square(32, 218, 178, 3, 16, first=True),
    _square(64, 28, 28, 1, 32, first=True),
    _square(8, 224, 224, 3, 64, 7, strides=2, first=True),
    # few channels
    _square(64, 28, 28, 8, 8),
    # 1x1
    _square(32, 56, 56, 64, 256, 1),
    _square(32, 14, 14, 256, 64, 1),
    _square(64, 16, 16, 128, 128, 1),
    _square(128, 32, 32, 16, 32, 1, strides=2),
    # 5x5, 7x7, 1x7
    _square(64, 14, 14, 6, 16, 5, padding=0),
    _square(32, 27, 27, 48, 128, 5),
    _square(16, 28, 28, 32, 32, 7),
    Layer("convolution", (16, 17, 17, 128), 128, (1, 7), padding=3),
    # strided
    _square(128, 32, 32, 16, 32, strides=2),
    _square(32, 56, 56, 64, 128, strides=2),
    # dilated
    _square(16, 32, 32, 64, 64, dilation=2),
    _square(8, 65, 65, 32, 32, dilation=4),
    # grouped
    _square(32, 28, 28, 128, 128, groups=4),
    _square(32, 14, 14, 256, 256, groups=32),
    # depthwise
    _square(32, 56, 56, 64, 64, groups=64),
    _square(32, 28, 28, 128, 128, groups=128, strides=2),
    _square(16, 14, 14, 256, 256, 5, groups=256),
    # pooling
    Layer("max_pool", (64, 32, 32, 32), size=(2, 2), strides=2),
    Layer("max_pool", (32, 56, 56, 64), size=(3, 3), strides=2, padding=1),
    Layer("average_pool", (64, 16, 16, 64), size=(2, 2), strides=2),
    # batch normalisation in training
    Layer("batch_norm", (64, 32, 32, 32)),
    Layer("batch_norm", (32, 16, 16, 256)),
    # dense
    Layer("dense", (64, 2048), 10),
    Layer("dense", (128, 784), 512),
    Layer("dense", (256, 512), 512),
)

GROUPS = {"3x3": THREE_BY_THREE, "others": OTHERS}
