"""Narrow rows with a small box and small windows, each exported once and only if a test asks for it."""

import numpy as np
import pytest
import tensorflow as tf
from support.narrow import drawn

import keras_deeplab as kd

MODELS = {  # row, and a protocol like its own, scaled down
    "whole": ("deeplabv3plus_r18-d8_512x512_80k_loveda", kd.Protocol("whole", resize=(128, 96))),
    "slide": (
        "deeplabv3_r50-d8_769x769_80k_cityscapes",
        kd.Protocol("slide", crop=(65, 65), stride=(43, 43), resize=(129, 97)),
    ),
}


class Made(dict):
    """{kind: what `make` makes of it}, made at the first use."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def __missing__(self, kind):
        self[kind] = self.make(kind)
        return self[kind]


@pytest.fixture(scope="session")
def models():
    """{kind: model}, whose classifiers spread the classes."""

    def make(kind):
        row, protocol = MODELS[kind]
        model = drawn(row, protocol=protocol)
        bias = np.random.default_rng(0).normal(0, 3, model.num_classes)
        model.get_layer("decode_head-conv_seg").bias.assign(bias)
        return model

    return Made(make)


@pytest.fixture(scope="session")
def folders(models, tmp_path_factory):
    """{kind: folder of its SavedModel}, which takes small pictures only."""
    folder = tmp_path_factory.mktemp("served")

    def make(kind):
        kd.export_saved_model(models[kind], folder / kind, max_pixels=20_000)
        return folder / kind

    return Made(make)


@pytest.fixture(scope="session")
def loaded(folders):
    """{kind: what TensorFlow loads}."""
    return Made(lambda kind: tf.saved_model.load(folders[kind]))


@pytest.fixture(scope="session")
def signatures(loaded):
    """{kind: {signature: function}}."""
    return Made(lambda kind: loaded[kind].signatures)
