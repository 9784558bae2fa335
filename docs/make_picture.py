"""Makes the README's picture, docs/photos.jpg: photographs as a released model labels them.

    python docs/make_picture.py deeplabv3_mnv2_pascal_quant.tflite

The file is Coral's, and benchmarks/trained.py says how its weights are read. The photographs are those of scikit-image
(`pip install "keras_deeplab[docs]"`): by Stefan van der Walt (CC0), NASA (public domain) and Daniel Scharstein (CC0).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

import keras_deeplab as kd
from keras_deeplab.commands import command_line

HERE = Path(__file__).resolve().parent
PHOTOS = ("chelsea", "astronaut", "motorcycle_left")  # files of skimage/data
HEIGHT = 300  # pixels of a photograph
GAP, FONT_SIZE = 16, 34  # pixels of `panels`


def photographs():
    """The photographs, PIL images."""
    import skimage

    files = [Path(skimage.__file__).parent / "data" / f"{name}.png" for name in PHOTOS]
    return [Image.open(file).convert("RGB") for file in files]


def strip(photos, model):
    """Photographs side by side, with the colours of their labels.

    Args:
        photos: PIL images.
        model: a `DeepLabV3` or `DeepLabV3Plus`, whose label maps are shown.

    Returns:
        `PIL.Image.Image`, RGB.
    """
    shown = []
    for photo in photos:
        size = round(photo.width * HEIGHT / photo.height), HEIGHT
        labels = Image.fromarray(kd.segment(model, photo)).resize(size, Image.Resampling.NEAREST)
        photo = photo.resize(size, Image.Resampling.LANCZOS)
        shown.append(kd.overlay(photo, np.asarray(labels), model.classes, model.palette))
    sheet = Image.new("RGB", (sum(one.width for one in shown), max(one.height for one in shown)), "white")
    for i, one in enumerate(shown):
        sheet.paste(one, (sum(before.width for before in shown[:i]), 0))
    return sheet


def panels(photo, found, classes, palette):
    """The photograph beside its label map, with the name of each class in its largest place.

    Args:
        photo: (H, W, 3) uint8.
        found: label map, (H, W) uint8.
        classes: a name for each class.
        palette: (R, G, B) for each class.

    Returns:
        `PIL.Image.Image`, RGB, (H, 2 W + GAP).
    """
    height, width = found.shape
    sheet = Image.new("RGB", (2 * width + GAP, height), "white")
    sheet.paste(Image.fromarray(photo), (0, 0))
    sheet.paste(kd.palette_image(found, palette).convert("RGB"), (width + GAP, 0))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    look = dict(font=font, fill="white", stroke_width=3, stroke_fill="#222", anchor="mm")
    for number, name in enumerate(classes):
        if (place := widest_place(found == number)) is not None:
            row, column = place
            half = font.getlength(name.strip()) / 2
            column = min(max(column, half + 4), width - half - 4)  # the name stays on the map
            draw.text((width + GAP + column, row), name.strip(), **look)
    return sheet


def widest_place(mask):
    """(row, column) of the pixel that is farthest from the other classes; None where there are fewer than 2 % of them."""
    if mask.mean() < 0.02:
        return None
    return np.unravel_index(distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].argmax(), mask.shape)


def main(argv=None):
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("file", metavar="FILE", type=Path, help="the released file")
    arguments.add_argument("--to", type=Path, default=HERE / "photos.jpg", metavar="FILE")
    options = arguments.parse_args(argv)
    if not options.file.exists():
        arguments.error(f"FILE must be deeplabv3_mnv2_pascal_quant.tflite. There is no {options.file}.")
    sys.path.insert(0, str(HERE.parent / "benchmarks"))
    import trained

    strip(photographs(), trained.model_of(trained.opened(options.file))).save(options.to, quality=90, subsampling=0)


if __name__ == "__main__":
    command_line.run(main)
