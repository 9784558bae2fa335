"""The networks give the original's logits. The golden values are mmsegmentation 1.2.2's for the same drawn weights."""

import itertools
import json

import numpy as np
import pytest
from support import GOLDEN
from support.drawn import FULL_SIZES, SIZES, images, sample
from support.narrow import drawn, one_of_each_structure, tensors
from support.torch_files import released, released_zip

import keras_deeplab as kd
from keras_deeplab.catalog import rows
from keras_deeplab.networks.fast.convolution import override

NETWORKS = sorted({key.split("/")[0] for key in np.load(GOLDEN / "logits.npz").files})


def test_golden_file_holds_every_distinct_network_of_the_zoo():
    zoo = json.loads((GOLDEN / "zoo.json").read_text())
    facts = ("family", "backbone_type", "depth", "output_stride", "multi_grid", "num_classes", "align_corners")
    kinds = {str([row[zoo["columns"].index(fact)] for fact in facts]) for row in zoo["rows"]}
    assert len(kinds) == len(NETWORKS) == 57


@pytest.mark.parametrize("name", one_of_each_structure(NETWORKS))
def test_logits_equal_the_originals(name, golden):
    model, expected = drawn(name, auxiliary_head=True), golden("logits")
    for height, width in SIZES:
        outputs = model(images(height, width))
        for output, values in outputs.items():
            key = f"{name}/{height}x{width}/{output}"
            values = np.asarray(values)
            assert values.shape == (1, height, width, model.num_classes) and values.dtype == np.float32
            difference = np.abs(sample(values) - expected[key]).max() / expected[f"{key}/std"]
            assert difference <= 1e-4, key


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_full_size_logits_from_a_file_equal_the_originals(name, golden, tmp_path, monkeypatch):
    row = rows.find(name)
    cls = getattr(kd, row.class_name)
    container = (released, released_zip)[NETWORKS.index(name) % 2]
    model = cls.from_preset(name, load_weights=False, auxiliary_head=True)
    (tmp_path / row.file).write_bytes(container(tensors(model)))
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path))
    model, expected = cls.from_preset(name, auxiliary_head=True), golden("logits_full")
    for height, width in FULL_SIZES:
        for output, values in model(images(height, width)).items():
            key = f"{name}/{height}x{width}/{output}"
            difference = np.abs(sample(np.asarray(values)) - expected[key]).max() / expected[f"{key}/std"]
            print(f"{key} {difference:.1e}")
            assert difference <= 1e-4, key
    folded = kd.fold_norms(model)
    for (height, width), way in itertools.product(FULL_SIZES, ("winograd", "product")):
        key = f"{name}/{height}x{width}/logits"
        with override(conv2d=way):  # maps as small as these do not use Winograd's; products are for inference alone
            values = sample(np.asarray(folded(images(height, width))))
        difference = np.abs(values - expected[key]).max() / expected[f"{key}/std"]
        print(f"{key} by the way {way} {difference:.1e}")
        assert difference <= 1e-4, key
