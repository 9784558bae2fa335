"""The name of a row, that is of a released model, in; the model with its weights out."""

import json
import os
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from keras_deeplab.catalog import authors, openmmlab, rows
from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.networks.backbones import BACKBONES, OUTPUT_STRIDES
from keras_deeplab.networks.initializers import kernels_start_as_zeros
from keras_deeplab.zoo.assign import PYTORCH, TENSORFLOW, Names, architecture, assign
from keras_deeplab.zoo.fetch import fetch, sha256_of
from keras_deeplab.zoo.formats import tensorflow_checkpoint
from keras_deeplab.zoo.formats.checkpoint import read_checkpoint


@dataclass(frozen=True)
class Format:
    """How the files of a source of rows are read.

    Attributes:
        read: a function (path, *, ema=False) -> `Checkpoint`. It raises `ValueError` for another kind of file.
        architecture: a function of the tensors; see `keras_deeplab.zoo.assign.architecture`.
        names: how the files name the tensors.
        classifiers: names of the layers whose shapes follow the number of classes.
        imagenet: {name: URL} of weights of backbones.
        not_backbone: what the tensors of a backbone's file may begin with beside the backbone's.
        example: a few names of tensors, for error messages.
        made_by: who writes such files, for error messages.
    """

    read: Callable
    architecture: Callable
    names: Names
    classifiers: tuple[str, ...]
    imagenet: dict[str, str]
    not_backbone: tuple[str, ...]
    example: str
    made_by: str


FORMATS = {  # {`Row.source`: format}
    openmmlab.Row.source: Format(
        read_checkpoint,
        architecture,
        PYTORCH,
        ("decode_head-conv_seg", "auxiliary_head-conv_seg"),
        openmmlab.IMAGENET,
        ("fc.",),
        "mmsegmentation's names (backbone.layer1.0..., decode_head.conv_seg...)",
        "mmsegmentation",
    ),
    authors.SOURCE: Format(
        tensorflow_checkpoint.read_checkpoint,
        tensorflow_checkpoint.architecture,
        TENSORFLOW,
        (*tensorflow_checkpoint.CLASSIFIERS, "auxiliary_head-conv_seg"),
        authors.IMAGENET,
        tensorflow_checkpoint.IMAGENET_CLASSIFIERS,
        "the names of the authors' TensorFlow code (xception_65/... or MobilenetV2/..., logits/semantic/...)",
        "the authors' TensorFlow code",
    ),
}
HEADS = {openmmlab.Row.source: "openmmlab", authors.SOURCE: "authors"}  # {`Row.source`: `Backbone.head`}
CLASSIFIERS = tuple(name for kind in FORMATS.values() for name in kind.classifiers)


def describe(row):
    """The facts of a row as a dict. "licence" and "license" have the same value."""
    return {
        "name": row.name,
        "description": f"{row.class_name}, {row.backbone} backbone, output stride {row.output_stride}, trained on "
        f"{DATASETS[row.dataset].title} crops of {row.crop[0]}x{row.crop[1]}"
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


def load_preset(
    cls, preset, *, weights, num_classes, auxiliary_head, dropout, output_stride, dtype, sha256, load_weights, ema
):
    """The implementation of `DeepLabV3.from_preset` and `DeepLabV3Plus.from_preset`, which describe the arguments."""
    row = rows.find(preset, cls.__name__)
    options = dict(auxiliary_head=auxiliary_head, dropout=dropout, dtype=dtype)
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
        return build(cls, config, num_classes, output_stride, options)

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
        return from_keras_file(cls, path, num_classes, output_stride, options)

    checkpoint = kind.read(path, ema=ema)
    config |= config_from_file(cls, row, path.name, checkpoint, own=weights is not None)
    with kernels_start_as_zeros():
        model = build(cls, config, num_classes, output_stride, options)
    fresh = fresh_classifiers(model, config["num_classes"], path.name)
    assign(model, checkpoint.tensors, fresh=fresh, source=path.name, names=kind.names)
    return model


def build(cls, config, num_classes, output_stride, options):
    """The network of `config`, with another number of classes or another output stride where those are not None."""
    if num_classes is not None and num_classes != config["num_classes"]:
        config = {**config, "num_classes": num_classes, "classes": None, "palette": None, "row": None}
    if output_stride not in (None, *OUTPUT_STRIDES):
        raise ValueError(f"output_stride must be 8, 16 or 32. Received: {output_stride!r}.")
    if output_stride is not None and output_stride != config["output_stride"]:
        config = {**config, **at_output_stride(config, output_stride)}
    return cls(**{**config, **options})


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
    count = config["num_classes"]
    meta = checkpoint.meta.get("dataset_meta")
    meta = meta if isinstance(meta, dict) else checkpoint.meta  # older versions of mmsegmentation have no dataset_meta
    names, colours = (meta.get(key) or meta.get(key.upper()) for key in ("classes", "palette"))
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


def fresh_classifiers(model, count, name):
    """The names of the classifiers if a file of `count` classes cannot fill them, with a warning; otherwise ()."""
    if model.num_classes == count:
        return ()
    warnings.warn(
        f"{name} has {count} classes and the model {model.num_classes}: the classifiers start from random weights, "
        "all other weights come from the file.",
        stacklevel=4,
    )
    return CLASSIFIERS


def is_keras_file(path):
    """Whether a file is one that `model.save` wrote."""
    return zipfile.is_zipfile(path) and "config.json" in zipfile.ZipFile(path).namelist()


def from_keras_file(cls, path, num_classes, output_stride, options):
    """A model that `model.save` wrote, with another number of classes, head or stride if these are given."""
    with zipfile.ZipFile(path) as archive:
        saved_class = json.loads(archive.read("config.json")).get("registered_name")
    if saved_class != keras.saving.get_registered_name(cls):
        raise ValueError(
            f"{path.name} must hold a saved {cls.__name__}. Received: {saved_class}. "
            "Use from_preset of the class in the file, or give another file."
        )
    options = {key: value for key, value in options.items() if value is not None}  # dtype=None keeps the saved policy
    with kernels_start_as_zeros():
        source = keras.saving.load_model(path, compile=False)
        config = {key: value for key, value in source.get_config().items() if key != "name"}
        model = build(cls, config, num_classes, output_stride, options)
    fresh = fresh_classifiers(model, source.num_classes, path.name)
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


def load_backbone(model: keras.Model, weights: str | os.PathLike) -> None:
    """Sets the weights of a model's backbone to ImageNet weights, from which training can start.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`. Its other layers do not change.
        weights: `"resnet18_v1c"`, `"resnet50_v1c"` or `"resnet101_v1c"` for backbones with three convolutions as their stem;
            torchvision's `"resnet18"`, `"resnet50"` or `"resnet101"` for "r18b", "r50b" or "r101b"; the authors'
            `"xception_41_imagenet"`, `"xception_65_imagenet"`, `"xception_65_imagenet_coco"`, `"xception_71_imagenet"` or
            `"mobilenet_v2_1.0_224"` for their networks; or the path of such a file.

    Raises:
        ValueError: if the file lacks weights of the backbone, or holds tensors that neither the backbone nor ImageNet's
            classifier has.
        FileNotFoundError: if the file is not in the cache and cannot be downloaded.
    """
    backbone = BACKBONES[model.get_config()["backbone"]]
    kind = next(kind for source, kind in FORMATS.items() if HEADS[source] == backbone.head)
    path = fetch(kind.imagenet[weights], check=kind.read) if weights in kind.imagenet else Path(weights).expanduser()
    tensors = kind.read(path).tensors
    start = backbone.prefix.replace("-", kind.names.separator)  # OpenMMLab's files leave it out
    tensors = {name: array for name, array in tensors.items() if not name.startswith(kind.not_backbone)}
    if any(name.startswith(start) for name in tensors):  # it may be the file of a whole model
        tensors = {name: array for name, array in tensors.items() if name.startswith(start)}
    else:
        tensors = {start + name: array for name, array in tensors.items()}
    fresh = {layer.name for layer in model.layers if not layer.name.startswith(backbone.prefix)}
    assign(model, tensors, fresh=fresh, source=path.name, names=kind.names)
