"""A model and labelled pictures in, mIoU out, measured as the published figures were."""

import contextlib
import hashlib
import io
import json
import os
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image, UnidentifiedImageError

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.data.pairs import find_pairs
from keras_deeplab.evaluation import metrics
from keras_deeplab.inference.predictions import predictions
from keras_deeplab.pictures.read import read_image
from keras_deeplab.version import __version__

SAVE_SECONDS = 5  # between two writes of the state
SAME = {"name", "row", "classes", "palette", "protocol"}  # of a model's configuration: what its scores do not depend on


def evaluate(
    model: keras.Model,
    images,
    labels=None,
    *,
    multi_scale_flip: bool | str = False,
    resize: tuple[int, int] | None = None,
    reduce_zero_label: bool = False,
    resume: str | os.PathLike | None = None,
    devices: list[str] | None = None,
    progress: bool = True,
) -> dict:
    """Scores a model on labelled pictures by its own test protocol.

    Each picture is segmented as `segment` does it, at the size of its file. Pixels labelled 255 do not count. The pixels of
    all pictures are counted together, and a class's intersection over union is of these counts; classes that occur neither
    in a label nor in a prediction are left out of the mean.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        images, labels: folders (files of the same stem belong together), or two lists of files. Labels are PNG, grey or
            palette, whose values are the classes and 255. Or what `open_prepared` gives, in place of images.
        multi_scale_flip, resize: as for `segment`.
        reduce_zero_label: whether label 0 is ignored and every other one counts from 1. Prepared labels never do.
        resume: a file to keep the counts in. Called again with it, a stopped evaluation goes on where it was.
        devices: names such as "GPU:0", each to get a copy of the model and its share of the pictures; all GPUs unless
            given. TensorFlow backend.
        progress: whether to show a bar.

    Returns:
        a dict; every score in it is in percent, None (a mean: NaN) where it is undefined:
        "images": number of pictures; "mIoU", "mAcc", "aAcc", "mDice", "mFscore"; "per_class": a list of {"class" (its name),
        "IoU", "Acc", "Precision", "Dice", "Fscore"} in class order; "pictures": a list of {"name", "mIoU"} in order;
        "confusion": pixels, a list by label of lists by prediction.
        Beside these, as until version 0.1, "IoU", "Acc", "Precision", "Dice" and "Fscore" are lists of fractions (0..1).

    Raises:
        ValueError: for a label map of another size than its picture, or with values that are no class; for a `resume`
            of another model, protocol or data.
    """
    pairs = find_pairs(images, labels)
    if reduce_zero_label and pairs.train_ids:
        raise ValueError("Prepared labels count from 0. Received: reduce_zero_label=True; leave it out.")
    options = {"multi_scale_flip": multi_scale_flip, "resize": resize}
    tally = Tally(model.num_classes)
    if resume is not None:
        tally.open(resume, _identity(model, pairs, options, reduce_zero_label))

    def load(number):
        return read_pair(pairs, number, model.num_classes, reduce_zero_label)

    left = range(len(tally.pictures), len(pairs))
    bar = keras.utils.Progbar(len(pairs), unit_name="picture", stateful_metrics=["mIoU"], verbose=int(progress))
    with contextlib.closing(predictions(model, load, left, devices, **options)) as found:
        try:
            for name, truth, predicted in found:
                tally.add(name, confusion(truth, predicted, model.num_classes))
                bar.update(len(tally.pictures), [("mIoU", scores(tally.counts)["mIoU"])])
        finally:
            tally.save()
    return {
        "images": len(pairs),
        **scores(tally.counts, model.classes),
        "confusion": tally.counts.tolist(),
        "pictures": tally.pictures,
    }


class Tally:
    """The counts of the pictures so far, kept in a file if one was opened.

    Attributes:
        counts: (classes, classes) int64, pixels by (label, prediction).
        pictures: [{"name", "mIoU"}] of each picture that they are of.
    """

    def __init__(self, num_classes):
        self.counts, self.pictures = np.zeros((num_classes, num_classes), np.int64), []
        self.path = None

    def open(self, path, identity):
        """Goes on from a file, if there is one of the same `identity`, and keeps the counts in it from now on."""
        path = Path(path)
        if path.exists():
            try:
                state = json.loads(path.read_text())
                before, pictures = dict(state["identity"]), list(state["pictures"])
                counts = np.array(state["counts"], np.int64)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is no unfinished evaluation. Name another file, or delete it.") from error
            if other := [key for key in identity if before.get(key) != identity[key]]:
                raise ValueError(
                    f"{path} holds the evaluation of another {' and '.join(other)}. Name another file, or delete it."
                )
            self.counts, self.pictures = counts, pictures
        self.path, self.identity = path, identity
        self.save()  # a folder that cannot be written to is better noticed now

    def add(self, name, counts):
        """Adds the counts of one picture."""
        score = scores(counts)["mIoU"]
        counts = self.counts + counts
        pictures = [*self.pictures, {"name": name, "mIoU": None if np.isnan(score) else score}]
        self.counts, self.pictures = counts, pictures  # no call in between, where Ctrl-C could part them
        if self.path and time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def save(self):
        """Writes the file in one step, so that whenever this process ends, it holds what was true at some picture."""
        if self.path is None:
            return
        state = {"identity": self.identity, "counts": self.counts.tolist(), "pictures": self.pictures}
        written = self.path.with_name(self.path.name + ".part")
        written.write_text(json.dumps(state))
        os.replace(written, self.path)
        self.saved = time.monotonic()


def _identity(model, pairs, options, reduce_zero_label):
    """What an evaluation is of: two with equal ones give equal counts."""
    flip, resize = options.values()
    config = {key: model.get_config()[key] for key in sorted(model.get_config().keys() - SAME)}
    if pairs.train_ids:
        files = [pairs.dataset, pairs.split, len(pairs)]
    else:
        files = [(path.name, path.stat().st_size) for path in (*pairs.images, *pairs.labels)]
    return {
        "version": __version__,
        "model": _digest(config, *model.get_weights()),
        "protocol": _digest(model.protocol.to_dict(), "box" if flip is True else flip, resize and sorted(resize)),
        "data": _digest(files, reduce_zero_label),
    }


def _digest(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()


def read_pair(pairs, number, num_classes, reduce_zero_label):
    """(name, picture (H, W, 3), label map (H, W)) of a pair."""
    image, label = pairs.images[number], pairs.labels[number]
    image_bytes, label_bytes = pairs.read(number)
    try:
        picture = read_image(image_bytes)
    except ValueError as error:
        raise ValueError(f"{image}: {error}") from error
    truth = read_label(label_bytes, label, num_classes, reduce_zero_label)
    if truth.shape != picture.shape[:2]:
        raise ValueError(
            f"A label map has its picture's size. {label} is {truth.shape[1]}x{truth.shape[0]}, "
            f"{image} {picture.shape[1]}x{picture.shape[0]}."
        )
    return pairs.stems[number], picture, truth


def read_label(data, name, num_classes, reduce_zero_label):
    """A label map (H, W) uint8 of class ids and 255, from the bytes of a PNG; `name` is for messages."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, label = image.mode, np.array(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is no picture file. A label map is an 8-bit PNG, grey or palette.") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as a label map: {error}.") from error
    if mode not in ("L", "P", "1"):
        raise ValueError(f"A label map is an 8-bit PNG, grey or palette. {name} has mode {mode}.")
    label = label.astype(np.uint8)
    if reduce_zero_label:
        label = label - np.uint8(1)  # 0 becomes 255
        label[label == 254] = IGNORE  # and 255 stays
    others = np.setdiff1d(label, [*range(num_classes), IGNORE])
    if others.size:
        raise ValueError(
            f"Labels are 0..{num_classes - 1}, and 255 for pixels that do not count. {name} has "
            f"{', '.join(map(str, others[:5]))}. If its labels count from 1 with 0 for 'no class', use reduce_zero_label."
        )
    return label


def confusion(truth, predicted, num_classes):
    """Pixels by (label, prediction), int64, without those labelled 255."""
    counted = truth != IGNORE
    pairs = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(counts, classes=None, beta=1.0):
    """What `evaluate` returns of scores, from pixels by (label, prediction).

    Args:
        counts: (classes, classes), pixels by (label, prediction).
        classes: names; numbers unless given.
        beta: how many times recall weighs as much as precision in the F-score.
    """
    counts = counts.astype(float)
    of_class, means = metrics.per_class(counts, beta), metrics.means(counts, beta)
    fractions = {name: [None if np.isnan(v) else float(v) for v in values] for name, values in of_class.items()}
    names = classes or [str(i) for i in range(len(counts))]
    per_class = [
        {"class": name, **{score: percent_of(values[i]) for score, values in fractions.items()}}
        for i, name in enumerate(names)
    ]
    return {**{name: 100 * float(value) for name, value in means.items()}, "per_class": per_class, **fractions}


def percent_of(fraction):
    return None if fraction is None else 100 * fraction
