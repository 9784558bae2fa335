"""The SavedModel gives the labels of `segment`, also in a process without Keras, for all sizes and Exif orientations."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from support import GOLDEN, authors
from support.drawn import picture
from support.narrow import drawn
from tensorflow.core.protobuf import saved_model_pb2

import keras_deeplab as kd
from keras_deeplab.catalog import rows
from keras_deeplab.inference.segment import Network
from keras_deeplab.networks.fast import processor
from keras_deeplab.networks.fast.convolution import ASPP_RATE
from keras_deeplab.serving.export import at_precision, checked_max_pixels
from keras_deeplab.serving.fixed_size import fixed_protocol
from keras_deeplab.serving.metadata import weights_sha256
from keras_deeplab.serving.verify import WITHOUT_KERAS

PICTURES = GOLDEN / "pictures"
KINDS = ("whole", "slide")
OTHER_BACKBONES = ("deeplabv3plus_m-v2-d8_512x512_160k_ade20k", "deeplabv3_s101-d8_512x1024_80k_cityscapes")
AUTHORS = {  # {row of the authors: its narrow network in tests/support/authors.py}
    "mobilenetv2_coco_voc_trainaug": "mobilenetv2",
    "mobilenetv2_ade20k_train": "mobilenetv2_decoder",
    "xception65_ade20k_train": "xception65",
}
SIZES = ((60, 80), (1, 1))
# A program with the arguments: .npz of pictures, .npz of results to write, SavedModels. It calls all signatures.
EVERY_SIGNATURE = """
import numpy as np, tensorflow as tf
source, target, *folders = sys.argv[1:]
pictures, results = np.load(source), {}
for folder in folders:
    signatures = tf.saved_model.load(folder).signatures
    files = tf.stack([tf.io.encode_png(pictures[name]) for name in pictures.files])
    for signature, output in (("serving_default", "label_png"), ("rest", "label_png_bytes")):
        pngs = signatures[signature](image_bytes=files)[output]
        results |= {f"{folder} {signature} {name}": tf.io.decode_png(p)[..., 0] for name, p in zip(pictures.files, pngs)}
    for name in pictures.files:
        results[f"{folder} tensor {name}"] = signatures["tensor"](images=pictures[name][None])["labels"][0]
        results[f"{folder} scores {name}"] = signatures["scores"](images=pictures[name][None])["scores"][0]
np.savez(target, **results)
assert not {"keras", "keras_deeplab"} & set(sys.modules)
"""


@pytest.mark.parametrize("kind", [pytest.param("whole", marks=pytest.mark.slow), "slide"])
def test_files_of_mixed_sizes_and_orientations_give_the_labels_of_segment(kind, models, signatures):
    files = [PICTURES / name for name in ("orientation6.jpg", "subsampled.jpg", "rgba.png", "orientation6.png")]
    data = tf.constant([file.read_bytes() for file in files])
    pngs = signatures[kind]["serving_default"](image_bytes=data)["label_png"]
    for file, png in zip(files, pngs, strict=True):
        labels = tf.io.decode_png(png).numpy()
        assert labels.shape[2] == 1 and np.array_equal(labels[..., 0], kd.segment(models[kind], file))


def test_tensors_of_several_pictures_give_the_labels_and_scores_of_segment(models, signatures):
    images = np.stack([picture(60, 80, seed) for seed in (0, 1)])
    labels = signatures["slide"]["tensor"](images=tf.constant(images))["labels"]
    scores = signatures["slide"]["scores"](images=tf.constant(images))["scores"]
    assert labels.dtype == tf.uint8 and scores.dtype == tf.float32
    for image, label, score in zip(images, labels, scores, strict=True):
        expected = kd.segment(models["slide"], image, return_scores=True)
        assert np.array_equal(label, expected[0]) and np.array_equal(score, expected[1])


def check_every_signature(models, folders, scratch, sizes):
    """Calls every signature of every SavedModel in a process that cannot import Keras, and compares with `segment`.

    Args:
        models: {kind: model}.
        folders: {kind: the model's SavedModel}.
        scratch: a folder for temporary files.
        sizes: (height, width) of the pictures, one of each.
    """
    pictures = {f"{height}x{width}": picture(height, width, seed=0) for height, width in sizes}
    np.savez(scratch / "pictures.npz", **pictures)
    arguments = [scratch / "pictures.npz", scratch / "results.npz", *folders.values()]
    subprocess.run([sys.executable, "-c", WITHOUT_KERAS + EVERY_SIGNATURE, *map(str, arguments)], check=True)
    results = np.load(scratch / "results.npz")
    for kind, folder in folders.items():
        for name, image in pictures.items():
            labels, scores = kd.segment(models[kind], image, return_scores=True)
            for signature in ("serving_default", "rest", "tensor"):
                assert np.array_equal(results[f"{folder} {signature} {name}"], labels), (kind, signature, name)
            assert np.array_equal(results[f"{folder} scores {name}"], scores), (kind, name)


def test_every_signature_gives_the_same_without_keras(models, folders, tmp_path):
    check_every_signature(models, {"slide": folders["slide"]}, tmp_path, SIZES)


@pytest.mark.slow
def test_rows_with_their_own_protocols_give_the_same_without_keras(tmp_path):
    rows = ("deeplabv3plus_r18-d8_512x512_80k_loveda", "deeplabv3_r50-d8_769x769_80k_cityscapes")
    models = {name: drawn(name) for name in (*rows, "deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes")}
    for name, model in models.items():
        kd.export_saved_model(model, tmp_path / name)
    check_every_signature(models, {name: tmp_path / name for name in models}, tmp_path, (*SIZES, (97, 65), (31, 245)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OTHER_BACKBONES, *AUTHORS])
def test_rows_of_every_source_give_the_same_without_keras(name, tmp_path):
    """With their own protocols, which pad to the crop or resize the longest side in steps for the authors' rows."""
    model = narrow_authors(name) if name in AUTHORS else drawn(name)
    kd.export_saved_model(model, tmp_path / "1")
    check_every_signature({name: model}, {name: tmp_path / "1"}, tmp_path, (*SIZES, (97, 65)))


def narrow_authors(name):
    """The narrow network of one of the authors' rows, with its classes and its protocol."""
    row = rows.find(name)
    options = dict(num_classes=row.num_classes, output_stride=row.output_stride, protocol=row.protocol)
    return authors.drawn(AUTHORS[name], row=name, classes=row.classes, palette=row.palette, **options)


def saved_model_cli(*arguments):
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_saved_model_cli_runs_it(models, folders, tmp_path):
    image = picture(60, 80, seed=0)
    np.save(tmp_path / "x.npy", image[None])
    call = ["--tag_set", "serve", "--signature_def", "tensor", "--inputs", f"images={tmp_path / 'x.npy'}"]
    saved_model_cli("run", "--dir", folders["whole"], *call, "--outdir", tmp_path)
    assert np.array_equal(np.load(tmp_path / "labels.npy")[0], kd.segment(models["whole"], image))


@pytest.mark.parametrize("flip", [True, pytest.param("picture", marks=pytest.mark.slow)])
def test_multi_scale_flip_inside_the_graph_gives_the_labels_and_scores_of_segment(flip, models, tmp_path):
    metadata = kd.export_saved_model(models["whole"], tmp_path / "1", multi_scale_flip=flip)
    signatures = tf.saved_model.load(tmp_path / "1").signatures
    assert metadata["multi_scale_flip"] == {True: "box"}.get(flip, flip)
    for size in ((50, 70), (131, 64)):
        image = picture(*size, seed=0)
        labels, scores = kd.segment(models["whole"], image, multi_scale_flip=flip, return_scores=True)
        png = signatures["serving_default"](image_bytes=tf.io.encode_png(image)[None])["label_png"][0]
        assert np.array_equal(tf.io.decode_png(png)[..., 0], labels)
        assert np.array_equal(signatures["scores"](images=image[None])["scores"][0], scores)
    assert (labels != kd.segment(models["whole"], image)).any()


def test_the_limit_of_pixels_counts_the_largest_size_of_several():
    whole, boxed = kd.Protocol("whole"), kd.Protocol("whole", resize=(128, 96))
    for protocol, flip, limit in (
        (whole, False, 2**22),
        (whole, True, int(2**22 / 1.75**2)),
        (boxed, True, 2**26),
        (boxed, "picture", int(2**22 / 1.75**2)),
    ):
        assert checked_max_pixels(None, None, protocol, flip) == limit


@pytest.mark.slow
def test_saved_model_cli_shows_names_and_types(folders):
    printed = saved_model_cli("show", "--dir", folders["whole"], "--all")
    for word in ("image_bytes", "label_png", "label_png_bytes", "images", "labels", "scores", "metadata", "DT_UINT8"):
        assert word in printed


def test_metadata_has_row_classes_protocol_and_published_scores(models, folders, signatures):
    metadata = json.loads((folders["slide"] / "assets.extra" / "metadata.json").read_text())
    assert metadata == json.loads(signatures["slide"]["metadata"]()["json"][0].numpy())
    assert metadata["row"] == "deeplabv3_r50-d8_769x769_80k_cityscapes" and metadata["classes"][0] == "road"
    assert metadata["palette"][0] == [128, 64, 128] and metadata["published_for_row"]["mIoU"] == 79.89
    assert metadata["protocol"] == models["slide"].protocol.to_dict() and metadata["max_pixels"] == 20_000
    assert metadata["precision"] == "float32" and metadata["versions"]["tensorflow"] == tf.__version__
    assert set(metadata["signatures"]) == set(signatures["slide"])
    for name, signature in metadata["signatures"].items():
        assert set(signature["outputs"]) == set(signatures["slide"][name].structured_outputs)


def test_the_checksum_depends_on_the_weights_only(models):
    model = drawn("deeplabv3plus_r18-d8_512x512_80k_loveda", dropout=0.0, auxiliary_head=True)
    other = drawn("deeplabv3plus_r18-d8_512x512_80k_loveda")
    assert weights_sha256(model) == weights_sha256(other) != weights_sha256(models["whole"])
    other.get_layer("decode_head-conv_seg").bias.assign(models["whole"].get_layer("decode_head-conv_seg").bias)
    assert weights_sha256(other) == weights_sha256(models["whole"])
    digest = hashlib.sha256()  # as its docstring defines it
    for name, weight in sorted((f"{layer.name}/{w.name}", w) for layer in other.layers for w in layer.weights):
        digest.update(f"{name}{tuple(weight.shape)}".encode() + np.asarray(weight).astype("<f4").tobytes())
    assert digest.hexdigest() == weights_sha256(other)


def test_folding_changes_no_logit_by_more_than_1e_4_standard_deviations(models):
    image = picture(65, 97, seed=0)[None]
    for model in (models[kind] for kind in KINDS):
        logits, folded = np.asarray(model(image)), np.asarray(kd.fold_norms(model)(image))
        assert np.abs(folded - logits).max() <= 1e-4 * logits.std()


@pytest.mark.parametrize(("kind", "flip"), [("whole", False), ("slide", False), ("slide", True), ("whole", "picture")])
def test_graphs_of_known_size_give_the_labels_of_segment(kind, flip, models):
    image = picture(60, 80, seed=0)
    run = fixed_protocol(Network(models[kind]), 60, 80, multi_scale_flip=flip)
    labels, scores = run(tf.constant(image), True)
    expected = kd.segment(models[kind], image, multi_scale_flip=flip, return_scores=True)
    assert np.sum(labels.numpy() != expected[0]) <= 1  # a pixel whose best two classes have almost equal scores
    assert np.abs(scores - expected[1]).max() <= 1e-4 * expected[1].std()


def test_bfloat16_with_one_size_and_colours_is_close_to_segment(models, tmp_path):
    model = models["whole"]
    kd.export_saved_model(model, tmp_path / "1", precision="bfloat16", size=(60, 80), palette=True)
    served = tf.saved_model.load(tmp_path / "1")
    assert {variable.dtype for variable in served.network_variables} == {tf.bfloat16}
    assert served.signatures["tensor"].structured_outputs["labels"].shape.as_list() == [None, 60, 80]
    images = np.stack([picture(60, 80, seed) for seed in (0, 1)])
    single = served.signatures["single"]  # for compilers and converters: known shapes, no loops
    functions = single.graph.as_graph_def().library.function
    operations = {node.op for function in functions for node in function.node_def}
    assert "Conv2D" in operations and not operations & {"While", "StatelessWhile", "TensorListReserve"}
    labels = [single(images=tf.constant(image[None]))["labels"][0] for image in images]
    assert np.array_equal(labels, served.signatures["tensor"](images=tf.constant(images))["labels"])
    files = [tf.io.encode_png(image) for image in images]
    pngs = served.signatures["serving_default"](image_bytes=tf.stack(files))["label_png"]
    variant = at_precision(model, "bfloat16")
    for file, png in zip(files, pngs, strict=True):
        labels = kd.segment(variant, file.numpy())
        assert np.mean(tf.io.decode_png(png) != np.array(model.palette)[labels]) <= 0.002
        assert np.mean(labels != kd.segment(model, file.numpy())) <= 0.03
    with pytest.raises(tf.errors.InvalidArgumentError, match="Picture 1 of the 1 .* must be 80x60 .* Received: 60x80"):
        served.signatures["rest"](image_bytes=[tf.io.encode_png(picture(80, 60, seed=0)).numpy()])


@pytest.mark.parametrize("this_processor", [False, True])
def test_a_saved_model_has_convolutions_that_are_fast_on_this_processor_only_if_asked(
    this_processor, models, tmp_path, monkeypatch
):
    has_bfloat16 = processor.direct_atrous_convolution_has_gradient("bfloat16")
    monkeypatch.setattr(processor, "direct_atrous_convolution_skips_padding", lambda dtype: True)
    monkeypatch.setattr(processor, "direct_atrous_convolution_has_gradient", lambda dtype: True)
    model = at_precision(models["slide"], "bfloat16")
    kd.export_saved_model(model, tmp_path / "1", this_processor=this_processor)
    proto = saved_model_pb2.SavedModel.FromString((tmp_path / "1" / "saved_model.pb").read_bytes())
    nodes = [node for function in proto.meta_graphs[0].graph_def.library.function for node in function.node_def]
    rates = {max(node.attr["dilations"].list.i, default=1) for node in nodes if node.op == "Conv2D"}
    assert rates and (max(rates) >= ASPP_RATE) == this_processor
    if this_processor and has_bfloat16:
        image = picture(60, 80, seed=0)
        served = tf.saved_model.load(tmp_path / "1").signatures["tensor"](images=image[None])["labels"][0]
        np.testing.assert_array_equal(served, kd.segment(model, image))


def test_a_folder_that_is_no_saved_model_is_not_replaced(models, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds no SavedModel"):
        kd.export_saved_model(models["whole"], tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("options, message", [
    (dict(precision="float8"), "precision must be 'float32' or 'bfloat16'. Received: 'float8'"),
    (dict(size=(60, 0)), r"size must be \(height, width\), .* Received: \(60, 0\)"),
    (dict(size=60), "size must be .* Received: 60"),
    (dict(max_pixels=0), "max_pixels must be a positive whole number. Received: 0"),
    (dict(max_pixels=1e6), "max_pixels must be a positive whole number. Received: 1000000.0"),
    (dict(size=(60, 80), max_pixels=100), r"at least .* of `size`, 4800. Received: max_pixels=100 and size=\(60, 80\)"),
])  # fmt: skip
def test_wrong_options_are_refused_before_anything_is_written(options, message, models, tmp_path):
    with pytest.raises(ValueError, match=message):
        kd.export_saved_model(models["whole"], tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())
