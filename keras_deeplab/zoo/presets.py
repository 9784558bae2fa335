"""A row's name in, a model with its weights out."""

import json
import os
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_deeplab.catalog import rows
from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.catalog.openmmlab import IMAGENET
from keras_deeplab.networks.backbones import OUTPUT_STRIDES
from keras_deeplab.networks.initializers import kernels_start_as_zeros
from keras_deeplab.zoo.assign import architecture, assign
from keras_deeplab.zoo.fetch import fetch, sha256_of
from keras_deeplab.zoo.formats.torch_file import read_checkpoint


def described(row):
    """What is known of a row, as a dict. "licence" and "license" are the same."""
    return {
        "name": row.name,
        "description": f"{row.class_name}, {row.backbone} backbone, output stride {row.output_stride}, trained on "
        f"{DATASETS[row.dataset].title} crops of {row.crop[0]}x{row.crop[1]}, {row.iterations} steps",
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
    cls, preset, *, weights, num_classes, auxiliary_head, dropout, output_stride, dtype, sha256, load_weights
):
    """`DeepLabV3.from_preset` and `DeepLabV3Plus.from_preset`."""
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
                f"load_weights=False takes no weights. Received: weights={weights!r}; leave one of the two out."
            )
        return build(cls, config, num_classes, output_stride, options)

    path = Path(weights).expanduser() if weights is not None else fetch(row.url, check=read_checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"weights is a .pth or .keras file. There is none at {str(path)!r}.")
    if sha256 is not None and (digest := sha256_of(path)) != sha256.lower():
        raise ValueError(f"{path.name} has not the SHA-256 asked for. Expected: {sha256.lower()}. Received: {digest}.")
    if is_keras_file(path):
        return from_keras_file(cls, path, num_classes, output_stride, options)

    checkpoint = read_checkpoint(path)
    config |= fit_to_file(cls, row, path.name, checkpoint, own=weights is not None)
    with kernels_start_as_zeros():
        model = build(cls, config, num_classes, output_stride, options)
    fresh = fresh_classifiers(model, config["num_classes"], path.name)
    assign(model, checkpoint.tensors, fresh=fresh, source=path.name)
    return model


def build(cls, config, num_classes, output_stride, options):
    """The network of `config`, at another class count or output stride if those are not None."""
    if num_classes is not None and num_classes != config["num_classes"]:
        config = {**config, "num_classes": num_classes, "classes": None, "palette": None, "row": None}
    if output_stride not in (None, *OUTPUT_STRIDES):
        raise ValueError(f"output_stride is 8, 16 or 32. Received: {output_stride!r}.")
    if output_stride is not None and output_stride != config["output_stride"]:
        config = {**config, **at_output_stride(config, output_stride)}
    return cls(**{**config, **options})


def at_output_stride(config, output_stride):
    """The same network at another density: a pixel of the last stage still looks as far on the picture."""

    def scale(rate):
        return max(1, rate * config["output_stride"] // output_stride)

    rates, multi_grid = config.get("aspp_rates"), config["multi_grid"]
    return {
        "output_stride": output_stride,
        "aspp_rates": (rates[0], *map(scale, rates[1:])) if rates else None,  # the first is the 1x1 convolution
        "multi_grid": tuple(map(scale, multi_grid)) if multi_grid else None,
    }


def fit_to_file(cls, row, name, checkpoint, own):
    """What the file's shapes, and the metadata of a user's own run, say of the model."""
    found = architecture(checkpoint.tensors)
    if found is None:
        raise ValueError(
            f"{name} holds no DeepLabV3 or DeepLabV3+ weights as mmsegmentation names them "
            f"(backbone.layer1.0..., decode_head.conv_seg...). It holds: {', '.join(list(checkpoint.tensors)[:5])}, ..."
        )
    class_name, shapes = found
    here, there = f"{cls.__name__} on {row.backbone}", f"{class_name} on {shapes['backbone']}"
    if here != there:
        raise ValueError(f"{name} is another network than {row.name}. Expected: {here}. Received: {there}.")
    count = shapes["num_classes"]
    meta = checkpoint.meta.get("dataset_meta")
    meta = meta if isinstance(meta, dict) else checkpoint.meta
    names, colours = (meta.get(key) or meta.get(key.upper()) for key in ("classes", "palette"))
    own_names = own and is_list_of(names, str, count)
    if own_names or count != row.num_classes:
        same = own_names and tuple(names) == row.classes
        shapes["row"] = row.name if same else None
        shapes["classes"] = tuple(names) if own_names else None
        rgb = own and isinstance(colours, (list, tuple)) and all(is_list_of(c, (int, np.integer), 3) for c in colours)
        shapes["palette"] = colours if rgb and len(colours) == count else row.palette if same else None
    return shapes


def is_list_of(value, kind, length):
    return isinstance(value, (list, tuple)) and len(value) == length and all(isinstance(v, kind) for v in value)


def fresh_classifiers(model, count, name):
    """Layers that a file of another class count cannot fill; says so."""
    if model.num_classes == count:
        return ()
    warnings.warn(
        f"{name} has {count} classes and the model {model.num_classes}: the classifiers start from random weights, "
        "all other weights are the file's.",
        stacklevel=4,
    )
    return ("decode_head-conv_seg", "auxiliary_head-conv_seg")


def is_keras_file(path):
    return zipfile.is_zipfile(path) and "config.json" in zipfile.ZipFile(path).namelist()


def from_keras_file(cls, path, num_classes, output_stride, options):
    """A model of this package saved with `model.save`, at another class count, head or stride if asked."""
    with zipfile.ZipFile(path) as archive:
        saved = json.loads(archive.read("config.json")).get("registered_name")
    if saved != keras.saving.get_registered_name(cls):
        raise ValueError(f"{path.name} is not a saved {cls.__name__}. Received: {saved}.")
    options = {key: value for key, value in options.items() if value is not None}  # dtype=None: as it was saved
    with kernels_start_as_zeros():
        source = keras.saving.load_model(path, compile=False)
        config = {key: value for key, value in source.get_config().items() if key != "name"}
        model = build(cls, config, num_classes, output_stride, options)
    fresh = fresh_classifiers(model, source.num_classes, path.name)
    copy_weights(source, model, fresh)
    return model


def copy_weights(source, model, fresh):
    layers = {layer.name: layer for layer in source.layers}
    for layer in model.layers:
        if layer.weights and layer.name not in fresh:
            if layer.name not in layers:
                raise ValueError(f"The saved model has no layer {layer.name}; load it with auxiliary_head=False.")
            layer.set_weights(layers[layer.name].get_weights())


def load_backbone(model: keras.Model, weights: str | os.PathLike) -> None:
    """Fills a model's backbone from ImageNet weights, to train it from there.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        weights: `"resnet18_v1c"`, `"resnet50_v1c"`, `"resnet101_v1c"` for the three-convolution stem, `"resnet18"`, ... of
            torchvision for stem "b", or the path of such a `.pth` file.

    Raises:
        ValueError: if the file does not fill the whole backbone, or holds other tensors than its classifier's.
        FileNotFoundError: if the file is neither in the cache nor can be downloaded.
    """
    path = fetch(IMAGENET[weights], check=read_checkpoint) if weights in IMAGENET else Path(weights).expanduser()
    tensors = read_checkpoint(path).tensors
    tensors = {f"backbone.{name}": array for name, array in tensors.items() if not name.startswith("fc.")}
    fresh = {layer.name for layer in model.layers if not layer.name.startswith("backbone-")}
    assign(model, tensors, fresh=fresh, source=path.name)
