"""The name of a row, that is of a released model, in; the model with its weights out."""

import json
import os
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_deeplab.catalog import authors, openmmlab, rows, torchvision
from keras_deeplab.catalog.datasets import TRAINED_ON
from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.networks.backbones import BACKBONES, OUTPUT_STRIDES
from keras_deeplab.networks.decoder import AUXILIARY_HEADS
from keras_deeplab.networks.initializers import TooManyNumbers, he_normal, kernels_start_as_zeros
from keras_deeplab.networks.layers import MEAN, STD
from keras_deeplab.zoo.assign import PYTORCH, TENSORFLOW, Names, architecture, assign
from keras_deeplab.zoo.fetch import fetch, sha256_of
from keras_deeplab.zoo.formats import tensorflow_checkpoint, torchvision_file
from keras_deeplab.zoo.formats.checkpoint import read_checkpoint
from keras_deeplab.zoo.one_output import THRESHOLD, threshold_in, two_classes


@dataclass(frozen=True)
class Format:
    """How the files of a source of rows are read.

    Attributes:
        networks: which networks the source has, `Backbone.head`.
        read: a function (path, *, ema=False) -> `Checkpoint`. It raises `ValueError` for another kind of file.
        architecture: a function of the tensors; see `keras_deeplab.zoo.assign.architecture`.
        names: how the files name the tensors.
        classifiers: names of the layers whose shapes follow the number of classes.
        imagenet: {name: URL} of weights of backbones.
        backbone, head: what tensors of a backbone and of a DeepLab's head begin with.
        not_backbone: what the tensors of a backbone's file may begin with beside the backbone's.
        example: a few names of tensors, for error messages.
        made_by: who writes such files, for error messages.
    """

    networks: str
    read: Callable
    architecture: Callable
    names: Names
    classifiers: tuple[str, ...]
    imagenet: dict[str, str]
    backbone: tuple[str, ...]
    head: tuple[str, ...]
    not_backbone: tuple[str, ...]
    example: str
    made_by: str


FORMATS = {  # {`Row.source`: format}
    openmmlab.Row.source: Format(
        "openmmlab",
        read_checkpoint,
        architecture,
        PYTORCH,
        ("decode_head-conv_seg", "auxiliary_head-conv_seg"),
        openmmlab.IMAGENET,
        ("layer1.0.",),
        ("decode_head.",),
        ("fc.", "head.", "conv2."),  # classifiers, and MobileNetV2's last convolution, to 1280 channels
        "mmsegmentation's names (backbone.layer1.0..., decode_head.conv_seg...)",
        "mmsegmentation",
    ),
    authors.Row.source: Format(
        "authors",
        tensorflow_checkpoint.read_checkpoint,
        tensorflow_checkpoint.architecture,
        TENSORFLOW,
        (*tensorflow_checkpoint.CLASSIFIERS, "auxiliary_head-conv_seg"),
        authors.IMAGENET,
        tuple(f"{root}/" for root in tensorflow_checkpoint.BACKBONES),
        ("logits/semantic/",),
        tensorflow_checkpoint.IMAGENET_CLASSIFIERS,
        "the names of the authors' TensorFlow code (xception_65/... or MobilenetV2/..., logits/semantic/...)",
        "the authors' TensorFlow code",
    ),
    torchvision.Row.source: Format(
        "torchvision",
        torchvision_file.read_checkpoint,
        torchvision_file.architecture,
        PYTORCH,
        torchvision_file.CLASSIFIERS,
        torchvision.IMAGENET,
        ("layer1.0.", "0.0."),
        ("classifier.0.project.", "classifier.4."),
        ("fc.", "classifier."),
        "torchvision's names (backbone.layer1.0... or backbone.0.0..., classifier.0.project.0...)",
        "torchvision",
    ),
}
CLASSIFIERS = tuple(name for kind in FORMATS.values() for name in kind.classifiers)


def describe(row):
    """The facts of a row as a dict. "licence" and "license" have the same value."""
    return {
        "name": row.name,
        "description": f"{row.class_name}, {row.backbone} backbone, output stride {row.output_stride}, trained on "
        f"{TRAINED_ON[row.dataset].title} crops of {row.crop[0]}x{row.crop[1]}"
        + (f", {row.iterations} steps" if row.iterations else ""),
        "class_name": row.class_name,
        "source": row.source,
        "backbone": row.backbone,
        "dataset": row.dataset,
        "num_classes": row.num_classes,
        "mIoU": row.mIoU,
        "mIoU_ms_flip": row.mIoU_ms_flip,
        "parameters": row.parameters,
        "megabytes": row.megabytes,
        "url": row.url,
        "file": row.file,
        "licence": row.checkpoint_licence,
        "license": row.checkpoint_licence,
    }


def load_preset(cls, preset, *, weights, sha256, load_weights, ema, **options):
    """The implementation of `DeepLabV3.from_preset` and `DeepLabV3Plus.from_preset`, which describe the arguments."""
    row = rows.find(preset, cls.__name__)
    config = {
        **row.architecture,
        "row": row.name,
        "classes": row.classes,
        "palette": row.palette,
        "protocol": row.protocol,
    }
    if not load_weights:
        if weights is not None:
            raise ValueError(
                f"load_weights=False does not go together with weights. Received: weights={weights!r}. "
                "Leave one of the two out."
            )
        return build(cls, config, **options)

    kind = FORMATS[row.source]
    path = Path(weights).expanduser() if weights is not None else fetch(row.url, check=kind.read)
    if not path.is_file() and not Path(f"{path}.index").is_file():  # TensorFlow's files are named by their beginning
        raise FileNotFoundError(
            "weights must be the path of a .pth, .safetensors or .keras file or, for a model of DeepLab's authors, of a "
            f"TensorFlow checkpoint, .pb or .tar.gz. Received: {str(path)!r}, where there is no file."
        )
    if sha256 is not None and not path.is_file():
        raise ValueError(f"sha256= is for a single file. Received: the checkpoint {path.name}. Leave sha256= out.")
    if sha256 is not None and (digest := sha256_of(path)) != sha256.lower():
        raise ValueError(
            f"The SHA-256 of {path.name} must be {sha256.lower()}. Received: {digest}. Correct sha256=, or replace the file."
        )
    if path.is_file() and is_keras_file(path):
        return from_keras_file(cls, path, **options)

    checkpoint = kind.read(path, ema=ema)
    config |= config_from_file(cls, row, path.name, checkpoint, own=weights is not None)
    numbers = sum(array.size for array in checkpoint.tensors.values())
    try:
        with kernels_start_as_zeros(at_most=2 * numbers + FRESH_NUMBERS):
            model = build(cls, config, **options)
    except TooManyNumbers as error:
        raise ValueError(
            f"{path.name} must hold the weights of the network that the shapes of its tensors describe. Received: {numbers} "
            "numbers, too few for this network. Download the file again, or use another one."
        ) from error
    layers = (name.replace(kind.names.separator, "-") for name in checkpoint.tensors)
    has_auxiliary = any(layer.startswith(AUXILIARY_HEADS) for layer in layers)
    fresh = fresh_layers(model, config, has_auxiliary, path.name)
    assign(model, checkpoint.tensors, fresh=fresh, source=path.name, names=kind.names)
    return model


FRESH_NUMBERS = 2**24  # numbers of layers that a file need not have: classifiers and the auxiliary head


def build(cls, config, *, num_classes, output_stride, out_channels=None, threshold=None, **options):
    """The network of `config`, with other classes, outputs or another output stride where those are not None."""
    num_classes, out_channels = outputs_of(config, num_classes, out_channels)
    if num_classes != config["num_classes"]:
        config = {**config, "num_classes": num_classes, "classes": None, "palette": None, "row": None}
    if out_channels != config.get("out_channels"):
        config = {**config, "row": None}
    config = {**config, "out_channels": out_channels}
    if threshold is not None:
        if out_channels is None:
            raise ValueError(
                f"threshold is for a model of one output. Received: threshold={threshold!r} for {num_classes} outputs. "
                "Add out_channels=1, or leave threshold out."
            )
        config = {**config, "threshold": threshold}
    if output_stride not in (None, *OUTPUT_STRIDES):
        raise ValueError(f"output_stride must be 8, 16 or 32. Received: {output_stride!r}.")
    if output_stride is not None and output_stride != config["output_stride"]:
        config = {**config, **at_output_stride(config, output_stride)}
    return cls(**{**config, **options})


def outputs_of(config, num_classes, out_channels):
    """(number of classes, out_channels of the constructor) of a model, from those asked for and those of `config`."""
    if num_classes == 1 and config.get("out_channels") == 1:
        raise ValueError(
            "A model of one output has two classes, of which label 0 is the background. Received: num_classes=1. Leave "
            "num_classes out, or set it to 2."
        )
    if num_classes is None:
        num_classes = 2 if out_channels == 1 else config["num_classes"]
    if out_channels is None and num_classes == config["num_classes"]:
        out_channels = config.get("out_channels")
    return num_classes, None if out_channels == num_classes else out_channels


def at_output_stride(config, output_stride):
    """What changes in `config` for another output stride: the rates are scaled to reach as far in the picture as before."""

    def scale(rate):
        return max(1, rate * config["output_stride"] // output_stride)

    rates, multi_grid, protocol = config.get("aspp_rates"), config["multi_grid"], config["protocol"]
    protocol = protocol if isinstance(protocol, Protocol) else Protocol.from_dict(protocol)  # as a file has it
    return {
        "protocol": replace(protocol, step=output_stride) if protocol.step else protocol,
        "output_stride": output_stride,
        "aspp_rates": (rates[0], *map(scale, rates[1:])) if rates else None,  # the first is the 1x1 convolution
        "multi_grid": tuple(map(scale, multi_grid)) if multi_grid else None,
    }


def config_from_file(cls, row, name, checkpoint, own):
    """What a file tells of its model: the widths and the number of classes, and of a user's own run the class names.

    Args:
        cls: the class to build.
        row: the row whose network the file should hold.
        name: the name of the file, for error messages.
        checkpoint: the `Checkpoint`.
        own: whether the file is the user's, so that its metadata replaces the row's class names and colours.

    Returns:
        a dict of keyword arguments of `cls`.

    Raises:
        ValueError: if the file holds no DeepLab's weights, or those of another class or backbone.
    """
    kind = FORMATS[row.source]
    empty = [key for key, array in checkpoint.tensors.items() if not array.size]
    if empty:  # their shapes may claim any width
        raise ValueError(
            f"The tensors of {name} must have numbers. Received: {empty[0]} of shape {checkpoint.tensors[empty[0]].shape}. "
            "Download the file again, or use another one."
        )
    check_normalisation(checkpoint.tensors, name)
    class_and_config = kind.architecture(checkpoint.tensors)
    if class_and_config is None:
        raise ValueError(
            f"{name} must hold weights of DeepLabV3 or DeepLabV3+ under {kind.example}. "
            f"Received: {', '.join(list(checkpoint.tensors)[:5])}, ... "
            f"Give the file of a model that {kind.made_by} trained."
        )
    class_name, config = class_and_config
    parts = {key: value for key, value in row.architecture.items() if key in config and key != "num_classes"}
    expected = network_text(cls.__name__, parts)
    received = network_text(class_name, {key: config[key] for key in parts})
    if expected != received:
        raise ValueError(
            f"{name} must hold the network of {row.name}, {expected}. Received: {received}. "
            "Name a preset of this class and backbone, or give another file."
        )
    classifier = checkpoint.tensors.get("decode_head.conv_seg.weight")  # in OpenMMLab's files
    if classifier is not None and classifier.shape[1:] != (config["aspp_channels"], 1, 1):
        raise ValueError(
            f"decode_head.conv_seg.weight of {name} must have shape (outputs, {config['aspp_channels']}, 1, 1). Received: "
            f"{classifier.shape}. Use the file of such a network."
        )
    count = config["num_classes"]
    meta = checkpoint.meta.get("dataset_meta")
    meta = meta if isinstance(meta, dict) else checkpoint.meta  # older versions of mmsegmentation have no dataset_meta
    names, colours = (meta.get(key) or meta.get(key.upper()) for key in ("classes", "palette"))
    if count == 1:
        if is_list_of(names, str, 1):
            names, colours = two_classes(names, colours if isinstance(colours, (list, tuple)) else None, name)
        threshold = threshold_in(checkpoint.meta) or THRESHOLD
        config |= {"num_classes": 2, "out_channels": 1, "threshold": threshold}
        count = 2
    has_own_names = own and is_list_of(names, str, count)
    if has_own_names or count != row.num_classes:
        same_classes = has_own_names and tuple(names) == row.classes
        config["row"] = row.name if same_classes else None
        config["classes"] = tuple(names) if has_own_names else None
        rgb = own and isinstance(colours, (list, tuple)) and all(is_list_of(c, (int, np.integer), 3) for c in colours)
        config["palette"] = colours if rgb and len(colours) == count else row.palette if same_classes else None
    return config


def network_text(class_name, parts):
    """A network in words: its class, its backbone, and the arguments that tell it from others."""
    others = ", ".join(f"{key}={value}" for key, value in sorted(parts.items()) if key != "backbone")
    return f"{class_name} on {parts['backbone']}" + (f" with {others}" if others else "")


def is_list_of(value, kind, length):
    """Whether a value from a file is a list or tuple of `length` items of the type `kind`."""
    return isinstance(value, (list, tuple)) and len(value) == length and all(isinstance(v, kind) for v in value)


def check_normalisation(tensors, name):
    """Raises `ValueError` if a file keeps another mean or deviation of the pictures than the network has."""
    for leaf, expected in (("mean", MEAN), ("std", STD)):
        array = tensors.get(f"data_preprocessor.{leaf}")
        if array is not None and not (array.size == 3 and np.allclose(array.ravel(), expected, atol=0.01)):
            raise ValueError(
                f"data_preprocessor.{leaf} of {name} must be {expected}, by which the network normalises RGB. Received: "
                f"{array.ravel()[:4].tolist()}. Use a model that was trained with this normalisation."
            )


def fresh_layers(model, config, has_auxiliary, name):
    """The names of the layers that a file cannot fill, with a warning for them; they get random weights.

    Args:
        model: the new model.
        config: the arguments of the model in the file.
        has_auxiliary: whether the file has an auxiliary head.
        name: of the file.
    """
    fresh = ()
    if "auxiliary" in model.output_names and not has_auxiliary:
        fresh = tuple(layer.name for layer in model.layers if layer.name.startswith(AUXILIARY_HEADS))
        draw_kernels(model, fresh)
        warnings.warn(
            f"{name} has no auxiliary head: that of the model starts from random weights. It counts in training only.",
            stacklevel=4,
        )
    outputs, own = (config.get("out_channels") or config["num_classes"]), model.get_config()
    if (own["num_classes"], own["out_channels"]) != (config["num_classes"], config.get("out_channels")):
        new = own["out_channels"] or own["num_classes"]
        counts = f"{config['num_classes']} classes and the model {own['num_classes']}"
        if config["num_classes"] == own["num_classes"]:
            counts = f"{outputs} outputs and the model {new}"
        warnings.warn(
            f"{name} has {counts}: the classifiers start from random weights, all other weights come from the file.",
            stacklevel=4,
        )
        fresh += CLASSIFIERS
    return fresh


def draw_kernels(model, names):
    """Gives random kernels to convolutions that were built as zeros. Classifiers never are."""
    for layer in map(model.get_layer, names):
        if hasattr(layer, "kernel") and layer.name not in CLASSIFIERS:
            layer.kernel.assign(he_normal()(layer.kernel.shape, layer.kernel.dtype))


def is_keras_file(path):
    """Whether a file is one that `model.save` wrote."""
    return zipfile.is_zipfile(path) and "config.json" in zipfile.ZipFile(path).namelist()


def from_keras_file(cls, path, **options):
    """A model that `model.save` wrote, with another number of classes, head or stride if these are given."""
    with zipfile.ZipFile(path) as archive:
        saved_class = json.loads(archive.read("config.json")).get("registered_name")
    if saved_class != keras.saving.get_registered_name(cls):
        raise ValueError(
            f"{path.name} must hold a saved {cls.__name__}. Received: {saved_class}. "
            "Use from_preset of the class in the file, or give another file."
        )
    if options["dtype"] is None:  # keeps the saved policy
        del options["dtype"]
    with kernels_start_as_zeros():
        source = keras.saving.load_model(path, compile=False)
        config = {key: value for key, value in source.get_config().items() if key != "name"}
        frozen = config.pop("frozen")
        model = build(cls, config, **options)
    fresh = fresh_layers(model, config, "auxiliary" in source.output_names, path.name)
    for layer in model.layers:
        layer.trainable = layer.name not in frozen or layer.name in fresh
    copy_weights(source, model, fresh)
    return model


def copy_weights(source, model, fresh):
    """Sets the weights of `model` from the layers of the same names in `source`, except in the layers named in `fresh`.

    Raises:
        ValueError: if `source` lacks a layer.
    """
    source_layers = {layer.name: layer for layer in source.layers}
    for layer in model.layers:
        if layer.weights and layer.name not in fresh:
            if layer.name not in source_layers:
                raise ValueError(
                    f"The saved model must have all layers of the new one. Received: a model without {layer.name}. "
                    "Load it with auxiliary_head=False."
                )
            layer.set_weights(source_layers[layer.name].get_weights())


def has_backbone_only(path, row=None):
    """Whether a file holds the weights of a backbone, as ImageNet's do, without those of a DeepLab's head.

    Args:
        path: of the file.
        row: of whose source the file is. Default None, OpenMMLab's.
    """
    if Path(path).is_file() and is_keras_file(path):
        return False
    kind = FORMATS[row.source if row else openmmlab.Row.source]
    names = kind.read(path).tensors.keys()
    return has_backbone(names, kind) and not any(name.startswith(kind.head) for name in names)


def has_backbone(names, kind):
    """Whether the names of tensors are those of a backbone in a `Format`."""
    return any(name.removeprefix("backbone.").startswith(kind.backbone) for name in names)


def require_backbone(tensors, kind, name):
    """Raises `ValueError` if a file has no backbone's tensors under the names of a `Format`."""
    if has_backbone(tensors, kind):
        return
    received, remedy = ", ".join(list(tensors)[:3]), "Give another file."
    for other in FORMATS.values():
        if has_backbone(tensors, other):
            backbones = ", ".join(repr(key) for key, spec in BACKBONES.items() if spec.head == other.networks)
            remedy = f"This is a file of {other.made_by}: build the model with one of its backbones, {backbones}."
    raise ValueError(f"{name} must hold a backbone under {kind.example}. Received: {received}, ... {remedy}")


DEEP_STEM = {"conv1.": "stem.", "bn1.": "stem.7."}  # {what ResNeSt's own release and others call it: OpenMMLab's name}


def with_stem_names(tensors):
    """A backbone's tensors with OpenMMLab's names of a stem of three convolutions."""
    if "conv1.0.weight" not in tensors:
        return tensors
    begins = {name: next((begin for begin in DEEP_STEM if name.startswith(begin)), "") for name in tensors}
    return {DEEP_STEM.get(begin, "") + name.removeprefix(begin): tensors[name] for name, begin in begins.items()}


def require_same_layers(model, path):
    """Raises `ValueError` if a .weights.h5 file names other layers than those of the model that have weights."""
    if not str(path).endswith(".weights.h5") or not os.path.isfile(path):
        return  # Keras says what is wrong with it
    with h5py.File(path) as file:
        groups = [group["vars"] for group in file.get("layers", {}).values() if "vars" in group]
        saved = {str(group.attrs["name"]) for group in groups if len(group) and "name" in group.attrs}
    own = {layer.name for layer in model.layers if layer.weights}
    saved -= {layer.name for layer in model.layers if not layer.weights}  # dropout has its random state there
    if saved and saved != own:
        lists = (", ".join(sorted(names)[:3]) for names in (saved - own, own - saved))
        more, fewer = (f"{names}, ..." if names else "none" for names in lists)
        raise ValueError(
            f"{path} must have the layers of this model: Keras fills layers by their order in such a file. Received: layers "
            f"that the model lacks: {more}; layers that the file lacks: {fewer}. Load it into a model with the same heads, or "
            "save a .keras file and use from_preset(weights=...)."
        )


def load_backbone(model: keras.Model, weights: str | os.PathLike) -> None:
    """Sets the weights of a model's backbone to ImageNet weights, from which training can start.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`. Its other layers do not change.
        weights: `"resnet18_v1c"`, `"resnet50_v1c"` or `"resnet101_v1c"` for backbones with three convolutions as their stem;
            torchvision's `"resnet18"`, `"resnet50"` or `"resnet101"` for "r18b", "r50b" or "r101b"; `"resnest101"` for
            "s101" (a file of ResNeSt's own release serves too); `"mobilenet_v2"` for "mobilenetv2"; torchvision's
            `"resnet50"`, `"resnet101"` or `"mobilenet_v3_large"` for its networks of these names; the authors'
            `"xception_41_imagenet"`, `"xception_65_imagenet"`, `"xception_65_imagenet_coco"`, `"xception_71_imagenet"` or
            `"mobilenet_v2_1.0_224"` for their networks; or the path of such a file: bare tensors, or `backbone.*` beside the
            layers of another head, as mmpretrain and training runs have them. Of a whole model's file the backbone is taken.

    Raises:
        ValueError: if the file lacks weights of the backbone, or holds tensors that neither the backbone nor the layers
            behind it that classify ImageNet's pictures have.
        FileNotFoundError: if the file is not in the cache and cannot be downloaded.
    """
    backbone = BACKBONES[model.get_config()["backbone"]]
    kind = next(kind for kind in FORMATS.values() if kind.networks == backbone.head)
    path = fetch(kind.imagenet[weights], check=kind.read) if weights in kind.imagenet else Path(weights).expanduser()
    tensors = kind.read(path).tensors
    require_backbone(tensors, kind, path.name)
    start = backbone.prefix.replace("-", kind.names.separator)  # OpenMMLab's files leave it out
    if any(name.startswith(start) for name in tensors):  # it may be the file of a whole model
        tensors = {name: array for name, array in tensors.items() if name.startswith(start)}
    else:
        tensors = {start + name: array for name, array in with_stem_names(tensors).items()}
    behind = tuple(f"{begin}{part}" for part in kind.not_backbone for begin in ("", start))
    tensors = {name: array for name, array in tensors.items() if not name.startswith(behind)}
    fresh = {layer.name for layer in model.layers if not layer.name.startswith(backbone.prefix)}
    assign(model, tensors, fresh=fresh, source=path.name, names=kind.names)
