"""Logits and labels in, a loss out: the cross-entropy that the released models were trained with.

Ignored pixels have the loss 0, but the mean is over all pixels, as in the original. A picture of which half the pixels are
labelled therefore weighs half as much as a fully labelled one.
"""

import keras
from keras import ops

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.keras_tools import serializable

EPSILON = 2.0**-23  # of float32
AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's loss (Zhao et al. 2017)


@serializable
class PixelCrossEntropy(keras.losses.Loss):
    """Softmax cross-entropy of each pixel, averaged over all pixels of the batch, including ignored ones.

    Args:
        min_kept: online hard example mining (Shrivastava et al. 2016) as the rows of output stride 16 use it: of the N
            pictures on a device only the N * min_kept labelled pixels with the highest loss count. The sum is still divided
            by the number of all pixels. None (the default): all labelled pixels count.
        class_weight: a factor for each class, or None (the default).
        ignore: the label of ignored pixels; default 255.

    Call arguments:
        y_true: labels (N, H, W), integer.
        y_pred: logits (N, H, W, classes).
    """

    def __init__(self, min_kept=None, class_weight=None, ignore=IGNORE, name="pixel_cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.min_kept, self.ignore = min_kept, ignore
        self.class_weight = tuple(class_weight) if class_weight is not None else None

    def call(self, y_true, y_pred):
        labels = ops.cast(y_true, "int32")
        labelled = ops.not_equal(labels, self.ignore)
        labels = ops.where(labelled, labels, 0)
        losses = ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)  # (N, H, W)
        weights = ops.cast(labelled, losses.dtype)
        if self.min_kept is not None:
            weights = weights * ops.cast(self._hardest(losses, labelled), losses.dtype)
        if self.class_weight is not None:
            weights = weights * ops.take(ops.convert_to_tensor(self.class_weight, losses.dtype), labels)
        # The original divides by the number of pixels plus float32's epsilon. In float64 the epsilon changes the result.
        count = ops.cast(ops.prod(ops.shape(losses)), losses.dtype)
        return losses * weights * (count / (count + EPSILON))

    def _hardest(self, losses, labelled):
        """A mask (N, H, W), bool: the N * min_kept pixels of the highest loss; of pixels with equal loss, the first."""
        n, height, width = ops.shape(losses)
        count = ops.minimum(n * self.min_kept, n * height * width)
        losses = ops.reshape(ops.where(labelled, ops.stop_gradient(losses), -1.0), (-1,))  # ignored pixels come last
        threshold = ops.sort(losses)[n * height * width - count]
        above, equal = losses > threshold, ops.cast(losses == threshold, "int32")
        equal_kept = ops.cast(count, "int32") - ops.sum(ops.cast(above, "int32"))
        kept = ops.logical_or(above, ops.logical_and(equal > 0, ops.cumsum(equal) <= equal_kept))
        return ops.reshape(kept, (n, height, width))

    def get_config(self):
        config = {"min_kept": self.min_kept, "class_weight": self.class_weight, "ignore": self.ignore}
        return {**super().get_config(), **config}
