"""Official downloads in, prepared data sets out: a TFDS builder for each.

This package alone imports TensorFlow Datasets: `pip install "keras_deeplab[datasets]"`.
"""

import difflib
from pathlib import Path

try:
    import tensorflow_datasets as tfds
except ImportError as error:
    raise ImportError('Prepared data sets take TensorFlow Datasets: pip install "keras_deeplab[datasets]"') from error

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
    """The builder class of a data set by its name in the catalogue."""
    if name not in BUILDERS:
        closest = difflib.get_close_matches(str(name).lower(), BUILDERS, n=3, cutoff=0.4)
        hint = f" Closest: {', '.join(closest)}." if closest else ""
        raise ValueError(f"No data set is named {name!r}.{hint} All: {', '.join(BUILDERS)}.")
    return BUILDERS[name]


def prepare(name, source, to, *, processes=None, **options):
    """Prepares a data set from its official download, unless it is there already.

    An interrupted run leaves `TO/NAME.unfinished` and goes on from it. The processes read the calling script again, so that
    it calls this under `if __name__ == "__main__":`; with `processes=1` there are none.

    Args:
        name: of the catalogue, for example `"cityscapes"`.
        source: folder with the downloads (the builder's `MANUAL_DOWNLOAD_INSTRUCTIONS`).
        to: folder that `NAME/1.0.0` is made in.
        processes: how many convert pictures; None: one per core.
        **options: of that data set: `tile` of potsdam and vaihingen, `patch` and `overlap` of isaid (pixels), and
            `stray_colours` of these three (let colours of no class through).

    Returns:
        The builder, its `info.splits` filled in.
    """
    builder = find(name)(data_dir=str(to), processes=processes, options=options)
    builder.prepare(source)
    return builder


def open_builder(folder):
    """The TFDS builder of what `prepare` wrote.

    Args:
        folder: the `to` of `prepare`, or the folder of a data set in it.

    Raises:
        FileNotFoundError: if there is no prepared data set.
        ValueError: if there are several.
    """
    return tfds.builder_from_directory(str(_prepared_folder(Path(folder))))


def _prepared_folder(folder):
    found = sorted(path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}dataset_info.json"))
    found = [path for path in found if not path.name.startswith("incomplete.")]
    if not found:
        raise FileNotFoundError(
            f"There is no prepared data set in {str(folder)!r}. `keras-deeplab prepare DATASET --from DIR --to DIR` "
            "makes one."
        )
    if len(found) > 1:
        raise ValueError(f"{folder} holds several data sets: {', '.join(map(str, found))}. Name one of these folders.")
    return found[0]
