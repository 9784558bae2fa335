"""A model with one output serves the labels that `segment` gives by its threshold: in every signature, variant and format."""

import json

import numpy as np
import pytest
import tensorflow as tf
from support.drawn import picture
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab.serving.verify import labels_of

ROWS = {
    "whole": ("deeplabv3plus_r18-d8_512x512_80k_loveda", kd.Protocol("whole", resize=(128, 96))),
    "slide": (
        "deeplabv3_r50-d8_769x769_80k_cityscapes",
        kd.Protocol("slide", crop=(65, 65), stride=(43, 43), resize=(129, 97)),
    ),
}
SIZE = (60, 80)
IMAGES = np.stack([picture(*SIZE, seed) for seed in (0, 1)])


def one_output(kind, threshold):
    """A narrow model of two classes with one output, whose probabilities lie on both sides of the threshold."""
    row, protocol = ROWS[kind]
    binary = dict(row=None, num_classes=2, out_channels=1, classes=("field", "road"), palette=((0, 0, 0), (200, 9, 99)))
    model = drawn(row, protocol=protocol, threshold=threshold, **binary)
    logits = np.asarray(model(IMAGES))
    middle = np.median(logits) - np.log(threshold / (1 - threshold))
    bias = model.get_layer("decode_head-conv_seg").bias
    bias.assign(np.asarray(bias) - middle)
    return model


@pytest.fixture(scope="module")
def model():
    return one_output("whole", 0.3)


def expected(model):
    """Labels and scores of `segment`; both classes occur, and 0.3 gives other labels than 0.5."""
    results = [kd.segment(model, image, return_scores=True) for image in IMAGES]
    labels, scores = (np.stack(parts) for parts in zip(*results, strict=True))
    assert 0.1 < labels.mean() < 0.9 and 0 <= scores.min() < scores.max() <= 1
    assert np.array_equal(labels, scores[..., 0] > model.threshold) and np.mean(labels != (scores[..., 0] > 0.5)) > 0.01
    return labels, scores


def check_signatures(model, folder, tolerance=0.0):
    labels, scores = expected(model)
    signatures = tf.saved_model.load(folder).signatures
    assert np.array_equal(signatures["tensor"](images=tf.constant(IMAGES))["labels"], labels)
    assert np.abs(signatures["scores"](images=tf.constant(IMAGES))["scores"] - scores).max() <= tolerance
    pngs = tf.stack([tf.io.encode_png(image) for image in IMAGES])
    for name, output in (("serving_default", "label_png"), ("rest", "label_png_bytes")):
        answers = signatures[name](image_bytes=pngs)[output]
        assert np.array_equal([tf.io.decode_png(png)[..., 0] for png in answers], labels)


def test_every_signature_thresholds_as_segment_does(model, tmp_path):
    metadata = kd.export_saved_model(model, tmp_path / "1")
    check_signatures(model, tmp_path / "1")
    assert metadata["threshold"] == 0.3
    assert metadata["signatures"]["scores"]["outputs"]["scores"].startswith("float32 (N, H, W, 1): the probability")
    assert metadata == json.loads((tmp_path / "1" / "assets.extra" / "metadata.json").read_text())


@pytest.mark.slow
def test_a_saved_model_of_one_size_thresholds_as_segment_does(model, tmp_path):
    kd.export_saved_model(model, tmp_path / "1", size=SIZE)
    check_signatures(model, tmp_path / "1", tolerance=1e-5)


@pytest.mark.slow
def test_litert_thresholds_as_segment_does(model, tmp_path):
    labels, _ = expected(model)
    assert kd.export_litert(model, tmp_path / "x.tflite", size=SIZE)["threshold"] == 0.3
    served = labels_of(tmp_path / "x.tflite", {str(i): image for i, image in enumerate(IMAGES)})
    assert np.mean(np.stack([served["0"], served["1"]]) != labels) <= 2e-3  # its weights are in float16


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_windows_palette_and_bfloat16_threshold_too(threshold, tmp_path):
    model = one_output("slide", threshold)
    kd.export_saved_model(model, tmp_path / "1")
    check_signatures(model, tmp_path / "1")
    kd.export_saved_model(model, tmp_path / "2", palette=True, precision="bfloat16")
    colours = tf.saved_model.load(tmp_path / "2").signatures["serving_default"](
        image_bytes=tf.stack([tf.io.encode_png(image) for image in IMAGES])
    )["label_png"]
    colours = np.stack([tf.io.decode_png(png) for png in colours])
    assert np.mean(colours != np.array(model.palette, np.uint8)[expected(model)[0]]) < 0.05


@pytest.mark.slow
def test_onnx_thresholds_as_segment_does(model, tmp_path):
    pytest.importorskip("tf2onnx", reason="needs tf2onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    kd.export_onnx(model, tmp_path / "x.onnx", size=SIZE)
    served = labels_of(tmp_path / "x.onnx", {str(i): image for i, image in enumerate(IMAGES)})
    assert np.mean(np.stack([served["0"], served["1"]]) != expected(model)[0]) <= 1e-4
