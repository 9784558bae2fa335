"""A large aerial picture and its label picture in; the places and pixels of the original's tiles and patches out."""

import io

import numpy as np
from PIL import Image

from keras_deeplab.data.builders import labels


def picture_and_ids(picture, dataset, stray_colours):
    """An aerial picture and its train ids.

    Args:
        picture: `Picture`.
        dataset: its `Dataset` of the catalogue.
        stray_colours: whether label colours of no class become `dataset.stray_colour`; otherwise they are an error.

    Returns:
        (H, W, 3) uint8 and (H, W) uint8.

    Raises:
        ValueError: if a file is damaged or of another kind, or the two differ in size.
    """
    image = rgb(labels.pixels(picture.image.read(), picture.image), picture.image)
    stray = dataset.stray_colour if stray_colours else None
    ids = labels.colours(picture.label.read(), picture.label, dataset.label_colours, stray=stray)
    if image.shape[:2] != ids.shape:
        raise ValueError(
            f"{picture.image} is {image.shape[1]}x{image.shape[0]} pixels, but its label is "
            f"{ids.shape[1]}x{ids.shape[0]}. Both must have the same size."
        )
    return image, ids


def grid(length, size, step):
    """The starts of tiles along a side of a picture: every `step` pixels. The last ones are shifted to end at the border.

    Args:
        length: length of the side in pixels.
        size: side of a tile in pixels.
        step: distance from one tile to the next in pixels.

    Returns:
        List of different starts. A side shorter than a tile gives negative ones.
    """
    return list(dict.fromkeys(min(start, length - size) for start in range(0, length, step)))


def padded(array, size, value):
    """A picture of iSAID that is too small for a patch, padded on the right and below to the size of a patch.

    One exception follows the original's converter: a picture with a side of exactly `size` is not padded. If its other side
    is shorter, the start of its patch is negative. numpy counts a negative start from the end, which cuts the patch.

    Args:
        array: (H, W) or (H, W, 3).
        size: side of a patch in pixels.
        value: value of the padding.

    Returns:
        The array, at least `size` high and wide except in the case above.
    """
    height, width = array.shape[:2]
    if size in (height, width) or min(height, width) > size:
        return array
    margins = [(0, max(0, size - height)), (0, max(0, size - width))] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, margins, constant_values=value)


def rgb(image, source):
    """A decoded picture as (H, W, 3) uint8. ValueError for 16 bits or four channels, which the RGB releases do not have."""
    if image.mode not in ("RGB", "L", "P"):
        raise ValueError(f"{source} holds {image.mode} pixels where 8-bit RGB is expected.")
    return np.asarray(image.convert("RGB"))


def png(array):
    """(H, W, 3) uint8 as a PNG, at a low compression level: photographs hardly get smaller at a higher one."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", compress_level=1)
    return file.getvalue()
