"""The layers that Keras lacks: a tensor in, a tensor out, the same numbers as PyTorch's.

Keras pads a strided convolution on one side, normalises with the biased variance and cannot resize to a symbolic size
under export. These layers do what the released weights were trained with, on every backend. TensorFlow has a faster way
for some; it gives the same result.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_deeplab.networks.winograd import in_function, winograd_conv2d, winograd_pays

__all__ = [
    "AtrousConv2D",
    "AtrousDepthwiseConv2D",
    "AtrousSeparableConv2D",
    "BatchNorm",
    "ChannelDropout",
    "GlobalMean",
    "Normalize",
    "PooledConv2D",
    "ResizeLike",
    "VarianceScaling",
    "conv_norm",
    "conv_norm_module",
    "default_dtype",
    "weights_follow",
]

serializable = keras.saving.register_keras_serializable("keras_deeplab")

# ImageNet statistics in the order R, G, B, in units of 0..255: those of all released models.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
FAR = 8  # rates of ASPP, beyond those of the backbone
PIXELS_AT_ONCE = 2048  # whose parts are cut out: 17 MB of DeepLabV3's features
TAPS_AT_BORDERS = np.kron(*[[[1, 1, 1], [0, 1, 1], [1, 1, 0], [0, 1, 0]]] * 2)  # that reach the map; see `_borders`
CHANNELS_AT_ONCE = 512  # of a far depthwise convolution whose pointwise one follows


@contextmanager
def default_dtype(dtype):
    """Layers made inside have the dtype policy `dtype`; None leaves the global one."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(keras.dtype_policies.get(dtype or before))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def at_least_float32(dtype):
    """float64 for float64, float32 for all else. (Keras's `result_type` of the two is float32 on JAX.)"""
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def conv_norm(x, filters, kernel_size, *, names, strides=1, rate=1, relu=True, folded=False):
    """A convolution, its batch norm and a ReLU; `filters=None` makes it depthwise.

    Args:
        x: features (N, H, W, C).
        names: of the convolution and of the norm, as the released weights name them.
        folded: leave the norm out and give the convolution a bias in its place.

    Returns:
        features (N, ceil(H / strides), ceil(W / strides), filters).
    """
    options = dict(strides=strides, dilation_rate=rate, use_bias=folded, name=names[0])
    if filters is None:
        x = AtrousDepthwiseConv2D(kernel_size, depthwise_initializer=he_normal("fan_in"), **options)(x)
    else:
        x = AtrousConv2D(filters, kernel_size, kernel_initializer=he_normal(), **options)(x)
    if not folded:
        x = BatchNorm(name=names[1])(x)
    return keras.layers.ReLU(name=f"{names[1]}-relu")(x) if relu else x


def conv_norm_module(x, filters, kernel_size, *, name, **options):
    """`conv_norm` with the names NAME-conv and NAME-bn that all parts outside the backbone have."""
    return conv_norm(x, filters, kernel_size, names=(f"{name}-conv", f"{name}-bn"), **options)


@contextmanager
def _true_inside(flag):
    token = flag.set(True)
    try:
        yield
    finally:
        flag.reset(token)


_weights_follow = ContextVar("weights_follow", default=False)


def weights_follow():
    """Convolutions made inside start from zeros, for weights that are set next: a draw takes as long as all else."""
    return _true_inside(_weights_follow)


@serializable
class VarianceScaling(keras.initializers.VarianceScaling):
    """Keras's; zeros where weights follow."""

    def __call__(self, shape, dtype=None, **kwargs):
        return ops.zeros(shape, dtype) if _weights_follow.get() else super().__call__(shape, dtype, **kwargs)


def he_normal(mode="fan_out"):
    """Kaiming's normal distribution, as the original draws it (PyTorch counts a depthwise fan_out as Keras does fan_in)."""
    return VarianceScaling(2.0, mode, "untruncated_normal")


@cache
def _direct_atrous_trains(dtype):
    """Whether the direct atrous convolution has a gradient here: on a CPU it depends on oneDNN, the type and the CPU."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return dtype != "float64"
    with tf.init_scope(), tf.device("CPU:0"):
        x, kernel = tf.zeros([1, 5, 5, 1], dtype), tf.zeros([3, 3, 1, 1], dtype)
        options = dict(out_backprop=x, strides=[1, 1, 1, 1], padding="SAME", dilations=[1, 2, 2, 1])
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=[1, 5, 5, 1], filter=kernel, **options)
            tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=[3, 3, 1, 1], **options)
        except tf.errors.OpError:
            return False
    return True


_anywhere = ContextVar("anywhere", default=False)


def for_any_processor():
    """Graphs traced inside may run on another machine: they take no way that is slow on some."""
    return _true_inside(_anywhere)


@cache
def _direct_is_fast_far_out(dtype):
    """Whether this CPU's direct convolution leaves the padding out at any rate. What is not known does not."""
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return dtype == "bfloat16" and "avx512_bf16" in processor and "amx_bf16" not in processor


def _atrous_conv2d(x, kernel, rate, for_inference=False):
    """A 3x3 convolution at stride 1 on TensorFlow, never through SpaceToBatch; other kernel sizes at rate 1.

    | device | rate | way      | why                                                                       |
    |--------|------|----------|---------------------------------------------------------------------------|
    | CPU    | any  | Winograd | float32 networks with folded norms, where it takes the fewest operations: |
    |        |      |          | wide layers, at rates that are small beside the map                       |
    | CPU    | 1..7 | direct   | clipping saves little: a tenth of the multiplications at rate 4           |
    | CPU    | 8..  | clipped  | 18 / 34 / 49 % fewer multiplications at 12 / 24 / 36 on a 64x128 map      |
    | CPU    | 8..  | direct   | bfloat16 on AVX512-BF16, inference here: oneDNN clips, V3 takes 6 % less; |
    |        |      |          | on AMX it does not and takes 6 to 24 times as long as clipped             |
    | GPU    | any  | direct   | cuDNN's                                                                   |
    | any    | 2..  | clipped  | where the direct one has no gradient: float64, or a CPU without its type  |
    """
    import tensorflow as tf

    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    direct_is_fast = on_gpu or rate < FAR
    if for_inference and not _anywhere.get():
        direct_is_fast = direct_is_fast or _direct_is_fast_far_out(x.dtype.name)
    is_direct = rate == 1 or (direct_is_fast and _direct_atrous_trains(x.dtype.name))

    def plain():
        if is_direct:
            return tf.nn.conv2d(x, kernel, 1, "SAME", dilations=rate)
        return in_function(_clipped_conv2d, x, kernel, rate) if for_inference else _clipped_conv2d(x, kernel, rate)

    def reached(side):  # by the three taps along an axis
        beyond = 0 if is_direct else min(rate, side) if isinstance(side, int) else tf.minimum(rate, side)
        return 3 * side - 2 * beyond

    if not for_inference or on_gpu or x.dtype != tf.float32 or kernel.shape[0] != 3:
        return plain()
    n, height, width, _ = ops.shape(x)
    pays = winograd_pays(x, kernel, rate, products=n * reached(height) * reached(width))
    if isinstance(pays, bool):
        return winograd_conv2d(x, kernel, rate) if pays else plain()
    return tf.cond(pays, lambda: winograd_conv2d(x, kernel, rate), plain)


def _clipped_conv2d(x, kernel, rate):
    """Each tap is a matrix product over the part of the map that it reaches; the results are shifted and added.

    A map of unknown size is cut some rows at a time: parts of it all would take twice its memory. The gradient cuts the
    parts anew: kept until then, they would take up to nine times the memory of `x`.
    """
    import tensorflow as tf

    n, height, width, channels = tf.unstack(tf.shape(x))
    filters = kernel.shape[-1]
    taps = [(1, 1)] + [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]

    def beyond(tap, first, end, side):
        """Of the output's pixels from `first` to `end` along an axis: how many have the tap before the map, and behind."""
        shift = (tap - 1) * rate
        return [tf.clip_by_value(count, 0, end - first) for count in (-first - shift, end + shift - side)]

    def cut(x, top, bottom, left, right):
        return tf.reshape(x[:, top : height - bottom, left : width - right], [-1, x.shape[-1]])

    @tf.custom_gradient
    def convolution(x, kernel):
        def gradient(upstream):
            to_x, to_kernel = None, {}
            for i, j in taps:
                (top, bottom), (left, right) = beyond(i, 0, height, height), beyond(j, 0, width, width)
                # One tap after the other, and none at the time of the way there.
                with tf.control_dependencies([upstream if to_x is None else to_x]):
                    above = cut(upstream, top, bottom, left, right)
                    to_kernel[i, j] = tf.matmul(cut(x, bottom, top, right, left), above, transpose_a=True)
                    part = tf.matmul(above, kernel[i, j], transpose_b=True)
                    part = tf.reshape(part, [n, height - top - bottom, width - left - right, channels])
                    part = tf.pad(part, [[0, 0], [bottom, top], [right, left], [0, 0]])
                    to_x = part if to_x is None else to_x + part
            rows = [tf.stack([to_kernel[i, j] for j in range(3)]) for i in range(3)]
            return tf.ensure_shape(to_x, x.shape), tf.stack(rows)

        matrices = tf.reshape(kernel, [9, *kernel.shape[2:]])  # of which one can be taken without a copy

        def rows_of(pictures, first, end):
            """The output's rows from `first` to `end` of some pictures."""
            totals = []
            for i, j in taps:
                (top, bottom), (left, right) = beyond(i, first, end, height), beyond(j, 0, width, width)
                down, across = (i - 1) * rate, (j - 1) * rate
                with tf.control_dependencies(totals[-2:-1]):  # else TensorFlow may cut all parts first
                    part = x[pictures, first + top + down : end - bottom + down, left + across : width - right + across]
                count = tf.shape(part)[0]
                part = tf.matmul(tf.reshape(part, [-1, channels]), matrices[3 * i + j])
                part = tf.reshape(part, [count, end - first - top - bottom, width - left - right, filters])
                part = tf.pad(part, [[0, 0], [top, bottom], [left, right], [0, 0]])
                totals.append(totals[-1] + part if totals else part)
            return totals[-1]

        if None not in x.shape[1:3]:  # XLA and converters know no loop over parts of which the last is smaller
            return tf.ensure_shape(rows_of(slice(None), 0, height), [*x.shape[:3], filters]), gradient
        at_once = tf.maximum(PIXELS_AT_ONCE // width, 1)
        bands = -(-height // at_once)

        def add_band(k, outputs):
            picture, first = k // bands, k % bands * at_once
            rows = rows_of(slice(picture, picture + 1), first, tf.minimum(first + at_once, height))
            return k + 1, outputs.write(k, tf.reshape(rows, [-1, filters]))

        outputs = tf.TensorArray(x.dtype, n * bands, element_shape=[None, filters], infer_shape=False)
        _, outputs = tf.while_loop(lambda k, _: k < n * bands, add_band, [0, outputs], parallel_iterations=1)
        return tf.reshape(outputs.concat(), [n, height, width, filters]), gradient

    return convolution(x, tf.convert_to_tensor(kernel))  # a variable in it would want a gradient of its own


@serializable
class AtrousConv2D(keras.layers.Conv2D):
    """A convolution padded alike on both sides by `dilation_rate * (kernel_size - 1) // 2` pixels, as PyTorch's models are.

    Args:
        As `keras.layers.Conv2D`, with odd kernel sizes; there is no choice of `padding`.

    Input shape:
        (N, H, W, C), channels last.

    Output shape:
        (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, **{**kwargs, "padding": "same", "data_format": "channels_last"})

    def convolution_op(self, inputs, kernel):
        (size, _), (stride, _), (rate, _) = self.kernel_size, self.strides, self.dilation_rate
        if stride > 1 and size > 1:
            inputs = ops.pad(inputs, [[0, 0], [size // 2] * 2, [size // 2] * 2, [0, 0]])
            return ops.conv(inputs, kernel, strides=stride, padding="valid", data_format="channels_last")
        if stride == 1 and keras.backend.backend() == "tensorflow":
            rate = rate if size > 1 else 1
            return _atrous_conv2d(inputs, ops.convert_to_tensor(kernel), rate, for_inference=self.use_bias)  # folded
        return super().convolution_op(inputs, kernel)

    def call(self, inputs):
        if self.bias is None:
            return self.convolution_op(inputs, self.kernel)
        return _add_bias(_in_turn(lambda x: self.convolution_op(x, self.kernel), inputs, self.dilation_rate), self.bias)


@serializable
class PooledConv2D(keras.layers.Layer):
    """A 3x3 convolution of a map and of features that are the same at each of its pixels: ASPP's bottleneck, norms folded.

    Convolved, what is the same everywhere stays so but for the border: it takes nine products of a vector and a matrix.

    Args:
        filters: width of the result.

    Input shape:
        [(N, 1, 1, C'), (N, H, W, C)]; the kernel of a convolution of both concatenated is (3, 3, C' + C, filters).

    Output shape:
        (N, H, W, filters).
    """

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        options = dict(kernel_initializer=he_normal(), dtype=self.dtype_policy)
        self.of_map = AtrousConv2D(filters, 3, name="of_map", **options)

    def build(self, input_shape):
        pooled, shape = input_shape
        self.of_map.build(shape)
        self.of_pooled = self.add_weight(
            name="of_pooled", shape=(3, 3, pooled[-1], self.filters), initializer=he_normal()
        )

    def assign(self, kernel, bias):
        """Takes the weights of the convolution of both concatenated."""
        channels = self.of_pooled.shape[2]
        self.of_pooled.assign(kernel[:, :, :channels])
        self.of_map.kernel.assign(kernel[:, :, channels:])
        self.of_map.bias.assign(bias)

    def call(self, inputs):
        pooled, x = inputs
        dtype = at_least_float32(self.compute_dtype)
        kernel = ops.reshape(ops.cast(self.of_pooled, dtype), [9, -1, self.filters])
        taps = ops.reshape(ops.matmul(ops.cast(pooled, dtype), kernel), [-1, 9, self.filters])
        borders = ops.matmul(np.array(TAPS_AT_BORDERS, dtype), taps)  # (N, 16, filters)
        height, width = ops.shape(x)[1:3]
        place = 4 * _borders(height)[:, None] + _borders(width)
        return self.of_map(x) + ops.take(ops.cast(borders, self.compute_dtype), place, axis=1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[1][:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


def _borders(size):
    """Of each pixel along an axis: 0 if none, 1 if the map begins with it, 2 if it ends, 3 if both."""
    place = ops.arange(size)
    return ops.cast(place == 0, "int32") + 2 * ops.cast(place == size - 1, "int32")


@serializable
class AtrousDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise 3x3 convolution at stride 1 and any rate, padded alike on both sides.

    Args:
        As `keras.layers.DepthwiseConv2D`; there is no choice of `strides` or `padding`.

    Input shape and output shape:
        (N, H, W, C), channels last.
    """

    def __init__(self, kernel_size, **kwargs):
        super().__init__(kernel_size, **{**kwargs, "padding": "same", "data_format": "channels_last"})

    def call(self, inputs):
        outputs = self._convolution(inputs, self.dilation_rate[0])
        return outputs if self.bias is None else _add_bias(outputs, self.bias)

    def _convolution(self, inputs, rate):
        if keras.backend.backend() == "tensorflow":
            return _interleaved_depthwise_conv2d(inputs, ops.convert_to_tensor(self.kernel), rate)
        return ops.depthwise_conv(inputs, self.kernel, padding="same", dilation_rate=rate, data_format="channels_last")


def _interleaved_depthwise_conv2d(x, kernel, rate):
    """The pixels `rate` apart form grids that do not touch each other: a plain convolution of each, as one batch.

    As fast as TensorFlow's own way for large maps (R-50's 64x128x2048: 30 ms of either), up to 4 times faster where the
    rate is beyond the map, and made of reshapes and transposes alone, so that XLA compiles it in half precision. Its
    gradient makes the grids anew: kept until then, those of ASPP would take as much memory as four of its inputs.
    """
    import tensorflow as tf

    if rate == 1:
        return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")
    n, height, width, channels = tf.unstack(tf.shape(x))
    down, across = tf.minimum(rate, height), tf.minimum(rate, width)  # beyond the map there is nothing to reach
    rows, columns = -(-height // down), -(-width // across)

    def split(x, rows):
        grids = tf.pad(x, [[0, 0], [0, rows * down - height], [0, columns * across - width], [0, 0]])
        grids = tf.transpose(tf.reshape(grids, [n, rows, down, columns, across, channels]), [2, 4, 0, 1, 3, 5])
        return tf.reshape(grids, [down * across * n, rows, columns, x.shape[-1]])

    def join(grids, rows):
        grids = tf.transpose(tf.reshape(grids, [down, across, n, rows, columns, channels]), [2, 3, 0, 4, 1, 5])
        maps = tf.reshape(grids, [n, rows * down, columns * across, channels])[:, :height, :width]
        return tf.ensure_shape(maps, x.shape)

    options = [1, 1, 1, 1], "SAME"

    @tf.custom_gradient
    def convolution(x, kernel):
        def gradient(upstream):
            tall = tf.maximum(rows, 3)  # for less, oneDNN's gradient to the kernel takes 5 to 25 times as long
            upstream = split(upstream, tall)
            with tf.control_dependencies([upstream]):  # else the graph's optimizer takes the grids of the way there
                grids = split(x, tall)
            to_kernel = tf.nn.depthwise_conv2d_backprop_filter(grids, kernel.shape, upstream, *options)
            to_grids = tf.nn.depthwise_conv2d_backprop_input(tf.shape(grids), kernel, upstream, *options)
            return join(to_grids, tall), to_kernel

        return join(tf.nn.depthwise_conv2d(split(x, rows), kernel, *options), rows), gradient

    return convolution(x, tf.convert_to_tensor(kernel))  # a variable in it would want a gradient of its own


@serializable
class AtrousSeparableConv2D(keras.layers.Layer):
    """A depthwise 3x3 convolution, a ReLU and a 1x1 convolution, both with a bias: `separable_conv` with folded norms.

    Far ones are computed some channels at a time on TensorFlow: what the depthwise one gives never stands in memory whole.

    Args:
        filters: of the 1x1 convolution.
        dilation_rate: of the depthwise one.
        names: of the two, as layers of their own would have them.

    Input shape:
        (N, H, W, C), channels last.

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
        return self.depthwise, self.pointwise

    def build(self, input_shape):
        for part in self.parts:
            part.build(input_shape)

    def call(self, inputs):
        if self.dilation_rate < FAR or keras.backend.backend() != "tensorflow":
            return self.pointwise(ops.relu(self.depthwise(inputs)))
        return _add_bias(_in_turn(self._by_channels, inputs, [self.dilation_rate]), self.pointwise.bias)

    def _by_channels(self, x):
        import tensorflow as tf

        weights = self.depthwise.kernel, self.depthwise.bias, self.pointwise.kernel
        kernel, bias, matrix = (ops.convert_to_tensor(weight) for weight in weights)
        total = None
        for first in range(0, x.shape[-1], CHANNELS_AT_ONCE):
            some = slice(first, first + CHANNELS_AT_ONCE)
            with tf.control_dependencies([] if total is None else [total]):  # else TensorFlow may begin with all
                part = x[..., some]
            part = _interleaved_depthwise_conv2d(part, kernel[:, :, some], self.dilation_rate)
            part = tf.nn.conv2d(tf.nn.relu(tf.nn.bias_add(part, bias[some])), matrix[:, :, some], 1, "SAME")
            part = ops.cast(part, at_least_float32(part.dtype))  # of the sum only the result is rounded to bfloat16
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


def _in_turn(convolution, x, rate):
    """`convolution(x)`; in a graph of TensorFlow, far ones one after another.

    They are the branches of ASPP. All at once, as TensorFlow would run them, V3's take 300 MB more at 512x1024.
    """
    if max(rate) < FAR or keras.backend.backend() != "tensorflow":
        return convolution(x)
    import tensorflow as tf

    if tf.executing_eagerly():
        return convolution(x)
    graph = tf.compat.v1.get_default_graph()
    with tf.control_dependencies(graph.get_collection(_in_turn.__qualname__)[-1:]):
        outputs = convolution(tf.identity(x))
    graph.add_to_collection(_in_turn.__qualname__, outputs)
    return outputs


def _add_bias(x, bias):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.bias_add(x, ops.convert_to_tensor(bias))  # what TensorFlow fuses into the convolution
    return ops.add(x, bias)


@serializable
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation as PyTorch defines it: epsilon 1e-5, momentum 0.9, the running variance unbiased.

    Statistics are computed in float32 at least, and over the global batch: under a `tf.distribute` strategy they are
    summed over its replicas. With `trainable=False` the running ones are used and kept. One replica on TensorFlow trains by
    its fused kernel, where that takes the type.
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs, training=None):
        dtype = at_least_float32(inputs.dtype)
        if training and self.trainable and dtype == "float32" and _is_one_tensorflow_replica():
            return self._fused(inputs)
        x = ops.cast(inputs, dtype)
        mean, variance = (ops.cast(v, dtype) for v in (self.moving_mean, self.moving_variance))
        if training and self.trainable:
            mean, variance, count = batch_statistics(x)
            self._update(mean, variance * (count / ops.maximum(count - 1.0, 1.0)))
        scale = ops.cast(self.gamma, dtype) * ops.rsqrt(variance + self.epsilon)
        return ops.cast((x - mean) * scale + ops.cast(self.beta, dtype), self.compute_dtype)

    def _fused(self, inputs):
        import tensorflow as tf

        scale, offset = (ops.cast(weight, "float32") for weight in (self.gamma, self.beta))
        running = dict(mean=self.moving_mean, variance=self.moving_variance)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=scale,
            offset=offset,
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


def batch_statistics(x):
    """Mean, biased variance and count of the values of each channel over the global batch.

    The variance is that of the distances from the mean; E[x^2] - E[x]^2 would lose it to rounding.
    """
    axes = (0, 1, 2)
    count = ops.cast(ops.prod(ops.shape(x)[:-1]), x.dtype)
    total = over_replicas()
    if total is None:
        mean, variance = ops.moments(x, axes)
        return mean, variance, count
    count = total(count)
    mean = total(ops.sum(x, axes)) / count
    return mean, total(ops.sum(ops.square(x - mean), axes)) / count, count


def _is_one_tensorflow_replica():
    return keras.backend.backend() == "tensorflow" and over_replicas() is None


def over_replicas():
    """The sum over a TensorFlow strategy's replicas as a function, or None where there is but one."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return lambda value: context.all_reduce(tf.distribute.ReduceOp.SUM, value)


@serializable
class ChannelDropout(keras.layers.SpatialDropout2D):
    """Dropout of whole channels (PyTorch's Dropout2d) that goes on where it was after saving and loading.

    Keras draws a new seed for every loaded dropout layer: training would not continue as if it had not been stopped.
    """

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
    """The mean over height and width, the sum of each row rounded once at half precision: (N, H, W, C) to (N, 1, 1, C)."""

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
