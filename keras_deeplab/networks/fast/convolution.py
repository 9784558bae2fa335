"""The one door to the fast ways: `conv2d` and `depthwise_conv2d`, at stride 1 and any rate, zeros around the map.

Every way gives the same result within rounding. Which one is taken depends on the shapes, the processor, and what the graph
is for, which is said by a context and by nothing else:

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
from keras_deeplab.networks.fast.graph import in_shared_function, one_after_another
from keras_deeplab.networks.fast.interleaved import interleaved_depthwise_conv2d
from keras_deeplab.networks.fast.strided import strided_pointwise_conv2d
from keras_deeplab.networks.fast.winograd import winograd_conv2d, winograd_pays

ASPP_RATE = 8  # from this rate on a convolution is one of ASPP's: the backbones' rates are smaller


class Purpose(Enum):
    """What a graph is for. Outside every context it is training."""

    TRAINING = "gradients are needed"
    INFERENCE = "runs on this machine"
    ANY_PROCESSOR = "may run on another machine: no way that is slow on some processor"
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
    """Inside, graphs are made for the `Purpose` `chosen`."""
    return _set(_purpose, chosen)


def default_purpose(chosen):
    """As `purpose`, unless a context around it has chosen already."""
    return _set(_purpose, chosen if _purpose.get() is Purpose.TRAINING else _purpose.get())


def override(*, conv2d=None, depthwise_conv2d=None):
    """Inside, every convolution that can takes the named way: a key of `CONV2D` and one of `DEPTHWISE_CONV2D`.

    None leaves the choice. "clipped" and "winograd" are for 3x3 kernels.

    Raises:
        ValueError: if there is no such way.
    """
    for ways, way in ((CONV2D, conv2d), (DEPTHWISE_CONV2D, depthwise_conv2d)):
        if way not in (None, *ways):
            raise ValueError(f"A way is one of {', '.join(ways)}. Received: {way!r}.")
    return _set(_override, {"conv2d": conv2d, "depthwise_conv2d": depthwise_conv2d})


def conv2d(x, kernel, rate=1):
    """A convolution at stride 1 that keeps the map's size, on every backend.

    | device | rate | way      | why                                                                                |
    |--------|------|----------|------------------------------------------------------------------------------------|
    | CPU    | any  | winograd | inference in float32 where it takes the fewest operations: wide layers, at rates   |
    |        |      |          | that are small beside the map                                                      |
    | CPU    | 1..7 | direct   | clipping saves little: a tenth of the multiplications at rate 4                    |
    | CPU    | 8..  | clipped  | 18 / 34 / 49 % fewer multiplications at rates 12 / 24 / 36 on a 64x128 map         |
    | CPU    | 8..  | direct   | inference in bfloat16 on AVX512 without AMX: oneDNN clips, V3 takes 6 % less time; |
    |        |      |          | with AMX it does not clip and takes 6 to 24 times as long as `clipped`             |
    | GPU    | any  | direct   | cuDNN's                                                                            |
    | any    | 2..  | clipped  | where `direct` has no gradient: float64, or a CPU without the type                 |
    | any    | any  | direct   | conversion: one operation                                                          |
    | any    | 2..  | keras    | kernels that are not 3x3; also every other backend                                 |

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C, F), k odd.
        rate: pixels from one tap to the next.

    Returns:
        (N, H, W, F).
    """
    kernel = ops.convert_to_tensor(kernel)
    forced = (_override.get() or {}).get("conv2d")
    if forced and (tuple(kernel.shape[:2]) == (3, 3) or forced in ("direct", "keras")):
        return CONV2D[forced](x, kernel, rate)
    if keras.backend.backend() != "tensorflow":
        return _keras(x, kernel, rate)
    if rate >= ASPP_RATE and _purpose.get() in (Purpose.INFERENCE, Purpose.ANY_PROCESSOR):
        return one_after_another(lambda x: _by_the_best_way(x, kernel, rate), x)
    return _by_the_best_way(x, kernel, rate)


def depthwise_conv2d(x, kernel, rate=1):
    """A depthwise convolution at stride 1 that keeps the map's size, on every backend.

    TensorFlow takes `direct` at rate 1 and for conversion, `interleaved` otherwise; other backends `keras`.

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C, 1), k odd.
        rate: pixels from one tap to the next.

    Returns:
        (N, H, W, C).
    """
    kernel = ops.convert_to_tensor(kernel)
    if forced := (_override.get() or {}).get("depthwise_conv2d"):
        return DEPTHWISE_CONV2D[forced](x, kernel, rate)
    if keras.backend.backend() != "tensorflow":
        way = "keras"
    else:
        way = "direct" if rate == 1 or _purpose.get() is Purpose.CONVERSION else "interleaved"
    return DEPTHWISE_CONV2D[way](x, kernel, rate)


def pointwise_conv2d(x, kernel, strides):
    """A 1x1 convolution of every `strides`-th pixel, on every backend: (N, H, W, C) to (N, ceil(H / down), ..., F)."""
    kernel = ops.convert_to_tensor(kernel)
    if keras.backend.backend() == "tensorflow" and _purpose.get() is Purpose.TRAINING:
        return strided_pointwise_conv2d(x, kernel, strides)
    return ops.conv(x, kernel, strides=strides, padding="valid", data_format="channels_last")


def separable_by_channels():
    """Whether a far separable convolution is computed some channels at a time: in TensorFlow, unless for conversion."""
    return keras.backend.backend() == "tensorflow" and _purpose.get() is not Purpose.CONVERSION


def add_bias(x, bias):
    """`x` plus a bias of each channel, by the operation that TensorFlow fuses into the convolution before it."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.bias_add(x, ops.convert_to_tensor(bias))
    return ops.add(x, bias)


def _by_the_best_way(x, kernel, rate):
    """`conv2d` on TensorFlow: Winograd's way if it pays, otherwise the plain one."""
    import tensorflow as tf

    plain = _plain_way(x, kernel, rate)
    inference = _purpose.get() in (Purpose.INFERENCE, Purpose.ANY_PROCESSOR)

    def plainly():
        if plain == "clipped" and inference:
            return in_shared_function(clipped_conv2d, x, kernel, rate)
        return CONV2D[plain](x, kernel, rate)

    if not inference or processor.has_gpu() or x.dtype != tf.float32 or tuple(kernel.shape[:2]) != (3, 3):
        return plainly()
    n, height, width, _ = ops.shape(x)
    products = n * _reached(height, rate, plain) * _reached(width, rate, plain)
    pays = winograd_pays(x, kernel, rate, products=products)
    if isinstance(pays, bool):
        return winograd_conv2d(x, kernel, rate) if pays else plainly()
    return tf.cond(pays, lambda: winograd_conv2d(x, kernel, rate), plainly)


def _plain_way(x, kernel, rate):
    """ "direct", "clipped" or "keras": see the table at `conv2d`."""
    size, dtype, graph_is_for = tuple(kernel.shape[:2]), x.dtype.name, _purpose.get()
    if rate == 1 or size == (1, 1) or graph_is_for is Purpose.CONVERSION:
        return "direct"
    if size != (3, 3):
        return "keras"
    if not processor.direct_atrous_convolution_has_gradient(dtype):
        return "clipped"
    far = rate >= ASPP_RATE and not processor.has_gpu()
    if far and graph_is_for is Purpose.INFERENCE and processor.direct_atrous_convolution_skips_padding(dtype):
        return "direct"
    return "clipped" if far else "direct"


def _reached(side, rate, way):
    """How many pixels along an axis the three taps reach together; the direct way computes those beyond the map as well."""
    import tensorflow as tf

    beyond = 0 if way == "direct" else min(rate, side) if isinstance(side, int) else tf.minimum(rate, side)
    return 3 * side - 2 * beyond


def _direct(x, kernel, rate):
    import tensorflow as tf

    return tf.nn.conv2d(x, kernel, 1, "SAME", dilations=rate if tuple(kernel.shape[:2]) != (1, 1) else 1)


def _keras(x, kernel, rate):
    return ops.conv(x, kernel, padding="same", dilation_rate=rate, data_format="channels_last")


def _direct_depthwise(x, kernel, rate):
    import tensorflow as tf

    return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME", dilations=[rate, rate])


def _keras_depthwise(x, kernel, rate):
    return ops.depthwise_conv(x, kernel, padding="same", dilation_rate=rate, data_format="channels_last")


CONV2D = {"direct": _direct, "clipped": clipped_conv2d, "winograd": winograd_conv2d, "keras": _keras}
DEPTHWISE_CONV2D = {
    "direct": _direct_depthwise,
    "interleaved": interleaved_depthwise_conv2d,
    "keras": _keras_depthwise,
}
