"""Files that users bring: one output, no auxiliary head, ImageNet layouts, shapes that lie, weights files by order."""

import numpy as np
import pytest
from support.drawn import images
from support.narrow import build, drawn, tensors
from support.torch_files import released

import keras_deeplab as kd
from keras_deeplab.zoo.one_output import threshold_in
from keras_deeplab.zoo.presets import has_backbone_only

NAME = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
CFG = """
# model = dict(decode_head=dict(threshold=0.9))
early = dict(threshold=0.1)
model = dict(
    type='EncoderDecoder', note='decode_head=dict(threshold=0.8)',
    auxiliary_head=dict(num_classes=2, threshold=0.7),
    decode_head=dict(loss=dict(threshold=0.6), dilations=(1, 12), out_channels=1, threshold=0.45, num_classes=2))
"""


@pytest.fixture(scope="module")
def weights():
    return tensors(build(NAME, auxiliary_head=True))


@pytest.fixture
def save(tmp_path):
    def save(tensors, **meta):
        (tmp_path / "mine.pth").write_bytes(released(tensors, **meta))
        return tmp_path / "mine.pth"

    return save


def load(path, **options):
    return kd.DeepLabV3Plus.from_preset(NAME, weights=path, **options)


def one_output(weights):
    return {name: array[:1] if ".conv_seg." in name else array for name, array in weights.items()}


def test_one_output_is_a_model_of_two_classes(save, weights):
    path = save(
        one_output(weights), dataset_meta={"classes": ("ground", "road"), "palette": [[1, 2, 3], [4, 5, 6]]}, cfg=CFG
    )
    model = load(path)
    assert (model.num_classes, model.classes, model.threshold) == (2, ("ground", "road"), 0.45)
    assert model.palette == ((1, 2, 3), (4, 5, 6)) and model.get_config()["out_channels"] == 1
    assert np.allclose(model(images(33, 47))[..., 0], drawn(NAME)(images(33, 47))[..., 0], atol=1e-4)
    assert load(path, num_classes=2, threshold=0.6).threshold == 0.6
    with pytest.raises(ValueError, match="one output has two classes.* Received: num_classes=1"):
        load(path, num_classes=1)
    with pytest.warns(UserWarning, match="has 1 outputs and the model 2: the classifiers start from random"):
        assert load(path, num_classes=2, out_channels=2)(images(33, 47)).shape[-1] == 2


def test_one_output_of_one_class_gets_a_background(save, weights):
    with pytest.warns(UserWarning, match="one output and one class, 'road'"):
        model = load(save(one_output(weights), CLASSES=("road",), PALETTE=[[4, 5, 6]]))
    assert (model.classes, model.threshold, model.palette) == (("background", "road"), 0.3, ((0, 0, 0), (4, 5, 6)))


def test_a_fresh_single_output(save, weights):
    with pytest.warns(UserWarning, match="has 19 classes and the model 2"):
        model = load(save(weights), out_channels=1, threshold=0.5)
    assert (model.num_classes, model.threshold, model(images(33, 47)).shape[-1]) == (2, 0.5, 1)
    with pytest.raises(ValueError, match="threshold is for a model of one output"):
        load(save(weights), threshold=0.5)


def test_a_keras_file_keeps_its_output_and_what_is_frozen(tmp_path):
    path = tmp_path / "mine.keras"
    row = dict(num_classes=2, classes=None, palette=None, row=None)
    drawn(NAME, **row, out_channels=1, threshold=0.4, frozen=["backbone-stem-0", "decode_head-conv_seg"]).save(path)
    model = load(path)
    assert model.threshold == 0.4 and model.get_config()["frozen"] == ["backbone-stem-0", "decode_head-conv_seg"]
    model.threshold = 0.6
    assert type(model).from_config(model.get_config()).threshold == 0.6
    with pytest.warns(UserWarning, match="classes"):
        model = load(path, num_classes=5)
    assert model.threshold is None and model.get_config()["frozen"] == ["backbone-stem-0"]


@pytest.mark.parametrize(
    "text, threshold",
    [(CFG, 0.45), ("model = dict(decode_head=dict(threshold=x))", None), ("", None), (3, None), ("((" * 10**5, None),
     ("model = dict(decode_head=[dict(threshold=0.5)])", None), ("model=dict(decode_head=dict(threshold=7.0))", None)],
)  # fmt: skip
def test_a_threshold_is_read_where_it_is_plainly_there(text, threshold):
    assert threshold_in({"cfg": text}) == threshold_in({"config": text}) == threshold


def test_a_file_without_an_auxiliary_head_gets_a_fresh_one(save, weights):
    path = save({name: array for name, array in weights.items() if not name.startswith("auxiliary_head")})
    with pytest.warns(UserWarning, match="mine.pth has no auxiliary head"):
        outputs = load(path, auxiliary_head=True)(images(33, 47))
    assert np.array_equal(outputs["logits"], load(path)(images(33, 47))) and np.std(outputs["auxiliary"]) > 0


def test_what_lies_beside_the_layers_is_ignored_but_another_normalisation_refused(save, weights):
    extra = {
        "decode_head.loss_decode.class_weight": np.ones(19, "f4"),
        "data_preprocessor.std": np.array([58.395, 57.12, 57.375]),
    }
    load(save(weights | extra))
    with pytest.raises(ValueError, match="data_preprocessor.mean of mine.pth must be"):
        load(save(weights | {"data_preprocessor.mean": np.zeros((3, 1, 1), "f4")}))


@pytest.mark.parametrize("shape", [(2**20, 0, 1, 1), (2**17, 1, 1, 1)])
@pytest.mark.parametrize(
    "name", ["backbone.layer1.0.conv1.weight", "decode_head.conv_seg.weight", "decode_head.bottleneck.conv.weight"]
)
def test_shapes_cannot_claim_more_than_the_file_has(save, weights, name, shape):
    with pytest.raises(ValueError, match="mine.pth.* Received: "):
        load(save(weights | {name: np.zeros(shape, "f4")}))


def test_imagenet_files_in_other_layouts(save, weights):
    own = {name: array for name, array in weights.items() if name.startswith("backbone.")}
    for tensors_ in (
        {**own, "head.fc.weight": np.zeros((10, 128), "f4")},
        weights,
        {f"model.{n}": a for n, a in own.items()},
    ):
        model = build(NAME)
        kd.load_backbone(model, save(tensors_))
        assert np.array_equal(model.get_layer("backbone-stem-1").gamma, weights["backbone.stem.1.weight"])


def as_resnests_release_names(name):
    """OpenMMLab's name of a backbone's tensor in the files of ResNeSt's own release."""
    if name.startswith("stem.7."):
        return "bn1." + name.removeprefix("stem.7.")
    return "conv1." + name.removeprefix("stem.") if name.startswith("stem.") else name


@pytest.mark.slow
def test_resnests_imagenet_files_fill_the_backbone(save):
    """The file that OpenMMLab's configurations name, converted from ResNeSt's release, and the file of that release."""
    row = "deeplabv3plus_s101-d8_512x512_160k_ade20k"
    whole = tensors(build(row))
    converted = {n.removeprefix("backbone."): a for n, a in whole.items() if n.startswith("backbone.")}
    released = {as_resnests_release_names(name): array for name, array in converted.items()}
    assert {"conv1.0.weight", "conv1.6.weight", "bn1.running_var", "layer1.0.conv2.bn0.weight"} <= released.keys()
    released |= {"fc.weight": np.zeros((10, 8), "f4"), "bn1.num_batches_tracked": np.array(7)}
    expected = drawn(row)
    for file in (converted, released):
        model = build(row)
        head = model.get_layer("decode_head-conv_seg").get_weights()
        path = save(file)
        assert has_backbone_only(path)
        kd.load_backbone(model, path)
        for layer in model.layers:
            if layer.weights and layer.name.startswith("backbone-"):
                assert all(map(np.array_equal, layer.get_weights(), expected.get_layer(layer.name).get_weights()))
        assert all(map(np.array_equal, head, model.get_layer("decode_head-conv_seg").get_weights()))
    with pytest.raises(ValueError, match="1 tensors without a layer in the network: backbone.stem.8.weight"):
        kd.load_backbone(model, save(released | {"conv1.8.weight": np.zeros((3, 3), "f4")}))


def test_files_with_a_backbone_only_are_told_apart(save, weights, tmp_path):
    own = {name.removeprefix("backbone."): a for name, a in weights.items() if name.startswith("backbone.")}
    assert has_backbone_only(save(own)) and not has_backbone_only(save(weights))
    assert has_backbone_only(
        save({f"backbone.{name}": a for name, a in own.items()} | {"head.fc.bias": np.zeros(3, "f4")})
    )
    drawn(NAME).save(tmp_path / "m.keras")
    assert not has_backbone_only(tmp_path / "m.keras")


def test_the_other_set_of_weights_is_loaded_on_request(save, weights):
    name = "backbone.stem.0.weight"
    path = save(weights | {"ema_" + name.replace(".", "_"): weights[name] + 1})
    plain, averaged = (load(path, ema=ema).get_layer("backbone-stem-0").kernel for ema in (False, True))
    assert np.allclose(averaged - plain, 1)


def test_weights_by_order_are_refused_where_the_layers_differ(tmp_path):
    path = tmp_path / "m.weights.h5"
    model = drawn(NAME)
    model.save_weights(path)
    for skip in (False, True):
        with pytest.raises(ValueError, match="must have the layers of this model.* the file lacks: auxiliary_head"):
            build(NAME, auxiliary_head=True).load_weights(path, skip_mismatch=skip)
    other = build(NAME)
    other.load_weights(path)
    assert np.array_equal(other(images(33, 47)), model(images(33, 47)))
    fewer = build(NAME, num_classes=5, classes=None, palette=None, row=None)
    fewer.load_weights(path, skip_mismatch=True)
    assert np.array_equal(fewer.get_layer("backbone-stem-0").kernel, model.get_layer("backbone-stem-0").kernel)
