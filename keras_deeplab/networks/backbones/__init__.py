"""Backbones by name. Each is a function of one form: normalised pictures in, features after each of four stages out.

    features = BACKBONES["r50"].build(images, output_stride=8, multi_grid=None, base_channels=64, stem_channels=64)

`r50` has a stem of three 3x3 convolutions, `r50b` one of 7x7, as torchvision's ResNet has it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from keras_deeplab.networks.backbones.resnet import BLOCKS, atrous_resnet

OUTPUT_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Backbone:
    """A backbone, and the widths of the heads that the released models have on it.

    Attributes:
        build: (images, *, output_stride, multi_grid, base_channels, stem_channels) -> four feature maps, of strides 4, 8,
            min(16, output_stride) and output_stride.
        last_blocks: blocks of the last stage: as many rates has a `multi_grid`.
        aspp_channels: width of each branch of ASPP.
        low_level_channels: channels of the first stage that DeepLabV3+'s decoder keeps.
        auxiliary_channels: width of the auxiliary head.
    """

    build: Callable
    last_blocks: int
    aspp_channels: int = 512
    low_level_channels: int = 48
    auxiliary_channels: int = 256


STEMS = {"": "v1c", "b": "b"}  # by the end of the name
NARROW_HEADS = dict(aspp_channels=128, low_level_channels=12, auxiliary_channels=64)  # R-18's: a quarter as wide

BACKBONES = {
    f"r{depth}{end}": Backbone(
        partial(atrous_resnet, depth=depth, stem=stem), blocks[3], **(NARROW_HEADS if depth == 18 else {})
    )
    for end, stem in STEMS.items()
    for depth, blocks in BLOCKS.items()
}
