"""Atrous spatial pyramid pooling (ASPP): features in, features with context from several distances out (Chen et al. 2017)."""

from keras_deeplab.networks.blocks import broadcast_pooled, conv_norm_module, join_with_pooled, separable_conv
from keras_deeplab.networks.layers import GlobalMean


def aspp(x, channels, rates, *, separable, align_corners):
    """The pooled branch and a branch for each rate, concatenated and joined by a 3x3 convolution.

    Args:
        x: features (N, h, w, C).
        channels: channels of each branch and of the result.
        rates: atrous rate of each branch; 1 stands for a 1x1 convolution.
        separable: whether branches are separable (a depthwise 3x3 and a 1x1 convolution, as in DeepLabV3+) and not dense 3x3.
        align_corners: as of `ResizeLike`.

    Returns:
        (N, h, w, channels).
    """
    pooled = image_pool(x, channels)  # (N, 1, 1, channels)
    name = "decode_head-image_pool-resize"
    pooled = broadcast_pooled(pooled, x, align_corners=align_corners, name=name)  # (N, h, w, channels) in training
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
    """The mean over the map and a 1x1 convolution of it: (N, h, w, C) to (N, 1, 1, channels)."""
    pooled = GlobalMean(name="decode_head-image_pool-0")(x)
    return conv_norm_module(pooled, channels, 1, name="decode_head-image_pool-1")
