"""Official downloads in, prepared data sets out, and prepared data sets in, encoded examples out.

This package alone imports TensorFlow Datasets: `pip install -e ".[datasets]"`.
"""

import difflib
from pathlib import Path
from typing import NamedTuple

try:
    import tensorflow_datasets as tfds
except ImportError as error:
    raise ImportError('Prepared data sets take TensorFlow Datasets: pip install -e ".[datasets]"') from error

import tensorflow as tf

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


class Prepared(NamedTuple):
    """A split of a prepared data set.

    Attributes:
        dataset: `tf.data.Dataset` of `{"image": encoded bytes, "label": encoded PNG of train ids, "name": string}`.
        count: number of examples.
        name: of the data set in the catalogue.
    """

    dataset: tf.data.Dataset
    count: int
    name: str


def read_prepared(folder, split, *, shuffle_files=False, read_config=None):
    """Opens what `prepare` wrote; the downloads are no longer needed.

    Args:
        folder: the `to` of `prepare`, or the folder of a data set in it.
        split: `"train"` or `"val"`, or TFDS's slices of it, such as `"train[:10%]"`.
        shuffle_files, read_config: as of `tfds.core.DatasetBuilder.as_dataset`; `read_config` holds seeds and the
            `input_context` that shards.

    Returns:
        A `Prepared`: dataset, count, name.

    Raises:
        FileNotFoundError: if there is no prepared data set.
        ValueError: if there are several, or no such split.
    """
    builder = tfds.builder_from_directory(str(_prepared_folder(Path(folder))))
    name = split.partition("[")[0]
    if name not in builder.info.splits:
        raise ValueError(f"{folder} has the splits {', '.join(builder.info.splits)}. Received: {split!r}.")
    skip = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
    dataset = builder.as_dataset(split=split, decoders=skip, shuffle_files=shuffle_files, read_config=read_config)
    return Prepared(dataset, builder.info.splits[split].num_examples, builder.name)


def _prepared_folder(folder):
    found = sorted(path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}dataset_info.json"))
    found = [path for path in found if not path.name.startswith("incomplete.")]
    if not found:
        raise FileNotFoundError(
            f"There is no prepared data set in {str(folder)!r}. `python -m recipes.prepare DATASET --from DIR --to DIR` "
            "makes one."
        )
    if len(found) > 1:
        raise ValueError(f"{folder} holds several data sets: {', '.join(map(str, found))}. Name one of these folders.")
    return found[0]
