"""`segment` gives the original's label maps: whole picture, sliding window, and both definitions of multi-scale with flip."""

import logging
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.drawn import images, picture, sample
from support.narrow import build, drawn

import keras_deeplab as kd
from keras_deeplab.inference import segment as segmentation
from keras_deeplab.inference.segment import placement, resized_to_box, window_starts
from keras_deeplab.networks.fold import refold

ROW = "deeplabv3plus_r18-d8_512x512_80k_loveda"
CASES = [
    (name, size, tta)
    for name, sizes in {
        "deeplabv3plus_r18-d8_512x1024_80k_cityscapes": [(60, 80), (97, 61), (31, 45)],
        "deeplabv3_r50-d8_769x769_80k_cityscapes": [(60, 80), (97, 61), (31, 45)],
        "deeplabv3plus_r101-d8_480x480_40k_pascal_context": [(60, 80), (97, 61), (31, 95)],
        "deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes": [(60, 80), (97, 61), (31, 45)],
        ROW: [(60, 80), (97, 61), (31, 45)],
        "deeplabv3plus_m-v2-d8_512x512_160k_ade20k": [(60, 80), (97, 61)],
        "deeplabv3_s101-d8_512x512_160k_ade20k": [(60, 80), (97, 61)],
    }.items()
    for size in enumerate(sizes)
    for tta in [False] + {ROW: ["box"], "deeplabv3_r50-d8_769x769_80k_cityscapes": ["picture"]}.get(name, [])
]


def is_quick(name, numbered_size, tta):
    """Whether the default run has this case: all of the rows of ResNet-18 and -50, an odd size of the others."""
    return "_r18" in name or "_r50" in name or (numbered_size[0] == 1 and "_s101" not in name)


@pytest.fixture(scope="module")
def golden_model(golden):
    """A function from a row's name to its narrow model with the golden classifier, whose label maps have many classes."""
    models = {}

    def load(name):
        if name not in models:
            models[name] = drawn(name)
            weight, bias = (golden("segment")[f"{name}/{part}"] for part in ("weight", "bias"))
            models[name].get_layer("decode_head-conv_seg").set_weights([weight.transpose(2, 3, 1, 0), bias])
        return models[name]

    return load


@pytest.mark.parametrize(
    "name, numbered_size, tta",
    [pytest.param(*case, marks=[pytest.mark.slow] * (not is_quick(*case))) for case in CASES],
)
def test_label_maps_and_scores_equal_the_originals(name, numbered_size, tta, golden_model, golden):
    seed, (height, width) = numbered_size
    model, image = golden_model(name), picture(height, width, seed)
    labels, scores = kd.segment(model, image, multi_scale_flip=tta, return_scores=True)
    key = f"{name}/{height}x{width}" + (f"/{tta}" if tta else "")
    expected = golden("segment")
    assert labels.shape == (height, width) and labels.dtype == np.uint8
    assert scores.shape == (height, width, model.num_classes) and scores.dtype == np.float32
    assert np.array_equal(labels, scores.argmax(-1))
    assert tta or np.array_equal(labels, kd.segment(model, image))  # by tiles, without the scores of all pixels
    assert np.sum(labels != expected[f"{key}/labels"]) <= 1  # one pixel whose two best classes have nearly equal scores
    assert len(np.unique(labels)) > 3
    assert np.abs(sample(scores[None]) - expected[f"{key}/scores"]).max() <= 1e-3 * expected[f"{key}/std"]
    if not tta:
        resized = resized_to_box(model.protocol, image)
        assert [*resized.shape[:2], zlib.crc32(resized.tobytes())] == expected[f"{key}/crc"].tolist()


ONE_OUTPUT = [
    pytest.param(name, size, marks=[pytest.mark.slow] * (name != ROW and size[0] > 0))
    for name in (ROW, "deeplabv3_r50-d8_769x769_80k_cityscapes")
    for size in enumerate([(60, 80), (97, 61), (31, 45)])
]


def one_output_model(name, golden, **options):
    """The narrow model of a row with a single sigmoid output for two classes, with the original's drawn weights."""
    model = drawn(name, num_classes=2, out_channels=1, classes=None, palette=None, **options)
    weight, bias = (golden("one_output")[f"{name}/{part}"] for part in ("weight", "bias"))
    model.get_layer("decode_head-conv_seg").set_weights([weight.transpose(2, 3, 1, 0), bias])
    return model


@pytest.mark.parametrize("name, numbered_size", ONE_OUTPUT)
def test_a_single_output_is_compared_with_the_threshold_as_in_the_original(name, numbered_size, golden):
    seed, (height, width) = numbered_size
    model = one_output_model(name, golden)
    labels, scores = kd.segment(model, picture(height, width, seed), return_scores=True)
    expected = golden("one_output")
    assert scores.shape == (height, width, 1) and np.array_equal(labels, scores[..., 0] > 0.3)
    assert np.abs(sample(scores[None]) - expected[f"{name}/{height}x{width}/scores"]).max() < 1e-5
    assert np.sum(labels != expected[f"{name}/{height}x{width}/labels"]) == 0


def test_a_models_own_threshold_decides(golden):
    model, image = one_output_model(ROW, golden, threshold=0.7), picture(60, 80, 0)
    labels, scores = kd.segment(model, image, return_scores=True)
    assert np.array_equal(labels, scores[..., 0] > 0.7) and 0 < labels.mean() < 1
    model.threshold = 0.5
    assert np.array_equal(kd.segment(model, image), scores[..., 0] > 0.5)


def test_several_views_of_a_single_output_are_the_mean_of_probabilities(golden):
    model, image = one_output_model(ROW, golden), picture(60, 80, 0)
    labels, scores = kd.segment(model, image, multi_scale_flip="box", return_scores=True)
    assert scores.min() >= 0 and scores.max() <= 1 and np.array_equal(labels, scores[..., 0] > 0.3)
    assert 0.2 < np.mean(labels == kd.segment(model, image))  # of one view


def test_evaluate_scores_a_single_output_by_its_threshold(tmp_path, golden):
    model, image = one_output_model(ROW, golden), picture(60, 80, 0)
    truth = kd.segment(model, image)
    for rows, accuracy in ((0, 100), (30, 50)):
        truth[:rows] = 1 - truth[:rows]
        Image.fromarray(image).save(tmp_path / "x.png")
        Image.fromarray(truth).save(tmp_path / "y.png")
        assert kd.evaluate(model, [tmp_path / "x.png"], [tmp_path / "y.png"])["aAcc"] == accuracy


def test_paths_pil_images_and_arrays_give_the_same_labels(tmp_path, golden_model):
    image = picture(60, 80, seed=0)
    Image.fromarray(image).save(tmp_path / "x.png")
    labels = kd.segment(golden_model(ROW), [tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(image), image])
    assert isinstance(labels, list) and len(labels) == 4
    assert all(np.array_equal(label_map, labels[0]) for label_map in labels)


def test_weights_are_folded_again_only_if_they_have_changed(monkeypatch):
    model, image, folded = drawn(ROW, protocol=None), picture(33, 47, seed=0), []
    monkeypatch.setattr(segmentation, "refold", lambda *models: folded.append(models) or refold(*models))
    scores = [kd.segment(model, image, return_scores=True)[1] for _ in range(3)]
    assert np.array_equal(scores[0], scores[2]) and not folded
    norm = model.get_layer("backbone-stem-1")
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    changes = [
        lambda: norm.moving_mean.assign_add(keras.ops.ones_like(norm.moving_mean)),
        lambda: norm.gamma.value.assign(2.0 * norm.gamma.value),  # by TensorFlow itself
        lambda: model.set_weights([0.5 * weight for weight in model.get_weights()]),
        lambda: model.train_on_batch(image[None], np.ones((1, 33, 47, model.num_classes), "float32")),
    ]
    for number, change in enumerate(changes, 1):
        change()
        changed = kd.segment(model, image, return_scores=True)[1]
        assert len(folded) == number and not np.array_equal(changed, scores[-1])
        assert np.abs(changed - np.asarray(model(image[None]))[0]).max() <= 1e-4 * changed.std()
        assert np.array_equal(kd.segment(model, image, return_scores=True)[1], changed) and len(folded) == number
        scores.append(changed)


def test_labels_follow_the_weights_as_they_change():
    model, image = drawn(ROW), picture(60, 80, seed=0)
    kd.segment(model, image)
    bias = np.zeros(7, "float32")
    bias[4] = 1e6
    model.get_layer("decode_head-conv_seg").bias.assign(bias)
    assert np.all(kd.segment(model, image) == 4)


def test_segment_does_not_change_the_model():
    model = drawn(ROW)
    weights, layers = model.get_weights(), [layer.name for layer in model.layers]
    kd.segment(model, picture(60, 80, seed=0))
    assert all(map(np.array_equal, weights, model.get_weights())) and layers == [layer.name for layer in model.layers]


def test_a_model_without_a_box_does_not_resize_pictures():
    model = drawn(ROW, protocol=None)
    image = images(33, 47)
    labels, scores = kd.segment(model, image[0], return_scores=True)
    logits = np.asarray(model(image))[0]
    assert np.abs(scores - logits).max() <= 1e-4 * logits.std()
    resized = kd.segment(model, image[0], resize=(24, 48))
    assert resized.shape == (33, 47) and np.array_equal(resized, kd.segment(model, image[0], resize=(48, 24)))


def test_windows_end_at_the_border():
    assert window_starts(2049, 769, 513).numpy().tolist() == [0, 513, 1026, 1280]
    assert window_starts(1025, 769, 513).numpy().tolist() == [0, 256]
    assert window_starts(480, 480, 320).numpy().tolist() == [0]
    assert window_starts(100, 480, 320).numpy().tolist() == [0]
    assert window_starts(481, 480, 320).numpy().tolist() == [0, 1]


def test_overlapping_windows_are_averaged():
    matrix = placement(4, 4, window_starts(6, 4, 2), 6, False).numpy()  # two windows, at 0 and 2, not resized
    scores = np.array([1.0, 1, 1, 1, 3, 3, 3, 3])
    np.testing.assert_allclose(matrix @ scores, [1, 1, 2, 2, 3, 3])


def test_more_than_255_classes_are_refused():
    with pytest.raises(ValueError, match="at most 255 classes: .* Received: 256 classes"):
        kd.segment(kd.DeepLabV3(256, backbone="r18", base_channels=8, aspp_channels=8), images(33, 47)[0])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(multi_scale_flip="boxes"), "multi_scale_flip is False, True, 'box' or 'picture'. Received: 'boxes'"),
        (dict(multi_scale_flip="picture", resize=(64, 64)), "Received: resize=.* Leave one of the two out"),
        (dict(resize=(0, 64)), "positive"),
        (dict(resize=64), "`resize` must be two positive whole numbers"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kd.segment(drawn(ROW), images(33, 47)[0], **options)


def test_an_auxiliary_head_makes_no_difference(golden_model):
    with_head = build(ROW, auxiliary_head=True)
    for layer in with_head.layers:
        if layer.weights and not layer.name.startswith("auxiliary"):
            layer.set_weights(golden_model(ROW).get_layer(layer.name).get_weights())
    image = picture(60, 80, seed=0)
    assert np.array_equal(kd.segment(with_head, image), kd.segment(golden_model(ROW), image))


def test_several_models_in_one_program_are_no_reason_for_a_warning():
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    try:
        for number in range(7):  # each model has its own graphs of the same code
            graph = segmentation.graph_of(lambda x: x + 1, [tf.TensorSpec([None], tf.int32)])
            assert graph(tf.constant([number])).numpy() == graph(tf.constant([number] * 2)).numpy()[0] == number + 1
    finally:
        tf.get_logger().removeHandler(handler)
    assert said == []
