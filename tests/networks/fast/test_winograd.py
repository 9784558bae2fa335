"""Winograd's convolution gives the numbers of the plain one, and is taken where it is faster."""

import numpy as np
import pytest
import tensorflow as tf

from keras_deeplab.networks.fast import convolution, graph, processor, winograd
from keras_deeplab.networks.fast.clipped import clipped_conv2d
from keras_deeplab.networks.fast.convolution import Purpose, purpose
from keras_deeplab.networks.layers import AtrousConv2D

random = np.random.default_rng(0)
DTYPES = ("float32", "bfloat16")
CONVOLUTIONS = (winograd.winograd_conv2d, winograd.portable_winograd_conv2d)


def operands(n, height, width, channels, filters, dtype="float32"):
    x = np.maximum(random.standard_normal((n, height, width, channels)), 0)
    kernel = random.standard_normal((3, 3, channels, filters)) * np.sqrt(2 / 9 / channels)
    return tf.cast(x, dtype), tf.cast(kernel, dtype)


def exact(x, kernel, rate):
    """The convolution in float64."""
    return clipped_conv2d(tf.cast(x, tf.float64), tf.cast(kernel, tf.float64), rate).numpy()


def any_size(convolve, kernel, rate):
    """Winograd's convolution in a graph for maps of any size."""
    signature = [tf.TensorSpec([None, None, None, kernel.shape[2]], kernel.dtype)]
    return tf.function(lambda x: convolve(x, kernel, rate), input_signature=signature)


def one_size(convolve, kernel, rate, jit_compile):
    """Winograd's convolution in a graph for the size of its first map."""
    return tf.function(lambda x: convolve(x, kernel, rate), jit_compile=jit_compile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "convolve, tiles",
    [(winograd.winograd_conv2d, 256), (winograd.winograd_conv2d, 7), (winograd.portable_winograd_conv2d, 7)],
)
@pytest.mark.parametrize(
    "n, height, width, rate",
    [(1, 1, 1, 1), (2, 9, 13, 1), (1, 8, 12, 4), (2, 5, 3, 12), (1, 33, 18, 2), (3, 17, 30, 5)],
)
def test_it_equals_the_convolution_at_any_size_and_rate(n, height, width, rate, tiles, dtype, convolve, monkeypatch):
    form = winograd.FORMS[dtype]._replace(tiles=tiles, values=0, channels=tiles - 1)
    monkeypatch.setitem(winograd.FORMS, dtype, form)
    graph.shared_function.cache_clear()
    x, kernel = operands(
        n, height, width, 24, 5, dtype
    )  # groups of at most 6 channels give 4 groups; of at most 255, one
    expected = exact(x, kernel, rate)
    ways = [lambda x: convolve(x, kernel, rate), any_size(convolve, kernel, rate)]
    bound = {"float32": 2e-5, "bfloat16": 0.05}[dtype] * max(expected.std(), 0.1)
    for way in ways + [one_size(convolve, kernel, rate, jit_compile=tiles == 7)]:
        result = way(x)
        assert result.dtype == dtype
        np.testing.assert_allclose(tf.cast(result, tf.float64), expected, atol=bound)


@pytest.mark.parametrize("channels, group", [(2560, 512), (640, 320), (650, 325), (641, 641), (1282, 1282), (24, 24)])
def test_channels_of_any_number_fall_into_few_groups(channels, group):
    assert winograd.group_size(channels, 512) == group


@pytest.mark.parametrize("dtype, multiple", [("float32", 4), ("bfloat16", 2.5)])
def test_its_rounding_error_is_a_small_multiple_of_the_plain_ones(dtype, multiple):
    x, kernel = operands(1, 24, 24, 256, 64)
    expected = exact(x, kernel, 1)
    x, kernel = tf.cast(x, dtype), tf.cast(kernel, dtype)

    def error(result):
        return np.sqrt(np.mean((tf.cast(result, tf.float64) - expected) ** 2))

    assert error(winograd.winograd_conv2d(x, kernel, 1)) <= multiple * error(tf.nn.conv2d(x, kernel, 1, "SAME"))


@pytest.mark.parametrize("convolve", CONVOLUTIONS)
def test_its_gradient_is_the_plain_ones(convolve):
    x, kernel = operands(1, 9, 14, 4, 3)
    gradients = []
    for way in (convolve, clipped_conv2d):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            loss = tf.reduce_sum(way(x, kernel, 2) ** 2)
        gradients.append(tape.gradient(loss, [x, kernel]))
    for gradient, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * float(tf.reduce_max(tf.abs(expected))))


@pytest.fixture
def is_taken(monkeypatch):
    """A function that says whether a convolution of the shapes takes Winograd's way, without computing it."""
    calls = []
    for name in ("winograd_conv2d", "portable_winograd_conv2d"):
        monkeypatch.setattr(convolution, name, lambda x, kernel, _: calls.append(True) or x[..., : kernel.shape[3]])
    monkeypatch.setattr(convolution, "in_shared_function", lambda convolve, x, kernel, _: x[..., : kernel.shape[3]])
    ways = {way: lambda x, kernel, _: x[..., : kernel.shape[3]] for way in convolution.CONV2D}
    monkeypatch.setattr(convolution, "CONV2D", ways)

    def ask(channels, filters, rate, size, graph_is_for, dtype="float32"):
        calls.clear()
        with purpose(graph_is_for):
            convolution.conv2d(tf.zeros([1, *size, channels], dtype), tf.zeros([3, 3, channels, filters], dtype), rate)
        return bool(calls)

    return ask


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
def test_it_is_taken_where_it_has_less_to_do(channels, filters, rate, size, expected, is_taken):
    assert is_taken(channels, filters, rate, size, Purpose.INFERENCE) == expected
    assert is_taken(channels, filters, rate, size, Purpose.ANY_PROCESSOR) == expected
    assert not is_taken(channels, filters, rate, size, Purpose.TRAINING)


@pytest.mark.parametrize(
    "channels, filters, rate, size, expected",
    [
        (2560, 512, 1, (64, 128), True),
        (256, 256, 2, (64, 128), True),
        (2048, 512, 12, (64, 128), True),
        (2048, 512, 24, (64, 128), False),  # oneDNN leaves out the products with the padding
        (128, 128, 1, (64, 128), False),
    ],
)
def test_it_is_taken_in_bfloat16_on_this_processor_where_amx_is_not_faster(
    channels, filters, rate, size, expected, is_taken, monkeypatch
):
    shapes = channels, filters, rate, size
    monkeypatch.setattr(processor, "multiplies_bfloat16_without_amx", lambda: True)
    assert is_taken(*shapes, Purpose.INFERENCE, "bfloat16") == expected
    assert not is_taken(*shapes, Purpose.ANY_PROCESSOR, "bfloat16")
    assert not is_taken(*shapes, Purpose.TRAINING, "bfloat16")
    monkeypatch.setattr(processor, "multiplies_bfloat16_without_amx", lambda: False)
    assert not is_taken(*shapes, Purpose.INFERENCE, "bfloat16")


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
