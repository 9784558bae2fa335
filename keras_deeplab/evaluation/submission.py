"""Label maps as the servers want them that keep a data set's labels to themselves: Cityscapes and ADE20K."""

from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.inference.predictions import predictions
from keras_deeplab.pictures.files import list_files
from keras_deeplab.pictures.read import read_image

SERVERS = {  # data set of the row: where its results go
    "cityscapes": "https://www.cityscapes-dataset.com/submit/",
    "ade20k": "http://sceneparsing.csail.mit.edu/",
}


def label_ids(row):
    """The server's id of each class, uint8: Cityscapes' raw ids 7..33, ADE20K's 1..150.

    Raises:
        ValueError: for a row of another data set.
    """
    if row.dataset not in SERVERS:
        raise ValueError(f"--submission is for rows of {' and '.join(SERVERS)}. {row.name} is one of {row.dataset}.")
    ids = {label: raw for raw, label in DATASETS[row.dataset].label_ids.items()}
    return np.array([ids[label] for label in range(row.num_classes)], np.uint8)


def pictures(folder):
    """The picture files in a folder and the folders in it, as a test set is laid out.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds none, or two of the same stem.
    """
    found = {}
    for path in list_files(folder, subfolders=True):
        if path.stem in found:
            raise ValueError(f"{path} and {found[path.stem]} would both be written to {path.stem}.png.")
        found[path.stem] = path
    return list(found.values())


def write(model, ids, paths, to, **options):
    """Writes the label map of each picture to the folder `to` as STEM.png, 8-bit grey.

    Args:
        model: of as many classes as there are `ids`.
        ids: uint8, what to write for each class.
        paths: picture files.
        to: folder.
        options: of `segment`.

    Raises:
        ValueError: for a model of other classes, or where a picture would be overwritten.
    """
    if model.num_classes != len(ids):
        raise ValueError(f"The server scores {len(ids)} classes. The model has {model.num_classes}.")
    for path in paths:
        if (place := Path(to) / f"{path.stem}.png").exists() and place.samefile(path):
            raise ValueError(f"{path} would be overwritten by its label map. Name another folder than the pictures'.")
    Path(to).mkdir(parents=True, exist_ok=True)
    bar = keras.utils.Progbar(len(paths), unit_name="picture")
    found = predictions(model, lambda path: (path.stem, read_image(path), None), paths, **options)
    for i, (name, _, labels) in enumerate(found):
        Image.fromarray(ids[labels]).save(Path(to) / f"{name}.png")
        bar.update(i + 1)
