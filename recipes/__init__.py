"""How the released models were trained, one file per data set, and the commands, which run from a checkout."""

import importlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def find(name):
    """The recipe of a released row.

    Args:
        name: its full name, or CLASS_BACKBONE_DATASET such as `"deeplabv3plus_r101_cityscapes"`.

    Returns:
        `recipes.record.Recipe`.

    Raises:
        ValueError: if there is no such row; names the closest.
    """
    from keras_deeplab.zoo import table

    row = table.find(name)
    return importlib.import_module(f"recipes.{row.dataset}").recipe(row)
