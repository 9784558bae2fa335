"""What `keras-deeplab predict` writes, and what it says at its end: a table, what was skipped, what failed."""

import numpy as np

from keras_deeplab.commands import command_line

LISTED = 100  # pictures at most in the table of what a run made, and of what failed


def add_kinds(arguments):
    """Adds the options that choose what is written; `kinds_of` reads them."""
    arguments.add_argument(
        "--only-labels",
        action="store_true",
        help="write the label map alone, as 8-bit grey PNG; no overlay unless --overlay is given too",
    )
    arguments.add_argument(
        "--palette",
        action="store_true",
        help="write the label map as palette PNG, which shows the classes in colour; no overlay unless --overlay is given",
    )
    arguments.add_argument(
        "--overlay",
        action="store_true",
        help="write STEM_overlay.png; without --only-labels and --palette it is written anyway",
    )
    arguments.add_argument(
        "--scores", action="store_true", help="also write STEM.npz: labels, scores, and input, the resized picture"
    )


def load(options):
    """The model that the options name. Its protocol resizes pictures as --resize says."""
    return command_line.resized(command_line.load(options.row, options.weights, ema=options.ema), options.resize)


def kinds_of(options):
    """What to write, of the kinds of `inference.results.KINDS`."""
    is_grey = options.only_labels and not options.palette
    has_overlay = options.overlay or not (options.only_labels or options.palette)
    return ["grey" if is_grey else "palette", *["overlay"] * has_overlay, *["scores"] * options.scores]


def end(skipped, failed, count, options, noun):
    """Says what was skipped, what was not taken, and what failed.

    Raises:
        ValueError: if something failed.
    """
    from keras_deeplab.inference.sources import not_taken, videos_in

    if skipped:
        print(f"{skipped} of {count} {noun} were done before and are skipped")
    if said := not_taken(videos_in(options.inputs, options.to)):
        print(printable(said))
    if failed:
        fail(failed, count, options.to, noun)


def print_made(rows, made):
    """Prints the table of what was made."""
    if len(rows) > 1:
        command_line.print_table(rows)
    if made > LISTED:
        print(f"and {made - LISTED} more")


def fail(failed, count, folder, noun):
    """Lists the pictures or videos that could not be read.

    Raises:
        ValueError: always; the command then ends with exit status 1.
    """
    for place, cause in failed[:LISTED]:
        print(printable(f"{place}: {cause}"))
    if len(failed) > LISTED:
        print(f"and {len(failed) - LISTED} more")
    raise ValueError(
        f"{len(failed)} of {count} {noun} could not be read, the others are done. {folder}/failed.txt lists them with the "
        "cause. Mend them or take them out, and run the command again: it does only what is missing."
    )


def printable(text):
    """The text without the bytes that a file name may hold and a terminal does not."""
    return text.encode("utf-8", "backslashreplace").decode()


def frequent_classes(counts, classes, count=3):
    """The names of the `count` most frequent classes with their shares, as text, from the number of pixels of each label."""
    counts = counts[: len(classes)]
    shares = counts / max(counts.sum(), 1)
    top = np.argsort(-shares, kind="stable")[:count]
    return ", ".join(f"{classes[i].strip()} {100 * shares[i]:.1f}%" for i in top if shares[i])
