"""The head of the authors' own TensorFlow models: features in, class scores out (Chen et al. 2017; 2018).

It differs from OpenMMLab's in three things: 1x1 convolutions join the branches; there is one dropout, of single values,
before the decoder; and the branches of Xception-71 form a dense prediction cell (Chen et al. 2018, "Searching for efficient
multi-scale architectures for dense image prediction"). Layers carry the names of the released variables with - for /.
"""

import keras

from keras_deeplab.networks.blocks import broadcast_pooled, conv_norm, join_with_pooled, named_separable_conv
from keras_deeplab.networks.layers import AtrousConv2D, Dropout, GlobalMean, ResizeLike

NORM = dict(epsilon=1e-5, momentum=0.9997)
# Of the cell's branches at output stride 16: (rate down, rate across), and which branch's result it reads, None for the
# features.
CELL = (((1, 6), None), ((18, 15), 0), ((6, 3), 1), ((1, 1), 0), ((6, 21), 0))


def authors_head(
    features, outputs, *, channels, rates, cell, low_level_channels, output_stride, dropout, align_corners
):
    """The scores of all classes, before they are resized to the picture.

    Args:
        features: the backbone's four feature maps.
        outputs: number of scores of a pixel.
        channels: width of all layers.
        rates: atrous rates of ASPP's branches; 1 stands for a 1x1 convolution.
        cell: whether the dense prediction cell takes the place of ASPP.
        low_level_channels: channels that the decoder reduces the low-level features to; None without a decoder.
        output_stride: input pixels per pixel of the last features; the cell's rates follow it.
        dropout: share of the values that training sets to zero.
        align_corners: as of `ResizeLike`.

    Returns:
        (N, H/4, W/4, outputs) with a decoder, otherwise (N, h, w, outputs).
    """
    if cell:
        x = dense_prediction_cell(features[3], channels, output_stride)
    else:
        x = aspp(features[3], channels, rates, align_corners=align_corners)
    x = Dropout(dropout, name="concat_projection-dropout")(x)
    if low_level_channels is not None:
        x = decoder(x, features[0], channels, low_level_channels, align_corners=align_corners)
    initializer = keras.initializers.TruncatedNormal(stddev=0.01)
    return AtrousConv2D(outputs, 1, kernel_initializer=initializer, name="logits-semantic")(x)


def aspp(x, channels, rates, *, align_corners):
    """Image pooling and a branch for each rate, concatenated and joined by a 1x1 convolution: (N, h, w, channels)."""
    pooled = GlobalMean(name="image_pooling-mean")(x)
    pooled = named_conv(pooled, channels, name="image_pooling")  # (N, 1, 1, channels)
    pooled = broadcast_pooled(pooled, x, align_corners=align_corners, name="image_pooling-resize")
    branches = [
        named_conv(x, channels, name=f"aspp{i}")
        if rate == 1
        else named_separable_conv(x, channels, rate=rate, name=f"aspp{i}", norm=NORM)
        for i, rate in enumerate(rates)
    ]
    names = "concat_projection", "concat_projection-BatchNorm"
    return join_with_pooled(pooled, branches, channels, kernel_size=1, names=names, name="concat", norm=NORM)


def dense_prediction_cell(x, channels, output_stride):
    """Five separable convolutions, some of which read the results of others, joined by a 1x1: (N, h, w, channels)."""
    branches = []
    for i, (rate, source) in enumerate(CELL):
        rate = tuple(max(1, side * 16 // output_stride) for side in rate)
        inputs = x if source is None else branches[source]
        name = f"meta_architecture-branch{i}"
        branches.append(named_separable_conv(inputs, channels, rate=rate, name=name, norm=NORM))
    x = keras.layers.Concatenate(name="meta_architecture-concat")(branches)
    return named_conv(x, channels, name="meta_architecture-concat_projection")


def decoder(x, low_level, channels, low_level_channels, *, align_corners):
    """Resizes the features to stride 4 and joins them with the low-level features: (N, H/4, W/4, channels)."""
    low_level = named_conv(low_level, low_level_channels, name="decoder-feature_projection0")
    x = ResizeLike(align_corners, name="decoder-resize")([x, low_level])
    x = keras.layers.Concatenate(name="decoder-concat")([x, low_level])
    x = named_separable_conv(x, channels, name="decoder-decoder_conv0", norm=NORM)
    return named_separable_conv(x, channels, name="decoder-decoder_conv1", norm=NORM)


def named_conv(x, filters, *, name):
    """A 1x1 `conv_norm` with the names of the released variables: NAME, NAME-BatchNorm."""
    return conv_norm(x, filters, 1, names=(name, f"{name}-BatchNorm"), norm=NORM)
