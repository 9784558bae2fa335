"""A model and labelled pictures in, mIoU and other scores out, measured as the published figures were."""

import contextlib
import hashlib
import json
import os
import time
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_deeplab.catalog.authors import NO_CLASS
from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.data.label_rule import BINARY, label_table
from keras_deeplab.data.pairs import find_pairs
from keras_deeplab.evaluation import metrics
from keras_deeplab.inference.predictions import predictions
from keras_deeplab.pictures import labels as label_files
from keras_deeplab.pictures.read import read_bytes
from keras_deeplab.progress import Progress
from keras_deeplab.version import __version__

SAVE_SECONDS = 5  # at least, between two writes of the `resume` file
# Keys of a model's configuration that its logits do not depend on. `_identity` compares the protocol by itself.
KEYS_WITHOUT_EFFECT = {"name", "row", "classes", "palette", "protocol"}


def evaluate(
    model: keras.Model,
    images,
    labels=None,
    *,
    multi_scale_flip: bool | str = False,
    resize: tuple[int, int] | None = None,
    reduce_zero_label: bool = False,
    label_map: dict[int, int] | None = None,
    resume: str | os.PathLike | None = None,
    devices: list[str] | None = None,
    progress: bool = True,
) -> dict:
    """Scores a model on labelled pictures by its own test protocol.

    `segment` predicts a label map of each picture's own size. Pixels labelled 255 do not count. The pixels of all pictures
    are counted together, and the intersection over union (IoU) of a class is computed from these counts. The mean, mIoU,
    leaves out classes that occur neither in a label nor in a prediction.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        images, labels: two folders (files of the same stem belong together), or two lists of files. A label map is an
            8-bit PNG, grey or palette; its values are class ids, and 255 for pixels that do not count. Instead of both, what
            `open_prepared` returns.
        multi_scale_flip, resize: as for `segment`.
        reduce_zero_label: whether label 0 means "no class" and the classes are labelled from 1. Label 0 then becomes 255, and
            every other label one less. Not for prepared data, where this has been done. For a model whose output 0 is
            "no class" (the authors' of ADE20K) labels keep their values, and 0 becomes 255.
        label_map: {label in the files: class number}, applied after `reduce_zero_label`; 255 stands for pixels that do not
            count. Labels that it does not name stay. Masks of 0 and 255 need {255: 1}.
        resume: a file to keep the counts in. If an evaluation was stopped, the next call with the same file continues it.
        devices: names such as "GPU:0". Each device gets a copy of the model and a share of the pictures. By default all
            GPUs. On the TensorFlow backend only.
        progress: whether to show how many pictures are done, and their mIoU.

    Returns:
        a dict. Its scores are in percent; an undefined mean is NaN, every other undefined score None.
            "images": the number of pictures.
            "mIoU", "mAcc", "aAcc", "mDice", "mFscore": over all pictures.
            "per_class": in class order, a list of {"class" (its name), "IoU", "Acc", "Precision", "Dice", "Fscore"}.
            "pictures": in order, a list of {"name", "mIoU"}.
            "confusion": numbers of pixels, a list by label of lists by prediction.
            "IoU", "Acc", "Precision", "Dice", "Fscore": the scores of the classes as lists of fractions (0..1), as version 0.1
            returned them.

    Raises:
        ValueError: for a label map of another size than its picture, or with values that are no class; for a `resume`
            file of another model, protocol or data set; for `devices` that cannot be used.
        FileNotFoundError: if the folder of the `resume` file does not exist.

    Warns:
        UserWarning: if no pixel has the label of class 0, or none of any class but 0: the label maps then count otherwise.
    """
    pairs = find_pairs(images, labels)
    if reduce_zero_label and pairs.train_ids:
        raise ValueError("Prepared labels count from 0 already. Received: `reduce_zero_label=True`. Leave it out.")
    label_table(reduce_zero_label, label_map)  # a wrong label map fails now
    options = {"multi_scale_flip": multi_scale_flip, "resize": resize}
    tally = Tally(model.num_classes)
    if resume is not None:
        tally.open(resume, _identity(model, pairs, options, reduce_zero_label, label_map))

    def load(number):
        return read_pair(pairs, number, model, reduce_zero_label, label_map)

    remaining = range(len(tally.pictures), len(pairs))
    bar = Progress(len(pairs), len(tally.pictures), progress)
    with bar, contextlib.closing(predictions(model, load, remaining, devices, **options)) as label_maps:
        try:
            for name, truth, predicted in label_maps:
                tally.add(name, confusion(truth, predicted, model.num_classes))
                bar.add(note=f"mIoU {scores(tally.counts)['mIoU']:.2f}")
        finally:
            tally.save()
    _warn_of_missing_classes(tally.counts, label_map, labelled_classes(model))
    return {
        "images": len(pairs),
        **scores(tally.counts, model.classes),
        "confusion": tally.counts.tolist(),
        "pictures": tally.pictures,
    }


def _warn_of_missing_classes(counts, label_map, num_classes):
    """Warns if labels are likely to count otherwise than the model: no class but the first occurs, or the first does not.

    Only the last `num_classes` rows of the counts are classes that labels can have.
    """
    labelled = counts.sum(axis=1)[-num_classes:] > 0
    if not labelled[1:].any():
        remedy = (
            "" if label_map else f" Masks of 0 and 255 need `label_map={BINARY}`: 255 is then class 1 and not ignored."
        )
        rule = "Every class but 0 occurs in no label map, so that the score says nothing about them."
        warnings.warn(rule + remedy, stacklevel=3)
    elif not labelled[0] and not label_map:
        rule = "Class 0 occurs in no label map. If the labels count from 1, use `reduce_zero_label=True`."
        warnings.warn(rule, stacklevel=3)


class Tally:
    """The pixel counts of the pictures so far. `open` makes it keep them in a file.

    Attributes:
        counts: (classes, classes) int64, pixels by (label, prediction).
        pictures: a list of {"name", "mIoU" (percent or None)}, one for each picture that was counted.
    """

    def __init__(self, num_classes):
        self.counts, self.pictures = np.zeros((num_classes, num_classes), np.int64), []
        self.path = None

    def open(self, path, identity):
        """Continues from the file if it exists, and keeps the counts in it from now on.

        Args:
            path: of the file.
            identity: what `_identity` returns.

        Raises:
            ValueError: if the file is of another identity, or is not such a file.
            FileNotFoundError: if the file's folder does not exist.
        """
        path = Path(path)
        if path.exists():
            try:
                state = json.loads(path.read_text())
                saved_identity, pictures = dict(state["identity"]), list(state["pictures"])
                counts = np.array(state["counts"], np.int64)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is not the file of an unfinished evaluation, or is damaged. "
                    "Name another file, or delete this one."
                ) from error
            if different := [key for key in identity if saved_identity.get(key) != identity[key]]:
                raise ValueError(
                    f"{path} holds the evaluation of another {' and '.join(different)}. "
                    "Name another file, or delete this one."
                )
            self.counts, self.pictures = counts, pictures
        self.path, self.identity = path, identity
        self.save()  # a file that cannot be written fails now and not after hours of work

    def add(self, name, counts):
        """Adds the counts of one picture."""
        score = scores(counts)["mIoU"]
        counts = self.counts + counts
        pictures = [*self.pictures, {"name": name, "mIoU": None if np.isnan(score) else score}]
        self.counts, self.pictures = counts, pictures  # in one statement, so that Ctrl-C does not leave them unequal
        if self.path and time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def save(self):
        """Writes the file, if one was opened. It is replaced in one step, and so is complete whenever the process ends."""
        if self.path is None:
            return
        state = {"identity": self.identity, "counts": self.counts.tolist(), "pictures": self.pictures}
        partial = self.path.with_name(self.path.name + ".part")
        partial.write_text(json.dumps(state))
        os.replace(partial, self.path)
        self.saved = time.monotonic()


def _identity(model, pairs, options, reduce_zero_label, label_map=None):
    """A dict of digests: evaluations for which it is equal give equal counts."""
    flip, resize = options.values()
    config = {key: model.get_config()[key] for key in sorted(model.get_config().keys() - KEYS_WITHOUT_EFFECT)}
    if pairs.train_ids:
        files = [pairs.dataset, pairs.split, len(pairs)]
    else:
        files = [(path.name, path.stat().st_size) for path in (*pairs.images, *pairs.labels)]
    return {
        "version": __version__,
        "model": _digest(config, *model.get_weights()),
        "protocol": _digest(model.protocol.to_dict(), "box" if flip is True else flip, resize and sorted(resize)),
        "data": _digest(files, reduce_zero_label, *([sorted(label_map.items())] if label_map else [])),
    }


def _digest(*parts):
    """The SHA-256 of arrays and of other values, which are read by their `repr`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()


def labelled_classes(model):
    """The number of classes that labels can have: one less than the model's if its output 0 stands for "no class"."""
    return model.num_classes - (model.classes[0] == NO_CLASS)


def read_pair(pairs, number, model, reduce_zero_label, label_map=None):
    """Reads a pair.

    Args:
        pairs: a `FilePairs` or `PreparedPairs`.
        number: of the pair in it.
        model: whose classes the labels are.
        reduce_zero_label, label_map: as for `evaluate`.

    Returns:
        (name, picture (H, W, 3) uint8, label map (H, W) uint8).

    Raises:
        ValueError: for a file that cannot be read, or if the two differ in size.
    """
    image, label = pairs.images[number], pairs.labels[number]
    image_bytes, label_bytes = pairs.read(number)
    picture = read_bytes(image_bytes, image)
    first = model.num_classes - labelled_classes(model) if reduce_zero_label or pairs.train_ids else 0
    truth = read_label(label_bytes, label, model.num_classes - first, reduce_zero_label, label_map)
    truth[truth != IGNORE] += np.uint8(first)
    if truth.shape != picture.shape[:2]:
        raise ValueError(
            "A label map must have its picture's size. "
            f"Received, width x height: {label} of {truth.shape[1]}x{truth.shape[0]}, "
            f"{image} of {picture.shape[1]}x{picture.shape[0]}."
        )
    return pairs.stems[number], picture, truth


def read_label(data, name, num_classes, reduce_zero_label, label_map=None):
    """Reads a label map from the bytes of a PNG.

    Args:
        data: the bytes.
        name: what error messages call the file.
        num_classes: the labels must be below it, or 255.
        reduce_zero_label: whether to turn 0 into 255 and every other label into one less.
        label_map: {label: class number} that is applied after it, or None.

    Returns:
        (H, W) uint8, class ids and 255.

    Raises:
        ValueError: for another kind of file, a damaged one, or labels that are no class.
    """
    label_files.check_class_count(num_classes, reduce_zero_label)
    label = label_files.read_label(data, name)
    if (table := label_table(reduce_zero_label, label_map)) is not None:
        label = table[label]
    unknown = np.setdiff1d(label, [*range(num_classes), IGNORE])
    if unknown.size:
        raise ValueError(
            f"Labels must be 0..{num_classes - 1}, or 255 for pixels that do not count. Received: {name} with "
            f"{', '.join(map(str, unknown[:5]))}. If its classes are labelled from 1 and 0 means 'no class', use "
            "`reduce_zero_label=True`."
        )
    return label


def confusion(truth, predicted, num_classes):
    """Counts pixels by label and prediction, without those labelled 255.

    Args:
        truth, predicted: label maps of one shape, uint8.
        num_classes: the labels are below it, or 255 in `truth`.

    Returns:
        (num_classes, num_classes) int64: row = label, column = prediction.
    """
    counted = truth != IGNORE
    cells = truth[counted].astype(np.int64) * num_classes + predicted[counted]  # index in the flattened matrix
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(counts, classes=None, beta=1.0):
    """Computes scores from counts of pixels.

    Args:
        counts: (classes, classes), pixels by (label, prediction).
        classes: a name for each class. None (the default): their numbers.
        beta: the weight of recall relative to precision in the F-score.

    Returns:
        a dict, the part of what `evaluate` returns from "mIoU" to "per_class", and the lists of fractions.
    """
    counts = counts.astype(float)
    of_classes, means = metrics.per_class(counts, beta), metrics.means(counts, beta)
    fractions = {name: [None if np.isnan(v) else float(v) for v in values] for name, values in of_classes.items()}
    names = classes or [str(i) for i in range(len(counts))]
    per_class = [
        {"class": name, **{score: percent_of(values[i]) for score, values in fractions.items()}}
        for i, name in enumerate(names)
    ]
    return {**{name: 100 * float(value) for name, value in means.items()}, "per_class": per_class, **fractions}


def percent_of(fraction):
    """A fraction in percent; None stays None."""
    return None if fraction is None else 100 * fraction
