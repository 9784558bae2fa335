"""A model and pictures in, label maps out for the test servers of Cityscapes and ADE20K, which keep the labels secret."""

from pathlib import Path

import numpy as np
from PIL import Image

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.inference.predictions import predictions
from keras_deeplab.pictures.files import list_files
from keras_deeplab.pictures.read import read_image
from keras_deeplab.progress import Progress

SERVERS = {  # data set of the row: the page where label maps are handed in
    "cityscapes": "https://www.cityscapes-dataset.com/submit/",
    "ade20k": "http://sceneparsing.csail.mit.edu/",
}


def label_ids(row):
    """The ids that the server of the row's data set wants: 7..33 for Cityscapes, 1..150 for ADE20K.

    Returns:
        (classes,) uint8, the id of each class.

    Raises:
        ValueError: for a row of another data set.
    """
    if row.dataset not in SERVERS:
        raise ValueError(
            f"--submission is for rows of {' and '.join(SERVERS)}. Received: {row.name}, a row of {row.dataset}."
        )
    dataset = DATASETS[row.dataset]
    ids = {label: raw for raw, label in dataset.label_ids.items()}
    no_class = [0] * (row.num_classes - dataset.num_classes)  # the authors' rows of ADE20K have an output for it
    return np.array([*no_class, *(ids[label] for label in range(dataset.num_classes))], np.uint8)


def pictures(folder):
    """The paths of the picture files in a folder and its subfolders.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no picture, or two with the same stem.
    """
    paths = {}  # by stem
    for path in list_files(folder, subfolders=True):
        if path.stem in paths:
            raise ValueError(
                f"{path} and {paths[path.stem]} would both be written to {path.stem}.png. Rename one of them."
            )
        paths[path.stem] = path
    return list(paths.values())


def write(model, ids, paths, to, **options):
    """Writes the label map of each picture to the folder `to` as STEM.png, 8-bit grey.

    Args:
        model: a model with as many classes as there are `ids`.
        ids: (classes,) uint8, the value to write for each class.
        paths: paths of the picture files.
        to: a folder. It is made if it does not exist.
        options: of `segment`.

    Raises:
        ValueError: for a model with another number of classes, or if a picture would be overwritten.
    """
    if model.num_classes != len(ids):
        raise ValueError(
            f"The model must have the {len(ids)} classes that the server scores. "
            f"Received: a model with {model.num_classes} classes."
        )
    for path in paths:
        if (written := Path(to) / f"{path.stem}.png").exists() and written.samefile(path):
            raise ValueError(f"{path} would be overwritten by its label map. Name a folder without the pictures.")
    Path(to).mkdir(parents=True, exist_ok=True)
    label_maps = predictions(model, lambda path: (path.stem, read_image(path), None), paths, **options)
    with Progress(len(paths)) as bar:
        for name, _, labels in label_maps:
            Image.fromarray(ids[labels]).save(Path(to) / f"{name}.png")
            bar.add()
