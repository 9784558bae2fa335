"""`convert` writes a SavedModel equal to `segment` from files in the layouts of all sources.

test_command_line.py has OpenMMLab's ResNets and one output; test_authors.py and test_torchvision.py have MobileNets.
"""

import json

import numpy as np
import pytest
import tensorflow as tf
from support import authors
from support.drawn import picture
from support.narrow import build, tensors
from support.torch_files import released

import keras_deeplab as kd
from keras_deeplab.convert import __main__ as convert


def openmmlabs_file(row, folder):
    path = folder / "row.pth"
    path.write_bytes(released(tensors(build(row, auxiliary_head=True))))
    return path


def authors_archive(_, folder):
    arrays = authors.variables(authors.build("xception65", num_classes=21))
    files = authors.files_of(authors.write_checkpoint(arrays, folder / "model.ckpt"))
    return authors.write_archive(folder / "row.tar.gz", {f"released/model.ckpt{end}": d for end, d in files.items()})


@pytest.mark.slow
@pytest.mark.parametrize(
    "row, write",
    [
        ("deeplabv3_s101-d8_512x512_160k_ade20k", openmmlabs_file),
        ("xception65_coco_voc_trainaug", authors_archive),
    ],
)
def test_a_converted_model_gives_the_labels_of_segment(row, write, tmp_path):
    path, image = write(row, tmp_path), picture(60, 80, seed=0)
    convert.main([row, "--weights", str(path), "--to", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["model.keras"] == "logits equal after loading" and set(report["saved_model"].values()) == {"equal"}
    served = tf.saved_model.load(tmp_path / "out" / "saved_model").signatures["tensor"](images=image[None])["labels"]
    labels = kd.segment(kd.from_preset(row, weights=path), image)
    assert np.array_equal(served[0], labels) and len(np.unique(labels)) > 1
