"""The layers of networks without norms give the same as the layers that they replace."""

import keras
import numpy as np
import pytest
from support.numpy_layers import convolved

from keras_deeplab.networks.fast import folded
from keras_deeplab.networks.fast.folded import AtrousSeparableConv2D, PooledConv2D

random = np.random.default_rng(0)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 5), (4, 1), (2, 3), (9, 7)])
@pytest.mark.parametrize("dtype, bound", [("float32", 2e-5), ("bfloat16", 2e-2)])
def test_pooled_features_are_convolved_as_if_they_stood_at_each_pixel(height, width, dtype, bound):
    layer = PooledConv2D(5, dtype=dtype)
    pooled, x = (
        keras.ops.cast(random.standard_normal(shape), dtype) for shape in ((2, 1, 1, 4), (2, height, width, 3))
    )
    layer.build([pooled.shape, x.shape])
    kernel = np.asarray(keras.ops.cast(random.standard_normal((3, 3, 7, 5)), dtype)).astype("float32")
    bias = np.asarray(keras.ops.cast(random.standard_normal(5), dtype)).astype("float32")
    layer.assign(kernel, bias)
    parts = [np.broadcast_to(pooled, (2, height, width, 4)), np.asarray(x)]
    concatenated = np.concatenate([part.astype("float32") for part in parts], -1)
    expected = convolved(concatenated, kernel, 1, 1) + bias
    result = layer([pooled, x])
    assert result.shape == layer.compute_output_shape([pooled.shape, x.shape])
    np.testing.assert_allclose(np.asarray(result, "float32"), expected, atol=bound * max(1, expected.std()))


def separable(filters, channels, rate, **options):
    """An `AtrousSeparableConv2D` whose biases are not zero."""
    layer = AtrousSeparableConv2D(filters, rate, names=("depthwise", "pointwise"), **options)
    layer.build((None, None, None, channels))
    for part in layer.parts:
        part.bias.assign(random.standard_normal(part.bias.shape))
    return layer


@pytest.mark.parametrize("height, width", [(8, 11), (3, 30), (1, 1)])
@pytest.mark.parametrize("rate", [1, 2, 12, 36])
@pytest.mark.parametrize("dtype, bound", [("float32", 2e-5), ("bfloat16", 4e-2)])
@pytest.mark.parametrize("channels, most", [(6, 3), (7, 3), (6, 6)])  # two groups, seven, one
def test_separable_convolution_is_both_one_after_the_other(
    height, width, rate, dtype, bound, channels, most, monkeypatch
):
    monkeypatch.setattr(folded, "GROUP_CHANNELS", {2: most, 4: most})
    layer = separable(5, channels, rate, dtype=dtype)
    x = keras.ops.cast(random.standard_normal((2, height, width, channels)), dtype)
    kernel, bias, matrix, last_bias = (np.asarray(weight.value, "float32") for weight in layer.weights)
    dense = kernel * np.eye(channels, dtype="float32")
    expected = np.maximum(convolved(np.asarray(x, "float32"), dense, 1, rate) + bias, 0) @ matrix[0, 0] + last_bias
    result = layer(x)
    assert result.dtype == dtype and result.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(np.asarray(result, "float32"), expected, atol=bound * max(1, expected.std()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_infinite_features_reach_no_pixel_that_has_no_tap_there(dtype):
    layer = separable(5, 6, 12, dtype=dtype)
    layer.depthwise.kernel.assign(np.ones((3, 3, 6, 1)))  # the ReLU would hide minus infinity
    x = np.zeros((1, 13, 30, 6))
    x[0, -1, -1] = np.inf  # grids are padded with copies of it, which are masked
    finite = np.isfinite(np.asarray(layer(keras.ops.cast(x, dtype)), "float64")).all(-1)[0]
    expected = np.ones((13, 30), bool)
    expected[[[12], [0]], [29, 17]] = False  # itself, and those whose taps lie on it
    np.testing.assert_array_equal(finite, expected)
