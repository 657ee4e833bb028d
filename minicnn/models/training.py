"""compile, fit, evaluate, predict: what a training step is, and the loops around it."""

import contextlib
import itertools
import math
import threading
from contextlib import closing
from dataclasses import replace

import numpy as np

from minicnn import callbacks as callbacks_module
from minicnn import losses, metrics, ops, optimizers, randomness
from minicnn.configurable import serialize
from minicnn.context import Context
from minicnn.data.batches import (
    ArrayBatches,
    Epochs,
    as_arrays,
    flat,
    is_data,
    make_batches,
    pick,
    positive,
    sample_count,
)
from minicnn.errors import warn
from minicnn.layers.base import Layer
from minicnn.models import compiling
from minicnn.models.heads import by_output, check_loss_weights, finite, make_heads
from minicnn.models.walks import Walks
from minicnn.parameter import Parameter

# Infinity and NaN travel on to the loss, and then one warning says where they began.
QUIET = np.errstate(over="ignore", invalid="ignore")


class Trainer:
    """The training half of Model. Everything here uses only forward, backward and the weights."""

    optimizer = None
    compiled = None
    stop_training = False
    history = None
    run_eagerly = False
    _heads = _loss_mean = None
    _training_thread = None
    _begun = _walks = None  # see `_start` and `_walk`

    def __getstate__(self):
        """For copies, which begin anew: their arrays are others."""
        return {k: v for k, v in vars(self).items() if k not in ("_begun", "_walks")}

    # -- compile ----------------------------------------------------------------------------------

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
    ):
        """Choose the optimiser, the loss and the metrics. As in Keras; unknown names fail here.

        run_eagerly=True: every step goes through the layers, none is recorded (walks.py).
        steps_per_execution, jit_compile and auto_scale_loss are accepted for scripts that pass
        them, and change nothing.
        """
        for one in flat(loss):
            losses.get(one)
        check_loss_weights(loss_weights)
        for given in (metrics, weighted_metrics):
            _check_metric_names(given)
        before = self.optimizer, self.compiled, self.run_eagerly
        self.optimizer = optimizers.get(optimizer)
        self.compiled = {
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
        }
        self.run_eagerly = bool(run_eagerly)
        self._heads = None
        self._loss_mean = None
        if self.built and self.graph is not None:
            try:
                self._prepare()
            except Exception:
                self.optimizer, self.compiled, self.run_eagerly = before
                raise

    def get_compile_config(self):
        """What `compile` was given, as plain values; None before `compile`."""
        if self.compiled is None:
            return None
        return {"optimizer": serialize(self.optimizer), **serialize(self.compiled)}

    def compile_from_config(self, config):
        """`compile` with what `get_compile_config` returned."""
        config = dict(config)
        optimizer = optimizers.table.build(config.pop("optimizer"))
        self.compile(optimizer, **config)

    @property
    def heads(self):
        """What is expected of each output."""
        self._prepare()
        return self._heads

    def _prepare(self):
        """Make what depends on the built graph: heads, the loss averages."""
        if self.compiled is None:
            self.fail("is not compiled: call compile(optimizer=..., loss=...) first")
        if self._heads is not None and self._heads_of is self.graph:
            return
        self._graph()
        given = self.compiled
        self._heads = make_heads(
            self, given["loss"], given["loss_weights"], given["metrics"], given["weighted_metrics"]
        )
        self._heads_of = self.graph
        self._logits = frozenset(i for i, head in enumerate(self._heads) if head.from_logits)
        self._loss_mean = metrics.Mean(name="loss")
        with_loss = [head for head in self._heads if head.loss is not None]
        self._head_means = {  # of a single loss the total is the mean already
            head: metrics.Mean(name=f"{head.name}_loss") for head in with_loss if len(with_loss) > 1
        }

    @property
    def loss(self):
        """The loss as `compile` was given it."""
        return None if self.compiled is None else self.compiled["loss"]

    # -- one step ---------------------------------------------------------------------------------

    @QUIET
    def train_step(self, x, y, sample_weight):
        """Forward, loss, backward, optimiser, metrics."""
        context = Context(
            training=True,
            keep=True,
            seed=self._seed,
            step=self.optimizer.iterations,
            logits=self._logits,
            penalties=[],
        )
        with self._walk(x, context) as walk:
            loss, dy = self._loss_and_grad(walk.outputs, y, sample_weight)
            self.optimizer.zero_grad()
            walk.back(dy)
        loss += self._add_penalties(context.penalties)
        if not (math.isfinite(loss) and self._gradient_is_finite()):
            self._explain_non_finite(x, dy, context, loss)
        self.optimizer.step()
        self._update_metrics(loss, walk.outputs, y, sample_weight)

    @QUIET
    def test_step(self, x, y, sample_weight):
        """Forward in inference mode, loss, metrics."""
        context = Context(logits=self._logits, penalties=[])
        with self._walk(x, context) as walk:
            loss, _ = self._loss_and_grad(walk.outputs, y, sample_weight)
        loss += sum(context.penalties) + sum(self.losses)
        self._update_metrics(loss, walk.outputs, y, sample_weight)

    def _walk(self, x, context):
        """`with self._walk(x, context) as walk:` walk.outputs and walk.back(dy) are what `forward`
        gives and `backward` takes; if steps repeat, without asking the layers (walks.py)."""
        if self._walks is None:
            self._walks = Walks()
        return self._walks.walk(self, x, context)

    def _loss_and_grad(self, outputs, y, sample_weight):
        """Weighted sum of the outputs' losses, and its gradient with respect to each output."""
        total, gradients = 0.0, []
        outputs = [outputs] if self._single_output else outputs
        for number, (head, output) in enumerate(zip(self._heads, outputs, strict=True)):
            if head.loss is None:
                gradients.append(None)
                continue
            value, gradient = head.loss.value_and_grad(y[number], output, sample_weight[number])
            if head in self._head_means:
                self._head_means[head].update_state(value, len(output))
            if head.weight != 1.0:
                value, gradient = value * head.weight, gradient * head.weight
            total += value
            gradients.append(gradient)
        return total, gradients[0] if self._single_output else gradients

    def _add_penalties(self, activity):
        """Add the regularisers' gradients; their values and those of activity regularisers."""
        total = sum(activity)
        for parameter in self._regularized:
            total += parameter.regularizer.value(parameter.value)
            parameter.accumulate(parameter.regularizer.grad(parameter.value))
        return total

    @property
    def losses(self):
        """Values of the weight regularisers; frozen weights do not count, as in Keras."""
        trainable = self.trainable_weights
        return [p.regularizer.value(p.value) for p in trainable if p.regularizer is not None]

    def _update_metrics(self, loss, outputs, y, sample_weight):
        outputs = [outputs] if self._single_output else outputs
        self._loss_mean.update_state(loss, len(outputs[0]))
        for head, output, target, weight in zip(
            self._heads, outputs, y, sample_weight, strict=True
        ):
            if head.metrics:
                prediction = head.prediction(output)
                for metric, weighted in head.metrics:
                    metric.update_state(target, prediction, weight if weighted else None)

    def _gradient_is_finite(self):
        """Whether the gradient is finite where backward ends: NaN from anywhere arrives there."""
        first = min(self._first_trained, key=lambda parameter: parameter.size, default=None)
        return first is None or finite(first.grad)

    def _explain_non_finite(self, x, dy, context, loss):
        """Warn once per `fit` where the numbers first stopped being finite."""
        if self._warned_non_finite:
            return
        self._warned_non_finite = True
        place = self._non_finite_weight() or self._non_finite_layer(x, dy, context)
        what = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        inputs = max(float(np.max(np.abs(one), initial=0)) for one in flat(x))
        warn(
            f"{what} at step {context.step}: first in the {place}; largest input "
            f"{inputs:.3g}, learning rate {float(self.optimizer.learning_rate):.3g}: lower the "
            "rate, clip gradients (clipnorm=1), scale the input; TerminateOnNaN stops here",
            RuntimeWarning,
        )

    def _non_finite_weight(self):
        """The last weight that is not finite: backward met it before the others."""
        for parameter in reversed(self.weights):
            if not parameter.state and not finite(parameter.value):
                return f"weight {parameter.name!r}, so an earlier step's gradient was too large"
        return None

    def _non_finite_layer(self, x, dy, context):
        """The first layer, forward or backward, whose result is not finite: the step once more."""
        seen = []

        def watch(what):
            def look(layer, result):
                arrays = [one for one in flat(result) if one is not None]
                if what == "gradient":
                    arrays += [p.grad for p in layer.trainable_weights if p.grad is not None]
                if not all(finite(one) for one in arrays):
                    seen.append(f"{what} of layer {layer.name!r} ({type(layer).__name__})")

            return look

        again = replace(context, watch=watch("output"), frozen_state=True, penalties=None)
        _, saved = self.forward(x, again)
        gradients = [(p, p.grad.copy()) for p in self.trainable_weights]
        if not seen and all(finite(one) for one in flat(dy) if one is not None):
            self.optimizer.zero_grad()
            self.backward(dy, saved, False, watch("gradient"))
            for parameter, gradient in gradients:
                parameter.grad[...] = gradient
        return seen[0] if seen else "loss itself, every layer's output is finite"

    # -- fit --------------------------------------------------------------------------------------

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Train; returns a History whose .history has a list per epoch for every name. As in Keras.

        x: an array, a list or dict of them, a generator or a Sequence of (x, y[, sample_weight]).
        validation_split takes the last rows, before shuffling.
        """
        epochs = positive("epochs", epochs)
        if validation_batch_size is None:
            validation_batch_size = batch_size
        else:
            positive("validation_batch_size", validation_batch_size)
        whole = isinstance(initial_epoch, int | np.integer) and not isinstance(initial_epoch, bool)
        if not whole or not 0 <= initial_epoch <= epochs:
            raise ValueError(
                f"initial_epoch is an integer in 0..epochs={epochs}, not {initial_epoch!r}"
            )
        number = isinstance(validation_split, int | float | np.number)
        if not number or not 0 <= validation_split < 1:
            raise ValueError(f"validation_split is a fraction in [0, 1), not {validation_split!r}")
        split = bool(validation_split) and validation_data is None
        if split:
            classes = any(loss.expects for loss in map(losses.get, flat(self.loss)) if loss)
            x, y, sample_weight, validation_data = _split_tail(
                x, y, sample_weight, validation_split, classes
            )
        batches = make_batches(x, y, sample_weight, batch_size, bool(shuffle))
        source = Epochs(batches, steps_per_epoch)
        self._start(batches, training=True)
        class_weight = _class_weights(class_weight, self._heads, batches)
        validation = None
        if validation_data is not None:
            validation = self._validation(validation_data, validation_batch_size, validation_steps)
        run = callbacks_module.CallbackList(
            callbacks,
            add_history=True,
            add_progbar=_verbosity(verbose) != 0,
            model=self,
            epochs=epochs,
            steps=source.length,
            verbose=_verbosity(verbose),
        )
        run.set_data(batches, None if validation is None else validation.batches, split)
        self.stop_training = False
        self._warned_non_finite = False
        one_thread = self._training_in_one_thread()
        with one_thread, run, closing(source), closing(validation or source):
            run.on_train_begin()
            logs = {}
            for epoch in range(initial_epoch, epochs):
                self.reset_metrics()
                run.on_epoch_begin(epoch)
                step = None
                for step, batch in enumerate(source.epoch()):
                    run.on_train_batch_begin(step)
                    batch = self._ready(batch, source, class_weight)
                    with compiling.together(self, *batch):
                        self.train_step(*batch)
                    logs = self.get_metrics_result()
                    run.on_train_batch_end(step, logs)
                    if self.stop_training:
                        break
                if step is None:
                    break  # a generator had ended: there was no such epoch
                logs = dict(logs)
                if validation is not None and _is_due(validation_freq, epoch):
                    held_out = self._evaluate(validation, run)
                    logs.update({f"val_{name}": value for name, value in held_out.items()})
                run.on_epoch_end(epoch, logs)
                if self.stop_training or source.exhausted:
                    break
            self.optimizer.finalize()
            run.on_train_end(logs)
        ops.arena.trim()
        return self.history

    @contextlib.contextmanager
    def _training_in_one_thread(self):
        """Two threads that train one model would mix their steps; other threads may predict."""
        before = self._training_thread
        self._refuse_another_thread()
        self._training_thread = threading.get_ident()
        try:
            yield
        finally:
            self._training_thread = before

    def _refuse_another_thread(self):
        if self._training_thread not in (None, threading.get_ident()):
            self.fail("is being trained in another thread: wait, or train clone_model(model)")

    def _start(self, batches, training):
        """Build on the first data, check all of it, let the optimiser pack the weights."""
        if training:
            self._refuse_another_thread()
        if isinstance(batches, ArrayBatches):
            self._refuse_non_finite(self.check_inputs(batches.x))
            self._prepare()
            _check_sample_weight(batches.sample_weight)
            if batches.y is None and any(head.loss is not None for head in self._heads):
                raise ValueError("y is missing: fit and evaluate need targets for the loss")
            self._check_targets(batches.y)
        elif self.graph is None:
            self.check_inputs(batches.first()[0])
        self._prepare()
        if training:
            if all(head.loss is None for head in self._heads):
                self.fail("was compiled without a loss: compile(loss=...)")
            if self._begun != self._beginning():  # `train_on_batch` asks with every batch
                self._begin()
                self._begun = self._beginning()
            if not self._first_trained:
                warn(f"{self.name!r} has no trainable weights: fit does not change them")
            self._seed = randomness.next_seed()
            self._warned_non_finite = False

    def _beginning(self):
        """What `_begin` depends on."""
        trained = self.optimizer.trained
        return self.optimizer, trained, self.graph, Layer.changes, Parameter.changes

    def _begin(self):
        """Let the optimiser pack the weights."""
        trainable = self.trainable_weights
        self.optimizer.build(trainable)
        self._first_trained = trainable[:2]  # a kernel and its bias
        self._regularized = [p for p in trainable if p.regularizer is not None]

    def _refuse_non_finite(self, x):
        """x: an array, or a list in the order of the inputs."""
        for name, array in zip(self.input_names, flat(x), strict=True):
            if array.dtype.kind == "f" and not finite(array):
                at = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
                self.fail(
                    f"got {array[at]} in x at index {at} of input {name!r}, shape {array.shape}: "
                    "remove or replace it"
                )

    def _check_targets(self, y):
        for head, target in zip(self._heads, by_output(y, self._heads, "y"), strict=True):
            if head.loss is None and target is None:
                continue
            head.check(target)
            head.resolve_metrics(target)

    def _ready(self, batch, source=None, class_weight=None):
        """A batch as the step takes it: x cast, y and weights a list with one entry per output.

        Arrays were checked as a whole by `_start`; batches of a generator are checked here.
        """
        x, y, sample_weight = batch
        if source is not None and not isinstance(source.batches, ArrayBatches):
            with source.numbered():
                self._check_batch(x, y, sample_weight)
        x = self.cast_inputs(x)
        targets = by_output(y, self._heads, "y")
        weights = by_output(sample_weight, self._heads, "sample_weight")
        if class_weight is not None:
            weights = [_weigh_classes(targets[0], class_weight, weights[0])]
        return x, targets, weights

    def _check_batch(self, x, y, sample_weight):
        """What `_start` asks of whole arrays."""
        self._refuse_non_finite(self.check_inputs(x))
        sample_count(x, y, sample_weight)
        _check_sample_weight(sample_weight)
        self._check_targets(y)

    def _validation(self, data, batch_size, steps):
        try:
            if isinstance(data, tuple | list) and len(data) in (2, 3):
                x, y, weight = (*data, None)[:3]
                batches = make_batches(x, y, weight, batch_size)
            elif is_data(data):
                raise ValueError("give (x, y), (x, y, sample_weight) or a source of such batches")
            else:
                batches = make_batches(data)
            if isinstance(batches, ArrayBatches):
                self._start(batches, training=False)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"validation_data: {error}") from error
        return Epochs(batches, steps, "validation_steps")

    def _evaluate(self, source, run):
        source.restart()
        self.reset_metrics()
        run.on_test_begin()
        logs = {}
        for step, batch in enumerate(source.epoch()):
            run.on_test_batch_begin(step)
            self.test_step(*self._ready(batch, source))
            logs = self.get_metrics_result()
            run.on_test_batch_end(step, logs)
        run.on_test_end(logs)
        return logs

    # -- evaluate and predict ---------------------------------------------------------------------

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
    ):
        """Loss and metrics on data, averaged over samples: a number, a list, or a dict."""
        batches = make_batches(x, y, sample_weight, batch_size)
        source = Epochs(batches, steps, "steps")
        self._start(batches, training=False)
        run = self._callback_list(callbacks, verbose, source)
        with run, closing(source):
            logs = self._evaluate(source, run)
        if return_dict:
            return logs
        values = list(logs.values())
        return values if len(values) > 1 else values[0]

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Outputs for all samples, computed batch by batch; arrays of their own."""
        batches = make_batches(x, None, None, batch_size)
        source = Epochs(batches, steps, "steps")
        if isinstance(batches, ArrayBatches):
            self.check_inputs(batches.x)
        elif self.graph is None:
            self.check_inputs(batches.first()[0])
        run = self._callback_list(callbacks, verbose, source)
        with run, closing(source):
            run.on_predict_begin()
            parts = []
            for step, (inputs, _, _) in enumerate(source.epoch()):
                run.on_predict_batch_begin(step)
                if not isinstance(batches, ArrayBatches):
                    with source.numbered():
                        self.check_inputs(inputs)
                parts.append(self._run(inputs, Context()))
                run.on_predict_batch_end(step, {"outputs": self._structured(parts[-1])})
            run.on_predict_end()
        return self._structured([np.concatenate(one) for one in zip(*parts, strict=True)])

    def predict_on_batch(self, x):
        """Outputs for one batch."""
        return self._structured(self._run(as_arrays(x), Context()))

    def _callback_list(self, callbacks, verbose, source):
        if isinstance(callbacks, callbacks_module.CallbackList):
            return callbacks
        return callbacks_module.CallbackList(
            callbacks,
            add_progbar=_verbosity(verbose) != 0,
            model=self,
            epochs=1,
            steps=source.length,
            verbose=_verbosity(verbose),
        )

    # -- single batches ---------------------------------------------------------------------------

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """One step; loss and metrics of this batch alone, as in Keras."""
        batches = self._one_batch(x, y, sample_weight)
        seed = getattr(self, "_seed", None)
        self._start(batches, training=True)
        self.reset_metrics()
        if seed is not None:
            self._seed = seed  # one run: dropout goes on, the step number moves it
        weights = _class_weights(class_weight, self._heads, batches)
        batch = self._ready((batches.x, batches.y, batches.sample_weight), None, weights)
        with self._training_in_one_thread(), compiling.together(self, *batch):
            self.train_step(*batch)
        return self._batch_result(return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Loss and metrics of one batch."""
        batches = self._one_batch(x, y, sample_weight)
        self._start(batches, training=False)
        self.reset_metrics()
        self.test_step(*self._ready((batches.x, batches.y, batches.sample_weight)))
        return self._batch_result(return_dict)

    def _one_batch(self, x, y, sample_weight):
        return ArrayBatches(
            as_arrays(x), as_arrays(y, "y"), as_arrays(sample_weight, "sample_weight")
        )

    def _batch_result(self, return_dict):
        logs = self.get_metrics_result()
        if return_dict:
            return logs
        values = list(logs.values())
        return values if len(values) > 1 else values[0]

    # -- metrics ----------------------------------------------------------------------------------

    @property
    def metrics(self):
        """The metric objects: the loss, then those of each output."""
        if self._loss_mean is None:
            return []
        found = [metric for head in self._heads for metric, _ in head.metrics or ()]
        return [self._loss_mean, *self._head_means.values(), *found]

    @property
    def metrics_names(self):
        """Names in the order of what `evaluate` returns."""
        return list(self.get_metrics_result()) if self._loss_mean is not None else []

    def reset_metrics(self):
        """Start all averages anew."""
        for metric in self.metrics:
            metric.reset_state()

    def get_metrics_result(self):
        """Loss and metrics by name."""
        logs = {"loss": self._loss_mean.result()}
        logs.update((mean.name, mean.result()) for mean in self._head_means.values())
        for head in self._heads:
            for metric, weighted in head.metrics or ():
                name = head.prefix + metric.name
                if weighted and name in logs:  # the same metric plain and weighted, as in Keras
                    name = f"{head.prefix}weighted_{metric.name}"
                again = itertools.count(1)
                unique = name
                while unique in logs:
                    unique = f"{name}_{next(again)}"
                logs[unique] = metric.result()
        return logs


def _check_sample_weight(sample_weight):
    for array in flat(sample_weight):
        if array is not None and not finite(array):
            raise ValueError("sample_weight holds NaN or infinity: give 0 to leave a sample out")


def _check_metric_names(given):
    for one in flat(given):
        if isinstance(one, list | tuple):
            _check_metric_names(list(one))
        elif one is not None:
            metrics.resolve(one, None, (None, 2))


def _verbosity(verbose):
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"verbose is 'auto', 0, 1 or 2, not {verbose!r}")
    return 1 if verbose == "auto" else int(verbose)


def _is_due(frequency, epoch):
    if isinstance(frequency, int):
        return (epoch + 1) % positive("validation_freq", frequency) == 0
    return epoch + 1 in frequency


def _split_tail(x, y, sample_weight, fraction, classes):
    """Training rows and (x, y, weight) of the last rows, as Keras splits: before shuffling.

    classes: whether y holds classes, not quantities.
    """
    if not is_data(x):
        raise ValueError(
            f"validation_split needs arrays, x is a {type(x).__name__}: give validation_data"
        )
    x, y = as_arrays(x), as_arrays(y, "y")
    sample_weight = as_arrays(sample_weight, "sample_weight")
    count = sample_count(x, y, sample_weight)
    at = int(math.floor(count * (1.0 - fraction)))
    if at in (0, count):
        raise ValueError(
            f"validation_split={fraction} of {count} samples leaves {at} for training and "
            f"{count - at} for validation; both need at least one"
        )
    head, tail = slice(0, at), slice(at, None)
    if classes:
        _warn_missing_classes(y, at)
    held_out = (pick(x, tail), pick(y, tail), pick(sample_weight, tail))
    return pick(x, head), pick(y, head), pick(sample_weight, head), held_out


def _class_numbers(y):
    """Class numbers of one-hot or integer targets, None for anything else."""
    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(axis=1)
    if y.size == len(y) and (y.dtype.kind in "iub" or np.array_equal(y, np.round(y))):
        return y.reshape(-1).astype(np.int64)
    return None


def _warn_missing_classes(y, at):
    """Sorted data is a classic trap: the last rows hold classes that training never sees."""
    classes = _class_numbers(y) if isinstance(y, np.ndarray) and y.ndim in (1, 2) else None
    if classes is None:
        return
    train, held_out = set(classes[:at].tolist()), set(classes[at:].tolist())
    if len(train | held_out) <= 1000 and held_out - train:
        warn(
            f"validation_split takes the last rows, and classes {sorted(held_out - train)[:10]} "
            "are only there: training never sees them; shuffle x and y before",
        )


def _class_weights(class_weight, heads, batches):
    """The weights of classes 0..k-1 as an array, None if there are none."""
    if class_weight is None:
        return None
    if len(heads) != 1:
        raise ValueError("class_weight works for models with one output; use sample_weight")
    if not isinstance(class_weight, dict) or not class_weight:
        raise ValueError(f"class_weight is a dict {{class: weight}}, not {class_weight!r}")
    for name, weight in class_weight.items():
        if isinstance(name, bool) or not isinstance(name, int | np.integer) or name < 0:
            raise ValueError(f"class_weight has class numbers >= 0 as keys, not {name!r}")
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"class_weight[{name}] is a number >= 0, not {weight!r}")
    table = np.ones(max(class_weight) + 1)  # classes without an entry count once, as in Keras
    for name, weight in class_weight.items():
        table[name] = weight
    return table


def _weigh_classes(y, table, sample_weight):
    classes = _class_numbers(y)
    if classes is None:
        raise ValueError(f"class_weight needs class numbers or one-hot rows as y, got {y.shape}")
    inside = np.minimum(classes, len(table) - 1)
    weights = np.where(classes < len(table), table[inside], 1.0)
    return weights if sample_weight is None else weights * sample_weight
