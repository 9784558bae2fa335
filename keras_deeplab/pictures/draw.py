"""A label map in, a picture out: a palette image that label tools open, or an overlay with a legend for people."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_deeplab.pictures.read import Picture, read_image

IGNORE = 255  # the label of pixels without a class
IGNORED_COLOUR = (0, 0, 0)  # of that label
LEGEND_CLASSES = 20  # at most; smaller ones are one entry, "others"


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
    """Blends the colours of the labels into the picture, edges the regions with them, and adds a legend below.

    The legend has the classes that occur and their share of the pixels, the largest first; beyond 20 they are "others". Its
    squares have the mean colour that the class has in the blended picture.

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
    mixed = blended(pixels, labels, palette, opacity)
    shares = shares_by_area(labels, classes)
    entries = [(mean_colour(mixed, labels, i), text) for i, text in shares]
    edged(mixed, labels, palette)
    height, width = labels.shape
    key = legend(entries, width, max(12, round((height * width) ** 0.5 / 45)))
    result = Image.new("RGB", (width, height + key.height), "white")
    result.paste(Image.fromarray(mixed), (0, 0))
    result.paste(key, (0, height))
    return result


def shares_by_area(labels, classes):
    """[(number of a class, "name 12.3%")] of the classes in a label map, the largest first; (None, "5 others 1.2%") last."""
    counts = np.bincount(labels.ravel(), minlength=256)[: len(classes)]
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    shown, others = order[:LEGEND_CLASSES], order[LEGEND_CLASSES:]
    entries = [(i, f"{classes[i].strip()} {100 * counts[i] / labels.size:.1f}%") for i in shown]
    if others:
        entries.append((None, f"{len(others)} others {100 * counts[others].sum() / labels.size:.1f}%"))
    return entries


def mean_colour(pixels, labels, number):
    """The mean colour of a class, (R, G, B), over a thousand of its pixels or all; None for the number None."""
    if number is None:
        return None
    inside = np.flatnonzero(labels == number)
    inside = inside[:: max(1, len(inside) // 1000)]
    return tuple(int(value) for value in np.round(pixels.reshape(-1, 3)[inside].mean(0)))


def edged(pixels, labels, palette):
    """Draws the edge of each region into a picture (H, W, 3) uint8 in the full colour of its class."""
    width = max(1, round(min(labels.shape) / 500))  # pixels, on either side
    edge = np.zeros(labels.shape, bool)
    for along, found in ((labels, edge), (labels.T, edge.T)):
        differs = along[width:] != along[:-width]
        found[width:] |= differs
        found[:-width] |= differs
    edge &= labels < len(palette)
    pixels[edge] = np.asarray(padded_palette(palette), np.uint8)[labels[edge]]


def label_picture(labels, palette):
    """A label map in the colours of its classes, (H, W, 3) uint8. Pixels without a class are striped, as no class is."""
    colours = np.asarray(padded_palette(palette), np.uint8)[labels]
    y, x = np.nonzero(labels >= len(palette))
    colours[y, x] = np.where((x + y) // 4 % 2, 170, 220)[:, None]
    return colours


def blended(pixels, labels, palette, opacity=0.5):
    """A picture (H, W, 3) uint8 with the colours of its labels (H, W) uint8. Pixels without a class keep their own colour."""
    colours = np.asarray(padded_palette(palette), np.float32)[labels]
    mixed = np.where((labels < len(palette))[..., None], pixels * (1 - opacity) + colours * opacity, pixels)
    return np.round(mixed).astype(np.uint8)


def legend(entries, width, size):
    """Draws (colour, text) pairs in lines of `width` pixels, and cuts an entry that is wider than a line.

    Args:
        entries: pairs; a text with the colour None has no square.
        width: of a line, in pixels.
        size: of the text and of the squares, in pixels.

    Returns:
        `PIL.Image.Image`, RGB, `width` pixels wide and as high as its lines; of height 0 without entries.
    """
    font, gap = ImageFont.load_default(size), size // 2
    x, y, placed = gap, gap, []
    for colour, text in entries:
        length = int((0 if colour is None else size + gap) + font.getlength(text) + 2 * gap)
        if x > gap and x + length > width:
            x, y = gap, y + size + gap
        placed.append((x, y, colour, text))
        x += length
    image = Image.new("RGB", (width, y + size + gap if entries else 0), "white")
    draw = ImageDraw.Draw(image)
    for x, y, colour, text in placed:
        if colour is not None:
            draw.rectangle((x, y, x + size, y + size), fill=tuple(colour), outline="black")
            x += size + gap
        draw.text((x, y + size / 2), text, fill="black", font=font, anchor="lm")
    return image
