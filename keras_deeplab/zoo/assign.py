"""Released tensors in, a model with these weights out. Every tensor must be used and every variable set."""

import re
from typing import NamedTuple

import keras
import numpy as np

from keras_deeplab.networks.backbones.mobilenet_v2 import BLOCKS as MOBILENET_V2
from keras_deeplab.networks.backbones.mobilenet_v2 import divisible
from keras_deeplab.networks.decoder import AUXILIARY_HEADS

# A tensor's name is LAYER.PARAMETER. {PyTorch's name of a parameter: Keras's}, for both kinds of layers.
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
CONVOLUTION = {"weight": "kernel", "bias": "bias"}


class Names(NamedTuple):
    """How a kind of files names the tensors: LAYER, a separator, PARAMETER.

    Attributes:
        separator: stands in place of the dashes of a layer's name, and before the parameter.
        norm, convolution: {name of a parameter: Keras's name}, for both kinds of layers.
        torch_layout: whether kernels have PyTorch's axes and not Keras's.
    """

    separator: str
    norm: dict[str, str]
    convolution: dict[str, str]
    torch_layout: bool


PYTORCH = Names(".", NORM, CONVOLUTION, torch_layout=True)
TENSORFLOW = Names(
    "/",
    {name: name for name in NORM.values()},
    {"weights": "kernel", "depthwise_weights": "kernel", "biases": "bias"},
    torch_layout=False,
)
# What files hold beside the layers: counters, the normalisation of pictures, and weights of losses.
NO_LAYER = re.compile(r"(.+\.)?num_batches_tracked|data_preprocessor\.(mean|std)|(decode|auxiliary)_head\.loss_\w+\..+")
MAX_NAMES = 8  # how many names an error message lists


def assign(model, tensors, *, fresh=(), source="The file", names=PYTORCH):
    """Sets every variable of `model` from the tensors of a file.

    A tensor's name is the layer's name, with dots in place of dashes, and the parameter's: `backbone.layer1.0.conv1.weight`
    is the kernel of `backbone-layer1-0-conv1`. PyTorch's convolution kernels are transposed from (out, in, height, width).

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus` with norms.
        tensors: {tensor name: array}. Those of an auxiliary head are ignored if the model has none;
            `num_batches_tracked`, `data_preprocessor.*` and the buffers of losses are always ignored.
        fresh: names of layers that keep the weights they have; the tensors for them are ignored.
        source: where the tensors come from, for error messages.
        names: how the file names them, a `Names`. Default `PYTORCH`.

    Returns:
        names of the ignored tensors.

    Raises:
        ValueError: if tensors and variables do not match. The message names the tensors without a layer, the variables
            without a tensor, and the tensors of a wrong shape. The model is not changed.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights and layer.name not in fresh}
    has_auxiliary = any(name.startswith(AUXILIARY_HEADS) for name in layers)
    unfilled = {(name, variable.name) for name, layer in layers.items() for variable in layer.weights}
    ignored, without_layer, wrong_shapes, assignments = [], [], [], []
    for name, array in tensors.items():
        module, _, parameter = name.rpartition(names.separator)
        layer_name = module.replace(names.separator, "-")
        if (
            NO_LAYER.fullmatch(name)
            or layer_name in fresh
            or (layer_name.startswith(AUXILIARY_HEADS) and not has_auxiliary)
        ):
            ignored.append(name)
            continue
        layer = layers.get(layer_name)
        variable_names = names.norm if isinstance(layer, keras.layers.BatchNormalization) else names.convolution
        if layer is None or (layer_name, variable_names.get(parameter)) not in unfilled:
            without_layer.append(name)
            continue
        variable = getattr(layer, variable_names[parameter])
        axes = axes_to_keras(array, layer) if names.torch_layout else tuple(range(array.ndim))
        if tuple(array.shape[axis] for axis in axes) != tuple(variable.shape):
            shape = to_torch_shape(variable, layer) if names.torch_layout else tuple(variable.shape)
            wrong_shapes.append(f"{name} {tuple(array.shape)}, not {shape}")
        assignments.append((variable, array, axes))
        unfilled.discard((layer_name, variable_names[parameter]))
    problems = [
        f"{len(listed)} {problem}: {', '.join(listed[:MAX_NAMES])}{', ...' if len(listed) > MAX_NAMES else ''}"
        for problem, listed in [
            ("tensors without a layer in the network", without_layer),
            ("variables without a tensor", sorted(f"{layer}/{variable}" for layer, variable in unfilled)),
            ("tensors of a wrong shape", wrong_shapes),
        ]
        if listed
    ]
    if problems:
        raise ValueError(
            f"The tensors of {source} must be those of {type(model).__name__}. Received: {'; '.join(problems)}. "
            "Use the file of this network, or the class and the backbone of this file."
        )
    # TensorFlow transposes on all cores. JAX would compile a function for each shape.
    transpose = keras.ops.transpose if keras.backend.backend() == "tensorflow" else np.transpose
    for variable, array, axes in assignments:
        variable.assign(transpose(array, axes) if axes != tuple(range(len(axes))) else array)
    return ignored


def axes_to_keras(array, layer):
    """PyTorch's axes in Keras's order: kernels (height, width, in, out), depthwise ones (height, width, channels, 1)."""
    if array.ndim != 4:
        return tuple(range(array.ndim))
    return (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)


def to_torch(model):
    """The reverse of `assign`: a model's variables as {PyTorch name: array in PyTorch's layout}."""
    tensors = {}
    for layer in model.layers:
        variable_names = NORM if isinstance(layer, keras.layers.BatchNormalization) else CONVOLUTION
        parameters = {variable_name: parameter for parameter, variable_name in variable_names.items()}
        for variable in layer.weights:
            array = keras.ops.convert_to_numpy(variable)
            if array.ndim == 4:
                array = array.transpose(
                    (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (3, 2, 0, 1)
                )
            tensors[f"{layer.name.replace('-', '.')}.{parameters[variable.name]}"] = np.ascontiguousarray(array)
    return tensors


def to_torch_shape(variable, layer):
    """The shape that PyTorch's tensor for a variable has."""
    axes = axes_to_keras(variable, layer)
    return tuple(variable.shape[axes.index(axis)] for axis in range(len(axes)))


def architecture(tensors):
    """The architecture of a DeepLab, derived from the names and shapes of its tensors.

    Args:
        tensors: {tensor name: array}.

    Returns:
        (class name, dict of keyword arguments: num_classes, backbone and the widths), or None if the tensors are not those of
        a DeepLab.
    """
    try:
        backbone = next(recognise for name, recognise in BACKBONES.items() if name in tensors)
        options = dict(
            num_classes=width(tensors, "decode_head.conv_seg"),
            **backbone(tensors),
            aspp_channels=width(tensors, "decode_head.bottleneck.conv"),
        )
    except (KeyError, StopIteration):
        return None
    if "auxiliary_head.convs.0.conv.weight" in tensors:
        options["auxiliary_channels"] = width(tensors, "auxiliary_head.convs.0.conv")
    if "decode_head.c1_bottleneck.conv.weight" not in tensors:
        return "DeepLabV3", options
    options["low_level_channels"] = width(tensors, "decode_head.c1_bottleneck.conv")
    return "DeepLabV3Plus", options


def width(tensors, module):
    """The number of channels that a convolution gives."""
    return int(tensors[f"{module}.weight"].shape[0])


def resnet(tensors):
    """Name and widths of a ResNet. Raises `KeyError` for another number of blocks than those of the released models."""
    v1c = "backbone.stem.0.weight" in tensors
    return {
        "backbone": RESNETS[blocks(tensors), "backbone.layer1.0.conv3.weight" in tensors] + ("" if v1c else "b"),
        "base_channels": width(tensors, "backbone.layer1.0.conv1"),
        "stem_channels": width(tensors, "backbone.stem.6" if v1c else "backbone.conv1"),
    }


def resnest(tensors):
    """Name and widths of a ResNeSt. Raises `KeyError` for another number of blocks than those of the released models."""
    return {
        "backbone": {(3, 4, 23, 3): "s101"}[blocks(tensors)],
        "base_channels": width(tensors, "backbone.layer1.0.conv1"),
        "stem_channels": width(tensors, "backbone.stem.6"),
    }


def mobilenet_v2(tensors):
    """Name and width of a MobileNetV2. Widths are rounded; it is the smallest `base_channels` that gives those of the file."""
    expected = [width(tensors, "backbone.conv1.conv")]
    for i, (expansion, _, _) in enumerate(MOBILENET_V2):
        expected.append(width(tensors, f"backbone.layer{i + 1}.0.conv.{2 if expansion > 1 else 1}.conv"))
    proportions = [1, *(channels / 32 for _, channels, _ in MOBILENET_V2)]
    for base_channels in range(1, expected[0] + 8):
        if [divisible(base_channels * proportion) for proportion in proportions] == expected:
            return {"backbone": "mobilenetv2", "base_channels": base_channels}
    return {"backbone": "mobilenetv2", "base_channels": expected[0]}


def blocks(tensors):
    """The number of blocks of each of a ResNet's four stages."""
    names = (re.match(r"backbone\.layer(\d)\.(\d+)\.", name) for name in tensors)
    found = {match.groups() for match in names if match}
    return tuple(sum(stage == wanted for stage, _ in found) for wanted in "1234")


# {(blocks in each stage, whether they are bottlenecks): backbone, without the "b" of a 7x7 stem}
RESNETS = {((2, 2, 2, 2), False): "r18", ((3, 4, 6, 3), True): "r50", ((3, 4, 23, 3), True): "r101"}
BACKBONES = {  # {tensor that this kind of backbone has and none below it: function that gives its name and widths}
    "backbone.conv1.conv.weight": mobilenet_v2,
    "backbone.layer1.0.conv2.fc1.weight": resnest,
    "backbone.layer1.0.conv1.weight": resnet,  # also in a ResNeSt, which is found before
}
