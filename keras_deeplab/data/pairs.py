"""Pictures and their label maps, by number: of two folders, two lists of files, or a prepared data set."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from keras_deeplab.data import folder

HEADER, FOOTER = 12, 4  # bytes around a record of a TFRecord file: its length and checksums


class FilePairs:
    """Two lists of files.

    Attributes:
        images, labels: what to call each of them in a message: here their paths.
        stems: what to call results of them.
        train_ids: whether labels are classes as a model counts them, `reduce_zero_label` done.
    """

    train_ids = False

    def __init__(self, images, labels):
        self.images, self.labels = images, labels
        self.stems = [path.stem for path in images]

    def __len__(self):
        return len(self.images)

    def read(self, number):
        """The encoded picture and label map, bytes."""
        return self.images[number].read_bytes(), self.labels[number].read_bytes()

    def tensors(self, number):
        """`read` in a graph: picture, label map and the names of both, string scalars."""
        names = [tf.constant([str(path) for path in paths])[number] for paths in (self.images, self.labels)]
        return *map(tf.io.read_file, names), *names


class PreparedPairs:
    """A split of a prepared data set, any example at once: TFDS's reader can only start at the beginning of a file.

    Attributes:
        dataset: its name in the catalogue.
        images, labels, stems, train_ids: as of `FilePairs`; the names are read when they are asked for.
    """

    train_ids = True

    def __init__(self, dataset, split, instructions):
        self.dataset, self.split = dataset, split
        self._records = [record for instruction in instructions for record in _records(instruction)]
        self.stems = _Names(self, "")
        self.images = self.labels = _Names(self, f"{dataset} {split} ")

    def __len__(self):
        return len(self._records)

    def example(self, number):
        """The encoded picture and label map, and their name, bytes."""
        path, offset, length = self._records[number]
        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(offset)
            try:
                features = tf.train.Example.FromString(file.read(length)).features.feature
                return tuple(features[key].bytes_list.value[0] for key in ("image", "label", "name"))
            except Exception as error:  # protobuf's own, or an empty list
                raise ValueError(f"{path} is damaged at byte {offset}. Prepare {self.dataset} again.") from error

    def read(self, number):
        return self.example(number)[:2]

    def tensors(self, number):
        image, label, name = tf.numpy_function(self.example, [number], [tf.string] * 3)
        name = tf.strings.join([f"{self.dataset} {self.split} ", name])
        return *(tf.ensure_shape(x, []) for x in (image, label)), name, name


class _Names(Sequence):
    def __init__(self, pairs, prefix):
        self.pairs, self.prefix = pairs, prefix

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, number):
        return self.prefix + self.pairs.example(number)[2].decode()


def _records(instruction):
    """[(file, offset, length)] of the records that TFDS's instruction for one file names."""
    path, found, offset = instruction.filename, [], 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while offset + HEADER <= file.size():
            file.seek(offset)
            length = struct.unpack("<Q", file.read(HEADER)[:8])[0]
            found.append((path, offset + HEADER, length))
            offset += HEADER + length + FOOTER
    if len(found) != instruction.examples_in_shard:
        raise ValueError(
            f"{path} holds {instruction.examples_in_shard} examples when it is whole. Found: {len(found)}. "
            "Prepare the data set again."
        )
    return found[instruction.skip :][: instruction.take if instruction.take >= 0 else None]


def open_prepared(folder: str | os.PathLike, split: str) -> PreparedPairs:
    """Opens what `keras-deeplab prepare` wrote; the downloads are no longer needed.

    Args:
        folder: the folder that it was prepared into, or the folder of a data set in it.
        split: `"train"` or `"val"`, or TFDS's slices of it, such as `"train[:10%]"`.

    Returns:
        `PreparedPairs`, which training and evaluation take in place of pictures and labels.

    Raises:
        FileNotFoundError: if there is no prepared data set.
        ValueError: if there are several, or no such split.
        ImportError: without TensorFlow Datasets.
    """
    from keras_deeplab.data import builders

    builder = builders.open_builder(folder)
    if split.partition("[")[0] not in builder.info.splits:
        raise ValueError(f"{folder} has the splits {', '.join(builder.info.splits)}. Received: {split!r}.")
    return PreparedPairs(builder.name, split, builder.info.splits[split].file_instructions)


def find_pairs(images, labels=None):
    """The pictures and label maps that belong together.

    Args:
        images, labels: folders, whose files belong together by their stems, or lists of files in the same order; or pairs
            in place of `images`, which are returned as they are.

    Returns:
        `FilePairs` or `PreparedPairs`.

    Raises:
        ValueError: where a file has no partner, or there are none at all.
        FileNotFoundError: where there is no such folder.
    """
    if isinstance(images, (FilePairs, PreparedPairs)):
        if labels is not None:
            raise ValueError(f"{type(images).__name__} have their labels. Received: labels={labels!r}.")
        return images
    if labels is None:
        raise ValueError(f"Labels are needed: a folder, or a list of files. Received images: {images!r}.")
    if isinstance(images, (str, os.PathLike)):
        pairs, missing = folder.match(images, labels)
        if missing:
            more = f" And {len(missing) - 1} more such files." if missing[1:] else ""
            raise ValueError(missing[0] + more)
    elif len(images) != len(labels) or not len(images):
        raise ValueError(
            f"Training needs files, and as many labels as images. Received: {len(images)} images, {len(labels)} labels."
        )
    else:
        pairs = zip(map(Path, images), map(Path, labels), strict=True)
    return FilePairs(*map(list, zip(*pairs, strict=True)))
