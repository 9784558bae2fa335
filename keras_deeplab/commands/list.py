"""Prints the released models with their published scores, sizes and licences.

keras-deeplab list
keras-deeplab list --dataset cityscapes --backbone r50 --class DeepLabV3Plus
"""

from keras_deeplab.catalog import rows
from keras_deeplab.catalog.datasets import TRAINED_ON
from keras_deeplab.commands import command_line


def main(argv):
    arguments = command_line.parser("list", __doc__.splitlines()[0], row=False)
    add = arguments.add_argument
    add("--dataset", metavar="NAME", choices=list(TRAINED_ON), help="only models trained on this data set")
    add("--backbone", metavar="NAME", choices=rows.backbones(), help="only models of this backbone")
    add("--class", dest="class_name", choices=list(rows.CLASS_NAMES.values()), help="only models of this class")
    options = arguments.parse_args(argv)
    selected = rows.select(dataset=options.dataset, backbone=options.backbone, class_name=options.class_name)
    if not selected:
        raise ValueError("No released model has this data set, backbone and class. Leave one of the options out.")
    table = [("model", "mIoU", "ms+flip", "parameters", "file, MB", "licence of the weights")]
    for row in selected:
        scores = ["-" if score is None else f"{score:.2f}" for score in (row.mIoU, row.mIoU_ms_flip)]
        size = f"{row.parameters / 1e6:.1f} M", f"{row.megabytes:.0f}"
        table.append((row.name, *scores, *size, row.weights_licence))
    command_line.print_table(table)
    print("\nThe data sets that they were trained on have terms of their own:")
    for name in dict.fromkeys(row.dataset for row in selected):
        print(f"  {TRAINED_ON[name].title}: {TRAINED_ON[name].licence}")


if __name__ == "__main__":
    command_line.run(main)
