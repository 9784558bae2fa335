"""Pascal VOC 2012 (Everingham et al. 2010) to 21 classes, with the training masks that SBD adds (Hariharan et al. 2011)."""

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.data.builders import labels, matlab
from keras_deeplab.data.builders.base import Builder

LISTS = "VOC2012/ImageSets/Segmentation"


class Voc12aug(Builder, skip_registration=True):
    name = "voc12aug"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and
    benchmark.tgz from http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/, as they are
    or unpacked.
    """
    image = "VOC2012/JPEGImages/{name}.jpg"
    label = "VOC2012/SegmentationClass/{name}.png"
    sbd_label = "dataset/cls/{name}.mat"

    def pictures(self, files):
        train, val = files.lines(f"{LISTS}/train.txt"), files.lines(f"{LISTS}/val.txt")
        in_sbd = {*files.lines("dataset/train.txt"), *files.lines("dataset/val.txt")}
        # A picture that has a mask in VOC keeps that mask, and SBD must not add pictures of val to train.
        added = sorted(in_sbd - {*train, *val})
        return {
            "train": [
                *self.paired(files, "VOC 2012", train),
                *self.paired(files, "SBD", added, label=self.sbd_label),
            ],
            "val": self.paired(files, "all", val),
        }

    @classmethod
    def label_map(cls, picture):
        if picture.part != "SBD":
            return super().label_map(picture)
        values = matlab.array(picture.label, "GTcls", "Segmentation")
        return labels.train_ids(values, DATASETS[cls.name].label_ids, picture.label)
