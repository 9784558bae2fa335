"""A data set's official download to what the other verbs read with --data:

    keras-deeplab prepare cityscapes --from downloads --to data

writes data/cityscapes/1.0.0. An interrupted run goes on where it was. It needs the extra `datasets`:
pip install "keras_deeplab[datasets]".
"""

import sys

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.commands import command_line


def main(argv):
    arguments = command_line.parser("prepare", __doc__.splitlines()[0], row=False)
    arguments.add_argument("dataset", metavar="DATASET", help=f"one of {', '.join(DATASETS)}")
    arguments.add_argument("--from", metavar="DIR", required=True, dest="source", help="folder with the downloads")
    arguments.add_argument("--to", metavar="DIR", required=True, help="folder that DATASET/VERSION is made in")
    arguments.add_argument(
        "--processes", metavar="N", type=command_line.positive, help="that convert pictures; one per core if not given"
    )
    arguments.add_argument(
        "--stray-colours",
        action="store_true",
        help="potsdam, vaihingen, isaid: let colours of no class through as the original does, in place of an error",
    )
    options = arguments.parse_args(argv)

    from keras_deeplab.data import builders

    chosen = {"stray_colours": True} if options.stray_colours else {}
    builder = builders.find(options.dataset)(data_dir=options.to, processes=options.processes, options=chosen)
    if builder.data_path.exists():
        print(f"{builder.data_path} is there already. Delete it to prepare it again.")
    else:
        count(builder, options.source)
        builder.prepare(options.source)
    rows = [("split", "examples", "official", "MB", "folder")]
    for split in builder.dataset.splits:
        written = builder.info.splits[split.name]
        size = round(written.num_bytes / 2**20, 1)
        rows.append((split.name, written.num_examples, split.examples, size, builder.data_path))
    command_line.print_table(rows)


def count(builder, source):
    """Prints the pictures found beside the official numbers, and says what is short on stderr."""
    found = builder.shortfall(builder.survey(source))
    command_line.print_table([("split", "part", "pictures", "official"), *found])
    for split, part, pictures, official in found:
        if pictures != official:
            of = "" if part == "all" else f" of {part}"
            many = f"{official - pictures} are missing" if pictures < official else f"{pictures - official} too many"
            print(
                f"warning: {split} has {pictures} pictures{of} and not the official {official}: {many}.",
                file=sys.stderr,
            )


if __name__ == "__main__":
    command_line.run(main)
