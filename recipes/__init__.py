"""How the released models were trained: one short file a data set, and the labelled scenes that the quickstart draws.

In an installed package this is `keras_deeplab.recipes`. The verbs are in keras_deeplab/commands; from a checkout
`python -m recipes.VERB` runs them too.
"""

import importlib
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__path__.append(str(Path(__file__).parents[1] / "keras_deeplab" / "commands"))  # for `python -m recipes.VERB`


def find(name):
    """The recipe of a released row.

    Args:
        name: its full name, or CLASS_BACKBONE_DATASET such as `"deeplabv3plus_r101_cityscapes"`.

    Returns:
        `keras_deeplab.recipes.record.Recipe`.

    Raises:
        ValueError: if there is no such row; names the closest.
    """
    from keras_deeplab.catalog import rows

    row = rows.find(name)
    return importlib.import_module(f"keras_deeplab.recipes.{row.dataset}").recipe(row)
