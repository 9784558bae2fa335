"""Label maps to pictures: a palette PNG that label tools open, and an overlay with a legend for people."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_deeplab.pictures.read import Picture, read_image

IGNORED_COLOUR = (0, 0, 0)  # colour of label 255 and of any other beyond the classes


def palette_image(labels: np.ndarray, palette) -> Image.Image:
    """A label map as an 8-bit palette image: its pixel values are the labels, its colours the palette's.

    Args:
        labels: (H, W) uint8.
        palette: (R, G, B) of 0..255 for each class.

    Returns:
        `PIL.Image.Image` of mode "P".
    """
    image = Image.fromarray(np.asarray(labels, np.uint8), mode=None).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([value for colour in padded(palette) for value in colour])
    return image


def padded(palette):
    """The palette with black up to 256 colours."""
    return [tuple(colour) for colour in palette] + [IGNORED_COLOUR] * (256 - len(palette))


def overlay(picture: Picture, labels: np.ndarray, classes, palette, *, opacity: float = 0.5) -> Image.Image:
    """The picture with its classes in colour and, below it, a legend of those that occur, most frequent first.

    Args:
        picture: what `segment` takes: a path, the bytes of a file, a PIL image, or an array (H, W, 3) or (H, W) of 0..255.
        labels: (H, W) uint8, the label map of the picture, turned as `segment` turns it.
        classes: a name for each class.
        palette: (R, G, B) of 0..255 for each class.
        opacity: of the colours, 0..1.

    Returns:
        `PIL.Image.Image`, RGB, as wide as the picture.

    Raises:
        ValueError: for a picture that cannot be read, or a label map of another size or type.
    """
    pixels, labels = read_image(picture), np.asarray(labels)
    if labels.shape != pixels.shape[:2] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"A label map is integers of its picture's size, (height, width) = {pixels.shape[:2]}. "
            f"Received: {labels.dtype} of shape {labels.shape}."
        )
    colours = np.asarray(padded(palette), np.float32)[labels]
    mixed = np.where((labels < len(classes))[..., None], pixels * (1 - opacity) + colours * opacity, pixels)
    blended = Image.fromarray(np.round(mixed).astype(np.uint8))
    counts = np.bincount(labels.ravel(), minlength=256)[: len(classes)]
    shown = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    entries = [(palette[i], f"{classes[i].strip()} {100 * counts[i] / labels.size:.1f}%") for i in shown]
    key = legend(entries, blended.width)
    result = Image.new("RGB", (blended.width, blended.height + key.height), "white")
    result.paste(blended, (0, 0))
    result.paste(key, (0, blended.height))
    return result


def legend(entries, width):
    """(colour, text) pairs set in lines of at most `width` pixels, cut where even one is wider."""
    size = max(10, min(24, width // 40))
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
