"""Every tensor of a file is used or named in an error, and every variable is set."""

import hashlib
import json
import math

import numpy as np
import pytest
from support import GOLDEN
from support.narrow import build, one_of_each_structure, tensor_shapes, tensors

import keras_deeplab as kd
from keras_deeplab.catalog import openmmlab, rows
from keras_deeplab.networks.backbones import BACKBONES
from keras_deeplab.zoo.assign import architecture, assign, mobilenet_v2

SHAPES = json.loads((GOLDEN / "shapes.json").read_text())["rows"]
ROW = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
MOBILENET = "deeplabv3plus_m-v2-d8_512x1024_80k_cityscapes"
RESNEST = "deeplabv3plus_s101-d8_512x512_160k_ade20k"
ROW_OF_SHAPES = {digest: name for name, digest in SHAPES.items()}  # one row for each of the 43 sets of tensors


def test_released_tensors_come_in_43_sets():
    assert len(ROW_OF_SHAPES) == 43 and set(SHAPES) == set(openmmlab.ROWS)


@pytest.mark.parametrize("name", one_of_each_structure(ROW_OF_SHAPES.values()))
def test_full_size_networks_have_the_released_tensors(name):
    row = rows.find(name)
    shapes = tensor_shapes(getattr(kd, row.class_name)(**row.architecture, auxiliary_head=True))
    text = json.dumps(sorted([name, list(shape)] for name, shape in shapes.items()))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == SHAPES[name]


def test_kernels_are_transposed_and_statistics_go_where_they_belong():
    model = build(ROW, auxiliary_head=True)
    arrays = tensors(model)
    assert assign(model, {**arrays, "backbone.stem.1.num_batches_tracked": np.array(7)}) == [
        "backbone.stem.1.num_batches_tracked"
    ]
    dense, depthwise = "backbone.stem.3.weight", "decode_head.sep_bottleneck.0.depthwise_conv.conv.weight"
    assert np.array_equal(model.get_layer("backbone-stem-3").kernel, arrays[dense].transpose(2, 3, 1, 0))
    layer = model.get_layer("decode_head-sep_bottleneck-0-depthwise_conv-conv")
    assert np.array_equal(layer.kernel, arrays[depthwise].transpose(2, 3, 0, 1))
    norm = model.get_layer("backbone-stem-1")
    for leaf, variable in (
        ("running_mean", norm.moving_mean),
        ("running_var", norm.moving_variance),
        ("weight", norm.gamma),
    ):
        assert np.array_equal(variable, arrays[f"backbone.stem.1.{leaf}"])


def test_tensors_of_an_auxiliary_head_that_the_model_lacks_are_ignored():
    model = build(ROW)
    ignored = assign(model, tensors(build(ROW, auxiliary_head=True)))
    assert ignored and all(name.startswith("auxiliary_head.") for name in ignored)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: t.pop("decode_head.bottleneck.bn.bias"),
            "1 variables without a tensor: decode_head-bottleneck-bn/beta",
        ),
        (
            lambda t: t.update({"backbone.layer9.weight": np.zeros(3)}),
            "1 tensors without a layer in the network: backbone.layer9.weight",
        ),
        (
            lambda t: t.update({"decode_head.conv_seg.bias": np.zeros(3)}),
            r"1 tensors of a wrong shape: decode_head.conv_seg.bias \(3,\)",
        ),
    ],
)
def test_a_misfit_is_named_and_nothing_is_changed(change, message):
    model = build(ROW)
    arrays, before = tensors(model), model.get_weights()
    change(arrays)
    with pytest.raises(ValueError, match=message):
        assign(model, arrays)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "deeplabv3_r101-d8_512x1024_40k_cityscapes",
        "deeplabv3plus_r50b-d8_769x769_80k_cityscapes",
        ROW,
        MOBILENET,
        RESNEST,
    ],
)
def test_shapes_tell_the_architecture(name):
    row = rows.find(name)
    class_name, options = architecture(tensors(build(name, auxiliary_head=True)))
    config = build(name, auxiliary_head=True).get_config()
    assert class_name == row.class_name and options == {key: config[key] for key in options}
    widths = {"aspp_channels", "auxiliary_channels", *BACKBONES[row.backbone].widths}
    assert {"num_classes", "backbone", *widths} <= set(options)


@pytest.mark.parametrize("widen_factor", [0.35, 0.5, 0.75, 1.0, 1.4])
def test_the_widths_of_a_mobilenet_tell_its_base_channels(widen_factor):
    # mmsegmentation's `widen_factor` need not be a whole number of channels: some `base_channels` gives the same widths.
    widths = [make_divisible(width * widen_factor) for width in (32, 16, 24, 32, 64, 96, 160, 320)]
    names = ["conv1.conv", "layer1.0.conv.1.conv", *(f"layer{stage}.0.conv.2.conv" for stage in range(2, 8))]
    tensors = {f"backbone.{name}.weight": np.zeros((width, 1)) for name, width in zip(names, widths, strict=True)}
    base_channels = mobilenet_v2(tensors)["base_channels"]
    model = kd.DeepLabV3(2, backbone="mobilenetv2", base_channels=base_channels, aspp_channels=8)
    shapes = tensor_shapes(model)
    assert [shapes[f"backbone.{name}.weight"][0] for name in names] == widths


def make_divisible(value):
    """mmsegmentation's rounding of MobileNetV2's widths, as its documentation defines it."""
    rounded = max(8, 8 * math.floor(value / 8 + 0.5))
    return rounded + 8 if rounded < 0.9 * value else rounded


def test_other_tensors_are_no_architecture():
    assert architecture({"fc.weight": np.zeros((2, 2))}) is None
