"""Labels and logits in, scores out: the Keras metrics count pixels by (label, prediction), the functions divide the counts.

The pixels of all pictures are counted together, without those labelled 255. A class that occurs neither in a label nor in a
prediction has no score, and means are over the other classes. All scores, also those of `keras_deeplab.evaluate`, are computed
by `per_class` as mmsegmentation's IoUMetric computes them.
"""

import keras
import numpy as np
from keras import ops

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.keras_tools import at_least_float32, label_maps, serializable

BASE = 2**30  # a count is low + BASE * high: two integers, because JAX has no int64 by default
MEANS = {"mIoU": "IoU", "mAcc": "Acc", "mDice": "Dice", "mFscore": "Fscore"}  # mean: the score of each class


def per_class(counts, beta=1.0, xp=np):
    """Computes the scores of each class.

    Args:
        counts: (classes, classes) float, pixels by (label, prediction).
        beta: the weight of recall relative to precision in the F-score.
        xp: the module to compute with: numpy, or `keras.ops` for tensors.

    Returns:
        {"IoU", "Acc" (recall), "Precision", "Dice", "Fscore"}, each (classes,), fractions. A score whose denominator is 0 is
        NaN, as in the original: precision without a predicted pixel, recall without a labelled one, and the F-score where
        precision or recall is NaN or both are 0.
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
    """Computes the means of the scores of `per_class`, from the same arguments.

    Returns:
        {"mIoU", "mAcc", "mDice", "mFscore", "aAcc"}, scalars, fractions. "aAcc" is the share of all pixels that are right.
    """
    of_classes = per_class(counts, beta, xp)
    class_means = {mean: _mean(of_classes[score], xp) for mean, score in MEANS.items()}
    return {**class_means, "aAcc": _ratio(xp.sum(xp.diagonal(counts)), xp.sum(counts), xp)}


def _ratio(a, b, xp):
    """a / b; NaN where b is 0 or NaN."""
    is_positive = b > 0  # False for NaN too
    return xp.where(is_positive, a / xp.where(is_positive, b, 1.0), float("nan"))


def _mean(values, xp):
    """The mean of the values that are not NaN; NaN without any."""
    defined = values == values  # False for NaN
    return _ratio(xp.sum(xp.where(defined, values, 0.0)), xp.sum(xp.where(defined, 1.0, 0.0)), xp)


class Confusion(keras.metrics.Metric):
    """The base class of the metrics: counts pixels by (label, prediction), exactly up to 2**60 of them.

    Args:
        num_classes: the number of classes of the logits.
        ignore: the label of pixels that do not count; 255 unless given.
        beta: the weight of recall relative to precision in the F-score; 1 unless given.
        threshold: the probability above which a model with one output for two classes means class 1; 0.3 unless given.
        name, dtype: as for every Keras metric.

    Call arguments:
        y_true: labels (N, H, W) or (N, H, W, 1), integer. Pixels with a label that is no class do not count, like those
            labelled `ignore`.
        y_pred: logits (N, H, W, classes), the logits (N, H, W, 1) of a model with one output, or labels (N, H, W).
    """

    def __init__(self, num_classes, *, ignore=IGNORE, beta=1.0, threshold=0.3, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.num_classes, self.ignore, self.beta, self.threshold = num_classes, ignore, beta, threshold
        # "int" is int64 on TensorFlow, which has no int32 variables on GPUs, and int32 elsewhere.
        self.words = self.add_weight(
            shape=(2, num_classes, num_classes), initializer="zeros", dtype="int", name="words"
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            raise ValueError(
                "The metrics take no sample_weight: a pixel counts once or not at all. Received: a sample_weight. "
                f"Give pixels that do not count the label {self.ignore}, not a weight."
            )
        y_pred = ops.convert_to_tensor(y_pred)
        truth = ops.reshape(label_maps(y_true, y_pred), (-1,))
        predicted = ops.reshape(ops.cast(self._predicted_labels(y_pred), "int32"), (-1,))
        counted = ops.logical_and(truth != self.ignore, ops.logical_and(truth >= 0, truth < self.num_classes))
        size = self.num_classes**2
        # The index of each pixel in the flattened matrix. Pixels that do not count get one more index, which is cut off.
        cells = ops.where(counted, truth * self.num_classes + predicted, size)
        counts = ops.segment_sum(ops.cast(counted, "int32"), cells, num_segments=size + 1)[:size]
        counts = ops.cast(ops.reshape(counts, (self.num_classes, self.num_classes)), self.words.dtype)
        low, high = self.words[0] + counts % BASE, self.words[1] + counts // BASE
        self.words.assign(ops.stack([low % BASE, high + low // BASE]))

    def _predicted_labels(self, y_pred):
        """Labels (N, H, W) of logits, or of labels."""
        if len(y_pred.shape) == 3:
            return y_pred
        if y_pred.shape[-1] == 1 and self.num_classes == 2:
            return ops.sigmoid(y_pred[..., 0]) > self.threshold
        if y_pred.shape[-1] != self.num_classes:
            raise ValueError(
                f"The logits must have num_classes={self.num_classes} outputs. Received: logits with {y_pred.shape[-1]}."
            )
        return ops.argmax(y_pred, axis=-1)

    def counts(self):
        """The pixels so far by (label, prediction): a numpy array (classes, classes) int64."""
        low, high = ops.convert_to_numpy(self.words.value).astype(np.int64)
        return low + BASE * high

    def per_class(self):
        """The scores of each class from the pixels so far: {name: tensor (classes,)}, see the function `per_class`."""
        return per_class(self._float_counts(), self.beta, ops)

    def means(self):
        """The means from the pixels so far: {name: scalar tensor}, see the function `means`."""
        return means(self._float_counts(), self.beta, ops)

    def _float_counts(self):
        low, high = ops.unstack(ops.cast(self.words, at_least_float32(self.dtype)))
        return low + BASE * high

    def get_config(self):
        config = {
            "num_classes": self.num_classes,
            "ignore": self.ignore,
            "beta": self.beta,
            "threshold": self.threshold,
        }
        return {**super().get_config(), **config}


@serializable
class SegmentationScores(Confusion):
    """Several scores from one count of the pixels. In Keras' logs each score has its own name.

    Args:
        num_classes: the number of classes of the logits.
        scores: a list of any of "mIoU", "mAcc", "aAcc", "mDice", "mFscore"; the first three unless given.
        ignore: the label of pixels that do not count; 255 unless given.
        beta: the weight of recall relative to precision in the F-score; 1 unless given.

    Raises:
        ValueError: for another score.
    """

    def __init__(self, num_classes, scores=("mIoU", "mAcc", "aAcc"), *, name="scores", **options):
        known = (*MEANS, "aAcc")
        if isinstance(scores, str) or not set(scores) <= set(known):
            raise ValueError(f"scores must be a list of any of {', '.join(known)}. Received: {scores!r}.")
        super().__init__(num_classes, name=name, **options)
        self.scores = tuple(scores)

    def result(self):
        values = self.means()
        return {name: values[name] for name in self.scores}

    def get_config(self):
        return {**super().get_config(), "scores": self.scores}


class _Score(Confusion):
    """The base class of the metrics with one score."""

    score = ""  # a key of what `means` returns

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
    """The share of a class's labelled pixels that are predicted as this class, averaged over the classes with a label."""

    score = "mAcc"


@serializable
class PixelAccuracy(_Score):
    """The share of all labelled pixels that are predicted right."""

    score = "aAcc"


@serializable
class MeanDice(_Score):
    """2 * intersection / (labelled + predicted), averaged over the classes that occur."""

    score = "mDice"


@serializable
class MeanFScore(_Score):
    """(1 + beta**2) * precision * recall / (beta**2 * precision + recall), averaged over the classes where it is defined."""

    score = "mFscore"
