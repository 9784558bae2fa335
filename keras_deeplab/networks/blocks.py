"""The building blocks of all parts: features in, and out after a convolution with its batch norm and ReLU, or several.

Inside `without_norms` blocks are built for inference: one convolution with a bias replaces a convolution and its norm. It has
the name of the convolution. Only this file reads whether norms are built.
"""

from contextlib import contextmanager
from contextvars import ContextVar

import keras

from keras_deeplab.networks.fast.folded import AtrousSeparableConv2D, PooledConv2D
from keras_deeplab.networks.initializers import he_normal
from keras_deeplab.networks.layers import AtrousConv2D, AtrousDepthwiseConv2D, BatchNorm, ResizeLike

_with_norms = ContextVar("with_norms", default=True)


@contextmanager
def without_norms():
    """A context in which blocks are built without norms. `fold_norms` sets their weights."""
    token = _with_norms.set(False)
    try:
        yield
    finally:
        _with_norms.reset(token)


def conv_norm(
    x,
    filters,
    kernel_size,
    *,
    names,
    strides=1,
    rate=1,
    groups=1,
    use_bias=False,
    relu=True,
    max_value=None,
    activation=None,
    one_sided=False,
    norm=None,
):
    """A convolution, its batch norm and a ReLU or another activation.

    Args:
        x: features (N, H, W, C).
        filters: channels of the result; None for a depthwise convolution, which keeps the C channels.
        kernel_size: pixels, odd.
        names: the names of the convolution and of the norm, those of the released weights.
        strides: pixels of the input per pixel of the result. Default 1.
        rate: atrous rate. Default 1.
        groups: how many parts the channels are split into, each with a convolution of its own. Default 1.
        use_bias: whether the convolution has a bias beside that of its norm. Default False.
        relu: whether a ReLU follows. Default True.
        activation: Keras's name of an activation in place of the ReLU, such as "hard_silu". Default None, the ReLU.
        one_sided: whether a strided convolution pads as TensorFlow does: of an odd number of zeros, one more lies at the
            bottom and right than at the top and left. Default False, equally.
        norm: options of the `BatchNorm`, such as its epsilon. Default None, PyTorch's.
        max_value: the largest value that the ReLU lets through, 6 for a ReLU6. Default None, no limit.

    Returns:
        features (N, ceil(H / strides), ceil(W / strides), filters).
    """
    options = dict(strides=strides, dilation_rate=rate, use_bias=use_bias or not _with_norms.get(), name=names[0])
    depthwise, dense = AtrousDepthwiseConv2D, AtrousConv2D
    if one_sided and strides > 1:
        depthwise, dense = keras.layers.DepthwiseConv2D, keras.layers.Conv2D
        options |= dict(padding="same", data_format="channels_last")
    if filters is None:
        x = depthwise(kernel_size, depthwise_initializer=he_normal("fan_in"), **options)(x)
    else:
        x = dense(filters, kernel_size, groups=groups, kernel_initializer=he_normal(), **options)(x)
    if _with_norms.get():
        x = BatchNorm(name=names[1], **(norm or {}))(x)
    if activation:
        return keras.layers.Activation(activation, name=f"{names[1]}-{activation}")(x)
    return keras.layers.ReLU(max_value=max_value, name=f"{names[1]}-relu")(x) if relu else x


def conv_norm_module(x, filters, kernel_size, *, name, **options):
    """`conv_norm` with the names NAME-conv and NAME-bn, as in all parts but the backbone."""
    return conv_norm(x, filters, kernel_size, names=(f"{name}-conv", f"{name}-bn"), **options)


def separable_conv(x, channels, *, rate=1, name):
    """A depthwise 3x3 and a 1x1 convolution, each with norm and ReLU: (N, H, W, C) to (N, H, W, channels)."""
    parts = f"{name}-depthwise_conv", f"{name}-pointwise_conv"
    return _separable_conv(x, channels, rate=rate, name=name, names=[(f"{part}-conv", f"{part}-bn") for part in parts])


def named_separable_conv(x, channels, *, rate=1, name, norm):
    """`separable_conv` with the names of the authors' variables: NAME_depthwise, NAME_depthwise-BatchNorm and so on.

    The rate may be a pair (down, across).
    """
    parts = f"{name}_depthwise", f"{name}_pointwise"
    names = [(part, f"{part}-BatchNorm") for part in parts]
    return _separable_conv(x, channels, rate=rate, name=name, names=names, norm=norm)


def _separable_conv(x, channels, *, rate, name, names, norm=None):
    """A separable convolution whose two parts have `names`, each (convolution, norm)."""
    depthwise, pointwise = names
    if _with_norms.get():
        x = conv_norm(x, None, 3, rate=rate, names=depthwise, norm=norm)
        return conv_norm(x, channels, 1, names=pointwise, norm=norm)
    x = AtrousSeparableConv2D(channels, rate, names=(depthwise[0], pointwise[0]), name=name)(x)
    return keras.layers.ReLU(name=f"{name}-relu")(x)


def broadcast_pooled(pooled, like, *, align_corners, name):
    """Pooled features (N, 1, 1, C) at every pixel of a map of the size of `like`. Only for `join_with_pooled`.

    Without norms they stay (N, 1, 1, C): `PooledConv2D` adds the pooled branch without broadcasting it.
    """
    return ResizeLike(align_corners, name=name)([pooled, like]) if _with_norms.get() else pooled


def join_with_pooled(pooled, branches, channels, *, name, names=None, kernel_size=3, pooled_last=False, norm=None):
    """The pooled branch and the others, concatenated and joined by a `conv_norm`.

    Args:
        pooled: what `broadcast_pooled` returned.
        branches: maps (N, h, w, C), all of the same size.
        channels: channels of the result.
        name: the beginning of the names of the other layers.
        names: the names of the convolution and of the norm. Default NAME-bottleneck-conv and NAME-bottleneck-bn.
        kernel_size: 3 or 1 pixels. Default 3.
        pooled_last: whether the pooled branch is the last of those concatenated. Default False: it is the first.
        norm: as of `conv_norm`.

    Returns:
        (N, h, w, channels).
    """
    names = names or (f"{name}-bottleneck-conv", f"{name}-bottleneck-bn")
    concatenate = keras.layers.Concatenate(name=f"{name}-concat")
    if _with_norms.get():
        branches = [*branches, pooled] if pooled_last else [pooled, *branches]
        return conv_norm(concatenate(branches), channels, kernel_size, names=names, norm=norm)
    x = PooledConv2D(channels, kernel_size, pooled_last, name=names[0])([pooled, concatenate(branches)])
    return keras.layers.ReLU(name=f"{names[1]}-relu")(x)
