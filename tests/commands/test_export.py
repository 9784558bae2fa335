"""`keras-deeplab export`: what it writes and prints, and one line for options that contradict."""

import re

import keras
import pytest
import tensorflow as tf
from PIL import Image
from support.drawn import picture
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab.commands import export
from keras_deeplab.serving import verify

NAME = "deeplabv3plus_r18-d8_512x512_80k_loveda"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with three pictures and model.keras, a model whose protocol has a small box."""
    folder = tmp_path_factory.mktemp("export")
    drawn(NAME, protocol=kd.Protocol("whole", resize=(128, 96))).save(folder / "model.keras")
    (folder / "pictures").mkdir()
    for i, size in enumerate([(60, 80), (33, 47), (97, 65)]):
        Image.fromarray(picture(*size, seed=i)).save(folder / "pictures" / f"{i}.png")
    return folder


def run(here, *options):
    export.main([NAME, "--weights", str(here / "model.keras"), *map(str, options)])


@pytest.mark.slow
def test_int8_is_calibrated_and_its_cost_printed(here, tmp_path, capfd):
    run(here, "--to", tmp_path, "--int8", here / "pictures", "--size", 60, 80)
    printed = capfd.readouterr().out
    assert "same label as float32, pictures: 3" in printed
    assert re.search(r"mIoU, .* \d+\.\d\d, a loss of \d+\.\d\d", printed)
    assert {path.name for path in tmp_path.iterdir()} == {"model_int8.tflite", "model_int8.json"}


@pytest.mark.slow
def test_true_labels_score_the_variant_and_float32(here, tmp_path, capfd):
    model = keras.saving.load_model(here / "model.keras")
    (tmp_path / "labels").mkdir()
    for file in (here / "pictures").iterdir():
        Image.fromarray(kd.segment(model, file)).save(tmp_path / "labels" / file.name)
    run(here, "--to", tmp_path / "1", "--precision", "bfloat16", "--calibration", here / "pictures",
        "--labels", tmp_path / "labels")  # fmt: skip
    assert re.search(r"mIoU with the true labels .*\d+\.\d\d, float32 100.00", capfd.readouterr().out)


def test_a_fifth_of_the_pictures_is_kept_from_the_calibration(tmp_path):
    for number in range(11):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number:02}.png")
    calibration, compared = verify.choose_files(tmp_path, for_int8=True)
    assert [len(calibration), len(compared)] == [9, 2] and not set(calibration) & set(compared)
    assert [len(files) for files in verify.choose_files(tmp_path)] == [0, 11]
    for file in sorted(tmp_path.iterdir())[3:]:
        file.unlink()
    calibration, compared = verify.choose_files(tmp_path, for_int8=True)
    assert calibration == compared and len(compared) == 3


@pytest.mark.slow
def test_versions_variants_and_configurations(here, tmp_path, capsys):
    run(here, "--to", tmp_path, "--name", "land", "--max-pixels", 10_000, "--this-processor")
    run(here, "--to", tmp_path, "--name", "land", "--precision", "bfloat16", "--calibration", here / "pictures")
    run(here, "--to", tmp_path, "--name", "land", "--size", 60, 80, "--palette")
    assert {path.name for path in (tmp_path / "land").iterdir()} == {"1", "2", "3"}
    assert {path.name for path in tmp_path.glob("*.*")} >= {"models.config", "docker-compose.yml"}
    printed = capsys.readouterr().out
    assert printed.count("equal") >= 6 and printed.count("same label as float32, pictures: 3") == 1
    first = tf.saved_model.load(tmp_path / "land" / "1").signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 10000 pixels"):
        first(image_bytes=[tf.io.encode_png(picture(101, 100, seed=0)).numpy()])


@pytest.mark.slow
def test_litert_and_onnx_are_run_and_compared(here, tmp_path, capfd):
    run(here, "--to", tmp_path, "--litert")
    pytest.importorskip("tf2onnx", reason="needs tf2onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    run(here, "--to", tmp_path, "--onnx", "--calibration", here / "pictures")
    printed = capfd.readouterr().out
    assert "pictures: 1" in printed and "pictures: 3" in printed and "100.000 % of the pixels" in printed


@pytest.mark.parametrize("options, message", [
    (("--onnx", "--precision", "bfloat16"), "--precision is for SavedModel only. Received: --precision for ONNX"),
    (("--litert", "--name", "x"), "--name is for SavedModel and OpenVINO only. Received: --name for LiteRT"),
    (("--onnx", "--int8", "."), "--int8 is for LiteRT and OpenVINO only. Received: --int8 for ONNX"),
    (("--litert", "--multi-scale-flip"), "--multi-scale-flip is for SavedModel and OpenVINO only"),
    (("--onnx", "--this-processor"), "--this-processor is for SavedModel only"),
    (("--labels", "."), "--labels are those of the pictures of --calibration or --int8"),
    (("--openvino", "--multi-scale-flip"), "--multi-scale-flip in an OpenVINO model needs --size"),
    (("--calibration", "{pictures}", "--labels", "{empty}"), "holds no PNG|has no label"),
    (("--int8", ".", "--calibration", "."), "--int8 names the folder of pictures already"),
    (("--palette", "--calibration", "."), "--calibration compares class ids. Received: --palette too"),
    (("--int8", "nowhere"), "There is no folder 'nowhere'"),
    (("--calibration", "{empty}"), "holds no JPG"),
    (("--name", "a/b"), "A model's name must consist of letters"),
])  # fmt: skip
def test_options_that_contradict_are_refused_before_anything_is_written(options, message, here, tmp_path):
    (tmp_path / "empty").mkdir()
    options = [option.format(empty=tmp_path / "empty", pictures=here / "pictures") for option in options]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(here, "--to", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
