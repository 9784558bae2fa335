"""A label map in, a picture out: a palette image that label tools open, or an overlay with a legend for people."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_deeplab.pictures.read import Picture, read_image

IGNORE = 255  # the label of pixels without a class
IGNORED_COLOUR = (0, 0, 0)  # of that label


def palette_image(labels: np.ndarray, palette) -> Image.Image:
    """Turns a label map into an 8-bit palette image, whose pixel values are the labels.

    Args:
        labels: (H, W) integers: the number of a class, or 255 (drawn black).
        palette: (R, G, B) of 0..255 for each class.

    Returns:
        `PIL.Image.Image` of mode "P".

    Raises:
        ValueError: for labels of another shape or type, or that are no class of the palette.
    """
    labels = checked_labels(labels, palette)
    image = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
    image.putpalette([value for colour in padded_palette(palette) for value in colour])
    return image


def checked_labels(labels, palette):
    """The label map as (H, W) uint8. ValueError if it is none, or holds labels that are no class of the palette."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"A label map must hold integers, (H, W), not empty. Received: {labels.dtype} of shape {labels.shape}."
        )
    unknown = np.unique(labels[((labels < 0) | (labels >= len(palette))) & (labels != IGNORE)])
    if unknown.size:
        raise ValueError(
            f"Labels must be 0..{len(palette) - 1}, the classes of the palette, or {IGNORE}. "
            f"Received: {', '.join(map(str, unknown[:5]))}. Use the palette of the model that made them."
        )
    return np.ascontiguousarray(labels, np.uint8)


def padded_palette(palette):
    """The palette, filled up with black to 256 (R, G, B) tuples: one for every value of a byte."""
    return [tuple(colour) for colour in palette] + [IGNORED_COLOUR] * (256 - len(palette))


def overlay(picture: Picture, labels: np.ndarray, classes, palette, *, opacity: float = 0.5) -> Image.Image:
    """Blends the colours of the labels into the picture and adds a legend below it.

    The legend has the classes that occur and their share of the pixels, the most frequent class first.

    Args:
        picture: what `segment` takes: a path, the bytes of a file, a PIL image, or an array (H, W, 3) or (H, W) of 0..255.
        labels: (H, W) uint8, the label map of the upright picture, as `segment` returns it.
        classes: a name for each class.
        palette: (R, G, B) of 0..255 for each class.
        opacity: of the colours, 0..1; 0.5 unless given.

    Returns:
        `PIL.Image.Image`, RGB, as wide as the picture.

    Raises:
        ValueError: for a picture that cannot be read, a label map of another size or type, labels that are no class, or
            another number of names than of colours.
    """
    pixels, labels = read_image(picture), np.asarray(labels)
    if len(classes) != len(palette):
        raise ValueError(
            f"The palette must have a colour for each class. Received: {len(classes)} classes, {len(palette)} colours."
        )
    if labels.shape != pixels.shape[:2] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"A label map must hold integers and have its picture's size, (height, width) = {pixels.shape[:2]}. "
            f"Received: {labels.dtype} of shape {labels.shape}."
        )
    labels = checked_labels(labels, palette)
    drawing = Image.fromarray(blended(pixels, labels, palette, opacity))
    counts = np.bincount(labels.ravel(), minlength=256)[: len(classes)]
    by_frequency = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    entries = [(palette[i], f"{classes[i].strip()} {100 * counts[i] / labels.size:.1f}%") for i in by_frequency]
    key = legend(entries, drawing.width)
    result = Image.new("RGB", (drawing.width, drawing.height + key.height), "white")
    result.paste(drawing, (0, 0))
    result.paste(key, (0, drawing.height))
    return result


def blended(pixels, labels, palette, opacity=0.5):
    """A picture (H, W, 3) uint8 with the colours of its labels (H, W) uint8. Pixels without a class keep their own colour."""
    colours = np.asarray(padded_palette(palette), np.float32)[labels]
    mixed = np.where((labels < len(palette))[..., None], pixels * (1 - opacity) + colours * opacity, pixels)
    return np.round(mixed).astype(np.uint8)


def legend(entries, width):
    """Draws (colour, text) pairs in lines of `width` pixels, and cuts an entry that is wider than a line.

    Returns:
        `PIL.Image.Image`, RGB, `width` pixels wide and as high as its lines; of height 0 without entries.
    """
    size = max(10, min(24, width // 40))  # pixels, of the text and of the coloured squares
    font, gap = ImageFont.load_default(size), size // 2
    x, y, placed = gap, gap, []
    for colour, text in entries:
        length = int(size + gap + font.getlength(text) + 2 * gap)
        if x > gap and x + length > width:
            x, y = gap, y + size + gap
        placed.append((x, y, colour, text))
        x += length
    image = Image.new("RGB", (width, y + size + gap if entries else 0), "white")
    draw = ImageDraw.Draw(image)
    for x, y, colour, text in placed:
        draw.rectangle((x, y, x + size, y + size), fill=tuple(colour), outline="black")
        draw.text((x + size + gap, y + size / 2), text, fill="black", font=font, anchor="lm")
    return image
