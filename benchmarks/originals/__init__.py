"""One module for each original: a row's name in; its network with random weights, label maps and scores out.

Each has a class `Original`, which original_agreement.py documents, and a function `scores`.
"""

import numpy as np

# {module: (the source of the rows, the original in words)}
ORIGINALS = {
    "openmmlab": ("OpenMMLab", "mmsegmentation 1.2.2"),
    "authors": ("DeepLab's authors", "the authors' code of October 2018 on TensorFlow 2.21"),
    "torchvision": ("torchvision", "torchvision 0.29.1"),
}


def from_confusion(confusion):
    """Scores from numbers of pixels by label and by prediction, as `scores` of the modules returns them."""
    hits, labels, predictions = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):  # of classes that do not occur
        iou, accuracy = hits / (labels + predictions - hits), hits / labels
    return {
        "mIoU": 100 * float(np.nanmean(iou)),
        "mAcc": 100 * float(np.nanmean(accuracy)),
        "aAcc": 100 * float(hits.sum() / labels.sum()),
        "IoU": [None if np.isnan(value) else float(value) for value in iou],
    }
