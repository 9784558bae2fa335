"""The authors' networks give the logits of their own code, for the same drawn weights, at every output stride and size."""

import keras
import numpy as np
import pytest
from support.authors import NETWORKS, SIZES, STRIDES, drawn
from support.drawn import images, sample

import keras_deeplab as kd

QUICK = {("xception65", 16), ("xception71_dpc", 8), *(("mobilenetv2", stride) for stride in STRIDES)}
CASES = [
    pytest.param(name, stride, marks=() if (name, stride) in QUICK else pytest.mark.slow)
    for name in NETWORKS
    for stride in STRIDES
    if (name, stride) != ("xception71_dpc", 32)  # for which the authors' cell has no rates
]


def coarse_logits(model, x):
    """The logits before they are resized to the picture."""
    return np.asarray(keras.Model(model.input, model.get_layer("logits").input[0])(x.astype("float32")))


@pytest.mark.parametrize("name, stride", CASES)
def test_logits_equal_the_authors(name, stride, golden):
    model, expected = drawn(name, output_stride=stride), golden("authors")
    for label, network in (("with norms", model), ("folded", kd.fold_norms(model))):
        for size in SIZES:
            key = f"{name}/os{stride}/{size[0]}x{size[1]}"
            values = coarse_logits(network, images(*size))
            assert np.abs(sample(values) - expected[key]).max() <= 1e-4 * expected[f"{key}/std"], (key, label)
