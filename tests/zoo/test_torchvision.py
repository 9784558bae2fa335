"""from_preset loads torchvision's rows and the files of its reference script; wrong files give one line."""

import argparse
import json
from collections import OrderedDict

import numpy as np
import pytest
from support import GOLDEN
from support.drawn import images
from support.narrow import build, drawn, tensors
from support.torch_files import legacy, released, tensor, zipped

import keras_deeplab as kd
from keras_deeplab.catalog import rows, torchvision
from keras_deeplab.catalog.protocol import UNLIMITED
from keras_deeplab.networks.layers import MEAN, STD

FACTS = json.loads((GOLDEN / "torchvision.json").read_text())
RESNET, RESNET_101, MOBILENET = FACTS
COUNTER = np.array(7, "int64")


@pytest.fixture(scope="module")
def weights():
    """The tensors of a narrow MobileNetV3's file, with its counters and auxiliary head."""
    found = tensors(build(MOBILENET, auxiliary_head=True))
    return found | {name.replace("running_var", "num_batches_tracked"): COUNTER for name in found if "_var" in name}


@pytest.fixture(scope="module")
def expected():
    return drawn(MOBILENET)


def write(path, weights, container=zipped, **beside):
    """Writes tensors as torch.save does: a bare state dict, or one under "model" with other entries beside it."""
    state = OrderedDict((name, tensor(array)) for name, array in weights.items())
    path.write_bytes(container({"model": state, **beside} if beside else state))
    return path


def load(path, row=MOBILENET, **options):
    return kd.DeepLabV3.from_preset(row, weights=path, **options)


def same_logits(model, other):
    return np.array_equal(model(images(33, 47)), other(images(33, 47)))


def first(weights, count):
    """The tensors with the classifiers of the first `count` classes."""
    return {
        name: np.ascontiguousarray(array[:count]) if "classifier.4." in name else array
        for name, array in weights.items()
    }


@pytest.mark.parametrize("name", FACTS)
def test_every_fact_of_a_row_is_that_of_its_weights(name):
    row, facts = rows.find(name), FACTS[name]
    assert facts["member"] == "COCO_WITH_VOC_LABELS_V1"
    for fact in ("url", "mIoU", "pixel_accuracy", "mebibytes"):
        assert getattr(row, fact) == facts[fact], fact
    assert row.all_parameters == facts["num_params"]
    assert list(row.classes) == facts["classes"]
    assert row.protocol == kd.Protocol("whole", resize=(UNLIMITED, *facts["resize_size"]), antialias=True)
    assert facts["antialias"] and np.allclose([MEAN, STD], 255 * np.array([facts["mean"], facts["std"]]), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTS)
def test_parameters_and_megabytes_are_the_networks(name):
    row, model = rows.find(name), kd.DeepLabV3.from_preset(name, load_weights=False, auxiliary_head=True)
    auxiliary = [layer.name for layer in model.layers if layer.name.startswith("aux_classifier-")]
    counts = {layer.name: sum(int(np.prod(w.shape)) for w in layer.trainable_weights) for layer in model.layers}
    assert sum(counts.values()) == row.all_parameters
    assert sum(counts[name] for name in auxiliary) == row.auxiliary_parameters == row.all_parameters - row.parameters
    assert 1.0 < row.megabytes / (4e-6 * model.count_params()) < 1.01


def test_names_find_the_rows_and_clash_with_none():
    assert kd.list_presets(dataset="coco_voc") == list(torchvision.ROWS) == list(FACTS)
    for name, row in torchvision.ROWS.items():
        short = f"{row.backbone}_coco_voc"
        assert rows.find(short, "DeepLabV3").name == rows.find(f"deeplabv3_{short}").name == name
    assert rows.find("deeplabv3_r50b_cityscapes").source == "OpenMMLab"
    assert "BSD-3-Clause" in kd.DeepLabV3.presets[RESNET]["licence"]


def test_a_released_file_in_the_cache_is_loaded(tmp_path, monkeypatch, weights, expected):
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path))
    row = rows.find(MOBILENET)
    write(tmp_path / row.file, weights)
    model = kd.from_preset("deeplabv3_mobilenet_v3_large_coco_voc")
    assert same_logits(model, expected)
    assert (model.row, model.classes, model.palette, model.protocol) == (
        MOBILENET,
        row.classes,
        row.palette,
        row.protocol,
    )


def test_a_file_of_the_reference_script_is_loaded_and_what_else_it_holds_is_inert(tmp_path, weights):
    own = {name: array for name, array in first(weights, 4).items() if not name.startswith("aux_")}
    beside = {
        "optimizer": {"state": {0: {"momentum_buffer": tensor(np.zeros(3, "float32"))}}, "param_groups": []},
        "lr_scheduler": {"total_iters": 100},
        "epoch": 3,
        "args": argparse.Namespace(model="deeplabv3_mobilenet_v3_large", lr=0.02, device="cuda"),
    }
    path = write(tmp_path / "model_3.pth", own, **beside)
    model = load(path)
    assert (model.num_classes, model.row, model.classes[3]) == (4, None, "class 3")
    with pytest.warns(UserWarning, match="model_3.pth has no auxiliary head: that of the model starts from random"):
        with_auxiliary = load(path, auxiliary_head=True)
    kernels = [np.asarray(with_auxiliary.get_layer(f"aux_classifier-{i}").kernel) for i in (0, 4)]
    assert all(np.std(kernel) > 0.01 for kernel in kernels)


@pytest.mark.slow
def test_another_class_count_keeps_all_but_the_classifiers_and_legacy_files_are_read(tmp_path, weights, expected):
    path = write(tmp_path / "old.pth", weights, legacy)
    assert same_logits(load(path), expected)
    with pytest.warns(UserWarning, match="has 21 classes and the model 4: the classifiers start from random weights"):
        fresh = load(path, num_classes=4, auxiliary_head=True)
    assert np.array_equal(fresh.get_layer("classifier-1").kernel, expected.get_layer("classifier-1").kernel)


@pytest.mark.slow
@pytest.mark.parametrize("stride, rates", [(8, (1, 24, 48, 72)), (32, (1, 6, 12, 18))])
def test_another_output_stride_takes_other_rates(tmp_path, weights, stride, rates):
    model = load(write(tmp_path / "x.pth", weights), output_stride=stride, dtype="mixed_bfloat16")
    assert model.get_config()["aspp_rates"] == rates and model(images(64, 96)).shape == (1, 64, 96, 21)


def test_wrong_files_are_named(tmp_path, weights):
    with pytest.raises(
        ValueError, match="of deeplabv3_resnet50_coco, DeepLabV3 on resnet50. Received: DeepLabV3 on mob"
    ):
        load(write(tmp_path / "x.pth", weights), RESNET)
    (tmp_path / "openmmlab.pth").write_bytes(released({"decode_head.conv_seg.weight": np.zeros((2, 2, 1, 1), "f4")}))
    for file in (
        tmp_path / "openmmlab.pth",
        write(tmp_path / "fcn.pth", {"backbone.layer1.0.conv1.weight": COUNTER, "classifier.0.weight": COUNTER}),
    ):
        with pytest.raises(ValueError, match="must hold weights of DeepLabV3 .* under torchvision's names"):
            load(file)
    with pytest.raises(ValueError, match="must hold weights of DeepLabV3 .* mmsegmentation's names"):
        kd.DeepLabV3.from_preset("r50b_cityscapes", weights=tmp_path / "x.pth")
    wrong = {name: array for name, array in weights.items() if name != "backbone.4.block.2.fc2.bias"}
    wrong["classifier.5.weight"] = np.zeros((1, 1, 1, 1), "float32")
    wrong["classifier.1.weight"] = np.zeros((16, 16, 1, 1), "float32")
    with pytest.raises(ValueError) as error:
        load(write(tmp_path / "wrong.pth", wrong))
    for part in (
        "1 tensors without a layer in the network: classifier.5.weight",
        "1 variables without a tensor: backbone-4-block-2-fc2/bias",
        "1 tensors of a wrong shape: classifier.1.weight (16, 16, 1, 1), not (16, 16, 3, 3)",
    ):
        assert part in str(error.value)


@pytest.mark.slow
def test_a_resnet_101s_file_is_not_a_resnet_50s(tmp_path):
    path = write(tmp_path / "x.pth", tensors(build(RESNET_101)))
    with pytest.raises(ValueError, match="DeepLabV3 on resnet50. Received: DeepLabV3 on resnet101"):
        load(path, RESNET)
    assert same_logits(load(path, RESNET_101), drawn(RESNET_101))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, prefix, behind", [(RESNET, "", "fc.weight"), (MOBILENET, "features.", "classifier.3.weight")]
)
def test_imagenet_weights_fill_the_backbone_alone(tmp_path, monkeypatch, name, prefix, behind):
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path))
    row, reference, model = rows.find(name), drawn(name), build(name)
    head = model.get_layer("classifier-4").get_weights()
    file = {
        prefix + key.removeprefix("backbone."): array
        for key, array in tensors(reference).items()
        if key.startswith("backbone.")
    }
    write(tmp_path / torchvision.IMAGENET[row.imagenet].rpartition("/")[2], file | {behind: np.zeros((2, 2), "f4")})
    kd.load_backbone(model, row.imagenet)
    for layer in model.layers:
        if layer.name.startswith("backbone-") and layer.weights:
            assert all(map(np.array_equal, layer.get_weights(), reference.get_layer(layer.name).get_weights()))
    assert all(map(np.array_equal, head, model.get_layer("classifier-4").get_weights()))
