"""The head of OpenMMLab's models: features in, class scores out, through ASPP and for DeepLabV3+ the decoder."""

from keras_deeplab.networks.aspp import aspp
from keras_deeplab.networks.decoder import classifier, decoder


def head(features, outputs, *, channels, rates, low_level_channels, dropout, align_corners, **_):
    """The scores of all classes, before they are resized to the picture.

    Args:
        features: the backbone's four feature maps.
        outputs: number of scores of a pixel.
        channels: width of all layers.
        rates: atrous rates of ASPP's branches; 1 stands for a 1x1 convolution.
        low_level_channels: channels that the decoder reduces the low-level features to; None without a decoder.
        dropout: share of the channels that training sets to zero.
        align_corners: as of `ResizeLike`.
        _: what only the authors' head needs.

    Returns:
        (N, H/4, W/4, outputs) with a decoder, otherwise (N, h, w, outputs).
    """
    has_decoder = low_level_channels is not None
    x = aspp(features[3], channels, rates, separable=has_decoder, align_corners=align_corners)
    if has_decoder:
        x = decoder(x, features[0], channels, low_level_channels, align_corners=align_corners)
    return classifier(x, outputs, dropout, name="decode_head")
