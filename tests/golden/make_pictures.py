"""Writes pictures/ and pictures.npz: what OpenCV reads from picture files of every kind and how it resizes.

    python make_pictures.py

Needs opencv-python-headless 4.11 and Pillow. pictures.npz: NAME -> RGB (H, W, 3) uint8, and `resize`: rows of (height, width,
new height, new width, CRC-32) for noise drawn by `drawn.images`.
"""

import pathlib
import sys
import zlib

import cv2
import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from support.drawn import images, picture  # noqa: E402

OUT = HERE / "pictures"


def draw():
    """(file name, image, options of `Image.save`)."""
    rgb = Image.fromarray(picture(17, 24, seed=9))
    grey = rgb.convert("L")
    for turn in range(1, 9):
        exif = rgb.getexif()
        exif[0x010F], exif[0x0112] = "a camera", turn
        yield f"orientation{turn}.jpg", rgb, dict(exif=exif, quality=90)
    little = Image.Exif()
    little.endian = "<"
    little[0x0112] = 6
    yield "orientation6_little_endian.jpg", rgb, dict(exif=little.tobytes(), quality=90)
    yield "orientation6.png", rgb, dict(exif=exif_of(6))
    yield "progressive.jpg", rgb, dict(progressive=True, quality=75)
    yield "subsampled.jpg", rgb, dict(subsampling="4:2:0", quality=60)
    yield "grey.jpg", grey, {}
    yield "grey.png", grey, {}
    yield "one_bit.png", rgb.convert("1"), {}
    yield "palette.png", rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=16), {}
    yield "palette_transparent.png", rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=16), dict(transparency=3)
    alpha = grey.point(lambda value: 255 - value)
    yield "rgba.png", Image.merge("RGBA", (*rgb.split(), alpha)), {}
    yield "grey_alpha.png", Image.merge("LA", (grey, alpha)), {}
    deep = np.random.default_rng(0).integers(0, 65536, (17, 24), dtype=np.uint16)
    yield "grey16.png", Image.fromarray(deep), {}


def exif_of(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


def main():
    OUT.mkdir(exist_ok=True)
    kept = {}
    for name, image, options in draw():
        image.save(OUT / name, **options)
    deep = np.random.default_rng(1).integers(0, 65536, (17, 24, 3), dtype=np.uint16)
    cv2.imwrite(str(OUT / "rgb16.png"), deep)
    for file in sorted(OUT.iterdir()):
        kept[file.name] = cv2.imread(str(file), cv2.IMREAD_COLOR)[..., ::-1]
    generator, rows = np.random.default_rng(0), []
    for height, width, *new in [
        *generator.integers(1, 300, (60, 4)).tolist(),
        (97, 131, 97, 131),
        (1, 1, 5, 7),
        (64, 64, 128, 128),
    ]:
        resized = cv2.resize(images(height, width)[0], new[::-1], interpolation=cv2.INTER_LINEAR)
        rows.append((height, width, *new, zlib.crc32(np.ascontiguousarray(resized).tobytes())))
    np.savez_compressed(HERE / "pictures.npz", resize=np.array(rows), **kept)
    Image.fromarray(picture(17, 24, seed=9)).convert("CMYK").save(OUT / "cmyk.jpg")


if __name__ == "__main__":
    main()
