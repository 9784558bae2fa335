"""A kernel's shape in, its first values out: Kaiming's normal distribution, or zeros if weights are assigned right after."""

import math
from contextlib import contextmanager
from contextvars import ContextVar

import keras
from keras import ops

from keras_deeplab.keras_tools import serializable

_zeros = ContextVar("kernels_start_as_zeros", default=None)


class TooManyNumbers(ValueError):
    """The kernels of a network have more numbers than `kernels_start_as_zeros` allows."""


@contextmanager
def kernels_start_as_zeros(at_most=math.inf):
    """A context in which kernels start as zeros, for models whose weights are assigned right after.

    Drawing random values would double the time to load such a model.

    Args:
        at_most: how many numbers all kernels together may have; more raise `TooManyNumbers` before they take memory. Default
            any number.
    """
    token = _zeros.set([at_most])
    try:
        yield
    finally:
        _zeros.reset(token)


def zeros_within_limit(shape, dtype, limit):
    """Zeros, if `limit`, a list of one number, allows as many; they are subtracted from it."""
    limit[0] -= math.prod(shape)
    if limit[0] < 0:
        raise TooManyNumbers(f"The kernels must have fewer numbers in all. Received: a kernel of shape {tuple(shape)}.")
    return ops.zeros(shape, dtype)


@serializable
class VarianceScaling(keras.initializers.VarianceScaling):
    """Keras's `VarianceScaling`, but zeros inside `kernels_start_as_zeros`."""

    def __call__(self, shape, dtype=None, **kwargs):
        limit = _zeros.get()
        return zeros_within_limit(shape, dtype, limit) if limit else super().__call__(shape, dtype, **kwargs)


def he_normal(mode="fan_out"):
    """Kaiming's normal distribution (He et al. 2015) as PyTorch defines it.

    For a depthwise kernel use "fan_in": it is what PyTorch calls the fan_out of such a kernel.
    """
    return VarianceScaling(2.0, mode, "untruncated_normal")
