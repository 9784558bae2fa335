"""A folder of pictures and one of label maps in; their pairs, and a report of the faults in them, out.

images/street_03.jpg    JPEG, PNG or TIFF
labels/street_03.png    PNG, grey or palette: the number of a class in each pixel, 255 for pixels without a class
classes.txt             optional, beside the two folders or in one of them: one class name per line

The stem of a file is its name without the ending. Files of the same stem belong together; `matching.py` has the details.
"""

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.data.label_rule import BINARY, checked_map, describe, label_table
from keras_deeplab.data.matching import match, read_lines
from keras_deeplab.pictures import libjpeg
from keras_deeplab.pictures.exif import swaps_sides
from keras_deeplab.pictures.labels import check_class_count, read_label
from keras_deeplab.pictures.read import read_bytes

READ_AT_ONCE = 64  # pairs that are handed to the threads together


def read_classes(images, labels):
    """The class names of classes.txt, a tuple; None if no such file lies in either folder or beside the images folder."""
    for folder in (Path(labels), Path(images), Path(images).resolve().parent):
        path = folder / "classes.txt"
        if path.is_file():
            return tuple(read_lines(path))
    return None


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        pairs: [(image, label)] of files that belong together, faulty ones included.
        problems: one line for each fault, with the name of the file; empty if there is no fault.
        pixels: (num_classes,) int64, labelled pixels of each class after `reduce_zero_label` and `label_map`.
        pictures: (num_classes,) int64, the number of label maps in which each class occurs.
        ignored: the number of pixels without a class.
        missing: the classes that occur in no label map.
        values: (256,) int64, pixels of each label as it is in the files.
        sizes: {(width, height): number of pictures} in pixels, of the pictures that were read.
        scanned: number of label maps that were read.
        notes: lines about how the files were found (suffixes, and files that were left out), and about JPEG files that are
            damaged but can be read.
    """

    pairs: list
    problems: list
    pixels: np.ndarray
    pictures: np.ndarray
    ignored: int
    missing: list = field(default_factory=list)
    values: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    sizes: dict = field(default_factory=dict)
    scanned: int = 0
    notes: list = field(default_factory=list)

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
    *,
    label_map: dict[int, int] | None = None,
    image_suffix: str | None = None,
    label_suffix: str | None = None,
    split_file: str | os.PathLike | None = None,
    allow_missing_classes: bool = False,
) -> Report:
    """Reads every file once, in parallel, and reports the faults that would stop training or teach wrong classes.

    Args:
        images, labels: folders. Without files of their own their subfolders are searched.
        num_classes: the number of classes to train, at least 2.
        reduce_zero_label: whether labels count from 1, with 0 for "no class".
        progress: called with the number of pairs read so far.
        label_map: {label in the files: class number}, applied after `reduce_zero_label`; 255 stands for "no class". Labels
            that it does not name stay. Masks of 0 and 255 need {255: 1}.
        image_suffix, label_suffix: what the names of the files end with before the ending, such as "_leftImg8bit". None: the
            same names, or suffixes that are found by themselves.
        split_file: a text file that names the pictures to use by stem or path, one on each line. None: all.
        allow_missing_classes: whether a class may occur in no label map. By default that is a fault.

    Returns:
        `Report`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a folder holds no such files, or two of the same stem; for fewer than two classes.
    """
    found = match(images, labels, image_suffix=image_suffix, label_suffix=label_suffix, split_file=split_file)
    rule = dict(reduce_zero_label=reduce_zero_label, label_map=label_map, allow_missing_classes=allow_missing_classes)
    return check_pairs(found.pairs, num_classes, progress=progress, problems=found.problems, notes=found.notes, **rule)


def check_pairs(
    pairs,
    num_classes,
    *,
    reduce_zero_label=False,
    label_map=None,
    allow_missing_classes=False,
    progress=None,
    problems=(),
    notes=(),
    at_most=None,
):
    """As `check`, of files that are known to belong together.

    Args:
        pairs: [(image path, label path)].
        problems, notes: lines that the report begins with.
        at_most: number of pairs to read, evenly spaced. If a class occurs in none of them, the other label maps are read too,
            until it was found. None (the default): read all.
    """
    if not 2 <= num_classes <= IGNORE:
        raise ValueError(
            f"The number of classes must be from 2 to {IGNORE}; the background is a class too. Received: {num_classes}. "
            "One class and the background are `num_classes=2`."
        )
    check_class_count(num_classes, reduce_zero_label)
    table = label_table(reduce_zero_label, label_map)
    pairs, problems, notes = list(pairs), list(problems), list(notes)
    values, pictures, sizes, scanned = np.zeros(256, np.int64), np.zeros(num_classes, np.int64), Counter(), 0
    all_read = True

    def check_one(number_and_pair):
        number, (image, label) = number_and_pair
        return _check_pair(image if number < first else None, label, num_classes, reduce_zero_label, label_map, table)

    order, first = _evenly_spaced_first(len(pairs), at_most)
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        for start in range(0, len(order), READ_AT_ONCE):
            if start >= first and pictures.all():
                break
            together = [
                (number, pairs[order[number]]) for number in range(start, min(start + READ_AT_ONCE, len(order)))
            ]
            with libjpeg.overheard() as complaints:
                results = list(pool.map(check_one, together))
            if complaints:
                notes += _unsound_jpegs(
                    [image for (_, (image, _)), result in zip(together, results, strict=True) if result[2]]
                )
            for faults, count, size in results:
                problems += faults
                all_read &= count is not None
                if count is not None:
                    values += count
                    pictures += _classes(count, table)[:num_classes] > 0
                sizes.update([size] if size else [])
                scanned += 1
                if progress:
                    progress(scanned)
    classes = _classes(values, table)
    missing = [] if not classes.any() else [int(i) for i in np.flatnonzero(classes[:num_classes] == 0)]
    if missing and not allow_missing_classes and all_read:
        problems.insert(0, _missing_text(missing, values, scanned, num_classes, reduce_zero_label, label_map))
    return Report(
        pairs,
        problems,
        classes[:num_classes],
        pictures,
        int(classes[IGNORE]),
        missing,
        values,
        dict(sizes),
        scanned,
        notes,
    )


def _unsound_jpegs(paths):
    """A line for each picture of which libjpeg says that its data is damaged. It is read all the same, as by OpenCV."""
    lines = []
    for path in paths:
        with libjpeg.overheard() as complaints:
            read_bytes(path.read_bytes(), path)
        if complaints:
            lines.append(
                f"{path} is damaged, and is used as far as it can be read ({complaints[0]}). Copy or save the file again."
            )
    return lines


def picture_sizes(pairs, at_most):
    """The sizes of pictures, upright, by their headers alone.

    Args:
        pairs: a `FilePairs`.
        at_most: number of pictures to look at, evenly spaced.

    Returns:
        {(width, height): number of pictures}, and how many were looked at. Files that cannot be read are left out.
    """
    order, first = _evenly_spaced_first(len(pairs), at_most)
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        sizes = Counter(pool.map(_size_in_header, [pairs.images[number] for number in order[:first]]))
    sizes.pop(None, None)
    return dict(sizes), first


def _size_in_header(path):
    try:
        with Image.open(path) as image:
            return image.size[::-1] if swaps_sides(image) else image.size
    except Exception:  # a damaged file is a fault of `check`
        return None


def require_classes(pairs, num_classes, reduce_zero_label, label_map):
    """Reads label maps until each class has occurred, or all are read.

    Args:
        pairs: a `FilePairs`.
        num_classes: how many classes must occur; None: any two.
        reduce_zero_label, label_map: as for `check`.

    Raises:
        ValueError: if a class occurs in no label map. Files that cannot be read are left to those who need them.
    """
    table, values, seen, all_read = label_table(reduce_zero_label, label_map), np.zeros(256, np.int64), 0, True
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        order, _ = _evenly_spaced_first(len(pairs), READ_AT_ONCE)
        # The first alone: most often it holds all classes.
        for numbers in [order[:1], *(order[i : i + READ_AT_ONCE] for i in range(1, len(order), READ_AT_ONCE))]:
            for count in pool.map(_count_labels, [pairs.labels[number] for number in numbers]):
                all_read &= count is not None
                values += 0 if count is None else count
            seen += len(numbers)
            found = _classes(values, table)[:IGNORE] > 0
            if found[:num_classes].all() if num_classes else found.sum() > 1:
                return
    if all_read:
        needed = num_classes or 2
        missing = [int(i) for i in np.flatnonzero(~found[:needed])]
        if num_classes or found.sum() < 2:
            raise ValueError(_missing_text(missing, values, seen, needed, reduce_zero_label, label_map))


def _count_labels(path):
    """Pixels of each label of a label map, (256,) int64; None if it cannot be read."""
    try:
        return np.bincount(read_label(path.read_bytes(), path).ravel(), minlength=256)
    except (OSError, ValueError):
        return None


def _evenly_spaced_first(count, at_most):
    """The numbers 0..count - 1 in an order that begins with `at_most` evenly spaced ones, and how many those are."""
    if at_most is None or at_most >= count:
        return list(range(count)), count
    first = np.linspace(0, count - 1, at_most).round().astype(int).tolist()
    return first + sorted(set(range(count)) - set(first)), len(first)


def _classes(values, table):
    """Pixels of each class, (256,), from those of each label as it is in the files."""
    if table is None:
        return values
    return np.bincount(table, weights=values, minlength=256).astype(np.int64)  # exact up to 2**53 pixels


def _missing_text(missing, values, scanned, num_classes, reduce_zero_label, label_map):
    """One line: which classes occur in no label map, what the labels hold, and the likely remedy."""
    labels = np.flatnonzero(values)
    shown = ", ".join(f"{i} ({100 * values[i] / values.sum():.3g} %)" for i in labels[:8])
    rule = describe(reduce_zero_label, label_map)
    return (
        f"{'Class' if len(missing) == 1 else 'Classes'} {_numbers(missing)} of 0..{num_classes - 1} "
        f"occur{'s' * (len(missing) == 1)} in no label map. "
        f"Received: {scanned} label map{'s' * (scanned != 1)} with the labels {shown}{', ...' if len(labels) > 8 else ''}"
        f"{f' ({rule})' if rule else '; 255 is ignored' if values[IGNORE] else ''}. "
        f"{_remedy(missing, set(labels.tolist()), num_classes, reduce_zero_label, label_map)}"
        "If classes may be missing, use `allow_missing_classes=True`."
    )


def _numbers(numbers):
    """Numbers in ascending order as text, runs of them as "3..7"."""
    runs: list = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in runs)


def _remedy(missing, labels, num_classes, reduce_zero_label, label_map):
    """What probably mends missing classes, a sentence with a space at its end, or ""."""
    classes = labels - {IGNORE}
    if IGNORE in labels and classes <= {0} and IGNORE not in checked_map(label_map):
        also = " Leave `reduce_zero_label` out." if reduce_zero_label else ""
        count = "" if num_classes == 2 else " with `num_classes=2`"
        return f"Masks of 0 and 255 need `label_map={BINARY}`{count}: 255 is then class 1 and not ignored.{also} "
    if label_map:
        return ""
    if reduce_zero_label and 0 in labels and num_classes - 1 in missing:
        return "If label 0 is a class of its own, leave `reduce_zero_label` out. "
    if not reduce_zero_label and classes and min(classes) == 1:
        count = max(max(classes), 2)
        return f"If the labels count from 1, use `reduce_zero_label=True` and `num_classes={count}`. "
    used = num_classes - len(missing)
    if missing == list(range(used, num_classes)) and used >= 2:
        return f"If there are only {used} classes, use `num_classes={used}`. "
    return "Look at the label maps: each pixel must be the number of a class. "


def _check_pair(image_path, label_path, num_classes, reduce_zero_label, label_map, table):
    """Reads one pair, or with None for the image path only the label map.

    Returns:
        its faults, a line for each; the pixels of each label, (256,) int64, or None if the label map cannot be read; the
        picture's (width, height) or None.
    """
    faults, sizes, count = [], {}, None
    for path, read in ((image_path, read_bytes), (label_path, read_label)):
        if path is None:
            continue
        try:
            pixels = read(path.read_bytes(), path)
        except (OSError, ValueError) as error:
            faults.append(" ".join(str(error).split()))  # one line, whatever the error's text
            continue
        sizes[path] = pixels.shape[1::-1]
        if read is read_label:
            count = np.bincount(pixels.ravel(), minlength=256)
            faults += _unknown_values(path, count, num_classes, reduce_zero_label, label_map, table)
    if len(set(sizes.values())) > 1:
        (width, height), (label_width, label_height) = sizes.values()
        faults.append(
            f"{image_path} is {width}x{height}, but its label {label_path} is {label_width}x{label_height} "
            "(width x height). Both must have the same size."
        )
    return faults, count, sizes.get(image_path)


def _unknown_values(path, count, num_classes, reduce_zero_label, label_map, table):
    """A list of one line if a label map holds values that are no class, otherwise an empty list."""
    classes = np.arange(256) if table is None else table.astype(int)
    values = [int(i) for i in np.flatnonzero(count) if num_classes <= classes[i] < IGNORE]
    if not values:
        return []
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    last = num_classes if reduce_zero_label else num_classes - 1
    rule = f"Labels are 0..{last}, and 255 for pixels to ignore"
    if label_map:
        changes = describe(reduce_zero_label, label_map)
        rule = f"Labels must become 0..{num_classes - 1}, or 255 for ignored pixels ({changes})."
    elif reduce_zero_label:
        rule += " (with reduce_zero_label 0 becomes 255 and every other label is lowered by one)."
    elif values == [num_classes]:
        rule += "; if they count from 1, and 0 means no class, use `reduce_zero_label=True`."
    else:
        rule += "."
    if len(values) > 8 and num_classes == 2:
        rule += " If this is a mask with soft edges, make it 0 and 1 first: mask > 127."
    return [f"{path} holds {shown} ({int(count[values].sum())} pixels). {rule}"]
