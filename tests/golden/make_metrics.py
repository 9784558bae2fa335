"""Writes metrics.npz: 200 pairs of label maps, and what mmsegmentation's IoUMetric says of each.

    python make_metrics.py

Needs what make_networks.py needs. Pair i has `classes[i]` classes; `truth` and `predicted` hold all pixels one after the
other, `sizes[i]` of each pair, and "IoU", "Acc", "Dice", "Fscore", "Fscore2" (beta 2) and "Precision" all classes
likewise. Of ten pairs of a class count one is wholly ignored, and three have one class in the label, in the prediction, in
both.
"""

import numpy as np
import torch
from make_networks import HERE
from mmseg.evaluation.metrics import IoUMetric

PAIRS, CLASSES = 200, (1, 2, 5, 19)


def draw(i):
    """Label map and prediction of pair i, uint8, and the number of classes."""
    generator = np.random.default_rng([5, i])
    classes = CLASSES[i % len(CLASSES)]
    shape = tuple(generator.integers(1, 16, 2))
    present = generator.choice(classes, generator.integers(1, classes + 1), replace=False)  # the others are absent
    truth = generator.choice(present, shape)
    predicted = np.where(generator.random(shape) < 0.6, truth, generator.integers(0, classes, shape))
    truth = np.where(generator.random(shape) < generator.choice([0.0, 0.2, 0.9]), 255, truth)
    kind = i // 4 % 10
    if kind == 0:
        truth[:] = 255
    if kind in (1, 2):
        truth[:] = present[0]
    if kind in (2, 3):
        predicted[:] = present[-1]
    return truth.astype(np.uint8), predicted.astype(np.uint8), classes


def main():
    kept = {}
    for i in range(PAIRS):
        truth, predicted, classes = draw(i)
        maps = (torch.from_numpy(array.astype(np.int64)) for array in (predicted, truth))
        areas = IoUMetric.intersect_and_union(*maps, classes, 255)
        found = IoUMetric.total_area_to_metrics(*areas, ["mIoU", "mDice", "mFscore"])
        found["Fscore2"] = IoUMetric.total_area_to_metrics(*areas, ["mFscore"], beta=2)["Fscore"]
        del found["Recall"]  # the same as Acc
        found = {name: np.atleast_1d(value).astype(np.float32) for name, value in found.items()}
        values = {"classes": [classes], "sizes": [truth.size], "truth": truth.ravel(), "predicted": predicted.ravel()}
        for name, value in {**values, **found}.items():
            kept.setdefault(name, []).append(value)
    np.savez_compressed(HERE / "metrics.npz", **{name: np.concatenate(values) for name, values in kept.items()})


if __name__ == "__main__":
    main()
