"""The name of a released model in, its training recipe out.

One short file for each data set of OpenMMLab's rows, and one for each other source of rows.

In an installed package this folder is `keras_deeplab.recipes`. The verbs of the command line are in keras_deeplab/commands;
in a checkout, `python -m recipes.VERB` runs them too.
"""

import importlib
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__path__.append(str(Path(__file__).parents[1] / "keras_deeplab" / "commands"))  # for `python -m recipes.VERB`


def find(name):
    """Finds the recipe of a released row, which is one model of the published table.

    Args:
        name: its full name, or CLASS_BACKBONE_DATASET such as `"deeplabv3plus_r101_cityscapes"`.

    Returns:
        `keras_deeplab.recipes.record.Recipe`.

    Raises:
        ValueError: if there is no such row. The message names the closest rows.
    """
    from keras_deeplab.catalog import rows

    row = rows.find(name)
    return importlib.import_module(f"keras_deeplab.recipes.{row.recipe}").recipe(row)
