"""A dtype in, whether this machine's processor computes a convolution well out: tested once, and False where unknown."""

from functools import cache
from pathlib import Path

import keras


def has_gpu():
    """Whether TensorFlow sees a GPU, or JAX if that is Keras's backend."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


@cache
def direct_atrous_convolution_has_gradient(dtype):
    """Whether TensorFlow's dilated convolution has a gradient here. On a CPU this depends on oneDNN and the dtype."""
    import tensorflow as tf

    if has_gpu():
        return dtype != "float64"
    with tf.init_scope(), tf.device("CPU:0"):
        x, kernel = tf.zeros([1, 5, 5, 1], dtype), tf.zeros([3, 3, 1, 1], dtype)
        options = dict(out_backprop=x, strides=[1, 1, 1, 1], padding="SAME", dilations=[1, 2, 2, 1])
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=[1, 5, 5, 1], filter=kernel, **options)
            tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=[3, 3, 1, 1], **options)
        except tf.errors.OpError:
            return False
    return True


@cache
def dilates_depthwise_convolutions(dtype):
    """Whether TensorFlow's own depthwise operation follows rates above 1 here: on a CPU with oneDNN, by the dtype."""
    import tensorflow as tf

    if has_gpu():
        return False
    with tf.init_scope(), tf.device("CPU:0"):
        x, kernel = tf.ones([1, 5, 5, 1], dtype), tf.ones([3, 3, 1, 1], dtype)
        try:
            y = tf.raw_ops.DepthwiseConv2dNative(
                input=x, filter=kernel, strides=[1, 1, 1, 1], padding="SAME", dilations=[1, 2, 2, 1]
            )
        except tf.errors.OpError:
            return False
        return bool(y[0, 1, 1, 0] == 4)  # of the nine taps 2 by 2 lie on the map


def direct_atrous_convolution_skips_padding(dtype):
    """Whether TensorFlow's dilated convolution leaves out the products with the padding, as oneDNN does on such processors."""
    return dtype == "bfloat16" and multiplies_bfloat16_without_amx()


def multiplies_bfloat16_without_amx():
    """Whether the processor has AVX512-BF16 and no AMX, whose products of matrices are several times as fast."""
    return "avx512_bf16" in _features() and "amx_bf16" not in _features()


def has_avx2_alone():
    """Whether the processor has AVX2 and no AVX512. Its arithmetic is half as fast, and its memory is not."""
    return "avx2" in _features() and "avx512f" not in _features()


def tensorflow_leaves_onednn_out():
    """Whether TensorFlow by itself computes without oneDNN: on x86 processors that are older than AVX512-VNNI."""
    newer = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile"}
    return "avx" in _features() and not newer & _features()


@cache
def _features():
    """The processor's features, which Linux tells in /proc/cpuinfo; none on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
