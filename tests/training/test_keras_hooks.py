"""The private names of Keras that the package uses exist and do what the package needs."""

import keras
import numpy as np
import pytest

from keras_deeplab.training.keras_hooks import GradientHooks, learning_rate_of_step, write_weights_back
from keras_deeplab.training.schedules import PolynomialDecay


class RecordingOptimizer(GradientHooks):
    """Gradient descent that records the calls of its hooks, and doubles the gradients in `all_gradients`."""

    def __init__(self):
        super().__init__(learning_rate=0.5)
        self.calls = []

    def all_gradients(self, gradients):
        self.calls.append("all")
        return [2 * gradient for gradient in gradients]

    def before_updates(self, gradients):
        self.calls.append("before")
        return gradients

    def update_step(self, gradient, variable, learning_rate):
        self.calls.append(self.index_of(variable))
        self.assign_sub(variable, gradient * learning_rate)


def test_keras_calls_the_hooks_before_the_updates():
    # Private names: _all_reduce_sum_gradients, _backend_update_step, _get_variable_index.
    optimizer, variables = RecordingOptimizer(), [keras.Variable([1.0]), keras.Variable([2.0])]
    optimizer.apply([keras.ops.array([1.0]), keras.ops.array([3.0])], variables)
    assert sorted(optimizer.calls[:2]) == ["all", "before"] and optimizer.calls[2:] == [0, 1]
    assert [float(np.asarray(v)[0]) for v in variables] == [0.0, -1.0]  # minus the rate 0.5 times twice the gradient


@pytest.mark.parametrize("scaled", [False, True])
def test_the_learning_rate_of_a_step_is_that_of_the_schedule(scaled):
    # Private name: _learning_rate, also of the optimizer inside a LossScaleOptimizer.
    optimizer = keras.optimizers.SGD(PolynomialDecay(0.1, 10))
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer
    assert learning_rate_of_step(optimizer, 1) == pytest.approx(0.1)
    assert learning_rate_of_step(optimizer, 10) == pytest.approx(1e-4)


def test_keras_has_the_method_that_writes_weights_back():
    # Private name: jax_state_sync. The two JAX hosts in tests/commands/test_train.py save with it.
    from keras.src.backend.jax.trainer import JAXTrainer

    assert callable(JAXTrainer.jax_state_sync)
    write_weights_back(keras.Sequential())  # on TensorFlow it does nothing
