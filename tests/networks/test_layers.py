"""The layers give what numpy gives: convolutions padded on both sides at any rate, PyTorch's batch norm, bilinear resize."""

import keras
import numpy as np
import pytest
from support.numpy_layers import convolved

from keras_deeplab.networks.fast.convolution import Purpose, purpose
from keras_deeplab.networks.fast.folded import AtrousSeparableConv2D, PooledConv2D
from keras_deeplab.networks.initializers import he_normal, kernels_start_as_zeros
from keras_deeplab.networks.layers import (
    AtrousConv2D,
    AtrousDepthwiseConv2D,
    BatchNorm,
    GlobalMean,
    Normalize,
    ResizeLike,
    SplitAttention,
    SplitMean,
    interpolation_matrix,
)

random = np.random.default_rng(0)


@pytest.mark.parametrize("height, width", [(8, 11), (7, 6), (3, 30), (1, 1)])
@pytest.mark.parametrize(
    "size, stride, rate", [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (7, 2, 1), (3, 1, 2), (3, 1, 4), (3, 1, 12)]
)
def test_atrous_convolution_follows_its_definition(height, width, size, stride, rate):
    layer = AtrousConv2D(5, size, strides=stride, dilation_rate=rate, use_bias=False)
    x = random.standard_normal((2, height, width, 3)).astype("float32")
    result = np.asarray(layer(x))
    expected = convolved(x, np.asarray(layer.kernel), stride, rate)
    assert result.shape == expected.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.mark.parametrize("height, width", [(8, 11), (3, 30), (1, 1)])
@pytest.mark.parametrize("rate", [1, 2, 12, 36])
def test_depthwise_convolution_follows_its_definition(height, width, rate):
    layer = AtrousDepthwiseConv2D(3, dilation_rate=rate)
    x = random.standard_normal((2, height, width, 4)).astype("float32")
    layer.build(x.shape)
    layer.bias.assign(random.standard_normal(4))
    kernel = np.zeros((3, 3, 4, 4), "float32")
    kernel[..., range(4), range(4)] = np.asarray(layer.kernel)[..., 0]
    np.testing.assert_allclose(layer(x), convolved(x, kernel, 1, rate) + np.asarray(layer.bias), atol=2e-5)


@pytest.mark.parametrize(
    "layer",
    [AtrousConv2D(4, 3, dilation_rate=4, dtype="float64"), AtrousDepthwiseConv2D(3, dilation_rate=4, dtype="float64")],
)
def test_atrous_convolutions_have_a_float64_gradient(layer):
    import tensorflow as tf

    x = tf.constant(random.standard_normal((1, 9, 9, 3)))
    layer(x)
    step = 1e-3 * random.standard_normal(layer.kernel.shape)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    slope = float(tf.reduce_sum(tape.gradient(loss, layer.kernel.value) * step))
    losses = []  # one step to either side
    for move in (step, -2 * step):
        layer.kernel.assign_add(move)
        losses.append(float(tf.reduce_sum(layer(x) ** 2)))
    assert abs((losses[0] - losses[1]) / 2 - slope) <= 1e-11 * losses[0]  # exact for a quadratic function


@pytest.mark.parametrize("graph_is_for", Purpose)
@pytest.mark.parametrize(
    "mean, std",
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ((127.5,) * 3, (58.395, 57.12, 57.375)),
        ((127.5,) * 3, (127.5,) * 3),
    ],
)
@pytest.mark.parametrize("dtype, bound", [("float32", 1e-6), ("float64", 1e-15), ("mixed_bfloat16", 1e-2)])
def test_pictures_are_normalized_by_each_channels_mean_and_deviation(mean, std, graph_is_for, dtype, bound):
    import tensorflow as tf

    images = random.integers(0, 256, (2, 5, 7, 3), "uint8")
    layer = Normalize(mean, std, dtype=dtype)
    of_any_size = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    with purpose(graph_is_for):
        results = [layer(images), of_any_size(images)]
    for result in results:
        np.testing.assert_allclose(
            np.asarray(result, "float64"), (images - np.array(mean)) / std, rtol=bound, atol=bound
        )


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-6), ("float64", 1e-15), ("mixed_bfloat16", 1e-2)])
def test_the_global_mean_is_the_mean(dtype, bound):
    x = random.integers(0, 2**20, (2, 31, 17, 5)) / 2**20  # float64 adds them without rounding, in any order
    result = np.asarray(GlobalMean(dtype=dtype)(x.astype("float32" if dtype == "mixed_bfloat16" else dtype)), "float64")
    np.testing.assert_allclose(result, x.mean((1, 2), keepdims=True), rtol=bound)


@pytest.mark.parametrize("splits", [2, 3])
def test_split_attention_weights_the_splits_of_a_channel_by_a_softmax(splits):
    x = random.standard_normal((2, 5, 7, splits * 4)).astype("float32")
    scores = random.standard_normal((2, 1, 1, splits * 4)).astype("float32")
    parts = x.reshape(2, 5, 7, splits, 4)  # all channels of the first split come first
    weights = np.exp(scores.reshape(2, 1, 1, splits, 4))
    weights /= weights.sum(3, keepdims=True)
    np.testing.assert_allclose(SplitAttention(splits)([x, scores]), (parts * weights).sum(3), atol=1e-5)
    np.testing.assert_allclose(SplitMean(splits)(x), parts.sum(3).mean((1, 2), keepdims=True), atol=1e-5)


@pytest.mark.parametrize("rate", [1, 2, 4])
def test_a_grouped_convolution_has_the_gradient_of_its_parts(rate):
    import tensorflow as tf

    layer = AtrousConv2D(6, 3, groups=2, dilation_rate=rate)
    x = tf.constant(random.standard_normal((2, 9, 8, 4)), tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    gradient = tape.gradient(loss, layer.kernel.value)
    for i in range(2):
        part, kernel = x[..., 2 * i : 2 * i + 2], layer.kernel.value[..., 3 * i : 3 * i + 3]
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = tf.reduce_sum(tf.nn.conv2d(part, kernel, 1, "SAME", dilations=rate) ** 2)
        np.testing.assert_allclose(gradient[..., 3 * i : 3 * i + 3], tape.gradient(loss, kernel), rtol=1e-3, atol=1e-3)


def test_batch_norm_in_training_keeps_pytorchs_running_statistics():
    layer, x = BatchNorm(), random.standard_normal((2, 3, 4, 5)).astype("float32") * 3 + 1
    y = np.asarray(layer(x, training=True))
    flat = x.reshape(-1, 5)
    np.testing.assert_allclose(y, (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * flat.mean(0), atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_a_frozen_batch_norm_uses_its_statistics_in_training_too():
    layer = BatchNorm()
    layer.trainable = False
    x = random.standard_normal((2, 3, 4, 5)).astype("float32")
    np.testing.assert_allclose(layer(x, training=True), x / np.sqrt(1 + 1e-5), rtol=1e-5)
    assert np.array_equal(layer.moving_mean, np.zeros(5))


def interpolated(x, height, width, align_corners):
    """Bilinear resize by its definition: linear interpolation along the height, then along the width."""
    for axis, size in ((1, height), (2, width)):
        n = x.shape[axis]
        out = np.arange(size)
        source = out * (n - 1) / max(size - 1, 1) if align_corners else np.clip((out + 0.5) * n / size - 0.5, 0, n - 1)
        low = np.floor(source).astype(int)
        t = (source - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, low, axis) * (1 - t) + np.take(x, np.minimum(low + 1, n - 1), axis) * t
    return x


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "before, after", [((5, 7), (33, 47)), ((33, 47), (5, 7)), ((1, 1), (6, 4)), ((4, 4), (4, 4)), ((6, 5), (1, 1))]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resize_interpolates_linearly(align_corners, before, after, dtype):
    x = random.standard_normal((2, *before, 3)).astype(dtype)
    result = ResizeLike(align_corners, dtype=dtype)([x, np.zeros((2, *after, 1), dtype)])
    assert keras.backend.standardize_dtype(result.dtype) == dtype
    np.testing.assert_allclose(
        result, interpolated(x, *after, align_corners), atol=2e-5 if dtype == "float32" else 1e-12
    )


@pytest.mark.parametrize("align_corners", [False, True])
def test_interpolation_weights_sum_to_one(align_corners):
    np.testing.assert_allclose(np.sum(interpolation_matrix(7, 50, align_corners), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        AtrousConv2D(4, 3, strides=2),
        AtrousDepthwiseConv2D(3, dilation_rate=2),
        AtrousSeparableConv2D(4, 12, names=("a", "b")),
        PooledConv2D(4),
        BatchNorm(),
        ResizeLike(align_corners=True),
        SplitMean(2),
        SplitAttention(2),
    ],
)
def test_layers_come_back_from_their_configuration(layer):
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is type(layer) and copy.get_config() == layer.get_config()


def test_kernels_are_drawn_unless_they_are_to_start_as_zeros():
    initializer = he_normal()
    with kernels_start_as_zeros():
        assert not np.any(initializer((3, 3, 64, 32), "float32"))
    kernel = np.asarray(initializer((3, 3, 64, 32), "float32"))
    fan_out = 9 * 32  # the number of products that an input takes part in
    assert kernel.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    copy = keras.initializers.deserialize(keras.initializers.serialize(initializer))
    assert type(copy) is type(initializer) and copy.get_config() == initializer.get_config()
