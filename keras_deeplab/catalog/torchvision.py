"""The DeepLab models that torchvision released, as a table of 3 rows: a row's name in, every fact out.

Source: the weights of torchvision 0.29 (`torchvision.models.segmentation.deeplabv3`). The table holds the facts that do not
follow from a row's name; `Row` derives the others.

They were trained on COCO with the classes of Pascal VOC, and their published mIoU is that of COCO's validation pictures, so
that it cannot be compared with that of models of VOC.
"""

from dataclasses import dataclass

from keras_deeplab.catalog.datasets import COCO_VOC
from keras_deeplab.catalog.protocol import UNLIMITED, Protocol
from keras_deeplab.catalog.released import Released

SERVER = "https://download.pytorch.org/models/"
SHORT_SIDE = 520  # pixels, in tests and in training before the random factor

# What ImageNet's weights are called, from which the released models were trained.
IMAGENET = {
    "resnet50": f"{SERVER}resnet50-0676ba61.pth",
    "resnet101": f"{SERVER}resnet101-63fe2227.pth",
    "mobilenet_v3_large": f"{SERVER}mobilenet_v3_large-8738ca79.pth",
}


@dataclass(frozen=True)
class Row(Released):
    """A released model.

    Attributes:
        name: its released name: that of its file, without the digits.
        digits: the end of the file's name, the first hex digits of its SHA-256.
        mIoU: published mIoU in percent on COCO's validation pictures of 2017, at one scale.
        pixel_accuracy: published accuracy of all pixels there, in percent.
        all_parameters: published number of parameters, with those of the auxiliary head.
        auxiliary_parameters: those of the auxiliary head.
        mebibytes: published size of the file in MiB (2^20 bytes).
        output_stride: input pixels per pixel of the last features.
    """

    name: str
    digits: str
    mIoU: float
    pixel_accuracy: float
    all_parameters: int
    auxiliary_parameters: int
    mebibytes: float
    output_stride: int = 8

    source = "torchvision"
    publisher = "torchvision"
    weights_licence = "not stated; the code BSD-3-Clause"
    recipe = "torchvision"
    dataset = COCO_VOC.name
    num_classes = COCO_VOC.num_classes
    classes = COCO_VOC.classes
    palette = COCO_VOC.palette
    class_name = "DeepLabV3"
    family = "deeplabv3"
    crop = (480, 480)  # of training: height, width in pixels
    mIoU_ms_flip = None
    train_memory_gb = None
    multi_grid = None
    align_corners = False
    fp16 = False
    iterations = None  # 30 epochs; the number of pictures is not published
    protocol = Protocol("whole", resize=(UNLIMITED, SHORT_SIDE), antialias=True)

    @property
    def backbone(self):
        """Key of `keras_deeplab.networks.backbones.BACKBONES`, torchvision's own name, such as `"resnet50"`."""
        return self.name.removeprefix("deeplabv3_").removesuffix("_coco")

    @property
    def imagenet(self):
        """Key of `IMAGENET`: the weights of the backbone that training started from."""
        return self.backbone

    @property
    def architecture(self):
        """Keyword arguments of the model's class, as a new dict. It derives widths and rates from backbone and stride."""
        return {
            "num_classes": self.num_classes,
            "backbone": self.backbone,
            "output_stride": self.output_stride,
            "multi_grid": None,
            "align_corners": False,
        }

    @property
    def file(self):
        return f"{self.name}-{self.digits}.pth"

    @property
    def url(self):
        return f"{SERVER}{self.file}"

    @property
    def parameters(self):
        """The number of trainable parameters, without those of the auxiliary head."""
        return self.all_parameters - self.auxiliary_parameters

    @property
    def megabytes(self):
        """Size of the released file in MB (10^6 bytes)."""
        return self.mebibytes * 2**20 / 1e6


# Columns: name, digits, mIoU, pixel accuracy, parameters, of them of the auxiliary head, MiB[, output stride].
# fmt: off
_ROWS = (
    ("deeplabv3_resnet50_coco",      "cd0a2569", 66.4, 92.4, 42_004_074, 2_365_205, 160.515),
    ("deeplabv3_resnet101_coco",     "586e9e4e", 67.4, 92.4, 60_996_202, 2_365_205, 233.217),
    ("deeplabv3_mobilenet_v3_large", "fc3c493d", 60.3, 91.2, 11_029_328,     3_851,  42.301, 16),
)
# fmt: on

ROWS = {row[0]: Row(*row) for row in _ROWS}
