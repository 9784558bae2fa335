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
        ValueError: if the name or an option is unknown, or a file is damaged or does not fit the data set.
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
        ValueError: if there are several.
    """
    return tfds.builder_from_directory(str(_prepared_folder(Path(folder))))


def _prepared_folder(folder):
    infos = [path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}dataset_info.json")]
    # TFDS writes to a folder "incomplete..." and renames it at the end.
    folders = sorted(path.parent for path in infos if not path.parent.name.startswith("incomplete."))
    if not folders:
        raise FileNotFoundError(
            f"There is no prepared data set in {str(folder)!r}. `keras-deeplab prepare DATASET --from DIR --to DIR` "
            "makes one."
        )
    if len(folders) > 1:
        raise ValueError(
            f"{folder} holds several data sets: {', '.join(map(str, folders))}. Name one of these folders."
        )
    return folders[0]
