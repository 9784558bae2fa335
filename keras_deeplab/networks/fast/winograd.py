"""Winograd's 3x3 convolution, for inference on a CPU: a map in, a map out (Lavin & Gray 2016).

A tile is 4x4 pixels of the output in float32, and 2x2 in bfloat16, where larger tiles would lose too many digits. In an
atrous convolution its pixels, and the 6x6 or 4x4 pixels of the input that it depends on, are `rate` apart. The convolution
takes three steps, here for 4x4:

1. One matrix transforms the 36 pixels of each tile, another the 9 taps of the kernel, to values at 36 points.
2. At each point, one matrix product sums over the channels: 36 products for a tile in place of 9 * 16 = 144.
3. A third matrix transforms the 36 results to the 16 pixels of the output.

For 2x2 they are 16 products in place of 36.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_deeplab.networks.fast.graph import in_shared_function


class Form(NamedTuple):
    """How tiles are transformed, and how many are in memory together.

    Attributes:
        side: pixels of a tile along an axis of the output.
        points: the transforms evaluate polynomials at these points and at infinity.
        tiles: so many are transformed together,
        values: or more, if the channels of all have at most so many values at a point.
        channels: at most so many channels are transformed together.
    """

    side: int
    points: tuple
    tiles: int
    values: int
    channels: int

    @property
    def reach(self):
        """Pixels of the input along an axis that a tile depends on."""
        return self.side + 2


# The rounding error is about 2 times that of a plain convolution of the same dtype. In float32 it would be about 4 times at
# the usual points 0, 1, -1, 2, -2; in bfloat16 tiles of 4x4 would have 5 times. The tiles, their transform, and the products
# take about 20 MB each at most. In bfloat16 one product sums all channels: sums of groups would be rounded once more.
FORMS = {
    "float32": Form(4, (0.0, 0.75, -0.75, 1.5, -1.5), tiles=256, values=0, channels=512),
    "bfloat16": Form(2, (0.0, 1.0, -1.0), tiles=256, values=2**18, channels=2**20),
}
# The cost of a multiplication in a transform, at most, where one in a matrix product costs 1: memory bounds the transforms.
TRANSFORM_COST = 8.0


@cache
def transform_matrices(dtype):
    """The transforms of both axes: of the input (36, 36), the kernel (36, 9), to the output (16, 36), or those of 2x2."""
    form = FORMS[dtype]
    points = np.array(form.points)
    others = [np.delete(points, i) for i in range(len(points))]  # for each point the other ones
    inputs = [np.append(np.poly(other)[::-1], 0.0) for other in others] + [np.poly(points)[::-1]]
    kernel = [point ** np.arange(3) / np.prod(point - other) for point, other in zip(points, others, strict=True)]
    outputs = [point ** np.arange(form.side) for point in points] + [np.eye(form.side)[-1]]
    for_one_axis = np.array(inputs), np.array([*kernel, np.eye(3)[-1]]), np.array(outputs).T
    return tuple(np.kron(matrix, matrix).astype("float32") for matrix in for_one_axis)


def tiles_along_grid(size, rate, side):
    """The number of tiles along an axis of `size` pixels of each of its grids; a grid is the pixels that are `rate` apart."""
    return -(-size // (rate * side))


def group_size(channels, most):
    """How many channels are transformed together: the largest divisor of their number up to `most`.

    It is all channels if that divisor is less than a quarter of `most`.
    """
    largest = max(size for size in range(1, min(channels, most) + 1) if channels % size == 0)
    return channels if largest < min(channels, most / 4) else largest


def winograd_pays(x, kernel, rate, products):
    """Whether Winograd's way, with its transforms, costs less than another way.

    The unit of cost is a product of C values and a (C, F) matrix.

    Args:
        x: (N, H, W, C).
        kernel: (3, 3, C, F).
        rate: pixels from one tap to the next.
        products: how many such products the other way computes.

    Returns:
        a bool; a bool tensor where the answer depends on the size of the map and this is not known.
    """
    form = FORMS[x.dtype.name]
    channels, filters = kernel.shape[2:]
    points = form.reach**2
    cost_of_tile = points * (1 + TRANSFORM_COST * (points / filters + form.side**2 / channels))
    if cost_of_tile >= 9 * form.side**2:  # too few channels: more than a plain convolution costs, whatever the size
        return False
    n, height, width, _ = ops.shape(x)
    down, across = (tiles_along_grid(size, rate, form.side) for size in (height, width))
    return n * rate**2 * down * across * round(cost_of_tile) + round(TRANSFORM_COST * 9 * points) < products


def winograd_conv2d(x, kernel, rate):
    """A 3x3 convolution at stride 1 with zeros around the map.

    Args:
        x: (N, H, W, C), of a dtype that `FORMS` has.
        kernel: (3, 3, C, F) of the same dtype.
        rate: pixels from one tap to the next.

    Returns:
        (N, H, W, F) of the same dtype, within rounding what `tf.nn.conv2d` gives.
    """
    return in_shared_function(_convolution, x, kernel, rate)


def portable_winograd_conv2d(x, kernel, rate):
    """As `winograd_conv2d`, in operations that older versions of TensorFlow and the converters have. It takes more memory."""
    return in_shared_function(_portable_convolution, x, kernel, rate)


def _portable_convolution(x, kernel, rate):
    return _convolution(x, kernel, rate, is_portable=True)


def _convolution(x, kernel, rate, is_portable=False):
    import tensorflow as tf

    form, dtype = FORMS[x.dtype.name], x.dtype
    points, side = form.reach**2, form.side
    n, height, width, channels = ops.shape(x)
    filters = kernel.shape[-1]
    input_transform, kernel_transform, output_transform = (
        tf.cast(one, dtype) for one in transform_matrices(dtype.name)
    )
    group = group_size(channels, form.channels)
    groups = channels // group
    kernel = tf.reshape(kernel, [9, groups, group * filters])

    # The tiles of all grids of all pictures are numbered, and so are the pixels of all pictures.
    tile_rows, tile_columns = (rate * tiles_along_grid(size, rate, side) for size in (height, width))
    tiles = n * tile_rows * tile_columns
    padding_pixel = n * height * width  # the number that stands for every pixel beyond a map; it holds zeros

    def input_pixels(size, step):
        """Along an axis: which pixels the tiles depend on, (side + 2, tiles), the tiles grid by grid, in units of `step`."""
        first = tf.range(rate)[:, None] + tf.range(tiles_along_grid(size, rate, side)) * (side * rate)
        place = tf.reshape(first, [-1]) + tf.range(-1, side + 1)[:, None] * rate
        return tf.where((place >= 0) & (place < size), place * step, padding_pixel)

    # Where either axis is beyond the map the sum is at least `padding_pixel`.
    pixels = input_pixels(height, width)[:, None, None, :, None] + input_pixels(width, 1)[:, None, None]
    pixels = tf.minimum(pixels + tf.reshape(tf.range(n) * (height * width), [-1, 1, 1]), padding_pixel)
    pixels = tf.reshape(pixels, [points, tiles])  # the numbers of the pixels that each tile depends on
    x = tf.reshape(x, [-1, groups, group])

    chunks = -(-tiles // max(form.tiles, form.values // group))
    tiles_per_chunk = -(-tiles // chunks)  # all chunks have the same size, so the last one repeats some tiles

    def group_operands(j):
        """Of group `j` of the channels: what `values_at` takes, and the transformed kernel (points, group, F)."""
        kernel_points = tf.matmul(kernel_transform, kernel[:, j])
        of_group = tf.pad(x[:, j], [[0, 1], [0, 0]]) if is_portable else tf.convert_to_tensor(j)
        return of_group, tf.reshape(kernel_points, [points, group, filters])

    def values_at(numbers, of_group):
        """A group's channels of the pixels of these numbers (...): (..., group)."""
        if is_portable:
            return tf.gather(of_group, numbers)
        indices = tf.stack([numbers, tf.zeros_like(numbers) + of_group], axis=-1)
        return tf.gather_nd(x, indices, bad_indices_policy="IGNORE")  # zeros for the padding pixel

    def chunk_output(i, of_group, kernel_points):
        """What a group of channels adds to the output of chunk `i`: (side**2 * tiles, F)."""
        first = tf.minimum(i * tiles_per_chunk, tiles - tiles_per_chunk)
        values = values_at(tf.slice(pixels, [0, first], [points, tiles_per_chunk]), of_group)
        values = tf.matmul(input_transform, tf.reshape(values, [points, tiles_per_chunk * group]))
        products = tf.matmul(tf.reshape(values, [points, tiles_per_chunk, group]), kernel_points)
        output = tf.matmul(output_transform, tf.reshape(products, [points, tiles_per_chunk * filters]))
        return tf.reshape(output, [side**2 * tiles_per_chunk, filters])

    sum_over_groups = _sum_unrolled if isinstance(tiles, int) else _sum_in_loops
    outputs = sum_over_groups(groups, chunks, group_operands, chunk_output, dtype)

    # Gather the pixels of the map from the tiles: for each pixel, its chunk, its tile in the chunk and its place in the tile.
    (row, y), (column, x) = (_tiles_of_pixels(size, rate, side) for size in (height, width))
    tile = _outer_sum(tf.range(n) * (tile_rows * tile_columns), row * tile_columns, column)
    chunk = tf.minimum(tile // tiles_per_chunk, chunks - 1)
    start = tf.minimum(chunk * tiles_per_chunk, tiles - tiles_per_chunk)
    place = (chunk * side**2 + y[:, None] * side + x) * tiles_per_chunk + tile - start
    return tf.gather(tf.reshape(outputs, [-1, filters]), place)


def _sum_unrolled(groups, chunks, group_operands, chunk_output, dtype):
    """The outputs of all chunks, each summed over the groups, one chunk below the other.

    It has no loops, which not all converters support.
    """
    import tensorflow as tf

    sums, before = [None] * chunks, []
    for j in range(groups):
        with tf.control_dependencies(before):  # one after another, to save memory
            operands = group_operands(j)
        for i in range(chunks):
            with tf.control_dependencies(before):
                output = chunk_output(i, *operands)
                sums[i] = output if j == 0 else sums[i] + output
            before = [sums[i]]
    return tf.concat(sums, 0)


def _sum_in_loops(groups, chunks, group_operands, chunk_output, dtype):
    """What `_sum_unrolled` gives, where the number of chunks is a tensor."""
    import tensorflow as tf

    def add_group(j, sums):
        with tf.control_dependencies([sums.flow]):  # one after another, to save memory
            operands = group_operands(j)

        def add_chunk(i, sums):
            with tf.control_dependencies([sums.flow]):
                output = chunk_output(i, *operands)
            return i + 1, sums.write(i, output if isinstance(j, int) else sums.read(i) + output)

        return j + 1, tf.while_loop(lambda i, _: i < chunks, add_chunk, [0, sums], parallel_iterations=1)[1]

    sums = tf.TensorArray(dtype, chunks, element_shape=[None, None], infer_shape=False, clear_after_read=False)
    state = add_group(0, sums)  # outside the loop: the first group writes, the others add
    if groups > 1:
        state = tf.while_loop(lambda j, _: j < groups, add_group, state, parallel_iterations=1)
    return state[1].concat()


def _tiles_of_pixels(size, rate, side):
    """Along an axis, for each pixel: the number of its tile, the tiles grid by grid, and its place in the tile."""
    import tensorflow as tf

    pixel = tf.range(size)
    in_grid = pixel // rate
    return pixel % rate * tiles_along_grid(size, rate, side) + in_grid // side, in_grid % side


def _outer_sum(a, b, c):
    """The sums of one element of each vector: (A, B, C)."""
    return a[:, None, None] + b[:, None] + c
