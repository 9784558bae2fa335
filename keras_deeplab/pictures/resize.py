"""A picture and a size in, the resized picture out, bit for bit as OpenCV or Pillow resizes it; and label maps as OpenCV.

OpenMMLab's models were scored on pictures that OpenCV had resized. It interpolates uint8 in fixed point: the weights of each
axis have 11 bits, 4 bits are dropped after the horizontal pass and 18 after the vertical one. `tf.image.resize`, rounded,
differs by one level in a tenth of the values. torchvision's models were scored on pictures that Pillow had resized, whose
filter takes all pixels that fall together where a picture shrinks.
"""

import tensorflow as tf


def fit_in_box(height, width, long_side, short_side):
    """The largest size of a picture that fits into a box and keeps the ratio of its sides, rounded as mmcv does.

    The long side of the picture must fit into the long side of the box, and the short side into the short side.

    Args:
        height, width: of the picture in pixels, int32 scalars.
        long_side, short_side: of the box in pixels, int32 scalars.

    Returns:
        (height, width), int32 scalars.
    """
    h, w = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    scale = tf.minimum(
        tf.cast(long_side, tf.float64) / tf.maximum(h, w), tf.cast(short_side, tf.float64) / tf.minimum(h, w)
    )
    return tuple(tf.maximum(tf.cast(side * scale + 0.5, tf.int32), 1) for side in (h, w))


def fit_in_steps(height, width, long_side, short_side, step):
    """As `fit_in_box`, with sides that are a multiple of `step` plus one, rounded as DeepLab's authors do.

    The short side becomes that of the box unless the long side would then be too long, which becomes that of the box, or the
    next lower multiple plus one. Sides are rounded down to pixels, then up to a multiple plus one.

    Source: `resize_to_range` in tensorflow/models, research/deeplab/core/preprocess_utils.py. It computes in float32.
    """
    h, w = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    longest = tf.cast(long_side - (long_side - 1) % step, tf.float32)

    def sides(scale):
        return tf.stack([tf.cast(tf.floor(side * scale), tf.int32) for side in (h, w)])

    large = sides(tf.cast(short_side, tf.float32) / tf.minimum(h, w))
    is_too_long = tf.cast(tf.reduce_max(large), tf.float32) > longest
    size = tf.maximum(tf.where(is_too_long, sides(longest / tf.maximum(h, w)), large), 1)
    return tuple(tf.unstack(size + (step - (size - 1) % step) % step))


def fit_rounded_down(height, width, long_side, short_side):
    """As `fit_in_box`, with sides rounded down as torchvision does, whose `size` and `max_size` the two sides are.

    The short side becomes that of the box unless the long side would then be too long, which becomes that of the box.
    """
    h, w = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    long_side, short_side = tf.cast(long_side, tf.float64), tf.cast(short_side, tf.float64)
    short, long = short_side, tf.floor(short_side * tf.maximum(h, w) / tf.minimum(h, w))
    short, long = tf.cond(
        long > long_side, lambda: (tf.floor(long_side * short / long), long_side), lambda: (short, long)
    )
    sides = (tf.maximum(tf.cast(side, tf.int32), 1) for side in (short, long))
    short, long = sides
    return tf.where(h <= w, short, long), tf.where(h <= w, long, short)


def resize_aligned(image, height, width):
    """Resizes a float32 picture (H, W, C) by bilinear interpolation that keeps the corners in place."""
    resized = tf.raw_ops.ResizeBilinear(images=image[None], size=tf.stack([height, width]), align_corners=True)[0]
    return tf.ensure_shape(resized, [None, None, image.shape[-1]])


def resize_uint8(image, height, width):
    """Resizes a picture by bilinear interpolation, bit for bit as `cv2.resize`.

    Args:
        image: (H, W, C) uint8.
        height, width: of the result in pixels, int32 scalars.

    Returns:
        (height, width, C) uint8.
    """

    def resized():
        left, right, left_weight, right_weight = _taps(tf.shape(image)[1], width, drop_weight_at_border=True)
        top, bottom, top_weight, bottom_weight = _taps(tf.shape(image)[0], height, drop_weight_at_border=False)
        weights = left_weight[:, None], right_weight[:, None]
        rows = mix_columns(tf.gather(image, left, axis=1), tf.gather(image, right, axis=1), weights)  # (H, width, C)
        weights = top_weight[:, None, None], bottom_weight[:, None, None]
        return mix_rows(tf.gather(rows, top), tf.gather(rows, bottom), weights)

    has_size = tf.logical_and(tf.equal(tf.shape(image)[0], height), tf.equal(tf.shape(image)[1], width))
    return tf.ensure_shape(tf.cond(has_size, lambda: image, resized), [None, None, image.shape[-1]])


def resize_antialiased(image, height, width):
    """Resizes a picture bit for bit as Pillow's bilinear filter does: first every row, then the columns.

    So do all versions of Pillow up to 12. Version 13 begins with the columns where the height shrinks much more than the
    width, which changes some values by one level.

    Args:
        image: (H, W, C) uint8.
        height, width: of the result in pixels, int32 scalars.

    Returns:
        (height, width, C) uint8.
    """
    for axis, size in ((1, width), (0, height)):
        image = _filtered(image, axis, size)
    return image


def _filtered(image, axis, size_out):
    """`image` resized along one axis by a triangle that is as wide as two pixels of the coarser of both sides.

    Source: Pillow's Resample.c. It adds products of the levels and of weights of 22 bits.
    """
    shape = image.shape.as_list()
    size_in = shape[axis] or tf.shape(image)[axis]
    count, taps, total = _triangle(size_in, size_out)
    half = tf.constant(1 << (PILLOW_BITS - 1), tf.int32)

    def add(tap, mixed):
        indices, weights = taps(tap)
        weights = tf.cast(0.5 + weights / total * (1 << PILLOW_BITS), tf.int32)  # rounded, as none is negative
        weights = weights[:, None, None] if axis == 0 else weights[:, None]
        return tap + 1, mixed + tf.cast(tf.gather(image, indices, axis=axis), tf.int32) * weights

    mixed_shape = [size_out if i == axis else shape[i] or tf.shape(image)[i] for i in range(3)]
    _, mixed = _loop(count, add, tf.fill(mixed_shape, half))
    mixed = tf.clip_by_value(tf.bitwise.right_shift(mixed, PILLOW_BITS), 0, 255)
    shape[axis] = size_out if isinstance(size_out, int) else None
    return tf.ensure_shape(tf.cast(mixed, tf.uint8), shape)


PILLOW_BITS = 22  # of a weight


def _triangle(size_in, size_out):
    """The filter of `_filtered` along an axis.

    Returns:
        the number of taps; a function of a tap's number -> its source indices (size_out,) int32 and weights (size_out,)
        float64; and the sums of the weights (size_out,), added in Pillow's order.
    """
    static = isinstance(size_in, int) and isinstance(size_out, int)
    scale = tf.cast(size_in, tf.float64) / tf.cast(size_out, tf.float64)
    support = tf.maximum(scale, 1.0)
    centre = (tf.cast(tf.range(size_out), tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(centre - support + 0.5, tf.int32), 0)
    end = tf.minimum(tf.cast(centre + support + 0.5, tf.int32), size_in)

    def taps(tap):
        index = first + tap
        distance = tf.abs((tf.cast(index, tf.float64) - centre + 0.5) * (1.0 / support))
        weights = tf.where(index < end, tf.maximum(1.0 - distance, 0.0), 0.0)
        return tf.minimum(index, size_in - 1), weights

    count = (
        2 * -(-max(size_in, size_out) // size_out) + 1 if static else 2 * tf.cast(tf.math.ceil(support), tf.int32) + 1
    )
    _, total = _loop(count, lambda tap, sums: (tap + 1, sums + taps(tap)[1]), tf.zeros_like(centre))
    return count, taps, total


def _loop(count, body, start):
    """(count, the last value) of `count` calls of body(number, value), as a loop of the graph unless `count` is an int."""
    if not isinstance(count, int):
        return tf.while_loop(lambda number, _: number < count, body, (tf.constant(0), start), parallel_iterations=1)
    state = 0, start
    for _ in range(count):
        state = body(*state)
    return state


def bilinear_taps(size_in, size_out, positions, horizontal):
    """The source pixels, and their weights, that `resize_uint8` mixes for some rows or columns of its result.

    With them a crop of the resized picture can be computed without the rest of it.

    Args:
        size_in, size_out: pixels along the axis before and after, int32 scalars.
        positions: (N,) int32, indices of the rows or columns in the result.
        horizontal: whether the axis is the width. OpenCV treats the ends of the two axes differently.

    Returns:
        Two source indices and their two weights in units of 1/2048, each (N,) int32.
    """
    return _taps(size_in, size_out, drop_weight_at_border=horizontal, positions=positions)


def mix_columns(left, right, weights):
    """The horizontal pass of `resize_uint8`, on neighbours that have been gathered; int32 below 2**15.

    Args:
        left, right: uint8, of the same shape.
        weights: of the left and of the right one, from `bilinear_taps`, shaped to broadcast against them.
    """
    left, right = (tf.cast(side, tf.int32) * weight for side, weight in zip((left, right), weights, strict=True))
    return tf.bitwise.right_shift(left + right, 4)


def mix_rows(top, bottom, weights):
    """The vertical pass of `resize_uint8`, on two results of `mix_columns` and their weights; uint8."""
    top, bottom = (
        tf.bitwise.right_shift(tf.cast(side, tf.int32) * weight, 16)
        for side, weight in zip((top, bottom), weights, strict=True)
    )
    return tf.cast(tf.bitwise.right_shift(top + bottom + 2, 2), tf.uint8)


def nearest_index(size_in, size_out, positions):
    """The source index that OpenCV's nearest-neighbour resize takes for each of `positions` in the result.

    OpenCV rounds down position * size_in / size_out, without a shift of half a pixel.
    """
    scale = 1.0 / (tf.cast(size_out, tf.float64) / tf.cast(size_in, tf.float64))
    index = tf.cast(tf.floor(tf.cast(positions, tf.float64) * scale), tf.int32)
    return tf.minimum(index, size_in - 1)


def resize_nearest(label, height, width):
    """Resizes a label map (H, W) as OpenCV's nearest neighbour does: (height, width) of the same type."""
    rows = nearest_index(tf.shape(label)[0], height, tf.range(height))
    columns = nearest_index(tf.shape(label)[1], width, tf.range(width))
    return tf.gather(tf.gather(label, rows), columns, axis=1)


def _taps(size_in, size_out, drop_weight_at_border, positions=None):
    """What `bilinear_taps` returns, for all pixels of the result unless `positions` is given."""
    scale = 1.0 / (tf.cast(size_out, tf.float64) / tf.cast(size_in, tf.float64))
    positions = tf.range(size_out) if positions is None else positions
    source = tf.cast((tf.cast(positions, tf.float64) + 0.5) * scale - 0.5, tf.float32)
    low = tf.floor(source)
    fraction = source - low
    low = tf.cast(low, tf.int32)
    if drop_weight_at_border:  # OpenCV does this horizontally only, where one of the neighbours is missing
        fraction = tf.where((low < 0) | (low >= size_in - 1), 0.0, fraction)
    weights = (tf.cast(tf.round((1.0 - fraction) * 2048.0), tf.int32), tf.cast(tf.round(fraction * 2048.0), tf.int32))
    return tf.clip_by_value(low, 0, size_in - 1), tf.clip_by_value(low + 1, 0, size_in - 1), *weights
