"""What is wrong with a folder of pictures and label maps, before training stumbles over it:

    keras-deeplab check --images images --labels labels --num-classes 19 --to grid.png

prints one line for each faulty file and how frequent the classes are; grid.png shows pictures with their labels in
colour. Ends non-zero if anything is wrong.
"""

import colorsys
from pathlib import Path

import numpy as np

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.commands import command_line

SHOWN = 12  # pictures in the grid
LISTED = 50  # faults that are printed; the rest is counted
TILE = 320  # pixels, width of a picture in the grid


def main(argv):
    arguments = command_line.parser("check", __doc__.splitlines()[0], row=False)
    arguments.add_argument("--images", metavar="DIR", required=True, help="pictures: JPEG, PNG or TIFF")
    arguments.add_argument("--labels", metavar="DIR", required=True, help="label maps: PNG of the same stems")
    arguments.add_argument("--num-classes", metavar="N", type=int, help="number of classes to train")
    arguments.add_argument("--classes", dest="num_classes", type=int, action=command_line.OldName)
    arguments.add_argument(
        "--reduce-zero-label", action="store_true", help='labels count from 1, and 0 means "no class"'
    )
    arguments.add_argument("--to", metavar="FILE", help="write a picture grid there, a .png or .jpg")
    options = arguments.parse_args(argv)
    if options.num_classes is None:
        arguments.error("the following arguments are required: --num-classes")
    if not 1 <= options.num_classes <= IGNORE:
        raise ValueError(f"A label map has 1 to {IGNORE} classes. Received: --num-classes {options.num_classes}.")

    import keras

    from keras_deeplab.data import folder

    pairs, _ = folder.match(options.images, options.labels)
    names = folder.read_classes(options.images, options.labels)
    bar = keras.utils.Progbar(len(pairs), unit_name="pair")
    report = folder.check(options.images, options.labels, options.num_classes, options.reduce_zero_label, bar.update)
    problems = list(report.problems)
    if names is not None and len(names) != options.num_classes:
        problems.append(f"classes.txt names {len(names)} classes, but --num-classes is {options.num_classes}.")
        names = None
    command_line.print_table(report.histogram(names))
    for line in problems[:LISTED]:
        print(line)
    if len(problems) > LISTED:
        print(f"... and {len(problems) - LISTED} more.")
    if options.to:
        grid(report.pairs, names, options.num_classes, options.reduce_zero_label).save(options.to)
        print(f"wrote {options.to}")
    if problems:
        raise ValueError(
            f"{len(problems)} fault{'s' * (len(problems) > 1)} in {len(report.pairs)} pairs: {problems[0]}"
        )
    print(f"{len(report.pairs)} pairs, no faults.")


def grid(pairs, names, classes, reduce_zero_label):
    """Evenly chosen pictures with their labels in colour, three in a row; those that cannot be shown are left out."""
    from PIL import Image

    names = names or [f"class {i}" for i in range(classes)]
    colours = palette(classes)
    chosen = np.unique(np.linspace(0, len(pairs) - 1, SHOWN).round().astype(int)) if pairs else []
    tiles = [tile(*pairs[i], names, colours, reduce_zero_label) for i in chosen]
    tiles = [shown for shown in tiles if shown is not None]
    height = max((shown.height for shown in tiles), default=TILE)
    columns = min(3, max(1, len(tiles)))
    sheet = Image.new("RGB", (columns * TILE, -(-len(tiles) // columns) * height or height), "white")
    for i, shown in enumerate(tiles):
        sheet.paste(shown, (i % columns * TILE, i // columns * height))
    return sheet


def tile(image, label, names, colours, reduce_zero_label):
    """A pair as an overlay of `TILE` pixels' width, or None if it cannot be read or does not match."""
    import tensorflow as tf
    from PIL import Image

    from keras_deeplab.data.pipeline import decode_label
    from keras_deeplab.data.transforms import reduce_zero_label as reduced
    from keras_deeplab.pictures.draw import overlay
    from keras_deeplab.pictures.read import read_image

    try:
        picture, labels = read_image(image), decode_label(Path(label).read_bytes())
    except (ValueError, OSError, tf.errors.OpError):
        return None
    if picture.shape[:2] != labels.shape:
        return None
    labels = (reduced(labels) if reduce_zero_label else labels).numpy()
    size = (TILE, max(1, round(TILE * picture.shape[0] / picture.shape[1])))
    picture = np.asarray(Image.fromarray(picture).resize(size))
    labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    return overlay(picture, labels, names, colours)


def palette(classes):
    """Colours that differ from their neighbours': each the golden angle further round the wheel."""
    wheel = [colorsys.hsv_to_rgb(i * 0.618 % 1, 0.65 + 0.35 * (i % 2), 1 - 0.25 * (i % 3)) for i in range(classes)]
    return [tuple(round(255 * value) for value in colour) for colour in wheel]


if __name__ == "__main__":
    command_line.run(main)
