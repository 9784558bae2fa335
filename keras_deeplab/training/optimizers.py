"""Gradients in, weights out, as PyTorch's optimizers do it.

Keras multiplies the learning rate into the velocity and subtracts weight decay from the weights directly; under a decaying
rate neither is the recipe that the released models were trained by.
"""

import contextlib
import itertools
import math
import sys

import keras
from keras import ops

from keras_deeplab.keras_tools import over_replicas, serializable
from keras_deeplab.training.keras_hooks import GradientHooks


class _PyTorchOptimizer(GradientHooks):
    """What both share: decay for every parameter, rates per part of the network, clipping of the global gradient."""

    def __init__(self, learning_rate, weight_decay=0.0, multipliers=None, clip_norm=None, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.decay = weight_decay  # `self.weight_decay` would be Keras's own, decoupled
        self.multipliers = dict(multipliers or {})
        self.clip_norm = clip_norm

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._rates = [
            next((factor for prefix, factor in self.multipliers.items() if v.path.startswith(prefix)), 1.0)
            for v in variables
        ]
        unknown = [p for p in self.multipliers if not any(v.path.startswith(p) for v in variables)]
        if unknown:
            raise ValueError(
                f"`multipliers` maps the beginning of variables' paths, such as 'backbone-', to factors. "
                f"No variable begins with: {', '.join(unknown)}."
            )

    def update_step(self, gradient, variable, learning_rate):
        index = self.index_of(variable)
        rate, factor = ops.cast(learning_rate, variable.dtype), self._rates[index]
        with _after(gradient):
            self._update(index, ops.cast(gradient, variable.dtype), variable, rate if factor == 1 else rate * factor)

    def all_gradients(self, gradients):
        """The gradients, all made smaller alike where their norm exceeds `clip_norm`."""
        if self.clip_norm is None:
            return gradients
        norm = ops.sqrt(sum(ops.sum(ops.square(g)) for g in gradients))
        factor = ops.minimum(self.clip_norm / (norm + 1e-6), 1.0)
        return [g * ops.cast(factor, g.dtype) for g in gradients]

    def before_updates(self, gradients):
        return _one_after_another(gradients)

    def get_config(self):
        config = super().get_config()
        return {
            **config,
            "weight_decay": self.decay,
            "multipliers": self.multipliers,
            "clip_norm": self.clip_norm,
        }


def _after(gradient):
    """Inside, TensorFlow's graphs wait for a gradient: they would compute what weights alone give at the start of a step,
    for all of them, and keep it to the end."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.control_dependencies([gradient])


def _one_after_another(grads):
    """The same gradients, each not before that of the variable before it.

    Backpropagation has then gone past the variable's layer, which holds its value no longer: an update in place needs no
    copy of it.
    """
    import tensorflow as tf

    waiting = list(grads[:1])
    for before, gradient in itertools.pairwise(grads):
        with _after(before):
            waiting.append(tf.identity(gradient))
    return waiting


@serializable
class SGD(_PyTorchOptimizer):
    """Stochastic gradient descent with momentum: g += decay * w; v = momentum * v + g; w -= rate * v.

    Args:
        learning_rate: a number or schedule.
        momentum: of the velocity.
        weight_decay: for every parameter, norms and biases too.
        multipliers: {beginning of a variable's path: factor of its learning rate}, such as `{"backbone-": 0.1}`.
        clip_norm: largest norm of all gradients together, or None.
    """

    def __init__(
        self, learning_rate, momentum=0.9, weight_decay=0.0, multipliers=None, clip_norm=None, name="SGD", **kwargs
    ):
        super().__init__(learning_rate, weight_decay, multipliers, clip_norm, name=name, **kwargs)
        self.momentum = momentum

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def _update(self, index, gradient, variable, rate):
        gradient, velocity = gradient + self.decay * variable, self.velocities[index]
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # The same in place: a new velocity would take memory of its own until the old one is free.
            into = dict(var=variable.handle, accum=velocity.value.handle)
            tf.raw_ops.ResourceApplyMomentum(**into, grad=gradient, lr=rate, momentum=self.momentum)
        else:
            self.assign(velocity, self.momentum * velocity + gradient)
            self.assign_sub(variable, rate * velocity)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@serializable
class AdamW(_PyTorchOptimizer):
    """Adam with decoupled decay (Loshchilov & Hutter 2019), epsilon where PyTorch has it: outside the bias correction.

    Args:
        learning_rate: a number or schedule.
        betas: of the first and the second moment.
        weight_decay: for every parameter.
        epsilon: added to the corrected root of the second moment.
        multipliers: {beginning of a variable's path: factor of its learning rate}, such as `{"backbone-": 0.1}`.
        clip_norm: largest norm of all gradients together, or None.
    """

    def __init__(
        self,
        learning_rate,
        betas=(0.9, 0.999),
        weight_decay=0.01,
        epsilon=1e-8,
        multipliers=None,
        clip_norm=None,
        name="AdamW",
        **kwargs,
    ):
        super().__init__(learning_rate, weight_decay, multipliers, clip_norm, name=name, **kwargs)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are 0 or more and less than 1, such as (0.9, 0.999). Received: {betas!r}.")
        self.betas, self.epsilon = tuple(betas), epsilon

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.means, self.squares = self.add_optimizer_variables(variables, ["mean", "square"])

    def _update(self, index, gradient, variable, rate):
        mean, square = self.means[index], self.squares[index]
        first, second = self.betas
        step = ops.cast(self.iterations + 1, variable.dtype)
        self.assign(mean, mean * first + gradient * (1 - first))
        self.assign(square, square * second + ops.square(gradient) * (1 - second))
        first_left, second_left = (-ops.expm1(step * log_of(beta)) for beta in self.betas)  # 1 - beta^step
        root = ops.sqrt(square) / ops.sqrt(second_left) + self.epsilon
        self.assign(variable, variable * (1 - rate * self.decay) - rate / first_left * mean / root)

    def get_config(self):
        return {**super().get_config(), "betas": self.betas, "epsilon": self.epsilon}


def log_of(beta):
    """Of float64: in float32, 1 - 0.999 is wrong by 3e-5 of it, and so are the first steps."""
    return math.log(max(beta, sys.float_info.min))


@serializable
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras's loss scaling for float16, which skips a step if a gradient of any replica is not finite.

    Keras's own looks at one replica's gradients only, before they are summed: an overflow on another one ends up in the
    weights.
    """

    def check_finite(self, grads):
        finite = super().check_finite(grads)
        total = over_replicas()
        return finite if total is None else ops.equal(total(ops.cast(ops.logical_not(finite), "float32")), 0.0)
