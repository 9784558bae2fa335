"""A model of DeepLab's authors goes through every verb: training, prediction, evaluation, export and conversion."""

import json

import keras
import numpy as np
import pytest
from PIL import Image
from support.authors import variables, write_checkpoint
from support.drawn import picture

import keras_deeplab as kd
from keras_deeplab.catalog.authors import NO_CLASS
from keras_deeplab.commands import evaluate, export, predict, train
from keras_deeplab.commands import list as list_verb
from keras_deeplab.convert import __main__ as convert

ROW = "mobilenetv2_dm05_coco_voc_trainaug"


@pytest.fixture
def data(tmp_path):
    """Four pictures with their label maps of 21 classes."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for seed in range(4):
        Image.fromarray(picture(40, 56, seed)).save(tmp_path / "images" / f"{seed}.png")
        label = (np.arange(40 * 56).reshape(40, 56) // 107 + seed) % 21
        Image.fromarray(label.astype("uint8")).save(tmp_path / "labels" / f"{seed}.png")
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    arrays = variables(kd.DeepLabV3.from_preset(ROW, load_weights=False))
    arrays |= {"logits/semantic/biases/ExponentialMovingAverage": 100.0 * np.eye(21, dtype="float32")[3]}
    return write_checkpoint(arrays, tmp_path_factory.mktemp("run") / "model.ckpt")


def test_the_list_shows_the_rows_of_both_sources_that_have_a_backbone(capsys):
    list_verb.main(["--backbone", "mobilenetv2", "--dataset", "voc12aug"])
    lines = capsys.readouterr().out.splitlines()
    assert "mobilenetv2_coco_voc_trainaug" in lines[2] and "75.32" in lines[2] and "77.33" in lines[2]
    assert lines[3].split()[:4] == ["mobilenetv2_coco_voc_trainval", "-", "-", "2.1"]


def test_averages_are_predicted_with_on_request(data, checkpoint):
    arguments = [ROW, str(data / "images" / "0.png"), "--weights", checkpoint]
    predict.main([*arguments, "--ema", "--to", str(data / "averages")])
    assert np.all(np.array(Image.open(data / "averages" / "0.png")) == 3)
    predict.main([*arguments, "--to", str(data / "out")])
    expected = kd.segment(kd.from_preset(ROW, weights=checkpoint), data / "images" / "0.png")
    assert np.array_equal(np.array(Image.open(data / "out" / "0.png")), expected) and not np.any(expected == 3)


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint(data, checkpoint):
    folders = ["--images", str(data / "images"), "--labels", str(data / "labels")]
    arguments = ["--init", checkpoint, "--to", str(data / "run"), "--steps", "2", "--batch", "2", "--crop", "33", "33"]
    train.main([ROW, *folders, *arguments, "--freeze", "backbone"])
    model, before = keras.saving.load_model(data / "run" / "last.keras"), kd.from_preset(ROW, weights=checkpoint)
    layers = [layer for layer in model.layers if layer.weights]
    same = {
        layer.name
        for layer in layers
        if all(map(np.array_equal, layer.get_weights()[:1], before.get_layer(layer.name).get_weights()[:1]))
    }
    backbone = {layer.name for layer in layers if layer.name.startswith("MobilenetV2-")}
    assert backbone <= same and not any(layer.trainable for layer in layers if layer.name in backbone)
    assert not same & {"aspp0", "logits-semantic"}


@pytest.mark.slow
def test_a_half_width_backbone_has_no_file_of_its_own(data):
    folders = ["--images", str(data / "images"), "--labels", str(data / "labels"), "--to", str(data / "run")]
    with pytest.raises(ValueError, match="No weights of the backbone alone were released for mobilenetv2_dm05"):
        train.main([ROW, *folders, "--init", "imagenet", "--steps", "1", "--batch", "2"])


@pytest.mark.slow
def test_an_exported_model_gives_the_same_label_maps(data, checkpoint):
    convert.main([ROW, "--weights", checkpoint, "--to", str(data / "converted")])
    report = json.loads((data / "converted" / "report.json").read_text())
    assert report["model.keras"] == "logits equal after loading"
    assert "equal" in report["saved_model"].values()
    export.main([ROW, "--weights", checkpoint, "--to", str(data / "models"), "--name", "deeplab"])


@pytest.mark.slow
def test_the_output_for_no_class_is_scored_as_the_labels_of_ade20k_are(tmp_path):
    """Labels 0 do not count; classes keep their numbers of 1 to 150."""
    row = kd.DeepLabV3Plus.presets["mobilenetv2_ade20k_train"]
    model = kd.DeepLabV3Plus.from_preset(row["name"], load_weights=False)
    assert model.classes[0] == NO_CLASS and model.num_classes == 151
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    image = picture(40, 56, 0)
    predicted = kd.segment(model, image)
    label = predicted.copy()
    label[:20] = 0
    label[20:22] = 150
    Image.fromarray(image).save(tmp_path / "images" / "0.png")
    Image.fromarray(label).save(tmp_path / "labels" / "0.png")
    scores = kd.evaluate(model, tmp_path / "images", tmp_path / "labels", reduce_zero_label=True, progress=False)
    counted = label != 0
    assert np.sum(scores["confusion"]) == counted.sum()
    assert scores["aAcc"] == pytest.approx(100 * np.mean(label[counted] == predicted[counted]))


@pytest.mark.slow
def test_evaluate_takes_the_rows_protocol(data, checkpoint, capsys):
    folders = ["--images", str(data / "images"), "--labels", str(data / "labels")]
    evaluate.main([ROW, *folders, "--weights", checkpoint, "--json", str(data / "scores.json")])
    assert "70.19" in capsys.readouterr().out
    model = kd.from_preset(ROW, weights=checkpoint)
    scores = kd.evaluate(model, data / "images", data / "labels", progress=False)
    assert json.loads((data / "scores.json").read_text())["mIoU"] == pytest.approx(scores["mIoU"])
