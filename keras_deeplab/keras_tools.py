"""Small helpers for dtypes, replicas and saving that Keras lacks. All folders may import them; they import none."""

from contextlib import contextmanager

import keras
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
        self.variables = list(variables)
        self.values = [_held_value(variable) for variable in self.variables]

    def is_current(self):
        """Whether all variables still have these values."""
        now = map(_held_value, self.variables)
        return all(mark == mark_now for (_, mark), (_, mark_now) in zip(self.values, now, strict=True))


def _held_value(variable):
    """(a variable's value, a mark that is the same as long as the variable has this value and somebody holds it)."""
    value, backend = variable.value, keras.backend.backend()
    if backend == "jax":
        return value, id(value)
    if backend != "tensorflow":
        return value, object()
    import numpy as np
    import tensorflow as tf

    if isinstance(value, tf.distribute.DistributedValues):  # replicas have equal values
        value = value.values[0]
    value = tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype)
    if "CPU" not in value.device or value.dtype not in (tf.float32, tf.float64, tf.float16):
        return value, object()
    return value, np.asarray(memoryview(value)).__array_interface__["data"][0]  # where it lies in memory


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
