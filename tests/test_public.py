"""What `import keras_deeplab` offers: a sorted list, all of it documented and annotated, found without deep imports."""

import inspect
import os
import platform
import subprocess
import sys
from types import ModuleType

import keras
import numpy as np
import pytest
from support import ROOT
from support.drawn import picture
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab.catalog import rows
from keras_deeplab.networks.fast import processor


def test_the_names_are_sorted_and_there():
    assert kd.__all__ == sorted(kd.__all__) and len(set(kd.__all__)) == len(kd.__all__)
    assert all(hasattr(kd, name) for name in kd.__all__)


@pytest.mark.parametrize("name", [name for name in kd.__all__ if name != "__version__"])
def test_every_public_name_is_documented_and_every_function_annotated(name):
    thing = getattr(kd, name)
    assert thing.__doc__ and len(thing.__doc__) > 60
    if inspect.isfunction(thing):
        assert "Args:" in thing.__doc__ or not inspect.signature(thing).parameters
        assert thing.__annotations__, name
    if isinstance(thing, ModuleType):
        for member in vars(thing).values():
            if inspect.isclass(member) and member.__module__ == thing.__name__ and member.__name__[0] != "_":
                assert member.__doc__, member


def test_the_public_face_passes_a_type_check():
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "setup.cfg"), "keras_deeplab/public.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    use = [*command[:-1], str(ROOT / "tests" / "support" / "typed_use.py")]
    done = subprocess.run(use, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_presets_are_listed_by_data_set_backbone_and_class():
    assert kd.list_presets() == list(rows.ROWS) and len(kd.list_presets(class_name="DeepLabV3Plus")) == 54
    (found,) = kd.list_presets(dataset="mapillary", details=True)
    assert found["name"] == "deeplabv3plus_r50-d8_4xb2-300k_mapillay_v1_65-1280x1280" and found["mIoU"] == 47.35
    assert found["source"] == "OpenMMLab" and found["license"] == found["licence"] and found["parameters"] > 4e7
    with pytest.raises(ValueError, match="`dataset` must be one of ade20k, .* Received: 'cityscape'"):
        kd.list_presets(dataset="cityscape")


def test_from_preset_finds_the_class():
    model = kd.from_preset("deeplabv3_r18_cityscapes", load_weights=False, output_stride=32)
    assert type(model) is kd.DeepLabV3 and model.row == rows.find("deeplabv3_r18_cityscapes").name
    with pytest.raises(ValueError, match="does not name the class of the model"):
        kd.from_preset("r101_cityscapes")


def test_an_overlay_takes_what_segment_takes(tmp_path):
    from PIL import Image

    array = picture(60, 80, seed=0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(array).save(tmp_path / "turned.jpg", exif=exif)
    model = drawn("deeplabv3plus_r18-d8_512x512_80k_loveda")
    for source in (array, Image.fromarray(array), tmp_path / "turned.jpg", (tmp_path / "turned.jpg").read_bytes()):
        labels = kd.segment(model, source)
        shown = kd.overlay(source, labels, model.classes, model.palette)
        assert shown.width == labels.shape[1] and shown.height > labels.shape[0]
        assert np.array_equal(kd.read_image(source).shape[:2], labels.shape)
    with pytest.raises(ValueError, match=r"A label map must .* \(60, 80\). Received: uint8 of shape \(80, 60\)"):
        kd.overlay(array, labels, model.classes, model.palette)
    with pytest.raises(ValueError, match="Received: float64"):
        kd.overlay(array, labels.T / 2, model.classes, model.palette)


def test_the_command_line_answers_without_tensorflow():
    code = "import sys; sys.argv[0] = 'keras-deeplab'; import keras_deeplab.commands as c; "
    code += "sys.argv[1:] = ['list', '--dataset', 'isaid']; c.main(); sys.exit('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "isaid" in done.stdout, done.stderr


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN is chosen on x86 alone")
@pytest.mark.parametrize(
    "first, value, expected",
    [("keras_deeplab", None, "1 True"), ("keras_deeplab", "0", "0 False"), ("tensorflow, keras_deeplab", None, "None")],
)
def test_tensorflow_uses_onednn_unless_it_or_the_user_was_first(first, value, expected):
    code = f"import {first}, os; from keras_deeplab.networks.fast import processor; "
    # Only oneDNN dilates them.
    code += "print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'), processor.dilates_depthwise_convolutions('float32'))"
    environment = {name: text for name, text in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {} if value is None else {"TF_ENABLE_ONEDNN_OPTS": value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(expected)
    warns = expected == "None" and processor.tensorflow_leaves_onednn_out()
    assert ("import keras_deeplab before keras and tensorflow" in done.stderr) == warns


@pytest.mark.parametrize(
    "features, expected",
    [
        ({"avx", "avx2"}, True),
        ({"avx", "avx2", "avx512f", "avx512_vnni"}, False),
        ({"avx", "avx_vnni"}, False),
        ({}, False),
    ],
)
def test_processors_on_which_tensorflow_leaves_onednn_out(features, expected, monkeypatch):
    monkeypatch.setattr(processor, "_features", lambda: frozenset(features))
    assert processor.tensorflow_leaves_onednn_out() == expected


def test_saved_models_are_found_by_importing_the_package_alone(tmp_path):
    drawn("deeplabv3plus_r18-d8_512x512_80k_loveda").save(tmp_path / "x.keras")
    code = "import keras, keras_deeplab, sys; print(type(keras.saving.load_model(sys.argv[1])).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x.keras"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "DeepLabV3Plus" and keras.__version__
