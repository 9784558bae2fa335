"""Draws labelled scenes to learn from: textured and plain shapes on a soft ground, each in random colours.

Colour says nothing about the class. Stripes, checks and dots differ in their texture alone, whatever their outline; a disc
and a ring are both of one colour and differ in their outline alone.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_deeplab.pictures.draw import legend, palette_image

CLASSES = {  # name: colour of the label map
    "background": (68, 76, 92),
    "stripes": (240, 173, 52),
    "checks": (214, 69, 80),
    "dots": (64, 160, 220),
    "disc": (110, 190, 90),
    "ring": (160, 100, 200),
}
HEIGHT, WIDTH = 96, 128  # pixels
SHOWN, ZOOM, GAP = 4, 2, 12  # scenes on a page; their magnification; pixels between them
FINE = 2  # drawn so many times larger, for smooth edges
TEXTURES = {  # where the second colour is; u, v count periods
    "stripes": lambda u, v: u % 1 < 0.5,
    "checks": lambda u, v: (u % 1 < 0.5) ^ (v % 1 < 0.5),
    "dots": lambda u, v: np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.35,
}
OUTLINES = {  # where a shape is; x, y in units of its radius
    "disc": lambda x, y: np.hypot(x, y) < 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.89,  # the same area
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.75) < 0.25,
}
PATCHES = ("disc", "square")  # outlines of textures


def write_scenes(folder, count, seed):
    """Writes `count` scenes as folder/images/000.png..., folder/labels/000.png... and folder/classes.txt.

    Args:
        folder: is made where it is missing.
        seed: integers. The same ones give the same scenes.
    """
    for kind in ("images", "labels"):
        Path(folder, kind).mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        for kind, array in zip(("images", "labels"), scene(generator), strict=True):
            Image.fromarray(array).save(Path(folder, kind, f"{i:03}.png"))
    Path(folder, "classes.txt").write_text("\n".join(CLASSES) + "\n")


def read_scenes(folders):
    """Every picture and label map of two folders, (N, HEIGHT, WIDTH, 3) and (N, HEIGHT, WIDTH) uint8."""
    images, labels = (
        np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]) for folder in folders
    )
    return images, labels


def scene(generator):
    """A picture (HEIGHT, WIDTH, 3) uint8 and its label map (HEIGHT, WIDTH) uint8 of a few shapes."""
    y, x = np.mgrid[: HEIGHT * FINE, : WIDTH * FINE].astype(np.float32) / FINE
    ground = colours(generator)
    soft = Image.fromarray(generator.random((HEIGHT // 12, WIDTH // 12), np.float32))
    soft = np.asarray(soft.resize(x.shape[::-1], Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    image = ground[0] * (1 - soft) + ground[1] * soft
    label = np.zeros(x.shape, np.uint8)
    for left, top, radius in places(generator):
        kind = generator.integers(1, len(CLASSES))
        inside, colour = shape(generator, list(CLASSES)[kind], x - left, y - top, radius)
        image, label = np.where(inside[..., None], colour, image), np.where(inside, np.uint8(kind), label)
    image = image.reshape(HEIGHT, FINE, WIDTH, FINE, 3).mean((1, 3)) + generator.normal(0, 6, (HEIGHT, WIDTH, 3))
    return image.round().clip(0, 255).astype(np.uint8), label[::FINE, ::FINE]


def shape(generator, kind, x, y, radius):
    """Where a shape of the class `kind` is, (H, W) bool, and its colour, (3,) or (H, W, 3)."""
    outline = OUTLINES[kind if kind in OUTLINES else generator.choice(PATCHES)]
    inside = outline(*turn(x / radius, y / radius, generator.uniform(0, np.pi)))
    first, second = colours(generator)
    if kind not in TEXTURES:
        return inside, first
    period = generator.uniform(8, 13)  # pixels
    u, v = turn(x / period, y / period, generator.uniform(0, np.pi))
    return inside, np.where(TEXTURES[kind](u, v)[..., None], second, first)


def turn(x, y, angle):
    """Coordinates turned by an angle in radians."""
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def places(generator, attempts=16):
    """(left, top, radius) in pixels of shapes that cover each other little: those of the attempts that found room."""
    found = []
    for _ in range(attempts):
        radius = generator.uniform(16, 28)
        left, top = generator.uniform(0.6 * radius, np.array([WIDTH, HEIGHT]) - 0.6 * radius)
        if all(np.hypot(left - x, top - y) > 0.85 * (radius + r) for x, y, r in found):
            found.append((left, top, radius))
    return found


def colours(generator):
    """Two random colours, each (3,) of 0..255, in random order: a light and a dark one."""
    return generator.permutation([generator.uniform(135, 245, 3), generator.uniform(10, 120, 3)])


def page(images, truths, predicted, caption):
    """The first scenes as a picture: scene, truth and prediction side by side, the classes' colours and a caption below."""
    palette, width, height = list(CLASSES.values()), ZOOM * WIDTH, ZOOM * HEIGHT
    key = legend(list(zip(palette, CLASSES, strict=True)), 3 * (width + GAP))
    sheet = Image.new("RGB", (3 * (width + GAP) + GAP, SHOWN * (height + GAP) + key.height + 5 * GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, (title, arrays) in enumerate({"scene": images, "truth": truths, "prediction": predicted}.items()):
        left = GAP + column * (width + GAP)
        draw.text((left, 1.5 * GAP), title, fill="black", font=font, anchor="lm")
        for row, array in enumerate(arrays[:SHOWN]):
            tile = palette_image(array, palette).convert("RGB") if array.ndim == 2 else Image.fromarray(array)
            tile = tile.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, 3 * GAP + row * (height + GAP)))
    sheet.paste(key, (0, sheet.height - 2 * GAP - key.height))
    draw.text((GAP, sheet.height - 1.5 * GAP), caption, fill="black", font=font, anchor="lm")
    return sheet
