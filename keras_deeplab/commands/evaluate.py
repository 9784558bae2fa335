"""Scores a released model on labelled pictures by its own test protocol, or writes label maps for a data set's server.

    keras-deeplab evaluate deeplabv3plus_r101_cityscapes --data data --report report
    keras-deeplab evaluate deeplabv3plus_r101_cityscapes --images leftImg8bit --labels trainIds

prints IoU and accuracy of each class and their means, with the published mIoU beside. report/index.html shows the model's
errors. For test pictures without labels,

    keras-deeplab evaluate deeplabv3plus_r101_cityscapes --images leftImg8bit/test --submission results

writes label maps that the data set's server scores.
"""

import json
import math
import warnings
from pathlib import Path

from keras_deeplab.catalog import rows
from keras_deeplab.commands import command_line

SIZES_READ = 1000  # pictures whose size is looked up, at most


def main(argv):
    arguments = command_line.parser("evaluate", __doc__.splitlines()[0])
    command_line.add_data(arguments)
    command_line.add_weights(arguments)
    command_line.add_multi_scale_flip(arguments)
    command_line.add_resize(arguments)
    arguments.add_argument(
        "--resume", metavar="FILE", help="keep the counts in this file, and continue from it if it exists"
    )
    arguments.add_argument("--json", metavar="FILE", help="also write the scores to this file")
    arguments.add_argument(
        "--report", metavar="DIR", help="write index.html to this folder: confusion matrix, worst and best pictures"
    )
    arguments.add_argument(
        "--submission", metavar="DIR", help="write label maps of --images to this folder, for the data set's server"
    )
    options = arguments.parse_args(argv)
    for file in filter(None, (options.json, options.resume)):  # a wrong path fails now and not after hours of work
        if not Path(file).resolve().parent.is_dir():
            raise FileNotFoundError(f"There is no folder {str(Path(file).parent)!r} to write {Path(file).name} to.")
        if Path(file).is_dir():
            raise IsADirectoryError(f"{file} is a folder. Name a file.")

    row = rows.find(options.row)
    protocol = {"multi_scale_flip": options.multi_scale_flip, "resize": options.resize}
    if options.submission:
        submit(row, options, protocol)
    else:
        score(row, options, protocol)


def submit(row, options, protocol):
    """Writes label maps of pictures without labels, in the raw ids that the data set's server scores."""
    scoring = ("data", "labels", "reduce_zero_label", "binary", "label_map", "label_suffix", "resume", "json", "report")
    if not options.images or any(getattr(options, name) for name in scoring):
        refused = [f"--{name.replace('_', '-')}" for name in scoring if getattr(options, name)]
        raise ValueError(
            "--submission needs --images, and none of the options that score labels. "
            f"Received: {', '.join(refused) or 'no --images'}."
        )
    from keras_deeplab.evaluation import submission

    ids, paths = submission.label_ids(row), submission.pictures(options.images)
    model = at_own_size(command_line.load(options.row, options.weights, ema=options.ema), protocol)
    submission.write(model, ids, paths, options.submission, **protocol)
    print(f"{len(paths)} label maps in {options.submission}, for {submission.SERVERS[row.dataset]}")


def score(row, options, protocol):
    """Scores labelled pictures and prints and writes the results."""
    from keras_deeplab.evaluation import report
    from keras_deeplab.evaluation.evaluate import evaluate, labelled_classes
    from keras_deeplab.evaluation.report import percent

    pairs = command_line.open_data(options, "val")
    model = command_line.load(options.row, options.weights, ema=options.ema)
    command_line.require_classes(pairs, labelled_classes(model))
    published_miou = published(row, **protocol) if model.row else None  # a model of other classes has none
    at_own_size(model, protocol)
    label_rule = command_line.label_rule(options)
    if not pairs.train_ids:
        say_sizes(pairs, model, protocol["resize"])
    if options.report:
        Path(options.report).mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = evaluate(model, pairs, resume=options.resume, **protocol, **label_rule)
    if options.json:
        Path(options.json).write_text(as_json(scores))
    command_line.print_table([("class", "IoU", "Acc"), *class_rows(scores)])
    print()
    command_line.print_table(
        [
            ("score", "measured", "published for the row on its data set"),
            ("mIoU", percent(scores["mIoU"]), percent(published_miou)),
            *((name, percent(scores[name]), "-") for name in ("mAcc", "aAcc")),
            ("pictures", scores["images"], "-"),
        ]
    )
    if options.report:
        page = report.write(
            options.report,
            command_line.title(options.row, options.weights),
            model,
            pairs,
            scores,
            about=f"{scores['images']} pictures of {Path(options.data or options.images).resolve()}",
            tiles=[] if published_miou is None else [("mIoU published, on its data set", published_miou)],
            label_rule=label_rule,
            **protocol,
        )
        print(f"\nwrote {page}")
    for text in dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning):
        print(f"\nwarning: {command_line.as_options(text)}")


def at_own_size(model, protocol):
    """The model; with --resize own its protocol keeps each picture's size, and `protocol` says no more of it."""
    if protocol["resize"] == "own":
        command_line.resized(model, "own")
        protocol["resize"] = None
    return model


def say_sizes(pairs, model, resize):
    """Prints the sizes of the pictures of folders, and what the protocol makes of them."""
    from keras_deeplab.data import folder
    from keras_deeplab.training import summary

    sizes, looked_at = folder.picture_sizes(pairs, SIZES_READ)
    box = resize or model.protocol.resize
    text = summary.resize_text(box, None, sizes, model.protocol.antialias)
    summary.print_facts(
        [
            ("pictures", summary.sizes_text(len(pairs), sizes, looked_at)),
            ("resize", text + ("" if box is None else "; --resize own keeps their size")),
        ]
    )


def class_rows(scores):
    """(name, IoU, accuracy) of each class, in percent with two decimals."""
    from keras_deeplab.evaluation.report import percent

    return [(entry["class"].strip(), percent(entry["IoU"]), percent(entry["Acc"])) for entry in scores["per_class"]]


def published(row, multi_scale_flip, resize):
    """The row's published mIoU in percent by this protocol, or None if none was published."""
    if resize or multi_scale_flip == "picture":
        return None
    return row.mIoU_ms_flip if multi_scale_flip else row.mIoU


def as_json(scores):
    """The scores as JSON, one line each; null if a score is undefined."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(None if isinstance(value, float) and math.isnan(value) else value)}"
        for name, value in scores.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    command_line.run(main)
