"""Heads: features in, class scores out (DeepLabV3+'s decoder: Chen et al. 2018; the auxiliary head: Zhao et al. 2017)."""

import keras

from keras_deeplab.networks.blocks import conv_norm_module, separable_conv
from keras_deeplab.networks.layers import AtrousConv2D, ChannelDropout, ResizeLike

AUXILIARY_HEADS = ("auxiliary_head-", "aux_classifier-")  # what the layers of an auxiliary head are called


def decoder(x, low_level, channels, low_level_channels, *, align_corners):
    """Resizes ASPP's features to stride 4 and joins them with the low-level features, those of the first stage.

    Args:
        x: features of ASPP (N, h, w, channels).
        low_level: features of the first stage (N, H/4, W/4, C).
        channels: channels of the result.
        low_level_channels: channels that the low-level features are reduced to.
        align_corners: as of `ResizeLike`.

    Returns:
        (N, H/4, W/4, channels).
    """
    low_level = conv_norm_module(low_level, low_level_channels, 1, name="decode_head-c1_bottleneck")
    x = ResizeLike(align_corners, name="decode_head-resize")([x, low_level])
    x = keras.layers.Concatenate(name="decode_head-decoder-concat")([x, low_level])
    x = separable_conv(x, channels, name="decode_head-sep_bottleneck-0")
    return separable_conv(x, channels, name="decode_head-sep_bottleneck-1")


def auxiliary(x, channels):
    """The auxiliary head, which supervises the third stage in training, without its classifier: (N, h, w, channels)."""
    return conv_norm_module(x, channels, 3, name="auxiliary_head-convs-0")


def auxiliary_head(x, outputs, *, channels, dropout):
    """The scores of the auxiliary head, from the features that it supervises: (N, h, w, outputs)."""
    return classifier(auxiliary(x, channels), outputs, dropout, name="auxiliary_head")


def classifier(x, num_classes, dropout, *, name):
    """Dropout of whole channels, then a score for each pixel and class: (N, h, w, num_classes)."""
    x = ChannelDropout(dropout, name=f"{name}-dropout")(x)
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    return AtrousConv2D(num_classes, 1, kernel_initializer=initializer, name=f"{name}-conv_seg")(x)
