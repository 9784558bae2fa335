"""Atrous MobileNetV3-Large: images in, four feature maps out (Howard et al. 2019; the rates are torchvision's).

Layers carry torchvision's released module names, with - for a dot. Where a stride gives way to a rate, the layer that would
have the stride has the new rate already, unlike in the ResNets.
"""

import keras

from keras_deeplab.networks.backbones.mobilenet_v2 import divisible
from keras_deeplab.networks.blocks import conv_norm
from keras_deeplab.networks.layers import Add, AtrousConv2D, GlobalMean

RELU, HARD_SWISH = None, "hard_silu"  # of `conv_norm`'s `activation`
# Of each block: kernel size, expanded channels and channels at `base_channels` 16, squeeze-and-excitation, activation.
STAGES = (
    ((3, 16, 16, False, RELU),),
    ((3, 64, 24, False, RELU), (3, 72, 24, False, RELU)),
    ((5, 72, 40, True, RELU), (5, 120, 40, True, RELU), (5, 120, 40, True, RELU)),
    (
        (3, 240, 80, False, HARD_SWISH),
        (3, 200, 80, False, HARD_SWISH),
        (3, 184, 80, False, HARD_SWISH),
        (3, 184, 80, False, HARD_SWISH),
        (3, 480, 112, True, HARD_SWISH),
        (3, 672, 112, True, HARD_SWISH),
    ),
    ((5, 672, 160, True, HARD_SWISH), (5, 960, 160, True, HARD_SWISH), (5, 960, 160, True, HARD_SWISH)),
)
PACE = {  # output stride: (stride of the first block, rate of all blocks) of each stage
    8: ((1, 1), (2, 1), (2, 1), (1, 2), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (2, 1), (1, 2)),
    32: ((1, 1), (2, 1), (2, 1), (2, 1), (2, 1)),
}
NORM = dict(epsilon=1e-3, momentum=0.99)


def atrous_mobilenet_v3(images, *, output_stride, multi_grid, base_channels):
    """Features after the first blocks of three stages, and after the last convolution.

    Args:
        images: normalised pictures (N, H, W, 3).
        output_stride: 8, 16 or 32, input pixels per pixel of the last stage.
        multi_grid: atrous rates of the three blocks of the last stage, or None for the rate in `PACE`.
        base_channels: width of the first convolution. The other widths are in proportion; see `divisible`.

    Returns:
        four feature maps, of strides 4, 8, min(16, output_stride) and output_stride.
    """

    def width(channels):
        return divisible(channels * base_channels / 16)

    x = named_conv(images, width(16), 3, strides=2, activation=HARD_SWISH, name="backbone-0")  # (N, H/2, W/2, 16)
    features, block = [], 1
    for stage, (blocks, (stride, rate)) in enumerate(zip(STAGES, PACE[output_stride], strict=True)):
        rates = multi_grid if multi_grid and stage == len(STAGES) - 1 else [rate] * len(blocks)
        for i, (kernel_size, expanded, channels, squeeze, activation) in enumerate(blocks):
            x = inverted_residual(
                x,
                width(channels),
                expanded=width(expanded),
                kernel_size=kernel_size,
                squeeze=squeeze,
                activation=activation,
                strides=stride if i == 0 else 1,
                adds=i > 0 or stage == 0,
                rate=rates[i],
                name=f"backbone-{block}-block",
            )
            if i == 0 and stage in (1, 2, 3):
                features.append(x)
            block += 1
    x = named_conv(x, 6 * x.shape[-1], 1, activation=HARD_SWISH, name=f"backbone-{block}")
    return [*features, x]


def inverted_residual(x, channels, *, expanded, kernel_size, squeeze, activation, strides, adds, rate, name):
    """A 1x1 convolution to `expanded` channels, a depthwise one, squeeze-and-excitation, and a 1x1 one to `channels`.

    Args:
        x: features (N, H, W, C).
        channels, expanded: widths. The first convolution is left out if it would keep the C channels.
        kernel_size: of the depthwise convolution.
        squeeze: whether the block has squeeze-and-excitation.
        activation: of the first two convolutions, as of `conv_norm`.
        strides, rate: of the depthwise convolution.
        adds: whether the input is added if the result has its shape; a block with a stride in the network without rates
            never adds it.
        name: of the block.
    """
    y, options, part = x, dict(activation=activation), 0
    if expanded != x.shape[-1]:
        y, part = named_conv(y, expanded, 1, name=f"{name}-{part}", **options), part + 1
    y = named_conv(y, None, kernel_size, strides=strides, rate=rate, name=f"{name}-{part}", **options)
    if squeeze:
        part += 1
        y = squeeze_and_excitation(y, name=f"{name}-{part}")
    y = named_conv(y, channels, 1, relu=False, name=f"{name}-{part + 1}")
    return Add(name=f"{name}-add")([x, y]) if adds and x.shape[-1] == channels else y


def squeeze_and_excitation(x, *, name):
    """The features, each channel times a factor of 0..1 that follows from the means over the map (Hu et al. 2018)."""
    channels = x.shape[-1]
    factors = GlobalMean(name=f"{name}-avgpool")(x)  # (N, 1, 1, C)
    factors = AtrousConv2D(divisible(channels // 4), 1, activation="relu", name=f"{name}-fc1")(factors)
    factors = AtrousConv2D(channels, 1, activation="hard_sigmoid", name=f"{name}-fc2")(factors)
    return keras.layers.Multiply(name=f"{name}-scale")([x, factors])


def named_conv(x, filters, kernel_size, *, name, **options):
    """`conv_norm` with torchvision's norm and names: NAME-0 of the convolution, NAME-1 of the norm."""
    return conv_norm(x, filters, kernel_size, names=(f"{name}-0", f"{name}-1"), norm=NORM, **options)
