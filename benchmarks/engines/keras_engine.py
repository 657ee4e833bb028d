"""Keras on the backend that KERAS_BACKEND names."""

import keras

from benchmarks.engines.keras_calls import KerasCalls


class Engine(KerasCalls):
    library = keras

    def __init__(self, options):
        self.backend = keras.backend.backend()
        if self.backend != options.mode:
            raise RuntimeError(f"Keras runs on {self.backend}, not on {options.mode}")
        if self.backend == "torch":
            import torch

            torch.set_num_threads(options.threads)
        elif self.backend == "tensorflow":
            import tensorflow

            tensorflow.config.threading.set_intra_op_parallelism_threads(options.threads)
            tensorflow.config.threading.set_inter_op_parallelism_threads(options.threads)
        keras.utils.set_random_seed(0)

    def about(self):
        backend = __import__(self.backend)
        return {"keras": keras.__version__, self.backend: backend.__version__}

    def close(self):
        self.model = None
        keras.backend.clear_session()
