"""Scores a row on labelled pictures, by its own test protocol:

    python -m recipes.evaluate deeplabv3plus_r101_cityscapes --images leftImg8bit --labels trainIds

prints the IoU of each class and the mean, with the published one beside it.
"""

import json
from pathlib import Path

from recipes import command


def main(argv):
    arguments = command.parser(__doc__.splitlines()[0])
    arguments.add_argument("--images", metavar="DIR", required=True, help="pictures")
    arguments.add_argument(
        "--labels", metavar="DIR", required=True, help="PNG label maps of the same stems; 255 is ignored"
    )
    arguments.add_argument("--reduce-zero-label", action="store_true", help="label 0 is ignored, classes count from 1")
    arguments.add_argument("--weights", metavar="F", help="a .pth or .keras in place of the released file")
    arguments.add_argument("--multi-scale-flip", action="store_true", help="average six sizes, each plain and mirrored")
    arguments.add_argument("--resize", metavar=("W", "H"), type=int, nargs=2, help="the box, in place of the row's")
    arguments.add_argument("--json", metavar="F", help="write the scores there too")
    options = arguments.parse_args(argv)

    import keras_deeplab as kd
    from keras_deeplab.zoo import table

    model = command.load(options.row, options.weights)
    found = kd.evaluate(
        model,
        options.images,
        options.labels,
        multi_scale_flip=options.multi_scale_flip,
        resize=options.resize,
        reduce_zero_label=options.reduce_zero_label,
    )
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    row = table.find(options.row)
    published = row.mIoU_ms_flip if options.multi_scale_flip else row.mIoU
    classes = [
        (name.strip(), "-" if iou is None else f"{100 * iou:.2f}")
        for name, iou in zip(model.classes, found["IoU"], strict=True)
    ]
    command.print_table(
        [
            ("class", "IoU"),
            *classes,
            ("mIoU", f"{found['mIoU']:.2f}"),
            ("mIoU published for the row on its data set", "-" if published is None else f"{published:.2f}"),
            ("mAcc", f"{found['mAcc']:.2f}"),
            ("aAcc", f"{found['aAcc']:.2f}"),
            ("pictures", found["images"]),
        ]
    )


if __name__ == "__main__":
    command.run(main)
