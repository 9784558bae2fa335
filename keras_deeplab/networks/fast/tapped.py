"""Atrous convolution as XLA makes it fast on a GPU: a map in, a map out.

XLA has no kernel gradient of an atrous convolution on a GPU. It makes a convolution of it whose kernel is as large as the map,
for which cuDNN has nothing fast: that was 40 % of a training step of a ResNet-50. Here the gradient is one matrix product for
each tap. cuDNN's fastest kernels do not take ASPP's rates either. On a GPU the map is there taken apart into grids of pixels
`rate` apart, and each grid has a plain convolution. docs/performance.md has the figures.
"""

from keras import ops

from keras_deeplab.networks.fast import processor

GRIDS_FROM = 8  # the smallest rate at which the grids take less time than cuDNN's atrous convolution


def tapped_conv2d(x, kernel, rate):
    """A convolution at stride 1 with zeros around the map.

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C, F), k odd.
        rate: pixels from one tap to the next.

    Returns:
        (N, H, W, F).
    """

    def with_gradient(x, kernel):
        def gradient(*arguments, upstream=None):
            upstream = arguments[0] if upstream is None else upstream
            flipped = ops.transpose(ops.flip(kernel, (0, 1)), (0, 1, 3, 2))
            return _convolve(upstream, flipped, rate), _kernel_gradient(x, upstream, kernel.shape, rate)

        return _convolve(x, kernel, rate), gradient

    # A copy, because for a variable TensorFlow would require a gradient with another signature.
    return ops.custom_gradient(with_gradient)(x, ops.copy(kernel))


def _convolve(x, kernel, rate):
    options = dict(padding="same", data_format="channels_last")
    if rate < GRIDS_FROM or not processor.has_gpu():
        return ops.conv(x, kernel, dilation_rate=rate, **options)
    height, width = ops.shape(x)[1:3]
    rows, columns = -(-height // rate), -(-width // rate)  # of a grid
    grids = ops.pad(x, [[0, 0], [0, rows * rate - height], [0, columns * rate - width], [0, 0]])
    grids = ops.transpose(ops.reshape(grids, [-1, rows, rate, columns, rate, x.shape[-1]]), [0, 2, 4, 1, 3, 5])
    grids = ops.conv(ops.reshape(grids, [-1, rows, columns, x.shape[-1]]), kernel, **options)
    maps = ops.transpose(ops.reshape(grids, [-1, rate, rate, rows, columns, kernel.shape[-1]]), [0, 3, 1, 4, 2, 5])
    return ops.reshape(maps, [-1, rows * rate, columns * rate, kernel.shape[-1]])[:, :height, :width]


def _kernel_gradient(x, upstream, shape, rate):
    size = shape[0]
    height, width = ops.shape(x)[1:3]
    around = size // 2 * rate
    padded = ops.pad(x, [[0, 0], [around, around], [around, around], [0, 0]])
    products = [
        ops.tensordot(padded[:, top : top + height, left : left + width], upstream, [[0, 1, 2], [0, 1, 2]])
        for top in range(0, size * rate, rate)
        for left in range(0, size * rate, rate)
    ]
    return ops.reshape(ops.stack(products), shape)
