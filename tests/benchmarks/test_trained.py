"""benchmarks/trained.py reads the weights of a quantised LiteRT file: those of a small one, made here as Coral's were made."""

import sys

import numpy as np
import pytest
import tensorflow as tf
from support import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
random = np.random.default_rng(0)
KERNELS = {  # {name: shape}
    "MobilenetV2/Conv/weights": (3, 3, 3, 8),
    "MobilenetV2/expanded_conv/depthwise/depthwise_weights": (3, 3, 8, 1),
    "aspp0/weights": (1, 1, 8, 6),
    "logits/semantic/weights": (1, 1, 6, 5),
}


@pytest.fixture(scope="module")
def trained():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        import trained
    return trained


@pytest.fixture
def quantised(tmp_path):
    """A LiteRT file of four layers that were trained for eight bits, and their kernels and biases in float32."""
    v1, kernels, biases = tf.compat.v1, {}, {}
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [1, 9, 9, 3])
        y = tf.quantization.fake_quant_with_min_max_vars(x, -1.0, 127 / 128)
        for name, shape in KERNELS.items():
            kernel = kernels[name] = random.standard_normal(shape).astype("float32")
            layer, limits = name.rpartition("/")[0], (-30.0, 30.0) if "logits" in name else (0.0, 6.0)
            bias = biases[layer] = random.standard_normal(shape[2] if "depthwise" in name else shape[3])
            with v1.name_scope(f"{layer}/"):
                rounded = tf.quantization.fake_quant_with_min_max_vars(
                    kernel, kernel.min(), kernel.max(), name="weights_quant/FakeQuantWithMinMaxVars"
                )
                if "depthwise" in name:
                    y = tf.nn.depthwise_conv2d(y, rounded, [1, 1, 1, 1], "SAME")
                else:
                    y = tf.nn.conv2d(y, rounded, 1, "SAME")
                y = tf.nn.bias_add(y, bias.astype("float32"))
                y = y if "logits" in name else tf.nn.relu6(y)
                y = tf.quantization.fake_quant_with_min_max_vars(y, *limits)
        converter = v1.lite.TFLiteConverter.from_session(session, [x], [y])
        converter.inference_type = tf.uint8
        converter.quantized_input_stats = {x.op.name: (128, 128)}
        path = tmp_path / "quantised.tflite"
        path.write_bytes(converter.convert())
    return path, kernels, biases


def test_the_weights_are_those_of_training_but_for_half_a_step_of_the_integers(quantised, trained):
    path, kernels, biases = quantised
    found = trained.variables_of(trained.opened(path))
    assert len(found) == 4 + 3 * 4 + 1
    for name, kernel in kernels.items():
        step = (kernel.max() - kernel.min()) / 255
        assert found[name].shape == kernel.shape and np.abs(found[name] - kernel).max() <= 0.51 * step
    for layer, bias in biases.items():
        name = f"{layer}/biases" if layer == "logits/semantic" else f"{layer}/BatchNorm/beta"
        np.testing.assert_allclose(found[name], bias, atol=1e-3)
    for layer, epsilon in (("MobilenetV2/Conv", 1e-3), ("aspp0", 1e-5)):
        norm = {part: found[f"{layer}/BatchNorm/{part}"] for part in ("gamma", "moving_mean", "moving_variance")}
        np.testing.assert_allclose(norm["gamma"] / np.sqrt(norm["moving_variance"] + epsilon), 1, atol=1e-7)
        assert not norm["moving_mean"].any()


def test_a_saved_checkpoint_has_the_variables(trained, tmp_path):
    trained.save({"a/weights": np.arange(6.0, dtype="float32").reshape(2, 3)}, f"{tmp_path}/model.ckpt-0")
    reader = tf.train.load_checkpoint(f"{tmp_path}/model.ckpt-0")
    assert reader.get_variable_to_shape_map() == {"a/weights": [2, 3]} and reader.get_tensor("a/weights")[1, 2] == 5


def test_a_missing_file_is_named(trained, tmp_path, capsys):
    with pytest.raises(SystemExit):
        trained.main([str(tmp_path / "none.tflite"), str(ROOT / "docs" / "photos.jpg")])
    assert f"Missing: {tmp_path / 'none.tflite'}" in capsys.readouterr().err


def test_a_file_of_another_kind_or_network_is_refused(quantised, trained):
    with pytest.raises(ValueError, match="must be a LiteRT file.*Received: .*photos.jpg, which is of another kind"):
        trained.opened(ROOT / "docs" / "photos.jpg")
    cut = quantised[0].with_name("deeplabv3_mnv2_pascal_quant.tflite")
    cut.write_bytes(quantised[0].read_bytes()[:100])
    with pytest.raises(ValueError, match="must have 2193224 bytes. Received: 100. Download it again"):
        trained.opened(cut)
    with pytest.raises(ValueError, match="must have the authors' MobileNetV2.*Received: another network"):
        trained.model_of(trained.opened(quantised[0]))


def test_a_file_in_float32_is_refused(trained, tmp_path):
    path, kernel = tmp_path / "float.tflite", tf.ones([3, 3, 3, 4])
    signature = tf.TensorSpec([1, 9, 9, 3])
    graph = tf.function(lambda x: tf.nn.conv2d(x, kernel, 1, "SAME")).get_concrete_function(signature)
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([graph]).convert())
    with pytest.raises(ValueError, match="must be quantised.*Received: .* without a scale"):
        trained.variables_of(trained.opened(path))
