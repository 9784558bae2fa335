"""Atrous spatial pyramid pooling: features in, features that have seen several distances out (Chen et al. 2017)."""

from keras_deeplab.networks.blocks import conv_norm_module, join_with_pooled, separable_conv, spread
from keras_deeplab.networks.layers import GlobalMean


def aspp(x, channels, rates, *, separable, align_corners):
    """The pooled picture and one convolution per rate, concatenated and joined by a 3x3 convolution.

    Args:
        x: features (N, h, w, C).
        channels: width of each branch and of the result.
        rates: atrous rate of each branch; 1 stands for a 1x1 convolution.
        separable: depthwise 3x3 and pointwise in place of the dense 3x3 (DeepLabV3+).

    Returns:
        (N, h, w, channels).
    """
    pooled = image_pool(x, channels)  # (N, 1, 1, channels)
    pooled = spread(pooled, x, align_corners=align_corners, name="decode_head-image_pool-resize")  # (N, h, w, channels)
    branches = []
    for i, rate in enumerate(rates):
        name = f"decode_head-aspp_modules-{i}"
        if rate == 1:
            branches.append(conv_norm_module(x, channels, 1, name=name))
        elif separable:
            branches.append(separable_conv(x, channels, rate=rate, name=name))
        else:
            branches.append(conv_norm_module(x, channels, 3, rate=rate, name=name))
    return join_with_pooled(pooled, branches, channels, name="decode_head")


def image_pool(x, channels):
    """The mean over the picture, projected: (N, 1, 1, channels)."""
    pooled = GlobalMean(name="decode_head-image_pool-0")(x)
    return conv_norm_module(pooled, channels, 1, name="decode_head-image_pool-1")
