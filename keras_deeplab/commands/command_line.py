"""What all verbs use: the argument parser, options for labelled pictures, loading a model, tables, errors in one line."""

import argparse
import errno
import os
import re
import sys

USER_ERRORS = (ValueError, OSError, ImportError)  # a wrong name, file or option; other exceptions are bugs


OPTIONS: list[argparse.ArgumentParser] = []  # the parser of the verb that runs, for `as_options`


def as_options(text):
    """A message of the library with the verb's options in place of Python's arguments.

    `name=value` in backticks becomes --name value, and `name` becomes --name, if the verb has the option.
    """
    options = [name for parser in OPTIONS for action in parser._actions for name in action.option_strings]

    def as_option(found):
        name, value = "--" + found[1].replace("_", "-"), found[2]
        if value == "{255: 1}" and "--binary" in options:
            return "--binary"
        if name not in options:
            return found[0]
        return name if value in (None, "True") else f"{name} {value}"

    return re.sub(r"`([a-z_]+)(?:=([^`]*))?`", as_option, text)


class HelpFormatter(argparse.HelpFormatter):
    """Adds an option's default to its help, and its choices if a metavar hides them."""

    def _get_help_string(self, action):
        notes = []
        if action.choices is not None and action.metavar is not None:
            notes.append(f"one of {', '.join(map(str, action.choices))}")
        if action.default not in (None, [], argparse.SUPPRESS) and action.default is not False:
            notes.append(f"default {action.default}")
        return action.help + (f" ({'; '.join(notes)})" if notes else "")


class OldName(argparse.Action):
    """The name that an option had in version 0.1: sets the option and prints a warning. `--help` does not show it."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, dest, help=argparse.SUPPRESS, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        new = f"--{self.dest.replace('_', '-')}"
        print(f"warning: {option_string} is now called {new}. Version 0.3 removes the old name.", file=sys.stderr)
        setattr(namespace, self.dest, values)


def parser(verb, description, *, row=True):
    """The argument parser of a verb.

    Args:
        verb: the verb's name.
        description: one sentence for `--help`.
        row: whether the first argument is ROW, the name of a released model.
    """
    arguments = argparse.ArgumentParser(
        prog=f"keras-deeplab {verb}", description=description, formatter_class=HelpFormatter
    )
    OPTIONS.clear()  # of the verb before, where one process calls several
    OPTIONS.append(arguments)
    if row:
        arguments.add_argument(
            "row",
            metavar="ROW",
            help="a released model: a full name, or CLASS_BACKBONE_DATASET such as deeplabv3plus_r101_cityscapes; "
            "`keras-deeplab list` prints all",
        )
    return arguments


def add_weights(arguments):
    """Adds --weights, a file that `load` reads in place of the released one, and --ema."""
    arguments.add_argument(
        "--weights",
        metavar="FILE",
        help="a .pth or .keras file, or for a model of DeepLab's authors a TensorFlow file, in place of the released one",
    )
    arguments.add_argument("--ema", action="store_true", help="take the moving averages that the file keeps")


def add_multi_scale_flip(arguments):
    """Adds --multi-scale-flip, the option of `segment`."""
    arguments.add_argument(
        "--multi-scale-flip",
        nargs="?",
        const="box",
        default=False,
        choices=("box", "picture"),
        help="average six sizes, each plain and mirrored: multiples of the row's box, as published, or of the picture",
    )


def add_data(arguments):
    """Adds the options that name labelled pictures; `open_data` reads them."""
    arguments.add_argument("--data", metavar="DIR", help="folder that `keras-deeplab prepare` wrote")
    arguments.add_argument("--images", metavar="DIR", help="folder of pictures, in place of --data")
    arguments.add_argument(
        "--labels", metavar="DIR", help="folder of PNG label maps, named as the pictures; 255 is ignored"
    )
    add_label_rule(arguments)
    add_file_names(arguments)


def add_label_rule(arguments):
    """Adds the options that say how the label maps count classes; `label_rule` reads them."""
    arguments.add_argument("--reduce-zero-label", action="store_true", help="label 0 is ignored, classes count from 1")
    arguments.add_argument("--binary", action="store_true", help="masks of 0 and 255, whose 255 is class 1")
    arguments.add_argument(
        "--label-map", metavar="LABEL=CLASS", type=label_and_class, nargs="+", default=[],
        help="labels in the files that stand for another class, or for 255 (ignored); after --reduce-zero-label",
    )  # fmt: skip


def add_file_names(arguments):
    """Adds the options that say which files of the folders belong together; `file_names` reads them."""
    arguments.add_argument(
        "--image-suffix",
        metavar="TEXT",
        help="what the pictures' names end with, such as _leftImg8bit; found by itself",
    )
    arguments.add_argument(
        "--label-suffix", metavar="TEXT", help="what the label maps' names end with, such as _mask; found by itself"
    )
    arguments.add_argument(
        "--split-file", metavar="FILE", help="text file that names the pictures to use, one stem or path on each line"
    )


def file_names(options):
    """The arguments of `find_pairs` and `check_folder` that say which files belong together."""
    return {name: getattr(options, name) for name in ("image_suffix", "label_suffix", "split_file")}


def label_rule(options):
    """The arguments `reduce_zero_label` and `label_map` of the library, from the options of `add_label_rule`."""
    label_map = dict(options.label_map)
    if options.binary:
        if label_map or options.reduce_zero_label:
            named = "--label-map" if label_map else "--reduce-zero-label"
            raise ValueError(
                f"--binary is a rule of its own: 0 stays, 255 becomes 1. Received: {named} too. Leave one out."
            )
        label_map = {255: 1}
    return {"reduce_zero_label": options.reduce_zero_label, "label_map": label_map or None}


def label_and_class(text):
    """The `type` of --label-map: "LABEL=CLASS" becomes (label, class)."""
    label, _, number = text.partition("=")
    if not (label.isdecimal() and number.isdecimal() and int(label) <= 255 and int(number) <= 255):
        raise argparse.ArgumentTypeError(f"must be LABEL=CLASS, two numbers of 0..255. Received: {text!r}")
    return int(label), int(number)


class Resize(argparse.Action):
    """--resize LONG SHORT, or --resize own."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, dest, nargs="+", metavar=("LONG", "SHORT"), **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            box = "own" if values == ["own"] else tuple(map(positive_integer, values))
        except argparse.ArgumentTypeError:
            box = ()
        if box != "own" and len(box) != 2:
            rule = "must be LONG SHORT, two positive whole numbers of pixels, or own alone"
            parser.error(f"argument {option_string}: {rule}. Received: {' '.join(values)!r}")
        setattr(namespace, self.dest, box)


def add_resize(arguments):
    """Adds --resize, the box of a test protocol; `resized` reads it."""
    arguments.add_argument(
        "--resize",
        action=Resize,
        help="sides in pixels of the box that pictures are resized to fit, or own: their own size; the model's if not given",
    )


def resized(model, resize):
    """The model, whose protocol now resizes pictures as `--resize` says."""
    if resize:
        model.protocol = model.protocol.resized(None if resize == "own" else resize)
    return model


def open_data(options, split, num_classes=None):
    """Opens the labelled pictures that the options of `add_data` name.

    Args:
        options: the parsed arguments.
        split: of `--data`, "train" or "val".
        num_classes: number of the model's classes, or None to check it later by `require_classes`.

    Returns:
        `FilePairs` or `PreparedPairs` of `keras_deeplab.data.pairs`.

    Raises:
        ValueError: if the options do not name either --data or both folders, or if the numbers of classes differ.
    """
    from keras_deeplab.data import pairs

    if bool(options.data) == bool(options.images) or bool(options.images) != bool(options.labels):
        named = [f"--{name}" for name in ("data", "images", "labels") if getattr(options, name)]
        raise ValueError(
            "Labelled pictures are named either by --data DIR (a folder that `keras-deeplab prepare` wrote), or by "
            f"--images DIR and --labels DIR. Received: {' and '.join(named) or 'none of them'}."
        )
    if not options.data:
        return pairs.find_pairs(options.images, options.labels, **file_names(options))
    if options.reduce_zero_label or options.binary:
        raise ValueError(
            f"{'--binary' if options.binary else '--reduce-zero-label'} is for --images and --labels. The labels of --data "
            "count from 0 already: leave it out."
        )
    if given := [f"--{name.replace('_', '-')}" for name, value in file_names(options).items() if value]:
        raise ValueError(f"{' and '.join(given)} are for --images and --labels. Received: --data. Leave them out.")
    prepared = pairs.open_prepared(options.data, split)
    if num_classes is not None:
        require_classes(prepared, num_classes)
    return prepared


def require_classes(pairs, num_classes):
    """Raises `ValueError` if a prepared data set has another number of classes."""
    from keras_deeplab.catalog.datasets import DATASETS

    if (name := getattr(pairs, "dataset", None)) and DATASETS[name].num_classes != num_classes:
        raise ValueError(
            f"The model must have the {DATASETS[name].num_classes} classes of the data set {name}. "
            f"Received: a model of {num_classes} classes. Choose a row of this data set."
        )


def positive_integer(text):
    """The `type` of an option that counts something."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive whole number. Received: {text!r}")
    return int(text)


def load(row, weights=None, **options):
    """Loads the model of a row, from the released file or from the file `weights`; `options` are those of `from_preset`."""
    from keras_deeplab.zoo.models import from_preset

    return from_preset(row, weights=weights, **options)


def title(row, weights):
    """Which model it is, for a page: the row's full name, and the name of the file of its weights."""
    from keras_deeplab.catalog import rows

    name = rows.find(row).name
    return name if weights is None else f"{os.path.basename(weights)}, a {name}"


FULL_DISK = "There must be space on the disk of {!r}. Received: a full disk. Free some, and run the command again."
SYSTEM_ERRORS = {  # {number of an error of the system: what it means for the path of the error}
    errno.EEXIST: "There must be a folder, or nothing yet, at {!r}. Received: a file. Name another folder.",
    errno.ENOTDIR: "Every part of a path but its last must be a folder. Received: {!r}, where one is a file. Name another.",
    errno.EISDIR: "There must be a file, or nothing yet, at {!r}. Received: a folder. Name a file.",
    errno.EACCES: "{!r} must be open to you. Received: no permission. Change its permissions, or name another place.",
    errno.EROFS: "{!r} must be on a disk that can be written. Received: a read-only one. Name another place.",
    errno.ENOSPC: FULL_DISK,
    errno.EDQUOT: FULL_DISK,
}


def explained(error):
    """The text of an error; of the system's own ("[Errno 17] File exists") the rule and the remedy."""
    is_from_system = isinstance(error, OSError) and error.filename is not None
    text = SYSTEM_ERRORS.get(error.errno) if is_from_system else None
    return str(error) if text is None else text.format(os.fsdecode(error.filename))


def run(main, arguments=None):
    """Calls a verb's `main` with the command line's arguments.

    A user's mistake (`USER_ERRORS`) prints one line and ends with exit status 1, without a traceback.
    """
    try:
        main(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the program that reads the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the end
        sys.exit(1)
    except USER_ERRORS as error:
        sys.exit(f"error: {' '.join(as_options(explained(error)).split())}")
    except KeyboardInterrupt:
        sys.exit("stopped")


def print_table(rows):
    """Prints rows of equal length in aligned columns. The first row is the head."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for i, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if i == 0:
            print("  ".join("-" * width for width in widths))
