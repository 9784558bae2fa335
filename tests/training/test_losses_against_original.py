"""Every loss and its gradient equal the original's, in float64 (tests/golden/make_losses.py)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_deeplab.training import losses
from keras_deeplab.training.losses import CombinedLoss, DiceLoss, FocalLoss, PixelCrossEntropy, SigmoidCrossEntropy

F64 = dict(dtype="float64")
CASES = {
    "softmax": PixelCrossEntropy(**F64),
    "softmax avg_non_ignore": PixelCrossEntropy(avg_non_ignore=True, **F64),
    "mined": PixelCrossEntropy(min_kept=20, **F64),
    "mined thresh": PixelCrossEntropy(min_kept=5, thresh=0.3, **F64),
    "mined thresh, many": PixelCrossEntropy(min_kept=30, thresh=0.1, **F64),
    "sigmoid": SigmoidCrossEntropy(**F64),
    "sigmoid weighted": SigmoidCrossEntropy((0.5, 1.0, 2.0, 3.0), **F64),
    "dice": DiceLoss(**F64),
    "dice softmax": DiceLoss(use_sigmoid=False, **F64),
    "dice naive": DiceLoss(naive=True, eps=1.0, **F64),
    "focal": FocalLoss(**F64),
    "focal weighted": FocalLoss(1.5, [0.25, 0.5, 0.75, 0.9], [1.0, 2.0, 0.5, 1.0], **F64),
    "combined": CombinedLoss([PixelCrossEntropy(), DiceLoss(use_sigmoid=False)], [1.0, 3.0], **F64),
    "one sigmoid": SigmoidCrossEntropy(**F64),
    "one sigmoid avg_non_ignore": SigmoidCrossEntropy(avg_non_ignore=True, **F64),
    "one dice": DiceLoss(**F64),
    "one focal": FocalLoss(alpha=0.25, **F64),
}


def test_every_golden_case_is_tested(golden):
    assert {key.removesuffix("/loss") for key in golden("losses") if key.endswith("/loss")} == set(CASES)


@pytest.mark.parametrize("axis", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_the_originals(case, axis, golden):
    arrays = golden("losses")
    kind = "one" if case.startswith("one") else "several"
    logits, labels = tf.constant(arrays[f"{kind}/logits"]), arrays[f"{kind}/labels"]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = CASES[case](labels[..., None] if axis else labels, logits)
    np.testing.assert_allclose(loss, arrays[f"{case}/loss"], rtol=1e-12)
    np.testing.assert_allclose(tape.gradient(loss, logits), arrays[f"{case}/gradient"], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("case", CASES)
def test_every_loss_comes_back_from_its_configuration(case):
    copy = keras.losses.deserialize(keras.losses.serialize(CASES[case]))
    assert type(copy) is type(CASES[case]) and copy.get_config() == CASES[case].get_config()


def test_every_loss_of_the_module_is_compared():
    public = {name for name, thing in vars(losses).items() if isinstance(thing, type) and name[0] != "_"}
    assert public == {type(loss).__name__ for loss in CASES.values()}
