"""A row's name in, its narrow model with random or drawn weights out; tests/golden/make_networks.py builds the original's."""

import pytest
from support.drawn import NARROW, weights

import keras_deeplab as kd
from keras_deeplab.catalog import rows
from keras_deeplab.networks.backbones import BACKBONES
from keras_deeplab.networks.layers import AtrousDepthwiseConv2D
from keras_deeplab.zoo.assign import assign

TORCH_NAMES = {  # {Keras's name of a variable: PyTorch's}
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def build(name, **options):
    """The narrow network of a row, with random weights."""
    row = rows.find(name)
    absent = {"base_channels", "stem_channels"} - set(BACKBONES[row.backbone].widths)
    if row.class_name == "DeepLabV3":
        absent.add("low_level_channels")
    config = {
        **row.architecture,
        **NARROW,
        "row": row.name,
        "classes": row.classes,
        "palette": row.palette,
        "protocol": row.protocol,
        **options,
    }
    return getattr(kd, row.class_name)(**{name: value for name, value in config.items() if name not in absent})


def one_of_each_structure(names):
    """Rows as parameters of a test: of those that differ in the number of classes alone, all but the first are slow."""
    seen, marked = set(), []
    for name in names:
        row = rows.find(name)
        structure = row.class_name, str({k: v for k, v in row.architecture.items() if k != "num_classes"})
        marked.append(pytest.param(name, marks=[pytest.mark.slow] * (structure in seen)))
        seen.add(structure)
    return marked


def tensor_shapes(model):
    """{PyTorch name: PyTorch shape} of a model's variables."""
    shapes = {}
    for layer in model.layers:
        for variable in layer.weights:
            shape = tuple(variable.shape)
            if len(shape) == 4:
                depthwise = isinstance(layer, AtrousDepthwiseConv2D)
                shape = (shape[2], 1, *shape[:2]) if depthwise else (shape[3], shape[2], *shape[:2])
            shapes[f"{layer.name.replace('-', '.')}.{TORCH_NAMES[variable.name]}"] = shape
    return shapes


def tensors(model, seed=0):
    """The drawn weights of a model under the names, and with the shapes, of a PyTorch file."""
    return {name: weights(name, shape, seed) for name, shape in tensor_shapes(model).items()}


def drawn(name, **options):
    """The narrow network of a row, with the drawn weights."""
    model = build(name, **options)
    assign(model, tensors(model))
    return model
