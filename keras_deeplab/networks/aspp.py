"""Atrous spatial pyramid pooling: features in, features that have seen several distances out (Chen et al. 2017)."""

import keras

from keras_deeplab.networks.layers import AtrousSeparableConv2D, GlobalMean, PooledConv2D, ResizeLike, conv_norm_module


def aspp(x, channels, rates, *, separable, align_corners, folded):
    """The pooled picture and one convolution per rate, concatenated and joined by a 3x3 convolution.

    Args:
        x: features (N, h, w, C).
        channels: width of each branch and of the result.
        rates: atrous rate of each branch; 1 stands for a 1x1 convolution.
        separable: depthwise 3x3 and pointwise in place of the dense 3x3 (DeepLabV3+).

    Returns:
        (N, h, w, channels).
    """
    pooled = image_pool(x, channels, folded=folded)
    # What is the same everywhere need not be spread over the map first.
    branches = [] if folded else [ResizeLike(align_corners, name="decode_head-image_pool-resize")([pooled, x])]
    for i, rate in enumerate(rates):
        name = f"decode_head-aspp_modules-{i}"
        if rate > 1 and separable:
            branches.append(separable_conv(x, channels, rate=rate, folded=folded, name=name))
        else:
            size = 3 if rate > 1 else 1
            branches.append(conv_norm_module(x, channels, size, rate=rate, folded=folded, name=name))
    x = keras.layers.Concatenate(name="decode_head-concat")(branches)
    if folded:
        x = PooledConv2D(channels, name="decode_head-bottleneck-conv")([pooled, x])
        return keras.layers.ReLU(name="decode_head-bottleneck-bn-relu")(x)
    return conv_norm_module(x, channels, 3, name="decode_head-bottleneck")


def image_pool(x, channels, *, folded):
    """The mean over the picture, projected: (N, 1, 1, channels)."""
    pooled = GlobalMean(name="decode_head-image_pool-0")(x)
    return conv_norm_module(pooled, channels, 1, folded=folded, name="decode_head-image_pool-1")


def separable_conv(x, channels, *, rate=1, folded, name):
    """Depthwise 3x3 and pointwise convolution, each with norm and ReLU."""
    if folded:
        names = f"{name}-depthwise_conv-conv", f"{name}-pointwise_conv-conv"
        x = AtrousSeparableConv2D(channels, rate, names=names, name=name)(x)
        return keras.layers.ReLU(name=f"{name}-relu")(x)
    x = conv_norm_module(x, None, 3, rate=rate, name=f"{name}-depthwise_conv")
    return conv_norm_module(x, channels, 1, name=f"{name}-pointwise_conv")
