"""Layers honour each option of Keras's layers, or refuse it by name. test_backends.py runs this file on other backends too."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_deeplab.networks.layers import AtrousConv2D, AtrousDepthwiseConv2D, BatchNorm, ChannelDropout

random = np.random.default_rng(0)
SIZES = [(9, 12), (8, 7)]


def maps(height, width, channels=4):
    return random.standard_normal((2, height, width, channels)).astype("float32")


def convolution(x, kernel, strides=(1, 1), rates=(1, 1), groups=1):
    """A convolution by its definition, with rate * (size // 2) zeros on both sides along each axis."""
    rows, columns, _, filters = kernel.shape
    pad = rates[0] * (rows // 2), rates[1] * (columns // 2)
    height, width = x.shape[1:3]
    x = np.pad(x, [(0, 0), (pad[0],) * 2, (pad[1],) * 2, (0, 0)])
    total = 0
    for i in range(rows):
        for j in range(columns):
            part = x[:, i * rates[0] :, j * rates[1] :][:, :height, :width][:, :: strides[0], :: strides[1]]
            parts, matrices = np.split(part, groups, -1), np.split(kernel[i, j], groups, -1)
            total = total + np.concatenate([a @ b for a, b in zip(parts, matrices, strict=True)], -1)
    return total


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "kernel_size, options",
    [
        (3, dict(dilation_rate=(1, 2))),
        (3, dict(strides=(1, 2))),
        (3, dict(strides=(3, 1))),
        ((1, 3), dict(dilation_rate=2)),
        ((3, 1), {}),
        (1, dict(strides=2)),
        (1, dict(strides=(1, 2), dilation_rate=1)),
        (5, dict(dilation_rate=9)),
        (5, {}),
        (7, dict(strides=2)),
        (3, dict(groups=2)),
        (3, dict(groups=2, dilation_rate=2)),
        (3, dict(dilation_rate=12)),
    ],
)
def test_a_convolution_honours_sizes_strides_rates_and_groups(kernel_size, options, size):
    layer, x = AtrousConv2D(6, kernel_size, **options), maps(*size)
    result = ops.convert_to_numpy(layer(x))
    expected = convolution(x, ops.convert_to_numpy(layer.kernel), layer.strides, layer.dilation_rate, layer.groups)
    assert result.shape == expected.shape == tuple(layer.compute_output_shape(x.shape))
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "kernel_size, options",
    [
        (3, dict(strides=2)),
        (3, dict(depth_multiplier=2)),
        (5, dict(dilation_rate=4)),
        (3, dict(dilation_rate=(1, 2))),
        (1, {}),
    ],
)
def test_a_depthwise_convolution_honours_sizes_strides_rates_and_multipliers(kernel_size, options, size):
    layer, x = AtrousDepthwiseConv2D(kernel_size, **options), maps(*size)
    result = ops.convert_to_numpy(layer(x))
    kernel = ops.convert_to_numpy(layer.kernel)  # (k, k, C, multiplier)
    channels, multiplier = kernel.shape[2:]
    dense = np.zeros((*kernel.shape[:2], channels, channels * multiplier), "float32")
    for c in range(channels):
        dense[:, :, c, c * multiplier : (c + 1) * multiplier] = kernel[:, :, c]
    expected = convolution(x, dense, layer.strides, layer.dilation_rate)
    assert result.shape == expected.shape == tuple(layer.compute_output_shape(x.shape))
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("layer", [AtrousConv2D(6, 3, activation="relu"), AtrousDepthwiseConv2D(3, activation="relu")])
def test_an_activation_is_applied_after_the_bias(layer):
    x = maps(9, 12)
    layer.build(x.shape)
    layer.bias.assign(random.standard_normal(layer.bias.shape))
    result = ops.convert_to_numpy(layer(x))
    layer.activation = keras.activations.linear
    plain = ops.convert_to_numpy(layer(x))
    assert plain.min() < 0
    np.testing.assert_allclose(result, np.maximum(plain, 0), atol=1e-6)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: AtrousConv2D(4, 2), r"AtrousConv2D needs odd kernel sizes.*Received: 2"),
        (lambda: AtrousConv2D(4, (3, 4)), r"odd kernel sizes.*Received: \(3, 4\)"),
        (
            lambda: AtrousConv2D(4, 3, padding="valid"),
            r"pads both sides equally: leave `padding` out. Received: 'valid'",
        ),
        (lambda: AtrousConv2D(4, 3, data_format="channels_first"), r"channels last.*Received: 'channels_first'"),
        (lambda: AtrousConv2D(4, 3, strides=2, dilation_rate=2), "strides"),
        (lambda: AtrousDepthwiseConv2D(4), r"AtrousDepthwiseConv2D needs odd kernel sizes"),
        (lambda: AtrousDepthwiseConv2D(3, strides=(1, 2)), r"one stride for both axes. Received: strides=\[1, 2\]"),
        (lambda: AtrousDepthwiseConv2D(3, strides=2, dilation_rate=2), "a stride or a rate above 1, not both"),
        (lambda: BatchNorm(renorm=True), "no batch renormalisation: leave `renorm` out"),
        (lambda: BatchNorm()(maps(3, 3), mask=np.ones((2, 3, 3))), "BatchNorm takes no mask"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, dict(scale=False), dict(center=False), dict(scale=False, center=False)])
@pytest.mark.parametrize("shape, axis", [((2, 5, 6, 4), -1), ((2, 4, 5, 6), 1), ((8, 4), -1), ((2, 9, 4), 2)])
def test_a_norm_honours_scale_center_and_axis(shape, axis, options, training):
    x = (random.standard_normal(shape) * 3 + 1).astype("float32")
    layer = BatchNorm(axis=axis, **options)
    layer.build(shape)
    channels = shape[axis]
    running = random.standard_normal(channels), random.random(channels) + 0.5
    scale, offset = random.random(channels) + 0.5, random.standard_normal(channels)
    for name, value in dict(moving_mean=running[0], moving_variance=running[1], gamma=scale, beta=offset).items():
        if getattr(layer, name) is not None:
            getattr(layer, name).assign(value)
    result = np.moveaxis(ops.convert_to_numpy(layer(x, training=training)), axis, -1)
    channels_last = np.moveaxis(x, axis, -1)
    flat = channels_last.reshape(-1, channels)
    mean, variance = (flat.mean(0), flat.var(0)) if training else running
    expected = (channels_last - mean) / np.sqrt(variance + 1e-5)
    expected = expected * (scale if layer.gamma is not None else 1) + (offset if layer.beta is not None else 0)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    if training:
        moving_variance = 0.9 * running[1] + 0.1 * flat.var(0, ddof=1)
        np.testing.assert_allclose(ops.convert_to_numpy(layer.moving_variance), moving_variance, rtol=1e-4)


def test_layers_are_channels_last_whatever_the_configuration_says():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        layers = AtrousConv2D(6, 3), AtrousDepthwiseConv2D(3), ChannelDropout(0.5)
    finally:
        keras.config.set_image_data_format(before)
    assert {layer.data_format for layer in layers} == {"channels_last"}
    assert tuple(layers[0](maps(9, 12)).shape) == (2, 9, 12, 6)


@pytest.mark.parametrize(
    "layer",
    [
        AtrousConv2D(4, (3, 5), strides=(1, 2), activation="relu"),
        AtrousDepthwiseConv2D(5, strides=2, depth_multiplier=2, use_bias=False),
        BatchNorm(axis=1, scale=False),
    ],
)
def test_options_survive_the_configuration(layer):
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is type(layer) and copy.get_config() == layer.get_config()


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 3)])
def test_a_norm_of_one_value_uses_and_keeps_its_running_statistics(shape):
    layer = BatchNorm()
    layer.build((None, *shape[1:]))
    mean, variance = random.standard_normal(3), random.random(3) + 0.5
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    for _ in range(3):
        x = random.standard_normal(shape).astype("float32")
        found = ops.convert_to_numpy(layer(x, training=True))
        np.testing.assert_allclose(found, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.moving_mean), mean, rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.moving_variance), variance, rtol=1e-6)
    x = random.standard_normal((2, *shape[1:])).astype("float32")
    layer(x, training=True)  # of two values they are updated again
    kept = 0.9 * variance + 0.1 * x.reshape(2, 3).var(0, ddof=1)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.moving_variance), kept, rtol=1e-4)
