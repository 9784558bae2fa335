"""The heads of torchvision's DeepLabV3: features in, class scores out (Chen et al. 2017; the auxiliary head: FCN's).

They differ from OpenMMLab's in that a 1x1 convolution joins the branches, of which the pooled one is the last, with a dropout
of single values after it, before a 3x3 convolution. Layers carry the released module names with - for a dot.
"""

import keras

from keras_deeplab.networks.blocks import broadcast_pooled, conv_norm, join_with_pooled
from keras_deeplab.networks.layers import AtrousConv2D, Dropout, GlobalMean

AUXILIARY_DROPOUT = 0.2  # of the auxiliary head, times that of the other head: 0.1 beside 0.5


def torchvision_head(features, outputs, *, channels, rates, dropout, align_corners, **_):
    """The scores of all classes, before they are resized to the picture.

    Args:
        features: the backbone's four feature maps.
        outputs: number of scores of a pixel.
        channels: width of all layers.
        rates: atrous rates of ASPP's branches; 1 stands for a 1x1 convolution.
        dropout: share of the values after ASPP that training sets to zero.
        align_corners: as of `ResizeLike`.
        _: what only other heads need.

    Returns:
        (N, h, w, outputs).
    """
    x = aspp(features[3], channels, rates, align_corners=align_corners)
    x = Dropout(dropout, name="classifier-0-project-3")(x)
    x = conv_norm(x, channels, 3, names=("classifier-1", "classifier-2"))
    return classifier(x, outputs, name="classifier-4")


def aspp(x, channels, rates, *, align_corners):
    """A branch for each rate and image pooling, concatenated and joined by a 1x1 convolution: (N, h, w, channels)."""
    name, branches = "classifier-0-convs", []
    for i, rate in enumerate(rates):
        names = f"{name}-{i}-0", f"{name}-{i}-1"
        branches.append(conv_norm(x, channels, 1 if rate == 1 else 3, rate=rate, names=names))
    name = f"{name}-{len(branches)}"
    pooled = GlobalMean(name=f"{name}-0")(x)
    pooled = conv_norm(pooled, channels, 1, names=(f"{name}-1", f"{name}-2"))  # (N, 1, 1, channels)
    pooled = broadcast_pooled(pooled, x, align_corners=align_corners, name=f"{name}-resize")
    names = "classifier-0-project-0", "classifier-0-project-1"
    return join_with_pooled(
        pooled, branches, channels, kernel_size=1, pooled_last=True, names=names, name="classifier-0"
    )


def torchvision_auxiliary_head(x, outputs, *, channels, dropout):
    """The scores of the auxiliary head, from the features that it supervises: (N, h, w, outputs)."""
    x = conv_norm(x, channels, 3, names=("aux_classifier-0", "aux_classifier-1"))
    x = Dropout(AUXILIARY_DROPOUT * dropout, name="aux_classifier-3")(x)
    return classifier(x, outputs, name="aux_classifier-4")


def classifier(x, outputs, *, name):
    """A score for each pixel and class; the first weights are PyTorch's uniform ones."""
    initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    return AtrousConv2D(outputs, 1, kernel_initializer=initializer, name=name)(x)
