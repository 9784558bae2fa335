"""Atrous depthwise convolution as a plain one: a map in, a map out.

Pixels `rate` apart form a grid. No tap leaves the grid of its pixel, so an atrous convolution of the map is a plain
convolution of each grid. For large maps this is as fast as TensorFlow's own atrous convolution (30 ms for either on R-50's
64x128x2048); where the rate is larger than the map it is up to 4 times faster. It uses only reshapes, transposes and a plain
convolution, so that XLA compiles it in half precision.
"""


def pair(rate):
    """A rate as (down, across)."""
    return tuple(rate) if isinstance(rate, (tuple, list)) else (rate, rate)


def interleaved_depthwise_conv2d(x, kernel, rate):
    """A depthwise convolution at stride 1 with zeros around the map, on TensorFlow: one plain convolution of all grids.

    The gradient makes the grids again: if the forward pass kept them, those of ASPP would take as much memory as four of its
    inputs.

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C, 1), k odd.
        rate: pixels from one tap to the next, or (down, across).

    Returns:
        (N, H, W, C).
    """
    import tensorflow as tf

    n, height, width, channels = tf.unstack(tf.shape(x))
    # Grids along each axis: at most one for each of its pixels.
    down, across = (tf.minimum(*axis) for axis in zip(pair(rate), (height, width), strict=True))
    rows, columns = -(-height // down), -(-width // across)  # of a grid

    def split(x, rows):
        """The grids of a map as pictures of their own: (down * across * N, rows, columns, C)."""
        grids = tf.pad(x, [[0, 0], [0, rows * down - height], [0, columns * across - width], [0, 0]])
        grids = tf.transpose(tf.reshape(grids, [n, rows, down, columns, across, channels]), [2, 4, 0, 1, 3, 5])
        return tf.reshape(grids, [down * across * n, rows, columns, x.shape[-1]])

    def join(grids, rows):
        """The map of which `split` made the grids, (N, H, W, C)."""
        grids = tf.transpose(tf.reshape(grids, [down, across, n, rows, columns, channels]), [2, 3, 0, 4, 1, 5])
        maps = tf.reshape(grids, [n, rows * down, columns * across, channels])[:, :height, :width]
        return tf.ensure_shape(maps, x.shape)

    options = [1, 1, 1, 1], "SAME"  # strides, padding

    @tf.custom_gradient
    def convolution(x, kernel):
        def gradient(upstream):
            padded_rows = tf.maximum(rows, 3)  # on fewer rows oneDNN's gradient of the kernel is 5 to 25 times slower
            upstream = split(upstream, padded_rows)
            with tf.control_dependencies([upstream]):  # otherwise the graph's optimizer reuses the forward pass's grids
                grids = split(x, padded_rows)
            kernel_gradient = tf.nn.depthwise_conv2d_backprop_filter(grids, kernel.shape, upstream, *options)
            grid_gradients = tf.nn.depthwise_conv2d_backprop_input(tf.shape(grids), kernel, upstream, *options)
            return join(grid_gradients, padded_rows), kernel_gradient

        return join(tf.nn.depthwise_conv2d(split(x, rows), kernel, *options), rows), gradient

    # As a tensor: for a variable TensorFlow would require a gradient with another signature.
    return convolution(x, tf.convert_to_tensor(kernel))


class Grids:
    """The grids of maps (N, H, W, C), for inference on TensorFlow: each way is a single copy, which takes half the time.

    Args:
        shape: N, H and W.
        rate: pixels from one tap to the next, or (down, across).
    """

    def __init__(self, shape, rate):
        import tensorflow as tf

        n, height, width = shape
        down, across = (tf.minimum(*axis) for axis in zip(pair(rate), (height, width), strict=True))
        rows, columns = -(-height // down), -(-width // across)  # of a grid
        self.shape = [down * across * n, rows, columns]
        # Of each grid pixel (down, across, N, rows, columns): its pixel of the maps, and whether that lies on the map.
        y = (tf.range(down)[:, None] + tf.range(rows) * down)[:, None, None, :, None]
        x = (tf.range(across)[:, None] + tf.range(columns) * across)[None, :, None, None, :]
        picture = tf.range(n)[:, None, None]
        pixels = (picture * height + tf.minimum(y, height - 1)) * width + tf.minimum(x, width - 1)
        self.pixels, self.inside = (
            tf.reshape(of_grids, [-1]) for of_grids in (pixels, (y < height) & (x < width) & (picture >= 0))
        )
        # Of each pixel of the maps (N, H, W): its grid pixel.
        y, x = tf.range(height)[:, None], tf.range(width)
        self.places = (((y % down * across + x % across) * n + picture) * rows + y // down) * columns + x // across

    def split(self, x, group, groups):
        """The grids of one of `groups` equal parts of the channels of `x`: (down * across * N, rows, columns, C').

        Beyond the map they are zero.
        """
        import tensorflow as tf

        channels = x.shape[-1] // groups
        values = tf.gather(tf.reshape(x, [-1, channels]), self.pixels * groups + group)
        # A product with zero would leave NaN, and take longer in bfloat16.
        bits = {2: tf.int16, 4: tf.int32, 8: tf.int64}[x.dtype.size]
        mask = -tf.cast(self.inside, bits)[:, None]
        values = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(values, bits), mask), x.dtype)
        return tf.reshape(values, [*self.shape, channels])

    def join(self, grids):
        """The maps (N, H, W, C') of grids."""
        import tensorflow as tf

        channels = grids.shape[-1]
        maps = tf.gather(tf.reshape(grids, [-1, channels]), self.places)
        return tf.ensure_shape(maps, [None, None, None, channels])
