"""A file of torchvision's DeepLabV3 in, {tensor name: array} out: released ones, and those of its reference training scripts.

Such a file is PyTorch's: a state dict, or {"model": state dict, "optimizer": ..., "args": ...}. This module knows the names.
"""

import os

from keras_deeplab.zoo import assign
from keras_deeplab.zoo.formats import checkpoint

FEATURES = "features."  # before the names of a MobileNetV3's layers in the file of a whole classifier
RESNETS = {"r50b": "resnet50", "r101b": "resnet101"}  # {OpenMMLab's name of a ResNet: torchvision's}
CLASSIFIERS = ("classifier-4", "aux_classifier-4")


def read_checkpoint(path: str | os.PathLike, *, ema: bool = False) -> checkpoint.Checkpoint:
    """Reads a PyTorch file as `checkpoint.read_checkpoint` does. The features of a classifier are those of a backbone."""
    tensors, meta = checkpoint.read_checkpoint(path, ema=ema)
    return checkpoint.Checkpoint(
        {
            f"backbone.{name.removeprefix(FEATURES)}" if name.startswith(FEATURES) else name: array
            for name, array in tensors.items()
        },
        meta,
    )


def architecture(tensors):
    """The network that has these tensors.

    Args:
        tensors: {tensor name: array}.

    Returns:
        ("DeepLabV3", dict of keyword arguments: num_classes, backbone and the widths), or None if the tensors are not those
        of torchvision's DeepLabV3.
    """
    try:
        if "backbone.layer1.0.conv1.weight" in tensors:
            options = assign.resnet(tensors)
            options["backbone"] = RESNETS[options["backbone"]]
        else:
            options = {"backbone": "mobilenet_v3_large", "base_channels": assign.width(tensors, "backbone.0.0")}
        options["num_classes"] = assign.width(tensors, "classifier.4")
        options["aspp_channels"] = assign.width(tensors, "classifier.0.project.0")
        if "aux_classifier.0.weight" in tensors:
            options["auxiliary_channels"] = assign.width(tensors, "aux_classifier.0")
    except (KeyError, IndexError):
        return None
    return "DeepLabV3", options
