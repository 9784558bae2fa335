"""Two folders, two lists of files or a prepared data set in; numbered pairs of an encoded picture and label map out."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from keras_deeplab.data.matching import match

# Bytes before and after each record of a TFRecord file: its length (8) and a checksum (4); a checksum (4).
HEADER, FOOTER = 12, 4


class FilePairs:
    """Two lists of files; the files at the same place of both lists belong together.

    Attributes:
        images, labels: the names that messages give each picture and label map: here the paths.
        stems: the names that results get: here the file names without their ending, after the subfolder if there is one.
        train_ids: whether the labels are known to be class numbers as a model counts them, so that
            `reduce_zero_label` must not be applied to them.
    """

    train_ids = False

    def __init__(self, images, labels, stems=None):
        self.images, self.labels = images, labels
        self.stems = stems or [path.stem for path in images]

    def __len__(self):
        return len(self.images)

    def read(self, number):
        """The encoded picture and label map of a pair, bytes."""
        return self.images[number].read_bytes(), self.labels[number].read_bytes()

    def tensors(self, number):
        """`read` inside a TensorFlow graph: the encoded picture and label map and the names of both, string scalars."""
        names = [tf.constant([str(path) for path in paths])[number] for paths in (self.images, self.labels)]
        return *map(tf.io.read_file, names), *names


class PreparedPairs:
    """A split of a prepared data set whose examples can be read in any order.

    TFDS's own reader must start at the beginning of a file. This class notes where each record begins and reads it
    directly.

    Args:
        dataset: name of the data set in the catalogue.
        split: name of the split.
        instructions: TFDS's instructions, one for each file, that select the records of the split.

    Attributes:
        dataset: name of the data set in the catalogue.
        images, labels, stems, train_ids: as those of `FilePairs`. A name is read from its file when it is indexed.
    """

    train_ids = True

    def __init__(self, dataset, split, instructions):
        self.dataset, self.split = dataset, split
        self._records = [record for instruction in instructions for record in _records(instruction, dataset)]
        self.stems = _Names(self, "")
        self.images = self.labels = _Names(self, f"{dataset} {split} ")

    def __len__(self):
        return len(self._records)

    def example(self, number):
        """The encoded picture and label map of a pair, and its name, bytes."""
        path, offset, length = self._records[number]
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                file.seek(offset)
                data = file.read(length)
        except tf.errors.OpError as error:
            raise OSError(
                f"{path} cannot be read: {error.message}. Prepare {self.dataset} again if it is gone."
            ) from error
        try:
            features = tf.train.Example.FromString(data).features.feature
            return tuple(features[key].bytes_list.value[0] for key in ("image", "label", "name"))
        except Exception as error:  # an error of protobuf, or IndexError where a feature is missing
            raise ValueError(f"{path} is damaged at byte {offset}. Prepare {self.dataset} again.") from error

    def read(self, number):
        """As `FilePairs.read`."""
        return self.example(number)[:2]

    def _example_or_problem(self, number):
        """`example` and an empty text; or three empty ones and what is wrong."""
        try:
            return *self.example(number), b""
        except (OSError, ValueError) as error:
            return b"", b"", b"", str(error).encode()

    def tensors(self, number):
        """As `FilePairs.tensors`."""
        image, label, name, problem = tf.numpy_function(self._example_or_problem, [number], [tf.string] * 4)
        with tf.control_dependencies([tf.debugging.Assert(problem == b"", [problem])]):
            image, label, name = map(tf.identity, (image, label, name))
        name = tf.strings.join([f"{self.dataset} {self.split} ", name])
        return *(tf.ensure_shape(x, []) for x in (image, label)), name, name


class _Names(Sequence):
    """The names of all examples, each with a prefix; a name is read from its file when it is indexed."""

    def __init__(self, pairs, prefix):
        self.pairs, self.prefix = pairs, prefix

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, number):
        return self.prefix + self.pairs.example(number)[2].decode()


def _records(instruction, dataset):
    """[(file, offset, length)], in bytes, of the records that TFDS's instruction for one file of a data set selects."""
    path, records, offset = instruction.filename, [], 0
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            while offset + HEADER <= (size := file.size()):
                file.seek(offset)
                length = struct.unpack("<Q", file.read(HEADER)[:8])[0]
                records.append((path, offset + HEADER, length))
                offset += HEADER + length + FOOTER
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(f"{path} is missing. Prepare {dataset} again.") from error
    except tf.errors.OpError as error:
        raise OSError(f"{path} cannot be read: {error.message}.") from error
    if len(records) != instruction.examples_in_shard:
        raise ValueError(
            f"{path} must hold {instruction.examples_in_shard} examples. Received: {len(records)}. The file is damaged: "
            "prepare the data set again."
        )
    if offset != size:
        raise ValueError(
            f"{path} is damaged at byte {records[-1][1] if records else 0}: its examples have {offset} bytes. Received: "
            f"{size} bytes. Prepare {dataset} again."
        )
    return records[instruction.skip :][: instruction.take if instruction.take >= 0 else None]  # -1 takes all


def open_prepared(folder: str | os.PathLike, split: str) -> PreparedPairs:
    """Opens a data set that `keras-deeplab prepare` wrote. The downloads are no longer needed.

    Args:
        folder: the folder that `prepare` wrote to, or the folder of one data set in it.
        split: `"train"` or `"val"`, or slices and sums of them as TFDS writes them: `"train[:10%]"`, `"train[100:200]"`,
            `"train+val"`, `"all"`.

    Returns:
        `PreparedPairs`, which training and evaluation accept in place of image and label folders.

    Raises:
        FileNotFoundError: if there is no prepared data set, or a file of it is missing.
        ValueError: if there are several, no such split, or the split selects no example; or if the data set is damaged or
            is none that `prepare` wrote.
        ImportError: if TensorFlow Datasets is not installed.
    """
    from keras_deeplab.data import builders

    builder = builders.open_builder(folder)
    return PreparedPairs(builder.name, split, builders.instructions(builder, split))


def find_pairs(images, labels=None, *, image_suffix=None, label_suffix=None, split_file=None):
    """The pictures and label maps that belong together.

    Args:
        images, labels: two folders (files of the same stem belong together), or two lists of files in the same order.
            `images` can also be `FilePairs` or `PreparedPairs`, without `labels`: these are returned unchanged.
        image_suffix, label_suffix, split_file: for folders, as for `keras_deeplab.data.matching.match`.

    Returns:
        `FilePairs` or `PreparedPairs`.

    Raises:
        ValueError: if a file has no partner, or there are no files at all.
        FileNotFoundError: if there is no such folder.
    """
    if isinstance(images, (FilePairs, PreparedPairs)):
        if labels is not None:
            raise ValueError(
                f"{type(images).__name__} hold the labels already. Received: labels={labels!r}. Leave `labels` out."
            )
        return images
    if labels is None:
        raise ValueError(f"Labels are needed: a folder, or a list of files. Received: images={images!r}, labels=None.")
    if isinstance(images, (str, os.PathLike)) != isinstance(labels, (str, os.PathLike)):
        raise ValueError(
            "Images and labels must be two folders, or two lists of files. Received: a folder and a list. For one pair "
            "give two lists: [image], [label]."
        )
    if isinstance(images, (str, os.PathLike)):
        found = match(images, labels, image_suffix=image_suffix, label_suffix=label_suffix, split_file=split_file)
        if found.problems:
            more = f" Further faults of this kind: {len(found.problems) - 1}." if found.problems[1:] else ""
            raise ValueError(found.problems[0] + more)
        return FilePairs(*map(list, zip(*found.pairs, strict=True)), found.keys)
    if any((image_suffix, label_suffix, split_file)):
        raise ValueError("Suffixes and a split file are for folders. Received: lists of files. Leave them out.")
    images, labels = list(images), list(labels)
    other = next((item for item in images + labels if not isinstance(item, (str, os.PathLike))), None)
    if other is not None:
        raise ValueError(
            f"Images and labels must be paths of files. Received: {type(other).__name__} in a list. Save it as a file first."
        )
    if len(images) != len(labels) or not images:
        raise ValueError(
            "There must be as many labels as images, and at least one of each. "
            f"Received: {len(images)} images, {len(labels)} labels."
        )
    return FilePairs([Path(path) for path in images], [Path(path) for path in labels])
