"""Winograd's 3x3 convolution, for inference on a CPU: 36 products in place of 144 for 4x4 pixels (Lavin & Gray 2016).

A tile, 4x4 pixels of the output `rate` apart, depends on 6x6 pixels of the input. The sum over the kernel becomes one
matrix product for each of 36 points, of a transform of the tiles with one of the kernel; a third makes the output.
"""

from functools import cache

import numpy as np
from keras import ops

from keras_deeplab.networks.fast.graph import in_shared_function

TILE = 4
REACH = TILE + 2  # pixels along one axis that a tile depends on
# And infinity. The error is about twice a plain convolution's; the usual 0, 1, -1, 2, -2 double it once more.
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
TILES_AT_ONCE, CHANNELS_AT_ONCE = 256, 512  # 19 MB each for the tiles, their transform, and the products
TRANSFORM = 8.0  # what a multiplication of a transform costs beside one of a product, at most: memory bounds it


@cache
def matrices():
    """The transforms of both axes at once: of the input (36, 36), of the kernel (36, 9), to the output (16, 36)."""
    points = np.array(POINTS)
    others = [np.delete(points, i) for i in range(len(points))]
    inputs = [np.append(np.poly(other)[::-1], 0.0) for other in others] + [np.poly(points)[::-1]]
    kernel = [point ** np.arange(3) / np.prod(point - other) for point, other in zip(points, others, strict=True)]
    outputs = [point ** np.arange(TILE) for point in points] + [np.eye(TILE)[-1]]
    parts = np.array(inputs), np.array([*kernel, np.eye(3)[-1]]), np.array(outputs).T
    return tuple(np.kron(part, part).astype("float32") for part in parts)


def tiles_along(size, rate):
    """Tiles along one axis of one of the grids that it falls into: pixels `rate` apart."""
    return -(-size // (rate * TILE))


def group_of(channels):
    """Channels at once: the largest divisor up to `CHANNELS_AT_ONCE`; all, if that is less than a quarter of it."""
    largest = max(size for size in range(1, CHANNELS_AT_ONCE + 1) if channels % size == 0)
    return channels if largest < min(channels, CHANNELS_AT_ONCE / 4) else largest


def winograd_pays(x, kernel, rate, products):
    """Whether the transforms cost less than they save.

    Args:
        x: (N, H, W, C).
        kernel: (3, 3, C, F).
        rate: pixels from one tap to the next.
        products: of a pixel's C values and a (C, F) matrix that another way takes.

    Returns:
        a bool; a tensor of one where the map's size is not known and matters.
    """
    channels, filters = kernel.shape[2:]
    by_tile = REACH**2 * (1 + TRANSFORM * (REACH**2 / filters + TILE**2 / channels))
    if by_tile >= 9 * TILE**2:  # too few channels: never
        return False
    n, height, width, _ = ops.shape(x)
    tiles = n * rate**2 * tiles_along(height, rate) * tiles_along(width, rate)
    return tiles * round(by_tile) + round(TRANSFORM * 9 * REACH**2) < products


def winograd_conv2d(x, kernel, rate):
    """A 3x3 convolution at stride 1 with zeros around the map.

    Args:
        x: (N, H, W, C) float32.
        kernel: (3, 3, C, F) float32.
        rate: pixels from one tap to the next.

    Returns:
        (N, H, W, F) float32, within rounding what `tf.nn.conv2d` gives.
    """
    return in_shared_function(_convolution, x, kernel, rate)


def _convolution(x, kernel, rate):
    import tensorflow as tf

    n, height, width, channels = ops.shape(x)
    filters = kernel.shape[-1]
    to_points, kernel_to_points, to_pixels = matrices()
    group = group_of(channels)
    groups = channels // group
    kernel = tf.reshape(kernel, [9, groups, group * filters])

    rows, columns = (rate * tiles_along(size, rate) for size in (height, width))  # of tiles
    tiles = n * rows * columns
    nowhere = n * height * width  # the number of a pixel beyond the map; all are numbered

    def taps(size, step):
        """Along an axis: the place of each of the `REACH` pixels of every tile, grid by grid."""
        first = tf.range(rate)[:, None] + tf.range(tiles_along(size, rate)) * (TILE * rate)
        place = tf.reshape(first, [-1]) + tf.range(-1, REACH - 1)[:, None] * rate
        return tf.where((place >= 0) & (place < size), place * step, nowhere)

    pixels = taps(height, width)[:, None, None, :, None] + taps(width, 1)[:, None, None]
    pixels = tf.minimum(pixels + tf.reshape(tf.range(n) * (height * width), [-1, 1, 1]), nowhere)
    pixels = tf.reshape(pixels, [REACH**2, tiles])  # that a tile depends on
    x = tf.reshape(x, [-1, groups, group])

    chunks = -(-tiles // TILES_AT_ONCE)
    count = -(-tiles // chunks)  # tiles in each; the last chunk repeats some

    def transformed(j):
        """A group's channels of all pixels, zeros for `nowhere`, and of the kernel."""
        points = tf.matmul(kernel_to_points, kernel[:, j])
        return tf.pad(x[:, j], [[0, 1], [0, 0]]), tf.reshape(points, [REACH**2, group, filters])

    def chunk_of(i, part, points):
        values = tf.gather(part, tf.slice(pixels, [0, tf.minimum(i * count, tiles - count)], [REACH**2, count]))
        values = tf.matmul(to_points, tf.reshape(values, [REACH**2, count * group]))
        products = tf.matmul(tf.reshape(values, [REACH**2, count, group]), points)
        output = tf.matmul(to_pixels, tf.reshape(products, [REACH**2, count * filters]))
        return tf.reshape(output, [TILE**2 * count, filters])

    outputs = (_summed if isinstance(tiles, int) else _summed_by_loops)(groups, chunks, transformed, chunk_of)

    # Where a pixel of the output is among them: in which tile, and which pixel of it.
    (row, y), (column, x) = (_tile_of(size, rate) for size in (height, width))
    tile = _outer_sum(tf.range(n) * (rows * columns), row * columns, column)
    chunk = tf.minimum(tile // count, chunks - 1)
    start = tf.minimum(chunk * count, tiles - count)
    place = (chunk * TILE**2 + y[:, None] * TILE + x) * count + tile - start
    return tf.gather(tf.reshape(outputs, [-1, filters]), place)


def _summed(groups, chunks, transformed, chunk_of):
    """The sum over groups of channels of each chunk, the chunks one below the other. No loops: converters know few."""
    import tensorflow as tf

    sums, before = [None] * chunks, []
    for j in range(groups):
        with tf.control_dependencies(before):  # one after another, for memory's sake
            operands = transformed(j)
        for i in range(chunks):
            with tf.control_dependencies(before):
                output = chunk_of(i, *operands)
                sums[i] = output if j == 0 else sums[i] + output
            before = [sums[i]]
    return tf.concat(sums, 0)


def _summed_by_loops(groups, chunks, transformed, chunk_of):
    """The same where the number of chunks is a tensor."""
    import tensorflow as tf

    def add_group(j, sums):
        with tf.control_dependencies([sums.flow]):  # one after another here too
            operands = transformed(j)

        def add_chunk(i, sums):
            with tf.control_dependencies([sums.flow]):
                output = chunk_of(i, *operands)
            return i + 1, sums.write(i, output if isinstance(j, int) else sums.read(i) + output)

        return j + 1, tf.while_loop(lambda i, _: i < chunks, add_chunk, [0, sums], parallel_iterations=1)[1]

    sums = tf.TensorArray(tf.float32, chunks, element_shape=[None, None], infer_shape=False, clear_after_read=False)
    state = add_group(0, sums)
    if groups > 1:
        state = tf.while_loop(lambda j, _: j < groups, add_group, state, parallel_iterations=1)
    return state[1].concat()


def _tile_of(size, rate):
    """Along one axis: the tile of every pixel, grid by grid, and which of its `TILE` pixels it is."""
    import tensorflow as tf

    pixel = tf.range(size)
    in_grid = pixel // rate
    return pixel % rate * tiles_along(size, rate) + in_grid // TILE, in_grid % TILE


def _outer_sum(a, b, c):
    return a[:, None, None] + b[:, None] + c
