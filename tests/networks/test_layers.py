"""The layers against numpy: convolution padded on both sides at any rate, PyTorch's norm, bilinear resize."""

import keras
import numpy as np
import pytest

from keras_deeplab.networks import layers
from keras_deeplab.networks.layers import (
    AtrousConv2D,
    AtrousDepthwiseConv2D,
    AtrousSeparableConv2D,
    BatchNorm,
    GlobalMean,
    PooledConv2D,
    ResizeLike,
    _clipped_conv2d,
    _interleaved_depthwise_conv2d,
    he_normal,
    interpolation_matrix,
    weights_follow,
)

random = np.random.default_rng(0)


def convolved(x, kernel, stride, rate):
    """The definition: output (y, x) is the sum over taps at (stride * y + rate * (i - k // 2), ...), zero outside."""
    size, (_, height, width, _) = kernel.shape[0], x.shape
    pad = rate * (size // 2)
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    return sum(
        x[:, i * rate : i * rate + height : stride, j * rate : j * rate + width : stride] @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    )


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
    both = [np.broadcast_to(pooled, (2, height, width, 4)), np.asarray(x)]
    both = np.concatenate([part.astype("float32") for part in both], -1)
    expected = convolved(both, kernel, 1, 1) + bias
    result = layer([pooled, x])
    assert result.shape == layer.compute_output_shape([pooled.shape, x.shape])
    np.testing.assert_allclose(np.asarray(result, "float32"), expected, atol=bound * max(1, expected.std()))


def separable(filters, channels, rate, **options):
    """A layer with biases that are not zero."""
    layer = AtrousSeparableConv2D(filters, rate, names=("depthwise", "pointwise"), **options)
    layer.build((None, None, None, channels))
    for part in layer.parts:
        part.bias.assign(random.standard_normal(part.bias.shape))
    return layer


@pytest.mark.parametrize("height, width", [(8, 11), (3, 30), (1, 1)])
@pytest.mark.parametrize("rate", [1, 2, 12, 36])
@pytest.mark.parametrize("dtype, bound", [("float32", 2e-5), ("bfloat16", 4e-2)])
def test_separable_convolution_is_both_one_after_the_other(height, width, rate, dtype, bound, monkeypatch):
    monkeypatch.setattr(layers, "CHANNELS_AT_ONCE", 3)  # of 7: the last part is smaller
    layer = separable(5, 7, rate, dtype=dtype)
    x = keras.ops.cast(random.standard_normal((2, height, width, 7)), dtype)
    kernel, bias, matrix, last = (np.asarray(weight.value, "float32") for weight in layer.weights)
    dense = kernel * np.eye(7, dtype="float32")
    expected = np.maximum(convolved(np.asarray(x, "float32"), dense, 1, rate) + bias, 0) @ matrix[0, 0] + last
    result = layer(x)
    assert result.dtype == dtype and result.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(np.asarray(result, "float32"), expected, atol=bound * max(1, expected.std()))


@pytest.mark.parametrize("is_fast", [True, False])
def test_bfloat16_takes_the_direct_way_far_out_where_it_is_fast_and_the_graph_stays(is_fast, monkeypatch):
    import tensorflow as tf

    if not layers._direct_atrous_trains("bfloat16"):
        pytest.skip("this processor's direct convolution is of no use")
    monkeypatch.setattr(layers, "_direct_is_fast_far_out", lambda dtype: is_fast)
    x = keras.ops.cast(random.standard_normal((1, 17, 30, 16)), "bfloat16")

    def rates_and_results(layer):
        graph = tf.function(layer).get_concrete_function(x)
        taken = {tuple(op.get_attr("dilations")) for op in graph.graph.get_operations() if op.type == "Conv2D"}
        return taken, np.asarray(graph(x), "float32")

    layer = AtrousConv2D(5, 3, dilation_rate=12, dtype="bfloat16")
    layer.build(x.shape)
    here, result = rates_and_results(layer)
    with layers.for_any_processor():
        anywhere, other = rates_and_results(layer)
    assert here == ({(1, 12, 12, 1)} if is_fast else set()) and anywhere == set()
    for_training = AtrousConv2D(5, 3, dilation_rate=12, dtype="bfloat16", use_bias=False)
    assert rates_and_results(for_training)[0] == set()
    expected = convolved(np.asarray(x, "float32"), np.asarray(layer.kernel.value, "float32"), 1, 12)
    if is_fast:
        np.testing.assert_allclose(result, expected, rtol=2**-8, atol=1e-5)  # rounded once
    np.testing.assert_allclose(other, expected, atol=9 * 2**-8 * np.abs(expected).max())  # once with each tap


def ancestors(operations):
    """A graph's operations whose results some others need, these included."""
    found, left = set(), list(operations)
    while left:
        operation = left.pop()
        if operation not in found:
            found.add(operation)
            left.extend(tensor.op for tensor in operation.inputs)
    return found


def direct(x, kernel, rate):
    import tensorflow as tf

    return tf.nn.conv2d(x, kernel, 1, "SAME", dilations=rate)


def direct_depthwise(x, kernel, rate):
    import tensorflow as tf

    return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME", dilations=[rate, rate])


@pytest.mark.parametrize("height, width, rate", [(9, 12, 2), (9, 12, 8), (5, 30, 24), (1, 1, 12)])
@pytest.mark.parametrize(
    "in_parts, whole, filters", [(_clipped_conv2d, direct, 4), (_interleaved_depthwise_conv2d, direct_depthwise, 1)]
)
def test_a_convolution_in_parts_and_its_gradient_equal_the_whole_one(in_parts, whole, filters, height, width, rate):
    import tensorflow as tf

    x = tf.constant(random.standard_normal((2, height, width, 3)), tf.float32)
    kernel = tf.constant(random.standard_normal((3, 3, 3, filters)), tf.float32)
    results = []
    for form in (whole, in_parts):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = form(x, kernel, rate)
            loss = tf.reduce_sum(y**2)
        results.append([y, *tape.gradient(loss, [x, kernel])])
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * float(tf.reduce_max(tf.abs(expected))))


# A row at a time; three rows of twelve pixels, of the last band less.
@pytest.mark.parametrize("pixels_at_once", [1, 40])
@pytest.mark.parametrize("height, width, rate", [(10, 12, 8), (5, 30, 24), (1, 1, 12)])
def test_a_map_of_unknown_size_is_clipped_some_rows_at_a_time(height, width, rate, pixels_at_once, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(layers, "PIXELS_AT_ONCE", pixels_at_once)
    x = tf.constant(random.standard_normal((2, height, width, 3)), tf.float32)
    kernel = tf.constant(random.standard_normal((3, 3, 3, 4)), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec(kernel.shape)])
    def result_and_gradient(x, kernel):
        y = _clipped_conv2d(x, kernel, rate)
        return y, *tf.gradients(tf.reduce_sum(y**2), [x, kernel])

    found = result_and_gradient(x, kernel)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = direct(x, kernel, rate)
        loss = tf.reduce_sum(y**2)
    for expected, value in zip([y, *tape.gradient(loss, [x, kernel])], found, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4 * float(tf.reduce_max(tf.abs(expected))))


@pytest.mark.parametrize(
    "layer",
    [
        AtrousConv2D(256, 3, dilation_rate=12),  # by Winograd's transform
        AtrousConv2D(256, 3, dilation_rate=36),  # clipped: 2.2 times as much if parts of it all are cut at once
        AtrousSeparableConv2D(256, 12, names=("depthwise", "pointwise")),  # 2.2 times with all channels at once
    ],
)
def test_a_far_convolution_takes_less_memory_than_its_input(layer):
    import tensorflow as tf

    layer.build((None, None, None, 2048))
    graph = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 2048])])
    x = tf.zeros([1, 64, 128, 2048])
    graph(x)
    try:
        before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    except ValueError:
        pytest.skip("TensorFlow counts a processor's memory with oneDNN alone")
    tf.config.experimental.reset_memory_stats("CPU:0")
    y = graph(x)
    taken = tf.config.experimental.get_memory_info("CPU:0")["peak"] - before - y.numpy().nbytes
    assert taken < x.numpy().nbytes


@pytest.mark.parametrize("in_parts, filters", [(_clipped_conv2d, 4), (_interleaved_depthwise_conv2d, 1)])
def test_the_gradient_of_a_convolution_in_parts_keeps_no_part(in_parts, filters):
    import tensorflow as tf

    with tf.Graph().as_default():
        x, kernel = (tf.compat.v1.placeholder("float32", shape) for shape in ((2, None, None, 3), (3, 3, 3, filters)))
        y = in_parts(x, kernel, 12)
        upstream = tf.compat.v1.placeholder("float32", y.shape)
        gradients = [gradient.op for gradient in tf.gradients(y, [x, kernel], upstream)]
        both = ancestors(gradients) & ancestors([y.op])
    kept = {op.type for op in both if any(tensor.dtype == "float32" for tensor in op.outputs)}
    assert kept == {"Placeholder"}  # that is, x and the kernel alone


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
    ends = []
    for move in (step, -2 * step):
        layer.kernel.assign_add(move)
        ends.append(float(tf.reduce_sum(layer(x) ** 2)))
    assert abs((ends[0] - ends[1]) / 2 - slope) <= 1e-11 * ends[0]  # exact for a quadratic function


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-6), ("float64", 1e-15), ("mixed_bfloat16", 1e-2)])
def test_the_global_mean_is_the_mean(dtype, bound):
    x = random.integers(0, 2**20, (2, 31, 17, 5)) / 2**20  # float64 adds them without rounding, in any order
    result = np.asarray(GlobalMean(dtype=dtype)(x.astype("float32" if dtype == "mixed_bfloat16" else dtype)), "float64")
    np.testing.assert_allclose(result, x.mean((1, 2), keepdims=True), rtol=bound)


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
    ],
)
def test_layers_come_back_from_their_configuration(layer):
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is type(layer) and copy.get_config() == layer.get_config()


def test_weights_are_drawn_but_where_others_follow():
    initializer = he_normal()
    with weights_follow():
        assert not np.any(initializer((3, 3, 64, 32), "float32"))
    drawn = np.asarray(initializer((3, 3, 64, 32), "float32"))
    assert drawn.std() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.02)  # by the products that an input takes part in
    copy = keras.initializers.deserialize(keras.initializers.serialize(initializer))
    assert type(copy) is type(initializer) and copy.get_config() == initializer.get_config()
