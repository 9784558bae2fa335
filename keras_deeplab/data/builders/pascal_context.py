"""Pascal Context (Mottaghi et al. 2014): VOC 2010's pictures to 59 classes, or 60 with the background.

The masks are those of "Pascal in Detail": one JSON file with a run-length mask for each segment. Later segments cover
earlier ones. A pixel without a segment is 0: background among the 60 classes, ignored with the 59.
"""

import json

import numpy as np

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.data.builders import labels
from keras_deeplab.data.builders.base import Builder, Picture

ANNOTATIONS = "trainval_merged.json"


class PascalContext(Builder, skip_registration=True):
    name = "pascal_context"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    VOCtrainval_03-May-2010.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2010/, as it is or unpacked, and
    trainval_merged.json from https://codalabuser.blob.core.windows.net/public/trainval_merged.json.
    """
    image = "VOC2010/JPEGImages/{name}.jpg"

    def pictures(self, files):
        source = files.one(ANNOTATIONS)
        data = source.read()
        try:
            masks = segmentations(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{source} does not hold the annotations of Pascal in Detail: {error!r}.") from error
        images, pictures = files.find(self.image), {"train": [], "val": []}
        for name, phase, label in masks:
            if phase in pictures and name in images:
                pictures[phase].append(Picture(name, "all", images[name], label))
        return pictures

    @classmethod
    def label_map(cls, picture):
        shape, segments = picture.label
        source = f"{ANNOTATIONS}: {picture.name}"
        values = np.zeros(shape, np.uint16)
        for category, size, counts in segments:
            if size != shape:
                raise ValueError(
                    f"{source} has a mask of {size} pixels (height, width), but the picture is {shape}. Both must have the "
                    "same size."
                )
            try:
                values[run_length_mask(counts, size)] = category
            except ValueError as error:
                raise ValueError(f"{source} is damaged: {error} Download the file again.") from error
        return labels.train_ids(values, DATASETS[cls.name].label_ids, source)


class PascalContext59(PascalContext, skip_registration=True):
    name = "pascal_context_59"


def segmentations(annotations):
    """The masks of the pictures in the annotations of Pascal in Detail.

    Args:
        annotations: the contents of the JSON file.

    Returns:
        `[(name, phase, ((height, width), ((category, (height, width), run lengths), ...)))]`, one for each picture.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: if the contents are others.
    """
    segments = {image["image_id"]: [] for image in annotations["images"]}
    for segment in annotations["annos_segmentation"]:
        mask, category = segment["segmentation"], segment["category_id"]
        if category not in range(2**16) or not isinstance(mask["counts"], str):
            raise ValueError(f"a segment of picture {segment['image_id']} has no category or no run lengths")
        segments[segment["image_id"]].append((int(category), tuple(mask["size"]), mask["counts"]))
    return [
        (
            image["file_name"].rpartition(".")[0],
            image["phase"],
            ((image["height"], image["width"]), tuple(segments[image["image_id"]])),
        )
        for image in annotations["images"]
    ]


def run_length_mask(counts, size):
    """The mask of COCO's compressed run-length code (pycocotools).

    Args:
        counts: str or bytes. The lengths of runs of 0 and 1 in turn, down the columns, in characters of six bits: five bits
            of a number, lowest first, and one that says whether the number continues. From the fourth run on the
            number is the difference to the run two places before.
        size: (height, width).

    Returns:
        (height, width) bool.

    Raises:
        ValueError: if the runs do not cover the mask exactly.
    """
    runs, value, shift = [], 0, 0
    for character in counts.encode() if isinstance(counts, str) else counts:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last character of a number; its bit of value 16 is the sign
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if sum(runs) != size[0] * size[1] or min(runs, default=0) < 0:
        raise ValueError(
            f"The runs of a run-length mask must cover its {size[0]}x{size[1]} pixels. Received: runs of {sum(runs)} pixels."
        )
    ones = np.arange(len(runs)) % 2 == 1
    return np.repeat(ones, runs).reshape(size, order="F")
