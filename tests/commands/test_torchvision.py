"""A model of torchvision goes through every verb: training, prediction, evaluation, export and conversion."""

import json

import keras
import numpy as np
import pytest
from PIL import Image
from support.drawn import picture
from support.narrow import build, tensors
from support.torch_files import tensor, zipped

import keras_deeplab as kd
from keras_deeplab.commands import evaluate, predict, train
from keras_deeplab.commands import list as list_verb
from keras_deeplab.convert import __main__ as convert

ROW = "deeplabv3_mobilenet_v3_large"


@pytest.fixture
def data(tmp_path):
    """Two pictures with their label maps of 21 classes."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for seed in range(2):
        Image.fromarray(picture(40, 56, seed)).save(tmp_path / "images" / f"{seed}.png")
        label = (np.arange(40 * 56).reshape(40, 56) // 107 + seed) % 21
        Image.fromarray(label.astype("uint8")).save(tmp_path / "labels" / f"{seed}.png")
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "model_29.pth"
    path.write_bytes(zipped({"model": {k: tensor(v) for k, v in tensors(build(ROW)).items()}, "epoch": 29}))
    return str(path)


def test_the_list_shows_torchvisions_rows_and_the_terms_of_their_data(capsys):
    list_verb.main(["--dataset", "coco_voc"])
    shown = capsys.readouterr().out
    assert "deeplabv3_resnet101_coco" in shown and "67.40" in shown and "cocodataset.org" in shown


@pytest.mark.slow
def test_predict_and_evaluate_take_the_presets_protocol(data, checkpoint, capsys):
    model = kd.from_preset(ROW, weights=checkpoint)
    predict.main([ROW, str(data / "images" / "0.png"), "--weights", checkpoint, "--to", str(data / "out")])
    expected = kd.segment(model, data / "images" / "0.png")
    assert np.array_equal(np.array(Image.open(data / "out" / "0.png")), expected)
    folders = ["--images", str(data / "images"), "--labels", str(data / "labels")]
    evaluate.main([ROW, *folders, "--weights", checkpoint, "--report", str(data / "report")])
    shown = capsys.readouterr().out
    assert "60.30" in shown and "to a short side of 520, where 56x40 becomes 728x520" in shown
    assert "resized to a short side of 520" in (data / "report" / "index.html").read_text()


@pytest.mark.slow
def test_training_goes_on_from_a_file_of_the_reference_script(data, checkpoint, capsys):
    folders = ["--images", str(data / "images"), "--labels", str(data / "labels")]
    arguments = ["--init", checkpoint, "--to", str(data / "run"), "--steps", "2", "--batch", "2", "--crop", "33", "33"]
    train.main([ROW, *folders, *arguments])
    model, before = keras.saving.load_model(data / "run" / "last.keras"), kd.from_preset(ROW, weights=checkpoint)
    assert set(model.output_names) == {"auxiliary", "logits"}
    for name in ("backbone-0-0", "classifier-4"):
        assert not np.array_equal(model.get_layer(name).kernel, before.get_layer(name).kernel)
    assert model.protocol == kd.Protocol("whole", antialias=True)  # own folders keep their size


@pytest.mark.slow
def test_an_exported_model_gives_the_same_label_maps(data, checkpoint):
    convert.main([ROW, "--weights", checkpoint, "--to", str(data / "converted")])
    report = json.loads((data / "converted" / "report.json").read_text())
    assert report["model.keras"] == "logits equal after loading"
    assert "equal" in report["saved_model"].values()
