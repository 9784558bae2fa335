"""Checkpoints, frozen graphs and archives that TensorFlow wrote give their variables back; other files give one line."""

import io
import tarfile

import numpy as np
import pytest
from support.authors import (
    build,
    files_of,
    save_as_training_does,
    variables,
    weights,
    write_archive,
    write_frozen_graph,
)
from support.torch_files import released

import keras_deeplab as kd
from keras_deeplab.zoo.formats.tensorflow_checkpoint import architecture, read_checkpoint
from keras_deeplab.zoo.formats.unpickler import CheckpointError

ARRAYS = {
    name: weights(name, shape)
    for name, shape in {
        "MobilenetV2/Conv/weights": (3, 3, 3, 8),
        "MobilenetV2/Conv/BatchNorm/gamma": (8,),
        "MobilenetV2/Conv/BatchNorm/moving_variance": (8,),
        "MobilenetV2/expanded_conv/depthwise/depthwise_weights": (3, 3, 8, 1),
        "logits/semantic/biases": (5,),
    }.items()
}
KEPT = {  # beside the weights, in a checkpoint of a training run
    "global_step": np.array(30000, "int64"),
    "beta1_power": np.float32(0.9),
    **{f"{name}/Momentum": 0 * array for name, array in ARRAYS.items() if "moving" not in name},
    **{f"{name}/ExponentialMovingAverage": array + 1 for name, array in ARRAYS.items() if "moving" not in name},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_as_training_does(ARRAYS | KEPT, tmp_path_factory.mktemp("run") / "model.ckpt")


def same(tensors, expected):
    return tensors.keys() == expected.keys() and all(np.array_equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("end", ["", ".index", ".data-00000-of-00001"])
def test_a_checkpoint_is_read_by_each_of_its_names(checkpoint, end):
    read = read_checkpoint(checkpoint + end)
    assert same(read.tensors, ARRAYS)
    assert read.meta["step"] == 30000
    assert sorted(read.meta["slots"]) == sorted(name for name in KEPT if name.endswith("/Momentum"))
    assert sorted(read.meta["averages"]) == sorted(name for name in KEPT if name.endswith("Average"))


def test_moving_averages_are_read_where_there_are_some(checkpoint):
    tensors = read_checkpoint(checkpoint, ema=True).tensors
    assert same(tensors, {name: array if "moving" in name else array + 1 for name, array in ARRAYS.items()})


def test_a_frozen_graph_gives_the_constants_of_variables_alone(tmp_path):
    path = write_frozen_graph(ARRAYS, tmp_path / "frozen_inference_graph.pb")
    assert same(read_checkpoint(path).tensors, ARRAYS)
    with pytest.raises(CheckpointError, match=r"For ema=True .* Received: a file without them\. Leave ema out"):
        read_checkpoint(path, ema=True)


@pytest.mark.parametrize("folder", ["", "deeplabv3_pascal/", "./x/", "../../outside/", "/absolute/"])
def test_an_archive_is_read_wherever_its_paths_point(tmp_path, checkpoint, folder):
    files = {f"{folder}model.ckpt-30000{end}": data for end, data in files_of(checkpoint).items()}
    graph = write_frozen_graph({"logits/semantic/biases": np.ones(3, "float32")}, tmp_path / "x.pb").read_bytes()
    more = {f"{folder}._model.ckpt-30000.index": b"macOS", f"{folder}frozen_inference_graph.pb": graph}
    path = write_archive(tmp_path / "x.tar.gz", {**more, f"{folder}checkpoint": b"text", **files})
    before = sorted(tmp_path.parent.rglob("*"))
    assert same(read_checkpoint(path).tensors, ARRAYS)  # the checkpoint is preferred to the graph
    assert sorted(tmp_path.parent.rglob("*")) == before
    path = write_archive(tmp_path / "graph.tar.gz", more)
    assert list(read_checkpoint(path).tensors) == ["logits/semantic/biases"]


def test_load_checkpoint_reads_files_of_every_kind(tmp_path, checkpoint):
    files = {f"m.ckpt{end}": data for end, data in files_of(checkpoint).items()}
    archive = write_archive(tmp_path / "x.tar.gz", files)
    graph = write_frozen_graph(ARRAYS, tmp_path / "frozen_inference_graph.pb")
    (tmp_path / "x.pth").write_bytes(released(ARRAYS))
    paths = [checkpoint, f"{checkpoint}.index", f"{checkpoint}.data-00000-of-00001", archive, graph, tmp_path / "x.pth"]
    for path in paths:
        assert same(kd.load_checkpoint(path), ARRAYS), path
    averages = kd.load_checkpoint(archive, ema=True)
    assert np.array_equal(averages["logits/semantic/biases"], ARRAYS["logits/semantic/biases"] + 1)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint at .*none'. Download it first"):
        kd.load_checkpoint(tmp_path / "none")
    (tmp_path / "alone.index").write_bytes(files["m.ckpt.index"])
    with pytest.raises(FileNotFoundError, match="There is no '.*alone.data-00000-of-00001'. Put it beside the other"):
        kd.load_checkpoint(tmp_path / "alone")


def test_links_in_an_archive_are_not_followed(tmp_path, checkpoint):
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for end in (".index", ".data-00000-of-00001"):
            link = tarfile.TarInfo(f"model.ckpt{end}")
            link.type, link.linkname = tarfile.SYMTYPE, checkpoint + end
            archive.addfile(link)
    with pytest.raises(CheckpointError, match="An archive must hold one checkpoint .* Received: none of them"):
        read_checkpoint(path)


def damaged(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "name, make, message",
    [
        ("x.pb", lambda files: b"", "Received: an empty file"),
        ("x.pb", lambda files: b"\x80\x02}q\x00.", "Received: another pickle"),
        ("x.pth", lambda files: b"PK\x03\x04" + bytes(99), "Received: a zip file, such as PyTorch's"),
        ("x.html", lambda files: b"<html>not here</html>", "Received: an HTML or XML page"),
        ("x.tar.gz", lambda files: b"\x1f\x8b\x08" + bytes(40), "The file is damaged"),
        (
            "model.ckpt.index",
            lambda files: files[".index"],
            "There is no '.*model.ckpt.data-00000-of-00001'. Put it beside",
        ),
        (
            "model.ckpt.data-00000-of-00001",
            lambda files: files[".data-00000-of-00001"],
            "There is no '.*model.ckpt.index'",
        ),
    ],
)
def test_other_files_give_one_line(tmp_path, checkpoint, name, make, message):
    (tmp_path / name).write_bytes(make(files_of(checkpoint)))
    with pytest.raises((CheckpointError, FileNotFoundError), match=message) as error:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(error.value)


def test_cut_files_are_damaged(tmp_path, checkpoint):
    files = files_of(checkpoint)
    for end, data in files.items():
        for other, whole in files.items():
            (tmp_path / f"cut{other}").write_bytes(damaged(data) if other == end else whole)
        with pytest.raises(CheckpointError, match="must be readable to its end|may have at most"):
            read_checkpoint(tmp_path / "cut")
    whole = write_archive(tmp_path / "x.tar.gz", {f"m.ckpt{end}": data for end, data in files.items()}).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(damaged(whole))
    with pytest.raises(CheckpointError, match="damaged|readable to its end"):
        read_checkpoint(tmp_path / "cut.tar.gz")


def test_an_archive_of_zeros_takes_no_memory(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("graph.pb")
        member.size = 80 * 2**20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(CheckpointError, match=f"at most {2**26} bytes. Received: graph.pb of {80 * 2**20} bytes"):
        read_checkpoint(path)


def test_a_constant_of_a_claimed_size_takes_no_memory(tmp_path):
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef()
    node = graph.node.add(name="x/weights", op="Const")
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1.0, shape=[2**20, 2**12]))
    (tmp_path / "x.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match="The constants of a graph of .* may have at most"):
        read_checkpoint(tmp_path / "x.pb")


def test_several_checkpoints_are_named(tmp_path, checkpoint):
    files = {f"{name}{end}": data for name in ("a", "b") for end, data in files_of(checkpoint).items()}
    with pytest.raises(CheckpointError, match="must hold one checkpoint .* Received: a, b. Unpack it, and give one"):
        read_checkpoint(write_archive(tmp_path / "x.tar.gz", files))
    with pytest.raises(CheckpointError, match="Received: a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint at .*model.ckpt-1'"):
        read_checkpoint(tmp_path / "model.ckpt-1")


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in ("xception65", "xception71_dpc")), "mobilenetv2_decoder"],
)
def test_shapes_tell_the_architecture(name):
    model = build(name)
    class_name, options = architecture(variables(model))
    config = model.get_config()
    assert class_name == type(model).__name__ and options == {key: config[key] for key in options}
    assert {"num_classes", "backbone", "base_channels", "dense_prediction_cell"} <= options.keys()
    assert architecture({"fc/weights": np.zeros((2, 2))}) is None
