"""Optimisers against Keras: the same gradients for 20 steps, weights after each; schedules."""

import inspect
import re

import jax
import keras
import numpy as np
import pytest
from oracle import as_keras, close, disagreements, numbers

import minicnn
from minicnn import constraints, optimizers
from minicnn.optimizers import schedules
from minicnn.parameter import Parameter

STEPS = 20
SHAPES = [(3, 4), (5,), (2, 2, 3)]
# Twenty updates in float32, some through square roots of small numbers: 1e-5 of the largest weight.
TOLERANCE = 1e-5

CASES = [
    ("SGD", {}),
    ("SGD", dict(learning_rate=0.1, momentum=0.9)),
    ("SGD", dict(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.02)),
    ("RMSprop", {}),
    ("RMSprop", dict(learning_rate=0.01, rho=0.8, momentum=0.5, epsilon=1e-4)),
    ("RMSprop", dict(centered=True, clipvalue=0.7)),
    ("RMSprop", dict(centered=True, momentum=0.9, weight_decay=0.1)),
    ("Adam", {}),
    ("Adam", dict(learning_rate=0.01, beta_1=0.8, beta_2=0.9, epsilon=1e-3)),
    ("Adam", dict(amsgrad=True, clipnorm=1.0)),
    ("Adam", dict(global_clipnorm=0.5, weight_decay=0.05)),
    ("AdamW", {}),
    ("AdamW", dict(learning_rate=0.02, weight_decay=0.1, amsgrad=True)),
    ("Adagrad", {}),
    ("Adagrad", dict(learning_rate=0.1, initial_accumulator_value=0.5, epsilon=1e-3)),
    ("Adadelta", {}),
    ("Adadelta", dict(learning_rate=1.0, rho=0.9, epsilon=1e-4)),
    ("Adamax", {}),
    ("Adamax", dict(learning_rate=0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-3)),
    ("Nadam", {}),
    ("Nadam", dict(learning_rate=0.01, beta_1=0.8, beta_2=0.9, clipnorm=0.5)),
    ("Lion", {}),
    ("Lion", dict(learning_rate=0.01, beta_1=0.8, beta_2=0.9, weight_decay=0.1)),
    ("Muon", {}),
    ("Muon", dict(learning_rate=0.02, momentum=0.8, nesterov=False, weight_decay=0.1)),
    ("Muon", dict(adam_beta_1=0.8, adam_beta_2=0.9, epsilon=1e-3, adam_lr_ratio=0.5)),
    ("Muon", dict(adam_weight_decay=0.2, weight_decay=None, rms_rate=None, ns_steps=3)),
    ("Muon", dict(adam_weight_decay=None, muon_a=3.0, muon_b=-3.2, muon_c=1.2, clipnorm=1.0)),
    ("Muon", dict(exclude_layers=["x", "^w[0]$"], gradient_accumulation_steps=3)),
    ("SGD", dict(use_ema=True, ema_momentum=0.8)),
    ("Adam", dict(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3)),
    ("SGD", dict(momentum=0.9, gradient_accumulation_steps=3)),
    ("Adam", dict(gradient_accumulation_steps=4, clipnorm=1.0, weight_decay=0.1)),
    (
        "SGD",
        dict(use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=2)
        | dict(gradient_accumulation_steps=2),
    ),
]
each_case = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{name}-{options}" for name, options in CASES]
)

SCHEDULES = [
    ("ExponentialDecay", (0.1, 5, 0.5), {}),
    ("ExponentialDecay", (0.1, 5, 0.5), dict(staircase=True)),
    ("InverseTimeDecay", (0.1, 4, 0.5), {}),
    ("InverseTimeDecay", (0.1, 4, 0.5), dict(staircase=True)),
    ("PiecewiseConstantDecay", ([3, 10], [0.1, 0.02, 0.003]), {}),
    ("PolynomialDecay", (0.1, 10), {}),
    ("PolynomialDecay", (0.1, 6), dict(end_learning_rate=0.01, power=2.0, cycle=True)),
    ("CosineDecay", (0.1, 10), {}),
    ("CosineDecay", (0.001, 8), dict(alpha=0.1, warmup_target=0.1, warmup_steps=4)),
    ("CosineDecayRestarts", (0.1, 4), {}),
    ("CosineDecayRestarts", (0.1, 3), dict(t_mul=1.5, m_mul=0.8, alpha=0.05)),
    ("CosineDecayRestarts", (0.1, 3), dict(t_mul=1.0, m_mul=0.5)),
]
each_schedule = pytest.mark.parametrize(
    ("name", "arguments", "options"), SCHEDULES, ids=[f"{n}-{a}-{o}" for n, a, o in SCHEDULES]
)


def gradients(step, shapes=SHAPES):
    """Some large, some tiny, some exactly 0; larger than any of the clipping bounds in sum."""
    values = [numbers(*shape, seed=10 * step + i) for i, shape in enumerate(shapes)]
    values[0][0] *= 1e-3
    values[1][1] = 0
    return values


def our_run(optimizer, constraint=None, shapes=SHAPES):
    """Weights after each step, and the Parameters."""
    parameters = [
        Parameter(numbers(*shape, seed=100 + i), f"w{i}", constraint=constraint)
        for i, shape in enumerate(shapes)
    ]
    optimizer.build(parameters)
    series = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for parameter, gradient in zip(parameters, gradients(step, shapes), strict=True):
            parameter.accumulate(gradient)
        optimizer.step()
        series.append([parameter.numpy() for parameter in parameters])
    return series, parameters


def their_run(optimizer, constraint=None, shapes=SHAPES):
    variables = [
        keras.Variable(numbers(*shape, seed=100 + i), name=f"w{i}")
        for i, shape in enumerate(shapes)
    ]
    for variable in variables:
        variable.constraint = constraint
    optimizer.build(variables)
    apply = jax.jit(optimizer.stateless_apply)
    state, values = [v.value for v in optimizer.variables], [v.value for v in variables]
    series = []
    for step in range(STEPS):
        values, state = apply(state, gradients(step, shapes), values)
        series.append(values)
    for variable, value in zip([*optimizer.variables, *variables], [*state, *values], strict=True):
        variable.assign(value)
    return series, variables


def compare(ours, theirs, tolerance=TOLERANCE):
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            close(one, other, tolerance, f"weight {i} after step {step}")


@each_case
def test_trajectory(name, options):
    ours, theirs = getattr(optimizers, name)(**options), getattr(keras.optimizers, name)(**options)
    our_series, parameters = our_run(ours)
    their_series, variables = their_run(theirs)
    compare(our_series, their_series)

    # The state has Keras's order and names, so that files can hold either's.
    states = zip(ours.state(), theirs.variables, strict=True)
    for (our_name, value), variable in states:
        if our_name != "u_product":  # Nadam's has no name in Keras
            assert our_name == variable.name
        close(value, variable.value, TOLERANCE, our_name)

    ours.finalize()
    theirs.finalize_variable_values(variables)
    compare([[p.value for p in parameters]], [[v.value for v in variables]])


@pytest.mark.parametrize("options", [{}, dict(nesterov=False, ns_steps=7, learning_rate=0.05)])
def test_muon_on_all_kinds_of_parameters(options):
    """Kernel and bias of a convolution, gamma and beta, dense kernels: wide, tall, square, thin."""
    shapes = [(64, 30), (3, 3, 4, 8), (8,), (8,), (8,), (30, 64), (17, 17), (1, 9), (40, 1)]
    series = [
        run(library.Muon(**options), shapes=shapes)[0]
        for library, run in ((optimizers, our_run), (keras.optimizers, their_run))
    ]
    compare(*series)


@pytest.mark.parametrize("layer", ["hidden", "head", "Embedding"])
def test_muon_chooses_the_parameters_that_keras_chooses(layer):
    """By the name of a layer of a model, trained on one batch here and there."""
    states, weights = [], []
    for library in (minicnn, keras):
        model = library.Sequential(
            [
                library.layers.Input((6, 6, 2)),
                library.layers.Conv2D(4, 3, activation="relu"),
                library.layers.BatchNormalization(),
                library.layers.Flatten(),
                library.layers.Dense(8, activation="relu", name="hidden"),
                library.layers.Dense(8, activation="relu", name="Embedding"),
                library.layers.Dense(3, name="head"),
            ]
        )
        model.set_weights([0.3 * abs(numbers(*w.shape, seed=3)) for w in model.weights])
        model.compile(library.optimizers.Muon(0.01, exclude_layers=[layer]), "mse")
        for step in range(4):
            x, y = numbers(32, 6, 6, 2, seed=step), numbers(32, 3, seed=50 + step)
            model.train_on_batch(x, y)
        optimizer = model.optimizer
        if library is minicnn:
            states.append([array for _, array in optimizer.state()])
        else:
            states.append([variable.value for variable in optimizer.variables])
        weights.append(model.get_weights())
    kinds = [[np.shape(array) for array in state] for state in states]
    assert kinds[0] == kinds[1]  # of a matrix there is one slot, of all others two
    matrices = {"hidden", "head"} - {layer}
    assert len(kinds[0]) == 2 + 2 * 10 - len(matrices)
    for one, other in zip(*weights, strict=True):
        close(one, other, 1e-4)


def test_constraints_follow_the_update():
    options = dict(learning_rate=0.5, momentum=0.9)
    ours, _ = our_run(optimizers.SGD(**options), constraints.NonNeg())
    theirs, _ = their_run(keras.optimizers.SGD(**options), keras.constraints.NonNeg())
    compare(ours, theirs)


def test_exclusion_from_weight_decay():
    series = []
    for library, run in ((optimizers, our_run), (keras.optimizers, their_run)):
        optimizer = library.SGD(weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["w1"])
        series.append(run(optimizer)[0])
    compare(*series)


@each_schedule
def test_schedule(name, arguments, options):
    ours = getattr(schedules, name)(*arguments, **options)
    theirs = getattr(keras.optimizers.schedules, name)(*arguments, **options)
    expected = jax.jit(jax.vmap(theirs))(np.arange(30, dtype=np.float32))
    close([ours(step) for step in range(30)], expected)


@pytest.mark.parametrize("options", [{}, dict(gradient_accumulation_steps=3)])
def test_optimizer_follows_a_schedule(options):
    rates = [module.PolynomialDecay(0.1, 10) for module in (schedules, keras.optimizers.schedules)]
    ours, _ = our_run(optimizers.SGD(rates[0], momentum=0.9, **options))
    theirs, _ = their_run(keras.optimizers.SGD(rates[1], momentum=0.9, **options))
    compare(ours, theirs)


@each_case
def test_config_is_read_by_keras(name, options):
    config = getattr(optimizers, name)(**options).get_config()
    theirs = getattr(keras.optimizers, name).from_config(as_keras(config))
    assert not disagreements(config, theirs.get_config())


@each_schedule
def test_schedule_config_is_read_by_keras(name, arguments, options):
    optimizer = optimizers.Adam(getattr(schedules, name)(*arguments, **options))
    config = optimizer.get_config()
    theirs = keras.optimizers.Adam.from_config(as_keras(config))
    assert not disagreements(config, theirs.get_config())


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_names(name):
    theirs = keras.optimizers.get(name.lower())
    ours = optimizers.get(name.lower())
    assert type(ours).__name__ == type(theirs).__name__ == name
    assert ours.name == re.sub(r"_\d+$", "", theirs.name)  # Keras numbers them
    close(ours.learning_rate, float(theirs.learning_rate))


def test_every_optimizer_and_schedule_is_compared():
    def classes(module):
        found = {n for n in module.__all__ if inspect.isclass(getattr(module, n))}
        return found - {"Optimizer", "LearningRateSchedule"}

    assert classes(optimizers) == {name for name, _ in CASES}
    ours_alone = {"PiecewiseLinear"}  # a warm-up and a fall, in one; tests/test_schedules.py
    assert classes(schedules) - ours_alone == {name for name, _, _ in SCHEDULES}
