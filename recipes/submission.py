"""Label maps as the servers want them that keep a data set's labels to themselves: Cityscapes and ADE20K."""

from pathlib import Path

import numpy as np

SERVERS = {  # data set of the row: where its results go
    "cityscapes": "https://www.cityscapes-dataset.com/submit/",
    "ade20k": "http://sceneparsing.csail.mit.edu/",
}


def label_ids(row):
    """The server's id of each class, uint8: Cityscapes' raw ids 7..33, ADE20K's 1..150.

    Raises:
        ValueError: for a row of another data set.
    """
    from keras_deeplab.data.catalog import DATASETS

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
    from keras_deeplab.data.folder import IMAGE_SUFFIXES

    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise ValueError(f"{path} and {found[path.stem]} would both be written to {path.stem}.png.")
            found[path.stem] = path
    if not found:
        raise ValueError(f"{folder} holds no {', '.join(suffix[1:].upper() for suffix in IMAGE_SUFFIXES)} files.")
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
    import keras
    from PIL import Image

    from keras_deeplab.inference.evaluate import predictions
    from keras_deeplab.inference.images import read_image

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
