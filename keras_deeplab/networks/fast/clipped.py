"""Atrous 3x3 convolution by taps: each tap is a matrix product over the part of the map that it reaches.

At rate 36 on a 64x128 map, half of a plain convolution's multiplications are with the zeros around the map; here there are
none. The results of the taps are shifted and added.
"""

PIXELS_AT_ONCE = 2048  # pixels whose parts are cut out together: 17 MB of DeepLabV3's features


def clipped_conv2d(x, kernel, rate):
    """A 3x3 convolution at stride 1 with zeros around the map, on TensorFlow.

    A map of unknown size is cut some rows at a time: parts of all of it would take twice its memory. The gradient cuts the
    parts again: kept from the forward pass, they would take up to nine times the memory of `x`.

    Args:
        x: (N, H, W, C).
        kernel: (3, 3, C, F).
        rate: pixels from one tap to the next.

    Returns:
        (N, H, W, F).
    """
    import tensorflow as tf

    n, height, width, channels = tf.unstack(tf.shape(x))
    filters = kernel.shape[-1]
    taps = [(1, 1)] + [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]

    def beyond(tap, first, end, side):
        """How many of the output's pixels from `first` to `end` along an axis have the tap before the map, and behind it."""
        shift = (tap - 1) * rate
        return [tf.clip_by_value(count, 0, end - first) for count in (-first - shift, end + shift - side)]

    def cut(x, top, bottom, left, right):
        return tf.reshape(x[:, top : height - bottom, left : width - right], [-1, x.shape[-1]])

    @tf.custom_gradient
    def convolution(x, kernel):
        def gradient(upstream):
            to_x, to_kernel = None, {}
            for i, j in taps:
                (top, bottom), (left, right) = beyond(i, 0, height, height), beyond(j, 0, width, width)
                # Run the taps one at a time, and none of them during the forward pass.
                with tf.control_dependencies([upstream if to_x is None else to_x]):
                    above = cut(upstream, top, bottom, left, right)
                    to_kernel[i, j] = tf.matmul(cut(x, bottom, top, right, left), above, transpose_a=True)
                    part = tf.matmul(above, kernel[i, j], transpose_b=True)
                    part = tf.reshape(part, [n, height - top - bottom, width - left - right, channels])
                    part = tf.pad(part, [[0, 0], [bottom, top], [right, left], [0, 0]])
                    to_x = part if to_x is None else to_x + part
            rows = [tf.stack([to_kernel[i, j] for j in range(3)]) for i in range(3)]
            return tf.ensure_shape(to_x, x.shape), tf.stack(rows)

        matrices = tf.reshape(kernel, [9, *kernel.shape[2:]])  # one of nine is taken without a copy

        def rows_of(pictures, first, end):
            """The output's rows from `first` to `end` of some pictures."""
            totals = []
            for i, j in taps:
                (top, bottom), (left, right) = beyond(i, first, end, height), beyond(j, 0, width, width)
                down, across = (i - 1) * rate, (j - 1) * rate
                with tf.control_dependencies(totals[-2:-1]):  # otherwise TensorFlow may cut all parts first
                    part = x[pictures, first + top + down : end - bottom + down, left + across : width - right + across]
                count = tf.shape(part)[0]
                part = tf.matmul(tf.reshape(part, [-1, channels]), matrices[3 * i + j])
                part = tf.reshape(part, [count, end - first - top - bottom, width - left - right, filters])
                part = tf.pad(part, [[0, 0], [top, bottom], [left, right], [0, 0]])
                totals.append(totals[-1] + part if totals else part)
            return totals[-1]

        if None not in x.shape[1:3]:  # XLA and converters do not support a loop whose last part is smaller
            return tf.ensure_shape(rows_of(slice(None), 0, height), [*x.shape[:3], filters]), gradient
        at_once = tf.maximum(PIXELS_AT_ONCE // width, 1)
        bands = -(-height // at_once)

        def add_band(k, outputs):
            picture, first = k // bands, k % bands * at_once
            rows = rows_of(slice(picture, picture + 1), first, tf.minimum(first + at_once, height))
            return k + 1, outputs.write(k, tf.reshape(rows, [-1, filters]))

        outputs = tf.TensorArray(x.dtype, n * bands, element_shape=[None, filters], infer_shape=False)
        _, outputs = tf.while_loop(lambda k, _: k < n * bands, add_band, [0, outputs], parallel_iterations=1)
        return tf.reshape(outputs.concat(), [n, height, width, filters]), gradient

    return convolution(x, tf.convert_to_tensor(kernel))  # TensorFlow would want a gradient of its own for a variable
