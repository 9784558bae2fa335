"""A label file in, train ids out, (H, W) uint8 with 255 for what is ignored; or one clear line that names the file."""

import functools
import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from keras_deeplab.catalog.datasets import IGNORE

UNKNOWN = 254  # between the train ids, at most 170, and 255
ROWS = 256  # of a picture at a time: aerial ones have 10^8 pixels


def pixels(data, source):
    """Decoded pixels of a picture or label file.

    Args:
        data: bytes of the file.
        source: what a message calls it.

    Returns:
        PIL image, loaded.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError as error:
        raise ValueError(f"{source} is damaged, or no picture.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{source} is damaged: {error}.") from error
    return image


def ids(data, source):
    """The ids of a grey or palette PNG, (H, W) uint8."""
    image = pixels(data, source)
    if image.mode not in ("L", "P"):
        what = {"1": "one bit per pixel", "LA": "grey with transparency", "F": "floating-point numbers"}
        kind = "16 or 32 bits per pixel" if image.mode.startswith("I") else f"colours ({image.mode})"
        raise ValueError(
            f"{source} holds {what.get(image.mode, kind)} where class ids are expected: an 8-bit grey or palette PNG."
        )
    return np.asarray(image)


def train_ids(values, label_ids, source):
    """Raw ids (H, W) of any unsigned type to train ids, by `{raw id: train id}`."""
    table = _table(tuple(label_ids.items()))
    known = table.take(values, mode="clip")  # the table ends in UNKNOWN
    if (known == UNKNOWN).any():
        strays = np.unique(values[known == UNKNOWN])
        raise ValueError(
            f"{source} holds {_listed(strays)}, which the data set does not have. Its ids are {_ranges(label_ids)}."
        )
    return known


def colours(data, source, label_colours, *, stray=None):
    """The train ids of an RGB label picture, by `{(red, green, blue): train id}`.

    Args:
        data: bytes of the file.
        source: what a message calls it.
        label_colours: the colours that there are.
        stray: what another colour becomes; None refuses it.

    Returns:
        uint8 array (H, W).
    """
    image = pixels(data, source)
    if image.mode not in ("RGB", "RGBA", "P"):
        raise ValueError(f"{source} holds {image.mode} pixels where RGB colours are expected.")
    picture = np.asarray(image.convert("RGB"))
    table, labels = _colour_table(tuple(label_colours.items())), np.empty(picture.shape[:2], np.uint8)
    for top in range(0, len(picture), ROWS):
        labels[top : top + ROWS] = table.take(_coded(picture[top : top + ROWS]))
    unknown = labels == UNKNOWN
    if unknown.any():
        if stray is None:
            strays = [f"#{code:06x}" for code in np.unique(_coded(picture[unknown]))]
            raise ValueError(
                f"{source} holds {_listed(strays)} in {unknown.sum()} "
                f"of {unknown.size} pixels, colours of no class. To let them through as {_stray(label_colours)}, as the "
                "original preparation does: --stray-colours."
            )
        labels[unknown] = stray
    return labels


def png(labels):
    """(H, W) uint8 as an 8-bit grey PNG."""
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "PNG")
    return file.getvalue()


@functools.lru_cache(maxsize=4)
def _table(items):
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


def _coded(pixels):
    """(..., 3) uint8 to 0xRRGGBB."""
    red, green, blue = np.moveaxis(pixels.astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


def _stray(label_colours):
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
