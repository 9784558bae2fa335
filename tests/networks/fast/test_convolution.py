"""Every way to compute a convolution gives the same result, and the purpose of the graph decides which way is taken."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.drawn import images
from support.narrow import drawn
from support.numpy_layers import convolved
from tensorflow.python.eager.context import context

import keras_deeplab as kd
from keras_deeplab.networks.fast import clipped, convolution, processor
from keras_deeplab.networks.fast.clipped import clipped_conv2d
from keras_deeplab.networks.fast.convolution import CONV2D, DEPTHWISE_CONV2D, Purpose, override, purpose
from keras_deeplab.networks.fast.folded import AtrousSeparableConv2D
from keras_deeplab.networks.fast.interleaved import interleaved_depthwise_conv2d
from keras_deeplab.networks.fast.shifted import shifted_depthwise_conv2d
from keras_deeplab.networks.layers import Add, AtrousConv2D

random = np.random.default_rng(0)


def operands(height, width, filters, channels=3, size=3, n=2):
    x = tf.constant(random.standard_normal((n, height, width, channels)), tf.float32)
    return x, tf.constant(random.standard_normal((size, size, channels, filters)), tf.float32)


def with_gradients(convolve, x, kernel, rate):
    """A convolution and the gradients of the sum of its squares to both operands."""
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = convolve(x, kernel, rate)
        loss = tf.reduce_sum(y**2)
    return [y, *tape.gradient(loss, [x, kernel])]


@pytest.mark.parametrize("height, width, rate", [(9, 12, 2), (9, 12, 8), (5, 30, 24), (1, 1, 12)])
@pytest.mark.parametrize(
    "function, way, filters",
    [(convolution.conv2d, way, 4) for way in CONV2D]
    + [(convolution.depthwise_conv2d, way, 1) for way in DEPTHWISE_CONV2D],
)
def test_every_way_and_its_gradient_equal_the_direct_one(function, way, filters, height, width, rate):
    x, kernel = operands(height, width, filters)
    with override(**{function.__name__: "direct"}):
        direct = with_gradients(function, x, kernel, rate)
    with override(**{function.__name__: way}):
        results = with_gradients(function, x, kernel, rate)
    for expected, value in zip(direct, results, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4 * float(tf.reduce_max(tf.abs(expected))))


@pytest.mark.parametrize("height, width, rate", [(9, 12, 8), (5, 30, 24), (1, 1, 12), (25, 14, 12)])
def test_the_grids_of_a_gpu_and_their_gradients_equal_the_direct_way(height, width, rate, monkeypatch):
    x, kernel = operands(height, width, 4)
    direct = with_gradients(CONV2D["direct"], x, kernel, rate)
    monkeypatch.setattr(processor, "has_gpu", lambda: True)
    results = with_gradients(CONV2D["tapped"], x, kernel, rate)
    for expected, value in zip(direct, results, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4 * float(tf.reduce_max(tf.abs(expected))))


@pytest.mark.parametrize("size, rate", [(1, 1), (3, 1), (3, 12), (5, 1), (5, 3), (7, 1)])
@pytest.mark.parametrize("graph_is_for", Purpose)
def test_the_way_that_is_chosen_follows_the_definition(graph_is_for, size, rate):
    x, kernel = operands(9, 13, filters=4, size=size)
    expected = convolved(x.numpy(), kernel.numpy(), 1, rate)
    with purpose(graph_is_for):
        result = tf.function(lambda x, kernel: convolution.conv2d(x, kernel, rate))(x, kernel)
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("graph_is_for", Purpose)
@pytest.mark.parametrize("size, rate", [(3, 1), (3, 12), (5, 2)])
def test_depthwise_ways_follow_the_definition(graph_is_for, size, rate):
    x, kernel = operands(9, 13, filters=1, size=size)
    dense = kernel.numpy() * np.eye(3, dtype="float32")
    with purpose(graph_is_for):
        result = convolution.depthwise_conv2d(x, kernel, rate)
    np.testing.assert_allclose(result, convolved(x.numpy(), dense, 1, rate), atol=1e-4)


@pytest.mark.parametrize("size, strides", [(3, 2), (5, 2), (3, 3)])
def test_shifted_maps_follow_the_definition_at_every_stride(size, strides):
    x, kernel = operands(9, 14, filters=1, size=size)
    dense = kernel.numpy() * np.eye(3, dtype="float32")
    expected = convolved(x.numpy(), dense, strides, 1)
    np.testing.assert_allclose(shifted_depthwise_conv2d(x, kernel, 1, strides), expected, atol=1e-4)


@pytest.mark.parametrize("n, height, width", [(2, 9, 13), (1, 1, 1)])
def test_the_product_of_a_1x1_kernel_and_its_gradient_equal_the_direct_way(n, height, width):
    x, kernel = operands(height, width, filters=4, size=1, n=n)
    with override(conv2d="product"):
        results = with_gradients(convolution.conv2d, x, kernel, 1)
    direct = with_gradients(convolution.conv2d, x, kernel, 1)
    for expected, value in zip(direct, results, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4 * float(tf.reduce_max(tf.abs(expected))))


@pytest.mark.parametrize("way", CONV2D)
@pytest.mark.parametrize("size", [1, 3])
def test_every_way_adds_the_bias(size, way):
    x, kernel = operands(7, 9, filters=4, size=size)
    bias = tf.constant([1.0, -2.0, 3.0, 0.5])
    with override(conv2d=way):
        result = convolution.conv2d(x, kernel, bias=bias)
    np.testing.assert_allclose(result, convolved(x.numpy(), kernel.numpy(), 1, 1) + bias, atol=1e-4)


@pytest.mark.parametrize(
    "graph_is_for, channels, filters, dtype, expected",
    [
        (Purpose.INFERENCE, 1024, 512, "float32", "product"),
        (Purpose.ANY_PROCESSOR, 512, 1024, "float32", "product"),
        (Purpose.INFERENCE, 512, 512, "float32", "product"),
        (Purpose.INFERENCE, 256, 1024, "float32", "product"),
        (Purpose.INFERENCE, 1024, 256, "float32", "direct"),  # few weights
        (Purpose.INFERENCE, 256, 512, "float32", "direct"),
        (Purpose.INFERENCE, 1024, 512, "bfloat16", "direct"),
        (Purpose.TRAINING, 1024, 512, "float32", "direct"),
        (Purpose.CONVERSION, 1024, 512, "float32", "direct"),
    ],
)
def test_wide_1x1_kernels_are_products_in_inference(graph_is_for, channels, filters, dtype, expected, ways_taken):
    with purpose(graph_is_for):
        convolution.conv2d(tf.zeros([1, 2, 3, channels], dtype), tf.zeros([1, 1, channels, filters], dtype))
    assert ways_taken == [expected]


def test_an_unknown_way_is_refused():
    with pytest.raises(
        ValueError, match="A way must be one of direct, clipped, winograd, product, tapped, keras. Received: 'wino'"
    ):
        override(conv2d="wino")


@pytest.mark.parametrize("way", CONV2D)
@pytest.mark.parametrize(
    "name", ["deeplabv3_r18-d8_512x1024_80k_cityscapes", "deeplabv3plus_r50b-d8_769x769_80k_cityscapes"]
)
def test_a_network_gives_the_same_logits_by_each_way(name, way):
    model, x = drawn(name), images(97, 130)
    plain = np.asarray(model(x))
    for network in (model, kd.fold_norms(model)):
        with override(conv2d=way, depthwise_conv2d="direct"):
            assert np.abs(np.asarray(network(x)) - plain).max() <= 1e-4 * plain.std()


@pytest.fixture
def ways_taken(monkeypatch):
    """A list to which every convolution of the test adds the name of the way that it takes."""
    names = []

    def noting(way, convolve):
        return lambda *operands: names.append(way) or convolve(*operands)

    monkeypatch.setattr(convolution, "CONV2D", {way: noting(way, convolve) for way, convolve in CONV2D.items()})
    monkeypatch.setattr(convolution, "winograd_conv2d", noting("winograd", convolution.winograd_conv2d))
    monkeypatch.setattr(convolution, "clipped_conv2d", noting("clipped", convolution.clipped_conv2d))
    return names


def test_a_layer_with_a_bias_trains_by_the_plain_way(ways_taken):
    # Until version 0.1 a bias was taken as the sign of a folded network, so a layer with one took Winograd's way in training.
    layer = AtrousConv2D(256, 3, use_bias=True)
    x = tf.zeros([1, 48, 80, 256])
    layer(x)
    assert ways_taken == ["direct"]
    ways_taken.clear()
    with purpose(Purpose.INFERENCE):
        layer(x)
    assert ways_taken == ["winograd"]


@pytest.mark.parametrize("graph_is_for, expected", [(Purpose.TRAINING, "direct"), (Purpose.CONVERSION, "direct")])
def test_only_inference_takes_winograds_way(graph_is_for, expected, ways_taken):
    with purpose(graph_is_for):
        AtrousConv2D(256, 3)(tf.zeros([1, 48, 80, 256]))
    assert ways_taken == [expected]


def test_a_network_without_norms_is_for_inference_unless_a_context_says_otherwise():
    model = kd.fold_norms(drawn("deeplabv3plus_r18-d8_512x1024_80k_cityscapes"))
    purposes = []
    original_call = AtrousConv2D.call

    def call(self, inputs):
        purposes.append(convolution._purpose.get())
        return original_call(self, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AtrousConv2D, "call", call)
        model(images(9, 9))
        assert set(purposes) == {Purpose.INFERENCE}
        purposes.clear()
        with purpose(Purpose.ANY_PROCESSOR):
            model(images(9, 9))
        assert set(purposes) == {Purpose.ANY_PROCESSOR}
    assert convolution._purpose.get() is Purpose.TRAINING


@pytest.mark.parametrize("skips_padding", [True, False])
def test_bfloat16_takes_the_direct_way_far_out_where_it_is_fast_and_the_graph_stays(skips_padding, monkeypatch):
    if not processor.direct_atrous_convolution_has_gradient("bfloat16"):
        pytest.skip("on this processor the direct convolution has no gradient in bfloat16")
    monkeypatch.setattr(processor, "direct_atrous_convolution_skips_padding", lambda dtype: skips_padding)
    x = keras.ops.cast(random.standard_normal((1, 17, 30, 16)), "bfloat16")
    layer = AtrousConv2D(5, 3, dilation_rate=12, dtype="bfloat16")
    layer.build(x.shape)

    def rates_and_result(graph_is_for):
        with purpose(graph_is_for):
            graph = tf.function(lambda x: layer(x)).get_concrete_function(x)
        rates = {tuple(op.get_attr("dilations")) for op in graph.graph.get_operations() if op.type == "Conv2D"}
        return rates, np.asarray(graph(x), "float32")

    rates_here, result_here = rates_and_result(Purpose.INFERENCE)
    rates_anywhere, result_anywhere = rates_and_result(Purpose.ANY_PROCESSOR)
    assert rates_here == ({(1, 12, 12, 1)} if skips_padding else set()) and rates_anywhere == set()
    assert rates_and_result(Purpose.TRAINING)[0] == set()
    expected = convolved(np.asarray(x, "float32"), np.asarray(layer.kernel.value, "float32"), 1, 12)
    if skips_padding:
        np.testing.assert_allclose(result_here, expected, rtol=2**-8, atol=1e-5)  # rounded once
    # Rounded once with each tap.
    np.testing.assert_allclose(result_anywhere, expected, atol=9 * 2**-8 * np.abs(expected).max())


def test_conversion_has_one_operation_for_each_convolution():
    layers = AtrousConv2D(4, 3, dilation_rate=24), AtrousSeparableConv2D(4, 12, names=("depthwise", "pointwise"))
    convolutions = []
    for layer in layers:
        layer.build((None, 9, 9, 8))
        with purpose(Purpose.CONVERSION):
            graph = tf.function(lambda x, layer=layer: layer(x)).get_concrete_function(tf.TensorSpec([1, 9, 9, 8]))
        operations = graph.graph.get_operations()
        convolutions += [(op.type, op.get_attr("dilations")[1]) for op in operations if "Conv2" in op.type]
        # Converters recognise a dilated depthwise convolution by this operation in front of it.
        convolutions += [op.type for op in operations if op.type == "SpaceToBatchND"]
    assert convolutions == [("Conv2D", 24), ("DepthwiseConv2dNative", 1), ("Conv2D", 1), "SpaceToBatchND"]


def ancestors(operations):
    """These operations and all operations of the graph that they depend on."""
    visited, unvisited = set(), list(operations)
    while unvisited:
        operation = unvisited.pop()
        if operation not in visited:
            visited.add(operation)
            unvisited.extend(tensor.op for tensor in operation.inputs)
    return visited


# 1: bands of one row. 40: bands of three rows of twelve pixels; the last band is smaller.
@pytest.mark.parametrize("pixels_per_band", [1, 40])
@pytest.mark.parametrize("height, width, rate", [(10, 12, 8), (5, 30, 24), (1, 1, 12)])
def test_a_map_of_unknown_size_is_clipped_some_rows_at_a_time(height, width, rate, pixels_per_band, monkeypatch):
    monkeypatch.setattr(clipped, "PIXELS_PER_BAND", pixels_per_band)
    x, kernel = operands(height, width, filters=4)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec(kernel.shape)])
    def result_and_gradient(x, kernel):
        y = clipped_conv2d(x, kernel, rate)
        return y, *tf.gradients(tf.reduce_sum(y**2), [x, kernel])

    results = result_and_gradient(x, kernel)
    for expected, value in zip(with_gradients(CONV2D["direct"], x, kernel, rate), results, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4 * float(tf.reduce_max(tf.abs(expected))))


@pytest.mark.parametrize(
    "layer, way",
    [
        (AtrousConv2D(256, 3, dilation_rate=12), "winograd"),
        (AtrousConv2D(256, 3, dilation_rate=36), "winograd"),
        (AtrousConv2D(256, 3, dilation_rate=36), "clipped"),  # it would take 2.2 times as much without bands
        (AtrousSeparableConv2D(256, 12, names=("depthwise", "pointwise")), None),  # 2.2 times as much with all channels
    ],
)
def test_a_far_convolution_takes_less_memory_than_its_input(layer, way):
    layer.build((None, None, None, 2048))
    graph = tf.function(lambda x: layer(x), input_signature=[tf.TensorSpec([None, None, None, 2048])])
    x = tf.zeros([1, 64, 128, 2048])
    with purpose(Purpose.INFERENCE), override(conv2d=way):
        graph(x)
    try:
        before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    except ValueError:
        pytest.skip("TensorFlow counts the memory of a CPU only with oneDNN")
    tf.config.experimental.reset_memory_stats("CPU:0")
    y = graph(x)
    memory = tf.config.experimental.get_memory_info("CPU:0")["peak"] - before - y.numpy().nbytes
    assert memory < x.numpy().nbytes


@pytest.mark.parametrize("graph_is_for", [Purpose.INFERENCE, Purpose.ANY_PROCESSOR])
def test_a_sum_after_a_convolution_fuses_with_it_though_the_shapes_are_not_known_to_be_equal(graph_is_for):
    if not processor.dilates_depthwise_convolutions("float32"):
        pytest.skip("only oneDNN's convolution adds a map")
    x, y = tf.random.normal([1, 9, 13, 8]), tf.random.normal([1, 9, 13, 8])
    convolve, add = AtrousConv2D(8, 1, bias_initializer="normal"), Add()
    expected = tf.nn.relu(x + convolve(y))
    graph = tf.function(
        lambda x, y: tf.nn.relu(add([x, convolve(y)])), [tf.TensorSpec([None, None, None, 8])] * 2, autograph=False
    )
    context().enable_graph_collection()
    with purpose(graph_is_for):
        result = graph(x, y)
    graphs = context().export_run_metadata().function_graphs
    context().disable_graph_collection()
    nodes = [node for graph in graphs for node in graph.post_optimization_graph.node]
    assert [b"BiasAdd", b"Add", b"Relu"] in [list(node.attr["fused_ops"].list.s) for node in nodes]
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("convolve, filters", [(clipped_conv2d, 4), (interleaved_depthwise_conv2d, 1)])
def test_the_gradient_of_a_convolution_in_parts_keeps_no_part(convolve, filters):
    with tf.Graph().as_default():
        x, kernel = (tf.compat.v1.placeholder("float32", shape) for shape in ((2, None, None, 3), (3, 3, 3, filters)))
        y = convolve(x, kernel, 12)
        upstream = tf.compat.v1.placeholder("float32", y.shape)
        gradients = [gradient.op for gradient in tf.gradients(y, [x, kernel], upstream)]
        shared = ancestors(gradients) & ancestors([y.op])  # what the forward pass keeps for the gradient
    kept = {op.type for op in shared if any(tensor.dtype == "float32" for tensor in op.outputs)}
    assert kept == {"Placeholder"}  # only x and the kernel


def test_far_convolutions_of_a_graph_run_one_after_another():
    with tf.Graph().as_default() as graph, purpose(Purpose.INFERENCE):
        x = tf.compat.v1.placeholder("float32", (1, 20, 20, 8))
        first = convolution.conv2d(x, tf.zeros([3, 3, 8, 4]), 12)
        convolution.conv2d(x, tf.zeros([3, 3, 8, 4]), 24)
        waiting = [op.control_inputs for op in graph.get_operations() if op.type == "Identity" and op.control_inputs]
    assert [first.op] in waiting


@pytest.mark.parametrize(
    "backend, expected",
    [
        ("tensorflow", ["direct", "interleaved", "interleaved"]),
        ("jax", ["shifted"] * 3),
        ("torch", ["keras"] * 3),
    ],
)
def test_the_way_of_a_depthwise_convolution_follows_the_backend_and_the_rate(backend, expected, monkeypatch):
    names = []

    def noting(way):
        return lambda x, *_: names.append(way) or x

    monkeypatch.setattr(convolution, "DEPTHWISE_CONV2D", {way: noting(way) for way in DEPTHWISE_CONV2D})
    monkeypatch.setattr(convolution, "computed_apart", lambda x: x)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    for rate in (1, 2, 36):
        convolution.depthwise_conv2d(tf.zeros([1, 9, 9, 4]), tf.zeros([3, 3, 4, 1]), rate)
    assert names == expected


@pytest.mark.parametrize(
    "graph_is_for, rate, dilates, expected",
    [
        (Purpose.INFERENCE, 2, True, "dilated"),
        (Purpose.INFERENCE, (4, 4), True, "dilated"),
        (Purpose.INFERENCE, 2, False, "interleaved"),
        (Purpose.INFERENCE, (2, 4), True, "interleaved"),
        (Purpose.INFERENCE, 12, True, "interleaved"),
        (Purpose.ANY_PROCESSOR, 2, True, "interleaved"),
        (Purpose.TRAINING, 2, True, "interleaved"),
        (Purpose.CONVERSION, 2, True, "direct"),
    ],
)
def test_small_rates_are_dilated_in_inference_where_the_processor_can(
    graph_is_for, rate, dilates, expected, monkeypatch
):
    taken = []
    ways = {way: lambda x, *_, way=way: taken.append(way) or x for way in DEPTHWISE_CONV2D}
    monkeypatch.setattr(convolution, "DEPTHWISE_CONV2D", ways)
    monkeypatch.setattr(processor, "dilates_depthwise_convolutions", lambda dtype: dilates)
    with purpose(graph_is_for):
        convolution.depthwise_conv2d(tf.zeros([1, 9, 9, 4]), tf.zeros([3, 3, 4, 1]), rate)
    assert taken == [expected]


def test_a_processor_that_ignores_the_rate_does_not_dilate(monkeypatch):
    def ignoring_the_rate(input, filter, strides, padding, dilations):
        return tf.nn.depthwise_conv2d(input, filter, strides, padding)

    asked = processor.dilates_depthwise_convolutions.__wrapped__
    monkeypatch.setattr(tf.raw_ops, "DepthwiseConv2dNative", ignoring_the_rate)
    assert asked("float32") is False
    monkeypatch.setattr(processor, "has_gpu", lambda: True)
    assert asked("float32") is False


def test_only_a_graph_for_this_machine_has_operations_that_older_versions_lack():
    layer = AtrousConv2D(512, 3)
    layer.build((1, None, None, 512))

    def operations(graph_is_for):
        with purpose(graph_is_for):
            graph = tf.function(layer).get_concrete_function(tf.TensorSpec([1, None, None, 512])).graph.as_graph_def()
        return {node.op for function in graph.library.function for node in function.node_def}

    assert "GatherNd" in operations(Purpose.INFERENCE)
    assert "GatherNd" not in operations(Purpose.ANY_PROCESSOR)


@pytest.mark.parametrize("backend, expected", [("jax", ["keras", "tapped", "tapped"]), ("torch", ["keras"] * 3)])
def test_the_way_of_a_convolution_follows_the_backend_and_the_rate(backend, expected, ways_taken, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    for rate in (1, 2, 36):
        convolution.conv2d(tf.zeros([1, 9, 9, 4]), tf.zeros([3, 3, 4, 4]), rate)
    assert ways_taken == expected


@pytest.mark.parametrize("backend, rate, count", [("jax", 1, 1), ("jax", 2, 2), ("torch", 2, 1), ("tensorflow", 1, 2)])
def test_the_parts_of_a_grouped_convolution_are_apart_where_it_has_no_gradient(backend, rate, count, monkeypatch):
    called = []
    monkeypatch.setattr(convolution, "conv2d", lambda x, *_: called.append(x.shape[-1]) or x)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    convolution.grouped_conv2d(tf.zeros([1, 9, 9, 4]), tf.zeros([3, 3, 2, 4]), 2, rate)
    assert called == [4 // count] * count
