"""Winograd's convolution gives the numbers of the plain one, and is taken where it is faster."""

import numpy as np
import pytest
import tensorflow as tf

from keras_deeplab.networks.fast import convolution, graph, winograd
from keras_deeplab.networks.fast.clipped import clipped_conv2d
from keras_deeplab.networks.fast.convolution import Purpose, purpose
from keras_deeplab.networks.layers import AtrousConv2D

random = np.random.default_rng(0)


def operands(n, height, width, channels, filters):
    x = np.maximum(random.standard_normal((n, height, width, channels)), 0)
    kernel = random.standard_normal((3, 3, channels, filters)) * np.sqrt(2 / 9 / channels)
    return tf.constant(x, tf.float32), tf.constant(kernel, tf.float32)


def exact(x, kernel, rate):
    """The convolution in float64."""
    return clipped_conv2d(tf.cast(x, tf.float64), tf.cast(kernel, tf.float64), rate).numpy()


def any_size(kernel, rate):
    """Winograd's convolution in a graph for maps of any size."""
    signature = [tf.TensorSpec([None, None, None, kernel.shape[2]])]
    return tf.function(lambda x: winograd.winograd_conv2d(x, kernel, rate), input_signature=signature)


def one_size(kernel, rate, jit_compile):
    """Winograd's convolution in a graph for the size of its first map."""
    return tf.function(lambda x: winograd.winograd_conv2d(x, kernel, rate), jit_compile=jit_compile)


@pytest.mark.parametrize("tiles_per_chunk", [256, 7])
@pytest.mark.parametrize(
    "n, height, width, rate",
    [(1, 1, 1, 1), (2, 9, 13, 1), (1, 8, 12, 4), (2, 5, 3, 12), (1, 33, 18, 2), (3, 17, 30, 5)],
)
def test_it_equals_the_convolution_at_any_size_and_rate(n, height, width, rate, tiles_per_chunk, monkeypatch):
    monkeypatch.setattr(winograd, "TILES_PER_CHUNK", tiles_per_chunk)
    monkeypatch.setattr(winograd, "CHANNELS_PER_GROUP", tiles_per_chunk - 1)
    graph.shared_function.cache_clear()
    x, kernel = operands(n, height, width, 24, 5)  # groups of at most 6 channels give 4 groups; of at most 255, one
    expected = exact(x, kernel, rate)
    ways = [lambda x: winograd.winograd_conv2d(x, kernel, rate), any_size(kernel, rate)]
    for way in ways + [one_size(kernel, rate, jit_compile=tiles_per_chunk == 7)]:
        np.testing.assert_allclose(way(x), expected, atol=2e-5 * max(expected.std(), 0.1))


@pytest.mark.parametrize("channels, group", [(2560, 512), (640, 320), (650, 325), (641, 641), (1282, 1282), (24, 24)])
def test_channels_of_any_number_fall_into_few_groups(channels, group):
    assert winograd.group_size(channels) == group


def test_its_rounding_error_is_a_small_multiple_of_the_plain_ones():
    x, kernel = operands(1, 24, 24, 256, 64)
    expected = exact(x, kernel, 1)

    def error(result):
        return np.sqrt(np.mean((result - expected) ** 2))

    assert error(winograd.winograd_conv2d(x, kernel, 1)) <= 4 * error(tf.nn.conv2d(x, kernel, 1, "SAME"))


def test_its_gradient_is_the_plain_ones():
    x, kernel = operands(1, 9, 14, 4, 3)
    gradients = []
    for way in (winograd.winograd_conv2d, clipped_conv2d):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            loss = tf.reduce_sum(way(x, kernel, 2) ** 2)
        gradients.append(tape.gradient(loss, [x, kernel]))
    for gradient, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * float(tf.reduce_max(tf.abs(expected))))


@pytest.mark.parametrize(
    "channels, filters, rate, size, expected",
    [
        (2560, 512, 1, (64, 128), True),
        (512, 512, 4, (64, 128), True),
        (2048, 512, 12, (64, 128), True),
        (2048, 512, 36, (64, 128), False),  # the taps reach far beyond the map, so clipping saves more
        (2048, 512, 36, (128, 256), True),
        (512, 512, 1, (9, 13), False),  # the transform of the kernel costs too much
        (64, 64, 1, (256, 512), False),  # the transforms of the map cost too much
    ],
)
def test_it_is_taken_where_it_has_less_to_do(channels, filters, rate, size, expected, monkeypatch):
    calls = []
    monkeypatch.setattr(convolution, "winograd_conv2d", lambda x, *_: calls.append(True) or x[..., :filters])
    monkeypatch.setattr(convolution, "in_shared_function", lambda convolve, x, *_: x[..., :filters])
    monkeypatch.setattr(convolution, "CONV2D", {way: lambda x, *_: x[..., :filters] for way in convolution.CONV2D})
    x, kernel = tf.zeros([1, *size, channels]), tf.zeros([3, 3, channels, filters])
    with purpose(Purpose.INFERENCE):
        convolution.conv2d(x, kernel, rate)
    assert bool(calls) == expected
    calls.clear()
    convolution.conv2d(x, kernel, rate)  # never in training
    assert not calls


@pytest.mark.parametrize("rate", [1, 12])
def test_a_layer_of_unknown_size_takes_it_for_large_maps(rate):
    layer = AtrousConv2D(256, 3, dilation_rate=rate)
    layer.build((None, None, None, 256))
    of_any_size = tf.function(lambda x: layer(x), input_signature=[tf.TensorSpec([None, None, None, 256])])
    for size in ((5, 7), (48, 80)):
        x, _ = operands(1, *size, 256, 1)
        with purpose(Purpose.INFERENCE):
            result = of_any_size(x)
        np.testing.assert_allclose(result, exact(x, tf.convert_to_tensor(layer.kernel), rate), atol=1e-4)
