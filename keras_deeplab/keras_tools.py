"""Small helpers for dtypes, replicas and saving that Keras lacks. All folders may import them; they import none."""

from contextlib import contextmanager

import keras
import numpy as np
from keras import ops

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
    """The dtype to compute in: "float64" for float64, "float32" otherwise. (Keras's `result_type` gives float32 on JAX.)"""
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


class Snapshot:
    """The values that variables have now, to find out later whether they have changed. It takes no copy.

    A value that a backend has handed out does not change: JAX's arrays are immutable, and TensorFlow writes new values to
    other memory while somebody holds the old ones. Those stay in memory as long as the snapshot. Where this does not hold
    (PyTorch) or cannot be seen (a GPU with TensorFlow, bfloat16), variables always count as changed.
    """

    def __init__(self, variables):
        self._read = _reader_of(list(variables))

    def take(self):
        """Takes the values that the variables have now."""
        self._values = self._read()
        self._marks = _marks_of(self._values)

    def is_current(self):
        """Whether all variables still have the values that were taken."""
        return self._marks == _marks_of(self._read())


def _reader_of(variables):
    """A function that gives the values of variables without a copy; in TensorFlow all are read in one call."""
    if keras.backend.backend() != "tensorflow":
        return lambda: [variable.value for variable in variables]
    import tensorflow as tf

    values = [variable.value for variable in variables]
    # Replicas have equal values.
    values = [value.values[0] if isinstance(value, tf.distribute.DistributedValues) else value for value in values]

    def read():
        return [tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype) for value in values]

    return tf.function(read, autograph=False).get_concrete_function()


def _marks_of(values):
    """What is equal as long as variables have these values and somebody holds them."""
    backend = keras.backend.backend()
    if backend == "jax":
        return [id(value) for value in values]
    if backend != "tensorflow":
        return object()
    import tensorflow as tf

    if any("CPU" not in value.device or value.dtype not in (tf.float32, tf.float64, tf.float16) for value in values):
        return object()
    # Where they lie in memory.
    return [np.asarray(memoryview(value)).__array_interface__["data"][0] for value in values]


NO_CLASS = 2**15  # float16 holds it too


def label_maps(labels, predictions):
    """Label maps (N, H, W), also of labels (N, H, W, 1), which `decode_png` and TFDS give.

    Args:
        labels: (N, H, W) or (N, H, W, 1).
        predictions: logits (N, H, W, outputs) of the same height and width.

    Returns:
        (N, H, W) int32. A label with a fraction, such as those of a mask that was divided by 255, becomes `NO_CLASS`.

    Raises:
        ValueError: for labels of another rank or size.
    """
    labels = ops.convert_to_tensor(labels)
    if getattr(labels.shape, "rank", 0) is None:  # TensorFlow's alone
        raise ValueError(
            "Labels must have a known number of axes. Received: a dataset whose labels have none. "
            "Set their shape in its map function: tf.ensure_shape(label, [None, None])."
        )
    if len(labels.shape) == 4 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    rule = "Labels must be class numbers of shape (N, H, W) or (N, H, W, 1), as high and wide as the logits"
    sizes = zip(labels.shape, predictions.shape, strict=False)
    if len(labels.shape) != 3 or any(None not in pair and pair[0] != pair[1] for pair in sizes):
        remedy = "One-hot labels become class numbers by argmax." if len(labels.shape) == 4 else "Check the sizes."
        received = f"labels of shape {tuple(labels.shape)} for logits of shape {tuple(predictions.shape)}"
        raise ValueError(f"{rule}. Received: {received}. {remedy}")
    if "float" in keras.backend.standardize_dtype(labels.dtype):
        labels = ops.where(ops.equal(labels, ops.floor(labels)), labels, NO_CLASS)
    return ops.cast(labels, "int32")


def per_channel(values, dtype):
    """Numbers for the channels of a map as an array, or as one number if all are equal, which TensorFlow uses in less time."""
    values = np.array(values, dtype)
    return values[0] if (values == values[0]).all() else values
