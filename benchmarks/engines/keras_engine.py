"""Keras on the backend that KERAS_BACKEND names."""

import keras
import numpy as np

from benchmarks import networks
from benchmarks.engines.minicnn_engine import networks_check


class Engine:
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

    def open_network(self, name, batch_size, values, check):
        network = networks.NETWORKS[name]
        optimizer = keras.optimizers.SGD(1.0) if check else None
        self.model = networks.keras_model(keras, network, not check, optimizer)
        networks.set_keras_weights(self.model, values)
        self.x, self.y = networks.pictures(network, batch_size)
        self.trainable = bool(network.optimizer)

    def train(self):
        self.model.train_on_batch(self.x, self.y)

    def predict(self):
        return np.asarray(self.model.predict_on_batch(self.x))

    def check(self):
        return networks_check(self)

    def close(self):
        self.model = None
        keras.backend.clear_session()
