"""Atrous ResNet: images in, four feature maps out (He et al. 2016; Chen et al. 2017)."""

import keras

from keras_deeplab.networks.blocks import conv_norm
from keras_deeplab.networks.layers import Add

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # residual blocks in each stage
STAGES = {  # output stride: (stride, rate) of each stage
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
    32: ((1, 1), (2, 1), (2, 1), (2, 1)),
}


def expansion(depth):
    """How many times the width of a stage's 3x3 convolutions its output has: 1 for basic blocks, 4 for bottlenecks."""
    return 1 if depth == 18 else 4


def atrous_resnet(images, *, depth, stem, output_stride, multi_grid, base_channels, stem_channels):
    """Features after each of the four stages.

    Args:
        images: normalised pictures (N, H, W, 3).
        depth: 18, 50 or 101.
        stem: "v1c" (three 3x3 convolutions) or "b" (one 7x7 convolution).
        output_stride: 8, 16 or 32, input pixels per pixel of the last stage.
        multi_grid: atrous rate of each block of the last stage, or None for the rate of the stage in `STAGES`.
        base_channels: width of the first stage's 3x3 convolutions; each stage doubles it.
        stem_channels: width of the stem.

    Returns:
        four feature maps, of strides 4, 8, min(16, output_stride) and output_stride.
    """
    x = stem_v1c(images, stem_channels) if stem == "v1c" else stem_b(images, stem_channels)
    x = max_pool(x)  # (N, H/4, W/4, stem_channels)
    block = basic_block if expansion(depth) == 1 else bottleneck
    return stages(x, block, BLOCKS[depth], output_stride, multi_grid, base_channels)


def stages(x, block, blocks_of_stages, output_stride, multi_grid, base_channels):
    """The features after each stage.

    Args:
        x: features of stride 4.
        block: a function (features, width, *, strides, rate, name) -> features.
        blocks_of_stages: number of blocks of each stage.
        output_stride, multi_grid, base_channels: as for `atrous_resnet`.
    """
    features = []
    for stage, (blocks, (stride, rate)) in enumerate(zip(blocks_of_stages, STAGES[output_stride], strict=True)):
        # As in the original, the first block of a stage with a rate in place of a stride keeps the rate of the stage before.
        rates = [max(1, rate // 2)] + [rate] * (blocks - 1)
        if multi_grid and stage == 3:
            rates = multi_grid
        for i, block_rate in enumerate(rates):
            x = block(
                x,
                base_channels * 2**stage,
                strides=stride if i == 0 else 1,
                rate=block_rate,
                name=f"backbone-layer{stage + 1}-{i}",
            )
        features.append(x)
    return features


def max_pool(x):
    """The maximum over windows of 3x3 pixels, at stride 2."""
    layout = dict(data_format="channels_last")  # whatever Keras's configuration says
    # After a ReLU, padding with zeros gives the same maximum as padding with minus infinity.
    x = keras.layers.ZeroPadding2D(1, name="backbone-maxpool-pad", **layout)(x)
    return keras.layers.MaxPooling2D(3, 2, name="backbone-maxpool", **layout)(x)


def stem_v1c(x, channels):
    """Three 3x3 convolutions, the first of stride 2 (ResNet-C in He et al. 2019): (N, H/2, W/2, channels)."""
    for i, (width, strides) in enumerate([(channels // 2, 2), (channels // 2, 1), (channels, 1)]):
        names = (f"backbone-stem-{3 * i}", f"backbone-stem-{3 * i + 1}")
        x = conv_norm(x, width, 3, strides=strides, names=names)
    return x


def stem_b(x, channels):
    """One 7x7 convolution of stride 2: (N, H/2, W/2, channels)."""
    return conv_norm(x, channels, 7, strides=2, names=("backbone-conv1", "backbone-bn1"))


def basic_block(x, width, *, strides, rate, name):
    """Two 3x3 convolutions; only the first is atrous."""
    y = conv_norm(x, width, 3, strides=strides, rate=rate, names=(f"{name}-conv1", f"{name}-bn1"))
    y = conv_norm(y, width, 3, relu=False, names=(f"{name}-conv2", f"{name}-bn2"))
    return add_shortcut(x, y, strides=strides, name=name)


def bottleneck(x, width, *, strides, rate, name):
    """A 1x1 convolution, a 3x3 one with the stride and the rate, and a 1x1 one to four times the width."""
    y = conv_norm(x, width, 1, names=(f"{name}-conv1", f"{name}-bn1"))
    y = conv_norm(y, width, 3, strides=strides, rate=rate, names=(f"{name}-conv2", f"{name}-bn2"))
    y = conv_norm(y, 4 * width, 1, relu=False, names=(f"{name}-conv3", f"{name}-bn3"))
    return add_shortcut(x, y, strides=strides, name=name)


def add_shortcut(x, y, *, strides, name):
    """The ReLU of x + y. If y has another shape, a 1x1 convolution gives x that shape."""
    if strides > 1 or x.shape[-1] != y.shape[-1]:
        names = (f"{name}-downsample-0", f"{name}-downsample-1")
        x = conv_norm(x, y.shape[-1], 1, strides=strides, relu=False, names=names)
    y = Add(name=f"{name}-add")([x, y])
    return keras.layers.ReLU(name=f"{name}-relu")(y)
