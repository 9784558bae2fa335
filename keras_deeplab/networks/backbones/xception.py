"""Xception for dense prediction: images in, four feature maps out (Chollet 2017; Qi et al. 2017; Chen et al. 2018).

All pooling is replaced by separable convolutions with a stride. Layers carry the names of the released variables in the
authors' TensorFlow code, with - for /.
"""

import keras

from keras_deeplab.networks.backbones.pace import Pace
from keras_deeplab.networks.blocks import conv_norm
from keras_deeplab.networks.layers import Add

ENTRY_FLOW = {  # depth: (width in units of `base_channels`, stride) of each block
    41: ((2, 2), (4, 2), (91 / 8, 2)),
    65: ((2, 2), (4, 2), (91 / 8, 2)),
    71: ((2, 2), (4, 1), (4, 2), (91 / 8, 1), (91 / 8, 2)),
}
MIDDLE_FLOW = {41: 8, 65: 16, 71: 16}  # number of modules
LOW_LEVEL_BLOCK = {
    41: 2,
    65: 2,
    71: 3,
}  # the entry flow's block from whose second convolution the decoder's features come
NORM = dict(epsilon=1e-3, momentum=0.9997)


def xception(images, *, depth, output_stride, multi_grid, base_channels, stem_channels):
    """Low-level features, and the features after the entry flow's second stage, the middle flow and the exit flow.

    Args:
        images: pictures of -1..1, (N, H, W, 3).
        depth: 41, 65 or 71.
        output_stride: 8, 16 or 32, input pixels per pixel of the exit flow.
        multi_grid: atrous rates of the three convolutions of the last module, or None for the rate of the output stride.
        base_channels: half the width of the first module; 64 in the released networks, whose wide modules have 728 channels.
        stem_channels: width of the second convolution of the stem.

    Returns:
        four feature maps, of strides 4, 8, min(16, output_stride) and output_stride.
    """
    root = f"xception_{depth}"
    x = named_conv(images, stem_channels // 2, 3, strides=2, name=f"{root}-entry_flow-conv1_1")
    x = named_conv(x, stem_channels, 3, name=f"{root}-entry_flow-conv1_2")  # (N, H/2, W/2, stem_channels)
    pace = Pace(output_stride, at=2)

    def width(units):
        return int(units * base_channels)

    for block, (units, stride) in enumerate(ENTRY_FLOW[depth], 1):
        name = f"{root}-entry_flow-block{block}-unit_1-xception_module"
        x, second = module(x, [width(units)] * 3, name=name, shortcut="conv", **pace.next(stride))
        if block == LOW_LEVEL_BLOCK[depth]:
            low_level, after_second_stage = second, x  # (N, H/4, W/4, C), (N, H/8, W/8, C)
    wide = x.shape[-1]
    for unit in range(1, MIDDLE_FLOW[depth] + 1):
        name = f"{root}-middle_flow-block1-unit_{unit}-xception_module"
        x, _ = module(x, [wide] * 3, name=name, shortcut="sum", **pace.next(1))
    middle = x
    name = f"{root}-exit_flow-block1-unit_1-xception_module"
    x, _ = module(x, [wide, width(16), width(16)], name=name, shortcut="conv", **pace.next(2))
    name = f"{root}-exit_flow-block2-unit_1-xception_module"
    rates = multi_grid or [pace.rate] * 3
    x, _ = module(x, [width(24), width(24), width(32)], name=name, shortcut=None, strides=1, rates=rates)
    return low_level, after_second_stage, middle, x


def module(x, widths, *, name, shortcut, strides, rate=1, rates=None):
    """Three separable convolutions, with the stride in the third, and a shortcut.

    Args:
        x: features (N, H, W, C).
        widths: channels of the three convolutions.
        name: of the module.
        shortcut: "conv" (a 1x1 convolution with the stride), "sum" (the features themselves) or None. Without a shortcut a
            ReLU follows each depthwise and each 1x1 convolution; otherwise one stands before each separable convolution.
        strides: of the third convolution and of the shortcut.
        rate: atrous rate of the convolutions. Default 1.
        rates: of each of them, in place of `rate`. Default None.

    Returns:
        (the module's features, the features after its second convolution).
    """
    y, outputs = x, []
    rates = rates or [rate] * len(widths)
    for i, (width, rate) in enumerate(zip(widths, rates, strict=True), 1):
        if shortcut is not None:
            y = keras.layers.ReLU(name=f"{name}-separable_conv{i}-relu")(y)
        options = dict(relu=shortcut is None)
        conv = f"{name}-separable_conv{i}"
        y = named_conv(y, None, 3, strides=strides if i == 3 else 1, rate=rate, name=f"{conv}_depthwise", **options)
        y = named_conv(y, width, 1, name=f"{conv}_pointwise", **options)
        outputs.append(y)
    if shortcut == "conv":
        x = named_conv(x, widths[-1], 1, strides=strides, relu=False, name=f"{name}-shortcut")
    if shortcut is not None:
        y = Add(name=f"{name}-add")([y, x])
    return y, outputs[1]


def named_conv(x, filters, kernel_size, *, name, **options):
    """`conv_norm` with the norm's options and the names of the released variables: NAME, NAME-BatchNorm."""
    return conv_norm(x, filters, kernel_size, names=(name, f"{name}-BatchNorm"), norm=NORM, **options)
