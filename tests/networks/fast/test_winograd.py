"""Winograd's convolution gives the numbers of the plain one, and is taken where it is faster."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager.context import context

from keras_deeplab.networks.fast import convolution, graph, processor, tiles, winograd
from keras_deeplab.networks.fast.clipped import clipped_conv2d
from keras_deeplab.networks.fast.convolution import Purpose, purpose
from keras_deeplab.networks.layers import AtrousConv2D

random = np.random.default_rng(0)
DTYPES = ("float32", "bfloat16")
CONVOLUTIONS = (winograd.winograd_conv2d, winograd.portable_winograd_conv2d)
# Winograd's way is not taken there in bfloat16, and TensorFlow's matrix products round their sums in between.
NO_BFLOAT16 = pytest.mark.skipif(processor.has_avx2_alone(), reason="AVX2 has no products of bfloat16")
BFLOAT16 = pytest.param("bfloat16", marks=NO_BFLOAT16)


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


@pytest.fixture
def set_form(monkeypatch):
    """A function that changes the `Form` of a dtype."""
    functions = graph.shared_function, graph._function_of_any_shape, tiles._plan_of_sizes

    def change(dtype, **changes):
        monkeypatch.setitem(tiles.FORMS, dtype, tiles.FORMS[dtype]._replace(**changes))
        for function in functions:
            function.cache_clear()

    yield change
    for function in functions:
        function.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", BFLOAT16])
@pytest.mark.parametrize(
    "convolve, count",
    [(winograd.winograd_conv2d, 256), (winograd.winograd_conv2d, 7), (winograd.portable_winograd_conv2d, 7)],
)
@pytest.mark.parametrize(
    "n, height, width, rate",
    [(1, 1, 1, 1), (2, 9, 13, 1), (1, 8, 12, 4), (2, 5, 3, 12), (1, 33, 18, 2), (3, 17, 30, 5)],
)
def test_it_equals_the_convolution_at_any_size_and_rate(n, height, width, rate, count, dtype, convolve, set_form):
    set_form(dtype, tiles=count, values=0, channels=count - 1)
    x, kernel = operands(
        n, height, width, 24, 5, dtype
    )  # groups of at most 6 channels give 4 groups; of at most 255, one
    expected = exact(x, kernel, rate)
    ways = [lambda x: convolve(x, kernel, rate), any_size(convolve, kernel, rate)]
    bound = {"float32": 2e-5, "bfloat16": 0.05}[dtype] * max(expected.std(), 0.1)
    for way in ways + [one_size(convolve, kernel, rate, jit_compile=count == 7)]:
        result = way(x)
        assert result.dtype == dtype
        np.testing.assert_allclose(tf.cast(result, tf.float64), expected, atol=bound)


@pytest.mark.parametrize("channels, group", [(2560, 512), (640, 320), (650, 325), (641, 641), (1282, 1282), (24, 24)])
def test_channels_of_any_number_fall_into_few_groups(channels, group):
    assert winograd.group_size(channels, 512) == group


@pytest.mark.parametrize("dtype, multiple", [("float32", 4), pytest.param("bfloat16", 2.5, marks=NO_BFLOAT16)])
@pytest.mark.parametrize("rate", [1, 4, 8, 12, 24])  # 24x24 pixels are grids of 24, 6, 3, 2 and 1: tiles of every kind
def test_its_rounding_error_is_a_small_multiple_of_the_plain_ones(rate, dtype, multiple):
    x, kernel = operands(1, 24, 24, 256, 64)
    expected = exact(x, kernel, rate)
    x, kernel = tf.cast(x, dtype), tf.cast(kernel, dtype)

    def error(result):
        return np.sqrt(np.mean((tf.cast(result, tf.float64) - expected) ** 2))

    # With AVX2 alone the plain convolution sums in an order that rounds less: 1.5e-7 of the deviation.
    plain = (
        3.5e-7 * expected.std()
        if processor.has_avx2_alone()
        else error(tf.nn.conv2d(x, kernel, 1, "SAME", dilations=rate))
    )
    assert error(winograd.winograd_conv2d(x, kernel, rate)) <= multiple * plain


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size, rate", [(64, 1), (63, 4), (97, 4), (64, 12), (64, 24), (64, 36), (71, 36), (5, 8), (1, 1)]
)
def test_tiles_cover_an_axis_once(size, rate, dtype):
    form = tiles.FORMS[dtype]
    of_numbers, of_tensors = tiles.Axis(size, rate, form), tiles.Axis(tf.constant(size), rate, form)
    covered = {}  # the pixel at each place of each tile of each kind
    for kind, count in enumerate(of_numbers.counts):
        pixels, inside = of_numbers.pixels(kind)
        for known, tensor in zip(
            (pixels, inside, count), (*of_tensors.pixels(kind), of_tensors.counts[kind]), strict=True
        ):
            np.testing.assert_array_equal(known, tensor)
        assert pixels.shape == (form.kinds[kind].of_input.shape[1], count)
        first = pixels[-form.kinds[kind].first] if count else []
        places = range(form.kinds[kind].side)
        covered |= {(kind, tile, place): pixel + place * rate for tile, pixel in enumerate(first) for place in places}
    places = np.transpose(of_numbers.places())
    np.testing.assert_array_equal(places, np.transpose(of_tensors.places()))
    assert [covered[tuple(place)] for place in places.tolist()] == list(range(size))


def test_tiles_are_of_the_kind_that_needs_fewer_points():
    counts = {
        (64, 1): [0, 0, 0, 16],
        (64, 12): [0, 0, 24, 0],  # grids of 6 and 5 pixels: two tiles of 3 each
        (128, 12): [0, 0, 0, 36],  # of 11 and 10: three of 4
        (64, 24): [0, 8, 16, 0],
        (64, 36): [8, 28, 0, 0],
    }
    for (size, rate), expected in counts.items():
        assert tiles.Axis(size, rate, tiles.FORMS["float32"]).counts.tolist() == expected


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
        monkeypatch.setattr(convolution, name, lambda x, kernel, *_: calls.append(True) or x[..., : kernel.shape[3]])
    monkeypatch.setattr(convolution, "in_shared_function", lambda convolve, x, kernel, *_: x[..., : kernel.shape[3]])
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
        (2048, 512, 36, (64, 128), True),
        (2048, 512, 36, (128, 256), True),
        (512, 128, 12, (64, 128), True),
        (512, 128, 12, (9, 13), False),
        (512, 512, 1, (9, 13), False),  # the transform of the kernel costs too much
        (64, 64, 1, (256, 512), False),  # the transforms of the map cost too much
    ],
)
def test_it_is_taken_where_it_has_less_to_do(channels, filters, rate, size, expected, is_taken, monkeypatch):
    monkeypatch.setattr(processor, "has_avx2_alone", lambda: False)
    assert is_taken(channels, filters, rate, size, Purpose.INFERENCE) == expected
    assert is_taken(channels, filters, rate, size, Purpose.ANY_PROCESSOR) == expected
    assert not is_taken(channels, filters, rate, size, Purpose.TRAINING)


@pytest.mark.parametrize(
    "channels, filters, rate, size, expected",
    [
        (2560, 512, 1, (64, 128), True),
        (256, 256, 2, (64, 128), True),
        (2048, 512, 12, (64, 128), True),
        (2048, 512, 24, (64, 128), True),
        (512, 128, 36, (64, 128), False),  # oneDNN leaves out the products with the padding
        (128, 128, 1, (64, 128), False),
    ],
)
def test_it_is_taken_in_bfloat16_on_this_processor_where_amx_is_not_faster(
    channels, filters, rate, size, expected, is_taken, monkeypatch
):
    shapes = channels, filters, rate, size
    monkeypatch.setattr(processor, "has_avx2_alone", lambda: False)
    monkeypatch.setattr(processor, "direct_atrous_convolution_has_gradient", lambda dtype: True)
    monkeypatch.setattr(processor, "multiplies_bfloat16_without_amx", lambda: True)
    assert is_taken(*shapes, Purpose.INFERENCE, "bfloat16") == expected
    assert not is_taken(*shapes, Purpose.ANY_PROCESSOR, "bfloat16")
    assert not is_taken(*shapes, Purpose.TRAINING, "bfloat16")
    monkeypatch.setattr(processor, "multiplies_bfloat16_without_amx", lambda: False)
    assert not is_taken(*shapes, Purpose.INFERENCE, "bfloat16")


@pytest.mark.parametrize("channels, expected", [(64, False), (128, True)])
def test_it_is_taken_for_fewer_channels_where_arithmetic_is_slow(channels, expected, is_taken, monkeypatch):
    shapes = channels, channels, 1, (128, 256), Purpose.INFERENCE
    monkeypatch.setattr(processor, "has_avx2_alone", lambda: False)
    assert not is_taken(*shapes)
    monkeypatch.setattr(processor, "has_avx2_alone", lambda: True)
    assert is_taken(*shapes) == expected


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


def test_all_layers_of_any_channels_and_rate_share_one_function_and_one_plan():
    """TensorFlow makes another function for each call with a constant: before the first run 3.5 s (R-101), 50 MiB (R-18)."""
    widths = (256, 512, 256, 512)
    kernels = [tf.zeros([3, 3, *shape]) for shape in zip(widths, widths[1:], strict=False)]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 256])])
    def graph_of_three(x):
        for rate, kernel in enumerate(kernels, 1):
            x = convolution.conv2d(x, kernel, rate)
        return x

    context().enable_graph_collection()  # of the graphs that run, after TensorFlow has changed them
    with purpose(Purpose.INFERENCE):
        graph_of_three(tf.zeros([1, 32, 64, 256]))
    graphs = context().export_run_metadata().function_graphs
    context().disable_graph_collection()
    ran = [graph for graph in graphs if graph.post_optimization_graph.library.function]
    assert len(ran) == 1
    names = [function.signature.name for function in ran[0].post_optimization_graph.library.function]
    assert sum("numbers_and_flows" in name for name in names) == 1
    assert sum("of_any_shape" in name for name in names) == 1


def test_the_plan_is_made_in_the_graph_itself_and_in_no_function_of_it():
    """TensorFlow keeps a copy of the plan in each function that calls it: 20 to 75 MiB in a network."""
    kernels = [tf.zeros([3, 3, 512, 512]), tf.zeros([3, 3, 512, 512])]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 512])])
    def graph_of_two(x):
        for rate, kernel in enumerate(kernels, 1):
            x = convolution.conv2d(x, kernel, rate)
        return x

    with purpose(Purpose.INFERENCE):
        made = graph_of_two.get_concrete_function().graph.as_graph_def()
    name = "numbers_and_flows"
    assert sum(name in str(node.attr["f"].func.name) for node in made.node) == 2
    for function in made.library.function:
        assert not any(name in node.attr["f"].func.name for node in function.node_def)
