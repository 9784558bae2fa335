"""Atrous ResNeSt: images in, four feature maps out (Zhang et al. 2020)."""

import keras

from keras_deeplab.networks.backbones.resnet import max_pool, stages, stem_v1c
from keras_deeplab.networks.blocks import conv_norm
from keras_deeplab.networks.layers import Add, AtrousConv2D, SplitAttention, SplitMean

BLOCKS = {101: (3, 4, 23, 3)}  # residual blocks in each stage
SPLITS = 2  # of each 3x3 convolution, called radix in the paper


def atrous_resnest(images, *, depth, output_stride, multi_grid, base_channels, stem_channels):
    """Features after each of the four stages. Arguments and result are those of `atrous_resnet`; the depth is 101."""
    x = max_pool(stem_v1c(images, stem_channels))  # (N, H/4, W/4, stem_channels)
    return stages(x, bottleneck, BLOCKS[depth], output_stride, multi_grid, base_channels)


def bottleneck(x, width, *, strides, rate, name):
    """A 1x1 convolution, split attention at the rate, and a 1x1 convolution to four times the width.

    In place of a strided convolution, the result of the attention and the shortcut are averaged over windows.
    """
    layout = dict(data_format="channels_last")  # whatever Keras's configuration says
    y = conv_norm(x, width, 1, names=(f"{name}-conv1", f"{name}-bn1"))
    y = split_attention(y, rate=rate, name=f"{name}-conv2")
    if strides > 1:
        y = keras.layers.ZeroPadding2D(1, name=f"{name}-avd_layer-pad", **layout)(y)  # the mean counts the padding
        y = keras.layers.AveragePooling2D(3, strides, name=f"{name}-avd_layer", **layout)(y)
    y = conv_norm(y, 4 * width, 1, relu=False, names=(f"{name}-conv3", f"{name}-bn3"))
    if strides > 1 or x.shape[-1] != y.shape[-1]:
        if strides > 1:  # windows at the border are smaller
            pool = keras.layers.AveragePooling2D(strides, strides, "same", name=f"{name}-downsample-0", **layout)
            x = pool(x)
        x = conv_norm(x, y.shape[-1], 1, relu=False, names=(f"{name}-downsample-1", f"{name}-downsample-2"))
    y = Add(name=f"{name}-add")([x, y])
    return keras.layers.ReLU(name=f"{name}-relu")(y)


def split_attention(x, *, rate, name):
    """The 3x3 convolutions of both halves of the channels, weighted for each picture and channel: (N, H, W, C) to the same.

    Each half gives C channels. The two weights of a channel add up to 1; they follow from the mean over the map.
    """
    channels = x.shape[-1]
    names = f"{name}-conv", f"{name}-bn0"
    x = conv_norm(x, SPLITS * channels, 3, rate=rate, groups=SPLITS, names=names)  # (N, H, W, 2 C)
    y = SplitMean(SPLITS, name=f"{name}-mean")(x)  # (N, 1, 1, C)
    y = conv_norm(y, max(channels // 2, 32), 1, use_bias=True, names=(f"{name}-fc1", f"{name}-bn1"))
    y = AtrousConv2D(SPLITS * channels, 1, name=f"{name}-fc2")(y)  # (N, 1, 1, 2 C)
    return SplitAttention(SPLITS, name=f"{name}-rsoftmax")([x, y])
