"""Checks a folder of pictures and label maps: prints every fault and how frequent each class is.

    keras-deeplab check --images images --labels labels --num-classes 19 --to grid.png

grid.png shows pictures with their labels in colour. The exit status is not 0 if there is a fault.
"""

from pathlib import Path

import numpy as np

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.commands import command_line

GRID_PICTURES = 12  # at most
PRINTED_FAULTS = 50  # at most; further ones are only counted
TILE_WIDTH, GAP, NAME_HEIGHT = 320, 12, 20  # pixels: of a picture in the grid, between two, of the name above one


def main(argv):
    arguments = command_line.parser("check", __doc__.splitlines()[0], row=False)
    arguments.add_argument("--images", metavar="DIR", required=True, help="folder of pictures: JPEG, PNG or TIFF")
    arguments.add_argument(
        "--labels", metavar="DIR", required=True, help="folder of PNG label maps, named as the pictures"
    )
    arguments.add_argument("--num-classes", metavar="N", type=int, help="number of classes")
    arguments.add_argument("--classes", dest="num_classes", type=int, action=command_line.OldName)
    command_line.add_label_rule(arguments)
    command_line.add_file_names(arguments)
    arguments.add_argument(
        "--allow-missing-classes", action="store_true", help="a class that occurs in no label map is no fault"
    )
    arguments.add_argument("--to", metavar="FILE", help="write a grid of pictures to this .png or .jpg file")
    options = arguments.parse_args(argv)
    if options.num_classes is None:
        arguments.error("the following arguments are required: --num-classes")
    if not 2 <= options.num_classes <= IGNORE:
        raise ValueError(
            f"--num-classes must be from 2 to {IGNORE}; the background is a class too. Received: {options.num_classes}."
        )
    label_rule = command_line.label_rule(options)

    from keras_deeplab.data import folder, matching
    from keras_deeplab.progress import Progress

    found = matching.match(options.images, options.labels, **command_line.file_names(options))
    names = folder.read_classes(options.images, options.labels)
    with Progress(len(found.pairs), noun="pairs") as bar:
        report = folder.check_pairs(
            found.pairs,
            options.num_classes,
            progress=lambda _: bar.add(),
            problems=found.problems,
            notes=found.notes,
            allow_missing_classes=options.allow_missing_classes,
            **label_rule,
        )
    problems = list(map(command_line.as_options, report.problems))
    if names is not None and len(names) != options.num_classes:
        problems.append(f"classes.txt names {len(names)} classes, but --num-classes is {options.num_classes}.")
        names = None
    _print_first(report.notes)
    command_line.print_table(report.histogram(names))
    _print_first(problems)
    if options.to:
        grid(report.pairs, names, options.num_classes, label_rule).save(options.to)
        print(f"wrote {options.to}")
    if problems:
        raise ValueError(
            f"{len(problems)} fault{'s' * (len(problems) > 1)} in {len(report.pairs)} pairs: {problems[0]}"
        )
    print(f"{len(report.pairs)} pairs, no faults.")


def _print_first(lines):
    for line in lines[:PRINTED_FAULTS]:
        print(line)
    if len(lines) > PRINTED_FAULTS:
        print(f"... and {len(lines) - PRINTED_FAULTS} more.")


def grid(pairs, names, classes, label_rule):
    """Draws evenly chosen pairs, the picture with its labels in the colours of a model of these classes, three in a row.

    Args:
        pairs: (picture path, label path) of each pair. Pairs that cannot be read or whose sizes differ are left out.
        names: the classes' names, or None.
        classes: number of classes.
        label_rule: a dict of `reduce_zero_label` and `label_map`, as for `check_folder`.

    Returns:
        `PIL.Image.Image`, RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    from keras_deeplab.networks.deeplab import default_palette

    names = names or [f"class {i}" for i in range(classes)]
    colours = default_palette(classes)
    chosen = np.unique(np.linspace(0, len(pairs) - 1, GRID_PICTURES).round().astype(int)) if pairs else []
    tiles = [(Path(pairs[i][0]).name, tile(*pairs[i], names, colours, label_rule)) for i in chosen]
    tiles = [(name, picture) for name, picture in tiles if picture is not None]
    width, height = TILE_WIDTH + GAP, max((picture.height for _, picture in tiles), default=0) + NAME_HEIGHT + GAP
    columns = min(3, max(1, len(tiles)))
    sheet = Image.new("RGB", (columns * width + GAP, -(-len(tiles) // columns) * height + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for i, (name, picture) in enumerate(tiles):
        x, y = GAP + i % columns * width, GAP + i // columns * height
        draw.text((x, y), shortened(name, font), fill="black", font=font)
        sheet.paste(picture, (x, y + NAME_HEIGHT))
    return sheet


def shortened(name, font):
    """A name that is no wider than a tile: without its beginning if it is."""
    if font.getlength(name) <= TILE_WIDTH:
        return name
    return "..." + next(name[i:] for i in range(1, len(name) + 1) if font.getlength("..." + name[i:]) <= TILE_WIDTH)


def tile(image, label, names, colours, label_rule):
    """An overlay of a pair, `TILE_WIDTH` pixels wide; None if a file cannot be read or the sizes differ."""
    import tensorflow as tf
    from PIL import Image

    from keras_deeplab.data.label_rule import label_table
    from keras_deeplab.data.pipeline import decode_label
    from keras_deeplab.pictures.draw import overlay
    from keras_deeplab.pictures.read import read_image

    try:
        picture, labels = read_image(image), decode_label(Path(label).read_bytes())
    except (ValueError, OSError, tf.errors.OpError):
        return None
    if picture.shape[:2] != labels.shape:
        return None
    labels, table = labels.numpy(), label_table(**label_rule)
    labels = labels if table is None else table[labels]
    size = (TILE_WIDTH, max(1, round(TILE_WIDTH * picture.shape[0] / picture.shape[1])))
    picture = np.asarray(Image.fromarray(picture).resize(size))
    labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    labels = np.where(labels < len(names), labels, IGNORE)  # values that are no class are among the faults already
    return overlay(picture, labels, names, colours)


if __name__ == "__main__":
    command_line.run(main)
