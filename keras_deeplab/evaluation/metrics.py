"""Labels and logits in, pixels by (label, prediction) counted, and scores of these counts out.

The pixels of all pictures are counted together, those labelled 255 left out, and a class that occurs neither in a label
nor in a prediction has no score: means are over the others. `per_class` is the one place that says what is divided by what;
`keras_deeplab.evaluate` uses it too.
"""

import keras
import numpy as np
from keras import ops

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.keras_tools import at_least_float32, serializable

BASE = 2**30  # a count is low + BASE * high: JAX has no int64 unless told to
MEANS = {"mIoU": "IoU", "mAcc": "Acc", "mDice": "Dice", "mFscore": "Fscore"}  # score: of which it is the mean


def per_class(counts, beta=1.0, xp=np):
    """Every score of each class, as fractions; NaN where there is nothing to divide by.

    Args:
        counts: (classes, classes) float, pixels by (label, prediction).
        beta: how many times recall weighs as much as precision in the F-score.
        xp: numpy, or `keras.ops` for tensors.

    Returns:
        {"IoU", "Acc" (recall), "Precision", "Dice", "Fscore"}, each (classes,). As in the original, precision needs a
        prediction of the class, recall a label, and the F-score both and a pixel where they agree.
    """
    hits, labelled, predicted = xp.diagonal(counts), xp.sum(counts, axis=1), xp.sum(counts, axis=0)
    precision, recall = _ratio(hits, predicted, xp), _ratio(hits, labelled, xp)
    return {
        "IoU": _ratio(hits, labelled + predicted - hits, xp),
        "Acc": recall,
        "Precision": precision,
        "Dice": _ratio(2 * hits, labelled + predicted, xp),
        "Fscore": _ratio((1 + beta**2) * precision * recall, beta**2 * precision + recall, xp),
    }


def means(counts, beta=1.0, xp=np):
    """{"mIoU", "mAcc", "aAcc", "mDice", "mFscore"} as fractions, from the same as `per_class`; "aAcc" is of all pixels."""
    classes = per_class(counts, beta, xp)
    found = {name: _mean(classes[of], xp) for name, of in MEANS.items()}
    return {**found, "aAcc": _ratio(xp.sum(xp.diagonal(counts)), xp.sum(counts), xp)}


def _ratio(a, b, xp):
    some = b > 0  # False for NaN too
    return xp.where(some, a / xp.where(some, b, 1.0), float("nan"))


def _mean(values, xp):
    some = values == values  # not NaN
    return _ratio(xp.sum(xp.where(some, values, 0.0)), xp.sum(xp.where(some, 1.0, 0.0)), xp)


class Confusion(keras.metrics.Metric):
    """What the metrics share: one pass over labels and logits, counted exactly up to 2**60 pixels.

    Call arguments:
        y_true: labels (N, H, W), integer. Those beyond the classes do not count, as `ignore`.
        y_pred: logits (N, H, W, classes), or labels (N, H, W).
    """

    def __init__(self, num_classes, *, ignore=IGNORE, beta=1.0, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.num_classes, self.ignore, self.beta = num_classes, ignore, beta
        # "int" is int64 on TensorFlow, which has no int32 variables on GPUs, and int32 elsewhere.
        self.words = self.add_weight(
            shape=(2, num_classes, num_classes), initializer="zeros", dtype="int", name="words"
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            raise ValueError(
                f"A pixel counts or does not: give those that do not the label {self.ignore}, not a weight."
            )
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        truth = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        predicted = ops.argmax(y_pred, axis=-1) if len(y_pred.shape) > len(y_true.shape) else y_pred
        predicted = ops.reshape(ops.cast(predicted, "int32"), (-1,))
        counted = ops.logical_and(truth != self.ignore, ops.logical_and(truth >= 0, truth < self.num_classes))
        size = self.num_classes**2  # those that do not count go to a segment of their own
        pairs = ops.where(counted, truth * self.num_classes + predicted, size)
        counts = ops.segment_sum(ops.cast(counted, "int32"), pairs, num_segments=size + 1)[:size]
        counts = ops.cast(ops.reshape(counts, (self.num_classes, self.num_classes)), self.words.dtype)
        low, high = self.words[0] + counts % BASE, self.words[1] + counts // BASE
        self.words.assign(ops.stack([low % BASE, high + low // BASE]))

    def counts(self):
        """Pixels by (label, prediction): (classes, classes) int64, on the host."""
        low, high = ops.convert_to_numpy(self.words.value).astype(np.int64)
        return low + BASE * high

    def per_class(self):
        """`per_class` of the pixels so far: {name: (classes,)}."""
        return per_class(self._counted(), self.beta, ops)

    def means(self):
        """`means` of the pixels so far: {name: scalar}."""
        return means(self._counted(), self.beta, ops)

    def _counted(self):
        low, high = ops.unstack(ops.cast(self.words, at_least_float32(self.dtype)))
        return low + BASE * high

    def get_config(self):
        config = {"num_classes": self.num_classes, "ignore": self.ignore, "beta": self.beta}
        return {**super().get_config(), **config}


@serializable
class SegmentationScores(Confusion):
    """Several scores of one pass; in the logs each has its own name.

    Args:
        num_classes: classes that the logits have.
        scores: which of "mIoU", "mAcc", "aAcc", "mDice", "mFscore".
        ignore: the label of pixels that do not count.
        beta: of the F-score.
    """

    def __init__(self, num_classes, scores=("mIoU", "mAcc", "aAcc"), *, name="scores", **options):
        known = (*MEANS, "aAcc")
        if isinstance(scores, str) or not set(scores) <= set(known):
            raise ValueError(f"scores is a list of {', '.join(known)}. Received: {scores!r}.")
        super().__init__(num_classes, name=name, **options)
        self.scores = tuple(scores)

    def result(self):
        found = self.means()
        return {name: found[name] for name in self.scores}

    def get_config(self):
        return {**super().get_config(), "scores": self.scores}


class _Score(Confusion):
    score = ""  # a key of `means`

    def __init__(self, num_classes, *, name=None, **options):
        super().__init__(num_classes, name=name or self.score, **options)

    def result(self):
        return self.means()[self.score]


@serializable
class MeanIoU(_Score):
    """Intersection over union, averaged over the classes that occur."""

    score = "mIoU"


@serializable
class MeanAccuracy(_Score):
    """The share of a class's labelled pixels that are found, averaged over the labelled classes."""

    score = "mAcc"


@serializable
class PixelAccuracy(_Score):
    """The share of the labelled pixels that are right."""

    score = "aAcc"


@serializable
class MeanDice(_Score):
    """2 * intersection / (labelled + predicted), averaged over the classes that occur."""

    score = "mDice"


@serializable
class MeanFScore(_Score):
    """(1 + beta**2) * precision * recall / (beta**2 * precision + recall), averaged over the classes that have one."""

    score = "mFscore"
