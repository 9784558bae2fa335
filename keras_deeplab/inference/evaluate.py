"""A model and labelled pictures in, mIoU out, measured as the published figures were."""

import keras
import numpy as np
from PIL import Image

from keras_deeplab.data.pairs import find_pairs
from keras_deeplab.inference.segment import segment

IGNORE = 255


def evaluate(model, images, labels, *, multi_scale_flip=False, resize=None, reduce_zero_label=False, progress=True):
    """Scores a model on a folder by its own test protocol.

    Each picture is segmented as `segment` does it, at the size of its file. Pixels labelled 255 do not count. The pixels of
    all pictures are counted together, and a class's intersection over union is of these counts; classes that occur neither
    in a label nor in a prediction are left out of the mean.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        images, labels: folders (files of the same stem belong together), or two lists of files. Labels are PNG, grey or
            palette, whose values are the classes and 255.
        multi_scale_flip, resize: as for `segment`.
        reduce_zero_label: whether label 0 is ignored and every other one counts from 1.
        progress: whether to show a bar.

    Returns:
        {"images": their number, "mIoU", "mAcc", "aAcc": in percent, "IoU": a list of fractions in class order, None where
        undefined}.

    Raises:
        ValueError: for a label map of another size than its picture, or with values that are no class.
    """
    pairs = find_pairs(images, labels)
    images, labels = pairs.images, pairs.labels
    counts = np.zeros((model.num_classes, model.num_classes), np.int64)
    bar = keras.utils.Progbar(len(images), unit_name="picture", verbose=int(progress))
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        truth = read_label(label, model.num_classes, reduce_zero_label)
        predicted = segment(model, image, multi_scale_flip=multi_scale_flip, resize=resize)
        if truth.shape != predicted.shape:
            raise ValueError(
                f"A label map has its picture's size. {label} is {truth.shape[1]}x{truth.shape[0]}, "
                f"{image} {predicted.shape[1]}x{predicted.shape[0]}."
            )
        counts += confusion(truth, predicted, model.num_classes)
        bar.update(i + 1, values=[("mIoU", scores(counts)["mIoU"])], finalize=i + 1 == len(images))
    return {"images": len(images), **scores(counts)}


def read_label(path, num_classes, reduce_zero_label):
    """A label map (H, W) uint8 of class ids and 255."""
    with Image.open(path) as image:
        if image.mode not in ("L", "P", "1"):
            raise ValueError(f"A label map is an 8-bit PNG, grey or palette. {path} has mode {image.mode}.")
        label = np.array(image, np.uint8)
    if reduce_zero_label:
        label = label - np.uint8(1)  # 0 becomes 255
        label[label == 254] = IGNORE  # and 255 stays
    others = np.setdiff1d(label, [*range(num_classes), IGNORE])
    if others.size:
        raise ValueError(
            f"Labels are 0..{num_classes - 1}, and 255 for pixels that do not count. {path} has "
            f"{', '.join(map(str, others[:5]))}. If its labels count from 1 with 0 for 'no class', use reduce_zero_label."
        )
    return label


def confusion(truth, predicted, num_classes):
    """Pixels by (label, prediction), int64, without those labelled 255."""
    counted = truth != IGNORE
    pairs = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(counts):
    """mIoU, mAcc and aAcc in percent and the IoU of each class, from pixels by (label, prediction)."""
    hits, labelled = np.diag(counts).astype(float), counts.sum(1).astype(float)
    union = labelled + counts.sum(0) - hits
    iou, accuracy = (np.divide(hits, n, out=np.full_like(hits, np.nan), where=n > 0) for n in (union, labelled))

    def mean(values):
        return float(100 * np.nanmean(values)) if not np.isnan(values).all() else float("nan")

    total = labelled.sum()
    return {
        "mIoU": mean(iou),
        "mAcc": mean(accuracy),
        "aAcc": float(100 * hits.sum() / total) if total else float("nan"),
        "IoU": [None if np.isnan(value) else float(value) for value in iou],
    }
