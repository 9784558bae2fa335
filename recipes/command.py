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
