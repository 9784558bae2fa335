"""Depthwise convolution as a sum of shifted maps: a map in, a map out.

XLA makes one loop of the sum. At ASPP's rates cuDNN's depthwise convolution takes 4 times as long,
and XLA's on a processor 10 times (docs/performance.md has the figures).
"""

from keras import ops

from keras_deeplab.keras_tools import at_least_float32
from keras_deeplab.networks.fast.graph import computed_apart


def shifted_depthwise_conv2d(x, kernel, rate, strides=1):
    """A depthwise convolution with zeros around the map, for compilers that fuse operations: the sum over all taps of the
    map, shifted and scaled. The sum is in float32 at least, as are those of the gradients at stride 1.

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C, 1), k odd.
        rate: pixels from one tap to the next, or (down, across).
        strides: of both axes. Default 1.

    Returns:
        (N, ceil(H / strides), ceil(W / strides), C).
    """
    down, across = rate if isinstance(rate, (tuple, list)) else (rate, rate)
    dtype = at_least_float32(x.dtype)
    size = kernel.shape[0]
    taps = [(i, j) for i in range(size) for j in range(size)]

    def shifted(x):
        """The map as each tap sees it, in the dtype of the sums."""
        height, width = ops.shape(x)[1:3]
        above, left = (size // 2 * step for step in (down, across))
        padded = ops.pad(x, [[0, 0], [above, above], [left, left], [0, 0]])
        for i, j in taps:
            top, start = i * down, j * across
            yield ops.cast(padded[:, top : top + height : strides, start : start + width : strides], dtype)

    def convolve(x, kernel):
        weights = ops.cast(kernel, dtype)[..., 0]
        return ops.cast(sum(part * weights[tap] for part, tap in zip(shifted(x), taps, strict=True)), x.dtype)

    def with_gradient(x, kernel):
        def gradient(*arguments, upstream=None):
            upstream = arguments[0] if upstream is None else upstream
            # XLA would compute the gradients of ASPP's three convolutions in one loop, which takes 10 times as long.
            x_gradient, upstream = computed_apart((convolve(upstream, ops.flip(kernel, (0, 1))), upstream))
            wide = ops.cast(upstream, dtype)
            sums = [ops.sum(part * wide, (0, 1, 2)) for part in shifted(x)]
            return x_gradient, ops.cast(ops.reshape(ops.stack(sums), kernel.shape), kernel.dtype)

        return convolve(x, kernel), gradient

    if strides > 1:
        return convolve(x, kernel)
    # A copy, because for a variable TensorFlow would require a gradient with another signature.
    return ops.custom_gradient(with_gradient)(x, ops.copy(kernel))
