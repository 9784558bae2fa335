"""The models that DeepLab's authors released in TensorFlow, as a table of 12 rows: a row's name in, every fact out.

Source: the model zoo page of tensorflow/models, research/deeplab (g3doc/model_zoo.md), and the code beside it. The table holds
the facts that do not follow from a row's name; `Row` derives the others.

Two facts differ from the other sources'. A published mIoU may be measured on the test pictures, of which nobody else has the
labels. And it is measured at two output strides: 16 at one scale, 8 at several scales with flips. `Row.output_stride` is that
of one scale; `from_preset(..., output_stride=8)` gives the other network.
"""

from dataclasses import dataclass

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.catalog.protocol import FACTORS, Protocol
from keras_deeplab.catalog.released import Released

SOURCE = "DeepLab's authors"
SERVER = "http://download.tensorflow.org/models/"
NO_CLASS = "no class"  # the name of output 0 of the ADE20K rows, whose label means that a pixel has no class

DATASET_KEYS = {"voc": "voc12aug", "cityscapes": "cityscapes", "ade20k": "ade20k"}  # {part of a row's name: data set}
CROPS = {"voc12aug": (513, 513), "cityscapes": (1025, 2049), "ade20k": (513, 513)}  # of tests: height, width in pixels
TRAINING_CROPS = {**CROPS, "cityscapes": (769, 769)}
LONGEST_SIDES = {"mobilenetv2": 257, "xception65": 513}  # of ADE20K's pictures, which alone are resized

# {beginning of a row's name: (what `keras_deeplab.networks` calls the backbone, other arguments of the class)}
NETWORKS = {
    "mobilenetv2_dm05": ("mobilenetv2_tf", {"base_channels": 16}),
    "mobilenetv2": ("mobilenetv2_tf", {"base_channels": 32}),
    "xception65": ("xception65", {"dense_prediction_cell": False}),
    "xception71_dpc": ("xception71", {"dense_prediction_cell": True}),
}
# {(beginning of the name, class): (parameters, numbers in the file)}, both without the 257 weights of each class.
SIZES = {
    ("mobilenetv2_dm05", "DeepLabV3"): (691_616, 708_928),
    ("mobilenetv2", "DeepLabV3"): (2_108_160, 2_141_248),
    ("mobilenetv2", "DeepLabV3Plus"): (2_265_712, 2_301_040),
    ("xception65", "DeepLabV3Plus"): (41_050_016, 41_252_816),
    ("xception71_dpc", "DeepLabV3Plus"): (41_603_640, 41_814_072),
}
WEIGHTS_PER_CLASS = 257

# Weights of a backbone, from which training can start: {name: URL}. The last is from slim's page of MobileNetV2.
IMAGENET = {
    "xception_41_imagenet": f"{SERVER}xception_41_2018_05_09.tar.gz",
    "xception_65_imagenet": f"{SERVER}deeplabv3_xception_2018_01_04.tar.gz",
    "xception_65_imagenet_coco": f"{SERVER}xception_65_coco_pretrained_2018_10_02.tar.gz",
    "xception_71_imagenet": f"{SERVER}xception_71_2018_05_09.tar.gz",
    "mobilenet_v2_1.0_224": "https://storage.googleapis.com/mobilenet_v2/checkpoints/mobilenet_v2_1.0_224.tgz",
}


@dataclass(frozen=True)
class Row(Released):
    """A released model.

    Attributes:
        name: its released name.
        archive: the released file's name without .tar.gz.
        mIoU: published mIoU in percent on the validation pictures at one scale; `None` if not published.
        mIoU_ms_flip: published mIoU in percent on the validation pictures, at output stride 8 over several scales and with
            flips; `None` if not published.
        mIoU_test: published mIoU in percent on the test pictures, as the data set's server measured it, at output stride 8;
            `None` if not published.
        archive_megabytes: size of the released file in MB (10^6 bytes), which holds the weights twice or more.
        factors: the scales of multi-scale testing.
        output_stride: of the figure at one scale, or 16.
    """

    name: str
    archive: str
    mIoU: float | None
    mIoU_ms_flip: float | None
    mIoU_test: float | None
    archive_megabytes: float
    factors: tuple[float, ...] = FACTORS
    output_stride: int = 16

    source = SOURCE
    publisher = "tensorflow/models"
    recipe = "authors"
    train_memory_gb = None
    multi_grid = None
    align_corners = True
    fp16 = False
    iterations = None  # the page does not say for how many steps the models were trained

    # What the model is.

    @property
    def backbone(self):
        """`"mobilenetv2"`, `"mobilenetv2_dm05"` (half the width), `"xception65"` or `"xception71"`."""
        return self.network.removesuffix("_dpc")

    @property
    def network(self):
        """Key of `NETWORKS`."""
        return next(network for network in NETWORKS if self.name.startswith(f"{network}_"))

    @property
    def class_name(self):
        """`"DeepLabV3"` without a decoder, `"DeepLabV3Plus"` with one. ADE20K's MobileNetV2 alone of its kind has one."""
        has_decoder = not self.network.startswith("mobilenetv2") or self.dataset == "ade20k"
        return "DeepLabV3Plus" if has_decoder else "DeepLabV3"

    @property
    def family(self):
        """`"deeplabv3"` or `"deeplabv3plus"`."""
        return self.class_name.lower()

    @property
    def architecture(self):
        """Keyword arguments of the model's class, as a new dict. It derives widths and rates from backbone and stride."""
        backbone, options = NETWORKS[self.network]
        return {
            "num_classes": self.num_classes,
            "backbone": backbone,
            "output_stride": self.output_stride,
            "multi_grid": None,
            "align_corners": True,
            **options,
        }

    # How it was trained.

    @property
    def dataset(self):
        """Key of `keras_deeplab.catalog.datasets.DATASETS`."""
        return next(key for part, key in DATASET_KEYS.items() if part in self.name.split("_"))

    @property
    def has_no_class(self):
        """Whether output 0 stands for "no class", so that classes are numbered from 1, as in ADE20K's label files."""
        return self.dataset == "ade20k"

    @property
    def num_classes(self):
        return len(self.classes)

    @property
    def classes(self):
        first = (NO_CLASS,) if self.has_no_class else ()
        return first + DATASETS[self.dataset].classes

    @property
    def palette(self):
        first = ((0, 0, 0),) if self.has_no_class else ()
        return first + DATASETS[self.dataset].palette

    @property
    def crop(self):
        """Training crop in the authors' instructions: height, width in pixels."""
        return TRAINING_CROPS[self.dataset]

    @property
    def imagenet(self):
        """Key of `IMAGENET`: the weights of the backbone that training can start from; None for half the width."""
        depth = self.network.removeprefix("xception")[:2]
        return {"mobilenetv2": "mobilenet_v2_1.0_224", "mobilenetv2_dm05": None}.get(
            self.network, f"xception_{depth}_imagenet"
        )

    # How it is tested, and where its file is.

    @property
    def protocol(self):
        """The test protocol of the published numbers."""
        if self.dataset != "ade20k":
            return Protocol("whole", pad=CROPS[self.dataset], factors=self.factors)
        side = LONGEST_SIDES[self.backbone]
        return Protocol("whole", resize=(side, side), step=self.output_stride, pad=(side, side), factors=self.factors)

    @property
    def file(self):
        return f"{self.archive}.tar.gz"

    @property
    def url(self):
        return f"{SERVER}{self.file}"

    @property
    def parameters(self):
        """The number of trainable parameters."""
        return SIZES[self.network, self.class_name][0] + WEIGHTS_PER_CLASS * self.num_classes

    @property
    def megabytes(self):
        """Size of the released file in MB (10^6 bytes). The weights take 4e-6 * the numbers in `SIZES`."""
        return self.archive_megabytes


NARROW_RANGE, WIDE_RANGE = (0.75, 1.0, 1.25), (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)

# Columns: name, file, mIoU, with ms+flip, on the test pictures, MB[, scales][, output stride].
# fmt: off
_ROWS = (
    # Pascal VOC 2012
    ("mobilenetv2_dm05_coco_voc_trainaug", "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01", 70.19,  None,  None,   7.6),
    ("mobilenetv2_dm05_coco_voc_trainval", "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01",  None,  None, 71.83,   7.6,
     FACTORS, 8),
    ("mobilenetv2_coco_voc_trainaug",      "deeplabv3_mnv2_pascal_train_aug_2018_01_29",     75.32, 77.33,  None,  23.0),
    ("mobilenetv2_coco_voc_trainval",      "deeplabv3_mnv2_pascal_trainval_2018_01_29",       None,  None, 80.25,  23.0),
    ("xception65_coco_voc_trainaug",       "deeplabv3_pascal_train_aug_2018_01_04",          82.20, 83.58,  None, 439.0),
    ("xception65_coco_voc_trainval",       "deeplabv3_pascal_trainval_2018_01_04",            None,  None, 87.80, 439.0),
    # Cityscapes
    ("mobilenetv2_coco_cityscapes_trainfine", "deeplabv3_mnv2_cityscapes_train_2018_02_05",  70.71, 73.57,  None,  23.0,
     NARROW_RANGE),
    ("xception65_cityscapes_trainfine",       "deeplabv3_cityscapes_train_2018_02_06",       78.79, 80.42,  None, 439.0,
     NARROW_RANGE),
    ("xception71_dpc_cityscapes_trainfine", "deeplab_cityscapes_xception71_trainfine_2018_09_08",
     80.31, None, None, 445.0, WIDE_RANGE),
    ("xception71_dpc_cityscapes_trainval",  "deeplab_cityscapes_xception71_trainvalfine_2018_09_08",
     None, None, 82.66, 446.0, WIDE_RANGE),
    # ADE20K
    ("mobilenetv2_ade20k_train", "deeplabv3_mnv2_ade20k_train_2018_12_03",                   32.04,  None,  None,  24.8),
    ("xception65_ade20k_train",  "deeplabv3_xception_ade20k_train_2018_05_29",                None, 45.65,  None, 439.0),
)
# fmt: on

ROWS = {row[0]: Row(*row) for row in _ROWS}
