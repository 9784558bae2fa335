"""Logits and labels in, a loss out: the losses that the original trains with, one by one or combined.

`PixelCrossEntropy` is that of the released models. Ignored pixels have the loss 0, but the mean is over all pixels, as in the
original. A picture of which half the pixels are labelled therefore weighs half as much as a fully labelled one.

Every loss takes labels (N, H, W) or (N, H, W, 1), integer, and logits (N, H, W, outputs). A model with one output for two
classes (`out_channels=1`) takes the sigmoid losses; its output is the logit of class 1.
"""

import numbers

import keras
from keras import ops

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.keras_tools import at_least_float32, label_maps, serializable

EPSILON = 2.0**-23  # of float32


class _PixelLoss(keras.losses.Loss):
    """What the losses share: labels without a channel axis, checked; which pixels are labelled.

    Args:
        ignore: the label of ignored pixels; default 255.
    """

    def __init__(self, *, ignore=IGNORE, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.ignore = ignore

    def call(self, y_true, y_pred):
        y_pred = ops.convert_to_tensor(y_pred)
        y_pred = ops.cast(y_pred, at_least_float32(y_pred.dtype))
        labels = label_maps(y_true, y_pred)
        labelled = ops.not_equal(labels, self.ignore)
        classes = max(y_pred.shape[-1], 2)
        valid = ops.logical_or(ops.logical_not(labelled), ops.logical_and(labels >= 0, labels < classes))
        labels = ops.where(ops.logical_and(labelled, valid), labels, 0)
        return _refuse_invalid(self.losses(labels, labelled, y_pred), valid, classes, self.ignore)

    def losses(self, labels, labelled, logits):
        """A tensor of losses whose mean is the loss; its first axis is N.

        Args:
            labels: (N, H, W) int32, 0 where they are ignored.
            labelled: (N, H, W) bool.
            logits: (N, H, W, outputs), float32 or float64.
        """
        raise ValueError(f"{type(self).__name__} must define `losses`.")

    def get_config(self):
        return {**super().get_config(), "ignore": self.ignore}


def _refuse_invalid(losses, valid, classes, ignore):
    """`losses`; an error on TensorFlow, and NaN elsewhere, if a label is no class: the wrong loss must not go unnoticed."""
    if keras.backend.backend() != "tensorflow":
        return ops.where(ops.all(valid), losses, float("nan"))
    import tensorflow as tf

    rule = f"Labels must be 0..{classes - 1}, or {ignore} for ignored pixels. Received: other labels. Check the label maps."
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(valid), [rule])]):
        return tf.identity(losses)


def _require_softmax(loss, logits):
    if logits.shape[-1] == 1:
        raise ValueError(
            f"{type(loss).__name__} needs at least two outputs: a softmax over one is always 1, and the loss always 0. "
            "Received: logits with 1 output. Build the model with num_classes=2, or with num_classes=2 and out_channels=1 "
            "and train it with SigmoidCrossEntropy."
        )


def _class_weights(loss, logits):
    """The factors of the outputs, (outputs,)."""
    if len(loss.class_weight) != logits.shape[-1]:
        raise ValueError(
            f"`class_weight` must have one factor for each output, {logits.shape[-1]} in all. Received: {loss.class_weight}."
        )
    return ops.convert_to_tensor(loss.class_weight, logits.dtype)


def _targets(labels, labelled, logits):
    """(N, H, W, outputs): 1 at each pixel's class, 0 elsewhere and at ignored pixels. One output stands for class 1."""
    if logits.shape[-1] == 1:
        positive = ops.cast(labels[..., None], logits.dtype)
    else:
        positive = ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return positive * ops.cast(labelled[..., None], logits.dtype)


def _scaled_to_labelled(losses, labelled, epsilon=EPSILON):
    """`losses`, which are 0 at ignored pixels, scaled so that their mean over all values is one over labelled pixels."""
    count = ops.cast(ops.prod(ops.shape(labelled)), losses.dtype)
    return losses * ops.divide_no_nan(count, ops.sum(ops.cast(labelled, losses.dtype)) + epsilon)


@serializable
class PixelCrossEntropy(_PixelLoss):
    """Softmax cross-entropy of each pixel, averaged over all pixels of the batch, including ignored ones.

    Args:
        min_kept: online hard example mining (Shrivastava et al. 2016) as the rows of output stride 16 use it: of the N
            pictures on a device only the N * min_kept labelled pixels with the highest loss count. The sum is still divided
            by the number of all pixels. None (the default): all labelled pixels count.
        class_weight: a factor for each class, or None (the default).
        thresh: mine by the probability of the right class instead: pixels count whose probability is below `thresh`, and at
            least about N * min_kept pixels (the original's `thresh`). None (the default): mine by the loss.
        avg_non_ignore: average over the labelled pixels of the batch on a device (the original's `avg_non_ignore`). Default
            False.
        epsilon: added to the number of pixels that the sum is divided by. Default float32's, as in the original; PyTorch's
            and TensorFlow's own cross-entropies add none.
        ignore: the label of ignored pixels; default 255.

    Call arguments:
        y_true: labels (N, H, W) or (N, H, W, 1), integer.
        y_pred: logits (N, H, W, classes).

    Raises:
        ValueError: for an epsilon that is not 0 or more, logits of one class, or labels of another size.
    """

    def __init__(
        self,
        min_kept=None,
        class_weight=None,
        ignore=IGNORE,
        name="pixel_cross_entropy",
        *,
        thresh=None,
        avg_non_ignore=False,
        epsilon=EPSILON,
        **kwargs,
    ):
        super().__init__(ignore=ignore, name=name, **kwargs)
        if thresh is not None and min_kept is None:
            raise ValueError(f"`thresh` needs `min_kept`, the pixels per picture to keep. Received: thresh={thresh}.")
        if not (isinstance(epsilon, numbers.Real) and epsilon >= 0):
            raise ValueError(f"`epsilon` must be a number of 0 or more. Received: {epsilon!r}. 0 adds none.")
        self.min_kept, self.thresh, self.avg_non_ignore = min_kept, thresh, avg_non_ignore
        self.epsilon = float(epsilon)
        self.class_weight = tuple(class_weight) if class_weight is not None else None

    def losses(self, labels, labelled, logits):
        _require_softmax(self, logits)
        losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)  # (N, H, W)
        weights = ops.cast(labelled, losses.dtype)
        if self.min_kept is not None:
            hardest = self._hardest if self.thresh is None else self._uncertain
            weights = weights * ops.cast(hardest(losses, labelled), losses.dtype)
        if self.class_weight is not None:
            weights = weights * ops.take(_class_weights(self, logits), labels)
        if self.avg_non_ignore:
            return _scaled_to_labelled(losses * weights, labelled, self.epsilon)
        count = ops.cast(ops.prod(ops.shape(losses)), losses.dtype)
        return losses * weights * (count / (count + self.epsilon))  # in float64 the epsilon changes the result

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

    def _uncertain(self, losses, labelled):
        """A mask (N, H, W), bool: the pixels whose right class has a probability below the threshold."""
        n, height, width = ops.shape(losses)
        probabilities = ops.exp(-ops.stop_gradient(losses))
        ordered = ops.sort(ops.reshape(ops.where(labelled, probabilities, 2.0), (-1,)))  # ignored pixels come last
        last = ops.maximum(ops.sum(ops.cast(labelled, "int32")) - 1, 0)
        at_least = ordered[ops.minimum(ops.cast(n * self.min_kept, "int32"), last)]
        return probabilities < ops.maximum(at_least, self.thresh)

    def get_config(self):
        config = {"min_kept": self.min_kept, "class_weight": self.class_weight}
        config |= {"thresh": self.thresh, "avg_non_ignore": self.avg_non_ignore, "epsilon": self.epsilon}
        return {**super().get_config(), **config}


@serializable
class SigmoidCrossEntropy(_PixelLoss):
    """Binary cross-entropy of each output, averaged over all pixels and outputs, including ignored pixels.

    For a model with one output (`out_channels=1`) it is the loss of class 1 against class 0. With several outputs each is a
    classifier of its own class against all others.

    Args:
        class_weight: a factor for the positive part of each output's loss (PyTorch's `pos_weight`), or None (the default).
        avg_non_ignore: average over labelled pixels only. Default False.
        ignore: the label of ignored pixels; default 255.

    Call arguments:
        y_true: labels (N, H, W) or (N, H, W, 1), integer.
        y_pred: logits (N, H, W, outputs).
    """

    def __init__(
        self, class_weight=None, *, avg_non_ignore=False, ignore=IGNORE, name="sigmoid_cross_entropy", **kwargs
    ):
        super().__init__(ignore=ignore, name=name, **kwargs)
        self.class_weight = tuple(class_weight) if class_weight is not None else None
        self.avg_non_ignore = avg_non_ignore

    def losses(self, labels, labelled, logits):
        targets = _targets(labels, labelled, logits)
        weight = 1.0 if self.class_weight is None else _class_weights(self, logits)
        losses = targets * ops.softplus(-logits) * weight + (1.0 - targets) * ops.softplus(logits)
        losses = losses * ops.cast(labelled[..., None], losses.dtype)
        if not self.avg_non_ignore:
            return losses
        # The original counts the labelled values of all outputs. A pixel has them all or none.
        return _scaled_to_labelled(losses, ops.broadcast_to(labelled[..., None], ops.shape(losses)))

    def get_config(self):
        config = {"class_weight": self.class_weight, "avg_non_ignore": self.avg_non_ignore}
        return {**super().get_config(), **config}


@serializable
class DiceLoss(_PixelLoss):
    """1 - Dice of each picture (Milletari et al. 2016): twice the overlap over the sum of both areas, over all outputs.

    Ignored pixels belong to no class; what the model predicts there counts in its area, as in the original. For one output
    the target is class 1. (The original's target is class 0 there, which trains the output upside down.)

    Args:
        use_sigmoid: probabilities by sigmoid (the original's default, and this one's); False takes softmax.
        naive: areas are sums of probabilities instead of sums of their squares (the original's `naive_dice`). Default False.
        eps: added to keep the ratio finite; default 1e-3.
        ignore: the label of ignored pixels; default 255.

    Call arguments:
        y_true: labels (N, H, W) or (N, H, W, 1), integer.
        y_pred: logits (N, H, W, outputs).
    """

    def __init__(self, *, use_sigmoid=True, naive=False, eps=1e-3, ignore=IGNORE, name="dice", **kwargs):
        super().__init__(ignore=ignore, name=name, **kwargs)
        self.use_sigmoid, self.naive, self.eps = use_sigmoid, naive, eps

    def losses(self, labels, labelled, logits):
        targets = _targets(labels, labelled, logits)
        if not self.use_sigmoid:
            _require_softmax(self, logits)
        probabilities = ops.sigmoid(logits) if self.use_sigmoid else ops.softmax(logits)

        def of_pictures(values):  # (N, H, W, outputs) to (N,)
            return ops.sum(values, axis=(1, 2, 3))

        overlap = of_pictures(probabilities * targets)
        if self.naive:
            areas = of_pictures(probabilities) + of_pictures(targets)
            return 1.0 - (2.0 * overlap + self.eps) / (areas + self.eps)
        areas = of_pictures(ops.square(probabilities)) + of_pictures(ops.square(targets))
        return 1.0 - 2.0 * overlap / (areas + 2.0 * self.eps)

    def get_config(self):
        return {**super().get_config(), "use_sigmoid": self.use_sigmoid, "naive": self.naive, "eps": self.eps}


@serializable
class FocalLoss(_PixelLoss):
    """Sigmoid cross-entropy that weighs easy pixels less (Lin et al. 2017), averaged over all pixels and outputs.

    Args:
        gamma: the exponent of the weight (1 - probability of the right answer) ** gamma; default 2.
        alpha: the weight of positive answers, 1 - alpha that of negative ones; a number or one for each output. Default 0.5.
        class_weight: a factor for each output's loss, or None (the default).
        ignore: the label of ignored pixels; default 255.

    Call arguments:
        y_true: labels (N, H, W) or (N, H, W, 1), integer.
        y_pred: logits (N, H, W, outputs).
    """

    def __init__(self, gamma=2.0, alpha=0.5, class_weight=None, *, ignore=IGNORE, name="focal", **kwargs):
        super().__init__(ignore=ignore, name=name, **kwargs)
        self.gamma, self.alpha = gamma, tuple(alpha) if isinstance(alpha, (tuple, list)) else alpha
        self.class_weight = tuple(class_weight) if class_weight is not None else None

    def losses(self, labels, labelled, logits):
        targets, probabilities = _targets(labels, labelled, logits), ops.sigmoid(logits)
        alpha = ops.convert_to_tensor(self.alpha, logits.dtype)
        wrong = targets * (1.0 - probabilities) + (1.0 - targets) * probabilities
        weights = (targets * alpha + (1.0 - targets) * (1.0 - alpha)) * wrong**self.gamma
        if self.class_weight is not None:
            weights = weights * _class_weights(self, logits)
        losses = targets * ops.softplus(-logits) + (1.0 - targets) * ops.softplus(logits)
        return losses * weights * ops.cast(labelled[..., None], losses.dtype)

    def get_config(self):
        config = {"gamma": self.gamma, "alpha": self.alpha, "class_weight": self.class_weight}
        return {**super().get_config(), **config}


@serializable
class CombinedLoss(_PixelLoss):
    """The weighted sum of several losses of the same labels and logits.

    Args:
        losses: a list of losses of this module.
        weights: a factor for each; by default 1.

    Example:

    >>> loss = CombinedLoss([PixelCrossEntropy(), DiceLoss(use_sigmoid=False)], weights=[1.0, 3.0])
    """

    def __init__(self, losses, weights=None, *, name="combined", **kwargs):
        parts = [keras.losses.get(loss) if isinstance(loss, dict) else loss for loss in losses]
        if not parts or not all(isinstance(loss, _PixelLoss) for loss in parts):
            raise ValueError(f"`losses` must be a list of losses of keras_deeplab.losses. Received: {losses!r}.")
        if len({loss.ignore for loss in parts}) > 1:
            raise ValueError(f"All losses must ignore the same label. Received: {[loss.ignore for loss in parts]}.")
        super().__init__(**{**kwargs, "ignore": parts[0].ignore}, name=name)
        self.parts, self.weights = parts, tuple(weights or [1.0] * len(parts))
        if len(self.weights) != len(parts):
            raise ValueError(f"`weights` must have one number for each of {len(parts)} losses. Received: {weights!r}.")

    def losses(self, labels, labelled, logits):
        total = 0.0
        for loss, weight in zip(self.parts, self.weights, strict=True):
            values = loss.losses(labels, labelled, logits)
            total = total + weight * ops.mean(ops.reshape(values, (ops.shape(values)[0], -1)), axis=1)
        return total  # (N,)

    def get_config(self):
        losses = [keras.losses.serialize(loss) for loss in self.parts]
        return {**super().get_config(), "losses": losses, "weights": self.weights}
