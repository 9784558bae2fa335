"""A map and a kernel in, their convolution out, in the way that is fastest for the shapes, the processor and the purpose.

`conv2d` and `depthwise_conv2d` convolve at stride 1 and any rate with zeros around the map. All ways give the same result
within rounding. The purpose of a graph is set by a context, and only there:

    with purpose(Purpose.ANY_PROCESSOR):
        graph = tf.function(model).get_concrete_function(...)

    with override(conv2d="winograd"):  # tests compare each way with the plain one
        model(images)
"""

from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

import keras
from keras import ops

from keras_deeplab.networks.fast import processor
from keras_deeplab.networks.fast.clipped import clipped_conv2d
from keras_deeplab.networks.fast.graph import computed_apart, in_shared_function, one_after_another
from keras_deeplab.networks.fast.interleaved import dilated_depthwise_conv2d, interleaved_depthwise_conv2d, pair
from keras_deeplab.networks.fast.shifted import shifted_depthwise_conv2d
from keras_deeplab.networks.fast.strided import CHANNELS_OF_A_RIGHT_GRADIENT, strided_pointwise_conv2d
from keras_deeplab.networks.fast.tapped import tapped_conv2d
from keras_deeplab.networks.fast.winograd import (
    portable_winograd_conv2d,
    winograd_conv2d,
    winograd_may_pay,
    winograd_pays,
    winograd_plan,
)

ASPP_RATE = 8  # a convolution of this rate or more is one of ASPP's: the backbones' rates are smaller
DILATED_RATE = 4  # oneDNN's fast depthwise convolution takes rates up to 4 with AVX2, and 6 with AVX512
# Weights of a 1x1 kernel from which a matrix product takes less time than oneDNN's convolution, if it has fewer filters than
# channels, and otherwise.
WIDE_MATRIX, EXPANDING_MATRIX = 2**19, 2**18
COPY_COST = 56.0  # of a value that `clipped` copies, where a multiplication costs 1


class Purpose(Enum):
    """What a graph is for. Without a context this is training."""

    TRAINING = "gradients are needed"
    INFERENCE = "runs on this machine"
    ANY_PROCESSOR = "may run on another machine: no way that is slow on any processor"
    CONVERSION = "LiteRT, ONNX, compilers: one operation for each convolution"


_purpose = ContextVar("purpose", default=Purpose.TRAINING)
_override = ContextVar("override", default=None)  # {function: way}


@contextmanager
def _set(variable, value):
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def purpose(chosen):
    """A context in which graphs are made for the `Purpose` `chosen`."""
    return _set(_purpose, chosen)


def default_purpose(chosen):
    """As `purpose`, but an outer context that has chosen another purpose than training keeps its choice."""
    return _set(_purpose, chosen if _purpose.get() is Purpose.TRAINING else _purpose.get())


def override(*, conv2d=None, depthwise_conv2d=None):
    """A context in which convolutions are computed in the named way.

    Args:
        conv2d: a key of `CONV2D`; None, the default, leaves the choice to `conv2d`. "clipped" and "winograd" apply to 3x3
            kernels only, "product" to 1x1 kernels only; other kernels are then computed as usual.
        depthwise_conv2d: a key of `DEPTHWISE_CONV2D`; None, the default, leaves the choice to `depthwise_conv2d`.

    Raises:
        ValueError: if there is no such way.
    """
    for ways, way in ((CONV2D, conv2d), (DEPTHWISE_CONV2D, depthwise_conv2d)):
        if way not in (None, *ways):
            raise ValueError(f"A way must be one of {', '.join(ways)}. Received: {way!r}.")
    return _set(_override, {"conv2d": conv2d, "depthwise_conv2d": depthwise_conv2d})


def conv2d(x, kernel, rate=1, bias=None):
    """A convolution at stride 1 that keeps the size of the map, on every backend.

    | device | rate | way      | when and why                                                                       |
    |--------|------|----------|------------------------------------------------------------------------------------|
    | CPU    | any  | winograd | inference in float32 where it needs the fewest operations: layers with many        |
    |        |      |          | channels, of ASPP too                                                              |
    | CPU    | any  | winograd | inference in bfloat16 on AVX512 without AMX, under the same condition              |
    | CPU    | any  | product  | inference in float32 with a 1x1 kernel of many channels: oneDNN's matrix product   |
    |        |      |          | packs the weights for the processor's cache, its convolution reads them as they    |
    |        |      |          | lie in the variable, and takes 1.1 to 1.7 times as long                            |
    | CPU    | 1..7 | direct   | clipping saves little: a tenth of the multiplications at rate 4                    |
    | CPU    | 8..  | clipped  | 18 / 34 / 49 % fewer multiplications at rates 12 / 24 / 36 on a 64x128 map         |
    | CPU    | 8..  | direct   | inference in bfloat16 on AVX512 without AMX: oneDNN itself leaves out the products |
    |        |      |          | with the padding; with AMX it computes them and takes 6 to 24 times as long as     |
    |        |      |          | `clipped`                                                                          |
    | GPU    | any  | direct   | cuDNN is fast at every rate                                                        |
    | any    | 2..  | clipped  | where `direct` has no gradient: float64, or a dtype that the CPU does not support  |
    | any    | any  | direct   | conversion: one operation for each convolution                                     |
    | any    | 2..  | keras    | kernels that are not 3x3, and backends other than TensorFlow                       |
    | any    | 2..  | tapped   | training on JAX: XLA's own gradient to the kernel takes 20 times as long on a GPU  |

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C, F), k odd.
        rate: pixels from one tap to the next.
        bias: (F,), added to the result. Default None: no bias.

    Returns:
        (N, H, W, F).
    """
    kernel = ops.convert_to_tensor(kernel)
    forced = (_override.get() or {}).get("conv2d")
    if forced and tuple(kernel.shape[:2]) != SIZE_OF_WAY.get(forced, tuple(kernel.shape[:2])):
        forced = None
    if forced == "product" or not forced and _product_pays(x, kernel):
        return CONV2D["product"](x, kernel, rate, bias)
    outputs = CONV2D[forced](x, kernel, rate) if forced else _conv2d(x, kernel, rate)
    return outputs if bias is None else add_bias(outputs, bias)


def _conv2d(x, kernel, rate):
    """`conv2d` without a bias where no way is forced and a matrix product does not pay."""
    if keras.backend.backend() != "tensorflow":
        return CONV2D["tapped" if keras.backend.backend() == "jax" and rate > 1 else "keras"](x, kernel, rate)
    if rate >= ASPP_RATE and is_for_inference():
        return one_after_another(lambda x: _fastest_conv2d(x, kernel, rate), x)
    return _fastest_conv2d(x, kernel, rate)


def depthwise_conv2d(x, kernel, rate=1):
    """A depthwise convolution at stride 1 that keeps the size of the map, on every backend.

    The way is `direct` on TensorFlow at rate 1 and for conversion, otherwise `interleaved`. Inference at rates up to
    `DILATED_RATE` is `dilated` where oneDNN has it, in a third to a half of the time; at ASPP's rates it takes 4 to 17 times
    as long. The way is `shifted` on JAX, where XLA's and cuDNN's own take 4 to 15 times as long, and `keras` on PyTorch.

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C, 1), k odd.
        rate: pixels from one tap to the next, or (down, across).

    Returns:
        (N, H, W, C).
    """
    kernel = ops.convert_to_tensor(kernel)
    if forced := (_override.get() or {}).get("depthwise_conv2d"):
        return DEPTHWISE_CONV2D[forced](x, kernel, rate)
    if keras.backend.backend() != "tensorflow":
        way = "shifted" if keras.backend.backend() == "jax" else "keras"
    elif rate == 1 or _purpose.get() is Purpose.CONVERSION:
        way = "direct"
    else:
        way = _atrous_depthwise_way(x.dtype.name, rate)
    outputs = DEPTHWISE_CONV2D[way](x, kernel, rate)
    # In training the norm that follows reads the map several times.
    return computed_apart(outputs) if way == "shifted" and _purpose.get() is Purpose.TRAINING else outputs


def _atrous_depthwise_way(dtype, rate):
    """The way at a rate above 1 on TensorFlow: see `depthwise_conv2d`."""
    down, across = pair(rate)
    is_small = down == across <= DILATED_RATE and _purpose.get() is Purpose.INFERENCE
    return "dilated" if is_small and processor.dilates_depthwise_convolutions(dtype) else "interleaved"


def grouped_conv2d(x, kernel, groups, rate=1):
    """A convolution at stride 1 that keeps the size of the map, of each of several parts of the channels, on every backend.

    TensorFlow has no gradient of it on a CPU, and XLA none on a GPU at rates above 1. There each part is a `conv2d` of its
    own.

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C / groups, F), k odd.
        groups: number of parts.
        rate: pixels from one tap to the next.

    Returns:
        (N, H, W, F).
    """
    has_gradient = {"tensorflow": False, "jax": rate == 1}.get(keras.backend.backend(), True)
    if groups == 1 or has_gradient:
        return conv2d(x, kernel, rate)
    parts = zip(ops.split(x, groups, axis=-1), ops.split(ops.convert_to_tensor(kernel), groups, axis=-1), strict=True)
    return ops.concatenate([conv2d(part, part_kernel, rate) for part, part_kernel in parts], axis=-1)


def pointwise_conv2d(x, kernel, strides):
    """A 1x1 convolution of every `strides`-th pixel, on every backend.

    Args:
        x: (N, H, W, C).
        kernel: (1, 1, C, F).
        strides: (down, across).

    Returns:
        (N, ceil(H / down), ceil(W / across), F).
    """
    kernel = ops.convert_to_tensor(kernel)
    if keras.backend.backend() == "tensorflow" and (
        _purpose.get() is Purpose.TRAINING or (is_for_inference() and x.shape[-1] < CHANNELS_OF_A_RIGHT_GRADIENT)
    ):
        return strided_pointwise_conv2d(x, kernel, strides)
    return ops.conv(x, kernel, strides=strides, padding="valid", data_format="channels_last")


def separable_by_channels():
    """Whether ASPP's separable convolutions are computed some channels at a time: on TensorFlow, except for conversion."""
    return keras.backend.backend() == "tensorflow" and _purpose.get() is not Purpose.CONVERSION


def is_for_inference():
    """Whether a graph is for inference, on this machine or another; not for a converter."""
    return _purpose.get() in (Purpose.INFERENCE, Purpose.ANY_PROCESSOR)


def runs_on_this_cpu():
    """Whether a graph is for inference on this machine's CPU, so that it may have any operation that TensorFlow has here."""
    return _purpose.get() is Purpose.INFERENCE and not processor.has_gpu()


def add_bias(x, bias):
    """`x` plus a bias for each channel. On TensorFlow it uses the operation that fuses with the convolution before."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.bias_add(x, ops.convert_to_tensor(bias))
    return ops.add(x, bias)


def add(x, y):
    """The sum of two maps of one shape.

    In inference on TensorFlow it is the operation that fuses with the convolution before, and with a ReLU after. TensorFlow
    fuses a plain sum only if it can tell that the shapes are equal, which it cannot after a convolution by Winograd's way. The
    convolution must not be a bare matrix product: TensorFlow would then optimise nothing in the graph.
    """
    if keras.backend.backend() == "tensorflow" and is_for_inference():
        import tensorflow as tf

        return tf.add_n([x, y])
    return ops.add(x, y)


def _fastest_conv2d(x, kernel, rate):
    """`conv2d` on TensorFlow: Winograd's way where it takes fewer operations, otherwise the plain way."""
    import tensorflow as tf

    plain_way = _plain_way(x, kernel, rate)

    def plain_conv2d():
        if plain_way == "clipped" and is_for_inference():
            return in_shared_function(clipped_conv2d, x, kernel, rate)
        return CONV2D[plain_way](x, kernel, rate)

    cost = 1 + COPY_COST * sum(1 / channels for channels in kernel.shape[2:]) if plain_way == "clipped" else 1.0
    if not _winograd_suits(x.dtype.name) or tuple(kernel.shape[:2]) != (3, 3) or not winograd_may_pay(x, kernel, cost):
        return plain_conv2d()
    n, height, width, _ = ops.shape(x)
    skips = plain_way != "direct" or processor.direct_atrous_convolution_skips_padding(x.dtype.name)
    products = n * _pixels_reached(height, rate, skips) * _pixels_reached(width, rate, skips)
    plan = winograd_plan(x, kernel, rate)
    pays = winograd_pays(x, kernel, plan, products, cost)
    winograd = winograd_conv2d if _purpose.get() is Purpose.INFERENCE else portable_winograd_conv2d
    if isinstance(pays, bool):
        return winograd(x, kernel, rate) if pays else plain_conv2d()
    return tf.cond(pays, lambda: winograd(x, kernel, rate, plan), plain_conv2d)  # the size is known only at run time


def _product_pays(x, kernel):
    """Whether this is a 1x1 convolution that takes less time as a matrix product: in float32 inference on a CPU."""
    *size, channels, filters = kernel.shape
    is_wide = channels * filters >= (EXPANDING_MATRIX if filters >= channels else WIDE_MATRIX)
    if not is_wide or size != [1, 1] or keras.backend.backend() != "tensorflow" or x.dtype.name != "float32":
        return False
    return is_for_inference() and not processor.has_gpu()


def _plain_way(x, kernel, rate):
    """The best way without Winograd's transform, "direct", "clipped" or "keras": see the table at `conv2d`."""
    size, dtype, graph_is_for = tuple(kernel.shape[:2]), x.dtype.name, _purpose.get()
    if rate == 1 or size == (1, 1) or graph_is_for is Purpose.CONVERSION:
        return "direct"
    if size != (3, 3):
        return "keras"
    if not processor.direct_atrous_convolution_has_gradient(dtype):
        return "clipped"
    clipping_pays = rate >= ASPP_RATE and not processor.has_gpu()
    if clipping_pays and graph_is_for is Purpose.INFERENCE and processor.direct_atrous_convolution_skips_padding(dtype):
        return "direct"
    return "clipped" if clipping_pays else "direct"


def _winograd_suits(dtype):
    """Whether Winograd's way may be taken: for inference on a CPU, in bfloat16 on this one if it has no AMX."""
    if processor.has_gpu() or not is_for_inference():
        return False
    if dtype == "bfloat16":
        return runs_on_this_cpu() and processor.multiplies_bfloat16_without_amx()
    return dtype == "float32"


def _pixels_reached(side, rate, skips_padding):
    """How many pixels along an axis the three taps reach together, with those of the padding unless they are skipped."""
    import tensorflow as tf

    skipped = 0 if not skips_padding else min(rate, side) if isinstance(side, int) else tf.minimum(rate, side)
    return 3 * side - 2 * skipped  # the middle tap reaches the whole side


def _direct(x, kernel, rate):
    import tensorflow as tf

    return tf.nn.conv2d(x, kernel, 1, "SAME", dilations=rate if tuple(kernel.shape[:2]) != (1, 1) else 1)


def _product(x, kernel, rate, bias=None):
    """A convolution with a 1x1 kernel as the product of all pixels and the kernel, with which the bias fuses."""
    import tensorflow as tf

    channels, filters = kernel.shape[2:]
    outputs = tf.matmul(tf.reshape(x, [-1, channels]), tf.reshape(kernel, [channels, filters]))
    outputs = outputs if bias is None else add_bias(outputs, bias)
    n, height, width, _ = ops.shape(x)
    return tf.reshape(outputs, [n, height, width, filters])


def _keras(x, kernel, rate):
    return ops.conv(x, kernel, padding="same", dilation_rate=rate, data_format="channels_last")


def _direct_depthwise(x, kernel, rate):
    import tensorflow as tf

    return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME", dilations=pair(rate))


def _keras_depthwise(x, kernel, rate):
    return ops.depthwise_conv(x, kernel, padding="same", dilation_rate=rate, data_format="channels_last")


CONV2D = {
    "direct": _direct,
    "clipped": clipped_conv2d,
    "winograd": winograd_conv2d,
    "product": _product,
    "tapped": tapped_conv2d,
    "keras": _keras,
}
SIZE_OF_WAY = {
    "clipped": (3, 3),
    "winograd": (3, 3),
    "product": (1, 1),
}  # of kernels that the way applies to, if not to all
DEPTHWISE_CONV2D = {
    "direct": _direct_depthwise,
    "dilated": dilated_depthwise_conv2d,
    "interleaved": interleaved_depthwise_conv2d,
    "shifted": shifted_depthwise_conv2d,
    "keras": _keras_depthwise,
}
