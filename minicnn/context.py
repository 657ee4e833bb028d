"""What a layer is told about the call it is in."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minicnn import randomness
from minicnn.ops import recording


@dataclass(slots=True)
class Context:
    """One call of one node.

    training      behave as in training (drop, use batch statistics, update moving ones)
    keep          backward will follow: `saved` is needed
    logits        numbers of the outputs that leave out their last activation, because the loss
                  works on logits
    seed, step    of the training run; with `node` and `first_sample` they fix all randomness
    node          number of the node in its graph (a layer used twice drops differently)
    first_sample  index of the first sample of this batch within the step
    penalties     values that activity regularisers add to the loss
    watch         called with (layer, output) after every layer
    below         the activation that the layer below ended with, if nobody else reads its output:
                  backward may then return a GradientOfSum (activations.py)
    frozen_state  moving statistics are not written (gradient checks)
    joins         a sum is the only reader of the output, and finishes a `Normalized` in its pass
    taken         the layers above whose work this one does as well (`Layer.takes_over`)
    prepared      what `takes_over` found out and `forward` needs
    """

    training: bool = False
    keep: bool = False
    logits: frozenset = frozenset()
    seed: int = 0
    step: int = 0
    node: int = 0
    first_sample: int = 0
    penalties: list | None = None
    watch: Callable | None = None
    frozen_state: bool = False
    below: tuple | None = None
    joins: bool = False
    taken: tuple = ()
    prepared: object = None

    def at(self, node, training=None, logits=frozenset(), below=None, joins=False):
        """The same call at a node of a graph, perhaps with a mode of its own."""
        return Context(  # dataclasses.replace takes eight times as long, once per layer and step
            training=self.training if training is None else training,
            keep=self.keep,
            logits=logits,
            seed=self.seed,
            step=self.step,
            node=self.node * 65599 + node + 1,
            first_sample=self.first_sample,
            penalties=self.penalties,
            watch=self.watch,
            frozen_state=self.frozen_state,
            below=below,
            joins=joins,
        )

    def key(self, seed):
        """64 bits for counter-based random numbers in this node at this step."""
        return self.key_of(self.node, seed)

    def key_of(self, node, seed):
        """The same in another node."""
        return randomness.mix(self.seed, self.step, node, seed)

    def key_to_note(self, seed):
        """`key` in an array (), for a walk that may be recorded: the next step has another."""
        key = np.array(self.key(seed), np.uint64)
        recording.note_key(key, self.node, seed)
        return key
