"""OpenMMLab's released models as a table of 92 rows: a row's name in, every fact about that model out.

Source: the model index and configurations of OpenMMLab's mmsegmentation 1.2.2. The table holds only the facts that do not
follow from a row's name; `Row` derives the others.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.catalog.released import Released

CLASS_NAMES = {"deeplabv3": "DeepLabV3", "deeplabv3plus": "DeepLabV3Plus"}  # {family, the first part of a name: class}

NAME = re.compile(
    r"""
    (?P<family>deeplabv3|deeplabv3plus)
    _(?P<backbone>r18b?|r50b?|r101b?|s101|m-v2)
    -d(?P<output_stride>8|16)
    (?P<multi_grid>-mg124)?
    (?P<fp16>_fp16)?
    (?:_4x4)?                                   # GPUs x pictures per GPU; it stands before or after the crop
    _(?P<height>\d+)x(?P<width>\d+)             # training crop in pixels
    (?:_4x4)?
    _(?P<iterations>\d+)k
    _(?P<dataset>.+)
    """,
    re.VERBOSE,
)

BACKBONES = {  # {name in a row's name: name here, key of `IMAGENET`, folder on the server or None for the family's}
    "r18": ("r18", "resnet18_v1c", None),
    "r50": ("r50", "resnet50_v1c", None),
    "r101": ("r101", "resnet101_v1c", None),
    "r18b": ("r18b", "resnet18", None),  # b: torchvision's ResNet, whose stem is one 7x7 convolution
    "r50b": ("r50b", "resnet50", None),
    "r101b": ("r101b", "resnet101", None),
    "s101": ("s101", "resnest101", "resnest"),
    "m-v2": ("mobilenetv2", "mobilenet_v2", "mobilenet_v2"),
}

# {crop: stride} of the sliding windows in tests, in pixels. With other crops a model is tested on whole pictures.
WINDOW_STRIDES = {(769, 769): (513, 513), (480, 480): (320, 320)}
TEST_BOXES = {  # {data set: long, short side in pixels}; one pixel more for both if the crop is 769x769
    "cityscapes": (2048, 1024),
    "ade20k": (2048, 512),
    "voc12aug": (2048, 512),
    "pascal_context": (520, 520),
    "pascal_context_59": (520, 520),
    "coco_stuff10k": (2048, 512),
    "coco_stuff164k": (2048, 512),
    "loveda": (1024, 1024),
    "potsdam": (512, 512),
    "vaihingen": (512, 512),
    "isaid": (896, 896),
    "mapillary": (2048, 1024),
}

# (parameters of the network without the auxiliary head, numbers in the file), both without the weights of each class. They are
# counted from the shapes of the released tensors.
SIZES = {
    ("deeplabv3", "r18"): (13_835_104, 13_994_080),
    ("deeplabv3", "r18b"): (13_815_872, 13_974_720),
    ("deeplabv3", "r50"): (65_738_592, 68_158_304),
    ("deeplabv3", "r50b"): (65_719_360, 68_138_944),
    ("deeplabv3", "r101"): (84_730_720, 87_202_656),
    ("deeplabv3", "r101b"): (84_711_488, 87_183_296),
    ("deeplabv3plus", "r18"): (12_317_692, 12_480_812),
    ("deeplabv3plus", "r18b"): (12_298_460, 12_461_452),
    ("deeplabv3plus", "r50"): (41_215_440, 43_651_728),
    ("deeplabv3plus", "r50b"): (41_196_208, 43_632_368),
    ("deeplabv3plus", "r101"): (60_207_568, 62_696_080),
    ("deeplabv3plus", "r101b"): (60_188_336, 62_676_720),
    ("deeplabv3", "s101"): (88_437_344, 90_933_920),
    ("deeplabv3plus", "s101"): (63_914_192, 66_427_344),
    ("deeplabv3", "mobilenetv2"): (18_365_696, 18_625_600),
    ("deeplabv3plus", "mobilenetv2"): (15_008_048, 15_274_160),
}
SIZES_PER_CLASS = {"r18": (129, 194), "r18b": (129, 194)}  # {backbone: what each class adds to both}
SIZES_PER_CLASS_OF_OTHERS = (513, 770)

# {`Row.imagenet`: URL}, as mmengine 0.10.7 resolves the configurations' open-mmlab://, torchvision:// and mmcls://
IMAGENET = {
    "resnet18_v1c": "https://download.openmmlab.com/pretrain/third_party/resnet18_v1c-b5776b93.pth",
    "resnet50_v1c": "https://download.openmmlab.com/pretrain/third_party/resnet50_v1c-2cccc1ad.pth",
    "resnet101_v1c": "https://download.openmmlab.com/pretrain/third_party/resnet101_v1c-e67eebb6.pth",
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
    "resnest101": "https://download.openmmlab.com/pretrain/third_party/resnest101_d2-f3b931b2.pth",
    "mobilenet_v2": "https://download.openmmlab.com/mmclassification/v0/mobilenet_v2/"
    "mobilenet_v2_batch256_imagenet_20200708-3b2dc3af.pth",
}


@dataclass(frozen=True)
class Row(Released):
    """A released model.

    Attributes:
        name: its released name, misspellings included.
        stamp: the end of the released file's name: date, time and eight hex digits. The digits need not be the hash of the
            file: the publisher took the hash before the optimizer's state was removed.
        mIoU: published mIoU in percent on the validation pictures of the data set, at one scale.
        mIoU_ms_flip: published mIoU in percent over several scales and with flips; `None` if not published.
        train_memory_gb: published training memory in GB per GPU; `None` if not published.
        spelling: the name in the form of the other rows' names, if the released name has another form.
    """

    name: str
    stamp: str
    mIoU: float
    mIoU_ms_flip: float | None
    train_memory_gb: float | None
    spelling: str | None = None

    source = "OpenMMLab"
    publisher = "OpenMMLab's mmsegmentation"

    @cached_property
    def _name_parts(self):
        """The named groups of `NAME` in the row's name."""
        match = NAME.fullmatch(self.spelling or self.name)
        if not match:
            raise ValueError(
                "A row's name, or its `spelling`, must have the form of 'deeplabv3_r50-d8_512x1024_40k_cityscapes'. "
                f"Received: {self.spelling or self.name!r}."
            )
        return match.groupdict()

    # What the model is.

    @property
    def family(self):
        """`"deeplabv3"` or `"deeplabv3plus"`."""
        return self._name_parts["family"]

    @property
    def class_name(self):
        """`"DeepLabV3"` or `"DeepLabV3Plus"`."""
        return CLASS_NAMES[self.family]

    @property
    def backbone(self):
        """Key of `keras_deeplab.networks.backbones.BACKBONES`, such as `"r101"`, `"r18b"` or `"mobilenetv2"`."""
        return BACKBONES[self._name_parts["backbone"]][0]

    @property
    def output_stride(self):
        return int(self._name_parts["output_stride"])

    @property
    def multi_grid(self):
        """Atrous rates of the three blocks of the last stage, or None for the backbone's own."""
        return (1, 2, 4) if self._name_parts["multi_grid"] else None

    @property
    def align_corners(self):
        return self.crop == (769, 769)

    @property
    def architecture(self):
        """Keyword arguments of the model's class, as a new dict. It derives widths and rates from backbone and stride."""
        return {
            "num_classes": self.num_classes,
            "backbone": self.backbone,
            "output_stride": self.output_stride,
            "multi_grid": self.multi_grid,
            "align_corners": self.align_corners,
        }

    # How it was trained.

    @property
    def dataset(self):
        """Key of `keras_deeplab.catalog.datasets.DATASETS`."""
        return self._name_parts["dataset"].replace("-", "_")

    @property
    def num_classes(self):
        return DATASETS[self.dataset].num_classes

    @property
    def classes(self):
        return DATASETS[self.dataset].classes

    @property
    def palette(self):
        return DATASETS[self.dataset].palette

    @property
    def crop(self):
        """Training crop: height, width in pixels."""
        return int(self._name_parts["height"]), int(self._name_parts["width"])

    @property
    def iterations(self):
        return 1000 * int(self._name_parts["iterations"])

    @property
    def fp16(self):
        """Whether it was trained in half precision."""
        return self._name_parts["fp16"] is not None

    @property
    def imagenet(self):
        """Key of `IMAGENET`: the weights of the backbone that training started from."""
        return BACKBONES[self._name_parts["backbone"]][1]

    # How it is tested, and where its file is.

    @property
    def protocol(self):
        """The test protocol of the published numbers."""
        long, short = TEST_BOXES[self.dataset]
        extra = 1 if self.align_corners else 0
        stride = WINDOW_STRIDES.get(self.crop)
        return Protocol(
            mode="slide" if stride else "whole",
            crop=self.crop if stride else None,
            stride=stride,
            resize=(long + extra, short + extra),
        )

    @property
    def file(self):
        return f"{self.name}_{self.stamp}.pth"

    @property
    def url(self):
        folder = BACKBONES[self._name_parts["backbone"]][2] or self.family
        return f"https://download.openmmlab.com/mmsegmentation/v0.5/{folder}/{self.name}/{self.file}"

    @property
    def parameters(self):
        """The number of trainable parameters, without those of the auxiliary head."""
        return self._size(0)

    @property
    def megabytes(self):
        """Size of the tensors of the released file in MB (10^6 bytes); the file is a little larger."""
        return 4e-6 * self._size(1)

    def _size(self, column):
        """A column of `SIZES`, with the weights of each class."""
        per_class = SIZES_PER_CLASS.get(self.backbone, SIZES_PER_CLASS_OF_OTHERS)
        return SIZES[self.family, self.backbone][column] + per_class[column] * self.num_classes


# Columns: name, stamp, mIoU, mIoU with ms+flip, training memory in GB[, spelling].
# fmt: off
_ROWS = (
    # DeepLabV3, Cityscapes
    ("deeplabv3_r50-d8_512x1024_40k_cityscapes",         "20200605_022449-acadc2f8", 79.09, 80.45,  6.1),
    ("deeplabv3_r101-d8_512x1024_40k_cityscapes",        "20200605_012241-7fd3f799", 77.12, 79.61,  9.6),
    ("deeplabv3_r50-d8_769x769_40k_cityscapes",          "20200606_113723-7eda553c", 78.58, 79.89,  6.9),
    ("deeplabv3_r101-d8_769x769_40k_cityscapes",         "20200606_113809-c64f889f", 79.27, 80.11, 10.9),
    ("deeplabv3_r18-d8_512x1024_80k_cityscapes",         "20201225_021506-23dffbe2", 76.70, 78.27,  1.7),
    ("deeplabv3_r50-d8_512x1024_80k_cityscapes",         "20200606_113404-b92cfdd4", 79.32, 80.57, None),
    ("deeplabv3_r101-d8_512x1024_80k_cityscapes",        "20200606_113503-9e428899", 80.20, 81.21, None),
    ("deeplabv3_r101-d8_fp16_512x1024_80k_cityscapes",   "20200717_230920-774d9cec", 80.48,  None, 5.75),
    ("deeplabv3_r18-d8_769x769_80k_cityscapes",          "20201225_021506-6452126a", 76.60, 78.26,  1.9),
    ("deeplabv3_r50-d8_769x769_80k_cityscapes",          "20200606_221338-788d6228", 79.89, 81.06, None),
    ("deeplabv3_r101-d8_769x769_80k_cityscapes",         "20200607_013353-60e95418", 79.67, 80.81, None),
    ("deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes", "20200908_005644-67b0c992", 76.71, 78.63,  4.7),
    ("deeplabv3_r101-d16-mg124_512x1024_80k_cityscapes", "20200908_005644-57bb8425", 78.36, 79.84, None),
    ("deeplabv3_r18b-d8_512x1024_80k_cityscapes",        "20201225_094144-46040cef", 76.26, 77.88,  1.6),
    ("deeplabv3_r50b-d8_512x1024_80k_cityscapes",        "20201225_155148-ec368954", 79.63, 80.98,  6.0),
    ("deeplabv3_r101b-d8_512x1024_80k_cityscapes",       "20201226_171821-8fd49503", 80.01, 81.21,  9.5),
    ("deeplabv3_r18b-d8_769x769_80k_cityscapes",         "20201225_094144-fdc985d9", 75.63, 77.51,  1.8),
    ("deeplabv3_r50b-d8_769x769_80k_cityscapes",         "20201225_155404-87fb0cf4", 78.80, 80.27,  6.8),
    ("deeplabv3_r101b-d8_769x769_80k_cityscapes",        "20201226_190843-9142ee57", 79.41, 80.73, 10.7),
    # DeepLabV3, ADE20K
    ("deeplabv3_r50-d8_512x512_80k_ade20k",   "20200614_185028-0bb3f844", 42.42, 43.28,  8.9),
    ("deeplabv3_r101-d8_512x512_80k_ade20k",  "20200615_021256-d89c7fa4", 44.08, 45.19, 12.4),
    ("deeplabv3_r50-d8_512x512_160k_ade20k",  "20200615_123227-5d0ee427", 42.66, 44.09, None),
    ("deeplabv3_r101-d8_512x512_160k_ade20k", "20200615_105816-b1f72b3b", 45.00, 46.66, None),
    # DeepLabV3, Pascal VOC 2012 + Aug
    ("deeplabv3_r50-d8_512x512_20k_voc12aug",  "20200617_010906-596905ef", 76.17, 77.42,  6.1),
    ("deeplabv3_r101-d8_512x512_20k_voc12aug", "20200617_010932-8d13832f", 78.70, 79.95,  9.6),
    ("deeplabv3_r50-d8_512x512_40k_voc12aug",  "20200613_161546-2ae96e7e", 77.68, 78.78, None),
    ("deeplabv3_r101-d8_512x512_40k_voc12aug", "20200613_161432-0017d784", 77.92, 79.18, None),
    # DeepLabV3, Pascal Context
    ("deeplabv3_r101-d8_480x480_40k_pascal_context", "20200911_204118-1aa27336", 46.55, 47.81,  9.2),
    ("deeplabv3_r101-d8_480x480_80k_pascal_context", "20200911_170155-2a21fff3", 46.42, 47.53, None),
    # DeepLabV3, Pascal Context 59
    ("deeplabv3_r101-d8_480x480_40k_pascal_context_59", "20210416_110332-cb08ea46", 52.61, 54.28, None),
    ("deeplabv3_r101-d8_480x480_80k_pascal_context_59", "20210416_113002-26303993", 52.46, 54.09, None),
    # DeepLabV3, COCO-Stuff 10k
    ("deeplabv3_r50-d8_512x512_4x4_20k_coco-stuff10k",  "20210821_043025-b35f789d", 34.66, 36.08,  9.6),
    ("deeplabv3_r101-d8_512x512_4x4_20k_coco-stuff10k", "20210821_043025-c49752cb", 37.30, 38.42, 13.2),
    ("deeplabv3_r50-d8_512x512_4x4_40k_coco-stuff10k",  "20210821_043305-dc76f3ff", 35.73, 37.09, None),
    ("deeplabv3_r101-d8_512x512_4x4_40k_coco-stuff10k", "20210821_043305-636cb433", 37.81, 38.80, None),
    # DeepLabV3, COCO-Stuff 164k
    ("deeplabv3_r50-d8_512x512_4x4_80k_coco-stuff164k",   "20210709_163016-88675c24", 39.38, 40.03,  9.6),
    ("deeplabv3_r101-d8_512x512_4x4_80k_coco-stuff164k",  "20210709_201252-13600dc2", 40.87, 41.50, 13.2),
    ("deeplabv3_r50-d8_512x512_4x4_160k_coco-stuff164k",  "20210709_163016-49f2812b", 41.09, 41.69, None),
    ("deeplabv3_r101-d8_512x512_4x4_160k_coco-stuff164k", "20210709_155402-f035acfd", 41.82, 42.49, None),
    ("deeplabv3_r50-d8_512x512_4x4_320k_coco-stuff164k",  "20210709_155403-51b21115", 41.37, 42.22, None),
    ("deeplabv3_r101-d8_512x512_4x4_320k_coco-stuff164k", "20210709_155402-3cbca14d", 42.61, 43.42, None),
    # DeepLabV3+, Cityscapes
    ("deeplabv3plus_r50-d8_512x1024_40k_cityscapes",         "20200605_094610-d222ffcd", 79.61, 81.01,  7.5),
    ("deeplabv3plus_r101-d8_512x1024_40k_cityscapes",        "20200605_094614-3769eecf", 80.21, 81.82, 11.0),
    ("deeplabv3plus_r50-d8_769x769_40k_cityscapes",          "20200606_114143-1dcb0e3c", 78.97, 80.46,  8.5),
    ("deeplabv3plus_r101-d8_769x769_40k_cityscapes",         "20200606_114304-ff414b9e", 79.46, 80.50, 12.5),
    ("deeplabv3plus_r18-d8_512x1024_80k_cityscapes",         "20201226_080942-cff257fe", 76.89, 78.76,  2.2),
    ("deeplabv3plus_r50-d8_512x1024_80k_cityscapes",         "20200606_114049-f9fb496d", 80.09, 81.13, None),
    ("deeplabv3plus_r101-d8_512x1024_80k_cityscapes",        "20200606_114143-068fcfe9", 80.97, 82.03, None),
    ("deeplabv3plus_r101-d8_fp16_512x1024_80k_cityscapes",   "20200717_230920-f1104f4b", 80.46,  None, 6.35),
    ("deeplabv3plus_r18-d8_769x769_80k_cityscapes",          "20201226_083346-f326e06a", 76.26, 77.91,  2.5),
    ("deeplabv3plus_r50-d8_769x769_80k_cityscapes",          "20200606_210233-0e9dfdc4", 79.83, 81.48, None),
    ("deeplabv3plus_r101-d8_769x769_80k_cityscapes",         "20220406_154720-dfcc0b68", 80.65, 81.47, None),
    ("deeplabv3plus_r101-d16-mg124_512x1024_40k_cityscapes", "20200908_005644-cf9ce186", 79.09, 80.36,  5.8),
    ("deeplabv3plus_r101-d16-mg124_512x1024_80k_cityscapes", "20200908_005644-ee6158e0", 79.90, 81.33,  9.9),
    ("deeplabv3plus_r18b-d8_512x1024_80k_cityscapes",        "20201226_090828-e451abd9", 75.87, 77.52,  2.1),
    ("deeplabv3plus_r50b-d8_512x1024_80k_cityscapes",        "20201225_213645-a97e4e43", 80.28, 81.44,  7.4),
    ("deeplabv3plus_r101b-d8_512x1024_80k_cityscapes",       "20201226_190843-9c3c93a4", 80.16, 81.41, 10.9),
    ("deeplabv3plus_r18b-d8_769x769_80k_cityscapes",         "20201226_151312-2c868aff", 76.36, 78.24,  2.4),
    ("deeplabv3plus_r50b-d8_769x769_80k_cityscapes",         "20201225_224655-8b596d1c", 79.41, 80.56,  8.4),
    ("deeplabv3plus_r101b-d8_769x769_80k_cityscapes",        "20201226_205041-227cdf7c", 79.88, 81.46, 12.3),
    # DeepLabV3+, ADE20K
    ("deeplabv3plus_r50-d8_512x512_80k_ade20k",   "20200614_185028-bf1400d8", 42.72, 43.75, 10.6),
    ("deeplabv3plus_r101-d8_512x512_80k_ade20k",  "20200615_014139-d5730af7", 44.60, 46.06, 14.1),
    ("deeplabv3plus_r50-d8_512x512_160k_ade20k",  "20200615_124504-6135c7e0", 43.95, 44.93, None),
    ("deeplabv3plus_r101-d8_512x512_160k_ade20k", "20200615_123232-38ed86bb", 45.47, 46.35, None),
    # DeepLabV3+, Pascal VOC 2012 + Aug
    ("deeplabv3plus_r50-d8_512x512_20k_voc12aug",  "20200617_102323-aad58ef1", 75.93, 77.50,  7.6),
    ("deeplabv3plus_r101-d8_512x512_20k_voc12aug", "20200617_102345-c7ff3d56", 77.22, 78.59, 11.0),
    ("deeplabv3plus_r50-d8_512x512_40k_voc12aug",  "20200613_161759-e1b43aa9", 76.81, 77.57, None),
    ("deeplabv3plus_r101-d8_512x512_40k_voc12aug", "20200613_205333-faf03387", 78.62, 79.53, None),
    # DeepLabV3+, Pascal Context
    ("deeplabv3plus_r101-d8_480x480_40k_pascal_context", "20200911_165459-d3c8a29e", 47.30, 48.47, None),
    ("deeplabv3plus_r101-d8_480x480_80k_pascal_context", "20200911_155322-145d3ee8", 47.23, 48.26, None),
    # DeepLabV3+, Pascal Context 59
    ("deeplabv3plus_r101-d8_480x480_40k_pascal_context_59", "20210416_111233-ed937f15", 52.86, 54.54, None),
    ("deeplabv3plus_r101-d8_480x480_80k_pascal_context_59", "20210416_111127-7ca0331d", 53.20, 54.67, None),
    # DeepLabV3+, LoveDA
    ("deeplabv3plus_r18-d8_512x512_80k_loveda",  "20211104_132800-ce0fa0ca", 50.28, 50.47,  1.93),
    ("deeplabv3plus_r50-d8_512x512_80k_loveda",  "20211105_080442-f0720392", 50.99, 50.65,  7.37),
    ("deeplabv3plus_r101-d8_512x512_80k_loveda", "20211105_110759-4c1f297e", 51.47, 51.32, 10.84),
    # DeepLabV3+, Potsdam
    ("deeplabv3plus_r18-d8_512x512_80k_potsdam",  "20211219_020601-75fd5bc3", 77.09, 78.44,  1.91),
    ("deeplabv3plus_r50-d8_512x512_80k_potsdam",  "20211219_031508-7e7a2b24", 78.33, 79.27,  7.36),
    ("deeplabv3plus_r101-d8_512x512_80k_potsdam", "20211219_031508-8b112708", 78.70, 79.47, 10.83),
    # DeepLabV3+, Vaihingen
    ("deeplabv3plus_r18-d8_4x4_512x512_80k_vaihingen",  "20211231_230805-7626a263", 72.50, 74.13,  1.91),
    ("deeplabv3plus_r50-d8_4x4_512x512_80k_vaihingen",  "20211231_230816-5040938d", 73.97, 75.05,  7.36),
    ("deeplabv3plus_r101-d8_4x4_512x512_80k_vaihingen", "20211231_230816-8a095afa", 73.06, 74.14, 10.83),
    # DeepLabV3+, iSAID
    ("deeplabv3plus_r18-d8_4x4_896x896_80k_isaid", "20220110_180526-7059991d", 61.35, 62.61,  6.19),
    ("deeplabv3plus_r50-d8_4x4_896x896_80k_isaid", "20220110_180526-598be439", 67.06, 68.02, 21.45),
    # DeepLabV3+, Mapillary Vistas v1.2
    # Its name has another form. It was trained on crops of 512x1024, padded to 1280x1280.
    ("deeplabv3plus_r50-d8_4xb2-300k_mapillay_v1_65-1280x1280",
     "20230301_110504-655f8e43", 47.35, None, 24.04, "deeplabv3plus_r50-d8_512x1024_300k_mapillary"),
    # MobileNetV2
    ("deeplabv3_m-v2-d8_512x1024_80k_cityscapes",     "20200825_124836-bef03590", 73.84, None, 3.9),
    ("deeplabv3plus_m-v2-d8_512x1024_80k_cityscapes", "20200825_124836-d256dd4b", 75.20, None, 5.1),
    ("deeplabv3_m-v2-d8_512x512_160k_ade20k",         "20200825_223255-63986343", 34.08, None, 6.8),
    ("deeplabv3plus_m-v2-d8_512x512_160k_ade20k",     "20200825_223255-465a01d4", 34.02, None, 8.2),
    # ResNeSt-101
    ("deeplabv3_s101-d8_512x1024_80k_cityscapes",     "20200807_144429-b73c4270", 79.67, 80.51, 11.9),
    ("deeplabv3plus_s101-d8_512x1024_80k_cityscapes", "20200807_144429-1239eb43", 79.62, 80.27, 13.2),
    ("deeplabv3_s101-d8_512x512_160k_ade20k",         "20200807_144503-17ecabe5", 45.71, 46.59, 14.6),
    ("deeplabv3plus_s101-d8_512x512_160k_ade20k",     "20200807_144503-27b26226", 46.47, 47.27, 16.2),
)
# fmt: on

ROWS = {row[0]: Row(*row) for row in _ROWS}
