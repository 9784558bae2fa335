"""Scores a row on labelled pictures, by its own test protocol:

    keras-deeplab evaluate deeplabv3plus_r101_cityscapes --data data --report report
    keras-deeplab evaluate deeplabv3plus_r101_cityscapes --images leftImg8bit --labels trainIds

prints IoU and accuracy of each class and the means, with the published mIoU beside; report/index.html shows where the model
errs. Of pictures without labels it writes what the data set's server scores:

    keras-deeplab evaluate deeplabv3plus_r101_cityscapes --images leftImg8bit/test --submission results
"""

import json
import math
from pathlib import Path

from keras_deeplab.catalog import rows
from keras_deeplab.commands import command_line


def main(argv):
    arguments = command_line.parser("evaluate", __doc__.splitlines()[0])
    command_line.add_data(arguments)
    command_line.add_weights(arguments)
    arguments.add_argument(
        "--multi-scale-flip",
        nargs="?",
        const="box",
        default=False,
        choices=("box", "picture"),
        help="average six sizes, each plain and mirrored: of the row's box, as published, or of the picture",
    )
    arguments.add_argument(
        "--resize",
        metavar=("LONG", "SHORT"),
        type=command_line.positive,
        nargs=2,
        help="sides in pixels of the box that pictures are resized to fit, if not the row's",
    )
    arguments.add_argument("--resume", metavar="FILE", help="keep the counts there; started again, go on from them")
    arguments.add_argument("--json", metavar="FILE", help="write the scores there too")
    arguments.add_argument("--report", metavar="DIR", help="write index.html there: confusion, worst and best pictures")
    arguments.add_argument(
        "--submission", metavar="DIR", help="of --images alone: label maps for the data set's server"
    )
    options = arguments.parse_args(argv)
    for place in filter(None, (options.json, options.resume)):  # better noticed now than when the work is done
        if not Path(place).resolve().parent.is_dir():
            raise FileNotFoundError(f"There is no folder {str(Path(place).parent)!r} to write {Path(place).name} to.")
        if Path(place).is_dir():
            raise IsADirectoryError(f"{place} is a folder. Name a file.")

    row = rows.find(options.row)
    protocol = {"multi_scale_flip": options.multi_scale_flip, "resize": options.resize}
    if options.submission:
        submit(row, options, protocol)
    else:
        score(row, options, protocol)


def submit(row, options, protocol):
    others = ("data", "labels", "reduce_zero_label", "resume", "json", "report")
    if not options.images or any(getattr(options, name) for name in others):
        raise ValueError("A submission is of pictures alone: --images DIR --submission DIR, and no labels to score by.")
    from keras_deeplab.evaluation import submission

    ids, paths = submission.label_ids(row), submission.pictures(options.images)
    submission.write(command_line.load(options.row, options.weights), ids, paths, options.submission, **protocol)
    print(f"{len(paths)} label maps in {options.submission}, for {submission.SERVERS[row.dataset]}")


def score(row, options, protocol):
    from keras_deeplab.evaluation import report
    from keras_deeplab.evaluation.evaluate import evaluate
    from keras_deeplab.evaluation.report import percent

    pairs = command_line.open_data(options, "val")
    model = command_line.load(options.row, options.weights)
    command_line.require_classes(pairs, model.num_classes)
    rule = {"reduce_zero_label": options.reduce_zero_label}
    if options.report:
        Path(options.report).mkdir(parents=True, exist_ok=True)
    found = evaluate(model, pairs, resume=options.resume, **protocol, **rule)
    if options.json:
        Path(options.json).write_text(as_json(found))
    command_line.print_table([("class", "IoU", "Acc"), *classes(found)])
    print()
    known = published(row, **protocol)
    command_line.print_table(
        [
            ("score", "found", "published for the row on its data set"),
            ("mIoU", percent(found["mIoU"]), percent(known)),
            *((name, percent(found[name]), "-") for name in ("mAcc", "aAcc")),
            ("pictures", found["images"], "-"),
        ]
    )
    if options.report:
        place = report.write(options.report, row, model, pairs, found, known, **protocol, **rule)
        print(f"\nwrote {place}")


def classes(found):
    """(name, IoU, accuracy) of each class."""
    from keras_deeplab.evaluation.report import percent

    return [(scores["class"].strip(), percent(scores["IoU"]), percent(scores["Acc"])) for scores in found["per_class"]]


def published(row, multi_scale_flip, resize):
    """The row's published mIoU in percent by that protocol, or None where there is none."""
    if resize or multi_scale_flip == "picture":
        return None
    return row.mIoU_ms_flip if multi_scale_flip else row.mIoU


def as_json(found):
    """The scores as JSON, a line for each; null for what is undefined."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(None if isinstance(value, float) and math.isnan(value) else value)}"
        for name, value in found.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    command_line.run(main)
