"""A convolution in, its result out: in TensorFlow's graphs it shares its code with others, or waits for the one before."""

from functools import cache

import keras


def in_shared_function(convolution, x, kernel, rate, *options):
    """`convolution(x, kernel, rate, *options)` as a function that all layers of a graph share.

    Otherwise a graph of R-101 takes 4 s longer before its first run.
    """
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel)
    if tf.executing_eagerly():
        return convolution(x, kernel, rate, *options)
    # For a map of unknown size the rate is a tensor, so that one function serves all rates.
    rate = tf.constant(rate) if None in x.shape and isinstance(rate, int) else rate
    return shared_function(convolution)(x, kernel, rate, *options)


@cache
def shared_function(convolution):
    """The one `tf.function` of a convolution."""
    import tensorflow as tf

    return tf.function(convolution, autograph=False, experimental_attributes={"_noinline": True})


def in_function_of_any_shape(convolution, x, kernel, *options):
    """`convolution(x, kernel, *options)` as a function that all layers of a graph share, whatever their channels.

    Each function takes 0.1 s and 5 MiB before the first run. An option that is a constant would make one for each layer.

    Args:
        convolution: a function of tensors whose shapes it does not know, but for that of the kernel's taps.
        x: (N, H, W, C).
        kernel: (k, k, C, F).
        options: numbers and tensors.

    Returns:
        (N, H, W, F).
    """
    import tensorflow as tf

    x, kernel, *options = (tf.convert_to_tensor(tensor) for tensor in (x, kernel, *options))
    if tf.executing_eagerly():
        return convolution(x, kernel, *options)
    specs = (
        tf.TensorSpec([None] * 4, x.dtype),
        tf.TensorSpec([*kernel.shape[:2], None, None], kernel.dtype),
        *(tf.TensorSpec(option.shape, option.dtype) for option in options),
    )
    outputs = _function_of_any_shape(convolution, specs)(x, kernel, *options)
    outputs.set_shape([*x.shape[:3], kernel.shape[3]])
    return outputs


@cache
def _function_of_any_shape(convolution, specs):
    import tensorflow as tf

    return tf.function(convolution, specs, autograph=False, experimental_attributes={"_noinline": True})


def one_after_another(convolution, x):
    """`convolution(x)`; in a graph it runs after the convolution of the call before.

    The branches of ASPP have the same input, and TensorFlow would run them at the same time. Those of V3 would then take
    300 MB more at 512x1024.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        return convolution(x)
    graph, name = tf.compat.v1.get_default_graph(), one_after_another.__qualname__
    with tf.control_dependencies(graph.get_collection(name)[-1:]):
        outputs = convolution(tf.identity(x))
    graph.add_to_collection(name, outputs)
    return outputs


def computed_apart(x):
    """A tensor or several. On JAX they are computed once, before what uses them: XLA would put them into each loop that reads
    them."""
    if keras.backend.backend() != "jax":
        return x
    import jax

    return jax.lax.optimization_barrier(x)
