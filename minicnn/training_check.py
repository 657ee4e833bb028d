"""check_training: would a network that learnt nothing be noticed? Asked before it is trained.

Each check has been the end of somebody's 96 %: pictures that stood in both splits, a sorted folder
behind validation_split, an accuracy that counted zeros, a test set of thirty, pixels of 0 to 255.
The checks of arrays are in checks/arrays.py; those here train copies of the model for a few steps.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from minicnn import optimizers, randomness
from minicnn.checks import arrays, networks
from minicnn.checks.findings import Finding, Report
from minicnn.data.batches import (
    as_arrays,
    is_data,
    make_batches,
    pick,
    positive,
    sample_count,
)
from minicnn.layers.normalization import BatchNormalization
from minicnn.metrics.classification import majority, percent, wilson_interval
from minicnn.models.copying import fresh_optimizer, independent_copy
from minicnn.models.model import Model, clone_model

MOST_LOOKED_AT = 256  # inputs that scale, first loss and dead units are taken from
QUICK_MOMENTUM = 0.9  # of moving statistics: 0.99 would not have arrived after 100 steps
BY_HEART = 0.95  # share of a batch, the rest for dropout


def check_training(
    model,
    x,
    y=None,
    validation_data=None,
    validation_split=0.0,
    batch_size=32,
    samples=1024,
    steps=100,
    seed=0,
    verbose=True,
):
    """Look for what makes a network's accuracy worthless; prints a table, returns a Report.

    x, y, validation_data, validation_split: as `fit` takes them; of generators and data sets only
    `samples` inputs are taken (from a generator that runs once they are gone). Copies of the model
    are trained, with its optimizer's settings, on at most `samples` inputs: at most 6 * steps
    steps of batch_size (steps=0: none). Model, optimizer, random streams and arrays stay as they
    are. report["first loss"].verdict is "pass", "warn", "fail" or "skipped"; the report is true if
    nothing failed.
    """
    if not isinstance(model, Model):
        raise TypeError(f"check_training takes a model, not {model!r}")
    if model.compiled is None:
        model.fail("is not compiled: call compile(optimizer=..., loss=...) first")
    positive("batch_size", batch_size)
    positive("samples", samples)
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0:
        raise ValueError(f"steps is an integer >= 0, not {steps!r}")
    with randomness.untouched(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the copies: what matters is said in the report
        data = _Data(x, y, validation_data, validation_split, samples)
        report = Report(_Examination(model, data, batch_size, steps).run(), "Training check")
    if verbose:
        report.print()
    return report


# -- data -----------------------------------------------------------------------------------------


@dataclass
class _Part:
    """Inputs and targets of one split; of a source of batches, how many samples each one had."""

    x: object
    y: object
    lengths: list | None = None

    def __len__(self):
        return sample_count(self.x)

    def rows(self, index):
        return _Part(pick(self.x, index), pick(self.y, index))


def _part(x, y, samples):
    """Arrays as they are; of anything else the first `samples` inputs."""
    if is_data(x):
        x, y = as_arrays(x), as_arrays(y, "y")
        sample_count(x, y)
        return _Part(x, y)
    batches = make_batches(x, y)
    xs, ys, lengths = [], [], []
    for inputs, targets, _ in batches:
        xs.append(inputs)
        ys.append(targets)
        lengths.append(sample_count(inputs, targets))
        if sum(lengths) >= samples:
            break
    if not lengths:
        raise ValueError("the data source yielded no batch")
    return _Part(_joined(xs), _joined(ys), lengths)


def _joined(parts):
    """One structure of arrays from those of the batches."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in first}
    if isinstance(first, list):
        return [np.concatenate(same) for same in zip(*parts, strict=True)]
    return np.concatenate(parts)


class _Data:
    """train, held_out (None where there is none) and the parts of them that copies train on."""

    def __init__(self, x, y, validation_data, validation_split, samples):
        if not 0 <= validation_split < 1:
            raise ValueError(f"validation_split is a fraction in [0, 1), not {validation_split!r}")
        self.train = _part(x, y, samples)
        self.held_out, self.split = None, False
        if validation_data is not None:
            if isinstance(validation_data, tuple | list) and len(validation_data) in (2, 3):
                self.held_out = _part(*validation_data[:2], samples)
            else:
                self.held_out = _part(validation_data, None, samples)
        elif validation_split:
            if self.train.lengths is not None:
                raise ValueError("validation_split needs arrays; give validation_data")
            at = math.floor(len(self.train) * (1 - validation_split))
            if at in (0, len(self.train)):
                raise ValueError(f"validation_split={validation_split} leaves one part empty")
            whole, self.split = self.train, True
            self.train, self.held_out = whole.rows(slice(0, at)), whole.rows(slice(at, None))
        generator = randomness.generator()
        order = generator.permutation(len(self.train))
        if self.held_out is None:  # the checks that learn need something that was not learnt
            at = len(order) - max(1, len(order) // 4)
            learnt, other = order[:at], self.train.rows(np.sort(order[at:][:samples]))
        else:
            learnt, held = order, generator.permutation(len(self.held_out))[:samples]
            other = self.held_out.rows(np.sort(held))
        self.learnt, self.tested = self.train.rows(np.sort(learnt[:samples])), other


# -- the checks -----------------------------------------------------------------------------------


class _Examination:
    """One call of check_training."""

    def __init__(self, model, data, batch_size, steps):
        self.data, self.batch_size, self.steps = data, batch_size, steps
        self.trained = model.optimizer.iterations > 0
        self.source = independent_copy(model, "check_training")
        self.source.check_inputs(pick(data.train.x, slice(0, 1)))
        self.source._prepare()
        self.heads = self.source.heads
        self.head = self.heads[0] if len(self.heads) == 1 else None
        self.classes = self.held_classes = None

    def run(self):
        findings = [self.labels()]
        valid = findings[0].verdict == "pass"
        if valid:
            self.classes = self._classes(self.data.train.y)
            if self.data.held_out is not None:
                self.held_classes = self._classes(self.data.held_out.y)
        findings += self.of_arrays()
        if not valid or any(f.name == "input values" and f.verdict == "fail" for f in findings):
            reason = "the labels do not fit" if not valid else "the inputs are unusable"
            names = ("first loss", "one batch", "real labels", "accuracy metric")
            names += ("shuffled labels", "dead units", "current model")
            return [*findings, *(Finding(name, "skipped", reason) for name in names)]
        self.fresh = self._fresh()
        findings.append(self.first_loss())
        findings.append(self.one_batch())
        findings += self.learning()
        findings.append(self.current())
        return findings

    # -- labels and arrays ------------------------------------------------------------------------

    def labels(self):
        """What the loss refuses: labels outside, NaN, one-hot where numbers belong."""
        try:
            for part in (self.data.train, self.data.held_out):
                if part is not None:
                    self.source._check_targets(part.y)
        except (TypeError, ValueError) as error:
            return Finding("labels", "fail", str(error), "targets that fit output and loss")
        return Finding("labels", "pass", "they fit the outputs and the loss", "no error")

    def _classes(self, y):
        return networks.classes_of(self.heads, y)

    @property
    def outputs(self):
        return self.head.shape[-1]

    @property
    def class_count(self):
        return max(2, self.outputs, int(self.classes.max()) + 1)

    def of_arrays(self):
        train, held = self.data.train, self.data.held_out
        x, other = train.x, None if held is None else held.x
        if isinstance(x, list | dict):
            names = ("input values", "input scale", "same preparation", "duplicates")
            findings = [Finding(name, "skipped", "several inputs") for name in names]
        else:
            findings = [arrays.check_values(x, other)]
            if findings[0].verdict == "fail":
                findings.append(Finding("input scale", "skipped", "the inputs are unusable"))
            else:
                some = self._some(self.data.train)
                findings.append(networks.check_input_scale(self.source, some.x))
                findings.append(arrays.check_same_scale(x, other))
                findings.append(arrays.check_duplicates(x, other))
        if self.classes is None:
            reason = "needs one output with classes"
            names = ("class balance", "sorted data", "label conflicts", "validation size")
            return findings + [Finding(name, "skipped", reason) for name in names]
        findings.append(arrays.check_balance(self.classes, self.class_count))
        findings.append(self.sorted_data())
        if not isinstance(x, list | dict):
            findings.append(arrays.check_contradictions(x, self.classes))
        findings.append(arrays.check_size(self.held_classes))
        return findings

    def sorted_data(self):
        if self.data.split:
            return arrays.check_tail(self.classes, self.held_classes)
        if self.data.train.lengths is not None:
            ends = np.cumsum(self.data.train.lengths)[:-1]
            return arrays.check_mixed_batches(np.split(self.classes, ends))
        return Finding("sorted data", "skipped", "no validation_split, and fit shuffles arrays")

    def _some(self, part, count=MOST_LOOKED_AT):
        """Evenly chosen rows."""
        return part.rows(np.unique(np.linspace(0, len(part) - 1, count).astype(int)))

    # -- copies of the model ----------------------------------------------------------------------

    def _fresh(self):
        """A model that has not been trained: the given one, or the same layers anew; or None."""
        if not self.trained:
            return self.source
        try:
            made = clone_model(self.source)
            made.ensure_built([(None, *t.shape[1:]) for t in self.source.inputs][0])
        except (TypeError, ValueError, KeyError):
            return None  # layers of the user's that cannot be made from their config
        made.compile(fresh_optimizer(self.source.optimizer), **self.source.compiled)
        return made

    def _learner(self):
        """A copy of the untrained model, to be trained."""
        learner = independent_copy(self.fresh, "check_training")
        for layer in learner.parts():
            if isinstance(layer, BatchNormalization):
                layer.momentum = min(layer.momentum, QUICK_MOMENTUM)
        return learner

    def _right(self, model, part):
        """How many of a part's classes the model gets right, and what it says."""
        said = self._said(model, part)
        return int(np.sum(said == self._classes(part.y))), said

    def _said(self, model, part):
        outputs = np.asarray(model.predict(part.x, batch_size=self.batch_size, verbose=0))
        outputs = outputs.reshape(len(outputs), -1)
        if outputs.shape[1] > 1:
            return outputs.argmax(axis=1)
        logits = getattr(self.head.loss, "from_logits", False) and not self.head.from_logits
        return (outputs[:, 0] > (0.0 if logits else 0.5)).astype(np.int64)

    # -- before training --------------------------------------------------------------------------

    def first_loss(self):
        """An untrained network knows nothing: ln k for k classes, more is a fault."""
        name = "first loss"
        if self.head is None or self.head.loss is None:
            return Finding(name, "skipped", "several outputs, or none with a loss")
        if self.fresh is None:
            return Finding(name, "skipped", "the model is trained and its layers have no config")
        part = self._some(self.data.train)
        learner = independent_copy(self.fresh, "check_training")
        penalty = sum(learner.losses)
        run = learner.fit(part.x, part.y, len(part), shuffle=False, verbose=0)
        first = float(run.history["loss"][0]) - penalty
        return networks.check_first_loss(first, penalty, self.head, part.y, self.classes)

    def one_batch(self):
        """A network that cannot learn 32 samples by heart learns nothing else either."""
        name = "one batch"
        if not self.steps:
            return Finding(name, "skipped", "steps=0")
        if self.fresh is None:
            return Finding(name, "skipped", "the model is trained and its layers have no config")
        count = min(self.batch_size, len(self.data.learnt))
        chosen = randomness.generator().permutation(len(self.data.learnt))[:count]
        part = self.data.learnt.rows(chosen)
        learnt, measured = self._by_heart(self._learner(), part)
        if self.classes is not None:
            expected = f"at least {percent(BY_HEART)} of it right"
        else:
            expected = "a fifth of the first loss"
        if learnt == 1:
            return Finding(name, "pass", measured, expected)
        learner = self._learner()
        learner.compile(optimizers.Adam(1e-3), **learner.compiled)
        other_learnt, other = self._by_heart(learner, part)
        measured += f"; with Adam(0.001): {other}"
        rule, rate = type(self.source.optimizer).__name__, self.source.optimizer.learning_rate
        slow = f"it may only be slow: more steps (steps={10 * self.steps}) tell"
        if other_learnt == 1:
            advice = (
                f"{rule} with learning rate {float(rate):.3g} is too slow or too fast: try "
                "Adam(0.001), or other rates"
            )
        elif max(learnt, other_learnt) > 0.5:
            advice = f"{slow}; else less dropout and regularisation, a larger network"
        else:
            advice = (
                "are all layers trainable? is the last activation right? do equal inputs have "
                f"different labels? {slow}"
            )
        failed = max(learnt, other_learnt) <= 0.5
        return Finding(name, "fail" if failed else "warn", measured, expected, advice)

    def _by_heart(self, learner, part):
        """How far a batch was learnt by heart, 0 to 1, and what was measured."""
        before = float(learner.test_on_batch(part.x, part.y, return_dict=True)["loss"])
        done, most, learnt, told = 0, 2 * self.steps, 0.0, ""
        while done < most and learnt < 1:
            epochs = min(10, most - done)
            learner.fit(part.x, part.y, len(part), epochs=epochs, verbose=0)
            done += epochs
            loss = float(learner.test_on_batch(part.x, part.y, return_dict=True)["loss"])
            if self.classes is not None:
                right, _ = self._right(learner, part)
                _, usual = majority(self._classes(part.y))
                least = math.ceil(BY_HEART * len(part))
                guessed = min(usual * len(part), least - 1)
                learnt = (right - guessed) / (least - guessed)
                told = f"{percent(right / len(part))} of {len(part)} samples right after {done}"
            else:
                learnt = (before - loss) / (0.8 * before) if before else 1.0
                told = f"loss {before:.3g} to {loss:.3g} on {len(part)} samples after {done}"
            if not math.isfinite(loss):
                return 0.0, f"loss {loss} after {done} steps"
        return min(max(learnt, 0.0), 1.0), f"{told} steps"

    # -- a short training -------------------------------------------------------------------------

    def learning(self):
        """Rows of a short training with the real and with shuffled labels."""
        names = ("real labels", "accuracy metric", "shuffled labels")
        if not self.steps:
            reason = "steps=0"
        elif self.fresh is None:
            reason = "the model is trained and its layers have no config"
        elif self.classes is None:
            reason = "needs one output with classes"
        else:
            learner = self._train(self.data.learnt)
            findings = [self.real(learner), self.metric(learner), self.shuffled()]
            return [*findings, self.dead_units(learner)]
        skipped = [Finding(name, "skipped", reason) for name in names]
        return [*skipped, self.dead_units(self.source)]

    def _train(self, part):
        learner = self._learner()
        per_epoch = -(-len(part) // self.batch_size)
        epochs, rest = divmod(self.steps, per_epoch)
        if epochs:
            learner.fit(part.x, part.y, self.batch_size, epochs=epochs, verbose=0)
        if rest:
            learner.fit(part.x, part.y, self.batch_size, steps_per_epoch=rest, verbose=0)
        return learner

    def real(self, learner):
        name = "real labels"
        tested = self.data.tested
        classes = self._classes(tested.y)
        best, share = majority(classes)
        if arrays.smallest_telling(share, len(tested)) is None:
            reason = f"{len(tested)} samples outside of training cannot tell it from a guess"
            return Finding(name, "skipped", reason)
        right, said = self._right(learner, tested)
        known, _ = self._right(learner, self.data.learnt)
        finding = arrays.check_above_guess(
            right, classes, name, f"after {self.steps} steps on {len(self.data.learnt)} samples"
        )
        measured = f"{finding.measured}; of the training samples {percent(known / self.learnt)}"
        if len(np.unique(said)) == 1:
            measured += f"; it says class {int(said[0])} to everything"
        advice = ""
        if finding.verdict == "fail":
            low, _ = wilson_interval(known, self.learnt)
            _, usual = majority(self._classes(self.data.learnt.y))
            more = f"if the task is hard, judge after more steps (steps={10 * self.steps})"
            advice = (
                f"it learns its samples by heart and nothing that holds for others: do x and y "
                f"belong together in both splits? more data, augmentation; {more}"
                if low > usual + 0.1
                else f"it learns nothing: see the rows above; {more}"
            )
        figures = {**finding.figures, "training_accuracy": known / self.learnt}
        return Finding(name, finding.verdict, measured, finding.expected, advice, figures)

    @property
    def learnt(self):
        return len(self.data.learnt)

    def metric(self, learner):
        """Whether the compiled accuracy is the share of classes that are right."""
        name = "accuracy metric"
        tested = self.data.tested
        reported = _accuracies(
            learner.evaluate(tested.x, tested.y, self.batch_size, verbose=0, return_dict=True)
        )
        if not reported:
            return Finding(name, "skipped", "compiled without an accuracy")
        right, _ = self._right(learner, tested)
        own = right / len(tested)
        key, value = max(reported.items(), key=lambda item: abs(item[1] - own))
        measured = f"{key} says {percent(value)}, {percent(own)} of the classes are right"
        if abs(value - own) <= 0.005:
            return Finding(name, "pass", measured, "the same")
        return Finding(
            name,
            "fail",
            measured,
            "the same",
            "metrics=['accuracy'] chooses by the shapes; binary_accuracy of one-hot rows counts "
            "every right zero",
        )

    def shuffled(self):
        """Trained on labels that mean nothing, it must not be right and sure of it.

        Being right alone is no fault: of two clusters of pictures each is called the one or the
        other, and the accuracy is 0, a half or 1 by chance. Then the loss says that it is chance.
        """
        name = "shuffled labels"
        learnt, tested = self.data.learnt, self.data.tested
        order = _without_relation(self._classes(learnt.y), randomness.generator())
        learner = self._train(_Part(learnt.x, pick(learnt.y, order)))
        right, _ = self._right(learner, tested)
        classes = self._classes(tested.y)
        best, share = majority(classes)
        logs = learner.evaluate(tested.x, tested.y, self.batch_size, verbose=0, return_dict=True)
        loss, accuracy = float(logs["loss"]) - sum(learner.losses), right / len(tested)
        _, _, least = networks.ignorant_loss(self.head, tested.y, classes)
        least = 0.9 * (least or float("inf"))
        told, value = "right", accuracy
        reported = _accuracies(logs)
        for key, one in reported.items():
            if one > value + 0.005:
                told, value = f"by {key!r}", one
        low, _ = wilson_interval(value * len(tested), len(tested), arrays.Z99)
        measured = (
            f"{percent(value)} of {len(tested)} {told}, loss {loss:.3g}, after training on "
            "shuffled labels"
        )
        expected = f"chance: {percent(share)}, always saying class {best}"
        if least < float("inf"):
            expected += f"; or a loss above {least:.3g}"
        figures = {"accuracy": value, "loss": loss}
        if low <= share or (value == accuracy and loss > least):
            return Finding(name, "pass", measured, expected, figures=figures)
        return Finding(
            name,
            "fail",
            measured,
            expected,
            "nothing could be learnt, yet the accuracy says so: the metric does not count what you "
            "think, or the model knew these data before",
            figures,
        )

    def dead_units(self, learner):
        """Units that give the same number for every input: nothing is learnt through them."""
        part = self._some(self.data.train, MOST_LOOKED_AT // 2)
        worst = None
        for model, when in ((self.source, "as given"), (learner, f"after {self.steps} steps")):
            for layer, dead, units in networks.dead_units(model, part.x):
                if worst is None or dead / units > worst[0]:
                    worst = dead / units, layer, dead, units, when
            if learner is self.source:
                break
        return networks.check_dead(worst)

    def current(self):
        """What the model itself says, where it has been trained."""
        name = "current model"
        tested = self.data.held_out or self.data.tested
        if not self.trained or self.classes is None:
            return Finding(name, "skipped", "not trained yet" if not self.trained else "no classes")
        part = tested if len(tested) <= len(self.data.tested) else self.data.tested
        right, said = self._right(self.source, part)
        classes = self._classes(part.y)
        finding = arrays.check_above_guess(right, classes, name, "the trained model")
        measured, advice = finding.measured, ""
        if len(np.unique(said)) == 1:
            measured += f"; it says class {int(said[0])} to everything"
        if finding.verdict == "fail":
            advice = "a coin toss would do as well: do not use it; see the other rows for why"
        return Finding(name, finding.verdict, measured, finding.expected, advice, finding.figures)


def _accuracies(logs):
    return {
        key: float(value)
        for key, value in logs.items()
        if "acc" in key and "top" not in key and np.size(value) == 1
    }


def _without_relation(classes, generator):
    """An order of the labels in which every class gets the labels of all, in their shares."""
    mixed = generator.permutation(len(classes))
    by_class = mixed[np.argsort(classes[mixed], kind="stable")]
    dealt = np.empty(len(classes))
    for number in np.unique(classes):
        places = by_class[classes[by_class] == number]
        dealt[places] = (np.arange(len(places)) + generator.random(len(places))) / len(places)
    order = np.empty(len(classes), np.int64)
    order[by_class] = np.argsort(dealt, kind="stable")
    return order


__all__ = ["check_training"]
