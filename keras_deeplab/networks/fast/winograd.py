"""Winograd's 3x3 convolution, for inference on a CPU: a map in, a map out (Lavin & Gray 2016).

In an atrous convolution, pixels `rate` apart form a grid, and no tap leaves the grid of its pixel. The grids are cut into
tiles, of 4x4 pixels of the output where the grids are large. Each tile is convolved in three steps:

1. One matrix transforms the 6x6 pixels that a tile depends on, another the 9 taps of the kernel, to values at 36 points.
2. At each point, one matrix product sums over the channels: 36 products for a tile in place of 9 * 16 = 144.
3. A third matrix transforms the 36 results to the 16 pixels of the output.

Along an axis, tiles have 4 pixels (6 points) or 3 (5 points), whichever fit the grids better. Grids of 2 pixels (3 points) and
of 1 (1 point) are a tile as a whole, whose outer taps meet zeros only. In bfloat16, where larger tiles would lose too many
digits, they have 2 pixels (4 points), and grids of 3 pixels are a tile (6 points).
"""

import numpy as np
from keras import ops

from keras_deeplab.networks.fast.gather import pixels_or_zeros
from keras_deeplab.networks.fast.graph import in_shared_function
from keras_deeplab.networks.fast.tiles import FORMS, Axis, at, numbers_up_to, transforms, where

# The cost of a multiplication in a transform, at most, where one in a matrix product costs 1: memory bounds the transforms.
TRANSFORM_COST = 8.0


def group_size(channels, most):
    """How many channels are transformed together: the largest divisor of their number up to `most`.

    It is all channels if that divisor is less than a quarter of `most`.
    """
    largest = max(size for size in range(1, min(channels, most) + 1) if channels % size == 0)
    return channels if largest < min(channels, most / 4) else largest


def winograd_pays(x, kernel, rate, products, cost=1.0):
    """Whether Winograd's way, with its transforms, costs less than another way.

    The unit of cost is a product of C values and a (C, F) matrix.

    Args:
        x: (N, H, W, C).
        kernel: (3, 3, C, F).
        rate: pixels from one tap to the next.
        products: how many such products the other way computes.
        cost: of one of them, with what goes with it.

    Returns:
        a bool; a bool tensor where the answer depends on the size of the map and this is not known.
    """
    import tensorflow as tf

    form = FORMS[x.dtype.name]
    channels, filters = kernel.shape[2:]
    points, reach, sides = (
        np.multiply.outer(sizes, sizes)
        for sizes in np.transpose([(*kind.of_input.shape, kind.side) for kind in form.kinds])
    )
    costs = points * (1 + TRANSFORM_COST * (reach / filters + sides / channels)) / cost  # of a tile
    if costs[3, 3] >= 9 * sides[3, 3]:  # too few channels: more than the other way costs, whatever the size
        return False
    n, height, width, _ = ops.shape(x)
    down, across = (Axis(size, rate, form).counts for size in (height, width))
    cost_of_kernel = TRANSFORM_COST * 9 * points / cost
    tiles = n * down[:, None] * across
    if isinstance(tiles, np.ndarray):
        return bool(np.sum(tiles * costs + (tiles > 0) * cost_of_kernel) < products)
    costs = tf.cast(tiles, "float64") * costs + tf.where(tiles > 0, cost_of_kernel, 0.0)
    return tf.reduce_sum(costs) < tf.cast(products, "float64")


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
    n, height, width, channels = ops.shape(x)
    filters = kernel.shape[-1]
    group = group_size(channels, form.channels)
    groups = channels // group
    kernel = tf.reshape(kernel, [9, groups, group * filters])
    padding_pixel = n * height * width  # the number that stands for every pixel beyond a map; it holds zeros
    x = tf.reshape(x, [-1, groups, group])
    rows, columns = Axis(height, rate, form), Axis(width, rate, form)

    # For each pair of kinds, down and across: its tiles, which are computed in chunks of the same size.
    tiles = n * rows.counts[:, None] * columns.counts
    chunks = -(-tiles // max(form.tiles, form.values // group))
    tiles_per_chunk = -(-tiles // where(chunks == 0, 1, chunks))

    def pair_operands(pair):
        """Of the tiles of a pair of kinds: the pixels that each depends on, (pixels, tiles), and the transforms."""
        (y, y_inside), (x, x_inside) = rows.pixels(pair[0]), columns.pixels(pair[1])
        y, y_inside = (of_rows[:, None, None, :, None] for of_rows in (y, y_inside))
        pixels = numbers_up_to(n)[:, None, None] * (height * width) + y * width + x[:, None, None, :]
        pixels = where(y_inside & x_inside[:, None, None, :], pixels, padding_pixel)
        pixels = tf.reshape(tf.cast(pixels, tf.int32), [-1, tiles[pair]])
        more = chunks[pair] * tiles_per_chunk[pair] - tiles[pair]  # tiles of zeros, to fill the last chunk
        pixels = tf.pad(pixels, [[0, 0], [0, more]], constant_values=padding_pixel)
        return pixels, *(tf.cast(one, dtype) for one in transforms(form, *pair))

    def group_operands(j, of_kernel):
        """Of group `j` of the channels: what `values_at` takes, and the transformed kernel (points, group, F)."""
        kernel_points = tf.reshape(tf.matmul(of_kernel, kernel[:, j]), [-1, group, filters])
        of_group = tf.pad(x[:, j], [[0, 1], [0, 0]]) if is_portable else tf.convert_to_tensor(j)
        return of_group, kernel_points

    def values_at(pixels, of_group):
        """A group's channels of the pixels of these numbers (...): (..., group)."""
        return tf.gather(of_group, pixels) if is_portable else pixels_or_zeros(x, pixels, of_group)

    def chunk_output(i, count, pixels, of_input, to_output, of_group, kernel_points):
        """What a group of channels adds to the output of chunk `i`, of `count` tiles: (pixels of a tile * tiles, F)."""
        values = values_at(pixels[:, i * count : (i + 1) * count], of_group)
        values = tf.matmul(of_input, tf.reshape(values, [-1, count * group]))
        products = tf.matmul(tf.reshape(values, [-1, count, group]), kernel_points)
        return tf.reshape(tf.matmul(to_output, tf.reshape(products, [-1, count * filters])), [-1, filters])

    sum_over_groups = _sum_unrolled if isinstance(tiles, np.ndarray) else _sum_in_loops
    outputs = sum_over_groups(groups, chunks, tiles_per_chunk, pair_operands, group_operands, chunk_output, dtype)

    # Gather the pixels of the map from the tiles: for each pixel, its tile, and its place in the tile.
    (a, row, top), (b, column, left) = ([place[:, None] for place in rows.places()], columns.places())
    sides = np.array(rows.sides, "int32")
    areas, pair = np.multiply.outer(sides, sides), a * len(sides) + b
    tile = (numbers_up_to(n)[:, None, None] * at(rows.counts, a) + row) * at(columns.counts, b) + column
    count, area, first = (
        _at_pairs(table, pair)
        for table in (tiles_per_chunk, areas, _sum_of_those_before(chunks * tiles_per_chunk * areas))
    )
    place = first + tile + (tile // count * (area - 1) + top * at(sides, b) + left) * count
    return tf.gather(outputs, tf.cast(place, tf.int32))


def _sum_of_those_before(table):
    """For each entry of a table, the sum of the entries before it."""
    if isinstance(table, np.ndarray):
        return np.reshape(np.cumsum(table), table.shape) - table
    import tensorflow as tf

    return tf.reshape(tf.cumsum(tf.reshape(table, [-1])), table.shape) - table


def _at_pairs(table, pairs):
    """The entries of a table at these pairs' numbers, counted row by row."""
    if isinstance(pairs, np.ndarray):
        return np.reshape(table, [-1])[pairs]
    import tensorflow as tf

    return tf.gather(tf.reshape(table, [-1]), pairs)


def _sum_unrolled(groups, chunks, tiles_per_chunk, pair_operands, group_operands, chunk_output, dtype):
    """The outputs of all chunks of all pairs, each summed over the groups, one chunk below the other.

    It has no loops, which not all converters support.
    """
    import tensorflow as tf

    outputs, before = [], []
    for pair in zip(*(indices.tolist() for indices in np.nonzero(chunks)), strict=True):
        pixels, of_input, of_kernel, to_output = pair_operands(pair)
        sums = [None] * chunks[pair]
        for j in range(groups):
            with tf.control_dependencies(before):  # one after another, to save memory
                of_group = group_operands(j, of_kernel)
            for i in range(len(sums)):
                with tf.control_dependencies(before):
                    output = chunk_output(i, tiles_per_chunk[pair], pixels, of_input, to_output, *of_group)
                    sums[i] = output if j == 0 else sums[i] + output
                before = [sums[i]]
        outputs += sums
    return tf.concat(outputs, 0)


def _sum_in_loops(groups, chunks, tiles_per_chunk, pair_operands, group_operands, chunk_output, dtype):
    """What `_sum_unrolled` gives, where the numbers of chunks are tensors."""
    import tensorflow as tf

    pairs, chunks_before = tf.cast(tf.where(chunks > 0), tf.int32), _sum_of_those_before(chunks)

    def add_pair(k, sums):
        pair = pairs[k, 0], pairs[k, 1]
        pixels, of_input, of_kernel, to_output = pair_operands(pair)
        count, first, chunks_of_pair = tiles_per_chunk[pair], chunks_before[pair], chunks[pair]

        def add_group(j, sums):
            with tf.control_dependencies([sums.flow]):  # one after another, to save memory
                of_group = group_operands(j, of_kernel)

            def add_chunk(i, sums):
                with tf.control_dependencies([sums.flow]):
                    output = chunk_output(i, count, pixels, of_input, to_output, *of_group)
                return i + 1, sums.write(first + i, output if isinstance(j, int) else sums.read(first + i) + output)

            return j + 1, tf.while_loop(lambda i, _: i < chunks_of_pair, add_chunk, [0, sums], parallel_iterations=1)[1]

        state = add_group(0, sums)  # outside the loop: the first group writes, the others add
        if groups > 1:
            state = tf.while_loop(lambda j, _: j < groups, add_group, state, parallel_iterations=1)
        return k + 1, state[1]

    sums = tf.TensorArray(
        dtype, tf.reduce_sum(chunks), element_shape=[None, None], infer_shape=False, clear_after_read=False
    )
    return tf.while_loop(lambda k, _: k < tf.shape(pairs)[0], add_pair, [0, sums], parallel_iterations=1)[1].concat()
