"""Networks in minicnn and in Keras, whose calls are the same."""

import numpy as np

from benchmarks import networks


class KerasCalls:
    """The part of an engine about networks; `library` is the module minicnn or keras."""

    library = None

    def open_network(self, name, batch_size, values, check):
        network = networks.NETWORKS[name]
        optimizer = self.library.optimizers.SGD(1.0) if check else None
        self.model = networks.keras_model(self.library, network, not check, optimizer)
        networks.set_keras_weights(self.model, values)
        self.x, self.y = networks.pictures(network, batch_size)
        self.trainable = bool(network.optimizer)

    def train(self):
        self.model.train_on_batch(self.x, self.y)

    def predict(self):
        return np.asarray(self.model.predict_on_batch(self.x))

    def check(self):
        """Outputs, then the loss and gradients of one step of plain descent with the rate 1.

        The gradient is what the weights lose.
        """
        results = {"outputs": self.predict()}
        if self.trainable:
            before = networks.keras_weights(self.model)
            loss = self.model.train_on_batch(self.x, self.y)
            after = networks.keras_weights(self.model)
            results["loss"] = np.asarray(loss, np.float64).reshape(-1)[0]
            trained = {
                f"{layer.name}/{i}"
                for layer in self.model.layers
                for i in range(len(layer.trainable_weights))
            }
            results |= {f"gradient {name}": before[name] - after[name] for name in trained}
        return results
