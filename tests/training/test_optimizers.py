"""SGD and AdamW compute what PyTorch's update rules give in numpy, with a decaying rate, multipliers and clipping."""

import keras
import numpy as np
import pytest

from keras_deeplab.training.optimizers import SGD, AdamW
from keras_deeplab.training.schedules import PolynomialDecay

STEPS, DECAY = 6, 0.05
random = np.random.default_rng(0)
START = {"backbone-a": random.normal(size=(3, 2)), "head-b": random.normal(size=4)}
GRADIENTS = [{name: random.normal(size=w.shape) for name, w in START.items()} for _ in range(STEPS)]
FACTORS = {"backbone-a": 0.1, "head-b": 1.0}


def rate(step):
    """The learning rate of a step by the formula of `PolynomialDecay(0.1, STEPS, 0.01)`."""
    return (0.1 - 0.01) * (1 - step / (STEPS - 1)) ** 0.9 + 0.01


def weights_after(optimizer):
    """{name: weights} after all steps of `optimizer`."""
    variables = [keras.Variable(w, dtype="float32", name=name) for name, w in START.items()]
    for gradients in GRADIENTS:
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in gradients.values()], variables)
    return {name: np.asarray(v) for name, v in zip(START, variables, strict=True)}


def clipped(gradients, clip_norm):
    """The gradients as `torch.nn.utils.clip_grad_norm_` clips them; None for no clipping."""
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    return {name: g * min(clip_norm / (norm + 1e-6), 1) for name, g in gradients.items()} if clip_norm else gradients


@pytest.mark.parametrize("clip_norm", [None, 0.5, 100.0])
def test_sgd_follows_pytorch(clip_norm):
    weights, velocity = dict(START), {name: 0.0 for name in START}
    for step, gradients in enumerate(GRADIENTS):
        for name, g in clipped(gradients, clip_norm).items():
            velocity[name] = 0.9 * velocity[name] + g + DECAY * weights[name]
            weights[name] = weights[name] - rate(step) * FACTORS[name] * velocity[name]
    schedule = PolynomialDecay(0.1, STEPS, 0.01)
    result = weights_after(SGD(schedule, weight_decay=DECAY, multipliers={"backbone-": 0.1}, clip_norm=clip_norm))
    for name in START:
        np.testing.assert_allclose(result[name], weights[name], atol=1e-6)


@pytest.mark.parametrize("clip_norm, first", [(None, 0.9), (0.5, 0.9), (None, 0.0)])
def test_adamw_follows_pytorch(clip_norm, first):
    weights = dict(START)
    mean, square = ({name: 0.0 for name in START} for _ in range(2))
    for step, gradients in enumerate(GRADIENTS):
        for name, g in clipped(gradients, clip_norm).items():
            lr = rate(step) * FACTORS[name]
            mean[name] = first * mean[name] + (1 - first) * g
            square[name] = 0.999 * square[name] + 0.001 * g**2
            root = np.sqrt(square[name]) / np.sqrt(1 - 0.999 ** (step + 1)) + 1e-3
            weights[name] = weights[name] * (1 - lr * DECAY) - lr / (1 - first ** (step + 1)) * mean[name] / root
    schedule = PolynomialDecay(0.1, STEPS, 0.01)
    options = dict(weight_decay=DECAY, epsilon=1e-3, multipliers={"backbone-": 0.1}, clip_norm=clip_norm)
    result = weights_after(AdamW(schedule, (first, 0.999), **options))
    for name in START:
        np.testing.assert_allclose(result[name], weights[name], atol=1e-6)


@pytest.mark.parametrize("betas", [(0.9, 1.0), (-0.1, 0.999)])
def test_betas_of_1_or_more_or_below_0_are_refused(betas):
    with pytest.raises(ValueError, match=r"less than 1.*Received: \("):
        AdamW(0.1, betas)


@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.8, 1e-4, {"backbone-": 0.1}, 1.0), AdamW(PolynomialDecay(0.1, 10))])
def test_a_deserialized_optimizer_has_the_same_configuration(optimizer):
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is type(optimizer) and copy.get_config() == optimizer.get_config()


@pytest.mark.parametrize("optimizer", [SGD(0.1, weight_decay=DECAY), AdamW(0.1)])
def test_a_graph_computes_no_part_of_an_update_before_its_gradient(optimizer):
    import tensorflow as tf

    variables = [keras.Variable(w, dtype="float32", name=name) for name, w in START.items()]
    optimizer.build(variables)
    gradients = [tf.TensorSpec(w.shape, "float32") for w in START.values()]
    update = tf.function(lambda *gradients: optimizer.apply(list(gradients), variables))
    graph = update.get_concrete_function(*gradients).graph
    after = set()  # operations that wait for a gradient. The graph lists every operation after those that it waits for.
    for op in graph.get_operations():
        waited_for = [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
        if op.name.startswith("gradients") or any(other in after for other in waited_for):
            after.add(op)
        elif any(len(tensor.shape) for tensor in op.outputs if tensor.dtype == "float32"):
            raise AssertionError(f"computed too early: {op}")


@pytest.mark.parametrize("build", [lambda: SGD(0.1, weight_decay=0.5), lambda: AdamW(0.1)])
def test_variables_can_be_excluded_from_weight_decay(build):
    decayed, excluded = keras.Variable([1.0], name="kernel"), keras.Variable([1.0], name="beta")
    optimizer = build()
    optimizer.exclude_from_weight_decay(var_names=["beta"])
    optimizer.apply([keras.ops.zeros(1)] * 2, [decayed, excluded])
    assert float(decayed[0]) < 1 and float(excluded[0]) == 1


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: SGD(0.1, momentum=-1), "momentum must be at least 0 and less than 1. Received: -1"),
        (lambda: SGD(0.1, momentum=2), "momentum must be .* Received: 2"),
        (lambda: SGD(0.1, weight_decay=-0.1), "weight_decay must be a number of at least 0. Received: -0.1"),
        (lambda: AdamW(0.1, weight_decay=float("nan")), "weight_decay must be .* Received: nan"),
        (lambda: SGD(0.1, clip_norm=-1), "clip_norm must be .* Received: -1"),
        (lambda: SGD(0.1, multipliers={"backbone-": -1}), "backbone- must be .* Received: -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_weight_decay_of_none_is_none():
    variable = keras.Variable([1.0])
    for optimizer in (SGD(0.1, weight_decay=None), AdamW(0.1, weight_decay=None)):
        optimizer.apply([keras.ops.zeros(1)], [variable])
        assert float(variable[0]) == 1 and optimizer.get_config()["weight_decay"] == 0


@pytest.mark.parametrize("clip_norm", [None, 0.01])
@pytest.mark.parametrize("build", [lambda **options: SGD(0.1, **options), lambda **options: AdamW(0.1, **options)])
def test_the_gradient_of_a_few_rows_is_that_of_the_whole_matrix(build, clip_norm):
    import tensorflow as tf

    results = []
    for gradient in (
        tf.IndexedSlices(
            tf.constant([[3.0, 1.0], [1.0, 1.0], [2.0, 1.0]]), tf.constant([2, 0, 2]), tf.constant([4, 2])
        ),
        tf.constant([[1.0, 1.0], [0.0, 0.0], [5.0, 2.0], [0.0, 0.0]]),
    ):
        variable = keras.Variable(np.ones((4, 2), "float32"))
        build(clip_norm=clip_norm).apply([gradient], [variable])
        results.append(np.asarray(variable))
    np.testing.assert_allclose(*results, rtol=1e-5)
