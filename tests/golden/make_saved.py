"""Writes saved/*: files as version 0.1.0 saved them, which later versions must load and continue.

    git checkout 1ee3c96 && PYTHONPATH=.:tests python make_saved.py    (this script, copied there)

saved/folded.keras: a folded DeepLabV3+. saved/last.keras: the checkpoint of a training run with frozen norms, stopped after
two of four steps. saved/expected.npz: the folded model's logits, and `few` values of each weight
after the other two steps.
"""

import os
import zipfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np  # noqa: E402
from drawn import batches, few, images  # noqa: E402
from narrow import drawn  # noqa: E402

import keras_deeplab as kd  # noqa: E402
import recipes  # noqa: E402
from keras_deeplab.training import resume  # noqa: E402

SAVED = Path(__file__).parent / "saved"
ROW = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
WIDTHS = dict(base_channels=2, stem_channels=2, aspp_channels=4, low_level_channels=3, auxiliary_channels=4)


def main():
    SAVED.mkdir(exist_ok=True)
    folded = kd.fold_norms(drawn(ROW, **WIDTHS))
    folded.save(SAVED / "folded.keras")
    model = drawn(ROW, **WIDTHS, auxiliary_head=True, dtype="float64")
    recipes.find(ROW).compile(model, 4, freeze=["norms"])
    pictures, labels = batches(4, 2, 33, 49, 19)
    for step in range(4):
        if step == 2:
            resume.write(model, SAVED / "last.keras", {"step": 2, "options": {"ROW": ROW, "--freeze": ["norms"]}})
        model.train_on_batch(pictures[step].astype("float64"), labels[step])
    weights = np.concatenate([few(weight) for weight in model.get_weights()])
    np.savez_compressed(SAVED / "expected.npz", logits=folded(images(33, 47)), weights=weights)
    for path in SAVED.glob("*.keras"):
        deflate(path)


def deflate(path):
    """Keras stores the weights of a .keras file as they are; compressed they are a third."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


if __name__ == "__main__":
    main()
