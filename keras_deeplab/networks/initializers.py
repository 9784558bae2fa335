"""A kernel's shape in, its first values out: Kaiming's normal distribution, or zeros if weights are assigned right after."""

from contextlib import contextmanager
from contextvars import ContextVar

import keras
from keras import ops

from keras_deeplab.keras_tools import serializable

_zeros = ContextVar("kernels_start_as_zeros", default=False)


@contextmanager
def kernels_start_as_zeros():
    """A context in which kernels start as zeros, for models whose weights are assigned right after.

    Drawing random values would double the time to load such a model.
    """
    token = _zeros.set(True)
    try:
        yield
    finally:
        _zeros.reset(token)


@serializable
class VarianceScaling(keras.initializers.VarianceScaling):
    """Keras's `VarianceScaling`, but zeros inside `kernels_start_as_zeros`."""

    def __call__(self, shape, dtype=None, **kwargs):
        return ops.zeros(shape, dtype) if _zeros.get() else super().__call__(shape, dtype, **kwargs)


def he_normal(mode="fan_out"):
    """Kaiming's normal distribution (He et al. 2015) as PyTorch defines it.

    For a depthwise kernel use "fan_in": it is what PyTorch calls the fan_out of such a kernel.
    """
    return VarianceScaling(2.0, mode, "untruncated_normal")
