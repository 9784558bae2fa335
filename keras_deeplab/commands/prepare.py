"""Converts a data set's official download into a folder that the other verbs read with --data.

    keras-deeplab prepare cityscapes --from downloads --to data

writes data/cityscapes/1.0.0. An interrupted run continues when it is started again. It needs the extra `datasets`:
pip install "keras_deeplab[datasets]".
"""

import sys

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.commands import command_line


def main(argv):
    arguments = command_line.parser("prepare", __doc__.splitlines()[0], row=False)
    arguments.add_argument("dataset", metavar="DATASET", help=f"one of {', '.join(DATASETS)}")
    arguments.add_argument("--from", metavar="DIR", required=True, dest="source", help="folder with the downloads")
    arguments.add_argument("--to", metavar="DIR", required=True, help="folder to write DATASET/VERSION to")
    arguments.add_argument(
        "--processes",
        metavar="N",
        type=command_line.positive_integer,
        help="number of processes that convert pictures; one per core if not given",
    )
    arguments.add_argument(
        "--stray-colours",
        action="store_true",
        help="potsdam, vaihingen, isaid: accept colours of no class as the original does, in place of an error",
    )
    options = arguments.parse_args(argv)

    from keras_deeplab.data import builders

    rules = {"stray_colours": True} if options.stray_colours else {}
    builder = builders.find(options.dataset)(data_dir=options.to, processes=options.processes, options=rules)
    if builder.data_path.exists():
        builder.prepare(options.source)  # checks that the options are the same
        print(f"{builder.data_path} is there already. To prepare it again, delete it.")
    else:
        builder.prepare(options.source, report=lambda: print_counts(builder, options.source))
    rows = [("split", "examples", "official", "MB", "folder")]
    for split in builder.dataset.splits:
        written = builder.info.splits[split.name]
        size = round(written.num_bytes / 2**20, 1)
        rows.append((split.name, written.num_examples, split.examples, size, builder.data_path))
    command_line.print_table(rows)


def print_counts(builder, source):
    """Prints the numbers of pictures beside the official ones, and a warning on stderr for each difference."""
    counts = builder.shortfall(builder.survey(source))
    command_line.print_table([("split", "part", "pictures", "official"), *counts])
    for text in builder.missing(source):
        print(f"warning: {text}", file=sys.stderr)


if __name__ == "__main__":
    command_line.run(main)
