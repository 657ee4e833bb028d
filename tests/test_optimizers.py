"""Optimisers: the papers' formulas written again, numbers of Keras, and what surrounds a rule."""

import copy
import math

import numpy as np
import pytest

from minicnn import config, constraints, ops, optimizers, schedules
from minicnn.ops.fast import updates as fast
from minicnn.ops.reference import updates as reference
from minicnn.optimizers import muon
from minicnn.parameter import Parameter

# -- rules, from the papers, one array at a time ---------------------------------------------------


class Paper:
    """A rule as a generator of weights: send it a gradient, it returns the new weights."""

    @staticmethod
    def sgd(w, rate, momentum=0.0, nesterov=False):
        v = np.zeros_like(w)
        while True:
            g = yield w
            v = momentum * v - rate * g
            w = w + (momentum * v - rate * g if nesterov else v)

    @staticmethod
    def rmsprop(w, rate, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False):
        n, mean, delta = (np.zeros_like(w) for _ in range(3))
        while True:
            g = yield w
            n = rho * n + (1 - rho) * g**2
            mean = rho * mean + (1 - rho) * g
            variance = n - mean**2 if centered else n
            delta = momentum * delta - rate * g / np.sqrt(variance + epsilon)
            w = w + delta

    @staticmethod
    def adam(w, rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False):
        m, v, largest = (np.zeros_like(w) for _ in range(3))
        t = 0
        while True:
            g = yield w
            t += 1
            m = beta_1 * m + (1 - beta_1) * g
            v = beta_2 * v + (1 - beta_2) * g**2
            largest = np.maximum(largest, v)
            step = rate * math.sqrt(1 - beta_2**t) / (1 - beta_1**t)
            w = w - step * m / (np.sqrt(largest if amsgrad else v) + epsilon)

    @staticmethod
    def adamax(w, rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
        m, u = np.zeros_like(w), np.zeros_like(w)
        t = 0
        while True:
            g = yield w
            t += 1
            m = beta_1 * m + (1 - beta_1) * g
            u = np.maximum(beta_2 * u, np.abs(g))
            w = w - rate / (1 - beta_1**t) * m / (u + epsilon)

    @staticmethod
    def nadam(w, rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
        m, v = np.zeros_like(w), np.zeros_like(w)
        mu = [beta_1 * (1 - 0.5 * 0.96 ** (0.004 * 250 * t)) for t in range(1, 100)]
        t = 0
        while True:
            g = yield w
            t += 1
            m = beta_1 * m + (1 - beta_1) * g
            v = beta_2 * v + (1 - beta_2) * g**2
            ahead = mu[t] * m / (1 - math.prod(mu[: t + 1]))
            now = (1 - mu[t - 1]) * g / (1 - math.prod(mu[:t]))
            w = w - rate * (ahead + now) / (np.sqrt(v / (1 - beta_2**t)) + epsilon)

    @staticmethod
    def adagrad(w, rate, initial_accumulator_value=0.1, epsilon=1e-7):
        total = np.full_like(w, initial_accumulator_value)
        while True:
            g = yield w
            total = total + g**2
            w = w - rate * g / np.sqrt(total + epsilon)

    @staticmethod
    def adadelta(w, rate, rho=0.95, epsilon=1e-7):
        gradients, changes = np.zeros_like(w), np.zeros_like(w)
        while True:
            g = yield w
            gradients = rho * gradients + (1 - rho) * g**2
            change = -np.sqrt(changes + epsilon) / np.sqrt(gradients + epsilon) * g
            changes = rho * changes + (1 - rho) * change**2
            w = w + rate * change

    @staticmethod
    def lion(w, rate, beta_1=0.9, beta_2=0.99):
        m = np.zeros_like(w)
        while True:
            g = yield w
            w = w - rate * np.sign(beta_1 * m + (1 - beta_1) * g)
            m = beta_2 * m + (1 - beta_2) * g

    @staticmethod
    def muon(w, rate, momentum=0.95, nesterov=True, ns_steps=5, rms_rate=0.2, epsilon=1e-7):
        decay = 0.004  # both decays' default
        m, v, t = np.zeros_like(w), np.zeros_like(w), 0
        while w.ndim != 2:
            g = yield w
            t += 1
            w = (1 - rate * decay) * w
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g**2
            w = w - rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + epsilon)
        while True:
            g = yield w
            m = momentum * m + g
            u, s, v = np.linalg.svd(g + momentum * m if nesterov else m, full_matrices=False)
            s = s / np.linalg.norm(s)
            for _ in range(ns_steps):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            scale = 1 if rms_rate is None else rms_rate * math.sqrt(max(w.shape))
            w = (1 - rate * decay) * w - rate * scale * (u * s) @ v


RULES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.8, "nesterov": True}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.7, "rho": 0.95}),
    ("RMSprop", {"centered": True, "epsilon": 1e-3}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "epsilon": 1e-2}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "beta_1": 0.5, "beta_2": 0.6}),
    ("Adamax", {"beta_2": 0.6}),
    ("Nadam", {}),
    ("Adagrad", {"initial_accumulator_value": 0.3}),
    ("Adadelta", {"rho": 0.9}),
    ("Lion", {}),
    ("Muon", {}),
    ("Muon", {"momentum": 0.8, "nesterov": False, "ns_steps": 3, "rms_rate": None}),
]
SHAPES = [(3, 3, 2, 4), (4,), (5, 7), (1,)]


def parameters(dtype=np.float64, shapes=SHAPES, **more):
    random = np.random.default_rng(4)
    return [Parameter(random.normal(size=s).astype(dtype), f"p{i}", **more)
            for i, s in enumerate(shapes)]  # fmt: skip


def gradients(step, shapes=SHAPES):
    random = np.random.default_rng(100 + step)
    return [random.normal(size=shape) for shape in shapes]


def take_steps(optimizer, params, steps, first=0):
    for step in range(first, first + steps):
        optimizer.zero_grad()
        for parameter, g in zip(params, gradients(step, [p.shape for p in params]), strict=True):
            parameter.accumulate(g)
        optimizer.step()


@pytest.mark.parametrize("op_set", ["reference", "fast"])
@pytest.mark.parametrize(("name", "options"), RULES)
def test_rules_of_the_papers(name, options, op_set):
    with config.using(ops=op_set):
        optimizer = getattr(optimizers, name)(learning_rate=0.03, **options)
        params = parameters()
        papers = [getattr(Paper, name.lower())(p.numpy(), 0.03, **options) for p in params]
        for paper in papers:
            next(paper)
        optimizer.build(params)
        for step in range(6):
            take_steps(optimizer, params, 1, step)
            for parameter, paper, g in zip(params, papers, gradients(step), strict=True):
                expected = paper.send(g)
                tolerance = {"rtol": 1e-10, "atol": 1e-12}
                if name == "Muon":  # |x| + 1e-7 against |x|
                    tolerance = {"rtol": 1e-7, "atol": 1e-8}
                np.testing.assert_allclose(parameter.value, expected, **tolerance)
        assert optimizer.iterations == 6


# Five steps at rate 0.1 with gradient w / 2 + sin(t + i), i the index: from Keras 3.15 in float64.
KERAS = [
    ("SGD", {}, [0.681845075, -1.53900852, 2.42252147, 0.487671238, 0.101509372]),
    ("SGD", {"momentum": 0.9},
     [-0.0152193249, -1.18317991, 1.30685467, 0.617297294, -0.328086278]),
    ("SGD", {"momentum": 0.9, "nesterov": True},
     [-0.108154467, -0.852104836, 1.1339527, 0.579319755, -0.345111195]),
    ("RMSprop", {}, [0.263883419, -0.997689316, 2.30316083, 0.433265967, -0.314781779]),
    ("RMSprop", {"momentum": 0.8, "centered": True, "epsilon": 0.01},
     [-1.1561952, 0.0664462395, 1.16604058, 0.747178818, -1.23993718]),
    ("Adam", {}, [0.555889131, -1.57529243, 2.55700166, 0.526456747, -0.131472823]),
    ("AdamW", {}, [0.554312851, -1.57181213, 2.55150221, 0.525587515, -0.131597929]),
    ("Adagrad", {}, [0.749830526, -1.68706044, 2.7737164, 0.49718987, 0.0844204623]),
    ("Adadelta", {}, [0.999416148, -1.99896862, 2.99954834, 0.500000275, 0.249532957]),
    ("Adamax", {}, [0.635745749, -1.69591394, 2.65878718, 0.496868144, -0.0605974297]),
    ("Nadam", {}, [0.679328089, -1.55468849, 2.71071141, 0.486451732, -0.0166581428]),
    ("Lion", {}, [0.7, -1.5, 2.5, 0.6, -0.05]),
    ("Muon", {}, [0.958134246, -1.92139006, 2.88931394, 0.476787374, -0.131597929]),
    ("Muon", {"nesterov": False, "rms_rate": None},
     [0.891045005, -1.60196649, 2.65190744, 0.334779952, -0.131597929]),
    ("SGD", {"weight_decay": 0.1},
     [0.646082237, -1.4544681, 2.30394906, 0.464089831, 0.0956542201]),
    ("SGD", {"clipnorm": 0.5}, [0.913139989, -1.88738615, 2.85943327, 0.504178482, 0.166512999]),
    ("SGD", {"clipvalue": 0.5}, [0.83568025, -1.82586949, 2.75339243, 0.510785149, 0.166512999]),
    ("SGD", {"global_clipnorm": 0.5},
     [0.919908337, -1.89197517, 2.86571632, 0.501695828, 0.210213835]),
    ("SGD", {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
     [0.7948688, -1.64367524, 2.51838161, 0.448115819, 0.175337804]),
    ("Adam", {"gradient_accumulation_steps": 2},
     [0.79989211, -1.81934849, 2.81479702, 0.685158473, 0.0498662309]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "expected"), KERAS)
def test_trajectories_of_keras(name, options, expected):
    optimizer = getattr(optimizers, name)(learning_rate=0.1, **options)
    params = [Parameter(np.array([[1.0, -2.0], [3.0, 0.5]]), "w"), Parameter(np.array([0.25]), "b")]
    optimizer.build(params)
    for t in range(5):
        optimizer.zero_grad()
        for p in params:
            p.accumulate(p.value / 2 + np.sin(t + np.arange(p.size).reshape(p.shape)))
        optimizer.step()
    values = np.concatenate([p.value.ravel() for p in params])
    np.testing.assert_allclose(values, expected, rtol=2e-7)


def test_every_optimizer_is_compared_with_keras():
    assert {name for name, _, _ in KERAS} == set(optimizers.table.classes)


# -- ops -------------------------------------------------------------------------------------------

SIZE = 3 * fast.BLOCK + 1001  # several blocks, the last one partial and no multiple of a vector
UPDATES = [
    ("sgd_update", [], (0.1,)),
    ("momentum_update", [1], (0.1, 0.9, False)),
    ("momentum_update", [1], (0.1, 0.9, True)),
    ("rmsprop_update", [1, 0, 0], (0.1, 0.9, 0.5, 1e-7)),
    ("rmsprop_update", [1, 1, 0], (0.1, 0.9, 0.5, 1e-7)),
    ("rmsprop_update", [1, 1, 1], (0.1, 0.9, 0.5, 1e-3)),
    ("adam_update", [1, 1, 0], (0.1, 0.9, 0.999, 1e-7)),
    ("adam_update", [1, 1, 1], (0.1, 0.9, 0.999, 1e-7)),
    ("adamax_update", [1, 1], (0.1, 0.9, 0.999, 1e-7)),
    ("nadam_update", [1, 1], (0.1, 0.9, 0.999, 1e-7, 0.3, 0.4, 1.7)),
    ("adagrad_update", [1], (0.1, 1e-7)),
    ("adadelta_update", [1, 1], (0.1, 0.9, 1e-7)),
    ("lion_update", [1], (0.1, 0.9, 0.99)),
]


def update_arguments(slots, dtype, size=SIZE):
    random = np.random.default_rng(9)
    value, g = random.normal(size=size), random.normal(size=size)
    g[:5] = 0
    # The first slot is a sum of squares where there is a variance: larger than a mean squared.
    held = [1 + random.random(size), random.random(size) / 2, random.random(size) / 2]
    chosen = [slot if there else None for slot, there in zip(held, slots, strict=False)]
    return [None if a is None else a.astype(dtype) for a in (value, g, *chosen)]


def run(update, arguments, numbers):
    arguments = [None if a is None else a.copy() for a in arguments]
    update(*arguments, *numbers)
    return [a for a in arguments if a is not None]


@pytest.mark.parametrize(("name", "slots", "numbers"), UPDATES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fast_updates_equal_reference_updates(name, slots, numbers, dtype):
    arguments = update_arguments(slots, dtype)
    expected = run(getattr(reference, name), arguments, numbers)
    got = run(getattr(fast, name), arguments, numbers)
    tolerance = 4 * np.finfo(dtype).eps
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(got[1], arguments[1])  # the gradient is only read
    assert np.mean(got[0] != arguments[0]) > 0.99
    with config.using(threads=1):
        for one, other in zip(run(getattr(fast, name), arguments, numbers), got, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "slots", "numbers"), UPDATES)
@pytest.mark.parametrize("room", [fast, reference])
def test_a_nan_gradient_reaches_the_weight_and_no_other(name, slots, numbers, room):
    arguments = update_arguments(slots, np.float32)
    arguments[1][[7, fast.BLOCK + 3]] = np.nan
    value = run(getattr(room, name), arguments, numbers)[0]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(value)), [7, fast.BLOCK + 3])


def test_updates_have_the_same_names_in_both_sets_and_in_ops():
    assert sorted(fast.__all__) == sorted(reference.__all__) == sorted(ops.NAMES["updates"])
    tested = {name for name, _, _ in UPDATES} | {"average_update", "sum_of_squares"}
    assert tested == set(fast.__all__)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 3, 5, SIZE])
def test_average_and_sum_of_squares(dtype, size):
    average, value = update_arguments([], dtype, max(size, 5))[:2]
    average, value = average[:size].copy(), value[:size].copy()
    expected = 0.9 * average + dtype(0.1) * value
    fast.average_update(average, value, 0.9)
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(average, expected, rtol=tolerance, atol=tolerance)
    exact = math.fsum(float(x) ** 2 for x in value)
    assert fast.sum_of_squares(value) == pytest.approx(exact, rel=1e-14)
    assert reference.sum_of_squares(value) == pytest.approx(exact, rel=1e-14)


def test_fast_updates_check_their_arrays():
    a = np.zeros(8, np.float32)
    for wrong in (np.zeros(7, np.float32), np.zeros(8), np.zeros((2, 4), np.float32), a[::2]):
        with pytest.raises(ValueError, match="contiguous 1-D float arrays"):
            fast.sgd_update(a, wrong, 0.1)
    with pytest.raises(ValueError, match="float arrays"):
        fast.sum_of_squares(np.zeros(3, np.int64))


# -- buffers ---------------------------------------------------------------------------------------


def test_parameters_are_packed_into_aligned_flat_memory():
    params = parameters(np.float32)
    before = [p.numpy() for p in params]
    optimizer = optimizers.Adam()
    optimizer.build(params)
    (buffer,) = optimizer.slots
    for parameter, value in zip(params, before, strict=True):
        np.testing.assert_array_equal(parameter.value, value)
        assert np.shares_memory(parameter.value, buffer.values)
        assert np.shares_memory(parameter.grad, buffer.grads)
        assert not parameter.grad.any()
        assert (parameter.value.ctypes.data - buffer.values.ctypes.data) % 64 == 0
    whole = slice(0, buffer.places[params[-1]].stop)
    assert [run for run, *_ in optimizer._current_runs()] == [whole]


def test_the_first_gradient_after_zero_grad_takes_the_place_of_the_old_one():
    first, second, frozen = params = parameters(np.float32)[:3]
    optimizer = optimizers.SGD(1.0)
    optimizer.build(params)
    before = [p.numpy() for p in params]
    for p in params:
        p.grad[...] = np.nan  # of the step before
    frozen.trainable = False
    optimizer.zero_grad()
    room = first.room(np.float32)
    assert room is not None and np.shares_memory(room, first.grad)
    assert first.room(np.float32) is None  # somebody has looked: it holds zeros now

    optimizer.zero_grad()
    assert first.room(np.float64) is None
    room = first.room(np.float32)
    room[...] = 2
    first.accumulate(room)
    first.accumulate(np.ones(first.shape))
    assert (first.grad == 3).all() and first.room(np.float32) is None
    optimizer.step()  # nobody has added to the second gradient
    np.testing.assert_array_equal(first.value, before[0] - 3)
    np.testing.assert_array_equal(second.value, before[1])
    np.testing.assert_array_equal(frozen.value, before[2])
    assert np.isnan(frozen.grad).all()  # zero_grad is for what is trained


def test_both_dtypes_in_one_model():
    params = [*parameters(np.float32, [(3, 4), (5,)]), *parameters(np.float64, [(2, 2)])]
    optimizer = optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(params)
    kept = [p.numpy() for p in params]
    take_steps(optimizer, params, 2)
    assert len(optimizer.slots) == 2
    for parameter, before in zip(params, kept, strict=True):
        assert parameter.dtype == before.dtype and np.all(parameter.value != before)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_freezing_and_thawing_keeps_slots_and_moves_nothing(name):
    options = {"momentum": 0.9} if name == "SGD" else {}
    params = parameters()
    optimizer = getattr(optimizers, name)(0.01, **options)
    optimizer.build(params)
    take_steps(optimizer, params, 2)
    addresses = [p.value.ctypes.data for p in params]
    frozen, slots = params[1].numpy(), dict(optimizer.state())
    params[1].trainable = False
    take_steps(optimizer, params, 1)
    np.testing.assert_array_equal(params[1].value, frozen)
    assert np.all(params[2].value != 0) and len(optimizer._current_runs()) == 2
    optimizer.build([p for p in params if p.trainable])  # as `fit` does
    take_steps(optimizer, [p for p in params if p.trainable], 1)
    np.testing.assert_array_equal(dict(optimizer.state())["p1_momentum"], slots["p1_momentum"])
    params[1].trainable = True
    optimizer.build(params)
    take_steps(optimizer, params, 1)
    assert np.all(params[1].value != frozen)
    assert addresses == [p.value.ctypes.data for p in params]


def test_parameters_may_be_added_later():
    params = parameters()
    optimizer = optimizers.Adam()
    optimizer.build(params[:2])
    take_steps(optimizer, params[:2], 1)
    kept = dict(optimizer.state())
    optimizer.build(params)
    for name, array in kept.items():
        np.testing.assert_array_equal(dict(optimizer.state())[name], array)
    before = params[3].numpy()
    take_steps(optimizer, params, 1)
    assert np.all(params[3].value != before)


def test_a_second_optimizer_uses_the_buffer_of_the_first():
    params = parameters()
    first, second = optimizers.Adam(), optimizers.SGD(0.1)
    first.build(params)
    addresses = [p.value.ctypes.data for p in params]
    second.build(params[1:3])
    before = [p.numpy() for p in params]
    second.zero_grad()
    for parameter in params[1:3]:
        parameter.accumulate(np.ones(parameter.shape))
    second.step()
    assert addresses == [p.value.ctypes.data for p in params]
    for parameter, value, moved in zip(params, before, (0, 1, 1, 0), strict=True):
        np.testing.assert_allclose(parameter.value, value - 0.1 * moved, rtol=1e-12)


def test_a_copy_trains_for_itself():
    params = parameters()
    optimizer = optimizers.Adam(0.01)
    optimizer.build(params)
    take_steps(optimizer, params, 2)
    other_params, other = copy.deepcopy((params, optimizer))
    before = [p.numpy() for p in params]
    other.build(other_params)
    take_steps(other, other_params, 1, first=2)
    for parameter, value in zip(params, before, strict=True):
        np.testing.assert_array_equal(parameter.value, value)
    take_steps(optimizer, params, 1, first=2)
    for one, copied in zip(params, other_params, strict=True):
        np.testing.assert_array_equal(one.value, copied.value)


# -- around the rule -------------------------------------------------------------------------------


def test_clipping_scales_gradients_and_passes_nan_on():
    params = parameters(shapes=[(3,), (2,)])
    big, small = np.array([3.0, 4.0, 0.0]), np.array([0.3, 0.4])

    def step_of(**options):
        optimizer = optimizers.SGD(1.0, **options)
        optimizer.build(params)
        before = [p.numpy() for p in params]
        optimizer.zero_grad()
        params[0].accumulate(big)
        params[1].accumulate(small)
        optimizer.step()
        return [value - p.value for value, p in zip(before, params, strict=True)]

    first, second = step_of(clipnorm=1.0)
    np.testing.assert_allclose(first, big / 5, rtol=1e-12)
    np.testing.assert_allclose(second, small, rtol=1e-12)
    first, second = step_of(global_clipnorm=1.0)
    norm = math.hypot(5, 0.5)
    np.testing.assert_allclose(first, big / norm, rtol=1e-12)
    np.testing.assert_allclose(second, small / norm, rtol=1e-12)
    first, second = step_of(clipvalue=0.35)
    np.testing.assert_allclose(first, [0.35, 0.35, 0], rtol=1e-12)
    np.testing.assert_allclose(second, [0.3, 0.35], rtol=1e-12)
    big[2] = np.nan
    assert np.isnan(step_of(global_clipnorm=1.0)[1]).all()
    params = parameters(shapes=[(3,), (2,)])
    assert np.isnan(step_of(clipvalue=1.0)[0][2])
    big[2] = np.inf
    params = parameters(shapes=[(3,), (2,)])
    assert np.isnan(step_of(clipnorm=1.0)[0]).all()


def test_weight_decay_leaves_out_what_is_excluded():
    params = parameters(shapes=[(3,), (2,), (4,)])
    before = [p.numpy() for p in params]
    optimizer = optimizers.SGD(0.5, weight_decay=0.2)
    optimizer.exclude_from_weight_decay(var_list=[params[0]], var_names=["p2"])
    optimizer.build(params)
    optimizer.step()
    for parameter, value, factor in zip(params, before, (1, 0.9, 1), strict=True):
        np.testing.assert_allclose(parameter.value, factor * value, rtol=1e-12)


def test_averages_replace_the_weights_at_the_end():
    (parameter,) = params = parameters(shapes=[(3,)])
    optimizer = optimizers.SGD(0.1, use_ema=True, ema_momentum=0.75)
    optimizer.build(params)
    average = None
    for step in range(4):
        take_steps(optimizer, params, 1, step)
        average = parameter.numpy() if average is None else 0.75 * average + 0.25 * parameter.value
    optimizer.finalize()
    np.testing.assert_allclose(parameter.value, average, rtol=1e-12)


def test_accumulated_gradients_are_averaged():
    params, once = parameters(), parameters()
    collecting = optimizers.Adam(0.01, gradient_accumulation_steps=3)
    collecting.build(params)
    plain = optimizers.Adam(0.01)
    plain.build(once)
    take_steps(collecting, params, 6)
    for first in (0, 3):
        plain.zero_grad()
        batches = [gradients(first + i) for i in range(3)]
        for parameter, *parts in zip(once, *batches, strict=True):
            parameter.accumulate(sum(parts) / 3)
        plain.step()
    for parameter, expected in zip(params, once, strict=True):
        np.testing.assert_allclose(parameter.value, expected.value, rtol=1e-12)
    assert collecting.iterations == 6 and plain.iterations == 2


def test_constraints_are_applied_after_the_update():
    params = parameters(shapes=[(4, 3)], constraint=constraints.MaxNorm(0.5))
    optimizer = optimizers.SGD(10.0)
    optimizer.build(params)
    take_steps(optimizer, params, 3)
    np.testing.assert_allclose(np.linalg.norm(params[0].value, axis=0), 0.5, rtol=1e-6)


def test_learning_rates():
    optimizer = optimizers.SGD(schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.2, 0.1]))
    params = parameters(shapes=[(2,)])
    optimizer.build(params)
    values = [params[0].numpy()]
    for rate in (0.5, 0.2, 0.1):
        assert optimizer.learning_rate == rate
        optimizer.zero_grad()
        params[0].accumulate(np.ones(2))
        optimizer.step()
        np.testing.assert_allclose(params[0].value, values[-1] - rate, rtol=1e-12)
        values.append(params[0].numpy())
    with pytest.raises(TypeError, match="follows PiecewiseConstantDecay and cannot be set"):
        optimizer.learning_rate = 0.1
    optimizer.learning_rate = schedules.CosineDecay(0.3, 10)
    optimizer = optimizers.SGD(np.float32(0.25))
    assert optimizer.learning_rate == 0.25
    optimizer.learning_rate = np.array(0.125)
    assert optimizer.learning_rate == 0.125 and type(optimizer.learning_rate) is float
    with pytest.raises(AttributeError, match="called optimizer.learning_rate"):
        optimizer.lr = 0.1


MATRICES = [(12, 40), (40, 12), (9, 9), (1, 5)]


@pytest.mark.parametrize("op_set", ["reference", "fast"])
@pytest.mark.parametrize("shape", MATRICES)
def test_muon_makes_a_matrix_orthogonal(shape, op_set):
    """All singular values come near 1, the singular vectors stay; 0 stays 0."""
    x = np.random.default_rng(3).normal(size=shape)
    with config.using(ops=op_set):
        y, nothing = muon.orthogonalize(x), muon.orthogonalize(0 * x)
    u, s, v = np.linalg.svd(x, full_matrices=False)
    turned = u.T @ y @ v.T
    np.testing.assert_allclose(turned - np.diag(np.diag(turned)), 0, atol=1e-9)
    assert s.max() / s.min() > 1.3 or len(s) == 1
    assert np.diag(turned).min() > 0.6 and np.diag(turned).max() < 1.3
    assert not nothing.any()


def test_muon_does_not_depend_on_the_number_of_threads():
    shapes = [(300, 70), (400, 600), (600, 400), (3, 3, 8, 16), (70,)]

    def train():
        params = parameters(np.float32, shapes)
        optimizer = optimizers.Muon(0.01)
        optimizer.build(params)
        take_steps(optimizer, params, 3)
        return [p.numpy() for p in params]

    several = train()
    with config.using(threads=1):
        for one, other, before in zip(several, train(), parameters(shapes=shapes), strict=True):
            np.testing.assert_array_equal(one, other)
            assert np.mean(one != before.value) > 0.99


def test_muon_decays_matrices_and_others_apart():
    shapes = [(2, 3), (4,), (3, 2)]
    for exclusion, factors in (({}, (0.9, 0.95, 0.9)), ({"var_names": ["p2"]}, (0.9, 0.95, 1))):
        params = parameters(shapes=shapes)
        before = [p.numpy() for p in params]
        optimizer = optimizers.Muon(0.5, weight_decay=0.2, adam_weight_decay=0.1)
        optimizer.exclude_from_weight_decay(**exclusion)
        optimizer.build(params)
        optimizer.step()
        for parameter, value, factor in zip(params, before, factors, strict=True):
            np.testing.assert_allclose(parameter.value, factor * value, rtol=1e-12)


def test_muon_trains_by_adam_what_is_excluded():
    names = ["hidden/kernel", "head/kernel", "face_Embedding/kernel", "head/bias"]

    def slots(**options):
        params = [Parameter(np.ones((2, 2) if "kernel" in n else 2), n) for n in names]
        optimizer = optimizers.Muon(**options)
        optimizer.build(params)
        kept = [entry for entry, _ in optimizer.state() if entry.endswith("velocity")]
        return [entry.split("_")[0] for entry in kept]

    assert slots() == ["face", "head"]
    assert slots(exclude_layers=["^head/", "no such"]) == ["head", "face", "head"]
    assert slots(exclude_layers=["head|hidden"]) == ["hidden", "head", "face", "head"]
    assert slots(exclude_embeddings=False) == ["head"]


def test_a_nan_gradient_makes_a_matrix_nan_and_nothing_else():
    params = parameters(shapes=[(3, 4), (4, 3), (5,)])
    optimizer = optimizers.Muon()
    optimizer.build(params)
    optimizer.zero_grad()
    params[0].accumulate(np.where(np.arange(12) == 5, np.nan, 1.0).reshape(3, 4))
    optimizer.step()
    assert [np.isnan(p.value).mean() for p in params] == [1, 0, 0]


# -- state and config ------------------------------------------------------------------------------

STATES = [(name, options) for name, options, _ in KERAS] + [
    ("Adam", {"amsgrad": True, "use_ema": True}),
    ("RMSprop", {"learning_rate": schedules.CosineDecay(0.1, 10), "centered": True}),
]


@pytest.mark.parametrize(("name", "options"), STATES)
def test_a_loaded_state_continues_to_the_bit(name, options):
    params, others = parameters(np.float32), parameters(np.float32)
    optimizer = getattr(optimizers, name)(**{"learning_rate": 0.05, **options})
    optimizer.build(params)
    take_steps(optimizer, params, 3)
    again = optimizers.deserialize(optimizers.serialize(optimizer))
    again.build(others)
    for parameter, other in zip(params, others, strict=True):
        other.assign(parameter.value)
    again.load_state([array for _, array in optimizer.state()])
    take_steps(optimizer, params, 2, first=3)
    take_steps(again, others, 2, first=3)
    for (entry, array), (_, other) in zip(optimizer.state(), again.state(), strict=True):
        np.testing.assert_array_equal(array, other, err_msg=entry)
    for parameter, other in zip(params, others, strict=True):
        np.testing.assert_array_equal(parameter.value, other.value)


def test_the_state_has_the_order_of_keras():
    params = [Parameter(np.zeros(2), "dense/kernel"), Parameter(np.zeros(3), "dense/bias")]
    orders = {
        ("Adam", "amsgrad"): "k_momentum k_velocity b_momentum b_velocity k_velocity_hat"
        " b_velocity_hat",
        ("RMSprop", "centered"): "k_velocity b_velocity k_average_gradient b_average_gradient",
        ("Adadelta", None): "k_accumulated_grad k_accumulated_delta_var b_accumulated_grad"
        " b_accumulated_delta_var",
        ("Nadam", "use_ema"): "k_average b_average k_momentum k_velocity b_momentum b_velocity"
        " u_product",
        ("Adamax", None): "k_momentum k_norm b_momentum b_norm",
        ("SGD", None): "",
        ("Muon", None): "k_momentum k_velocity b_momentum b_velocity",
    }
    for (name, flag), order in orders.items():
        optimizer = getattr(optimizers, name)(**({flag: True} if flag else {}))
        optimizer.build(params)
        names = [entry for entry, _ in optimizer.state()]
        order = order.replace("k_", "dense_kernel_").replace("b_", "dense_bias_").split()
        assert names == ["iteration", "learning_rate", *order]
    scheduled = optimizers.SGD(schedules.CosineDecay(0.1, 5))
    assert [entry for entry, _ in scheduled.state()] == ["iteration"]


def test_a_state_that_does_not_fit_changes_nothing():
    params = parameters()
    optimizer = optimizers.Adam()
    optimizer.build(params)
    take_steps(optimizer, params, 1)
    before = optimizer.state()
    arrays = [array + 1 for _, array in before]
    with pytest.raises(ValueError, match="has 10 state arrays, not 9: build it"):
        optimizer.load_state(arrays[:-1])
    arrays[-1] = np.zeros(5)
    with pytest.raises(ValueError, match=r"'p3_velocity' has shape \(1,\), not \(5,\)"):
        optimizer.load_state(arrays)
    for (_, array), (_, now) in zip(before, optimizer.state(), strict=True):
        np.testing.assert_array_equal(array, now)


@pytest.mark.parametrize("name", sorted(optimizers.table.classes))
def test_config_round_trip(name):
    cls = getattr(optimizers, name)
    optimizer = cls(learning_rate=0.5, weight_decay=0.01, clipnorm=2.0, use_ema=True, name="mine")
    config_ = optimizers.serialize(optimizer)
    again = optimizers.deserialize(config_)
    assert type(again) is cls and optimizers.serialize(again) == config_
    schedule = schedules.ExponentialDecay(0.1, 5, 0.5)
    scheduled = optimizers.deserialize(optimizers.serialize(cls(learning_rate=schedule)))
    assert scheduled.learning_rate == 0.1
    assert scheduled.get_config()["learning_rate"]["class_name"] == "ExponentialDecay"
    for identifier in (name, name.lower(), cls, optimizer):
        assert type(optimizers.get(identifier)) is cls
    assert repr(cls()).startswith(f"{name}(")


def test_own_rules():
    class SignDescent(optimizers.Optimizer):
        def slot_groups(self):
            return [("age",)]

        def update(self, value, g, slots, rate):
            slots["age"] += 1
            value -= rate * np.sign(g) / slots["age"]

    (parameter,) = params = parameters(shapes=[(3,)])
    optimizer = optimizers.get(SignDescent(0.5))
    optimizer.build(params)
    before = parameter.numpy()
    for _ in range(2):
        optimizer.zero_grad()
        parameter.accumulate(np.full(3, 7.0))
        optimizer.step()
    np.testing.assert_allclose(parameter.value, before - 0.75)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: optimizers.Adam(lr=0.1), "no argument 'lr'. It is called learning_rate"),
        (lambda: optimizers.SGD(decay=1e-6), "no argument 'decay'.*InverseTimeDecay"),
        (lambda: optimizers.Adam(beta1=0.9), "Did you mean 'beta_1'"),
        (lambda: optimizers.Adam(math.nan), "finite number >= 0 as learning_rate, not nan"),
        (lambda: optimizers.Adam(-0.1), "learning_rate, not -0.1"),
        (lambda: optimizers.Adam("fast"), "learning_rate, not 'fast'"),
        (lambda: optimizers.Adam(None), "learning_rate, not None"),
        (lambda: optimizers.Adam(True), "learning_rate, not True"),
        (lambda: optimizers.Adam(math.inf), "learning_rate, not inf"),
        (lambda: optimizers.Adam(beta_1=1.0), r"beta_1 and beta_2 in \[0, 1\)"),
        (lambda: optimizers.SGD(momentum=1.5), "momentum, not 1.5"),
        (lambda: optimizers.Lion(beta_1=0), "beta_1, not 0"),
        (lambda: optimizers.SGD(clipnorm=0), "> 0 as clipnorm, not 0"),
        (lambda: optimizers.SGD(clipnorm=1, clipvalue=1), "one of clipnorm, clipvalue"),
        (lambda: optimizers.SGD(ema_momentum=2), "ema_momentum, not 2"),
        (lambda: optimizers.SGD(ema_overwrite_frequency=0), "integer >= 1"),
        (lambda: optimizers.SGD(gradient_accumulation_steps=1), "integer >= 2"),
        (lambda: optimizers.SGD(loss_scale_factor=8.0), "float16"),
        (lambda: optimizers.AdamW(weight_decay=None), "without one it is Adam"),
        (lambda: optimizers.Muon(adam_beta_2=1), r"adam_beta_1 and adam_beta_2 in \[0, 1\)"),
        (lambda: optimizers.Muon(exclude_layers="head"), "list of strings as exclude_layers, not"),
        (lambda: optimizers.Muon(exclude_layers=["a", 3]), "list of strings as exclude_layers"),
        (lambda: optimizers.Muon(exclude_layers=["*"]), r"regular expressions.*not '\*': nothing"),
        (lambda: optimizers.Muon(muon_b=math.inf), "takes a finite number as muon_b, not inf"),
        (lambda: optimizers.Muon(ns_steps=None), "integer >= 0 as ns_steps, not None"),
        (lambda: optimizers.Muon(ns_steps=2.5), "integer >= 0 as ns_steps, not 2.5"),
        (lambda: optimizers.Muon(momentun=0.9), "Did you mean 'momentum'"),
        (lambda: optimizers.SGD().step(), "has no parameters: call build"),
        (lambda: optimizers.get("adamm"), "Did you mean 'adam"),
        (lambda: optimizers.get(0.1), "no optimizer"),
        (lambda: optimizers.Adam.from_config({"learning_rat": 1}), "Did you mean 'learning_rate'"),
    ],
)
def test_errors(act, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_a_wrong_rate_is_refused_later_too():
    optimizer = optimizers.SGD(0.1)
    with pytest.raises(ValueError, match="SGD takes a finite number"):
        optimizer.learning_rate = -1
    assert optimizer.learning_rate == 0.1


def test_learning_rate_of_some_parameters_can_be_scaled():
    def train(*scales):
        parameters = [Parameter(np.ones(3, np.float32), f"layer/{n}") for n in ("a", "b", "beta")]
        optimizer = optimizers.SGD(0.1, momentum=0.5, weight_decay=0.1)
        for factor, chosen in scales:
            optimizer.scale_learning_rate(factor, **chosen(parameters))
        optimizer.build(parameters)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad[...] = 1
            optimizer.step()
        return [float(parameter.value[0]) for parameter in parameters]

    def alone(rate):
        value, v = 1.0, 0.0
        for _ in range(3):
            value -= 0.1 * 0.1 * value  # the decay is not scaled
            v = 0.5 * v - rate
            value += v
        return value

    def named(parameters):
        return {"var_names": ["beta"]}

    def listed(parameters):
        return {"var_list": parameters[:1]}

    np.testing.assert_allclose(train(), [alone(0.1)] * 3, rtol=1e-5)
    scaled = train((4, named), (0.5, listed))
    np.testing.assert_allclose(scaled, [alone(0.05), alone(0.1), alone(0.4)], rtol=1e-5)
