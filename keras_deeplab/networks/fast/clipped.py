"""Atrous 3x3 convolution without products with the padding: a map in, a map out.

A 3x3 kernel has nine taps. A tap is a (C, F) matrix, which multiplies the part of the map that the tap reaches; the results
of the nine taps are padded to the size of the map and added. At rate 36 on a 64x128 map, half of the multiplications of a
plain convolution are with the zeros around the map.
"""

PIXELS_PER_BAND = 2048  # a band is some rows of a map whose parts are in memory together: 17 MB of DeepLabV3's features


def clipped_conv2d(x, kernel, rate):
    """A 3x3 convolution at stride 1 with zeros around the map, on TensorFlow.

    A map of unknown size is computed in bands of some rows: parts of the whole map would take twice its memory. The gradient
    cuts the parts out again: if the forward pass kept them, they would take up to nine times the memory of `x`.

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
    # The middle tap comes first because it reaches all pixels.
    taps = [(1, 1)] + [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]

    def counts_outside(tap, first, end, side):
        """For how many output pixels of `first`..`end` along an axis the tap lies before the map, and behind it."""
        shift = (tap - 1) * rate
        return [tf.clip_by_value(count, 0, end - first) for count in (-first - shift, end + shift - side)]

    def cut(x, top, bottom, left, right):
        """The pixels of `x` without its borders of these widths, (pixels, channels)."""
        return tf.reshape(x[:, top : height - bottom, left : width - right], [-1, x.shape[-1]])

    @tf.custom_gradient
    def convolution(x, kernel):
        def gradient(upstream):
            x_gradient, tap_gradients = None, {}
            for i, j in taps:
                top, bottom = counts_outside(i, 0, height, height)
                left, right = counts_outside(j, 0, width, width)
                # Run the taps one at a time, and none of them during the forward pass: each takes memory.
                with tf.control_dependencies([upstream if x_gradient is None else x_gradient]):
                    upstream_part = cut(upstream, top, bottom, left, right)
                    x_part = cut(x, bottom, top, right, left)  # the tap is shifted, so the other borders are cut off
                    tap_gradients[i, j] = tf.matmul(x_part, upstream_part, transpose_a=True)
                    part = tf.matmul(upstream_part, kernel[i, j], transpose_b=True)
                    part = tf.reshape(part, [n, height - top - bottom, width - left - right, channels])
                    part = tf.pad(part, [[0, 0], [bottom, top], [right, left], [0, 0]])
                    x_gradient = part if x_gradient is None else x_gradient + part
            kernel_rows = [tf.stack([tap_gradients[i, j] for j in range(3)]) for i in range(3)]
            return tf.ensure_shape(x_gradient, x.shape), tf.stack(kernel_rows)

        matrices = tf.reshape(kernel, [9, *kernel.shape[2:]])  # a slice of the first axis is no copy

        def output_rows(pictures, first, end):
            """The rows `first`..`end` of the output, for a slice of the pictures."""
            totals = []  # after each tap
            for i, j in taps:
                top, bottom = counts_outside(i, first, end, height)
                left, right = counts_outside(j, 0, width, width)
                down, across = (i - 1) * rate, (j - 1) * rate
                with tf.control_dependencies(totals[-2:-1]):  # otherwise TensorFlow may cut out all parts first
                    part = x[pictures, first + top + down : end - bottom + down, left + across : width - right + across]
                count = tf.shape(part)[0]
                part = tf.matmul(tf.reshape(part, [-1, channels]), matrices[3 * i + j])
                part = tf.reshape(part, [count, end - first - top - bottom, width - left - right, filters])
                part = tf.pad(part, [[0, 0], [top, bottom], [left, right], [0, 0]])
                totals.append(totals[-1] + part if totals else part)
            return totals[-1]

        # A known size has no bands: XLA and the converters do not support a loop whose last result is smaller.
        if None not in x.shape[1:3]:
            return tf.ensure_shape(output_rows(slice(None), 0, height), [*x.shape[:3], filters]), gradient
        band_height = tf.maximum(PIXELS_PER_BAND // width, 1)
        bands = -(-height // band_height)  # of each picture

        def add_band(k, outputs):
            picture, first = k // bands, k % bands * band_height
            rows = output_rows(slice(picture, picture + 1), first, tf.minimum(first + band_height, height))
            return k + 1, outputs.write(k, tf.reshape(rows, [-1, filters]))

        outputs = tf.TensorArray(x.dtype, n * bands, element_shape=[None, filters], infer_shape=False)
        _, outputs = tf.while_loop(lambda k, _: k < n * bands, add_band, [0, outputs], parallel_iterations=1)
        return tf.reshape(outputs.concat(), [n, height, width, filters]), gradient

    # As a tensor: for a variable TensorFlow would require a gradient with another signature.
    return convolution(x, tf.convert_to_tensor(kernel))
