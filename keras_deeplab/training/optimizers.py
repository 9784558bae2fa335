"""Gradients in, weights out: SGD and AdamW as PyTorch computes them.

Keras's SGD multiplies the learning rate into the velocity, and subtracts weight decay from the weights directly. PyTorch's SGD
does neither. While the learning rate decays, the results differ. The released models were trained with PyTorch.
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
    """The base of both optimizers: weight decay for all parameters, learning rates per part of the network, clipping."""

    def __init__(
        self,
        learning_rate,
        weight_decay=0.0,
        multipliers=None,
        clip_norm=None,
        decay_kernels_only=False,
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.decay_kernels_only = decay_kernels_only
        # Not `self.weight_decay`, by which Keras itself would decay the weights too.
        self.decay = at_least_zero("weight_decay", weight_decay or 0.0)
        self.multipliers = {prefix: at_least_zero(prefix, factor) for prefix, factor in (multipliers or {}).items()}
        self.clip_norm = None if clip_norm is None else at_least_zero("clip_norm", clip_norm)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._rate_factors = [
            next((factor for prefix, factor in self.multipliers.items() if v.path.startswith(prefix)), 1.0)
            for v in variables
        ]
        self._decays = [self.decay if self.decays(v) and self._is_of_a_kind_that_decays(v) else 0.0 for v in variables]
        unused = [prefix for prefix in self.multipliers if not any(v.path.startswith(prefix) for v in variables)]
        if unused:
            raise ValueError(
                "Each key of `multipliers` must be the beginning of a variable's path, such as 'backbone-'. "
                f"Received: {', '.join(unused)}, with which no path begins."
            )

    def _is_of_a_kind_that_decays(self, variable):
        return not self.decay_kernels_only or (variable.name == "kernel" and "depthwise" not in variable.path)

    def update_step(self, gradient, variable, learning_rate):
        index = self.index_of(variable)
        rate, factor = ops.cast(learning_rate, variable.dtype), self._rate_factors[index]
        with _computed_after(gradient):
            self._update(index, ops.cast(gradient, variable.dtype), variable, rate if factor == 1 else rate * factor)

    def all_gradients(self, gradients):
        """The gradients, all scaled by the same factor so that their global norm is at most `clip_norm`."""
        if self.clip_norm is None:
            return gradients
        norm = ops.sqrt(sum(ops.sum(ops.square(g)) for g in gradients))
        factor = ops.minimum(self.clip_norm / (norm + 1e-6), 1.0)  # PyTorch's epsilon
        return [g * ops.cast(factor, g.dtype) for g in gradients]

    def before_updates(self, gradients):
        return _in_sequence(gradients)

    def get_config(self):
        config = super().get_config()
        return {
            **config,
            "weight_decay": self.decay,
            "multipliers": self.multipliers,
            "clip_norm": self.clip_norm,
            "decay_kernels_only": self.decay_kernels_only,
        }


def at_least_zero(name, value):
    """`value`, if it is a finite number of at least 0."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0. Received: {value!r}.")
    return value


def share(name, value):
    """`value`, if it is at least 0 and less than 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and less than 1. Received: {value!r}.")
    return value


def _computed_after(gradient):
    """A context: on TensorFlow, the operations created inside run only after `gradient` is computed.

    Without it, TensorFlow computes the parts of all updates that need no gradient at the start of a step, and holds them in
    memory until its end.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.control_dependencies([gradient])


def _in_sequence(gradients):
    """Equal gradients, each available only after the one before it.

    When a variable's gradient becomes available, backpropagation has passed the variable's layer, which then no longer
    holds the variable's value. An update in place therefore needs no copy of the value.
    """
    import tensorflow as tf

    sequence = list(gradients[:1])
    for before, gradient in itertools.pairwise(gradients):
        with _computed_after(before):
            sequence.append(tf.identity(gradient))
    return sequence


@serializable
class SGD(_PyTorchOptimizer):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`: g += decay * w; v = momentum * v + g; w -= rate * v.

    Args:
        learning_rate: a number or schedule.
        momentum: factor of the velocity v; default 0.9.
        weight_decay: for all parameters, also norms and biases, but those that `exclude_from_weight_decay` names; default 0.
        multipliers: {beginning of a variable's path: factor of its learning rate}, such as `{"backbone-": 0.1}`.
        clip_norm: largest norm of all gradients together, or None (the default).
        decay_kernels_only: whether weight decay is for kernels alone, and not for those of layers with "depthwise" in their
            name: what TensorFlow-slim regularises in the authors' networks. Default False.

    Raises:
        ValueError: for a momentum outside 0..1, a negative decay, factor or norm. When it is built: if no variable's path
            begins with a key of `multipliers`.
    """

    def __init__(
        self, learning_rate, momentum=0.9, weight_decay=0.0, multipliers=None, clip_norm=None, name="SGD", **kwargs
    ):
        super().__init__(learning_rate, weight_decay, multipliers, clip_norm, name=name, **kwargs)
        self.momentum = share("momentum", momentum)

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def _update(self, index, gradient, variable, rate):
        gradient, velocity = gradient + self._decays[index] * variable, self.velocities[index]
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # The same update in place: it needs no memory for a new velocity beside the old one.
            handles = dict(var=variable.handle, accum=velocity.value.handle)
            tf.raw_ops.ResourceApplyMomentum(**handles, grad=gradient, lr=rate, momentum=self.momentum)
        else:
            self.assign(velocity, self.momentum * velocity + gradient)
            self.assign_sub(variable, rate * velocity)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@serializable
class AdamW(_PyTorchOptimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as `torch.optim.AdamW`.

    Args:
        learning_rate: a number or schedule.
        betas: decay of the first and the second moment; default (0.9, 0.999).
        weight_decay: for all parameters but those that `exclude_from_weight_decay` names; default 0.01.
        epsilon: added to the root of the second moment after its bias correction, as in PyTorch; default 1e-8.
        multipliers: {beginning of a variable's path: factor of its learning rate}, such as `{"backbone-": 0.1}`.
        clip_norm: largest norm of all gradients together, or None (the default).
        decay_kernels_only: whether weight decay is for kernels alone, and not for those of layers with "depthwise" in their
            name: what TensorFlow-slim regularises in the authors' networks. Default False.

    Raises:
        ValueError: if a beta is less than 0, or 1 or more; when it is built, if no variable's path begins with a key of
            `multipliers`.
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
            raise ValueError(f"betas must be at least 0 and less than 1, such as (0.9, 0.999). Received: {betas!r}.")
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
        # 1 - beta^step
        first_correction, second_correction = (-ops.expm1(step * log_in_float64(beta)) for beta in self.betas)
        root = ops.sqrt(square) / ops.sqrt(second_correction) + self.epsilon
        self.assign(variable, variable * (1 - rate * self._decays[index]) - rate / first_correction * mean / root)

    def get_config(self):
        return {**super().get_config(), "betas": self.betas, "epsilon": self.epsilon}


def log_in_float64(beta):
    """log(beta). In float32, 1 - 0.999 has a relative error of 3e-5, and so would the first steps."""
    return math.log(max(beta, sys.float_info.min))  # the logarithm of 0 does not exist


@serializable
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Loss scaling for float16 that skips a step if a gradient of any replica is not finite.

    Keras's LossScaleOptimizer checks the gradients of one replica only, before they are summed. An overflow on another
    replica gets into the weights.
    """

    def check_finite(self, grads):
        finite = super().check_finite(grads)
        sum_over_replicas = over_replicas()
        if sum_over_replicas is None:
            return finite
        return ops.equal(sum_over_replicas(ops.cast(ops.logical_not(finite), "float32")), 0.0)
