"""A library behind one interface, each in a process of its own (see benchmarks/worker.py).

Engine(options): options.mode, options.threads
  about()                                          versions and settings, a dict
  open_network(name, batch_size, values, check)    `check`: no dropout, results can be compared
  train(), predict()                               one step, one batch
  check()                                          {"outputs", "loss", "gradient layer/number"}
  open_layer(layer)                                {direction: function that computes it}
  layer_result(direction)                          the array in minicnn's layout
  close()

PEERS says which engines there are, what has to be installed and which environment they get.
benchmarks/constraints.txt has the versions that were measured.
"""

from dataclasses import dataclass, field

# glibc gives freed pages back and faults them in again at every step; raised thresholds keep them.
TUNED_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass(frozen=True)
class Peer:
    """An engine in one mode."""

    title: str
    module: str  # of this package
    mode: str = ""
    needs: tuple = ()  # modules that must be installed, see `distribution`
    environment: dict = field(default_factory=dict)
    works: tuple = ("train", "predict", "layers")


def by_kind(convolution, dense, pool, batch_norm):
    """{kind of layer: function that makes it}, where one function makes both poolings."""
    return {
        "convolution": convolution,
        "dense": dense,
        "max_pool": pool,
        "average_pool": pool,
        "batch_norm": batch_norm,
    }


_TUNED = {"environment": TUNED_MALLOC}

OURS = "minicnn"
PEERS = {
    "minicnn": Peer("minicnn", "minicnn_engine"),
    "torch": Peer("PyTorch", "torch_engine", "contiguous", ("torch",)),
    "torch-tuned": Peer(
        "PyTorch, tuned malloc", "torch_engine", "contiguous", ("torch",), **_TUNED
    ),
    "torch-cl": Peer("PyTorch channels_last", "torch_engine", "channels_last", ("torch",)),
    "torch-cl-tuned": Peer(
        "PyTorch channels_last, tuned malloc",
        "torch_engine",
        "channels_last",
        ("torch",),
        **_TUNED,
    ),
    "torch-compile": Peer(
        "PyTorch compiled, tuned malloc",
        "torch_engine",
        "contiguous compile",
        ("torch",),
        TUNED_MALLOC,
        ("train", "predict"),
    ),
    "torch-compile-cl": Peer(
        "PyTorch compiled channels_last, tuned malloc",
        "torch_engine",
        "channels_last compile",
        ("torch",),
        TUNED_MALLOC,
        ("train", "predict"),
    ),
    "keras-tensorflow": Peer(
        "Keras on TensorFlow",
        "keras_engine",
        "tensorflow",
        ("keras", "tensorflow"),
        {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", **TUNED_MALLOC},
        ("train", "predict"),
    ),
    "keras-jax": Peer(
        "Keras on JAX",
        "keras_engine",
        "jax",
        ("keras", "jax"),
        {"KERAS_BACKEND": "jax", **TUNED_MALLOC},
        ("train", "predict"),
    ),
    "keras-torch": Peer(
        "Keras on PyTorch",
        "keras_engine",
        "torch",
        ("keras", "torch"),
        {"KERAS_BACKEND": "torch", **TUNED_MALLOC},
        ("train", "predict"),
    ),
    "tensorflow": Peer(
        "TensorFlow",
        "tensorflow_engine",
        "",
        ("tensorflow",),
        {"TF_CPP_MIN_LOG_LEVEL": "3", **TUNED_MALLOC},
        ("layers",),
    ),
    "jax": Peer("JAX", "jax_engine", "", ("jax",), TUNED_MALLOC, ("layers",)),
    "onnxruntime": Peer(
        "ONNX Runtime",
        "onnx_engine",
        "",
        ("onnxruntime", "onnx", "onnxscript", "torch"),
        {},
        ("predict", "layers"),
    ),
}


def distribution(module):
    """What pip calls a module; TensorFlow without its packages for graphics cards will do."""
    return "tensorflow-cpu" if module == "tensorflow" else module


def install_command(names):
    """How to install everything that these engines need."""
    needed = sorted({distribution(module) for name in names for module in PEERS[name].needs})
    return f"python -m pip install -c benchmarks/constraints.txt {' '.join(needed)}"
