"""MobileNetV2 as the authors' TensorFlow models have it: images in, four feature maps out (Sandler et al. 2018).

It differs from OpenMMLab's, in `mobilenet_v2.py`, in the rates (all blocks after a left-out stride have one), the padding at
stride 2 (TensorFlow's, which pads an even map at the bottom and right only), the norm, and the names: those of the released
variables with - for /.
"""

from keras_deeplab.networks.backbones.mobilenet_v2 import BLOCKS
from keras_deeplab.networks.backbones.pace import Pace
from keras_deeplab.networks.blocks import conv_norm
from keras_deeplab.networks.layers import Add

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage
LOW_LEVEL_BLOCK = 2  # counted from 0; the decoder's features come from its depthwise convolution
NORM = dict(epsilon=1e-3, momentum=0.997)


def mobilenet_v2(images, *, output_stride, multi_grid, base_channels):
    """Low-level features, and the features of stride 8, 16 and of the last block.

    Args:
        images: pictures of -1..1, (N, H, W, 3).
        output_stride: 8, 16 or 32, input pixels per pixel of the last block.
        multi_grid: atrous rate of the last block, or None for that of the output stride.
        base_channels: width of the first convolution, 32 times the released networks' depth multiplier.

    Returns:
        four feature maps, of strides 4, 8, min(16, output_stride) and output_stride.
    """
    multiple = 8 if base_channels == 32 else 1  # as released: at another multiplier widths are the plain product

    def width(channels):
        return rounded(channels * base_channels / 32, multiple)

    pace = Pace(output_stride)
    x = named_conv(images, width(32), 3, name="MobilenetV2-Conv", **pace.next(2))
    features, block = [], 0
    for stage, (expansion, channels, blocks) in enumerate(BLOCKS):
        for i in range(blocks):
            name = "MobilenetV2-expanded_conv" + (f"_{block}" if block else "")
            options = pace.next(STRIDES[stage] if i == 0 else 1)
            if multi_grid and stage == len(BLOCKS) - 1:
                options["rate"] = multi_grid[i]
            x, depthwise = inverted_residual(x, width(channels), expansion=expansion, name=name, **options)
            if block == LOW_LEVEL_BLOCK:
                features.append(depthwise)
            block += 1
        if stage in (2, 4, 6):
            features.append(x)
    return features


def inverted_residual(x, channels, *, expansion, strides, rate, name):
    """A 1x1 convolution to `expansion` times the width, a depthwise 3x3 one, and a 1x1 one without ReLU to `channels`.

    The input is added if the result has its shape.

    Returns:
        (the block's features, those after the depthwise convolution).
    """
    y = x
    if expansion > 1:
        y = named_conv(y, rounded(expansion * x.shape[-1], 8), 1, name=f"{name}-expand")
    depthwise = named_conv(y, None, 3, strides=strides, rate=rate, name=f"{name}-depthwise")
    y = named_conv(depthwise, channels, 1, relu=False, name=f"{name}-project")
    if strides == 1 and x.shape[-1] == channels:
        y = Add(name=f"{name}-add")([x, y])
    return y, depthwise


def named_conv(x, filters, kernel_size, *, name, **options):
    """`conv_norm` with ReLU6, TensorFlow's padding and the names of the released variables: NAME, NAME-BatchNorm."""
    names = name, f"{name}-BatchNorm"
    return conv_norm(x, filters, kernel_size, names=names, max_value=6, one_sided=True, norm=NORM, **options)


def rounded(width, multiple):
    """The multiple nearest to a width, at least one; the next one if that is less than 90 % of the width."""
    nearest = max(multiple, int(width + multiple / 2) // multiple * multiple)
    return nearest if nearest >= 0.9 * width else nearest + multiple
