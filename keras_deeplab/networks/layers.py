"""The layers that Keras lacks: a tensor in, a tensor out, the same numbers as PyTorch's.

Keras pads a strided convolution on one side, normalises with the biased variance and cannot resize to a symbolic size
under export. These layers do what the released weights were trained with, on every backend. All are channels last.
"""

import keras
import numpy as np
from keras import ops

from keras_deeplab.keras_tools import at_least_float32, over_replicas, serializable
from keras_deeplab.networks.fast import convolution as fast

__all__ = [
    "AtrousConv2D",
    "AtrousDepthwiseConv2D",
    "BatchNorm",
    "ChannelDropout",
    "GlobalMean",
    "Normalize",
    "ResizeLike",
    "interpolation_matrix",
]

# ImageNet statistics in the order R, G, B, in units of 0..255: those of all released models.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def _symmetric(layer, kernel_size, options):
    """The options of Keras's convolution for a layer that pads alike on both sides; refuses those that contradict it."""
    name = type(layer).__name__
    if options.setdefault("padding", "same") != "same":
        raise ValueError(f"{name} pads alike on both sides: leave `padding` out. Received: {options['padding']!r}.")
    if (options.get("data_format") or "channels_last") != "channels_last":
        raise ValueError(f"{name} is channels last: leave `data_format` out. Received: {options['data_format']!r}.")
    sizes = kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size,)
    if not all(size % 2 for size in sizes):
        raise ValueError(f"{name} has a kernel of odd sizes, whose middle is a pixel. Received: {kernel_size!r}.")
    return {**options, "data_format": "channels_last"}  # whatever Keras's configuration says


def _padded(x, layer):
    """`x` with the zeros that `layer` needs around it on every side."""
    sides = [rate * (size // 2) for size, rate in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
    return ops.pad(x, [[0, 0], *([side] * 2 for side in sides), [0, 0]]) if any(sides) else x


def _biased_and_activated(x, layer):
    if layer.bias is not None:
        x = fast.add_bias(x, layer.bias)
    return x if layer.activation is None else layer.activation(x)


@serializable
class AtrousConv2D(keras.layers.Conv2D):
    """A convolution padded alike on both sides by `dilation_rate * (kernel_size - 1) // 2` pixels, as PyTorch's models are.

    Args:
        As `keras.layers.Conv2D`, with odd kernel sizes. There is no choice of `padding` or `data_format`.

    Input shape:
        (N, H, W, C), channels last.

    Output shape:
        (N, ceil(H / strides), ceil(W / strides), filters).

    Raises:
        ValueError: for an even kernel size, another `padding` or channels first.
    """

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, **_symmetric(self, kernel_size, kwargs))

    def convolution_op(self, inputs, kernel):
        (down, across), strides = self.dilation_rate, self.strides
        if self.kernel_size == (1, 1):
            down = across = 1
            if strides != (1, 1) and self.groups == 1:
                return fast.pointwise_conv2d(inputs, kernel, strides)
        if strides == (1, 1) and down == across and self.groups == 1:
            return fast.conv2d(inputs, kernel, down)
        options = dict(strides=strides, dilation_rate=self.dilation_rate, data_format="channels_last")
        return ops.conv(_padded(inputs, self), kernel, padding="valid", **options)

    def call(self, inputs):
        return _biased_and_activated(self.convolution_op(inputs, self.kernel), self)


@serializable
class AtrousDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise convolution padded alike on both sides, at any rate.

    Args:
        As `keras.layers.DepthwiseConv2D`, with odd kernel sizes. There is no choice of `padding` or `data_format`.

    Input shape:
        (N, H, W, C), channels last.

    Output shape:
        (N, ceil(H / strides), ceil(W / strides), C * depth_multiplier).

    Raises:
        ValueError: for an even kernel size, another `padding`, channels first, strides that differ, or a stride together
            with a rate.
    """

    def __init__(self, kernel_size, **kwargs):
        super().__init__(kernel_size, **_symmetric(self, kernel_size, kwargs))
        if len(set(self.strides)) > 1:
            raise ValueError(f"A depthwise convolution has one stride for both axes. Received: strides={self.strides}.")
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                "A depthwise convolution has a stride or a rate above 1, not both. "
                f"Received: strides={self.strides}, dilation_rate={self.dilation_rate}."
            )

    def call(self, inputs):
        down, across = self.dilation_rate
        if self.strides == (1, 1) and down == across and self.depth_multiplier == 1:
            outputs = fast.depthwise_conv2d(inputs, self.kernel, down)
        else:
            options = dict(strides=self.strides, dilation_rate=self.dilation_rate, data_format="channels_last")
            outputs = ops.depthwise_conv(_padded(inputs, self), self.kernel, padding="valid", **options)
        return _biased_and_activated(outputs, self)


@serializable
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation as PyTorch defines it: epsilon 1e-5, momentum 0.9, the running variance unbiased.

    Statistics are computed in float32 at least, and over the global batch: under a `tf.distribute` strategy they are
    summed over its replicas. With `trainable=False` the running ones are used and kept. One replica on TensorFlow trains by
    its fused kernel, where that takes the type.

    Args:
        As `keras.layers.BatchNormalization`.

    Raises:
        ValueError: when it is called with a mask: every value counts.
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs, training=None, mask=None):
        if mask is not None:
            raise ValueError(f"BatchNorm takes no mask: every value counts. Received: mask={mask!r}.")
        rank, dtype = len(inputs.shape), at_least_float32(inputs.dtype)
        axis = self.axis % rank
        updates = training and self.trainable
        if updates and dtype == "float32" and (rank, axis) == (4, 3) and _is_one_tensorflow_replica():
            return self._fused(inputs)
        x = ops.cast(inputs, dtype)

        def along_axis(values):  # so that they broadcast against `x`
            values = ops.cast(values, dtype)
            return values if axis == rank - 1 else ops.reshape(values, [-1] + [1] * (rank - 1 - axis))

        mean, variance = self.moving_mean, self.moving_variance
        if updates:
            mean, variance, count = batch_statistics(x, axis)
            self._update(mean, variance * (count / ops.maximum(count - 1.0, 1.0)))
        scale = ops.rsqrt(along_axis(variance) + self.epsilon)
        if self.gamma is not None:
            scale = along_axis(self.gamma) * scale
        x = (x - along_axis(mean)) * scale
        if self.beta is not None:
            x = x + along_axis(self.beta)
        return ops.cast(x, self.compute_dtype)

    def _fused(self, inputs):
        import tensorflow as tf

        running = dict(mean=self.moving_mean, variance=self.moving_variance)
        channels = inputs.shape[-1]
        scale = ops.ones([channels]) if self.gamma is None else self.gamma
        offset = ops.zeros([channels]) if self.beta is None else self.beta
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.cast(scale, "float32"),
            offset=ops.cast(offset, "float32"),
            **{name: ops.cast(value, "float32") for name, value in running.items()},
            epsilon=self.epsilon,
            exponential_avg_factor=1.0 - self.momentum,
            is_training=True,
        )
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        return ops.cast(outputs, self.compute_dtype)

    def _update(self, mean, unbiased_variance):
        for running, new in ((self.moving_mean, mean), (self.moving_variance, unbiased_variance)):
            running.assign(ops.cast(running, new.dtype) * self.momentum + new * (1.0 - self.momentum))


def batch_statistics(x, axis=3):
    """Mean, biased variance and count of the values of each channel, (C,) each, over the global batch.

    The variance is that of the distances from the mean; E[x^2] - E[x]^2 would lose it to rounding.
    """
    axes = [i for i in range(len(x.shape)) if i != axis]
    shape = ops.shape(x)
    count = ops.cast(ops.prod([shape[i] for i in axes]), x.dtype)
    total = over_replicas()
    if total is None:
        mean, variance = ops.moments(x, axes)
        return mean, variance, count
    count = total(count)
    mean = total(ops.sum(x, axes)) / count
    distances = x - ops.reshape(mean, [-1] + [1] * (len(x.shape) - 1 - axis))
    return mean, total(ops.sum(ops.square(distances), axes)) / count, count


def _is_one_tensorflow_replica():
    return keras.backend.backend() == "tensorflow" and over_replicas() is None


@serializable
class ChannelDropout(keras.layers.SpatialDropout2D):
    """Dropout of whole channels (PyTorch's Dropout2d) that continues its random sequence after saving and loading.

    Keras draws a new seed for every loaded dropout layer: training would not continue as if it had not been stopped.
    """

    def __init__(self, rate, **kwargs):
        super().__init__(rate, **{**kwargs, "data_format": "channels_last"})

    def save_own_variables(self, store):
        if self.rate > 0:
            store["seed"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        if self.rate > 0 and "seed" in store.keys():
            self.seed_generator.state.assign(store["seed"])


@serializable
class Normalize(keras.layers.Layer):
    """RGB of 0..255 to zero mean and unit variance over ImageNet, computed in float32 at least: (x - mean) / std."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, images):
        dtype = at_least_float32(self.variable_dtype)
        x = ops.cast(images, dtype)
        x = (x - np.array(MEAN, dtype)) / np.array(STD, dtype)
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


@serializable
class GlobalMean(keras.layers.Layer):
    """The mean over height and width: (N, H, W, C) to (N, 1, 1, C). In half precision the sum of each row is rounded once."""

    def call(self, inputs):
        height, width = ops.shape(inputs)[1:3]
        dtype = at_least_float32(inputs.dtype)
        rows = ops.matmul(ops.ones((1, 1, 1, width), inputs.dtype), inputs)  # 4 times as fast as a sum on a CPU
        total = ops.sum(ops.cast(rows, dtype), axis=1, keepdims=True)
        return ops.cast(total / ops.cast(height * width, dtype), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1, 1, input_shape[3])


@serializable
class ResizeLike(keras.layers.Layer):
    """Bilinear resize of features to the height and width of another tensor, which may be symbolic.

    Args:
        align_corners: whether the corner pixels' centres stay where they are (PyTorch's definition).

    Input shape:
        [(N, H, W, C), (N, H', W', any)].

    Output shape:
        (N, H', W', C).
    """

    def __init__(self, align_corners=False, **kwargs):
        super().__init__(**kwargs)
        self.align_corners = align_corners

    def call(self, inputs):
        x, like = inputs
        height, width = ops.shape(like)[1:3]
        if keras.backend.backend() == "tensorflow" and x.dtype != "float64":
            import tensorflow as tf

            outputs = tf.raw_ops.ResizeBilinear(
                images=x,
                size=tf.stack([height, width]),
                align_corners=self.align_corners,
                half_pixel_centers=not self.align_corners,
            )
            outputs = tf.ensure_shape(outputs, self.compute_output_shape([x.shape, like.shape]))
        else:
            rows = interpolation_matrix(ops.shape(x)[1], height, self.align_corners, x.dtype)
            columns = interpolation_matrix(ops.shape(x)[2], width, self.align_corners, x.dtype)
            outputs = ops.einsum("pw,nhwc->nhpc", columns, ops.einsum("ph,nhwc->npwc", rows, x))
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        shape, like = input_shape
        return (shape[0], *like[1:3], shape[3])

    def get_config(self):
        return {**super().get_config(), "align_corners": self.align_corners}


def interpolation_matrix(size_in, size_out, align_corners, dtype="float32"):
    """The (size_out, size_in) matrix of bilinear interpolation along one axis; each row sums to 1."""
    compute = at_least_float32(dtype)
    n_in, n_out = ops.cast(size_in, compute), ops.cast(size_out, compute)
    out = ops.cast(ops.arange(size_out), compute)
    if align_corners:
        source = out * ((n_in - 1.0) / ops.maximum(n_out - 1.0, 1.0))
    else:
        source = ops.clip((out + 0.5) * (n_in / n_out) - 0.5, 0.0, n_in - 1.0)
    distance = ops.abs(source[:, None] - ops.cast(ops.arange(size_in), compute)[None])
    return ops.cast(ops.maximum(1.0 - distance, 0.0), dtype)
