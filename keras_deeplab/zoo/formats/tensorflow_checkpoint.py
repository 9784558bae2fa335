"""A file of the authors' TensorFlow 1 models in, {variable name: array} out: checkpoints, frozen graphs, and archives of them.

Nothing in a file is executed: a checkpoint is a table of arrays, and of a frozen graph only the constants are read. Of an
archive only members with the right names are read, and none is written under its own path.

Source: TensorFlow's tensor bundles (`tensorflow/core/util/tensor_bundle`) and graph.proto; the names are those of the code
that trained the released models (tensorflow/models, research/deeplab).
"""

import math
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from keras_deeplab.zoo.formats import safetensors
from keras_deeplab.zoo.formats.checkpoint import Checkpoint
from keras_deeplab.zoo.formats.torch_file import MAGIC, OTHER_FILES, TF_INDEX_END
from keras_deeplab.zoo.formats.unpickler import DOWNLOAD_AGAIN, CheckpointError, checkpoint_error, short_repr

VARIABLE = re.compile(r"(?:.+/)?(weights|depthwise_weights|biases|gamma|beta|moving_mean|moving_variance)")
AVERAGE = "/ExponentialMovingAverage"  # end of the name of a variable's moving average
SLOTS = "Momentum|Adam|Adam_1|RMSProp|RMSProp_1|RMSProp_2|Adagrad|Adadelta|Adadelta_1|Ftrl|Ftrl_1"  # of optimizers
COUNTERS = ("global_step", "beta1_power", "beta2_power")  # the step, and what Adam counts
SLOT = re.compile(rf"(.+)/(?:{SLOTS})")
GRAPH = re.compile(rb"\n[\x80-\xff]{0,4}[\0-\x7f]\n")  # a graph's first node: its tag, its length, the tag of its name
DATA_FILE = re.compile(r"(.+)\.data-\d{5}-of-\d{5}")
# A file in an archive, without macOS's twins ._NAME: (its name without the end, the end).
WEIGHTS_FILE = re.compile(r"((?:.*/)?[^/.][^/]*?)(\.index|\.data-\d{5}-of-\d{5}|\.pb)")
GIVE = (
    "Give the released .tar.gz, model.ckpt-NNNN (the common beginning of the names of its .index and .data files), or "
    "frozen_inference_graph.pb."
)
CLASSIFIERS = ("logits-semantic",)
# The parts of ImageNet's classifiers, which a backbone's file holds beside the backbone.
IMAGENET_CLASSIFIERS = (
    "xception_41/logits/",
    "xception_65/logits/",
    "xception_71/logits/",
    "MobilenetV2/Conv_1/",
    "MobilenetV2/Logits/",
)


def read_checkpoint(path: str | os.PathLike, *, ema: bool = False) -> Checkpoint:
    """Reads the variables of a TensorFlow 1 checkpoint, frozen graph, or archive of either.

    Args:
        path: a checkpoint (model.ckpt-NNNN, or one of its files .index and .data-00000-of-00001), a frozen graph (.pb), or a
            .tar.gz as released, of which the checkpoint is read if there is one.
        ema: whether to read the moving average of each variable that has one. Default False.

    Returns:
        A `Checkpoint`: its tensors have the variables' names and layouts, which are Keras's; its meta tells "step" (None if
        unknown), and the names of what was left out: "slots" (of the optimizer) and "averages".

    Raises:
        FileNotFoundError: if there is no such file, or a file of the checkpoint is missing.
        CheckpointError: if the file is of another kind, is damaged, or has no moving averages for `ema`.
    """
    path = os.fspath(path)
    try:
        arrays = _read(path)
        return _without_slots(arrays, ema)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (OSError, EOFError, tarfile.TarError, ValueError, ArithmeticError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        message = checkpoint_error("The file is damaged: it must be readable to its end.", reason, DOWNLOAD_AGAIN)
        raise CheckpointError(f"{path}: {message}") from error


def is_one(path):
    """Whether a path is that of a TensorFlow 1 checkpoint, frozen graph or archive, by its names and first and last bytes."""
    if DATA_FILE.fullmatch(path) or not os.path.exists(path):
        return os.path.exists(f"{path}.index") or os.path.isfile(path)
    if os.path.isdir(path):
        return False
    with open(path, "rb") as file:
        head = file.read(1024)
        if safetensors.FIRST_BYTES.match(head):
            return False
        return _is_archive(head) or bool(GRAPH.match(head)) or _ends_as_an_index(file)


def _is_archive(head):
    return head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar"


def _ends_as_an_index(file):
    file.seek(max(0, os.fstat(file.fileno()).st_size - len(TF_INDEX_END)))
    return file.read() == TF_INDEX_END


def _read(path):
    """{name: array} of all variables of a file of any of the kinds; None in place of an optimizer's slot."""
    if os.path.isdir(path):
        raise checkpoint_error("The weights must be one file or checkpoint.", "a folder", GIVE)
    if DATA_FILE.fullmatch(path):
        return _read_bundle(DATA_FILE.fullmatch(path)[1])
    if not os.path.exists(path):
        if os.path.exists(f"{path}.index"):
            return _read_bundle(path)
        raise FileNotFoundError(f"There is no checkpoint at {path!r}. {GIVE}")
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(1024)
        if _ends_as_an_index(file):
            return _read_bundle(path.removesuffix(".index"))
        file.seek(0)
        if _is_archive(head):
            return _read_archive(file, size)
        return _read_graph(file.read(), head)


def _memory_limit(size):
    """How many bytes a file of `size` bytes may become: compressed data can claim any number."""
    return max(2**26, 16 * size)


def _read_bundle(prefix):
    """The arrays of a checkpoint whose files begin with `prefix`."""
    import tensorflow as tf

    index = Path(f"{prefix}.index")
    beside = sorted(index.parent.glob(f"{glob_escape(index.name.removesuffix('.index'))}.data-*-of-*"))
    for file, exists in ((str(index), index.is_file()), (f"{prefix}.data-00000-of-00001", bool(beside))):
        if not exists:
            raise FileNotFoundError(
                f"A checkpoint has an .index file and a .data file. There is no {file!r}. Put it beside the other one."
            )
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        needed = {name: math.prod(shape) * dtypes[name].size for name, shape in shapes.items()}
        room = sum(file.stat().st_size for file in beside)
        if sum(needed.values()) > room:
            rule = f"The variables of these files may have at most {room} bytes."
            raise checkpoint_error(rule, f"{sum(needed.values())} bytes in the index", DOWNLOAD_AGAIN)
        return {name: np.asarray(reader.get_tensor(name)) if _is_wanted(name) else None for name in sorted(shapes)}
    except (tf.errors.OpError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise checkpoint_error("A checkpoint must be readable to its end.", reason, DOWNLOAD_AGAIN) from error


def glob_escape(name):
    """A file's name in a pattern that matches only it."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _is_wanted(name):
    """Whether an array is needed: not the slots of an optimizer, which can be two thirds of a file."""
    return not SLOT.fullmatch(name)


def _read_archive(file, size):
    """The arrays of the one checkpoint, or else of the one frozen graph, in a tar archive."""
    try:
        archive = tarfile.open(fileobj=file, mode="r:*")
    except tarfile.ReadError as error:
        rule = "The file is damaged, or its gzip data is no archive: it must be a .tar.gz, readable to its end."
        raise checkpoint_error(rule, f"{' '.join(str(error).split())[:80]}", DOWNLOAD_AGAIN) from error
    with tempfile.TemporaryDirectory() as folder, archive:
        checkpoints, graphs = _unpack(archive, Path(folder), _memory_limit(size))
        found = {name: parts for name, parts in checkpoints.items() if ".index" in parts} or graphs
        if len(found) != 1:
            rule = "An archive must hold one checkpoint (.index and .data), or one frozen graph (.pb)."
            raise checkpoint_error(rule, ", ".join(found) or "none of them", "Unpack it, and give one of them.")
        ((name, parts),) = found.items()
        if ".pb" in parts:
            data = parts[".pb"].read_bytes()
            return _read_graph(data, data[:1024])
        if len(parts) == 1:
            rule = f"An archive with {name}.index must hold {name}.data-00000-of-00001 too."
            raise checkpoint_error(rule, "an archive without it", DOWNLOAD_AGAIN)
        return _read_bundle(str(parts[".index"]).removesuffix(".index"))


def _unpack(archive, folder, limit):
    """Copies the files of weights in an archive to a folder, under names of our own: a path in an archive may point anywhere.

    Returns:
        the checkpoints and the frozen graphs: two dicts {name in the archive without its end: {end of the name: path}}.
    """
    checkpoints, graphs, left = {}, {}, limit
    for member in archive:
        match = WEIGHTS_FILE.fullmatch(member.name)
        if not match or not member.isfile():
            continue
        left -= member.size
        if left < 0:
            rule = f"The files of weights in this archive may have at most {limit} bytes."
            raise checkpoint_error(rule, f"{member.name} of {member.size} bytes", DOWNLOAD_AGAIN)
        name, end = match.groups()
        group = graphs if end == ".pb" else checkpoints
        parts = group.setdefault(name, {})
        parts[end] = folder / f"{list(group).index(name)}{end}"
        with archive.extractfile(member) as contents, open(parts[end], "wb") as copy:
            shutil.copyfileobj(contents, copy, 2**20)
    return checkpoints, graphs


def _read_graph(data, head):
    """The constants of a frozen graph that have a variable's name."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(data)
    except DecodeError:
        graph.Clear()
    arrays, left = {}, _memory_limit(len(data))
    for node in graph.node:
        if node.op != "Const" or not VARIABLE.fullmatch(node.name):
            continue
        value = node.attr["value"].tensor
        left -= 8 * math.prod(dim.size for dim in value.tensor_shape.dim)
        if left < 0:
            rule = f"The constants of a graph of {len(data)} bytes may have at most {_memory_limit(len(data))} bytes."
            raise checkpoint_error(rule, f"more, up to {short_repr.repr(node.name)}", DOWNLOAD_AGAIN)
        arrays[node.name] = tf.make_ndarray(value)
    if not arrays:
        kind = next(kind for pattern, kind in OTHER_FILES if re.match(pattern, head))
        if head.startswith(b"PK"):
            kind = "a zip file, such as PyTorch's or Keras's"
        if MAGIC.to_bytes(10, "little") in head[:32]:
            kind = "a PyTorch checkpoint"
        if graph.node:
            kind = f"a graph without such constants, whose first nodes are {', '.join(n.name for n in graph.node[:3])}"
        rule = "The file must be a TensorFlow checkpoint, or a frozen graph with constants such as logits/semantic/weights."
        raise checkpoint_error(rule, kind, GIVE)
    return arrays


def _without_slots(arrays, ema):
    """The `Checkpoint` of all arrays: without what an optimizer keeps, and with the averages in place if `ema` asks so."""
    averages = {name.removesuffix(AVERAGE): array for name, array in arrays.items() if name.endswith(AVERAGE)}
    slots = [name for name in arrays if not _is_wanted(name)]
    step = arrays.get("global_step")
    tensors = {
        name: array
        for name, array in arrays.items()
        if array is not None and not name.endswith(AVERAGE) and name not in COUNTERS
    }
    if ema:
        if not averages:
            rule = f"For ema=True the file must hold variables that end in {AVERAGE}."
            raise checkpoint_error(rule, "a file without them", "Leave ema out.")
        tensors |= averages
    left_out = [name + AVERAGE for name in averages] if not ema else []
    return Checkpoint(
        {name: np.asarray(array, "float32") if array.dtype.kind == "f" else array for name, array in tensors.items()},
        {"step": None if step is None else int(step), "slots": slots, "averages": left_out},
    )


def architecture(tensors):
    """The network that has these variables.

    Args:
        tensors: {variable name: array}.

    Returns:
        (class name, dict of keyword arguments: num_classes, backbone, the widths and the kind of head), or None if the
        variables are not those of a DeepLab.
    """

    def width(name):
        return int(tensors[name].shape[-1])

    try:
        root = next(root for root in BACKBONES if any(name.startswith(f"{root}/") for name in tensors))
        cell = "meta_architecture/concat_projection/weights" in tensors
        options = {
            "num_classes": width("logits/semantic/weights"),
            "backbone": BACKBONES[root],
            "aspp_channels": width(
                "meta_architecture/concat_projection/weights" if cell else "concat_projection/weights"
            ),
            "dense_prediction_cell": cell,
        }
        if root == "MobilenetV2":
            options["base_channels"] = width("MobilenetV2/Conv/weights")
        else:
            first = f"{root}/entry_flow/block1/unit_1/xception_module/separable_conv1_pointwise/weights"
            options |= {
                "base_channels": width(first) // 2,
                "stem_channels": width(f"{root}/entry_flow/conv1_2/weights"),
            }
        if "decoder/feature_projection0/weights" not in tensors:
            return "DeepLabV3", options
        return "DeepLabV3Plus", options | {"low_level_channels": width("decoder/feature_projection0/weights")}
    except (KeyError, StopIteration, IndexError):
        return None


# {beginning of the variables' names: backbone}
BACKBONES = {f"xception_{depth}": f"xception{depth}" for depth in (41, 65, 71)} | {"MobilenetV2": "mobilenetv2_tf"}
