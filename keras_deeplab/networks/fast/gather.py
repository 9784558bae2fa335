"""Numbers of pixels in, their channels out, on TensorFlow; zeros for a number that no pixel has."""


def pixels_or_zeros(x, numbers, group):
    """Some channels of some pixels. There is no padded copy of the map, and no pass over the result to set zeros.

    For graphs that run on this machine's CPU: older versions of TensorFlow and the converters lack this operation.

    Args:
        x: (P, G, C), P pixels whose channels are in G groups.
        numbers: integers of any shape; P stands for a pixel of zeros.
        group: a number or a scalar tensor, which of the G groups to take.

    Returns:
        (..., C), of the shape of `numbers`.
    """
    import tensorflow as tf

    indices = tf.stack([numbers, tf.zeros_like(numbers) + group], axis=-1)
    return tf.gather_nd(x, indices, bad_indices_policy="IGNORE")
