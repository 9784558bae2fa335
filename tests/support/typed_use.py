"""The public functions as a program with type hints calls them. mypy checks this file; nothing runs it."""

from pathlib import Path
from typing import assert_type

import numpy as np
from PIL import Image

import keras_deeplab as kd


def use(array: np.ndarray, path: Path) -> None:
    model = kd.DeepLabV3Plus.from_preset("r101_cityscapes", num_classes=3, dtype="mixed_bfloat16")
    assert_type(model, kd.DeepLabV3Plus)
    assert_type(kd.from_preset("deeplabv3_r50_cityscapes"), kd.DeepLabV3 | kd.DeepLabV3Plus)
    assert_type(kd.read_image(path), np.ndarray)
    assert_type(kd.overlay(array, array, ["a"], [(0, 0, 0)], opacity=0.4), Image.Image)
    assert_type(kd.load_checkpoint("x.pth"), dict[str, np.ndarray])
    assert_type(kd.evaluate(model, "images", "labels", resume=path), dict)
    assert_type(kd.export_saved_model(model, path, size=(512, 1024)), dict)
    kd.segment(model, [path, array, Image.new("RGB", (4, 4)), b""], multi_scale_flip="picture", resize=(2048, 1024))
    kd.load_backbone(model, "resnet101_v1c")
