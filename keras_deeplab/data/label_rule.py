"""How files count classes, in; a table from the label in a file to the class number, out."""

from operator import index

import numpy as np

from keras_deeplab.catalog.datasets import IGNORE

BINARY = {IGNORE: 1}  # the label map of masks whose background is 0 and whose foreground is 255


def label_table(reduce_zero_label=False, label_map=None):
    """The class number of each label that a file may hold.

    Args:
        reduce_zero_label: whether 0 becomes 255 and every other label one less; 255 stays.
        label_map: {label: class number} of labels that change, or None. It is applied after `reduce_zero_label`, as
            mmsegmentation applies them (`LoadAnnotations`). Labels that it does not name stay.

    Returns:
        (256,) uint8, or None if all labels stay as they are.

    Raises:
        ValueError: if the label map holds anything but whole numbers of 0..255.
    """
    table = np.arange(256, dtype=np.uint8)
    if reduce_zero_label:
        table = np.where((table == 0) | (table == IGNORE), IGNORE, table - 1).astype(np.uint8)
    mapped = table.copy()
    for old, new in checked_map(label_map).items():
        mapped[table == old] = new
    return mapped if reduce_zero_label or label_map else None


def checked_map(label_map):
    """The label map as a dict of ints; an empty one for None."""
    try:
        numbers = {index(old): index(new) for old, new in dict(label_map or {}).items()}
    except (TypeError, ValueError):
        numbers = {-1: -1}
    if not all(0 <= number <= 255 for pair in numbers.items() for number in pair):
        raise ValueError(
            "`label_map` must be {label in the files: class number}, whole numbers of 0..255, where the class number 255 "
            f"stands for ignored pixels. Received: {label_map!r}."
        )
    return numbers


def describe(reduce_zero_label, label_map):
    """The rule in words, for messages and summaries; "" if labels stay as they are."""
    parts = ["0 is ignored, every other label is lowered by one"] if reduce_zero_label else []
    if label_map:
        changes = [f"{old} becomes {'ignored' if new == IGNORE else new}" for old, new in label_map.items()]
        parts.append(", ".join(changes))
    return ", then ".join(parts)
