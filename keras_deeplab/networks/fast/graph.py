"""How operations stand in TensorFlow's graphs: which share code, and which run one after another."""

from functools import cache


def in_shared_function(convolution, x, kernel, rate):
    """`convolution(x, kernel, rate)` as a function that all layers of a graph share.

    Without it a graph of R-101 takes 4 s longer before its first run.
    """
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel)
    if tf.executing_eagerly():
        return convolution(x, kernel, rate)
    return shared(convolution)(x, kernel, tf.constant(rate) if None in x.shape else rate)


@cache
def shared(convolution):
    """The one `tf.function` of a convolution."""
    import tensorflow as tf

    return tf.function(convolution, autograph=False, experimental_attributes={"_noinline": True})


def one_after_another(convolution, x):
    """`convolution(x)`; in a graph, not before the last convolution that was made by this function.

    ASPP's branches have one input, and TensorFlow would run them at the same time. V3's take 300 MB more then, at 512x1024.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        return convolution(x)
    graph, name = tf.compat.v1.get_default_graph(), one_after_another.__qualname__
    with tf.control_dependencies(graph.get_collection(name)[-1:]):
        outputs = convolution(tf.identity(x))
    graph.add_to_collection(name, outputs)
    return outputs
