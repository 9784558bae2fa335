"""The loss equals its definition in numpy: the mean is over all pixels, and mining keeps exactly the hardest ones."""

import keras
import numpy as np
import pytest

from keras_deeplab.training.losses import CombinedLoss, FocalLoss, PixelCrossEntropy, SigmoidCrossEntropy

random = np.random.default_rng(0)
LOGITS = random.normal(size=(2, 6, 5, 4)).astype("float32")
LABELS = random.integers(0, 4, (2, 6, 5)).astype("uint8")
LABELS[0, :3] = 255


def losses_of_pixels():
    """The cross-entropy of each pixel of LABELS and LOGITS, (2, 6, 5); 0 where the label is ignored."""
    log_probabilities = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    labels = np.where(LABELS == 255, 0, LABELS)[..., None].astype(int)
    return np.where(LABELS == 255, 0, -np.take_along_axis(log_probabilities, labels, -1)[..., 0])


def test_the_mean_is_over_all_pixels_including_ignored_ones():
    assert float(PixelCrossEntropy()(LABELS, LOGITS)) == pytest.approx(losses_of_pixels().sum() / 60, rel=1e-6)


def test_the_loss_of_a_batch_without_labels_is_0():
    ignored = np.full_like(LABELS, 255)
    assert float(PixelCrossEntropy()(ignored, LOGITS)) == 0
    assert float(PixelCrossEntropy(min_kept=3)(ignored, LOGITS)) == 0


@pytest.mark.parametrize("min_kept", [1, 7, 22, 23, 100])
def test_mining_keeps_the_hardest_of_the_labelled_pixels(min_kept):
    hardest = np.sort(losses_of_pixels()[LABELS != 255])[::-1][: 2 * min_kept]
    assert float(PixelCrossEntropy(min_kept)(LABELS, LOGITS)) == pytest.approx(hardest.sum() / 60, rel=1e-6)


def test_mining_keeps_no_more_pixels_if_all_losses_are_equal():
    logits = np.zeros((1, 4, 4, 3), "float32")
    labels = np.zeros((1, 4, 4), "uint8")
    assert float(PixelCrossEntropy(min_kept=5)(labels, logits)) == pytest.approx(5 * np.log(3) / 16, rel=1e-6)


def test_class_weights_scale_each_class():
    weights = (0.5, 1.0, 2.0, 0.0)
    expected = (losses_of_pixels() * np.where(LABELS == 255, 0, np.take(weights, np.minimum(LABELS, 3)))).sum() / 60
    assert float(PixelCrossEntropy(class_weight=weights)(LABELS, LOGITS)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("factors", [(2.0,), (1.0, 2.0, 3.0), (1.0,) * 5])
@pytest.mark.parametrize("loss", [PixelCrossEntropy, SigmoidCrossEntropy, FocalLoss])
def test_class_weights_are_one_for_each_output(loss, factors):
    for wrong in (loss(class_weight=factors), CombinedLoss([loss(class_weight=factors)])):
        with pytest.raises(
            ValueError, match=r"`class_weight` must have one factor for each output, 4 in all. Received: \("
        ):
            wrong(LABELS, LOGITS)


@pytest.mark.parametrize("axis", [(), (1,)])
def test_whole_numbers_may_be_floats_and_fractions_are_refused(axis):
    labels = LABELS.reshape(*LABELS.shape, *axis)
    assert float(PixelCrossEntropy()(labels.astype("float32"), LOGITS)) == float(PixelCrossEntropy()(labels, LOGITS))
    for wrong in (labels / 255, np.where(labels == 1, np.nan, labels)):  # a mask that was scaled to 0..1
        with pytest.raises(Exception, match="Labels must be 0..3, or 255 for ignored pixels. Received: other labels."):
            PixelCrossEntropy()(wrong.astype("float32"), LOGITS)


def test_a_deserialized_loss_has_the_same_configuration():
    loss = PixelCrossEntropy(100, (1.0, 2.0))
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(copy) is PixelCrossEntropy and copy.get_config() == loss.get_config()


@pytest.mark.parametrize("epsilon", [-1.0, float("nan"), "0", None])
def test_an_epsilon_that_is_no_number_of_0_or_more_is_refused(epsilon):
    with pytest.raises(ValueError, match="`epsilon` must be a number of 0 or more. Received: .*. 0 adds none."):
        PixelCrossEntropy(epsilon=epsilon)


def test_a_mean_without_epsilon_is_that_of_the_labelled_pixels_and_0_of_none():
    logits = np.random.default_rng(0).standard_normal((1, 2, 3, 4))
    labels = np.array([[[0, 255, 2], [255, 255, 255]]])
    loss = PixelCrossEntropy(avg_non_ignore=True, epsilon=0.0, dtype="float64")
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(log_softmax[0, 0, 0, 0] + log_softmax[0, 0, 2, 2]) / 2
    assert abs(float(loss(labels, logits)) - expected) < 1e-15
    assert float(loss(np.full_like(labels, 255), logits)) == 0.0
