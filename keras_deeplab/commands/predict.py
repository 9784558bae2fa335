"""Writes label maps of pictures, made by a released model.

    keras-deeplab predict deeplabv3plus_r101_cityscapes street.jpg --to labels

writes labels/street.png, an 8-bit palette PNG whose values are the class ids, and labels/street_overlay.png, the picture with
its classes in colour. In place of a file there may be a folder, a glob, a list of files or an address:

    keras-deeplab predict deeplabv3plus_r101_cityscapes photos --to labels --only-labels

A run that was stopped goes on where it was: what is done is skipped. Pictures that cannot be read are listed at the end, and
the exit status is 1.

With --engine beam, Apache Beam does the same in several processes or on a cluster. Its own options follow after --:

    keras-deeplab predict deeplabv3plus_r101_cityscapes photos --to labels --only-labels --engine beam -- \
        --direct_num_workers=2 --direct_running_mode=multi_processing
"""

import argparse
import tempfile

import numpy as np

from keras_deeplab.commands import command_line

LISTED = 100  # pictures at most in the table of what a run made, and of what failed


def main(argv):
    arguments = command_line.parser("predict", __doc__.splitlines()[0])
    arguments.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help='a picture file; a folder, which is searched at any depth; a glob in quotes such as "photos/**/*.jpg"; '
        "@LIST, a text file with one of these a line; an address (http, https, or what fsspec reads)",
    )
    arguments.add_argument(
        "--to", metavar="DIR", required=True, help="folder for the results; it keeps a searched tree"
    )
    command_line.add_weights(arguments)
    arguments.add_argument(
        "--multi-scale-flip", action="store_true", help="average over six sizes, each plain and mirrored"
    )
    add_kinds(arguments)
    arguments.add_argument(
        "--overwrite", action="store_true", help="begin anew in a folder with results of another model or other options"
    )
    arguments.add_argument(
        "--stop-at-first",
        action="store_true",
        help="stop at a picture that cannot be read, in place of listing it in failed.txt and going on",
    )
    arguments.add_argument(
        "--engine",
        choices=("local", "beam"),
        default="local",
        help="beam: by Apache Beam, whose options follow after -- at the end; label maps alone",
    )
    options, of_beam = parsed(arguments, argv)
    if options.engine == "beam":
        predict_with_beam(options, of_beam)
        return
    sources = distinct_pictures(options)

    from keras_deeplab.inference.folders import Progress, cause_of, written

    model = command_line.load(options.row, options.weights, ema=options.ema)
    rows, failed, made = [("picture", "size", "most frequent classes")], [], 0
    of_segment = {"multi_scale_flip": options.multi_scale_flip, "resize": None}
    run = written(
        model, sources, options.to, kinds_of(options), options.overwrite, options.stop_at_first, None, of_segment
    )
    try:
        with run as (results, pictures), Progress(len(sources), results.skipped, shown=True) as bar:
            for one in pictures:
                bar.add(failed=one.error is not None)
                if one.error is not None:
                    failed.append((one.source.place, cause_of(one.error)))
                    continue
                made += 1
                if made <= LISTED:
                    rows.append(row_of(one, model.classes))
    finally:
        print_made(rows, made)
    if results.skipped:
        print(f"{results.skipped} of {len(sources)} pictures were done before and are skipped")
    if failed:
        fail(failed, len(sources), options.to)


def parsed(arguments, argv):
    """The parsed arguments, and the options of Beam that follow after -- if it is the engine."""
    own = argv[: argv.index("--")] if "--" in argv else argv
    engine = argparse.ArgumentParser(add_help=False)
    engine.add_argument("--engine")
    if engine.parse_known_args(own)[0].engine == "beam":
        return arguments.parse_args(own), argv[len(own) + 1 :]
    return arguments.parse_args(argv), []


def predict_with_beam(options, of_beam):
    """Exports the model and lets Beam's workers run it."""
    refused = {
        "--overlay": options.overlay,
        "--scores": options.scores,
        "--multi-scale-flip": options.multi_scale_flip,
        "--stop-at-first": options.stop_at_first,
    }
    for name, given in refused.items():
        if given:
            raise ValueError(
                f"--engine beam writes label maps by the model's own protocol. Received: {name}. Leave one out."
            )
    if not (options.only_labels or options.palette):
        raise ValueError("--engine beam writes label maps and no overlays. Name --only-labels or --palette.")

    from keras_deeplab.inference.distributed import pictures_for_beam, pipeline_options, segment_sources

    beam_options = pipeline_options(of_beam)
    sources = pictures_for_beam(beam_options, options.inputs, options.to)

    from keras_deeplab.serving.export import MAX_PIXELS, export_saved_model

    with tempfile.TemporaryDirectory() as folder:
        model = command_line.load(options.row, options.weights, ema=options.ema)
        export_saved_model(model, folder, max_pixels=MAX_PIXELS)
        kind = "palette" if options.palette else "grey"
        made, skipped, failed = segment_sources(folder, sources, options.to, kind, options.overwrite, beam_options)
    print(f"{made} of {len(sources)} pictures are done now, {skipped} were done before")
    if failed:
        fail(failed, len(sources), options.to)


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


def kinds_of(options):
    """What to write, of the kinds of `inference.results.KINDS`."""
    is_grey = options.only_labels and not options.palette
    has_overlay = options.overlay or not (options.only_labels or options.palette)
    return ["grey" if is_grey else "palette", *["overlay"] * has_overlay, *["scores"] * options.scores]


def distinct_pictures(options):
    """The pictures that the inputs name, as `inference.sources.Source`.

    Raises:
        FileNotFoundError: if one does not exist.
        ValueError: if two results would be written to the same file.
    """
    from keras_deeplab.inference.results import ResultsFolder
    from keras_deeplab.inference.sources import find_pictures

    sources = find_pictures(options.inputs, options.to)
    ResultsFolder(options.to, kinds_of(options)).require_distinct(sources)  # before the model is loaded
    return sources


def row_of(one, classes):
    """The line of the table for a picture that was segmented."""
    height, width = one.labels.shape
    return printable(one.source.place.rpartition("/")[2]), f"{width}x{height}", frequent_classes(one.labels, classes)


def print_made(rows, made):
    """Prints the table of what was made."""
    if len(rows) > 1:
        command_line.print_table(rows)
    if made > LISTED:
        print(f"and {made - LISTED} more")


def fail(failed, count, folder):
    """Lists the pictures that could not be read.

    Raises:
        ValueError: always; the command then ends with exit status 1.
    """
    for place, cause in failed[:LISTED]:
        print(printable(f"{place}: {cause}"))
    if len(failed) > LISTED:
        print(f"and {len(failed) - LISTED} more")
    raise ValueError(
        f"{len(failed)} of {count} pictures could not be read, the others are done. {folder}/failed.txt lists them with the "
        "cause. Mend them or take them out, and run the command again: it does only what is missing."
    )


def printable(text):
    """The text without the bytes that a file name may hold and a terminal does not."""
    return text.encode("utf-8", "backslashreplace").decode()


def frequent_classes(labels, classes, count=3):
    """The names of the `count` most frequent classes with their shares of the pixels, as text."""
    shares = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
    top = np.argsort(-shares, kind="stable")[:count]
    return ", ".join(f"{classes[i].strip()} {100 * shares[i]:.1f}%" for i in top if shares[i])


if __name__ == "__main__":
    command_line.run(main)
