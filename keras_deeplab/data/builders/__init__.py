"""Official downloads in, prepared data sets out: one builder of TensorFlow Datasets (TFDS) for each data set.

Only this package imports TFDS: `pip install "keras_deeplab[datasets]"`.
"""

import difflib
from pathlib import Path

try:
    import tensorflow_datasets as tfds
except ImportError as error:
    raise ImportError('Prepared data sets need TensorFlow Datasets: pip install "keras_deeplab[datasets]"') from error

from keras_deeplab.data.builders.ade20k import Ade20k
from keras_deeplab.data.builders.cityscapes import Cityscapes
from keras_deeplab.data.builders.coco_stuff import CocoStuff10k, CocoStuff164k
from keras_deeplab.data.builders.isaid import Isaid
from keras_deeplab.data.builders.isprs import Potsdam, Vaihingen
from keras_deeplab.data.builders.loveda import Loveda
from keras_deeplab.data.builders.mapillary import Mapillary
from keras_deeplab.data.builders.pascal_context import PascalContext, PascalContext59
from keras_deeplab.data.builders.voc12aug import Voc12aug

BUILDERS = {
    builder.name: builder
    for builder in (
        Cityscapes,
        Ade20k,
        Voc12aug,
        PascalContext,
        PascalContext59,
        CocoStuff10k,
        CocoStuff164k,
        Loveda,
        Potsdam,
        Vaihingen,
        Isaid,
        Mapillary,
    )
}


FIELDS = {"image", "label", "name"}  # of each example


def find(name):
    """The builder class of a data set.

    Args:
        name: its name in the catalogue, for example `"cityscapes"`.

    Raises:
        ValueError: if no data set has that name.
    """
    if name not in BUILDERS:
        closest = difflib.get_close_matches(str(name).lower(), BUILDERS, n=3, cutoff=0.4)
        hint = f" Closest: {', '.join(closest)}." if closest else ""
        raise ValueError(f"No data set is named {name!r}.{hint} All: {', '.join(BUILDERS)}.")
    return BUILDERS[name]


def prepare(name, source, to, *, processes=None, **options):
    """Prepares a data set from its official download. Does nothing if the prepared data set exists.

    `warnings.warn` tells of pictures that are missing from the official number.

    An interrupted run leaves the folder `TO/NAME.unfinished`, and the next run continues from it. Each process reads the
    calling script again: the script must call this function under `if __name__ == "__main__":`. `processes=1` starts no
    other process.

    Args:
        name: name of the data set in the catalogue, for example `"cityscapes"`.
        source: folder with the downloads (the builder's `MANUAL_DOWNLOAD_INSTRUCTIONS` lists them).
        to: folder in which `NAME/1.0.0` is written.
        processes: number of processes that convert pictures; None: one per core.
        **options: options of this data set: `tile` for potsdam and vaihingen, `patch` and `overlap` for isaid (pixels),
            and `stray_colours` for these three (accept colours of no class).

    Returns:
        The builder, whose `info.splits` lists what was written.

    Raises:
        FileNotFoundError: if there is no such folder, a split is empty, or a picture has no label.
        ValueError: if the name or an option is unknown, a file is damaged or does not fit the data set, or the prepared
            data set exists and has other options.
        OSError: if a file cannot be read or written, for example because the disk is full.
        keras_deeplab.files.InUseError: if another process prepares this data set in the same folder.
    """
    builder = find(name)(data_dir=str(to), processes=processes, options=options)
    builder.prepare(source)
    return builder


def open_builder(folder):
    """The TFDS builder of a data set that `prepare` wrote.

    Args:
        folder: the folder `to` of `prepare`, or the folder of one data set in it.

    Raises:
        FileNotFoundError: if there is no prepared data set.
        ValueError: if there are several, or if it is damaged or not one that `prepare` wrote.
    """
    folder = _prepared_folder(Path(folder))
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as error:  # TFDS raises errors of many types for damaged files
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"The prepared data set {str(folder)!r} is damaged: {reason}. Delete it and prepare it again."
        ) from error
    kind = getattr(builder.info.file_format, "value", None)
    if builder.name not in BUILDERS or not FIELDS <= set(builder.info.features) or kind != "tfrecord":
        raise ValueError(
            f"A prepared data set must be one that `keras-deeplab prepare` wrote. Received: {str(folder)!r}, the data set "
            f"{builder.name} with {', '.join(sorted(builder.info.features))} in files of the format {kind}."
        )
    return builder


def instructions(builder, split):
    """TFDS's instructions that select the records of a split.

    Args:
        builder: what `open_builder` returns.
        split: names of splits with TFDS's slices, joined by "+".

    Returns:
        List of `tfds.core.utils.shard_utils.FileInstruction`, one for each part of a file.

    Raises:
        ValueError: if there is no such split, or if a part of it selects no example.
    """
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
        found = builder.info.splits[split].file_instructions
    except Exception as error:  # of several types: TFDS expects text in its own notation
        raise ValueError(
            f"{builder.name} has the splits {', '.join(sizes)}. Received: {split!r}. Name one of them, a slice such as "
            "'train[:10%]', or a sum such as 'train+val'."
        ) from error
    # TFDS itself reads an empty part as no example, and some parts whose end lies before their start as other slices.
    if not all(range(sizes[part.splitname])[part.from_ : part.to] for part in parts):
        raise ValueError(
            f"Each part of a split must select examples. Received: {split!r} of {builder.name}, whose splits have these "
            f"numbers of examples: {', '.join(f'{name} {size}' for name, size in sizes.items())}."
        )
    return found


def _prepared_folder(folder):
    infos = [path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}dataset_info.json")]
    # TFDS writes to a folder "incomplete..." and renames it at the end.
    folders = sorted(path.parent for path in infos if not path.parent.name.startswith("incomplete."))
    if not folders:
        unfinished = "".join(
            f" {path.stem} is not finished: start its preparation again."
            for path in sorted(folder.glob("*.unfinished"))
        )
        raise FileNotFoundError(
            f"There is no prepared data set in {str(folder)!r}. `keras-deeplab prepare DATASET --from DIR --to DIR` "
            f"makes one.{unfinished}"
        )
    if len(folders) > 1:
        raise ValueError(
            f"{folder} holds several data sets: {', '.join(map(str, folders))}. Name one of these folders."
        )
    return folders[0]
