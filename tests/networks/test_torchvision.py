"""torchvision's networks give its logits, for the same drawn weights, at every output stride and size."""

import numpy as np
import pytest
from support.drawn import FULL_SIZES, SIZES, TORCHVISION_STRIDES, images, sample
from support.narrow import drawn, tensors
from support.torch_files import tensor, zipped

import keras_deeplab as kd
from keras_deeplab.catalog import rows
from keras_deeplab.networks.backbones import BACKBONES

QUICK = "deeplabv3_mobilenet_v3_large"
CASES = [(name, stride) for name, strides in TORCHVISION_STRIDES.items() for stride in strides]


def compare(outputs, golden, key, note=""):
    """Compares logits by output with those of a golden file."""
    for output, values in outputs.items():
        values = np.asarray(values)
        difference = np.abs(sample(values) - golden[f"{key}/{output}"]).max() / golden[f"{key}/{output}/std"]
        print(f"{key}/{output} {note}{difference:.1e}")
        assert values.dtype == np.float32 and difference <= 1e-4, (key, output, note)


def test_a_mobilenets_logits_equal_torchvisions_and_its_dropout_is_torchvisions(golden):
    model, (height, width) = drawn(QUICK, auxiliary_head=True), SIZES[-1]
    key = f"{QUICK}/os16/{height}x{width}"
    compare(model(images(height, width)), golden("torchvision"), key)
    compare({"logits": kd.fold_norms(model)(images(height, width))}, golden("torchvision"), key, "folded ")
    rates = [model.get_layer(layer).rate for layer in ("classifier-0-project-3", "aux_classifier-3")]
    assert rates == pytest.approx([0.5, 0.1])


@pytest.mark.slow
@pytest.mark.parametrize("name, stride", CASES)
def test_logits_equal_torchvisions(name, stride, golden):
    model = drawn(name, auxiliary_head=True, output_stride=stride)
    folded = kd.fold_norms(model)
    for height, width in SIZES:
        key = f"{name}/os{stride}/{height}x{width}"
        compare(model(images(height, width)), golden("torchvision"), key)
        compare({"logits": folded(images(height, width))}, golden("torchvision"), key, "folded ")


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION_STRIDES)
def test_full_size_logits_from_a_file_equal_torchvisions(name, golden, tmp_path, monkeypatch):
    row = rows.find(name)
    model = kd.DeepLabV3.from_preset(name, load_weights=False, auxiliary_head=True)
    file = {key: tensor(array) for key, array in tensors(model).items()}
    (tmp_path / row.file).write_bytes(zipped(file))
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path))
    model = kd.DeepLabV3.from_preset(name, auxiliary_head=True)
    folded = kd.fold_norms(model)
    for height, width in FULL_SIZES:
        key = f"{name}/os{row.output_stride}/{height}x{width}"
        compare(model(images(height, width)), golden("torchvision_full"), key)
        compare({"logits": folded(images(height, width))}, golden("torchvision_full"), key, "folded ")


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_a_mobilenet_v3_has_features_of_the_promised_strides(output_stride):
    import keras

    x = keras.Input((65, 97, 3))
    build = BACKBONES["mobilenet_v3_large"].build
    features = build(x, output_stride=output_stride, multi_grid=None, base_channels=16)
    strides = (4, 8, min(16, output_stride), output_stride)
    assert [f.shape for f in features] == [
        (None, -(-65 // stride), -(-97 // stride), channels)
        for stride, channels in zip(strides, (24, 40, 80, 960), strict=True)
    ]


def test_torchvisions_head_has_no_decoder():
    with pytest.raises(ValueError, match="needs a backbone whose head has a decoder, such as 'r50b'.* 'resnet50'"):
        kd.DeepLabV3Plus(3, backbone="resnet50")
