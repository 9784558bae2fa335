"""Big aerial pictures into what networks are trained on, at the places where the original cuts them."""

import io

import numpy as np
from PIL import Image

from keras_deeplab.data.builders import labels


def picture_and_ids(picture, dataset, stray_colours):
    """An aerial picture (H, W, 3) and its label's colours as train ids (H, W), both uint8, of one size."""
    image = rgb(labels.pixels(picture.image.read(), picture.image), picture.image)
    stray = dataset.stray_colour if stray_colours else None
    ids = labels.colours(picture.label.read(), picture.label, dataset.label_colours, stray=stray)
    if image.shape[:2] != ids.shape:
        raise ValueError(
            f"{picture.image} is {image.shape[1]}x{image.shape[0]} and its label {ids.shape[1]}x{ids.shape[0]} pixels."
        )
    return image, ids


def grid(length, size, step):
    """Where tiles of `size` pixels begin along a side: every `step` pixels, the last ones shifted to end at the border.

    Args:
        length: pixels of the side.
        size: pixels of a tile.
        step: pixels from one tile to the next.

    Returns:
        List of starts, each once. A side shorter than a tile gives negative starts.
    """
    return list(dict.fromkeys(min(start, length - size) for start in range(0, length, step)))


def padded(array, size, value):
    """iSAID's rule: a picture too small for a patch is filled up, at the right and below, unless one of its sides is
    exactly a patch's: the original then cuts off what a negative start leaves (numpy counts it from the end).

    Args:
        array: (H, W) or (H, W, 3).
        size: pixels of a patch.
        value: what to fill with.

    Returns:
        The array, at least `size` high and wide but for that exception.
    """
    height, width = array.shape[:2]
    if size in (height, width) or min(height, width) > size:
        return array
    fill = [(0, max(0, size - height)), (0, max(0, size - width))] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, fill, constant_values=value)


def rgb(image, source):
    """A decoded picture as (H, W, 3) uint8; 16-bit and four-channel ones are no RGB orthophotos."""
    if image.mode not in ("RGB", "L", "P"):
        raise ValueError(f"{source} holds {image.mode} pixels where 8-bit RGB is expected.")
    return np.asarray(image.convert("RGB"))


def png(array):
    """(H, W, 3) uint8 as a PNG; little effort, since photos do not compress much further."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", compress_level=1)
    return file.getvalue()
