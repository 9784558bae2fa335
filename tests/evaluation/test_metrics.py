"""The metrics equal mmsegmentation's IoUMetric on 200 pairs of label maps, and count any number of pixels exactly."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from support import SUPPORT
from support.narrow import build

from keras_deeplab.evaluation import metrics
from keras_deeplab.training.losses import PixelCrossEntropy

SCRIPT = SUPPORT / "metrics_elsewhere.py"
# Name of the original's scores in the golden file: (our name, beta).
NAMES = {"IoU": ("IoU", 1.0), "Acc": ("Acc", 1.0), "Precision": ("Precision", 1.0), "Dice": ("Dice", 1.0)}
NAMES |= {"Fscore": ("Fscore", 1.0), "Fscore2": ("Fscore", 2.0)}


def pairs(golden):
    """(label map, prediction, classes, the original's scores) of each pair."""
    arrays = golden("metrics")
    ends, classes = np.cumsum(arrays["sizes"]), np.cumsum(arrays["classes"])
    for i, (end, last) in enumerate(zip(ends, classes, strict=True)):
        pixels = slice(end - arrays["sizes"][i], end)
        scores = {name: arrays[name][last - arrays["classes"][i] : last] for name in NAMES}
        truth, predicted = (arrays[name][None, None, pixels] for name in ("truth", "predicted"))
        yield truth, predicted, int(arrays["classes"][i]), {**scores, "aAcc": arrays["aAcc"][i]}


def expected_counts(truth, predicted, classes):
    """The confusion matrix, counted pixel by pixel."""
    counts = np.zeros((classes, classes), np.int64)
    for t, p in zip(truth.ravel(), predicted.ravel(), strict=True):
        if t != 255:
            counts[t, p] += 1
    return counts


def test_200_random_pairs_score_as_the_original_says(golden):
    metric_by_classes = {
        n: metrics.SegmentationScores(n, ("mIoU", "mAcc", "aAcc", "mDice", "mFscore")) for n in (1, 2, 5, 19)
    }
    kinds = set()
    for truth, predicted, classes, expected in pairs(golden):
        metric = metric_by_classes[classes]
        metric.reset_state()
        means = {name: float(value) for name, value in metric(truth, predicted).items()}
        of_classes = metric.per_class()
        counts = expected_counts(truth, predicted, classes)
        assert np.array_equal(metric.counts(), counts) and metric.counts().dtype == np.int64
        for name, (ours, beta) in NAMES.items():
            values = metrics.per_class(counts.astype(float), beta)[ours]
            np.testing.assert_allclose(values, expected[name], rtol=1e-6)
            if name != "Fscore2":
                np.testing.assert_allclose(of_classes[ours], expected[name], rtol=1e-6)
        for mean, score in metrics.MEANS.items():
            values = expected[score][~np.isnan(expected[score])]
            assert means[mean] == pytest.approx(values.mean() if values.size else np.nan, rel=1e-5, nan_ok=True)
        assert means["aAcc"] == pytest.approx(expected["aAcc"], rel=1e-6, nan_ok=True)
        kinds.add(
            (np.isnan(expected["aAcc"]), len(np.unique(truth[truth != 255])) == 1, np.isnan(expected["IoU"]).any())
        )
    # All possible kinds occur: every pixel ignored; otherwise one class or several labelled, with absent classes or without.
    assert len(kinds) == 5


def test_counts_are_exact_beyond_2_to_the_24_and_2_to_the_31():
    metric = metrics.MeanIoU(2)
    for start in (2**24, 2**30 - 1, 2**31 - 1, 2**53):  # where float32, the low word, int32 and float64 end
        metric.words.assign(np.array([np.full((2, 2), start % 2**30), np.full((2, 2), start // 2**30)]))
        metric.update_state(np.array([[[0, 0, 1, 255]]]), np.array([[[0, 1, 1, 0]]]))
        assert metric.counts().tolist() == [[start + 1, start + 1], [start, start + 1]]
    metric.words.assign(np.array([np.eye(2) * 3, np.eye(2) * 2**28]))  # 2**58 pixels
    assert float(metric.result()) == 1.0


def test_a_batch_of_many_pixels_is_counted_exactly():
    metric = metrics.PixelAccuracy(1)
    zeros = np.zeros((1, 2**12, 2**12), np.uint8)
    metric.update_state(zeros, zeros)
    metric.update_state(zeros[:, :1, :1], zeros[:, :1, :1])
    assert metric.counts().tolist() == [[2**24 + 1]]  # the first number that float32 cannot hold


def test_labels_that_are_no_class_do_not_count():
    metric = metrics.PixelAccuracy(3, ignore=7)
    metric.update_state(np.array([[[0, 1, 7, 3, -1, 255]]]), np.zeros((1, 1, 6), int))
    assert metric.counts().sum() == 2 and float(metric.result()) == 0.5


def test_labels_with_a_fraction_do_not_count():
    metric = metrics.Confusion(3)
    metric.update_state(np.array([[[0.0, 0.5, 2.0, np.nan]]], "float32"), np.array([[[0, 0, 1, 1]]]))
    assert metric.counts().tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_compiled_model_reports_several_scores_in_one_pass():
    model = build("deeplabv3plus_r18-d8_512x512_80k_loveda", auxiliary_head=True)
    model.compile(loss=PixelCrossEntropy(), metrics=[metrics.SegmentationScores(7), metrics.MeanFScore(7, beta=2.0)])
    images = np.random.default_rng(0).integers(0, 256, (2, 33, 47, 3)).astype("float32")
    predicted = np.argmax(model(images)["logits"], axis=-1)
    labels = np.where(predicted == 0, 255, predicted)
    labels[0, :9] = 3
    result = model.evaluate(images, labels, verbose=0, return_dict=True)
    counts = expected_counts(labels, predicted, 7)
    expected = metrics.means(counts.astype(float))
    expected["mFscore"] = metrics.means(counts.astype(float), beta=2.0)["mFscore"]
    for name in ("mIoU", "mAcc", "aAcc", "mFscore"):
        assert result[name] == pytest.approx(float(expected[name]), rel=1e-5)


def test_metrics_given_by_output_score_that_output():
    model = build("deeplabv3plus_r18-d8_512x512_80k_loveda", auxiliary_head=True)
    model.compile(
        loss=PixelCrossEntropy(), metrics={"logits": [metrics.PixelAccuracy(7)], "auxiliary": [metrics.MeanIoU(7)]}
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 33, 47, 3)).astype("float32")
    logits, labels = (np.argmax(model(images)[name], axis=-1) for name in ("logits", "auxiliary"))
    labels[:, :9] = logits[:, :9]
    result = model.evaluate(images, labels[..., None], verbose=0, return_dict=True)  # as decode_png gives label maps
    assert result["logits_aAcc"] == pytest.approx(np.mean(labels == logits))
    auxiliary = np.argmax(model(images)["auxiliary"], axis=-1)
    expected = metrics.means(expected_counts(labels, auxiliary, 7).astype(float))["mIoU"]
    assert result["auxiliary_mIoU"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.SegmentationScores(5, ("aAcc", "mDice"), ignore=7),
        metrics.MeanIoU(5, name="seen"),
        metrics.MeanAccuracy(5),
        metrics.PixelAccuracy(5),
        metrics.MeanDice(5),
        metrics.MeanFScore(5, beta=2.0),
    ],
)
def test_metrics_are_serialised(metric):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is type(metric) and copy.get_config() == metric.get_config()


def test_other_scores_and_sample_weights_are_refused():
    with pytest.raises(ValueError, match="scores must be a list of any of mIoU, .* Received: 'mIoU'"):
        metrics.SegmentationScores(5, "mIoU")
    with pytest.raises(ValueError, match="no sample_weight.* the label 255, not a weight"):
        metrics.MeanIoU(5).update_state(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), sample_weight=np.ones(1))


@pytest.mark.parametrize("case", ["jax", "two", pytest.param("torch", marks=pytest.mark.slow)])
def test_other_backends_and_two_replicas_count_the_same(case):
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    if case != "two":
        environment["KERAS_BACKEND"] = case
    run = subprocess.run([sys.executable, SCRIPT, case], env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.endswith("equal\n"), run.stderr[-2000:]
