"""The layers that Keras lacks: a tensor in, a tensor out, with the same numbers as PyTorch's layers.

Keras pads a strided convolution more on one side, keeps the biased variance of a batch norm, and cannot resize to a symbolic
size in an exported graph. These layers compute what the released weights were trained with, on every backend. All are
channels last.
"""

import keras
import numpy as np
from keras import ops

from keras_deeplab.keras_tools import at_least_float32, over_replicas, per_channel, serializable
from keras_deeplab.networks.fast import convolution as fast

__all__ = [
    "Add",
    "AtrousConv2D",
    "AtrousDepthwiseConv2D",
    "BatchNorm",
    "ChannelDropout",
    "Dropout",
    "GlobalMean",
    "Normalize",
    "ResizeLike",
    "SplitAttention",
    "SplitMean",
    "interpolation_matrix",
]

# The mean and the standard deviation over ImageNet of R, G and B, of 0..255. All of OpenMMLab's models use them.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def _symmetric_options(layer, kernel_size, options):
    """The options of Keras's convolution for a layer that pads both sides equally.

    Raises:
        ValueError: for an even kernel size, or options that the layer cannot follow.
    """
    name = type(layer).__name__
    if options.setdefault("padding", "same") != "same":
        raise ValueError(f"{name} pads both sides equally: leave `padding` out. Received: {options['padding']!r}.")
    if (options.get("data_format") or "channels_last") != "channels_last":
        raise ValueError(f"{name} is channels last: leave `data_format` out. Received: {options['data_format']!r}.")
    sizes = kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size,)
    if not all(size % 2 for size in sizes):
        raise ValueError(f"{name} needs odd kernel sizes, so that the kernel has a middle. Received: {kernel_size!r}.")
    return {**options, "data_format": "channels_last"}  # whatever Keras's configuration says


def _padded(x, layer):
    """`x` with zeros on all four sides, as many as the convolution of `layer` reaches beyond a pixel."""
    widths = [rate * (size // 2) for size, rate in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
    return ops.pad(x, [[0, 0], *([width] * 2 for width in widths), [0, 0]]) if any(widths) else x


def _add_bias_and_activate(x, layer):
    if layer.bias is not None:
        x = fast.add_bias(x, layer.bias)
    return x if layer.activation is None else layer.activation(x)


@serializable
class AtrousConv2D(keras.layers.Conv2D):
    """A convolution with `dilation_rate * (kernel_size - 1) // 2` zeros on each side, as PyTorch's models pad.

    Args:
        As for `keras.layers.Conv2D`, with odd kernel sizes and without `padding` and `data_format`.

    Input shape:
        (N, H, W, C), channels last.

    Output shape:
        (N, ceil(H / strides), ceil(W / strides), filters).

    Raises:
        ValueError: for an even kernel size, another `padding` or channels first.
    """

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, **_symmetric_options(self, kernel_size, kwargs))

    def convolution_op(self, inputs, kernel):
        (down, across), strides = self.dilation_rate, self.strides
        if self.kernel_size == (1, 1):
            down = across = 1  # the rate of a single tap has no effect
            if strides != (1, 1) and self.groups == 1:
                return fast.pointwise_conv2d(inputs, kernel, strides)
        if strides == (1, 1) and down == across:
            return fast.grouped_conv2d(inputs, kernel, self.groups, down)
        options = dict(strides=strides, dilation_rate=self.dilation_rate, data_format="channels_last")
        return ops.conv(_padded(inputs, self), kernel, padding="valid", **options)

    def call(self, inputs):
        if self.kernel_size == self.strides == (1, 1) and self.groups == 1:
            outputs = fast.conv2d(inputs, self.kernel, bias=self.bias)
            return outputs if self.activation is None else self.activation(outputs)
        return _add_bias_and_activate(self.convolution_op(inputs, self.kernel), self)


@serializable
class AtrousDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise convolution with `dilation_rate * (kernel_size - 1) // 2` zeros on each side, at any rate.

    Args:
        As for `keras.layers.DepthwiseConv2D`, with odd kernel sizes and without `padding` and `data_format`.

    Input shape:
        (N, H, W, C), channels last.

    Output shape:
        (N, ceil(H / strides), ceil(W / strides), C * depth_multiplier).

    Raises:
        ValueError: for an even kernel size, another `padding`, channels first, strides that differ, or a stride together
            with a rate.
    """

    def __init__(self, kernel_size, **kwargs):
        strides, rates = (np.broadcast_to(kwargs.get(name, 1), 2).tolist() for name in ("strides", "dilation_rate"))
        if len(set(strides)) > 1:
            raise ValueError(
                f"A depthwise convolution must have one stride for both axes. Received: strides={strides}."
            )
        if max(strides) > 1 and max(rates) > 1:
            raise ValueError(
                "A depthwise convolution may have a stride or a rate above 1, not both. "
                f"Received: strides={strides}, dilation_rate={rates}."
            )
        super().__init__(kernel_size, **_symmetric_options(self, kernel_size, kwargs))

    def call(self, inputs):
        down, across = self.dilation_rate
        if self.strides == (1, 1) and self.depth_multiplier == 1:
            outputs = fast.depthwise_conv2d(inputs, self.kernel, down if down == across else (down, across))
        elif keras.backend.backend() == "jax" and self.depth_multiplier == 1:
            outputs = fast.shifted_depthwise_conv2d(inputs, self.kernel, 1, self.strides[0])
        else:  # padded here: TensorFlow's own explicit padding aborts the process in graphs with unknown shapes
            options = dict(strides=self.strides, dilation_rate=self.dilation_rate, data_format="channels_last")
            outputs = ops.depthwise_conv(_padded(inputs, self), self.kernel, padding="valid", **options)
        return _add_bias_and_activate(outputs, self)


@serializable
class Add(keras.layers.Add):
    """The sum of two maps of one shape, such as a block's result and what skips the block."""

    def call(self, inputs):
        return fast.add(*inputs)


@serializable
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation as PyTorch defines it: the running variance is unbiased.

    Statistics are computed in float32, or float64 for float64 inputs, over the global batch: under a `tf.distribute` strategy
    they are summed over its replicas. With `trainable=False` the running statistics are used and do not change. On TensorFlow
    a single replica trains with TensorFlow's fused kernel if the layout and the dtype allow it.

    A channel with one value in the whole global batch, as in ASPP's pooled branch for one picture, has no variance. Such a
    training step normalises it with the running statistics, and leaves these as they are. (PyTorch refuses it. Counted like
    any other, its variance of 0 would wear the running variance down, and the model would be useless at inference.)

    Args:
        As for `keras.layers.BatchNormalization`, with PyTorch's defaults: epsilon 1e-5 and momentum 0.9 (which PyTorch calls
        0.1).

    Raises:
        ValueError: for `renorm=True`, and if it is called with a mask.
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, **kwargs):
        if kwargs.get("renorm"):
            raise ValueError("BatchNorm has no batch renormalisation: leave `renorm` out. Received: renorm=True.")
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs, training=None, mask=None):
        if mask is not None:
            raise ValueError(f"BatchNorm takes no mask: its statistics are of all values. Received: mask={mask!r}.")
        rank, dtype = len(inputs.shape), at_least_float32(inputs.dtype)
        axis = self.axis % rank
        updates = training and self.trainable
        if updates and dtype == "float32" and (rank, axis) == (4, 3) and _is_one_tensorflow_replica():
            return self._fused(inputs)
        x = ops.cast(inputs, dtype)
        if not updates:
            return self._normalized(x, self.moving_mean, self.moving_variance, axis)
        mean, variance, count = batch_statistics(x, axis)
        unbiased = variance * (count / ops.maximum(count - 1.0, 1.0))
        if _could_have_one_value(x.shape, axis):
            old_mean, old_variance = ops.cast(self.moving_mean, dtype), ops.cast(self.moving_variance, dtype)
            mean, variance = ops.where(count > 1, mean, old_mean), ops.where(count > 1, variance, old_variance)
            unbiased = ops.where(count > 1, unbiased, old_variance)
        outputs = self._normalized(x, mean, variance, axis)
        self._update(mean, unbiased)
        return outputs

    def _normalized(self, x, mean, variance, axis):
        """`x`, whose dtype is that of the arithmetic, by the given statistics (C,), scaled and shifted."""

        def along_axis(values):  # (C,) to a shape that broadcasts against `x`
            values = ops.cast(values, x.dtype)
            return values if axis == len(x.shape) - 1 else ops.reshape(values, [-1] + [1] * (len(x.shape) - 1 - axis))

        scale = ops.rsqrt(along_axis(variance) + self.epsilon)
        if self.gamma is not None:
            scale = along_axis(self.gamma) * scale
        x = (x - along_axis(mean)) * scale
        if self.beta is not None:
            x = x + along_axis(self.beta)
        return ops.cast(x, self.compute_dtype)

    def _fused(self, inputs):
        """A training step's normalisation on TensorFlow, by its fused kernel unless a channel has one value."""
        if not _could_have_one_value(inputs.shape, axis=3):
            return self._by_fused_kernel(inputs)
        import tensorflow as tf

        x = ops.cast(inputs, "float32")
        return tf.cond(
            tf.reduce_prod(tf.shape(inputs)[:3]) > 1,
            lambda: self._by_fused_kernel(inputs),
            lambda: self._normalized(x, self.moving_mean, self.moving_variance, axis=3),
        )

    def _by_fused_kernel(self, inputs):
        """Normalises, and updates the running statistics."""
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
    """Mean and biased variance of each channel, (C,) each, and the number of values of a channel, over the global batch.

    The variance is the mean of (x - mean)^2. E[x^2] - mean^2 could lose all digits to rounding.
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
    deviations = x - ops.reshape(mean, [-1] + [1] * (len(x.shape) - 1 - axis))
    return mean, total(ops.sum(ops.square(deviations), axes)) / count, count


def _could_have_one_value(shape, axis):
    """Whether the static shape leaves it open that a channel has a single value."""
    return all(size in (None, 1) for i, size in enumerate(shape) if i != axis)


def _is_one_tensorflow_replica():
    return keras.backend.backend() == "tensorflow" and over_replicas() is None


class _KeepsSeed:
    """A dropout layer that continues its random sequence after saving and loading.

    Keras gives every loaded dropout layer a new seed. A resumed training run would then differ from one that never stopped.
    """

    def save_own_variables(self, store):
        if self.rate > 0:
            store["seed"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        if self.rate > 0 and "seed" in store.keys():
            self.seed_generator.state.assign(store["seed"])


@serializable
class ChannelDropout(_KeepsSeed, keras.layers.SpatialDropout2D):
    """Dropout of whole channels (PyTorch's Dropout2d) that continues its random sequence after saving and loading."""

    def __init__(self, rate, **kwargs):
        super().__init__(rate, **{**kwargs, "data_format": "channels_last"})


@serializable
class Dropout(_KeepsSeed, keras.layers.Dropout):
    """Dropout of single values that continues its random sequence after saving and loading."""


@serializable
class Normalize(keras.layers.Layer):
    """RGB of 0..255 less a mean, over a deviation; computed in float32 or float64.

    Args:
        mean, std: of R, G and B. Default those over ImageNet.
    """

    def __init__(self, mean=MEAN, std=STD, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.mean, self.std = tuple(mean), tuple(std)

    def call(self, images):
        dtype = at_least_float32(self.variable_dtype)
        x = ops.cast(images, dtype)
        mean, std = (per_channel(values, dtype) for values in (self.mean, self.std))
        if not fast.is_for_inference() or np.ndim(mean) == np.ndim(std) == 0:
            return ops.cast((x - mean) / std, self.compute_dtype)
        n, height, width, channels = shape = ops.shape(x)
        # As whole rows: arithmetic with a number for each of three channels takes twice the time.
        mean, std = (ops.tile(np.broadcast_to(values, [channels]), [width]) for values in (mean, std))
        x = (ops.reshape(x, [n, height, width * channels]) - mean) / std
        return ops.reshape(ops.cast(x, self.compute_dtype), shape)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "std": self.std}


@serializable
class GlobalMean(keras.layers.Layer):
    """The mean over height and width, (N, H, W, C) to (N, 1, 1, C). In half precision each row's sum is rounded once."""

    def call(self, inputs):
        height, width = ops.shape(inputs)[1:3]
        dtype = at_least_float32(inputs.dtype)
        rows = ops.matmul(ops.ones((1, 1, 1, width), inputs.dtype), inputs)  # on a CPU 4 times as fast as a sum
        total = ops.sum(ops.cast(rows, dtype), axis=1, keepdims=True)
        return ops.cast(total / ops.cast(height * width, dtype), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1, 1, input_shape[3])


@serializable
class SplitMean(GlobalMean):
    """The mean over height and width, summed over parts of the channels: (N, H, W, splits * C) to (N, 1, 1, C).

    Args:
        splits: number of parts.
    """

    def __init__(self, splits, **kwargs):
        super().__init__(**kwargs)
        self.splits = splits

    def call(self, inputs):
        mean = super().call(inputs)
        return sum(ops.split(mean, self.splits, axis=-1))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1, 1, input_shape[3] // self.splits)

    def get_config(self):
        return {**super().get_config(), "splits": self.splits}


@serializable
class SplitAttention(keras.layers.Layer):
    """The sum of parts of the channels, weighted by a softmax over the parts (Zhang et al. 2020).

    Args:
        splits: number of parts.

    Input shape:
        [features (N, H, W, splits * C), scores of the parts and channels (N, 1, 1, splits * C)].

    Output shape:
        (N, H, W, C).
    """

    def __init__(self, splits, **kwargs):
        super().__init__(**kwargs)
        self.splits = splits

    def call(self, inputs):
        x, scores = inputs
        scores = ops.cast(scores, at_least_float32(scores.dtype))
        weights = ops.softmax(ops.stack(ops.split(scores, self.splits, axis=-1)), axis=0)  # (splits, N, 1, 1, C)
        weights = ops.cast(weights, self.compute_dtype)
        return sum(part * weights[i] for i, part in enumerate(ops.split(x, self.splits, axis=-1)))

    def compute_output_shape(self, input_shape):
        features = input_shape[0]
        return (*features[:-1], features[-1] // self.splits)

    def get_config(self):
        return {**super().get_config(), "splits": self.splits}


@serializable
class ResizeLike(keras.layers.Layer):
    """Bilinear resize of features to the height and width of another tensor. The sizes may be symbolic.

    Args:
        align_corners: whether the centres of the corner pixels stay where they are, as PyTorch defines it. Default False.

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
        if keras.backend.backend() == "tensorflow" and x.dtype != "float64":  # the kernel's results are float32
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
    """The (size_out, size_in) matrix of linear interpolation along one axis; each row sums to 1."""
    compute_dtype = at_least_float32(dtype)
    n_in, n_out = ops.cast(size_in, compute_dtype), ops.cast(size_out, compute_dtype)
    target = ops.cast(ops.arange(size_out), compute_dtype)  # output pixels
    if align_corners:
        source = target * ((n_in - 1.0) / ops.maximum(n_out - 1.0, 1.0))  # where they lie among the input pixels
    else:
        source = ops.clip((target + 0.5) * (n_in / n_out) - 0.5, 0.0, n_in - 1.0)
    distance = ops.abs(source[:, None] - ops.cast(ops.arange(size_in), compute_dtype)[None])
    return ops.cast(ops.maximum(1.0 - distance, 0.0), dtype)
