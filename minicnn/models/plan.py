"""The plan of a walk through a graph of layers: slots for values, steps in order."""

import itertools
from dataclasses import dataclass, field

from minicnn import graph
from minicnn.layers.base import Layer
from minicnn.layers.input import InputLayer

MOST_TAKEN = 3  # layers: a convolution takes over batch normalisation, activation and pooling


@dataclass(slots=True)
class _Step:
    """One node as the walk needs it: slots it reads and fills, values that it is last to read."""

    layer: Layer
    inputs: list
    outputs: list
    many: bool
    training: bool | None
    output_numbers: dict = field(default_factory=dict)  # position among its outputs -> model's
    finished: list = field(default_factory=list)
    below: Layer | None = None  # its activation's derivative may be applied here
    following: list = field(default_factory=list)  # numbers of steps that it may take over
    above: list = field(default_factory=list)  # their layers
    sum_above: Layer | None = None  # of two paths, the only reader of its output

    @property
    def joins(self):
        """Whether a sum that alone reads its output finishes what it normalizes."""
        above = self.sum_above
        return above is not None and self.layer.leaves_normalized and above.adds_normalized

    def leaves_out(self, logits):
        """Which of its outputs leave out their activation; `logits` are numbers of the model's."""
        if not self.output_numbers:
            return frozenset()
        return frozenset(i for i, output in self.output_numbers.items() if output in logits)


class Graph:
    """The plan of a walk: slots for values, steps in order."""

    def __init__(self, inputs, outputs):
        self.inputs, self.outputs = inputs, outputs
        order, visited = graph.topological(outputs, inputs)
        unused = [t.node.layer for t in inputs if not t.node.inputs and t.node not in visited]
        self.layers = graph.layers_by_depth(order, visited, unused)
        slots = {id(tensor): slot for slot, tensor in enumerate(inputs)}
        self.steps, consumers = [], {}
        for node in order:
            if isinstance(node.layer, InputLayer):
                if id(node.outputs[0]) not in slots:
                    raise ValueError(
                        f"The graph is disconnected: the outputs depend on input "
                        f"{node.layer.name!r} {node.layer.batch_shape}, which is not among inputs="
                    )
                continue
            for tensor in node.inputs:
                if id(tensor) not in slots:
                    raise ValueError(
                        f"The graph is disconnected: {node.layer.name} reads {tensor.name} "
                        f"{tensor.shape}, which does not follow from the inputs "
                        f"{[t.name for t in inputs]}; add it to inputs="
                    )
            read = [slots[id(tensor)] for tensor in node.inputs]
            made = [slots.setdefault(id(tensor), len(slots)) for tensor in node.outputs]
            for slot in read:
                consumers.setdefault(slot, []).append(len(self.steps))
            self.steps.append(_Step(node.layer, read, made, node.many, node.training))
        for tensor in outputs:
            if id(tensor) not in slots:
                raise ValueError(f"output {tensor.name} does not follow from the inputs")
        self.input_slots = list(range(len(inputs)))
        self.output_slots = [slots[id(tensor)] for tensor in outputs]
        self.slot_count = len(slots)
        for slot, readers in consumers.items():
            if slot not in self.output_slots:
                self.steps[readers[-1]].finished.append(slot)
        for number, slot in enumerate(self.output_slots):
            if consumers.get(slot) or self.output_slots.count(slot) > 1:
                continue  # somebody else reads it too
            for step in self.steps:
                if slot in step.outputs:
                    step.output_numbers[step.outputs.index(slot)] = number
        for step in self.steps:
            (slot,) = step.inputs if len(step.inputs) == 1 else (None,)
            if step.layer.derives_below and len(consumers.get(slot, ())) == 1:
                makers = [one.layer for one in self.steps if one.outputs == [slot]]
                if makers and slot not in self.output_slots:
                    step.below = makers[0]
        only_reader = {
            slot: readers[0]
            for slot, readers in consumers.items()
            if len(readers) == 1 and slot not in self.output_slots
        }
        for step in self.steps:
            number = only_reader.get(step.outputs[0])
            if number is not None and _ends_in(self.steps[number], step):
                step.sum_above = self.steps[number].layer
            if type(step.layer).takes_over is not Layer.takes_over:
                self._follow(step, only_reader)
                step.above = [self.steps[number].layer for number in step.following]
        self._plans = {}

    def _follow(self, step, only_reader):
        """Collect the steps above of which each is the only reader of the output before it."""
        at = step
        while len(step.following) < MOST_TAKEN:
            if len(at.outputs) != 1 or at.training is not None or at.layer.activity_regularizer:
                return
            number = only_reader.get(at.outputs[0])
            if number is None:
                return
            at = self.steps[number]
            if at.many or at.training is not None or at.layer.activity_regularizer:
                return
            step.following.append(number)

    def taken(self, step, context, logits, x):
        """Numbers of the steps whose work this one does, too."""
        if not step.following or context.watch is not None:  # who watches wants every output
            return []
        layers = step.above
        if logits:  # an activation that the loss leaves out must not be applied below it either
            stays = (not self.steps[number].leaves_out(logits) for number in step.following)
            layers = list(itertools.compress(layers, itertools.takewhile(bool, stays)))
        return step.following[: step.layer.takes_over(layers, context, x)] if layers else []

    def plan(self, needs_dx):
        """Per step: which of its inputs need a gradient, None where the step needs no backward."""
        key = (needs_dx, Layer.trainable_version)
        if key not in self._plans:
            self._plans.clear()
            wanted = [False] * self.slot_count
            for slot in self.input_slots:
                wanted[slot] = needs_dx
            plan = []
            for step in self.steps:
                above = [wanted[slot] for slot in step.inputs]
                needed = any(above) or bool(step.layer.trainable_weights)
                for slot in step.outputs:
                    wanted[slot] = needed
                plan.append(any(above) if needed else None)
            self._plans[key] = plan
        return self._plans[key]


def _ends_in(reader, step):
    """Whether `step` is a path of the two that `reader` joins, with nothing to watch on the way."""
    alone = len(step.outputs) == 1 and step.layer.activity_regularizer is None
    return alone and len(reader.inputs) == 2 and step.training is reader.training is None
