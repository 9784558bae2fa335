"""torchvision 0.29.1. It needs the packages of tests/golden/make_torchvision.py.

A label map has its picture's own size: the scores are resized as the network resizes them. The scores of label maps are those
of the reference training script, whose file is not in the package.
"""

import make_torchvision as original
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from originals import from_confusion

SHORT_SIDE = 520  # of the presets
# What the narrow networks do not have: the script that draws them builds other heads.
FULL_ONLY = "torchvision's networks are compared at full size: leave --narrow out."


class Original:
    weights, ignore, num_classes = "row.pth", 255, original.CLASSES

    def __init__(self, name, folder, full, first):
        if not full:
            raise SystemExit(FULL_ONLY)
        self.model = original.drawn(original.full(name))
        self.spread(first)
        torch.save(self.model.state_dict(), folder / self.weights)

    def spread(self, path):
        """Gives every class mean 0 and deviation 1 over a picture: all of them win somewhere."""
        deviation, mean = torch.std_mean(self.scores(path), dim=(1, 2))
        classifier = self.model.classifier[4]
        with torch.no_grad():
            classifier.bias.copy_((classifier.bias - mean) / deviation)
            classifier.weight.div_(deviation[:, None, None, None])

    def scores(self, path):
        return original.scores(self.model, Image.open(path), SHORT_SIDE)[1][0]

    def logits(self, height, width):
        with torch.no_grad():
            return original.last(self.model(original.normalised(original.images(height, width)))["out"])

    def labels(self, path):
        size = Image.open(path).size[::-1]
        return F.interpolate(self.scores(path)[None], size, mode="bilinear", align_corners=False)[0].argmax(0).numpy()


def scores(found, truth, num_classes, ignore):
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for predicted, label in zip(found, truth, strict=True):
        counted = label != ignore
        np.add.at(confusion, (label[counted], predicted[counted]), 1)
    return from_confusion(confusion)
