"""The part of `keras-deeplab predict` that is for videos and cameras."""

import functools
import re
import time

from keras_deeplab.commands.predict_results import end, frequent_classes, kinds_of, load, print_made, printable


def add_camera(arguments):
    """Adds the options that read a camera."""
    arguments.add_argument(
        "--camera",
        metavar="N",
        help="in place of INPUT, the number of a camera of this machine, or its address, device or pipe; Ctrl-C ends the "
        "recording",
    )
    arguments.add_argument("--seconds", type=float, metavar="S", help="end the recording of the camera after S seconds")


def camera_source(camera):
    """A source with a name of its own at every start."""
    from keras_deeplab.inference.sources import Source

    name = re.sub(r"[^A-Za-z0-9]+", "_", camera).strip("_")
    return Source(camera, f"camera_{name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}")


def predict_videos(options, sources):
    """Writes the results of videos, or of a camera."""
    from keras_deeplab.inference.folders import cause_of
    from keras_deeplab.inference.video import open_camera, open_video, written_videos

    opened = open_video
    if options.camera is not None:
        opened = functools.partial(lambda _, **of: open_camera(**of), camera=options.camera, seconds=options.seconds)
    model = load(options)
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


def video_kinds_of(options):
    """What to write of a video, of the kinds of `inference.video.VIDEO_KINDS`."""
    if options.scores:
        raise ValueError(
            "--scores is for pictures: the scores of a video are too large. Received: a video. Leave --scores out."
        )
    kinds = kinds_of(options)
    return kinds if options.only_labels or options.palette else ["overlay"]


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
