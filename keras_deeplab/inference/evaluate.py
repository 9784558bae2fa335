"""A model and labelled pictures in, mIoU out, measured as the published figures were."""

import contextlib
import hashlib
import io
import json
import os
import queue
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from keras_deeplab.data.pairs import find_pairs
from keras_deeplab.inference.images import read_image
from keras_deeplab.inference.segment import network_of, segment
from keras_deeplab.training import metrics
from keras_deeplab.training.metrics import IGNORE
from keras_deeplab.version import __version__

SAVE_SECONDS = 5  # between two writes of the state
SAME = {"name", "row", "classes", "palette", "protocol"}  # of a model's configuration: what its scores do not depend on


def evaluate(
    model,
    images,
    labels=None,
    *,
    multi_scale_flip=False,
    resize=None,
    reduce_zero_label=False,
    resume=None,
    devices=None,
    progress=True,
):
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
        {"images": their number, "mIoU", "mAcc", "aAcc", "mDice", "mFscore": in percent, "IoU", "Acc", "Precision", "Dice",
        "Fscore": lists of fractions in class order, None where undefined, "confusion": pixels, lists by label of lists by
        prediction, "pictures": [{"name", "mIoU" in percent or None}] in order}.

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
        **scores(tally.counts),
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


def _copies(model, devices):
    """[(device or None, model)]: the model itself for one device, a copy of its weights on each of several."""
    folded = network_of(model).folded  # once, not for every picture
    if devices is None and keras.backend.backend() == "tensorflow":
        gpus = tf.config.list_logical_devices("GPU")
        devices = [gpu.name for gpu in gpus] if len(gpus) > 1 else None
    if devices is None:
        return [(None, folded)]
    if keras.backend.backend() != "tensorflow" or not devices:
        raise ValueError(f"devices is a list of TensorFlow's devices, on its backend. Received: {devices!r}.")
    copies = []
    for device in devices:
        with tf.device(device):
            copies.append((device, type(folded).from_config(folded.get_config())))
            copies[-1][1].set_weights(folded.get_weights())
    return copies


def predictions(model, load, items, devices=None, **options):
    """Label maps of pictures, the next of which are read meanwhile.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        load: gives (name, picture (H, W, 3) uint8, anything) of an item; called on a thread.
        items: what to call it with.
        devices: as for `evaluate`.
        options: of `segment`.

    Yields:
        (name, anything, label map (H, W) uint8) of each item, in order.
    """
    copies, free = _copies(model, devices), queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def predict(item):
        name, picture, passed = item
        device, network = copy = free.get()
        try:
            with tf.device(device) if device else contextlib.nullcontext():
                return name, passed, segment(network, picture, **options)
        finally:
            free.put(copy)

    with contextlib.closing(ahead(load, items, 1)) as loaded:
        if len(copies) == 1:
            yield from map(predict, loaded)
        else:
            with contextlib.closing(ahead(predict, loaded, len(copies))) as found:
                yield from found


def ahead(function, items, threads):
    """`function` of each item, in order, worked out on threads a little before it is asked for."""
    waiting = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def confusion(truth, predicted, num_classes):
    """Pixels by (label, prediction), int64, without those labelled 255."""
    counted = truth != IGNORE
    pairs = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(counts, beta=1.0):
    """Means in percent and every class's fractions, as `evaluate` returns them, from pixels by (label, prediction)."""
    counts = counts.astype(float)
    classes, means = metrics.per_class(counts, beta), metrics.means(counts, beta)
    return {
        **{name: 100 * float(value) for name, value in means.items()},
        **{name: [None if np.isnan(v) else float(v) for v in values] for name, values in classes.items()},
    }
