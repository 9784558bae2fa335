"""A seed in, labelled scenes for the quickstart out: shapes with and without texture, in random colours.

The colour of a shape says nothing about its class. Stripes, checks and dots differ only in their texture.
A disc and a ring have a single colour and differ only in their outline.
"""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {  # name: colour of the label map
    "background": (68, 76, 92),
    "stripes": (240, 173, 52),
    "checks": (214, 69, 80),
    "dots": (64, 160, 220),
    "disc": (110, 190, 90),
    "ring": (160, 100, 200),
}
HEIGHT, WIDTH = 96, 128  # pixels
OVERSAMPLING = 2  # scenes are drawn this many times larger, for smooth edges
TEXTURES = {  # where the second colour is; u, v in periods
    "stripes": lambda u, v: u % 1 < 0.5,
    "checks": lambda u, v: (u % 1 < 0.5) ^ (v % 1 < 0.5),
    "dots": lambda u, v: np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.35,
}
OUTLINES = {  # where a shape is; x, y in units of its radius
    "disc": lambda x, y: np.hypot(x, y) < 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.89,  # the same area
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.75) < 0.25,
}
TEXTURED_OUTLINES = ("disc", "square")


def write_scenes(folder, count, seed):
    """Writes `count` scenes as folder/images/000.png..., folder/labels/000.png... and folder/classes.txt.

    Args:
        folder: is created if it does not exist.
        count: number of scenes.
        seed: an integer or a tuple of integers. The same seed gives the same scenes.
    """
    for kind in ("images", "labels"):
        Path(folder, kind).mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        for kind, array in zip(("images", "labels"), scene(generator), strict=True):
            Image.fromarray(array).save(Path(folder, kind, f"{i:03}.png"))
    Path(folder, "classes.txt").write_text("\n".join(CLASSES) + "\n")


def read_scenes(folders):
    """All pictures and label maps of `folders` (images, labels): (N, HEIGHT, WIDTH, 3) and (N, HEIGHT, WIDTH) uint8."""
    images, labels = (
        np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]) for folder in folders
    )
    return images, labels


def scene(generator):
    """Draws a few shapes: a picture (HEIGHT, WIDTH, 3) uint8 and its label map (HEIGHT, WIDTH) uint8."""
    y, x = np.mgrid[: HEIGHT * OVERSAMPLING, : WIDTH * OVERSAMPLING].astype(np.float32) / OVERSAMPLING
    background = colours(generator)
    noise = Image.fromarray(generator.random((HEIGHT // 12, WIDTH // 12), np.float32))
    mix = np.asarray(noise.resize(x.shape[::-1], Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    image = background[0] * (1 - mix) + background[1] * mix
    label = np.zeros(x.shape, np.uint8)
    for left, top, radius in positions(generator):
        kind = generator.integers(1, len(CLASSES))
        inside, colour = shape(generator, list(CLASSES)[kind], x - left, y - top, radius)
        image, label = np.where(inside[..., None], colour, image), np.where(inside, np.uint8(kind), label)
    image = image.reshape(HEIGHT, OVERSAMPLING, WIDTH, OVERSAMPLING, 3).mean((1, 3))
    image = image + generator.normal(0, 6, (HEIGHT, WIDTH, 3))
    return image.round().clip(0, 255).astype(np.uint8), label[::OVERSAMPLING, ::OVERSAMPLING]


def shape(generator, kind, x, y, radius):
    """A shape of the class `kind`: the pixels inside it, (H, W) bool, and its colour, (3,) or (H, W, 3)."""
    outline = OUTLINES[kind if kind in OUTLINES else generator.choice(TEXTURED_OUTLINES)]
    inside = outline(*rotated(x / radius, y / radius, generator.uniform(0, np.pi)))
    first, second = colours(generator)
    if kind not in TEXTURES:
        return inside, first
    period = generator.uniform(8, 13)  # pixels
    u, v = rotated(x / period, y / period, generator.uniform(0, np.pi))
    return inside, np.where(TEXTURES[kind](u, v)[..., None], second, first)


def rotated(x, y, angle):
    """Coordinates rotated by an angle in radians."""
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def positions(generator, attempts=16):
    """(left, top, radius) in pixels, of random shapes. A shape that would overlap an earlier one much is dropped."""
    accepted = []
    for _ in range(attempts):
        radius = generator.uniform(16, 28)
        left, top = generator.uniform(0.6 * radius, np.array([WIDTH, HEIGHT]) - 0.6 * radius)
        if all(np.hypot(left - x, top - y) > 0.85 * (radius + r) for x, y, r in accepted):
            accepted.append((left, top, radius))
    return accepted


def colours(generator):
    """A light and a dark random colour in random order, (2, 3) of 0..255."""
    return generator.permutation([generator.uniform(135, 245, 3), generator.uniform(10, 120, 3)])
