"""Every released row of every source, and how a name that a person writes finds its row."""

import difflib
import re

from keras_deeplab.catalog import openmmlab
from keras_deeplab.catalog.openmmlab import CLASS_NAMES

ROWS = {**openmmlab.ROWS}


def backbones():
    """The backbones that rows have, sorted."""
    return sorted({row.backbone for row in ROWS.values()})


def select(*, dataset=None, backbone=None, class_name=None):
    """The rows of a data set, a backbone and a class; None stands for all of them.

    Raises:
        ValueError: for a data set, backbone or class that no row has; names those that there are.
    """
    found = list(ROWS.values())
    for field, wanted in (("dataset", dataset), ("backbone", backbone), ("class_name", class_name)):
        known = sorted({getattr(row, field) for row in ROWS.values()})
        if wanted is not None and wanted not in known:
            raise ValueError(f"`{field}` is one of {', '.join(known)}. Received: {wanted!r}.")
        found = [row for row in found if wanted in (None, getattr(row, field))]
    return found


def short_names(class_name):
    """Every short name of a class and the row it stands for.

    Args:
        class_name: `"DeepLabV3"` or `"DeepLabV3Plus"`.

    Returns:
        `{"r101_cityscapes": Row, ...}`: of the rows of one backbone and data set, the one of the highest
        published single-scale mIoU, whatever its source, crop, stride or precision.
    """
    _check_class(class_name)
    best = {}
    for row in ROWS.values():
        if row.class_name == class_name:
            rival = best.setdefault(row.short_name, row)
            best[row.short_name] = max(rival, row, key=lambda row: row.mIoU)
    return best


def find(name, class_name=None):
    """The row of a name.

    Args:
        name: a row's full name; a prefixed short name (`"deeplabv3plus_r101_cityscapes"`); or, with
            `class_name`, a short name (`"r101_cityscapes"`), see `short_names`.
        class_name: `"DeepLabV3"` or `"DeepLabV3Plus"`: only rows of that class will do. `None`: any.

    Raises:
        TypeError: if `name` is no string.
        ValueError: if no row has the name, or only one of the other class.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"A row is asked for by its name, a string such as 'r101_cityscapes'. "
            f"Received: {name!r} (of type {type(name).__name__})"
        )
    if class_name is not None:
        _check_class(class_name)
        if row := short_names(class_name).get(name):
            return row
    row = ROWS.get(name) or _prefixed_short_names().get(name)
    if row is None:
        raise ValueError(_why_not(name, class_name))
    if class_name not in (None, row.class_name):
        raise ValueError(f"{name!r} is a {row.class_name} row; load it with {row.class_name}.from_preset.")
    return row


def _check_class(class_name):
    if class_name not in CLASS_NAMES.values():
        known = " or ".join(map(repr, CLASS_NAMES.values()))
        raise ValueError(f"`class_name` is {known}. Received: {class_name!r}")


def _prefixed_short_names():
    return {
        f"{family}_{short}": row
        for family, class_name in CLASS_NAMES.items()
        for short, row in short_names(class_name).items()
    }


def _why_not(name, class_name):
    """What to say of a name that is no row's: a class is missing, or wrong, or the name is misspelt."""
    prefixed = _prefixed_short_names()
    short = re.sub("^(deeplabv3|deeplabv3plus)_", "", name)
    families = [family for family in CLASS_NAMES if f"{family}_{short}" in prefixed]
    if families and short != name:
        return f"No row is named {name!r}; there is {families[0]}_{short}, a {CLASS_NAMES[families[0]]} row."
    if families and class_name is None:
        choices = " or ".join(f"{family}_{name}" for family in families)
        return f"{name!r} does not say of which class. Write {choices}."
    if families:
        other = CLASS_NAMES[families[0]]
        return f"{name!r} exists as a {other} row only; load it with {other}.from_preset."
    classes = [known for known in CLASS_NAMES.values() if class_name in (None, known)]
    candidates = [name for name, row in (ROWS | prefixed).items() if row.class_name in classes]
    if class_name is not None:
        candidates += short_names(class_name)
    closest = difflib.get_close_matches(name.lower(), candidates, n=3)
    hint = f" Closest: {', '.join(closest)}." if closest else ""
    listing = ", ".join(f"keras_deeplab.{known}.presets" for known in classes)
    return f"No row is named {name!r}.{hint} All rows: {listing}."
