"""Backbones by name. All have the same signature: normalised pictures in, the features after each of four stages out.

    features = BACKBONES["r50"].build(images, output_stride=8, multi_grid=None, base_channels=64, stem_channels=64)
    features = BACKBONES["mobilenetv2"].build(images, output_stride=8, multi_grid=None, base_channels=32)

The stem of `r50` is three 3x3 convolutions; that of `r50b` is one 7x7 convolution, as in torchvision's ResNet.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from keras_deeplab.networks.backbones.mobilenet_v2 import atrous_mobilenet_v2
from keras_deeplab.networks.backbones.mobilenet_v2_tf import mobilenet_v2
from keras_deeplab.networks.backbones.mobilenet_v3 import atrous_mobilenet_v3
from keras_deeplab.networks.backbones.resnest import BLOCKS as RESNEST_BLOCKS
from keras_deeplab.networks.backbones.resnest import atrous_resnest
from keras_deeplab.networks.backbones.resnet import BLOCKS, atrous_resnet
from keras_deeplab.networks.backbones.xception import MIDDLE_FLOW, xception
from keras_deeplab.networks.layers import MEAN, STD

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
        low_level_channels: channels that DeepLabV3+'s decoder reduces the first stage's features to; None if the head has
            no decoder.
        auxiliary_channels: width of the auxiliary head.
        auxiliary_stage: which of the feature maps the auxiliary head supervises, counted from 0.
        dropout: share of the values or channels that training sets to zero.
        head: "openmmlab", "authors" or "torchvision", whose head the released models with this backbone have.
        aspp_rates: atrous rates of ASPP's branches at output stride 8, in pixels of the last stage.
        align_corners: how the released models resize; see `DeepLab`.
        mean, std: of R, G and B (0..255), by which pictures are normalised.
        prefix: the beginning of the names of the backbone's layers.
    """

    build: Callable
    widths: dict[str, int]
    last_blocks: int
    aspp_channels: int = 512
    low_level_channels: int | None = 48
    auxiliary_channels: int = 256
    auxiliary_stage: int = 2
    dropout: float = 0.1
    head: str = "openmmlab"
    aspp_rates: tuple[int, ...] = (1, 12, 24, 36)
    align_corners: bool = False
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    prefix: str = "backbone-"


STEMS = {"": "v1c", "b": "b"}  # {end of a ResNet's name: its stem}
R18_HEADS: dict[str, Any] = dict(
    aspp_channels=128, low_level_channels=12, auxiliary_channels=64
)  # a quarter of the width

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

# The authors' own networks (TensorFlow): pictures of -1..1, and heads of 256 channels.
AUTHORS: dict[str, Any] = dict(
    aspp_channels=256, head="authors", align_corners=True, mean=(127.5,) * 3, std=(127.5,) * 3
)
MOBILENET: dict[str, Any] = dict(aspp_rates=(1,), prefix="MobilenetV2-")  # its heads have no atrous branches

BACKBONES |= {
    f"xception{depth}": Backbone(
        partial(xception, depth=depth),
        {"base_channels": 64, "stem_channels": 64},
        last_blocks=3,
        prefix=f"xception_{depth}-",
        **AUTHORS,
    )
    for depth in MIDDLE_FLOW
} | {
    "mobilenetv2_tf": Backbone(mobilenet_v2, {"base_channels": 32}, last_blocks=1, **MOBILENET, **AUTHORS),
}

# torchvision's networks: the ResNets of "r50b" and "r101b" and MobileNetV3, with heads of 256 channels.
TORCHVISION: dict[str, Any] = dict(aspp_channels=256, low_level_channels=None, dropout=0.5, head="torchvision")

BACKBONES |= {f"resnet{depth}": replace(BACKBONES[f"r{depth}b"], **TORCHVISION) for depth in (50, 101)} | {
    "mobilenet_v3_large": Backbone(
        atrous_mobilenet_v3,
        {"base_channels": 16},
        last_blocks=3,
        auxiliary_channels=10,
        auxiliary_stage=1,
        aspp_rates=(1, 24, 48, 72),  # those of the ResNets at output stride 16, which is the released one
        **TORCHVISION,
    )
}
