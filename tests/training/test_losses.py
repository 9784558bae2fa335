"""The loss against its definition in numpy: every pixel counts in the mean, mining keeps exactly the hardest."""

import keras
import numpy as np
import pytest

from keras_deeplab.training.losses import PixelCrossEntropy

random = np.random.default_rng(0)
LOGITS = random.normal(size=(2, 6, 5, 4)).astype("float32")
LABELS = random.integers(0, 4, (2, 6, 5)).astype("uint8")
LABELS[0, :3] = 255


def per_pixel(labels=LABELS, logits=LOGITS):
    shifted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(shifted, np.where(labels == 255, 0, labels)[..., None].astype(int), -1)[..., 0]
    return np.where(labels == 255, 0, -picked)


def test_the_mean_is_over_every_pixel_the_ignored_ones_included():
    assert float(PixelCrossEntropy()(LABELS, LOGITS)) == pytest.approx(per_pixel().sum() / 60, rel=1e-6)


def test_a_batch_without_labels_costs_nothing():
    nothing = np.full_like(LABELS, 255)
    assert float(PixelCrossEntropy()(nothing, LOGITS)) == 0
    assert float(PixelCrossEntropy(min_kept=3)(nothing, LOGITS)) == 0


@pytest.mark.parametrize("min_kept", [1, 7, 22, 23, 100])
def test_mining_keeps_the_hardest_of_the_labelled_pixels(min_kept):
    hardest = np.sort(per_pixel()[LABELS != 255])[::-1][: 2 * min_kept]
    assert float(PixelCrossEntropy(min_kept)(LABELS, LOGITS)) == pytest.approx(hardest.sum() / 60, rel=1e-6)


def test_mining_keeps_no_more_where_pixels_are_equally_hard():
    logits = np.zeros((1, 4, 4, 3), "float32")
    labels = np.zeros((1, 4, 4), "uint8")
    assert float(PixelCrossEntropy(min_kept=5)(labels, logits)) == pytest.approx(5 * np.log(3) / 16, rel=1e-6)


def test_class_weights_scale_each_class():
    weights = (0.5, 1.0, 2.0, 0.0)
    expected = (per_pixel() * np.where(LABELS == 255, 0, np.take(weights, np.minimum(LABELS, 3)))).sum() / 60
    assert float(PixelCrossEntropy(class_weight=weights)(LABELS, LOGITS)) == pytest.approx(expected, rel=1e-6)


def test_the_loss_comes_back_from_its_configuration():
    loss = PixelCrossEntropy(100, (1.0, 2.0))
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(copy) is PixelCrossEntropy and copy.get_config() == loss.get_config()
