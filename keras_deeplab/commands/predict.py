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

reads a raster of any size window by window, and writes labels/mosaic.tif with the same georeference.
"""

import functools
import re
import time

import numpy as np

from keras_deeplab.commands import command_line

LISTED = 100  # pictures at most in the table of what a run made, and of what failed


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
    add_kinds(arguments)
    arguments.add_argument(
        "--overwrite", action="store_true", help="begin anew in a folder with results of another model or other options"
    )
    arguments.add_argument(
        "--stop-at-first",
        action="store_true",
        help="stop at a picture that cannot be read, in place of listing it in failed.txt and going on",
    )
    add_camera(arguments)
    add_mosaic(arguments)
    options = arguments.parse_args(argv)
    require_inputs(arguments, options)
    require_kind_of_input(options)
    if options.mosaic:
        return predict_mosaics(options)
    sources = [camera_source(options.camera)] if options.camera is not None else distinct_sources(options)
    if are_videos(sources) or options.camera is not None:
        return predict_videos(options, sources)
    predict_pictures(options, sources)


def predict_pictures(options, sources):
    """Writes the results of pictures, a list of `Source`."""
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
    end(results.skipped, failed, len(sources), options, "pictures")


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


def predict_videos(options, sources):
    """Writes the results of videos, or of a camera."""
    from keras_deeplab.inference.folders import cause_of
    from keras_deeplab.inference.video import open_camera, open_video, written_videos

    opened = open_video
    if options.camera is not None:
        opened = functools.partial(lambda _, **of: open_camera(**of), camera=options.camera, seconds=options.seconds)
    model = command_line.load(options.row, options.weights, ema=options.ema)
    rows, failed, said = [("video", "size", "frames", "a second", "most frequent classes")], [], []
    of_segment = {"multi_scale_flip": options.multi_scale_flip, "resize": None}
    run = written_videos(
        model, sources, options.to, video_kinds_of(options), options.overwrite, options.stop_at_first, None, of_segment,
        True, opened,
    )  # fmt: skip
    try:
        with run as (results, videos):
            for one in videos:
                if one.error is not None:
                    failed.append((one.source.place, cause_of(one.error)))
                    continue
                rows.append(row_of_video(one, model.classes))
                said.extend(f"{rows[-1][0]}: {text}" for text in remarks(one))
    finally:
        print_made(rows, len(rows) - 1)
        for text in said:
            print(printable(text))
    end(results.skipped, failed, len(sources), options, "videos")


def row_of_video(one, classes):
    """The line of the table for a video."""
    name = printable(one.source.place.rpartition("/")[2])
    rate = f"{one.frames / one.took:.3g}" if one.took else ""
    return name, "{}x{}".format(*one.size), one.frames, rate, frequent_classes(one.pixels, classes)


def remarks(one):
    """What there is to say about a video beside its line."""
    places = [f"{cause}" if at is None else f"{float(at):.2f} s: {cause}" for at, cause in one.failed]
    listed = "; ".join(places[:5]) + ("; ..." if len(places) > 5 else "")
    return [*([f"{len(places)} frames are damaged and passed over ({listed})"] if places else []), *one.notes]


def add_camera(arguments):
    """Adds the options that read a camera."""
    arguments.add_argument(
        "--camera",
        metavar="N",
        help="in place of INPUT, the number of a camera of this machine, or its address, device or pipe; Ctrl-C ends the "
        "recording",
    )
    arguments.add_argument("--seconds", type=float, metavar="S", help="end the recording of the camera after S seconds")


def require_inputs(arguments, options):
    """Ends the command unless there are either inputs or a camera."""
    if options.camera is None and not options.inputs:
        arguments.error("the following arguments are required: INPUT")
    if options.camera is not None and options.inputs:
        arguments.error(f"--camera stands in place of INPUT. Received: {options.inputs[0]!r} too")
    if options.seconds is not None and (options.camera is None or not options.seconds > 0):
        arguments.error("--seconds is a positive number of seconds, for --camera")


def camera_source(camera):
    """A source with a name of its own at every start."""
    from keras_deeplab.inference.sources import Source

    name = re.sub(r"[^A-Za-z0-9]+", "_", camera).strip("_")
    return Source(camera, f"camera_{name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}")


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


def add_mosaic(arguments):
    """Adds --mosaic and the options that go with it."""
    group = arguments.add_argument_group("rasters of any size")
    group.add_argument(
        "--mosaic",
        action="store_true",
        help="read GeoTIFFs, and whatever GDAL reads, window by window at their own size, and write STEM.tif with the same "
        'georeference; with --scores also STEM_scores.tif (pip install "keras_deeplab[rasterio]")',
    )
    group.add_argument(
        "--bands",
        metavar="N",
        nargs="+",
        type=command_line.positive_integer,
        help="three bands (red, green, blue), or one (grey); 1 2 3, or the only one, if not given",
    )
    group.add_argument(
        "--stretch",
        metavar=("LOW", "HIGH"),
        nargs=2,
        type=float,
        help="the values that become 0 and 255, linearly, for bands that are not 8-bit",
    )
    group.add_argument(
        "--window",
        metavar=("SIDE", "STRIDE"),
        nargs=2,
        type=command_line.positive_integer,
        help="side of the windows and from one window to the next, in pixels; the row's own if not given",
    )


def require_kind_of_input(options):
    """Raises `ValueError` for options of pictures with --mosaic, and for options of --mosaic without it."""
    of_pictures = ["multi_scale_flip", "only_labels", "palette", "overlay", "camera"]
    wrong = of_pictures if options.mosaic else ["bands", "stretch", "window"]
    named = [f"--{name.replace('_', '-')}" for name in wrong if getattr(options, name)]
    if named and options.mosaic:
        raise ValueError(
            "With --mosaic the result is one GeoTIFF of class ids and colours, from windows at the raster's own size. "
            f"Received: {' and '.join(named)} too. Leave it out, or --mosaic."
        )
    if named:
        raise ValueError(f"{' and '.join(named)} must come with --mosaic. Add --mosaic, or leave it out.")


def predict_mosaics(options):
    """Writes label maps of rasters that may be larger than the memory."""
    from keras_deeplab.pictures.rasters import check_bands, check_stretch, load_rasterio

    load_rasterio()  # what is missing or wrong shows before the model is loaded
    check_bands(options.bands)
    check_stretch(options.stretch)

    from keras_deeplab.catalog.protocol import Protocol
    from keras_deeplab.inference.results import MOSAIC_KINDS, ResultsFolder
    from keras_deeplab.inference.sources import find_pictures

    side, stride = options.window or (None, None)
    protocol = options.window and Protocol("slide", crop=(side, side), stride=(stride, stride))
    sources = find_pictures(options.inputs, options.to)
    ResultsFolder(options.to, list(MOSAIC_KINDS), MOSAIC_KINDS).require_distinct(sources)

    from keras_deeplab.inference import rasters
    from keras_deeplab.inference.folders import cause_of

    model = command_line.load(options.row, options.weights, ema=options.ema)
    chosen = rasters.Options.checked(model, protocol, options.bands, options.stretch, options.scores)
    crop, stride = chosen.protocol.crop, chosen.protocol.stride
    print(f"windows of {crop[1]}x{crop[0]} pixels, one every {stride[1]}x{stride[0]}, at the rasters' own size")
    rows, failed = [("raster", "size", "most frequent classes")], []
    how = {"overwrite": options.overwrite, "stop_at_first": options.stop_at_first, "progress": True}
    try:
        with rasters.written(model, sources, options.to, chosen, **how) as run:
            skipped = run.results.skipped
            for source, mosaic, error in run.finished:
                if error is not None:
                    failed.append((source.place, cause_of(error)))
                    continue
                name, (height, width) = printable(source.place.rpartition("/")[2]), mosaic.shape
                rows.append((name, f"{width}x{height}", frequent_classes(mosaic.counts, model.classes)))
    finally:
        print_made(rows[: LISTED + 1], len(rows) - 1)
    end(skipped, failed, len(sources), options, "rasters")


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


def video_kinds_of(options):
    """What to write of a video, of the kinds of `inference.video.VIDEO_KINDS`."""
    if options.scores:
        raise ValueError(
            "--scores is for pictures: the scores of a video are too large. Received: a video. Leave --scores out."
        )
    kinds = kinds_of(options)
    return kinds if options.only_labels or options.palette else ["overlay"]


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


if __name__ == "__main__":
    command_line.run(main)
