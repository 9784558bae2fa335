"""Depthwise convolution as a sum of shifted maps: a map in, a map out.

XLA makes one loop of the sum. At ASPP's rates cuDNN's depthwise convolution takes 4 times as long,
and XLA's on a processor 10 times (docs/performance.md has the figures).
"""

from keras import ops

from keras_deeplab.keras_tools import at_least_float32


def shifted_depthwise_conv2d(x, kernel, rate, strides=1):
    """A depthwise convolution with zeros around the map, for compilers that fuse operations: the sum over all taps of the
    map, shifted and scaled. The sum is in float32 at least.

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C, 1), k odd.
        rate: pixels from one tap to the next, or (down, across).
        strides: of both axes. Default 1.

    Returns:
        (N, ceil(H / strides), ceil(W / strides), C).
    """
    down, across = rate if isinstance(rate, (tuple, list)) else (rate, rate)
    height, width = ops.shape(x)[1:3]
    dtype = at_least_float32(x.dtype)
    size = kernel.shape[0]
    above, left = (size // 2 * step for step in (down, across))
    padded = ops.pad(x, [[0, 0], [above, above], [left, left], [0, 0]])
    weights = ops.cast(kernel, dtype)[..., 0]
    total = 0.0
    for i in range(size):
        for j in range(size):
            top, start = i * down, j * across
            shifted = padded[:, top : top + height : strides, start : start + width : strides]
            total = total + ops.cast(shifted, dtype) * weights[i, j]
    return ops.cast(total, x.dtype)
