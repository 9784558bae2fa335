"""A folder of pictures and one of label maps in; their pairs, and a report of the faults in them, out.

images/street_03.jpg    JPEG, PNG or TIFF
labels/street_03.png    PNG, grey or palette: the number of a class in each pixel, 255 for pixels without a class
classes.txt             optional, beside the two folders or in one of them: one class name per line

The stem of a file is its name without the ending. Files of the same stem belong together.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.pictures.files import IMAGE_SUFFIXES, list_files
from keras_deeplab.pictures.labels import check_class_count, read_label
from keras_deeplab.pictures.read import read_bytes


def match(images, labels):
    """The files that belong together, and those that have no partner.

    Args:
        images, labels: folders.

    Returns:
        [(image path, label path)] sorted by stem, and a sorted list of one line for each file without a partner.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a folder holds no such files, or two of the same stem.
    """
    images, labels = Path(images), Path(labels)
    pictures, maps = _by_stem(images, IMAGE_SUFFIXES), _by_stem(labels, (".png",))
    problems = [
        f"{path} has no label: {labels / stem}.png is missing." for stem, path in pictures.items() if stem not in maps
    ]
    problems += [
        f"{path} has no image of the stem {stem!r} in {images}." for stem, path in maps.items() if stem not in pictures
    ]
    return [(pictures[stem], maps[stem]) for stem in sorted(pictures) if stem in maps], sorted(problems)


def _by_stem(folder, suffixes):
    paths = {}
    for path in list_files(folder, suffixes):
        if path.stem in paths:
            raise ValueError(
                f"The files of a folder must have different stems. Received: {path}, {paths[path.stem].name}. "
                "Keep one of them."
            )
        paths[path.stem] = path
    return paths


def read_classes(images, labels):
    """The class names of classes.txt, a tuple; None if no such file lies in either folder or beside the images folder."""
    for folder in (Path(labels), Path(images), Path(images).resolve().parent):
        path = folder / "classes.txt"
        if path.is_file():
            return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return None


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        pairs: [(image, label)] of files that belong together, faulty ones included.
        problems: one line for each fault, with the name of the file; empty if there is no fault.
        pixels: (num_classes,) int64, labelled pixels of each class after `reduce_zero_label`.
        pictures: (num_classes,) int64, the number of label maps in which each class occurs.
        ignored: the number of pixels without a class.
    """

    pairs: list
    problems: list
    pixels: np.ndarray
    pictures: np.ndarray
    ignored: int

    def histogram(self, classes=None):
        """The class frequencies as a table.

        Args:
            classes: class names; None leaves the names empty.

        Returns:
            Rows (class, name, share of the labelled pixels, pictures). The first row is the header; the last row is
            the ignored pixels and their share of all pixels.
        """
        classes = classes or [""] * len(self.pixels)
        total = max(1, self.pixels.sum())
        rows = [
            (i, name.strip(), f"{100 * pixels / total:.3f}%", int(pictures))
            for i, (name, pixels, pictures) in enumerate(zip(classes, self.pixels, self.pictures, strict=True))
        ]
        share = 100 * self.ignored / max(1, self.ignored + self.pixels.sum())
        return [("class", "name", "pixels", "pictures"), *rows, (IGNORE, "(ignored)", f"{share:.3f}% of all", "")]


def check(
    images: str | os.PathLike,
    labels: str | os.PathLike,
    num_classes: int,
    reduce_zero_label: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Report:
    """Reads every file once, in parallel, and reports the faults that would stop training or teach wrong classes.

    Args:
        images, labels: folders.
        num_classes: the number of classes to train.
        reduce_zero_label: whether labels count from 1, with 0 for "no class".
        progress: called with the number of pairs read so far.

    Returns:
        `Report`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a folder holds no such files, or two of the same stem.
    """
    check_class_count(num_classes, reduce_zero_label)
    pairs, problems = match(images, labels)
    counts = np.zeros([len(pairs), 256], np.int64)  # pixels of each value in each label map

    def check_pair(pair):
        return _check_pair(*pair, num_classes, reduce_zero_label)

    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        for i, (faults, count) in enumerate(pool.map(check_pair, pairs)):
            problems += faults
            counts[i] = count
            if progress:
                progress(i + 1)
    ignored = counts[:, IGNORE].sum()
    if reduce_zero_label:
        ignored, counts = ignored + counts[:, 0].sum(), counts[:, 1:]
    counts = counts[:, :num_classes]
    return Report(pairs, problems, counts.sum(axis=0), (counts > 0).sum(axis=0), int(ignored))


def _check_pair(image_path, label_path, num_classes, reduce_zero_label):
    """The faults of one pair, a line for each, and the number of pixels of each value in its label, (256,) int64."""
    faults, sizes, count = [], [], np.zeros(256, np.int64)
    for path, read in ((image_path, read_bytes), (label_path, read_label)):
        try:
            pixels = read(path.read_bytes(), path)
        except (OSError, ValueError) as error:
            faults.append(" ".join(str(error).split()))  # one line, whatever the error's text
            continue
        sizes.append(pixels.shape[1::-1])
        if read is read_label:
            count = np.bincount(pixels.ravel(), minlength=256)
            faults += _unknown_values(path, count, num_classes, reduce_zero_label)
    if len(sizes) == 2 and sizes[0] != sizes[1]:
        (width, height), (label_width, label_height) = sizes
        faults.append(
            f"{image_path} is {width}x{height}, but its label {label_path} is {label_width}x{label_height} "
            "(width x height). Both must have the same size."
        )
    return faults, count


def _unknown_values(path, count, num_classes, reduce_zero_label):
    """A list of one line if a label map holds values that are no class, otherwise an empty list."""
    last = num_classes if reduce_zero_label else num_classes - 1
    values = [int(value) for value in np.flatnonzero(count[:IGNORE]) if value > last]
    if not values:
        return []
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    rule = f"Labels are 0..{last}, and 255 for pixels to ignore"
    if reduce_zero_label:
        rule += " (with reduce_zero_label 0 becomes 255 and every other label is lowered by one)."
    elif values == [num_classes]:
        rule += "; if they count from 1, and 0 means no class, use reduce_zero_label."
    else:
        rule += "."
    return [f"{path} holds {shown} ({int(count[values].sum())} pixels). {rule}"]
