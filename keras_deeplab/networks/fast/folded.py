"""Layers of networks without norms: a map in, and in one step the result of several layers of a network with norms out.

They are for inference. On TensorFlow they take less time and memory; on other backends they compute the same as plain layers.
"""

import keras
import numpy as np
from keras import ops

from keras_deeplab.keras_tools import at_least_float32, serializable
from keras_deeplab.networks.fast.convolution import ASPP_RATE, add_bias, runs_on_this_cpu, separable_by_channels
from keras_deeplab.networks.fast.graph import one_after_another
from keras_deeplab.networks.fast.interleaved import Grids, pair
from keras_deeplab.networks.fast.winograd import group_size
from keras_deeplab.networks.initializers import he_normal
from keras_deeplab.networks.layers import AtrousConv2D, AtrousDepthwiseConv2D

# How many channels of a separable convolution of ASPP are in memory together, at most, by the bytes of a value. In half
# precision they are all of a ResNet's: sums of groups would be kept in float32, whose conversions take time.
GROUP_CHANNELS = {2: 2048, 4: 512, 8: 256}
# Which of the nine taps reach the map from a pixel, (16, 9). The first axis is the place of the pixel: 4 times its place along
# the height plus its place along the width, as `_borders` gives them.
TAPS_AT_BORDERS = np.kron(*[[[1, 1, 1], [0, 1, 1], [1, 1, 0], [0, 1, 0]]] * 2)


@serializable
class AtrousSeparableConv2D(keras.layers.Layer):
    """A depthwise 3x3 convolution, a ReLU and a 1x1 convolution, both with a bias.

    On TensorFlow those of ASPP (rates of `ASPP_RATE` or more) are computed some channels at a time, so that the depthwise
    result of all channels is never in memory.

    Args:
        filters: channels of the result.
        dilation_rate: atrous rate of the depthwise convolution, or its rates (down, across). Default 1.
        names: the names of the two convolutions, those of the layers that they replace.

    Input shape:
        (N, H, W, C).

    Output shape:
        (N, H, W, filters).
    """

    def __init__(self, filters, dilation_rate=1, *, names, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.dilation_rate, self.names = filters, dilation_rate, tuple(names)
        options = dict(dtype=self.dtype_policy)
        self.depthwise = AtrousDepthwiseConv2D(3, dilation_rate=dilation_rate, name=names[0], **options)
        self.pointwise = AtrousConv2D(filters, 1, kernel_initializer=he_normal(), name=names[1], **options)

    @property
    def parts(self):
        """The two convolutions, whose weights are this layer's."""
        return self.depthwise, self.pointwise

    def build(self, input_shape):
        for part in self.parts:
            part.build(input_shape)

    def call(self, inputs):
        if max(pair(self.dilation_rate)) < ASPP_RATE or not separable_by_channels():
            return self.pointwise(ops.relu(self.depthwise(inputs)))
        return add_bias(one_after_another(self._by_channels, inputs), self.pointwise.bias)

    def _by_channels(self, x):
        import tensorflow as tf

        weights = self.depthwise.kernel, self.depthwise.bias, self.pointwise.kernel
        kernel, bias, matrix = (ops.convert_to_tensor(weight) for weight in weights)
        size = group_size(x.shape[-1], GROUP_CHANNELS[x.dtype.size])
        groups = x.shape[-1] // size
        grids, total = Grids(tf.unstack(tf.shape(x))[:3], self.dilation_rate), None
        for i in range(groups):
            group = slice(i * size, (i + 1) * size)
            # Otherwise TensorFlow may begin all groups at the same time.
            with tf.control_dependencies([] if total is None else [total]):
                part = grids.split(x, i, groups, is_portable=not runs_on_this_cpu())
            part = tf.nn.depthwise_conv2d(part, kernel[:, :, group], [1, 1, 1, 1], "SAME")
            part = grids.join(tf.nn.relu(tf.nn.bias_add(part, bias[group])))
            part = tf.nn.conv2d(part, matrix[:, :, group], 1, "SAME")
            if groups > 1:  # only the sum of all groups is rounded to half precision
                part = ops.cast(part, at_least_float32(part.dtype))
            total = part if total is None else total + part
        return ops.cast(total, x.dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "dilation_rate": self.dilation_rate,
            "names": self.names,
        }


@serializable
class PooledConv2D(keras.layers.Layer):
    """ASPP's bottleneck: a convolution, with a bias, of a map and of pooled features that are the same at every pixel.

    It adds the pooled branch without broadcasting it to the size of the map. The branch adds the same values at every pixel,
    except at the borders of the map, where some taps of a 3x3 kernel reach the padding; so nine products of a vector and a
    matrix suffice, or one for a 1x1 kernel.

    Args:
        filters: channels of the result.
        kernel_size: 3 or 1. Default 3.
        pooled_last: whether the layers that this one replaces concatenate the map and the pooled features, in this order.
            Default False: the pooled features come first.

    Input shape:
        [(N, 1, 1, C'), (N, H, W, C)]; the kernel of a convolution of both concatenated is (3, 3, C' + C, filters), or
        (1, 1, C' + C, filters).

    Output shape:
        (N, H, W, filters).
    """

    def __init__(self, filters, kernel_size=3, pooled_last=False, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.pooled_last = filters, kernel_size, pooled_last
        options = dict(kernel_initializer=he_normal(), dtype=self.dtype_policy)
        self.of_map = AtrousConv2D(filters, kernel_size, name="of_map", **options)

    def build(self, input_shape):
        pooled, shape = input_shape
        self.of_map.build(shape)
        shape = (self.kernel_size, self.kernel_size, pooled[-1], self.filters)
        self.of_pooled = self.add_weight(name="of_pooled", shape=shape, initializer=he_normal())

    def assign(self, kernel, bias):
        """Sets the weights from those of a convolution of the pooled features and the map, concatenated.

        Args:
            kernel: (kernel_size, kernel_size, C' + C, filters).
            bias: (filters,).
        """
        channels = self.of_pooled.shape[2]
        if self.pooled_last:
            kernel = np.roll(kernel, channels, axis=2)
        self.of_pooled.assign(kernel[:, :, :channels])
        self.of_map.kernel.assign(kernel[:, :, channels:])
        self.of_map.bias.assign(bias)

    def call(self, inputs):
        pooled, x = inputs
        dtype = at_least_float32(self.compute_dtype)
        if self.kernel_size == 1:
            sums = ops.matmul(ops.cast(pooled, dtype), ops.cast(self.of_pooled, dtype)[0, 0])  # (N, 1, 1, filters)
            return self.of_map(x) + ops.cast(sums, self.compute_dtype)
        kernel = ops.reshape(ops.cast(self.of_pooled, dtype), [9, -1, self.filters])
        taps = ops.reshape(ops.matmul(ops.cast(pooled, dtype), kernel), [-1, 9, self.filters])
        sums = ops.matmul(np.array(TAPS_AT_BORDERS, dtype), taps)  # for each place of a pixel, (N, 16, filters)
        height, width = ops.shape(x)[1:3]
        place = 4 * _borders(height)[:, None] + _borders(width)
        return self.of_map(x) + ops.take(ops.cast(sums, self.compute_dtype), place, axis=1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[1][:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "pooled_last": self.pooled_last,
        }


def _borders(size):
    """The place of each pixel along an axis: 0 inside, 1 first, 2 last, 3 if it is the only one."""
    pixel = ops.arange(size)
    return ops.cast(pixel == 0, "int32") + 2 * ops.cast(pixel == size - 1, "int32")
