"""The SavedModel gives `segment`'s labels, in a process that cannot import Keras, for any sizes and turns."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from drawn import picture
from narrow import drawn
from PIL import Image

import keras_deeplab as kd
from convert.check import same_labels

PICTURES = Path(__file__).parents[1] / "golden" / "pictures"
ROWS = ["deeplabv3plus_r18-d8_512x512_80k_loveda", "deeplabv3_r50-d8_769x769_80k_cityscapes"]  # whole, slide


@pytest.fixture(scope="module", params=ROWS)
def exported(request, tmp_path_factory):
    model, folder = drawn(request.param), tmp_path_factory.mktemp("export") / "saved_model"
    generator = np.random.default_rng(0)
    model.get_layer("decode_head-conv_seg").bias.assign(generator.normal(0, 3, model.num_classes))
    kd.export_saved_model(model, folder)
    return model, folder, tf.saved_model.load(folder).signatures


def test_bytes_of_mixed_sizes_and_turns_give_the_labels_of_segment(exported):
    model, _, signatures = exported
    files = [PICTURES / name for name in ("orientation6.jpg", "subsampled.jpg", "rgba.png", "orientation6.png")]
    answers = signatures["serving_default"](image_bytes=tf.constant([file.read_bytes() for file in files]))["label_png"]
    for file, png in zip(files, answers, strict=True):
        labels = tf.io.decode_png(png).numpy()
        assert labels.shape[2] == 1 and np.array_equal(labels[..., 0], kd.segment(model, file))


def test_tensors_give_the_labels_and_scores_of_segment(exported):
    model, _, signatures = exported
    images = np.stack([picture(60, 80, seed) for seed in (0, 1)])
    labels = signatures["tensor"](images=tf.constant(images))["labels"]
    scores = signatures["scores"](images=tf.constant(images))["scores"]
    assert labels.dtype == tf.uint8 and scores.dtype == tf.float32
    for image, label, score in zip(images, labels, scores, strict=True):
        expected = kd.segment(model, image, return_scores=True)
        assert np.array_equal(label, expected[0]) and np.array_equal(score, expected[1])


def test_a_process_that_cannot_import_keras_gives_the_same(exported):
    model, folder, _ = exported
    assert [result for _, result in same_labels(model, folder)] == ["equal", "equal"]


def test_saved_model_cli_shows_and_runs_it(exported, tmp_path):
    model, folder, _ = exported
    cli = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    shown = subprocess.run([*cli, "show", "--dir", folder, "--all"], capture_output=True, text=True, check=True).stdout
    for word in ("serving_default", "image_bytes", "label_png", "tensor", "images", "labels", "scores"):
        assert word in shown
    image = picture(60, 80, seed=0)
    np.save(tmp_path / "x.npy", image[None])
    subprocess.run(
        [
            *cli,
            "run",
            "--dir",
            folder,
            "--tag_set",
            "serve",
            "--signature_def",
            "tensor",
            "--inputs",
            f"images={tmp_path / 'x.npy'}",
            "--outdir",
            tmp_path,
        ],
        capture_output=True,
        check=True,
    )
    assert np.array_equal(np.load(tmp_path / "labels.npy")[0], kd.segment(model, image))


@pytest.mark.parametrize("name, message", [("cmyk.jpg", "CMYK"), (None, "JPEG or PNG")])
def test_bytes_that_are_no_rgb_picture_are_an_error_that_says_so(exported, name, message):
    data = (PICTURES / name).read_bytes() if name else b"GIF89a no"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        exported[2]["serving_default"](image_bytes=tf.constant([data]))


def test_labels_come_in_colours_if_asked(tmp_path):
    model = drawn(ROWS[0])
    kd.export_saved_model(model, tmp_path / "colours", colours=True)
    serve = tf.saved_model.load(tmp_path / "colours").signatures["serving_default"]
    Image.fromarray(picture(60, 80, seed=0)).save(tmp_path / "x.png")
    rgb = tf.io.decode_png(serve(image_bytes=tf.constant([(tmp_path / "x.png").read_bytes()]))["label_png"][0]).numpy()
    assert np.array_equal(rgb, np.array(model.palette)[kd.segment(model, tmp_path / "x.png")])


def test_only_a_saved_model_is_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds no SavedModel"):
        kd.export_saved_model(drawn(ROWS[0]), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
