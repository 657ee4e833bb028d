"""One engine in its own process: answers JSON commands on stdin with JSON lines on stdout.

{"do": "time", "work": "train" | "predict", "steps": n} -> {"ms": [...]}
{"do": "check", "path": file} -> writes loss, outputs and gradients of one batch to that file
{"do": "stop"}
"""

import argparse
import json
import sys
import time

import numpy as np

from benchmarks import networks


class MinicnnEngine:
    """The library under test."""

    def __init__(self, arguments):
        from minicnn import config, set_random_seed

        config.threads = arguments.threads
        set_random_seed(0)
        self.model = networks.minicnn_cifar10(dropout=not arguments.check)
        self.model.set_weights(list(np.load(arguments.weights).values()))
        self.x, self.y = networks.pictures(arguments.batch_size)

    def train(self):
        self.model.train_on_batch(self.x, self.y)

    def predict(self):
        self.model.predict_on_batch(self.x)

    def check(self):
        from minicnn.context import Context

        model = self.model
        model.test_on_batch(self.x, self.y)
        context = Context(training=True, keep=True, logits=frozenset([0]), frozen_state=True)
        logits, saved = model.forward(self.x, context)
        loss, dy = model._loss_and_grad(logits, [self.y], [None])
        model.backward(dy, saved, False)
        gradients = [parameter.grad for parameter in model.trainable_weights]
        return loss, model.predict_on_batch(self.x), gradients


class TorchEngine:
    """PyTorch, eager."""

    def __init__(self, arguments):
        import torch

        torch.set_num_threads(arguments.threads)
        torch.manual_seed(0)
        weights = list(np.load(arguments.weights).values())
        self.torch = torch
        self.model = networks.torch_cifar10(weights, dropout=not arguments.check)
        x, y = networks.pictures(arguments.batch_size)
        self.x = torch.from_numpy(x).permute(0, 3, 1, 2)  # NHWC memory: channels_last as it is
        if arguments.engine == "torch-contiguous":
            self.x = self.x.contiguous()
        else:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.y = torch.from_numpy(y)
        self.loss = torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.RMSprop(self.model.parameters(), 1e-3, alpha=0.9, eps=1e-7)

    def train(self):
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.loss(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def predict(self):
        self.model.eval()
        with self.torch.inference_mode():
            return self.torch.softmax(self.model(self.x), 1).numpy()

    def check(self):
        outputs = self.predict()
        self.model.train()
        loss = self.loss(self.model(self.x), self.y)
        loss.backward()
        return float(loss.detach()), outputs, networks.torch_gradients(self.model)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    engine = (MinicnnEngine if arguments.engine == "minicnn" else TorchEngine)(arguments)
    print(json.dumps({"ready": arguments.engine}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "stop":
            return
        if command["do"] == "check":
            loss, outputs, gradients = engine.check()
            named = {f"gradient_{i}": gradient for i, gradient in enumerate(gradients)}
            np.savez(command["path"], loss=loss, outputs=outputs, **named)
            print(json.dumps({"written": command["path"]}), flush=True)
            continue
        step, times = getattr(engine, command["work"]), []
        for _ in range(command["steps"]):
            start = time.perf_counter()
            step()
            times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps({"ms": times}), flush=True)


if __name__ == "__main__":
    main()
