"""LiteRT, ONNX and OpenVINO give the labels of `segment`, except for a small share of the pixels."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from support import authors
from support.drawn import picture
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab.catalog.protocol import UNLIMITED
from keras_deeplab.networks.fast import convolution
from keras_deeplab.serving import verify
from keras_deeplab.serving.litert_onnx import default_size, export_litert, export_onnx

SIZE = (60, 80)


def run_litert(path, image):
    interpreter = tf.lite.Interpreter(str(path))
    return interpreter.get_signature_runner()(images=image[None])["labels"][0]


@pytest.mark.filterwarnings("ignore:.*(tf.lite.Interpreter is deprecated|Statistics for quantized inputs)")
def test_litert_in_float16_and_int8_agrees_with_float32_and_is_smaller(models, tmp_path):
    model, image = models["whole"], picture(*SIZE, seed=0)
    export_litert(model, tmp_path / "half.tflite", size=SIZE)
    export_litert(model, tmp_path / "int8.tflite", size=SIZE, calibration=[picture(*SIZE, seed) for seed in (1, 2, 3)])
    expected, sizes = kd.segment(model, image), {}
    for name, least_share in (("half", 0.999), ("int8", 0.95)):
        labels = run_litert(tmp_path / f"{name}.tflite", image)
        assert labels.shape == SIZE and labels.dtype == np.uint8 and np.mean(labels == expected) >= least_share
        sizes[name] = (tmp_path / f"{name}.tflite").stat().st_size
    weights = sum(weight.size for weight in model.get_weights())
    assert sizes["int8"] < 0.7 * sizes["half"] and sizes["half"] < 4 * weights
    metadata = json.loads((tmp_path / "int8.json").read_text())
    assert metadata["precision"] == "int8" and metadata["size"] == [*SIZE] and metadata["row"] == model.row


def test_the_default_size_is_the_box_and_without_one_a_size_is_required(models, tmp_path):
    assert default_size(models["slide"].protocol) == (97, 129)
    unboxed = drawn(models["whole"].row, protocol=None)
    with pytest.raises(
        ValueError, match="size must be given for a model whose protocol has no resize box. .* Give size="
    ):
        export_litert(unboxed, tmp_path / "x.tflite")
    message = r"Calibration pictures must have the shape \(60, 80, 3\). Received: \[\(33, 47, 3\)\]"
    with pytest.raises(ValueError, match=message):
        export_litert(models["whole"], tmp_path / "x.tflite", size=SIZE, calibration=[picture(33, 47, seed=0)])
    assert not list(tmp_path.iterdir())


def test_a_precision_that_contradicts_the_calibration_is_refused(models, tmp_path):
    for options, received in (
        (dict(precision="int8"), "'int8' without calibration pictures"),
        (dict(precision="float8"), "'float8' without calibration pictures"),
        (dict(precision="float32", calibration=[picture(*SIZE, seed=0)]), "'float32' with calibration pictures"),
    ):
        with pytest.raises(
            ValueError, match=f"precision must be 'float32' or 'float16' without .* Received: {received}"
        ):
            export_litert(models["whole"], tmp_path / "x.tflite", size=SIZE, **options)
    assert not list(tmp_path.iterdir())


PADDED = kd.Protocol("whole", pad=(65, 97))
ANTIALIASED = kd.Protocol("whole", resize=(UNLIMITED, 65), antialias=True)
OTHERS = {  # {name: a narrow network of another source or backbone}
    "mobilenetv2_decoder": lambda: authors.drawn("mobilenetv2_decoder", output_stride=16, protocol=PADDED),
    "xception65": lambda: authors.drawn("xception65", output_stride=16, protocol=PADDED),
    "xception71_dpc": lambda: authors.drawn("xception71_dpc", output_stride=16, protocol=PADDED),
    "mobilenetv2": lambda: drawn("deeplabv3plus_m-v2-d8_512x1024_80k_cityscapes", protocol=kd.Protocol("whole")),
    "resnest101": lambda: drawn("deeplabv3plus_s101-d8_512x1024_80k_cityscapes", protocol=kd.Protocol("whole")),
    "mobilenet_v3_large": lambda: drawn("deeplabv3_mobilenet_v3_large", protocol=ANTIALIASED),
    "resnet50": lambda: drawn("deeplabv3_resnet50_coco", protocol=ANTIALIASED),
}
# Where a phone's format is worth having, and the authors'.
LITERT = ("mobilenetv2_decoder", "xception65", "xception71_dpc", "mobilenetv2", "mobilenet_v3_large")


def other(name, size=SIZE):
    """A model of `OTHERS` with several classes in its label map, a picture and this label map."""
    model, image = OTHERS[name](), picture(*size, seed=0)
    means = kd.segment(model, image, return_scores=True)[1].mean((0, 1))
    classifier = next(layer for layer in reversed(model.layers) if layer.weights)
    classifier.bias.assign(classifier.bias - means)  # so that no class has the best score everywhere
    expected = kd.segment(model, image)
    assert len(np.unique(expected)) > 1
    return model, image, expected


def with_half_weights(model):
    """A model that computes in float32 with weights rounded to float16, as LiteRT does with a float16 file."""
    folded = kd.fold_norms(model)
    folded.set_weights([weight.astype("float16").astype("float32") for weight in folded.get_weights()])
    return folded


@pytest.mark.slow
@pytest.mark.parametrize("name", LITERT)
@pytest.mark.filterwarnings("ignore:.*(tf.lite.Interpreter is deprecated|Statistics for quantized inputs)")
def test_other_backbones_agree_in_litert(name, tmp_path):
    model, image, expected = other(name)
    formats = {  # int8 says nothing about drawn weights, whose classes have nearly equal scores
        "float32": (dict(precision="float32"), expected, 0.9995),
        "float16": ({}, kd.segment(with_half_weights(model), image), 0.9995),
    }
    for precision, (options, expected, least_share) in formats.items():
        export_litert(model, tmp_path / f"{precision}.tflite", size=SIZE, **options)
        same = np.mean(run_litert(tmp_path / f"{precision}.tflite", image) == expected)
        print(f"{name} {precision}: {same:.4%} of the labels equal")
        assert same >= least_share, precision


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_backbones_agree_in_onnx(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("tf2onnx", reason="needs tf2onnx")
    for size in (SIZE, (72, 104), (71, 99)):  # the first is padded to 65x97
        model, image, expected = other(name, size)
        export_onnx(model, tmp_path / "x.onnx", size=size)
        (labels,) = onnxruntime.InferenceSession(str(tmp_path / "x.onnx")).run(["labels"], {"images": image[None]})
        print(f"{name} onnx {size}: {np.mean(labels[0] == expected):.4%} of the labels equal")
        assert np.mean(labels[0] == expected) >= 0.9995


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "slide", "d16"])
def test_onnx_runtime_gives_the_labels_of_segment(kind, models, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("tf2onnx", reason="needs tf2onnx")
    model = drawn("deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes") if kind == "d16" else models[kind]
    image = picture(*SIZE, seed=0)
    export_onnx(model, tmp_path / "x.onnx", size=SIZE)
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    (labels,) = session.run(["labels"], {"images": image[None]})
    different = np.mean(labels[0] != kd.segment(model, image))
    print(f"{kind}: {different:.4%} of the labels differ")
    assert different <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "slide"])
def test_openvino_takes_the_tensor_signature(kind, models, signatures):
    openvino = pytest.importorskip("openvino", reason="needs openvino")
    converted = openvino.convert_model(signatures[kind]["tensor"])
    compiled = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in (SIZE, (33, 47)):
        images = np.stack([picture(*size, seed) for seed in (0, 1)])
        labels = compiled([images])[0]
        different = np.mean(
            [label != kd.segment(models[kind], image) for label, image in zip(labels, images, strict=True)]
        )
        print(f"{kind} {size}: {different:.4%} of the labels differ")
        assert different <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"), [("slide", {}), ("whole", {"size": SIZE}), ("whole", {"size": SIZE, "multi_scale_flip": True})]
)
def test_an_openvino_model_gives_the_labels_of_segment(kind, options, models, tmp_path):
    pytest.importorskip("openvino", reason="needs openvino")
    metadata = kd.export_openvino(models[kind], tmp_path / "1", **options)
    assert {file.name for file in (tmp_path / "1").iterdir()} == {"model.xml", "model.bin", "metadata.json"}
    sizes = [SIZE] if "size" in options else [SIZE, (33, 47)]
    pictures = {str(size): picture(*size, seed=0) for size in sizes}
    labels = verify.labels_of(tmp_path / "1" / "model.xml", pictures)
    for name, image in pictures.items():
        expected = kd.segment(models[kind], image, multi_scale_flip=metadata["multi_scale_flip"])
        assert np.mean(labels[name] != expected) <= 1e-3


@pytest.mark.slow
def test_an_openvino_model_in_int8_is_smaller_and_close(models, tmp_path):
    pytest.importorskip("nncf", reason="needs openvino and nncf")
    calibration = [picture(*SIZE, seed) for seed in range(1, 9)]
    for name, pictures in (("float32", None), ("int8", calibration)):
        kd.export_openvino(models["whole"], tmp_path / name, size=SIZE, calibration=pictures)
    labels = verify.labels_of(tmp_path / "int8" / "model.xml", {"one": picture(*SIZE, seed=0)})["one"]
    assert np.mean(labels == kd.segment(models["whole"], picture(*SIZE, seed=0))) >= 0.95
    large, small = ((tmp_path / name / "model.bin").stat().st_size for name in ("float32", "int8"))
    assert small < 0.4 * large
    import openvino

    types = {"Convolution": set(), "GroupConvolution": set()}  # of the kernels' values
    for operation in openvino.Core().read_model(tmp_path / "int8" / "model.xml").get_ops():
        if (kind := operation.get_type_name()) in types:
            kernel = operation.input_value(1).get_node()
            while kernel.get_type_name() != "Constant":
                kernel = kernel.input_value(0).get_node()
            types[kind].add(kernel.get_element_type().get_type_name())
    assert types == {"Convolution": {"i8"}, "GroupConvolution": {"f32"}}


def test_several_sizes_in_an_openvino_model_need_one_size_of_pictures(models, tmp_path):
    pytest.importorskip("openvino", reason="needs openvino")
    with pytest.raises(ValueError, match="`multi_scale_flip` in an OpenVINO model needs `size`"):
        kd.export_openvino(models["whole"], tmp_path / "1", multi_scale_flip=True)


def test_without_openvino_the_error_names_the_extra(models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r'need openvino: pip install "keras_deeplab\[openvino\]"'):
        kd.export_openvino(models["whole"], tmp_path / "1")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("by_winograd", [False, True])
def test_tf2onnx_takes_the_tensor_signature_of_one_size(models, tmp_path, by_winograd, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    tf2onnx = pytest.importorskip("tf2onnx", reason="needs tf2onnx")
    monkeypatch.setattr(convolution, "winograd_pays", lambda *_, **__: by_winograd)
    kd.export_saved_model(models["whole"], tmp_path / "1", size=SIZE)
    loaded = tf.saved_model.load(tmp_path / "1")  # must stay alive: it owns the weights
    signature = loaded.signatures["tensor"]
    spec = tf.TensorSpec([None, *SIZE, 3], tf.uint8, name="images")
    function = tf.function(lambda images: signature(images=images), input_signature=[spec])
    converted, _ = tf2onnx.convert.from_function(function, [spec], opset=18)
    session = onnxruntime.InferenceSession(converted.SerializeToString())
    images = np.stack([picture(*SIZE, seed) for seed in (0, 1)])
    (labels,) = session.run(None, {session.get_inputs()[0].name: images})
    for label, image in zip(labels, images, strict=True):
        assert np.mean(label != kd.segment(models["whole"], image)) <= 1e-3
