"""What the commands share: a row's model, a table at the end, one clear line for a mistake."""

import argparse
import sys

USER_ERRORS = (ValueError, OSError, ImportError)  # what a wrong name, file or option raises; all else is our mistake


def parser(description):
    """An argument parser that begins with ROW."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument(
        "row",
        metavar="ROW",
        help="a released model: a full name, or CLASS_BACKBONE_DATASET such as deeplabv3plus_r101_cityscapes",
    )
    return arguments


def add_data(arguments):
    """Adds the options that name labelled pictures; `open_data` reads them."""
    arguments.add_argument("--data", metavar="DIR", help="what recipes.prepare wrote")
    arguments.add_argument("--images", metavar="DIR", help="pictures, in place of --data")
    arguments.add_argument("--labels", metavar="DIR", help="PNG label maps of the same stems; 255 is ignored")
    arguments.add_argument("--reduce-zero-label", action="store_true", help="label 0 is ignored, classes count from 1")


def open_data(options, split, num_classes=None):
    """The labelled pictures that the options of `add_data` name.

    Args:
        options: the parsed arguments.
        split: "train" or "val", of `--data`.
        num_classes: classes of the model, if they are known by now; otherwise `require_classes` comes later.

    Returns:
        `FilePairs` or `PreparedPairs` of `keras_deeplab.data.pairs`.

    Raises:
        ValueError: unless it is either --data or both folders, or if the data set has other classes.
    """
    from keras_deeplab.data import pairs

    if bool(options.data) == bool(options.images) or bool(options.images) != bool(options.labels):
        raise ValueError("Name the pictures by --data DIR (see recipes.prepare), or by --images DIR --labels DIR.")
    if not options.data:
        return pairs.find_pairs(options.images, options.labels)
    if options.reduce_zero_label:
        raise ValueError("--reduce-zero-label is for folders: prepared labels count from 0.")
    found = pairs.open_prepared(options.data, split)
    if num_classes is not None:
        require_classes(found, num_classes)
    return found


def require_classes(pairs, num_classes):
    """Raises `ValueError` if a prepared data set has another number of classes."""
    from keras_deeplab.data.catalog import DATASETS

    if (name := getattr(pairs, "dataset", None)) and DATASETS[name].num_classes != num_classes:
        raise ValueError(f"The data set {name} has {DATASETS[name].num_classes} classes, the model {num_classes}.")


def positive(text):
    """The type of an argument that counts something."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a positive whole number is needed, not {text!r}")
    return int(text)


def load(row, weights=None, **options):
    """The model of a row, from the released file or from `weights`."""
    import keras_deeplab as kd
    from keras_deeplab.zoo import table

    return getattr(kd, table.find(row).class_name).from_preset(row, weights=weights, **options)


def run(main):
    """Calls `main` with the command line; a user's mistake ends in one line and exit status 1, without a traceback."""
    try:
        main(sys.argv[1:])
    except USER_ERRORS as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("stopped")


def print_table(rows):
    """Rows of equal length as aligned columns, the first row as the head."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for i, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if i == 0:
            print("  ".join("-" * width for width in widths))
