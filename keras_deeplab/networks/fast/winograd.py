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

from keras_deeplab.networks.fast import processor
from keras_deeplab.networks.fast.gather import pixels_or_zeros
from keras_deeplab.networks.fast.graph import in_function_of_any_shape, in_shared_function
from keras_deeplab.networks.fast.tiles import FORMS, of_flows, plan, shared_plan

# The cost of a multiplication in a transform, at most, where one in a matrix product costs 1: memory bounds the transforms.
TRANSFORM_COST, TRANSFORM_COST_ON_AVX2 = 8.0, 4.0


def group_size(channels, most):
    """How many channels are transformed together: the largest divisor of their number up to `most`.

    It is all channels if that divisor is less than a quarter of `most`.
    """
    largest = max(size for size in range(1, min(channels, most) + 1) if channels % size == 0)
    return channels if largest < min(channels, most / 4) else largest


def _cost_of_tiles(dtype, kernel):
    """For each pair of kinds, (4, 4): what a tile costs, and what the transform of the kernel does.

    The unit of cost is a product of C values and a (C, F) matrix.
    """
    channels, filters = kernel.shape[2:]
    points, reach, areas = FORMS[dtype].sizes.T.reshape(3, 4, 4)
    cost = TRANSFORM_COST_ON_AVX2 if processor.has_avx2_alone() else TRANSFORM_COST
    return points * (1 + cost * (reach / filters + areas / channels)), cost * 9 * points


def winograd_may_pay(x, kernel, cost=1.0):
    """Whether Winograd's way, with its transforms, costs less than another way where tiles fit well: a bool.

    Args:
        x: (N, H, W, C).
        kernel: (3, 3, C, F).
        cost: of the other way, for each product of C values and a (C, F) matrix, with what goes with it.
    """
    of_tile, _ = _cost_of_tiles(x.dtype.name, kernel)
    return bool(of_tile[3, 3] < 9 * FORMS[x.dtype.name].kinds[3].side ** 2 * cost)


def winograd_pays(x, kernel, plan, products, cost=1.0):
    """Whether Winograd's way costs less than another way for a map of this size.

    Args:
        x: (N, H, W, C).
        kernel: (3, 3, C, F).
        plan: a `winograd_plan` of both.
        products: how many products of C values and a (C, F) matrix the other way computes.
        cost: of one of them, with what goes with it.

    Returns:
        a bool; a bool tensor where the answer depends on the size of the map and this is not known.
    """
    import tensorflow as tf

    of_tile, of_kernel = _cost_of_tiles(x.dtype.name, kernel)
    counts, *_ = plan
    if isinstance(counts, np.ndarray):
        return bool(np.sum(counts * of_tile + (counts > 0) * of_kernel) < products * cost)
    costs = tf.cast(counts, "float64") * of_tile + tf.where(counts > 0, of_kernel, 0.0)
    return tf.reduce_sum(costs) < tf.cast(products, "float64") * cost


def winograd_plan(x, kernel, rate):
    """How a map is cut into tiles: a `Plan`; for a map of unknown size that of `shared_plan`, as tensors."""
    sizes = *ops.shape(x)[:3], rate, _group(x, kernel)
    return plan(*sizes, FORMS[x.dtype.name]) if _is_known(sizes) else shared_plan(x.dtype.name, sizes)


def winograd_conv2d(x, kernel, rate, plan=None):
    """A 3x3 convolution at stride 1 with zeros around the map.

    Args:
        x: (N, H, W, C), of a dtype that `FORMS` has.
        kernel: (3, 3, C, F) of the same dtype.
        rate: pixels from one tap to the next.
        plan: a `winograd_plan` of these. None, the default: it is made here.

    Returns:
        (N, H, W, F) of the same dtype, within rounding what `tf.nn.conv2d` gives.
    """
    return _in_shared_function(x, kernel, rate, plan, False)


def portable_winograd_conv2d(x, kernel, rate, plan=None):
    """As `winograd_conv2d`, in operations that older versions of TensorFlow and the converters have. It takes more memory."""
    return _in_shared_function(x, kernel, rate, plan, True)


def _in_shared_function(x, kernel, rate, plan, is_portable):
    if _is_known(ops.shape(x)[:3]):
        return in_shared_function(_of_known_size, x, kernel, rate, is_portable)
    plan = winograd_plan(x, kernel, rate) if plan is None else plan
    convolution = _portable_of_any_shape if is_portable else _of_any_shape
    return in_function_of_any_shape(convolution, x, kernel, *plan)


def _of_known_size(x, kernel, rate, is_portable):
    return _convolution(x, kernel, winograd_plan(x, kernel, rate), _sum_unrolled, is_portable)


def _of_any_shape(x, kernel, *plan):
    return _convolution(x, kernel, of_flows(plan), _sum_in_loops, False)


def _portable_of_any_shape(x, kernel, *plan):
    return _convolution(x, kernel, of_flows(plan), _sum_in_loops, True)


def _is_known(sizes):
    return all(isinstance(size, int) for size in sizes)


def _group(x, kernel):
    """How many channels are transformed together."""
    channels = kernel.shape[2]
    return group_size(channels, FORMS[x.dtype.name].channels or channels)


def _convolution(x, kernel, plan, sum_over_groups, is_portable):
    import tensorflow as tf

    dtype, group, (channels, filters) = x.dtype, plan.group, ops.shape(kernel)[2:]
    groups = channels // group if FORMS[dtype.name].channels else 1
    kernel = tf.reshape(kernel, [9, groups, group * filters])
    x = tf.reshape(x, [-1, groups, group])

    def group_operands(j, of_kernel):
        """Of group `j` of the channels: what `values_at` takes, and the transformed kernel (points, group, F)."""
        kernel_points = tf.reshape(tf.matmul(tf.cast(of_kernel, dtype), kernel[:, j]), [-1, group, filters])
        of_group = tf.pad(x[:, j], [[0, 1], [0, 0]]) if is_portable else tf.convert_to_tensor(j)
        return of_group, kernel_points

    def values_at(pixels, of_group):
        """A group's channels of the pixels of these numbers (...): (..., group)."""
        return tf.gather(of_group, pixels) if is_portable else pixels_or_zeros(x, pixels, of_group)

    def chunk_output(i, count, pixels, of_input, to_output, of_group, kernel_points):
        """What a group of channels adds to the output of chunk `i`, of `count` tiles: (pixels of a tile * tiles, F)."""
        values = values_at(pixels[:, i * count : (i + 1) * count], of_group)
        values = tf.matmul(tf.cast(of_input, dtype), tf.reshape(values, [-1, count * group]))
        products = tf.matmul(tf.reshape(values, [-1, count, group]), kernel_points)
        output = tf.matmul(tf.cast(to_output, dtype), tf.reshape(products, [-1, count * filters]))
        return tf.reshape(output, [-1, filters])

    outputs = sum_over_groups(groups, plan, group_operands, chunk_output, dtype)
    return tf.gather(outputs, tf.cast(plan.places, tf.int32))


def _sum_unrolled(groups, plan, group_operands, chunk_output, dtype):
    """The outputs of all chunks of all pairs, each summed over the groups, one chunk below the other.

    It has no loops, which not all converters support.
    """
    import tensorflow as tf

    outputs, before = [], []
    for k in range(len(plan.chunks)):
        pixels, of_input, of_kernel, to_output = (matrices[k] for matrices in plan.of_pairs)
        sums = [None] * plan.chunks[k]
        for j in range(groups):
            with tf.control_dependencies(before):  # one after another, to save memory
                of_group = group_operands(j, of_kernel)
            for i in range(len(sums)):
                with tf.control_dependencies(before):
                    output = chunk_output(i, plan.tiles[k], pixels, of_input, to_output, *of_group)
                    sums[i] = output if j == 0 else sums[i] + output
                before = [sums[i]]
        outputs += sums
    return tf.concat(outputs, 0)


def _sum_in_loops(groups, plan, group_operands, chunk_output, dtype):
    """What `_sum_unrolled` gives, where the numbers of chunks are tensors."""
    import tensorflow as tf

    chunks_before = tf.cumsum(plan.chunks, exclusive=True)

    def add_pair(k, sums):
        # A product of tensors of unknown rank would be TensorFlow's slower one.
        of_pair = (tf.ensure_shape(matrices.read(k), [None, None]) for matrices in plan.of_pairs)
        pixels, of_input, of_kernel, to_output = of_pair
        count, first, chunks = plan.tiles[k], chunks_before[k], plan.chunks[k]

        def add_group(j, sums):
            with tf.control_dependencies([sums.flow]):  # one after another, to save memory
                of_group = group_operands(j, of_kernel)

            def add_chunk(i, sums):
                with tf.control_dependencies([sums.flow]):
                    output = chunk_output(i, count, pixels, of_input, to_output, *of_group)
                return i + 1, sums.write(first + i, output if isinstance(j, int) else sums.read(first + i) + output)

            return j + 1, tf.while_loop(lambda i, _: i < chunks, add_chunk, [0, sums], parallel_iterations=1)[1]

        state = add_group(0, sums)  # outside the loop: the first group writes, the others add
        if not isinstance(groups, int) or groups > 1:
            state = tf.while_loop(lambda j, _: j < groups, add_group, state, parallel_iterations=1)
        return k + 1, state[1]

    sums = tf.TensorArray(
        dtype, tf.reduce_sum(plan.chunks), element_shape=[None, None], infer_shape=False, clear_after_read=False
    )
    pairs = tf.shape(plan.chunks)[0]
    return tf.while_loop(lambda k, _: k < pairs, add_pair, [0, sums], parallel_iterations=1)[1].concat()
