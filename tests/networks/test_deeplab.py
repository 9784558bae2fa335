"""Calls change no variable of a model, any size and dtype is accepted, files keep everything, and errors name the rule."""

import hashlib
import inspect

import keras
import numpy as np
import pytest
from support.drawn import images
from support.narrow import build, drawn

import keras_deeplab as kd
from keras_deeplab.networks.backbones import BACKBONES
from keras_deeplab.zoo.presets import at_output_stride

ROW = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
DENSE = "deeplabv3_r50-d8_769x769_80k_cityscapes"
D16 = "deeplabv3_r101-d16-mg124_512x1024_80k_cityscapes"
MOBILENET = "deeplabv3plus_m-v2-d8_512x1024_80k_cityscapes"
RESNEST = "deeplabv3_s101-d8_512x1024_80k_cityscapes"


@pytest.fixture(scope="module")
def model():
    return drawn(ROW)


def relative(a, b):
    """The largest difference over the standard deviation."""
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.std(b))


def test_calling_a_model_changes_no_variable(model):
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]
    model(images(33, 47))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.variables, strict=True))


@pytest.mark.parametrize("name", [ROW, DENSE])
def test_a_batch_of_two_equals_two_batches_of_one(name):
    model, x = drawn(name), images(65, 97, count=2)
    singles = np.concatenate([model(x[:1]), model(x[1:])])
    assert relative(model(x), singles) <= 1e-5


def test_uint8_and_float_pictures_give_the_same_logits(model):
    x = images(33, 47)
    assert np.array_equal(model(x), model(x.astype("float32")))
    assert np.array_equal(model(x), model(x.astype("float64")))


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (31, 5), (130, 40)])
@pytest.mark.parametrize("name", [ROW, DENSE, MOBILENET])
def test_any_size_gives_logits_of_that_size(name, size):
    logits = np.asarray(drawn(name)(images(*size)))
    assert logits.shape == (1, *size, 19) and np.isfinite(logits).all()


@pytest.mark.parametrize("name", [ROW, DENSE, MOBILENET])
def test_symbolic_sizes_give_the_same_logits(name):
    import tensorflow as tf

    model = drawn(name)
    graph = tf.function(model, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    for size in ((33, 47), (64, 96), (9, 70)):
        assert relative(graph(images(*size)), model(images(*size))) <= 1e-5


@pytest.mark.parametrize("name", [ROW, DENSE])
def test_no_convolution_goes_through_space_to_batch(name):
    import tensorflow as tf

    graph = tf.function(drawn(name)).get_concrete_function(tf.TensorSpec([None, None, None, 3])).graph
    assert not [op.name for op in graph.get_operations() if "SpaceToBatch" in op.type]


def test_a_mixed_model_gives_float32_logits_near_the_full_ones(model):
    x = images(65, 97)
    for policy, bound in (("mixed_bfloat16", 0.15), ("mixed_float16", 0.02)):
        half = drawn(ROW, dtype=policy)
        logits = np.asarray(half(x))
        assert logits.dtype == np.float32 and half.get_layer("backbone-layer1-0-conv1").compute_dtype == policy[6:]
        assert np.sqrt(np.mean((logits - np.asarray(model(x))) ** 2)) <= bound * np.std(model(x))


def test_float64_agrees_with_float32(model):
    double = drawn(ROW, dtype="float64")(images(65, 97))
    assert double.dtype == "float64" and relative(model(images(65, 97)), double) <= 1e-4


@pytest.mark.parametrize("name, fine, coarse", [(DENSE, 8, 32), (DENSE, 8, 16), (D16, 8, 16)])
def test_dense_features_subsampled_equal_the_strided_ones(name, fine, coarse):
    # Chen et al. 2017: a network with rates in place of strides computes the same features, only more densely. (This does not
    # hold for R-18, where in the original the second convolution of a block has no rate.)
    x = images(97, 129).astype("float32")
    models = []
    for output_stride in (fine, coarse):
        config = drawn(name).get_config()
        models.append(drawn(name, **at_output_stride(config, output_stride)))
    dense, strided = (keras.Model(m.input, m.get_layer("backbone-layer4-2-relu").output)(x) for m in models)
    step = coarse // fine
    assert np.asarray(strided).shape[1:3] == tuple(-(-side // coarse) for side in (97, 129))
    assert relative(np.asarray(dense)[:, ::step, ::step], strided) <= 1e-5


def test_saving_keeps_weights_classes_and_protocol(tmp_path):
    model = drawn(DENSE, dropout=0.2)
    model.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    assert type(loaded) is kd.DeepLabV3
    for fact in ("row", "classes", "palette", "protocol", "num_classes"):
        assert getattr(loaded, fact) == getattr(model, fact)
    assert loaded.protocol == kd.Protocol("slide", crop=(769, 769), stride=(513, 513), resize=(2049, 1025))
    assert np.array_equal(loaded(images(33, 47)), model(images(33, 47)))


def test_a_saved_model_keeps_its_dtype_policy(tmp_path):
    drawn(ROW, dtype="mixed_bfloat16").save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    assert loaded.get_layer("decode_head-bottleneck-conv").compute_dtype == "bfloat16"


@pytest.mark.parametrize("name", [ROW, DENSE, D16, MOBILENET, pytest.param(RESNEST, marks=pytest.mark.slow)])
def test_folded_norms_give_the_same_logits(name):
    model = drawn(name, auxiliary_head=True)
    folded = kd.fold_norms(model)
    assert not [layer for layer in folded.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert relative(folded(images(65, 97)), model(images(65, 97))["logits"]) <= 1e-4
    assert kd.fold_norms(folded) is folded


@pytest.mark.parametrize("name", [ROW, DENSE])
def test_a_mixed_model_folds_into_half_the_weights_with_the_same_logits(name):
    mixed, x = drawn(name, dtype="mixed_bfloat16"), images(65, 97)
    half = kd.fold_norms(mixed)
    assert {weight.dtype for weight in half.weights} == {"bfloat16"}
    assert np.array_equal(half(x), kd.fold_norms(mixed, "mixed_bfloat16")(x))
    full = kd.fold_norms(mixed, "float32")
    assert all(map(np.array_equal, full.get_weights(), kd.fold_norms(drawn(name)).get_weights()))


def test_a_folded_model_can_be_saved(tmp_path):
    folded = kd.fold_norms(drawn(ROW))
    folded.save(tmp_path / "x.keras")
    assert np.array_equal(keras.saving.load_model(tmp_path / "x.keras")(images(33, 47)), folded(images(33, 47)))


def test_the_policy_of_other_layers_stays_as_it_was():
    build(ROW, dtype="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(backbone="r34"), "backbone must be one of r18, r50, r101, r18b, r50b, r101b"),
        (dict(base_channels=0), "base_channels must be a positive integer"),
        (dict(aspp_channels=2.5), "aspp_channels must be a positive integer"),
        (dict(output_stride=4), "output_stride must be 8, 16 or 32"),
        (dict(dropout=1.0), "dropout must be a share"),
        (dict(classes=("a", "b")), "classes must have 19 names"),
        (dict(multi_grid=(1, 2)), "multi_grid must have one rate"),
    ],
)
def test_wrong_options_name_the_rule_and_what_came(options, message):
    with pytest.raises(ValueError, match=message) as error:
        kd.DeepLabV3(19, **options)
    assert "Received" in str(error.value)


def test_a_backbone_takes_no_width_that_it_does_not_have():
    with pytest.raises(ValueError, match="stem_channels must be left out for mobilenetv2, .*. Received: 8"):
        kd.DeepLabV3(19, backbone="mobilenetv2", stem_channels=8)


def test_a_saved_mobilenet_keeps_its_logits(tmp_path):
    model = drawn(MOBILENET)
    model.save(tmp_path / "x.keras")
    assert np.array_equal(keras.saving.load_model(tmp_path / "x.keras")(images(33, 47)), model(images(33, 47)))


def test_v3_takes_no_decoder_width():
    with pytest.raises(ValueError, match="must be left out for DeepLabV3, which has no decoder"):
        kd.DeepLabV3(19, low_level_channels=48)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_a_mobilenet_has_features_of_the_promised_strides(output_stride):
    x = keras.Input((65, 97, 3))
    features = BACKBONES["mobilenetv2"].build(x, output_stride=output_stride, multi_grid=None, base_channels=32)
    strides = (4, 8, min(16, output_stride), output_stride)
    assert [f.shape for f in features] == [
        (None, -(-65 // stride), -(-97 // stride), channels)
        for stride, channels in zip(strides, (24, 32, 96, 320), strict=True)
    ]


def test_every_colour_of_the_default_palette_is_another():
    palette = kd.DeepLabV3(60, backbone="r18").palette
    assert len(set(palette)) == 60 and palette[1] == (128, 0, 0)


@pytest.mark.parametrize("name, digest", [(ROW, "14a0d15018e74e75"), (DENSE, "1be58a651bda997d")])
def test_layers_keep_their_order(name, digest):
    # Keras names the weights in a .keras file after the order of the layers. In another order, old files could not be read.
    names = " ".join(layer.name for layer in drawn(name, auxiliary_head=True).layers if layer.weights)
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == digest


def test_numpy_numbers_are_taken_as_pythons_are(tmp_path):
    numbers = dict(output_stride=np.int32(16), base_channels=np.int64(8), aspp_rates=np.array([1, 6, 12, 18]))
    model = kd.DeepLabV3(np.int64(3), backbone="r18", dropout=np.float32(0.25), **numbers)
    model.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    assert loaded.num_classes == 3 and loaded.get_config() == {**model.get_config(), "name": loaded.name}


@pytest.mark.parametrize("classes", [0, -1, 2.0, True, "3", None])
def test_a_class_count_is_a_positive_integer(classes):
    with pytest.raises(ValueError, match="num_classes must be a positive integer. Received: "):
        kd.DeepLabV3(classes)


def test_the_constructor_documents_every_argument():
    for model in (kd.DeepLabV3, kd.DeepLabV3Plus):
        # Of the class, Python 3.11.2 says (*args).
        _, *arguments = inspect.signature(model.__init__).parameters.values()
        assert len(arguments) > 10
        for argument in arguments:
            if argument.kind is not argument.VAR_KEYWORD:
                assert f"\n        {argument.name}: " in model.__doc__, argument.name
