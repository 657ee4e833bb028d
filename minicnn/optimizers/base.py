"""Optimizer: what happens in a step besides the rule itself. The rules are the files beside this.

step:  accumulate, clip the gradients, decay the weights, **update**, average, constrain
"""

import math

import numpy as np

from minicnn import configurable, ops, schedules
from minicnn.configurable import Configurable, Table, closest, constructor_arguments, snake_case
from minicnn.optimizers.buffers import pack

table = Table("optimizers", "optimizer")


class Optimizer(Configurable):
    """Base: a subclass defines update(value, g, slots, rate), in place on flat 1-D arrays.

    `slot_groups()` names the arrays that it remembers for each parameter: they come in `slots` by
    name. weight_decay w: value -= learning_rate w value before the update (decoupled, Loshchilov
    and Hutter 2019). use_ema: averages of the weights, put in their place every
    ema_overwrite_frequency steps and at the end of `fit`. clipnorm bounds the norm of each
    parameter's gradient, global_clipnorm that of all together, clipvalue each number.
    """

    table = table

    def __init__(
        self,
        learning_rate,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        **unknown,
    ):
        if unknown:
            self._refuse(next(iter(unknown)))
        self._rate = None
        self.learning_rate = learning_rate
        self.weight_decay = self.number("weight_decay", weight_decay, optional=True)
        self.clipnorm = self.number("clipnorm", clipnorm, positive=True, optional=True)
        self.clipvalue = self.number("clipvalue", clipvalue, positive=True, optional=True)
        self.global_clipnorm = self.number(
            "global_clipnorm", global_clipnorm, positive=True, optional=True
        )
        if sum(c is not None for c in (clipnorm, clipvalue, global_clipnorm)) > 1:
            self.fail("takes one of clipnorm, clipvalue and global_clipnorm, not several")
        self.use_ema = bool(use_ema)
        self.ema_momentum = self.number("ema_momentum", ema_momentum, most=1)
        self.ema_overwrite_frequency = self._count_argument(
            "ema_overwrite_frequency", ema_overwrite_frequency, 1
        )
        if loss_scale_factor is not None:
            self.fail("takes no loss_scale_factor: it is for float16, there is none here")
        self.loss_scale_factor = None
        self.gradient_accumulation_steps = self._count_argument(
            "gradient_accumulation_steps", gradient_accumulation_steps, 2
        )
        self.name = name or snake_case(type(self).__name__)
        self.iterations = 0  # calls of `step`
        self.parameters = []  # all that were ever trained, in the order of the state
        self.slots = {}  # buffer -> name -> flat array beside the buffer's values
        self.trained, self._undecayed, self._scales = {}, (frozenset(), ()), ()
        self._runs, self._run_kinds, self._trainable = [], [], None

    # -- what a rule defines ----------------------------------------------------------------------

    def slot_groups(self):
        """Names of arrays per parameter, in groups: ("m", "v") is stored m, v of each in turn."""
        return []

    def initial_slot_value(self, name):
        """What a slot is filled with at first."""
        return 0.0

    def prepare(self, count):
        """Called once before the updates of a step; `count` updates were made before."""

    def update(self, value, g, slots, rate):
        raise TypeError(f"{type(self).__name__} defines no update(value, g, slots, rate)")

    def is_matrix(self, parameter):
        """Whether `update_matrix` changes this parameter, by itself, and not `update`."""
        return False

    def update_matrix(self, value, g, slots, rate):
        """`update` for one parameter where `is_matrix` says so; the arrays have its shape."""
        raise TypeError(f"{type(self).__name__} defines no update_matrix(value, g, slots, rate)")

    def has_slot(self, name, parameter):
        """Whether a slot of this parameter is in use, and so a part of the state."""
        return True

    def decay_rate(self, is_matrix):
        """The weight decay of parameters that are `is_matrix`, or not; 0 or None for none."""
        return self.weight_decay

    def extra_state(self):
        """Names of attributes that are numbers and part of the state, besides the slots."""
        return []

    # -- learning rate ----------------------------------------------------------------------------

    @property
    def learning_rate(self):
        """The rate of the next step; settable, unless it follows a schedule."""
        if isinstance(self._rate, schedules.LearningRateSchedule):
            return self._rate(self.iterations)
        return self._rate

    @learning_rate.setter
    def learning_rate(self, rate):
        if isinstance(rate, dict):
            rate = schedules.deserialize(rate)
        if not isinstance(rate, schedules.LearningRateSchedule):
            if isinstance(self._rate, schedules.LearningRateSchedule):
                raise TypeError(
                    f"the learning rate follows {type(self._rate).__name__} and cannot be set: "
                    "construct the optimizer with a number, or assign another schedule"
                )
            if np.ndim(rate) == 0 and isinstance(rate, np.ndarray):
                rate = rate.item()
            rate = self.number("learning_rate", rate)
        self._rate = rate

    @property
    def lr(self):
        """Its name in Keras 2; assigning to it would otherwise have no effect."""
        raise AttributeError("optimizer.lr is called optimizer.learning_rate")

    @lr.setter
    def lr(self, value):
        raise AttributeError("optimizer.lr is called optimizer.learning_rate")

    # -- the step ---------------------------------------------------------------------------------

    def build(self, parameters):
        """Train these parameters from now on: pack them into flat buffers and make their slots.

        Called again with other parameters, those that were known keep their place and slots; with
        the same ones, as `train_on_batch` does, nothing changes.
        """
        parameters = list(dict.fromkeys(parameters))
        known = set(self.parameters)
        self.parameters += [p for p in parameters if p not in known]
        buffers, has_moved = pack(self.parameters)
        if not has_moved and parameters == list(self.trained) and self._trainable is not None:
            return
        for buffer in buffers:
            slots = self.slots.setdefault(buffer, {})
            for name in (name for group in self._all_groups() for name in group):
                if name not in slots:
                    slots[name] = ops.arena.empty(buffer.values.shape, buffer.values.dtype)
                    slots[name].fill(self.initial_slot_value(name))
        self.trained = dict.fromkeys(parameters)
        self._find_runs()

    def zero_grad(self):
        """Set the gradients of all trained parameters to zero."""
        self._refuse_before_build()
        for parameter in self.trained:
            if parameter.trainable:
                parameter.zero_grad()

    def step(self):
        """One update from the gradients; then `iterations` is one more."""
        runs = self._current_runs()
        for parameter in self.trained:
            _ = parameter.grad  # zeros where nobody added anything
        if self._gradients_are_complete(runs):
            rate = self.learning_rate
            self._clip(runs)
            self._decay(runs, rate)
            self.prepare(self._updates())
            for run, (scale, matrix) in zip(runs, self._run_kinds, strict=True):
                self._update(run, matrix, rate * scale)
        if self.use_ema:
            self._average(runs)
        for parameter in self.trained:
            if parameter.trainable and parameter.constraint is not None:
                parameter.assign(parameter.constraint(parameter.value))
        self.iterations += 1

    def finalize(self):
        """At the end of training: put the averages of `use_ema` in place of the weights."""
        if self.use_ema and self.iterations:
            for _, values, _, slots in self._current_runs():
                values[...] = slots["average"]

    def finalize_variable_values(self, var_list=None):
        """`finalize`, under Keras's name."""
        self.finalize()

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Do not decay these parameters, nor those whose name contains one of `var_names`."""
        self._undecayed = (frozenset(var_list or ()), tuple(var_names or ()))

    def scale_learning_rate(self, factor, var_list=None, var_names=None):
        """Train these parameters, or those whose name contains one of `var_names`, at `factor`
        times the learning rate. Their weight decay stays that of all others. Ours, not Keras's.
        """
        factor = self.number("factor", factor)
        self._scales += ((factor, frozenset(var_list or ()), tuple(var_names or ())),)
        if self._trainable is not None:
            self._find_runs()

    def _scale(self, parameter):
        """The factor of the last `scale_learning_rate` that means this parameter."""
        for factor, chosen, names in reversed(self._scales):
            if parameter in chosen or any(name in parameter.name for name in names):
                return factor
        return 1.0

    def _update(self, run, matrix, rate):
        _, values, grads, slots = run
        if matrix is None:
            self.update(values, grads, slots, rate)
        else:
            shape = matrix.shape
            slots = {name: slot.reshape(shape) for name, slot in slots.items()}
            self.update_matrix(values.reshape(shape), grads.reshape(shape), slots, rate)

    def _updates(self):
        """Number of updates so far."""
        return self.iterations // (self.gradient_accumulation_steps or 1)

    def _find_runs(self):
        self._trainable = [p.trainable for p in self.trained]
        by_kind = {}
        for parameter in self.trained:
            if parameter.trainable:
                matrix = parameter if self.is_matrix(parameter) else None
                by_kind.setdefault((self._scale(parameter), matrix), set()).add(parameter)
        self._runs, self._run_kinds = [], []
        for kind, trained in by_kind.items():
            for buffer, slots in self.slots.items():
                for run in buffer.runs(trained):
                    own = {name: slot[run] for name, slot in slots.items()}
                    self._runs.append((run, buffer.values[run], buffer.grads[run], own))
                    self._run_kinds.append(kind)

    def _current_runs(self):
        """Contiguous pieces to update: (slice, values, gradients, slots)."""
        self._refuse_before_build()
        if [p.trainable for p in self.trained] != self._trainable:
            self._find_runs()  # a layer was frozen or thawed
        return self._runs

    def _refuse_before_build(self):
        if self._trainable is None:
            self.fail("has no parameters: call build(parameters) first")

    def _gradients_are_complete(self, runs):
        """False while gradients are only being collected; else they become their mean."""
        steps = self.gradient_accumulation_steps
        if steps is None:
            return True
        complete = (self.iterations + 1) % steps == 0
        for _, _, grads, slots in runs:
            slots["gradient_accumulator"] += grads
            if complete:
                np.divide(slots["gradient_accumulator"], steps, out=grads)
                slots["gradient_accumulator"].fill(0)
        return complete

    def _clip(self, runs):
        if self.clipvalue is not None:
            for _, _, grads, _ in runs:
                np.clip(grads, -self.clipvalue, self.clipvalue, out=grads)
        elif self.global_clipnorm is not None:
            norm = math.sqrt(sum(ops.sum_of_squares(grads) for _, _, grads, _ in runs))
            for _, _, grads, _ in runs:
                _shorten(grads, norm, self.global_clipnorm)
        elif self.clipnorm is not None:
            for parameter in self.trained:
                if parameter.trainable:
                    grads = parameter.owner.grads[parameter.owner.places[parameter]]
                    _shorten(grads, math.sqrt(ops.sum_of_squares(grads)), self.clipnorm)

    def _decay(self, runs, rate):
        factors = [1 - rate * (self.decay_rate(is_matrix) or 0) for is_matrix in (False, True)]
        if factors == [1, 1]:
            return
        excluded, names = self._undecayed
        if not excluded and not names:
            for (_, values, _, _), (_, matrix) in zip(runs, self._run_kinds, strict=True):
                values *= factors[matrix is not None]
            return
        for p in self.trained:
            if p.trainable and p not in excluded and not any(name in p.name for name in names):
                p.value *= factors[self.is_matrix(p)]

    def _average(self, runs):
        count = self._updates()
        momentum = self.ema_momentum if count else 0.0  # the first average is the first value
        frequency = self.ema_overwrite_frequency
        for _, values, _, slots in runs:
            ops.average_update(slots["average"], values, momentum)
            if frequency and (count + 1) % frequency == 0:
                values[...] = slots["average"]

    # -- state and config -------------------------------------------------------------------------

    def _all_groups(self):
        groups = [("average",)] if self.use_ema else []
        groups += [("gradient_accumulator",)] if self.gradient_accumulation_steps else []
        return groups + list(self.slot_groups())

    def _slot_views(self):
        """(name, view of a slot) for each parameter, in the order in which Keras keeps them."""
        return [
            (
                f"{p.name.replace('/', '_')}_{name}",
                self.slots[p.owner][name][p.owner.places[p]].reshape(p.shape),
            )
            for group in self._all_groups()
            for p in self.parameters
            for name in group
            if self.has_slot(name, p)
        ]

    def state(self):
        """All that a later run needs to go on, as (name, array) in Keras's order."""
        entries = [("iteration", np.array(self.iterations, np.int64))]
        if not isinstance(self._rate, schedules.LearningRateSchedule):
            entries.append(("learning_rate", np.array(self._rate, np.float64)))
        entries += [(name, view.copy()) for name, view in self._slot_views()]
        return entries + [(name, np.array(getattr(self, name))) for name in self.extra_state()]

    def load_state(self, arrays):
        """Take over what `state` gave (its arrays, in its order); all of it or nothing."""
        arrays, expected = [np.asarray(array) for array in arrays], self.state()
        if len(arrays) != len(expected):
            self.fail(
                f"has {len(expected)} state arrays, not {len(arrays)}: build it on the same "
                "parameters first, with the same arguments"
            )
        for (name, own), array in zip(expected, arrays, strict=True):
            if own.shape != array.shape:
                self.fail(f"state {name!r} has shape {own.shape}, not {array.shape}")
        rest = iter(arrays)
        self.iterations = int(next(rest))
        if not isinstance(self._rate, schedules.LearningRateSchedule):
            self.learning_rate = float(next(rest))
        for _, view in self._slot_views():
            view[...] = next(rest)
        for name in self.extra_state():
            setattr(self, name, float(next(rest)))

    def get_config(self):
        config = super().get_config()
        config["learning_rate"] = configurable.serialize(self._rate)
        return config

    # -- arguments --------------------------------------------------------------------------------

    def number(self, name, value, positive=False, most=math.inf, optional=False, signed=False):
        """A finite number >= 0 (> 0 if positive, any if signed) and <= most, or None where that is
        allowed.
        """
        if value is None and optional:
            return None
        is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if is_number and math.isfinite(value) and value <= most:
            value = float(value)
            if value > 0 or signed or (value == 0 and not positive):
                return value
        low = "" if signed else " > 0" if positive else " >= 0"
        high = "" if most == math.inf else f" and <= {most}"
        self.fail(f"takes a finite number{low}{high} as {name}, not {value!r}")

    def _count_argument(self, name, value, least):
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            self.fail(f"takes None or an integer >= {least} as {name}, not {value!r}")
        return int(value)

    def _refuse(self, name):
        known = constructor_arguments(type(self))
        fixes = {
            "lr": " It is called learning_rate.",
            "decay": " Give learning_rate=minicnn.optimizers.schedules.InverseTimeDecay(rate, 1, "
            "decay).",
        }
        self.fail(f"takes no argument {name!r}.{fixes.get(name) or closest(name, known)}")

    def fail(self, message):
        """ValueError that names this optimizer."""
        raise ValueError(f"{type(self).__name__} {message}")


def _shorten(g, norm, longest):
    """Scale g in place so that a vector of this norm gets at most the norm `longest`.

    A norm that is not finite makes g NaN: nothing sensible is left of such a gradient.
    """
    if not norm <= longest:
        g *= longest / norm if math.isfinite(norm) else math.nan


def get(identifier):
    """None, a name, a config, a class or an object -> None or an Optimizer."""
    return identifier if isinstance(identifier, Optimizer) else table.get(identifier)


serialize, deserialize = configurable.serialize, table.build
