"""A name that a person writes in, its row out; the rows of all sources of released models."""

import difflib
import os
import re

from keras_deeplab.catalog import authors, openmmlab, torchvision
from keras_deeplab.catalog.openmmlab import CLASS_NAMES

ROWS = {**openmmlab.ROWS, **authors.ROWS, **torchvision.ROWS}


def backbones():
    """The names of the backbones of all rows, sorted."""
    return sorted({row.backbone for row in ROWS.values()})


def select(*, dataset=None, backbone=None, class_name=None):
    """The rows of a data set, a backbone and a class; None, the default, stands for all of them.

    Raises:
        ValueError: for a data set, backbone or class that no row has. The message lists the existing ones.
    """
    selected = list(ROWS.values())
    for field, wanted in (("dataset", dataset), ("backbone", backbone), ("class_name", class_name)):
        known = sorted({getattr(row, field) for row in ROWS.values()})
        if wanted is not None and wanted not in known:
            raise ValueError(f"`{field}` must be one of {', '.join(known)}. Received: {wanted!r}.")
        selected = [row for row in selected if wanted in (None, getattr(row, field))]
    return selected


def short_names(class_name):
    """The short names of a class and their rows.

    Args:
        class_name: `"DeepLabV3"` or `"DeepLabV3Plus"`.

    Returns:
        `{"r101_cityscapes": Row, ...}`: for each backbone and data set the row with the highest published single-scale mIoU,
        whatever its source, crop, stride or precision.
    """
    _check_class(class_name)
    best = {}
    for row in ROWS.values():
        if row.class_name == class_name:
            best_so_far = best.setdefault(row.short_name, row)
            best[row.short_name] = max(best_so_far, row, key=lambda row: row.mIoU or 0.0)
    return best


def find(name, class_name=None):
    """The row with a name.

    Args:
        name: a row's full name; a prefixed short name (`"deeplabv3plus_r101_cityscapes"`); or, with `class_name`, a short name
            (`"r101_cityscapes"`), see `short_names`.
        class_name: `"DeepLabV3"` or `"DeepLabV3Plus"`: the class that the row must have. Default `None`, either.

    Returns:
        a `Row`.

    Raises:
        TypeError: if `name` is not a string.
        ValueError: if no row has the name, or only a row of the other class.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"The name of a row must be a string such as 'r101_cityscapes'. "
            f"Received: {name!r} (of type {type(name).__name__})."
        )
    if class_name is not None:
        _check_class(class_name)
        if row := short_names(class_name).get(name):
            return row
    row = ROWS.get(name) or _prefixed_short_names().get(name)
    if row is None:
        raise ValueError(_not_found_message(name, class_name))
    if class_name not in (None, row.class_name):
        raise ValueError(f"{name!r} is a {row.class_name} row. Load it with {row.class_name}.from_preset.")
    return row


def _check_class(class_name):
    if class_name not in CLASS_NAMES.values():
        known = " or ".join(map(repr, CLASS_NAMES.values()))
        raise ValueError(f"`class_name` must be {known}. Received: {class_name!r}.")


def _prefixed_short_names():
    return {
        f"{family}_{short}": row
        for family, class_name in CLASS_NAMES.items()
        for short, row in short_names(class_name).items()
    }


def _not_found_message(name, class_name):
    """The error message for a name that no row has: it is a file, its class is missing or wrong, or it is misspelt."""
    if os.path.isfile(name):
        return f"No row is named {name!r}. It is a file: pass it as `weights`, beside the name of its row."
    prefixed = _prefixed_short_names()
    short = re.sub("^(deeplabv3|deeplabv3plus)_", "", name)
    families = [family for family in CLASS_NAMES if f"{family}_{short}" in prefixed]
    if families and short != name:
        return f"No row is named {name!r}. There is {families[0]}_{short}, a {CLASS_NAMES[families[0]]} row."
    if families and class_name is None:
        choices = " or ".join(f"{family}_{name}" for family in families)
        return f"{name!r} does not name the class of the model. Write {choices}."
    if families:
        other = CLASS_NAMES[families[0]]
        return f"{name!r} is the short name of a {other} row only. Load it with {other}.from_preset."
    classes = [known for known in CLASS_NAMES.values() if class_name in (None, known)]
    candidates = [name for name, row in (ROWS | prefixed).items() if row.class_name in classes]
    if class_name is not None:
        candidates += short_names(class_name)
    closest = difflib.get_close_matches(name.lower(), candidates, n=3)
    hint = f" Closest: {', '.join(closest)}." if closest else ""
    listing = ", ".join(f"keras_deeplab.{known}.presets" for known in classes)
    return f"No row is named {name!r}.{hint} All rows: {listing}; in a shell, keras-deeplab list."
