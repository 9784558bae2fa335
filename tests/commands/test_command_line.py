"""The commands predict, export and convert: what they write and print, and one line for a mistake."""

import errno
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import ROOT
from support.drawn import images, picture
from support.narrow import build, drawn, tensors
from support.torch_files import released

import keras_deeplab as kd
import keras_deeplab.convert.__main__ as convert
from keras_deeplab import files
from keras_deeplab.commands import command_line, evaluate, export, predict

NAME = "deeplabv3plus_r18-d8_512x512_80k_loveda"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "narrow.pth"
    path.write_bytes(released(tensors(build(NAME, auxiliary_head=True))))
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(picture(60, 80, seed=0)).save(path)
    return path


def test_predict_writes_labels_overlay_and_scores(checkpoint, photo, tmp_path, capsys):
    predict.main([NAME, str(photo), "--to", str(tmp_path / "out"), "--weights", str(checkpoint), "--scores"])
    model = drawn(NAME)
    labels, scores = kd.segment(model, photo, return_scores=True)
    with Image.open(tmp_path / "out" / "photo.png") as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), labels)
    assert Image.open(tmp_path / "out" / "photo_overlay.png").width == 80
    written = np.load(tmp_path / "out" / "photo.npz")
    assert np.array_equal(written["labels"], labels) and np.array_equal(written["scores"], scores)
    assert written["input"].dtype == np.uint8 and written["input"].shape == (768, 1024, 3)
    assert "photo.jpg  80x60" in capsys.readouterr().out


def fill_the_disk(file):
    with files.locked(file.parent / "out" / "lock", "is exporting"):
        raise tf.errors.ResourceExhaustedError(None, None, f"saved_model.pb.tmp; {os.strerror(errno.ENOSPC)}")


@pytest.mark.parametrize(
    "action, message",
    [
        (lambda file: file.mkdir(), "error: There must be a folder, or nothing yet, at '.*x'. Received: a file."),
        (
            lambda file: (file / "y").mkdir(),
            "error: Every part of a path but its last must be a folder. Received: '.*x/y'",
        ),
        (
            lambda file: open(file.parent, "w"),
            "error: There must be a file, or nothing yet, at '.*'. Received: a folder.",
        ),
        (lambda file: open(file.with_name("z")), "No such file or directory: '.*z'"),
        (fill_the_disk, "error: There must be space on the disk of '.*out'. Received: a full disk. Free some"),
    ],
)
def test_the_systems_errors_are_explained(action, message, tmp_path):
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(SystemExit, match=message):
        command_line.run(lambda _: action(tmp_path / "x"), [])


def test_a_reader_that_has_enough_ends_a_command_without_an_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "keras_deeplab", "list"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.stderr == b"" and done.returncode == 1


@pytest.mark.slow
def test_predict_averages_scales_and_flips(checkpoint, photo, tmp_path):
    predict.main(
        [NAME, str(photo), "--to", str(tmp_path), "--weights", str(checkpoint), "--multi-scale-flip", "--scores"]
    )
    labels, scores = kd.segment(drawn(NAME), photo, multi_scale_flip=True, return_scores=True)
    written = np.load(tmp_path / "photo.npz")
    assert np.array_equal(written["labels"], labels) and np.array_equal(written["scores"], scores)


def test_export_writes_a_saved_model_that_it_has_checked(checkpoint, photo, tmp_path, capsys):
    export.main(["deeplabv3plus_r18_loveda", "--to", str(tmp_path / "1"), "--weights", str(checkpoint)])
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    labels = tf.io.decode_png(serve(image_bytes=tf.constant([photo.read_bytes()]))["label_png"][0])[..., 0]
    assert np.array_equal(labels, kd.segment(drawn(NAME), photo))
    assert capsys.readouterr().out.count("equal") == 2


def test_convert_reports_tensors_and_the_difference_from_a_reference(checkpoint, tmp_path, capsys):
    x, to = images(33, 47), tmp_path / "out"
    np.savez(tmp_path / "reference.npz", images=x, logits=drawn(NAME)(x))
    convert.main(
        [NAME, "--checkpoint", str(checkpoint), "--to", str(to), "--reference", str(tmp_path / "reference.npz")]
    )
    report = json.loads((to / "report.json").read_text())
    assert report["row"] == NAME and report["largest logit difference / standard deviation"] <= 1e-6
    assert report["tensors"] == {"read": 189, "used": 183, "left (auxiliary head, batch counters)": 6}
    assert np.array_equal(keras.saving.load_model(to / "model.keras")(x), drawn(NAME)(x))
    assert (to / "saved_model" / "saved_model.pb").exists() and "narrow.pth" in capsys.readouterr().out


@pytest.mark.slow
def test_verbs_know_a_file_of_one_output_by_its_classifier(tmp_path, photo, capsys):
    weights = tensors(build(NAME, auxiliary_head=True))
    one = {name: array[:1] if ".conv_seg." in name else array for name, array in weights.items()}
    logits = np.asarray(drawn(NAME)(kd.read_image(photo)[None]))[..., 0]
    one["decode_head.conv_seg.bias"] = one["decode_head.conv_seg.bias"] - np.median(logits).astype("float32")
    path = tmp_path / "one.pth"
    path.write_bytes(released(one))
    model = kd.from_preset(NAME, weights=path)
    labels = kd.segment(model, photo)
    assert (model.threshold, model.num_classes) == (0.3, 2) and 0.1 < labels.mean() < 0.99
    options = ["--weights", str(path)]
    predict.main([NAME, str(photo), "--to", str(tmp_path / "labels"), "--only-labels", *options])
    with Image.open(tmp_path / "labels" / "photo.png") as image:
        assert np.array_equal(np.asarray(image), labels)
    folders = ["--images", str(photo.parent), "--labels", str(tmp_path / "labels")]
    evaluate.main([NAME, *folders, "--json", str(tmp_path / "scores.json"), *options])
    assert json.loads((tmp_path / "scores.json").read_text())["mIoU"] == 100
    assert re.search(r"mIoU +100.00 +-", capsys.readouterr().out)  # none was published for these classes
    convert.main([NAME, "--to", str(tmp_path / "converted"), *options])
    converted = keras.saving.load_model(tmp_path / "converted" / "model.keras")
    assert converted.threshold == 0.3 and np.array_equal(kd.segment(converted, photo), labels)
    assert set(json.loads((tmp_path / "converted" / "report.json").read_text())["saved_model"].values()) == {"equal"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["recipes.predict", NAME, __file__, __file__, "--to", "out"], "would both be written to"),
        (["convert", NAME, "--checkpoint", "none.pth", "--to", "out"], "error: "),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (["recipes.predict", "r110_cityscapes", "x.jpg", "--to", "out"], "error: There is no picture 'x.jpg'."),
                (
                    ["recipes.predict", "deeplabv3_r110_cityscapes", __file__, "--to", "out"],
                    "Closest: deeplabv3_r101_cityscapes",
                ),
                (["recipes.predict", "r101_cityscapes", __file__, "--to", "out"], "deeplabv3plus_"),
                (
                    ["recipes.predict", NAME, __file__, "--to", "out", "--weights", "none.pth"],
                    "Received: 'none.pth', where there is no file.",
                ),
                (["recipes.export", NAME, "--to", "out", "--weights", __file__], "error: "),
            ]
        ),
    ],
)
def test_a_mistake_ends_in_one_line_and_writes_nothing(arguments, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**{key: os.environ[key] for key in os.environ if key != "TF_CPP_MIN_LOG_LEVEL"}, "PYTHONPATH": str(ROOT)},
    )
    *others, last = done.stderr.splitlines()
    assert done.returncode == 1 and message in last and last.startswith("error: ")
    assert all(line.startswith("warning: ") for line in others) and not list(tmp_path.iterdir())
