"""from_preset loads the authors' rows from every kind of file, also a user's own; wrong files give one line."""

import keras
import numpy as np
import pytest
from support.authors import build, drawn, files_of, variables, write_archive, write_checkpoint, write_frozen_graph
from support.drawn import images

import keras_deeplab as kd
from keras_deeplab.catalog import authors, rows

HALF = "mobilenetv2_dm05_coco_voc_trainaug"
XCEPTION = "xception65_coco_voc_trainaug"


@pytest.fixture(scope="module")
def half():
    """The variables of the half-width row, which is small enough at full size."""
    return variables(kd.DeepLabV3.from_preset(HALF, load_weights=False))


@pytest.fixture(scope="module")
def checkpoint(half, tmp_path_factory):
    slots = {f"{name}/Momentum": 0 * array for name, array in half.items() if "moving" not in name}
    averages = {
        f"{name}/ExponentialMovingAverage": array + 1 for name, array in half.items() if name.endswith("biases")
    }
    return write_checkpoint(half | slots | averages, tmp_path_factory.mktemp("run") / "model.ckpt")


def logits(model):
    return np.asarray(model(images(33, 47)))


@pytest.fixture(scope="module")
def expected(half):
    model = kd.DeepLabV3.from_preset(HALF, load_weights=False)
    kd.zoo.assign.assign(model, half, names=kd.zoo.assign.TENSORFLOW)
    return logits(model)


def test_a_released_archive_in_the_cache_is_loaded(tmp_path, monkeypatch, half, checkpoint, expected):
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path))
    row = rows.find(HALF)
    write_archive(
        tmp_path / row.file, {f"deeplabv3/model.ckpt{end}": data for end, data in files_of(checkpoint).items()}
    )
    model = kd.from_preset("deeplabv3_mobilenetv2_dm05_voc12aug")
    assert np.array_equal(logits(model), expected)
    assert (model.row, model.classes, model.palette, model.protocol) == (HALF, row.classes, row.palette, row.protocol)
    assert sorted(path.name for path in tmp_path.iterdir()) == [row.file, f"{row.file}.sha256"]


def test_checkpoints_and_frozen_graphs_give_the_same_model(tmp_path, half, checkpoint, expected):
    graph = write_frozen_graph(half, tmp_path / "frozen_inference_graph.pb")
    for weights in (checkpoint, f"{checkpoint}.index", graph):
        assert np.array_equal(logits(kd.DeepLabV3.from_preset(HALF, weights=weights)), expected)
    with pytest.raises(ValueError, match="sha256= is for a single file"):
        kd.DeepLabV3.from_preset(HALF, weights=checkpoint, sha256="0" * 64)


def test_moving_averages_are_taken_on_request(checkpoint, half):
    plain, averaged = (kd.DeepLabV3.from_preset(HALF, weights=checkpoint, ema=ema) for ema in (False, True))
    bias = [model.get_layer("logits-semantic").bias for model in (plain, averaged)]
    assert np.array_equal(bias[0], half["logits/semantic/biases"]) and np.array_equal(bias[1], bias[0] + 1)


def test_a_checkpoint_of_other_classes_gives_a_model_of_these_classes(tmp_path, half):
    own = {
        name: np.ascontiguousarray(array[..., :4]) if name.startswith("logits/") else array
        for name, array in half.items()
    }
    path = write_checkpoint(own, tmp_path / "model.ckpt", step=7)
    model = kd.DeepLabV3.from_preset(HALF, weights=path)
    assert model.num_classes == 4 and model.row is None and model.classes == tuple(f"class {i}" for i in range(4))
    with pytest.warns(
        UserWarning, match="model.ckpt-7 has 4 classes and the model 3: the classifiers start from random"
    ):
        model = kd.DeepLabV3.from_preset(HALF, weights=path, num_classes=3)
    assert np.array_equal(model.get_layer("aspp0").kernel, half["aspp0/weights"])


@pytest.mark.parametrize("output_stride, size", [(8, (9, 13)), (32, (3, 4))])
def test_other_output_strides_keep_the_weights(checkpoint, output_stride, size):
    model = kd.DeepLabV3.from_preset(HALF, weights=checkpoint, output_stride=output_stride)
    scores = keras.Model(model.input, model.get_layer("logits").input[0])(images(65, 97).astype("float32"))
    assert scores.shape[1:3] == size


def test_wrong_files_are_named(tmp_path, half, checkpoint):
    with pytest.raises(
        ValueError, match="DeepLabV3 on mobilenetv2_tf with base_channels=32.* Received: .*base_channels=16"
    ):
        kd.DeepLabV3.from_preset("mobilenetv2_coco_voc_trainaug", weights=checkpoint)
    with pytest.raises(ValueError, match="DeepLabV3Plus on xception65 .* Received: DeepLabV3 on mobilenetv2_tf"):
        kd.DeepLabV3Plus.from_preset(XCEPTION, weights=checkpoint)
    with pytest.raises(ValueError, match="must hold weights of DeepLabV3 .* names of the authors' TensorFlow code"):
        kd.DeepLabV3.from_preset(HALF, weights=write_checkpoint({"fc/weights": np.zeros(2)}, tmp_path / "other"))
    lacking = {name: array for name, array in half.items() if name != "aspp0/BatchNorm/beta"}
    with pytest.raises(ValueError, match="Received: 1 variables without a tensor: aspp0-BatchNorm/beta"):
        kd.DeepLabV3.from_preset(HALF, weights=write_checkpoint(lacking, tmp_path / "lacking"))
    more = half | {"aspp1_pointwise/weights": np.zeros((1, 1, 160, 256), "float32")}
    with pytest.raises(ValueError, match="1 tensors without a layer in the network: aspp1_pointwise/weights"):
        kd.DeepLabV3.from_preset(HALF, weights=write_checkpoint(more, tmp_path / "more"))
    wrong = half | {"aspp0/weights": np.zeros((1, 1, 3, 256), "float32")}
    with pytest.raises(ValueError, match=r"wrong shape: aspp0/weights \(1, 1, 3, 256\), not \(1, 1, 160, 256\)"):
        kd.DeepLabV3.from_preset(HALF, weights=write_checkpoint(wrong, tmp_path / "wrong"))


@pytest.mark.slow
def test_a_model_without_decoder_or_cell_is_not_one_with_it(tmp_path):
    path = write_checkpoint(variables(build("mobilenetv2", base_channels=32)), tmp_path / "flat")
    with pytest.raises(
        ValueError, match="network of mobilenetv2_ade20k_train, DeepLabV3Plus on .* Received: DeepLabV3 on"
    ):
        kd.from_preset("mobilenetv2_ade20k_train", weights=path)
    path = write_checkpoint(variables(build("xception71_dpc", dense_prediction_cell=False)), tmp_path / "no_cell")
    with pytest.raises(ValueError, match="dense_prediction_cell=True. Received: .*dense_prediction_cell=False"):
        kd.from_preset("xception71_dpc_cityscapes_trainfine", weights=path)


@pytest.mark.slow
def test_a_narrow_xception_loads_by_its_shapes(tmp_path):
    path = write_checkpoint(variables(build("xception65", num_classes=21)), tmp_path / "model.ckpt")
    model = kd.DeepLabV3Plus.from_preset(XCEPTION, weights=path)
    assert model.get_config()["base_channels"] == 8 and model.row == XCEPTION
    assert np.array_equal(logits(model), logits(drawn("xception65", num_classes=21, output_stride=16)))


def test_a_backbone_is_filled_from_its_own_file_and_from_a_whole_models(tmp_path):
    model, source = build("mobilenetv2"), drawn("mobilenetv2")
    arrays = variables(source)
    backbone = {name: array for name, array in arrays.items() if name.startswith("MobilenetV2/")}
    classifier = {
        "MobilenetV2/Logits/Conv2d_1c_1x1/weights": np.zeros((1, 1, 8, 10), "float32"),
        "global_step": np.array(5),
    }
    for number, contents in enumerate((backbone | classifier, arrays)):
        head = model.get_layer("logits-semantic").get_weights()
        kd.load_backbone(model, write_checkpoint(contents, tmp_path / f"m{number}"))
        for layer in model.layers:
            if layer.name.startswith("MobilenetV2-") and layer.weights:
                assert all(map(np.array_equal, layer.get_weights(), source.get_layer(layer.name).get_weights()))
        assert all(map(np.array_equal, head, model.get_layer("logits-semantic").get_weights()))
    with pytest.raises(ValueError, match="must be those of DeepLabV3. Received: .* of a wrong shape"):
        kd.load_backbone(build("mobilenetv2", base_channels=9), write_checkpoint(backbone, tmp_path / "other"))


def test_files_of_the_other_source_are_refused_with_the_remedy(tmp_path, checkpoint):
    from support.narrow import build as build_openmmlab
    from support.narrow import tensors
    from support.torch_files import released

    row = "deeplabv3_m-v2-d8_512x1024_80k_cityscapes"
    with pytest.raises(
        ValueError, match="under mmsegmentation's names .* Received: MobilenetV2/Conv/BatchNorm/beta, .*"
    ):
        kd.from_preset(row, weights=checkpoint)
    other = build_openmmlab(row)
    with pytest.raises(ValueError, match="This is a file of the authors' TensorFlow code: .* 'mobilenetv2_tf'"):
        kd.load_backbone(other, checkpoint)
    (tmp_path / "x.pth").write_bytes(released(tensors(other)))
    with pytest.raises(ValueError, match="must be a TensorFlow checkpoint, .* Received: .*PyTorch"):
        kd.load_backbone(build("mobilenetv2"), tmp_path / "x.pth")


def test_rows_state_what_was_published():
    assert len(authors.ROWS) == 12
    details = {row["name"]: row for row in kd.list_presets(details=True) if row["source"] == authors.SOURCE}
    row = details[XCEPTION]
    assert (row["mIoU"], row["mIoU_ms_flip"], row["class_name"]) == (82.20, 83.58, "DeepLabV3Plus")
    assert row["url"] == "http://download.tensorflow.org/models/deeplabv3_pascal_train_aug_2018_01_04.tar.gz"
    assert row["licence"].startswith("Apache-2.0 (tensorflow/models). Trained on Pascal VOC 2012 + Aug: ")
    assert details["xception65_coco_voc_trainval"]["mIoU"] is None
    assert rows.find("xception65_coco_voc_trainval").mIoU_test == 87.80
    assert {row.name: row.num_classes for row in authors.ROWS.values() if row.dataset == "ade20k"} == {
        "mobilenetv2_ade20k_train": 151,
        "xception65_ade20k_train": 151,
    }
    assert kd.DeepLabV3Plus.from_preset(
        "xception65_ade20k", load_weights=False, output_stride=8
    ).protocol == kd.Protocol("whole", resize=(513, 513), pad=(513, 513), step=8)


@pytest.mark.parametrize(
    "name",
    [HALF, "mobilenetv2_coco_cityscapes_trainfine", "mobilenetv2_ade20k_train"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in (XCEPTION, "xception71_dpc_cityscapes_trainval")],
)
def test_parameters_are_the_networks(name):
    model, row = kd.from_preset(name, load_weights=False), rows.find(name)
    assert row.parameters == sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert 1.8 < row.megabytes / (4e-6 * model.count_params()) < 3  # archives hold weights twice or more, compressed


@pytest.mark.parametrize("class_name, short, name", [
    ("DeepLabV3Plus", "xception65_voc12aug", XCEPTION),
    ("DeepLabV3Plus", "xception71_cityscapes", "xception71_dpc_cityscapes_trainfine"),
    ("DeepLabV3Plus", "xception65_ade20k", "xception65_ade20k_train"),
    ("DeepLabV3", "mobilenetv2_dm05_voc12aug", HALF),
    ("DeepLabV3", "mobilenetv2_voc12aug", "mobilenetv2_coco_voc_trainaug"),
])  # fmt: skip
def test_short_names_find_the_best_row_with_a_published_figure(class_name, short, name):
    assert rows.find(short, class_name).name == name
