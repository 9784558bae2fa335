"""Writes label maps of pictures, made by a released model.

    keras-deeplab predict deeplabv3plus_r101_cityscapes street.jpg --to labels

writes labels/street.png, an 8-bit palette PNG whose values are the class ids, and labels/street_overlay.png, the picture with
its classes in colour. In place of a file there may be a folder, a glob, a list of files or an address:

    keras-deeplab predict deeplabv3plus_r101_cityscapes photos --to labels --only-labels

A run that was stopped goes on where it was: what is done is skipped. Pictures that cannot be read are listed at the end, and
the exit status is 1.

    keras-deeplab predict deeplabv3plus_r101_cityscapes drive.mp4 --to videos

writes videos/drive_overlay.mp4, the video with the classes in colour; --camera 0 records one from a camera.

    keras-deeplab predict deeplabv3plus_r18_loveda mosaic.tif --to labels --mosaic

reads a raster of any size window by window, and writes labels/mosaic.tif with the same georeference. With --engine beam,
Apache Beam labels pictures in several processes or on a cluster. Its own options follow after --:

    keras-deeplab predict deeplabv3plus_r101_cityscapes photos --to labels --only-labels --engine beam -- \
        --direct_num_workers=2 --direct_running_mode=multi_processing
"""

import numpy as np

from keras_deeplab.commands import command_line
from keras_deeplab.commands.predict_beam import parsed, predict_with_beam
from keras_deeplab.commands.predict_mosaics import add_mosaic, predict_mosaics
from keras_deeplab.commands.predict_results import (
    LISTED,
    add_kinds,
    end,
    frequent_classes,
    kinds_of,
    load,
    print_made,
    printable,
)
from keras_deeplab.commands.predict_videos import add_camera, camera_source, predict_videos, video_kinds_of


def main(argv):
    arguments = command_line.parser("predict", __doc__.splitlines()[0])
    arguments.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="*",
        help="a picture file, or a video; a folder, which is searched at any depth; a glob in quotes such as "
        '"photos/**/*.jpg"; '
        "@LIST, a text file with one of these a line; an address (http, https, or what fsspec reads)",
    )
    arguments.add_argument(
        "--to", metavar="DIR", required=True, help="folder for the results; it keeps a searched tree"
    )
    command_line.add_weights(arguments)
    arguments.add_argument(
        "--multi-scale-flip", action="store_true", help="average over six sizes, each plain and mirrored"
    )
    command_line.add_resize(arguments)
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
    add_camera(arguments)
    add_mosaic(arguments)
    options, of_beam = parsed(arguments, argv)
    require_inputs(arguments, options)
    require_kind_of_input(options)
    if options.engine == "beam":
        return predict_with_beam(options, of_beam)
    if options.mosaic:
        return predict_mosaics(options)
    sources = [camera_source(options.camera)] if options.camera is not None else distinct_sources(options)
    if are_videos(sources) or options.camera is not None:
        return predict_videos(options, sources)
    predict_pictures(options, sources)


def predict_pictures(options, sources):
    """Writes the results of pictures, a list of `Source`."""
    from keras_deeplab.inference.folders import cause_of, written
    from keras_deeplab.progress import Progress

    model = load(options)
    rows, failed, made = [("picture", "size", "most frequent classes")], [], 0
    of_segment = {"multi_scale_flip": options.multi_scale_flip, "resize": None}
    run = written(
        model, sources, options.to, kinds_of(options), options.overwrite, options.stop_at_first, None, of_segment
    )
    try:
        with run as (results, pictures), Progress(len(sources), results.skipped) as bar:
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
    end(results.skipped, failed, len(sources), options, "pictures")


def require_inputs(arguments, options):
    """Ends the command unless there are either inputs or a camera."""
    if options.camera is None and not options.inputs:
        arguments.error("the following arguments are required: INPUT")
    if options.camera is not None and options.inputs:
        arguments.error(f"--camera stands in place of INPUT. Received: {options.inputs[0]!r} too")
    if options.seconds is not None and (options.camera is None or not options.seconds > 0):
        arguments.error("--seconds is a positive number of seconds, for --camera")


def are_videos(sources):
    """Whether the inputs are videos.

    Raises:
        ValueError: if some are, and others are not.
    """
    from keras_deeplab.inference.sources import is_video

    kinds = {is_video(source.place): source.place for source in sources}
    if len(kinds) > 1:
        raise ValueError(
            "Pictures and videos are predicted in two commands, which may write into one folder. "
            f"Received: {kinds[False]} and {kinds[True]}."
        )
    return True in kinds


def require_kind_of_input(options):
    """Raises `ValueError` for options of pictures with --mosaic, and for options of --mosaic without it."""
    of_pictures = ["multi_scale_flip", "resize", "only_labels", "palette", "overlay", "camera"]
    wrong = of_pictures if options.mosaic else ["bands", "stretch", "window"]
    named = [f"--{name.replace('_', '-')}" for name in wrong if getattr(options, name)]
    if named and options.mosaic:
        raise ValueError(
            "With --mosaic the result is one GeoTIFF of class ids and colours, from windows at the raster's own size. "
            f"Received: {' and '.join(named)} too. Leave it out, or --mosaic."
        )
    if named:
        raise ValueError(f"{' and '.join(named)} must come with --mosaic. Add --mosaic, or leave it out.")


def distinct_sources(options):
    """The pictures or videos that the inputs name, as `inference.sources.Source`.

    Raises:
        FileNotFoundError: if one does not exist.
        ValueError: if two results would be written to the same file.
    """
    from keras_deeplab.inference.results import ResultsFolder
    from keras_deeplab.inference.sources import find_pictures
    from keras_deeplab.inference.video import VIDEO_KINDS, require_av

    sources = find_pictures(options.inputs, options.to)  # all is found out before the model is loaded
    if are_videos(sources):
        require_av()
        ResultsFolder(options.to, video_kinds_of(options), VIDEO_KINDS).require_distinct(sources)
    else:
        ResultsFolder(options.to, kinds_of(options)).require_distinct(sources)
    return sources


def row_of(one, classes):
    """The line of the table for a picture that was segmented."""
    height, width = one.labels.shape
    pixels = np.bincount(one.labels.ravel(), minlength=len(classes))
    return printable(one.source.place.rpartition("/")[2]), f"{width}x{height}", frequent_classes(pixels, classes)


if __name__ == "__main__":
    command_line.run(main)
