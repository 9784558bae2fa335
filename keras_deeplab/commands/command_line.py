"""What the verbs share: the parser, the options that name data, a row's model, tables, one clear line for a mistake."""

import argparse
import sys

USER_ERRORS = (ValueError, OSError, ImportError)  # what a wrong name, file or option raises; all else is our mistake


class HelpFormatter(argparse.HelpFormatter):
    """Adds to an option's help the default, if there is one, and the choices, if their place has another name."""

    def _get_help_string(self, action):
        notes = []
        if action.choices is not None and action.metavar is not None:
            notes.append(f"one of {', '.join(map(str, action.choices))}")
        if action.default not in (None, False, [], argparse.SUPPRESS):
            notes.append(f"default {action.default}")
        return action.help + (f" ({'; '.join(notes)})" if notes else "")


class OldName(argparse.Action):
    """An option under the name that it had until version 0.1: it sets the same, and warns. It is not in the help."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, dest, help=argparse.SUPPRESS, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        new = f"--{self.dest.replace('_', '-')}"
        print(f"warning: {option_string} is called {new} now; the old name goes with version 0.3.", file=sys.stderr)
        setattr(namespace, self.dest, values)


def parser(verb, description, *, row=True):
    """The argument parser of a verb; with `row` it begins with ROW."""
    arguments = argparse.ArgumentParser(
        prog=f"keras-deeplab {verb}", description=description, formatter_class=HelpFormatter
    )
    if row:
        arguments.add_argument(
            "row",
            metavar="ROW",
            help="a released model: a full name, or CLASS_BACKBONE_DATASET such as deeplabv3plus_r101_cityscapes; "
            "`keras-deeplab list` prints all",
        )
    return arguments


def add_weights(arguments):
    """Adds --weights; see `load`."""
    arguments.add_argument("--weights", metavar="FILE", help="a .pth or .keras file in place of the released one")


def add_data(arguments):
    """Adds the options that name labelled pictures; `open_data` reads them."""
    arguments.add_argument("--data", metavar="DIR", help="what `keras-deeplab prepare` wrote")
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
        raise ValueError(
            "Name the pictures by --data DIR (which `keras-deeplab prepare` makes), or by --images DIR --labels DIR."
        )
    if not options.data:
        return pairs.find_pairs(options.images, options.labels)
    if options.reduce_zero_label:
        raise ValueError("--reduce-zero-label is for folders: prepared labels count from 0.")
    prepared = pairs.open_prepared(options.data, split)
    if num_classes is not None:
        require_classes(prepared, num_classes)
    return prepared


def require_classes(pairs, num_classes):
    """Raises `ValueError` if a prepared data set has another number of classes."""
    from keras_deeplab.catalog.datasets import DATASETS

    if (name := getattr(pairs, "dataset", None)) and DATASETS[name].num_classes != num_classes:
        raise ValueError(f"The data set {name} has {DATASETS[name].num_classes} classes, the model {num_classes}.")


def positive(text):
    """The type of an argument that counts something."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a positive whole number is needed, not {text!r}")
    return int(text)


def load(row, weights=None, **options):
    """The model of a row, from the released file or from `weights`."""
    from keras_deeplab.zoo.models import from_preset

    return from_preset(row, weights=weights, **options)


def run(main, arguments=None):
    """Calls a verb's `main` with the command line; a user's mistake ends in one line and exit status 1, no traceback."""
    try:
        main(sys.argv[1:] if arguments is None else arguments)
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
