"""Small helpers for dtypes, replicas and saving that Keras lacks. All folders may import them; they import none."""

from contextlib import contextmanager

import keras

serializable = keras.saving.register_keras_serializable("keras_deeplab")


@contextmanager
def default_dtype(dtype):
    """A context in which new layers have the dtype policy `dtype`; None leaves the global policy as it is."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(keras.dtype_policies.get(dtype or before))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def at_least_float32(dtype):
    """ "float64" for float64, otherwise "float32". (On JAX Keras's `result_type` of float64 and float32 would be float32.)"""
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def over_replicas():
    """A function that sums a value over the replicas of a TensorFlow strategy; None if there is only one replica."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return lambda value: context.all_reduce(tf.distribute.ReduceOp.SUM, value)
