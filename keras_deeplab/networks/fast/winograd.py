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

from functools import cache

import numpy as np
from keras import ops

from keras_deeplab.networks.fast.gather import pixels_or_zeros
from keras_deeplab.networks.fast.graph import in_shared_function
from keras_deeplab.networks.fast.tiles import FORMS, Axis, Plan, plan, shared_plan

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
    points, reach, areas = form.sizes.T.reshape(3, 4, 4)
    costs = points * (1 + TRANSFORM_COST * (reach / filters + areas / channels)) / cost  # of a tile
    if costs[3, 3] >= 9 * areas[3, 3]:  # too few channels: more than the other way costs, whatever the size
        return False
    cost_of_kernel = TRANSFORM_COST * 9 * points / cost
    sizes = ops.shape(x)[:3]
    if all(isinstance(size, int) for size in sizes):
        tiles = _tiles(*sizes, rate, form)
        return bool(np.sum(tiles * costs + (tiles > 0) * cost_of_kernel) < products)
    return _shared_cost(x.dtype.name)(*sizes, rate, costs, cost_of_kernel) < tf.cast(products, "float64")


@cache
def _shared_cost(dtype):
    """The cost of Winograd's way as a function that all layers of a graph share: it would be half of the graph."""
    import tensorflow as tf

    integer, costs = tf.TensorSpec([], "int32"), tf.TensorSpec([4, 4], "float64")

    def cost(n, height, width, rate, costs, cost_of_kernel):
        tiles = _tiles(n, height, width, rate, FORMS[dtype])
        return tf.reduce_sum(tf.cast(tiles, "float64") * costs + tf.where(tiles > 0, cost_of_kernel, 0.0))

    signature = [integer] * 4 + [costs] * 2
    return tf.function(cost, signature, autograph=False, experimental_attributes={"_noinline": True})


def _tiles(n, height, width, rate, form):
    """The number of tiles of each pair of kinds, (kinds down, kinds across)."""
    down, across = (Axis(size, rate, form).counts for size in (height, width))
    return n * down[:, None] * across


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
    x = tf.reshape(x, [-1, groups, group])
    most = max(form.tiles, form.values // group)
    if all(isinstance(number, int) for number in (n, height, width, rate)):
        tiles, sum_over_groups = plan(n, height, width, rate, most, form), _sum_unrolled
    else:
        tiles, sum_over_groups = Plan(*shared_plan(x.dtype.name)(n, height, width, rate, most)), _sum_in_loops

    def pair_operands(k):
        """Of the tiles of pair `k`: the pixels that each depends on, (pixels, tiles), and the transforms."""
        pixels, *transforms = tiles.of_pair(k)
        return pixels, *(tf.cast(one, dtype) for one in transforms)

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

    outputs = sum_over_groups(groups, tiles, pair_operands, group_operands, chunk_output, dtype)
    return tf.gather(outputs, tf.cast(tiles.places, tf.int32))


def _sum_unrolled(groups, tiles, pair_operands, group_operands, chunk_output, dtype):
    """The outputs of all chunks of all pairs, each summed over the groups, one chunk below the other.

    It has no loops, which not all converters support.
    """
    import tensorflow as tf

    outputs, before = [], []
    for k in range(len(tiles.chunks)):
        pixels, of_input, of_kernel, to_output = pair_operands(k)
        sums = [None] * tiles.chunks[k]
        for j in range(groups):
            with tf.control_dependencies(before):  # one after another, to save memory
                of_group = group_operands(j, of_kernel)
            for i in range(len(sums)):
                with tf.control_dependencies(before):
                    output = chunk_output(i, tiles.tiles[k], pixels, of_input, to_output, *of_group)
                    sums[i] = output if j == 0 else sums[i] + output
                before = [sums[i]]
        outputs += sums
    return tf.concat(outputs, 0)


def _sum_in_loops(groups, tiles, pair_operands, group_operands, chunk_output, dtype):
    """What `_sum_unrolled` gives, where the numbers of chunks are tensors."""
    import tensorflow as tf

    chunks_before = tf.cumsum(tiles.chunks, exclusive=True)

    def add_pair(k, sums):
        pixels, of_input, of_kernel, to_output = pair_operands(k)
        count, first, chunks = tiles.tiles[k], chunks_before[k], tiles.chunks[k]

        def add_group(j, sums):
            with tf.control_dependencies([sums.flow]):  # one after another, to save memory
                of_group = group_operands(j, of_kernel)

            def add_chunk(i, sums):
                with tf.control_dependencies([sums.flow]):
                    output = chunk_output(i, count, pixels, of_input, to_output, *of_group)
                return i + 1, sums.write(first + i, output if isinstance(j, int) else sums.read(first + i) + output)

            return j + 1, tf.while_loop(lambda i, _: i < chunks, add_chunk, [0, sums], parallel_iterations=1)[1]

        state = add_group(0, sums)  # outside the loop: the first group writes, the others add
        if groups > 1:
            state = tf.while_loop(lambda j, _: j < groups, add_group, state, parallel_iterations=1)
        return k + 1, state[1]

    sums = tf.TensorArray(
        dtype, tf.reduce_sum(tiles.chunks), element_shape=[None, None], infer_shape=False, clear_after_read=False
    )
    pairs = tf.shape(tiles.chunks)[0]
    return tf.while_loop(lambda k, _: k < pairs, add_pair, [0, sums], parallel_iterations=1)[1].concat()
