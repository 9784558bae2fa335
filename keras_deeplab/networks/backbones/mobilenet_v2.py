"""Atrous MobileNetV2: images in, four feature maps out (Sandler et al. 2018; the rates are mmsegmentation's)."""

from keras_deeplab.networks.blocks import conv_norm_module
from keras_deeplab.networks.layers import Add

BLOCKS = (  # of each stage: expansion, channels at `base_channels` 32, number of blocks
    (1, 16, 1),
    (6, 24, 2),
    (6, 32, 3),
    (6, 64, 4),
    (6, 96, 3),
    (6, 160, 3),
    (6, 320, 1),
)
STAGES = {  # output stride: (stride, rate) of each stage's first block; the other blocks have neither
    8: ((1, 1), (2, 1), (2, 1), (1, 2), (1, 2), (1, 4), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (2, 1), (1, 1), (1, 2), (1, 2)),
    32: ((1, 1), (2, 1), (2, 1), (2, 1), (1, 1), (2, 1), (1, 1)),
}
FEATURES = (1, 2, 4, 6)  # the stages whose features are returned


def atrous_mobilenet_v2(images, *, output_stride, multi_grid, base_channels):
    """Features after four of the seven stages.

    Args:
        images: normalised pictures (N, H, W, 3).
        output_stride: 8, 16 or 32, input pixels per pixel of the last stage.
        multi_grid: atrous rate of the one block of the last stage, or None for the rate in `STAGES`.
        base_channels: width of the first convolution. The other widths are in proportion; see `divisible`.

    Returns:
        four feature maps, of strides 4, 8, min(16, output_stride) and output_stride.
    """
    x = conv_norm_module(images, divisible(base_channels), 3, strides=2, max_value=6, name="backbone-conv1")
    features = []
    for stage, ((expansion, channels, blocks), (stride, rate)) in enumerate(
        zip(BLOCKS, STAGES[output_stride], strict=True)
    ):
        rates = [rate] + [1] * (blocks - 1)
        if multi_grid and stage == len(BLOCKS) - 1:
            rates = multi_grid
        for i, block_rate in enumerate(rates):
            x = inverted_residual(
                x,
                divisible(channels * base_channels / 32),
                expansion=expansion,
                strides=stride if i == 0 else 1,
                rate=block_rate,
                name=f"backbone-layer{stage + 1}-{i}",
            )
        if stage in FEATURES:
            features.append(x)
    return features


def inverted_residual(x, channels, *, expansion, strides, rate, name):
    """A 1x1 convolution to `expansion` times the width, a depthwise 3x3 one, and a 1x1 one without ReLU to `channels`.

    The input is added if the result has its shape. The first convolution is left out if it would not expand.
    """
    layers = [(None, 3, dict(strides=strides, rate=rate, max_value=6)), (channels, 1, dict(relu=False))]
    if expansion > 1:
        layers.insert(0, (expansion * x.shape[-1], 1, dict(max_value=6)))
    y = x
    for i, (width, kernel_size, options) in enumerate(layers):
        y = conv_norm_module(y, width, kernel_size, name=f"{name}-conv-{i}", **options)
    return Add(name=f"{name}-add")([x, y]) if strides == 1 and x.shape[-1] == channels else y


def divisible(width):
    """The multiple of 8 nearest to a width, at least 8; the next one if that is less than 90 % of the width."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * width else nearest + 8
