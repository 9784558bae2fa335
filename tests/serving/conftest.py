"""Narrow models with a small box and small windows, and their SavedModels, each made once and only if a test uses it."""

import numpy as np
import pytest
import tensorflow as tf
from support.narrow import drawn

import keras_deeplab as kd

MODELS = {  # kind: (row, a smaller version of its protocol)
    "whole": ("deeplabv3plus_r18-d8_512x512_80k_loveda", kd.Protocol("whole", resize=(128, 96))),
    "slide": (
        "deeplabv3_r50-d8_769x769_80k_cityscapes",
        kd.Protocol("slide", crop=(65, 65), stride=(43, 43), resize=(129, 97)),
    ),
}


class MadeOnFirstUse(dict):
    """{kind: make(kind)}, where each value is made when it is used first."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def __missing__(self, kind):
        self[kind] = self.make(kind)
        return self[kind]


@pytest.fixture(scope="session")
def models():
    """{kind: model}. A random bias of the classifier makes several classes occur in the label maps."""

    def make(kind):
        row, protocol = MODELS[kind]
        model = drawn(row, protocol=protocol)
        bias = np.random.default_rng(0).normal(0, 3, model.num_classes)
        model.get_layer("decode_head-conv_seg").bias.assign(bias)
        return model

    return MadeOnFirstUse(make)


@pytest.fixture(scope="session")
def folders(models, tmp_path_factory):
    """{kind: folder of its SavedModel}, which takes pictures of at most 20,000 pixels."""
    folder = tmp_path_factory.mktemp("served")

    def make(kind):
        kd.export_saved_model(models[kind], folder / kind, max_pixels=20_000)
        return folder / kind

    return MadeOnFirstUse(make)


@pytest.fixture(scope="session")
def loaded(folders):
    """{kind: the SavedModel as TensorFlow loads it}."""
    return MadeOnFirstUse(lambda kind: tf.saved_model.load(folders[kind]))


@pytest.fixture(scope="session")
def signatures(loaded):
    """{kind: {signature: function}}."""
    return MadeOnFirstUse(lambda kind: loaded[kind].signatures)
