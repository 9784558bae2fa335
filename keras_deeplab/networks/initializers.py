"""How kernels start: Kaiming's normal distribution, or zeros where real weights are assigned right after."""

from contextlib import contextmanager
from contextvars import ContextVar

import keras
from keras import ops

from keras_deeplab.keras_tools import serializable

_zeros = ContextVar("kernels_start_as_zeros", default=False)


@contextmanager
def kernels_start_as_zeros():
    """Inside this context kernels start as zeros: real weights are assigned right after, and drawing random ones would
    double the load time."""
    token = _zeros.set(True)
    try:
        yield
    finally:
        _zeros.reset(token)


@serializable
class VarianceScaling(keras.initializers.VarianceScaling):
    """Keras's, and zeros inside `kernels_start_as_zeros`."""

    def __call__(self, shape, dtype=None, **kwargs):
        return ops.zeros(shape, dtype) if _zeros.get() else super().__call__(shape, dtype, **kwargs)


def he_normal(mode="fan_out"):
    """Kaiming's normal distribution (He et al. 2015) as PyTorch draws it.

    PyTorch counts the fan_out of a depthwise kernel as Keras counts its fan_in.
    """
    return VarianceScaling(2.0, mode, "untruncated_normal")
