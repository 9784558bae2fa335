"""A label file in; its train ids (H, W) uint8 out, 255 for pixels to ignore, or an error that names the file."""

import functools
import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from keras_deeplab.catalog.datasets import IGNORE

UNKNOWN = 254  # marks values that are no label; train ids are at most 170, or 255
ROWS = 256  # rows that are converted at a time, to save memory: aerial pictures have 10^8 pixels


def pixels(data, source):
    """Decoded pixels of a picture or label file.

    Args:
        data: bytes of the file.
        source: the name of the file in messages.

    Returns:
        PIL image, loaded.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError as error:
        raise ValueError(f"{source} is damaged or not a picture.") from error
    except Exception as error:  # Pillow raises errors of many types for damaged bytes
        raise ValueError(f"{source} is damaged: {error}.") from error
    return image


def ids(data, source):
    """The ids in a grey or palette PNG, (H, W) uint8.

    Args:
        data: bytes of the file.
        source: the name of the file in messages.

    Raises:
        ValueError: if the file is damaged, or not an 8-bit grey or palette picture.
    """
    image = pixels(data, source)
    if image.mode not in ("L", "P"):
        kinds = {"1": "one bit per pixel", "LA": "grey with transparency", "F": "floating-point numbers"}
        other_kind = "16 or 32 bits per pixel" if image.mode.startswith("I") else f"colours ({image.mode})"
        raise ValueError(
            f"A label file must be an 8-bit grey or palette PNG of class ids. Received: {source} holds "
            f"{kinds.get(image.mode, other_kind)}."
        )
    return np.asarray(image)


def train_ids(values, label_ids, source):
    """The train ids of raw ids, the numbers in an official label file.

    Args:
        values: raw ids (H, W) of an unsigned type.
        label_ids: `{raw id: train id}`.
        source: the name of the file in messages.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: if a raw id is not in `label_ids`.
    """
    table = _id_table(tuple(label_ids.items()))
    ids = table.take(values, mode="clip")  # ids beyond the table give its last entry, which is UNKNOWN
    if (ids == UNKNOWN).any():
        strays = np.unique(values[ids == UNKNOWN])
        raise ValueError(
            f"{source} holds {_listed(strays)}, which the data set does not have. Its ids are {_ranges(label_ids)}."
        )
    return ids


def colours(data, source, label_colours, *, stray=None):
    """The train ids of an RGB label picture.

    Args:
        data: bytes of the file.
        source: the name of the file in messages.
        label_colours: `{(red, green, blue): train id}`.
        stray: the train id for all other colours; None refuses them.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: if the file is damaged or not RGB, or has another colour and `stray` is None.
    """
    image = pixels(data, source)
    if image.mode not in ("RGB", "RGBA", "P"):
        raise ValueError(f"{source} holds {image.mode} pixels where RGB colours are expected.")
    picture = np.asarray(image.convert("RGB"))
    table, labels = _colour_table(tuple(label_colours.items())), np.empty(picture.shape[:2], np.uint8)
    for top in range(0, len(picture), ROWS):
        labels[top : top + ROWS] = table.take(_colour_codes(picture[top : top + ROWS]))
    unknown = labels == UNKNOWN
    if unknown.any():
        if stray is None:
            strays = [f"#{code:06x}" for code in np.unique(_colour_codes(picture[unknown]))]
            raise ValueError(
                f"{source} holds {_listed(strays)} in {unknown.sum()} of {unknown.size} pixels, colours of no class. The "
                f"option --stray-colours (in Python: stray_colours=True) makes them {_stray_label(label_colours)}, as the "
                "original preparation does."
            )
        labels[unknown] = stray
    return labels


def png(labels):
    """(H, W) uint8 as an 8-bit grey PNG."""
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "PNG")
    return file.getvalue()


@functools.lru_cache(maxsize=4)
def _id_table(items):
    table = np.full(max(raw for raw, _ in items) + 2, UNKNOWN, np.uint8)
    for raw, label in items:
        table[raw] = label
    return table


@functools.lru_cache(maxsize=2)
def _colour_table(items):
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    for (red, green, blue), label in items:
        table[red << 16 | green << 8 | blue] = label
    return table


def _colour_codes(pixels):
    """The numbers 0xRRGGBB of colours (..., 3) uint8."""
    red, green, blue = np.moveaxis(pixels.astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


def _stray_label(label_colours):
    return f"{IGNORE} (ignored)" if IGNORE in label_colours.values() else "0 (background)"


def _listed(values, most=5):
    more = f" and {len(values) - most} others" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


def _ranges(numbers):
    """`{0, 1, 2, 255}` -> `"0..2, 255"`."""
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in runs)
