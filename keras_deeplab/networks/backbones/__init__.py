"""Backbones by name. All have the same signature: normalised pictures in, the features after each of four stages out.

    features = BACKBONES["r50"].build(images, output_stride=8, multi_grid=None, base_channels=64, stem_channels=64)
    features = BACKBONES["mobilenetv2"].build(images, output_stride=8, multi_grid=None, base_channels=32)

The stem of `r50` is three 3x3 convolutions; that of `r50b` is one 7x7 convolution, as in torchvision's ResNet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from keras_deeplab.networks.backbones.mobilenet_v2 import atrous_mobilenet_v2
from keras_deeplab.networks.backbones.resnest import BLOCKS as RESNEST_BLOCKS
from keras_deeplab.networks.backbones.resnest import atrous_resnest
from keras_deeplab.networks.backbones.resnet import BLOCKS, atrous_resnet

OUTPUT_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Backbone:
    """A backbone, and the widths of the heads of the released models with this backbone.

    Attributes:
        build: (images, *, output_stride, multi_grid, **widths) -> four feature maps, of strides 4, 8,
            min(16, output_stride) and output_stride.
        widths: {name of a width that `build` takes: its default}.
        last_blocks: number of blocks of the last stage. A `multi_grid` has one rate for each.
        aspp_channels: width of each branch of ASPP.
        low_level_channels: channels that DeepLabV3+'s decoder reduces the first stage's features to.
        auxiliary_channels: width of the auxiliary head.
    """

    build: Callable
    widths: dict[str, int]
    last_blocks: int
    aspp_channels: int = 512
    low_level_channels: int = 48
    auxiliary_channels: int = 256


STEMS = {"": "v1c", "b": "b"}  # {end of a ResNet's name: its stem}
R18_HEADS = dict(aspp_channels=128, low_level_channels=12, auxiliary_channels=64)  # a quarter of the width

BACKBONES = (
    {
        f"r{depth}{end}": Backbone(
            partial(atrous_resnet, depth=depth, stem=stem),
            {"base_channels": 64, "stem_channels": 64},
            blocks[3],
            **(R18_HEADS if depth == 18 else {}),
        )
        for end, stem in STEMS.items()
        for depth, blocks in BLOCKS.items()
    }
    | {
        f"s{depth}": Backbone(
            partial(atrous_resnest, depth=depth), {"base_channels": 64, "stem_channels": 128}, blocks[3]
        )
        for depth, blocks in RESNEST_BLOCKS.items()
    }
    | {
        "mobilenetv2": Backbone(atrous_mobilenet_v2, {"base_channels": 32}, last_blocks=1),
    }
)
