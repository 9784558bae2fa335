"""The authors' networks give the logits of their own code, for the same drawn weights, at every output stride and size."""

import keras
import numpy as np
import pytest
from support.authors import FULL, FULL_STRIDES, NETWORKS, SIZES, STRIDES, drawn
from support.drawn import FULL_SIZES, images, sample

import keras_deeplab as kd

QUICK = {("xception65", 16), ("xception71_dpc", 16), *(("mobilenetv2", stride) for stride in STRIDES)}
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
    compare(drawn(name, output_stride=stride), golden("authors"), name, stride, SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("stride", FULL_STRIDES)
def test_logits_at_full_width_equal_the_authors(name, stride, golden):
    compare(drawn(name, FULL, output_stride=stride), golden("authors_full"), name, stride, FULL_SIZES)


def compare(model, expected, name, stride, sizes):
    """Compares the logits of a model, with batch norms and with folded ones, with those of a golden file."""
    for label, network in (("with norms", model), ("folded", kd.fold_norms(model))):
        for size in sizes:
            key = f"{name}/os{stride}/{size[0]}x{size[1]}"
            values = coarse_logits(network, images(*size))
            difference = np.abs(sample(values) - expected[key]).max() / expected[f"{key}/std"]
            print(f"{key} {label}: {difference:.1e}")
            assert difference <= 1e-4, (key, label)
