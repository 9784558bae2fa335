"""Released tensors in, a model's variables filled: every tensor used, every variable set."""

import re

import keras
import numpy as np

from keras_deeplab.networks.layers import AtrousDepthwiseConv2D

# The last part of a tensor's name -> the variable of the layer that the part before names.
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
CONVOLUTION = {"weight": "kernel", "bias": "bias"}
SHOWN = 8  # names in an error message


def assign(model, tensors, *, fresh=(), source="The file"):
    """Sets every variable of `model` from PyTorch tensors.

    A tensor's name is the layer's, with dots for dashes, and the variable's: `backbone.layer1.0.conv1.weight` is the
    kernel of `backbone-layer1-0-conv1`. Convolution kernels are transposed from (out, in, height, width).

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`, norms not folded.
        tensors: {tensor name: array}. Those under `auxiliary_head.` may be left if the model has no such head, and
            `num_batches_tracked` always is.
        fresh: names of layers that keep what they have; tensors for them are left.
        source: what the tensors come from, for error messages.

    Returns:
        names of the tensors that were left.

    Raises:
        ValueError: naming every tensor that has no place, every variable without a tensor and every other shape.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights and layer.name not in fresh}
    has_auxiliary = any(name.startswith("auxiliary_head") for name in layers)
    unfilled = {(name, variable.name) for name, layer in layers.items() for variable in layer.weights}
    left, unused, wrong, pairs = [], [], [], []
    for name, array in tensors.items():
        module, _, leaf = name.rpartition(".")
        layer_name = module.replace(".", "-")
        if (
            leaf == "num_batches_tracked"
            or layer_name in fresh
            or (layer_name.startswith("auxiliary_head-") and not has_auxiliary)
        ):
            left.append(name)
            continue
        layer = layers.get(layer_name)
        names = NORM if isinstance(layer, keras.layers.BatchNormalization) else CONVOLUTION
        if layer is None or (layer_name, names.get(leaf)) not in unfilled:
            unused.append(name)
            continue
        variable = getattr(layer, names[leaf])
        axes = axes_to_keras(array, layer)
        if tuple(array.shape[axis] for axis in axes) != tuple(variable.shape):
            wrong.append(f"{name} {tuple(array.shape)}, not {to_torch_shape(variable, layer)}")
        pairs.append((variable, array, axes))
        unfilled.discard((layer_name, names[leaf]))
    problems = [
        f"{len(found)} {what}: {', '.join(found[:SHOWN])}{', ...' if len(found) > SHOWN else ''}"
        for what, found in [
            ("tensors that the network has no place for", unused),
            ("variables without a tensor", sorted(f"{layer}/{variable}" for layer, variable in unfilled)),
            ("tensors of another shape", wrong),
        ]
        if found
    ]
    if problems:
        raise ValueError(f"{source} does not fit {type(model).__name__}. " + "; ".join(problems) + ".")
    # TensorFlow's copies by all cores; JAX would compile one for each shape.
    transpose = keras.ops.transpose if keras.backend.backend() == "tensorflow" else np.transpose
    for variable, array, axes in pairs:
        variable.assign(transpose(array, axes) if len(axes) > 1 else array)
    return left


def axes_to_keras(array, layer):
    """PyTorch's axes in Keras's order: kernels become (height, width, in, out), depthwise (height, width, channels, 1)."""
    if array.ndim != 4:
        return tuple(range(array.ndim))
    return (2, 3, 0, 1) if isinstance(layer, AtrousDepthwiseConv2D) else (2, 3, 1, 0)


def to_torch(model):
    """The reverse of `assign`: a model's variables as {PyTorch name: array in PyTorch's layout}."""
    tensors = {}
    for layer in model.layers:
        names = NORM if isinstance(layer, keras.layers.BatchNormalization) else CONVOLUTION
        leaves = {variable: leaf for leaf, variable in names.items()}
        for variable in layer.weights:
            array = keras.ops.convert_to_numpy(variable)
            if array.ndim == 4:
                array = array.transpose((2, 3, 0, 1) if isinstance(layer, AtrousDepthwiseConv2D) else (3, 2, 0, 1))
            tensors[f"{layer.name.replace('-', '.')}.{leaves[variable.name]}"] = np.ascontiguousarray(array)
    return tensors


def to_torch_shape(variable, layer):
    axes = axes_to_keras(variable, layer)
    return tuple(variable.shape[axes.index(axis)] for axis in range(len(axes)))


def architecture(tensors):
    """What the shapes say of a DeepLab's architecture, as keyword arguments of its class.

    Args:
        tensors: {tensor name: array}.

    Returns:
        (class name, dict of num_classes, backbone and the widths), or None if these are no DeepLab's tensors.
    """

    def width(name):
        return int(tensors[name].shape[0])

    try:
        blocks = [
            len({m[1] for name in tensors if (m := re.match(rf"backbone\.layer{stage}\.(\d+)\.", name))})
            for stage in (1, 2, 3, 4)
        ]
        v1c = "backbone.stem.0.weight" in tensors
        found = dict(
            num_classes=width("decode_head.conv_seg.weight"),
            backbone=RESNETS[tuple(blocks), "backbone.layer1.0.conv3.weight" in tensors] + ("" if v1c else "b"),
            base_channels=width("backbone.layer1.0.conv1.weight"),
            stem_channels=width("backbone.stem.6.weight" if v1c else "backbone.conv1.weight"),
            aspp_channels=width("decode_head.bottleneck.conv.weight"),
        )
    except KeyError:
        return None
    if "auxiliary_head.convs.0.conv.weight" in tensors:
        found["auxiliary_channels"] = width("auxiliary_head.convs.0.conv.weight")
    if "decode_head.c1_bottleneck.conv.weight" not in tensors:
        return "DeepLabV3", found
    found["low_level_channels"] = width("decode_head.c1_bottleneck.conv.weight")
    return "DeepLabV3Plus", found


# Blocks in each stage, whether they are bottlenecks -> the backbone, less the "b" of a 7x7 stem.
RESNETS = {((2, 2, 2, 2), False): "r18", ((3, 4, 6, 3), True): "r50", ((3, 4, 23, 3), True): "r101"}
