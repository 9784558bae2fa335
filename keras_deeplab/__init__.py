"""DeepLabV3 and DeepLabV3+ for Keras 3: the models that were released, provably the same."""

import importlib.util
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from keras_deeplab import renamed
from keras_deeplab.version import __version__ as __version__

renamed.install()

# By itself TensorFlow uses oneDNN only on processors with AVX512-VNNI or newer instructions. On older ones too, DeepLabV3+
# takes three quarters of the time with it. TensorFlow reads the variable while it is imported. If it is imported already,
# processes that start from this one must compute as it does.
if platform.machine() in ("x86_64", "AMD64") and "TF_ENABLE_ONEDNN_OPTS" not in os.environ:
    if "tensorflow" not in sys.modules:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    else:
        from keras_deeplab.networks.fast import processor

        if processor.tensorflow_leaves_onednn_out():
            warnings.warn(
                "TensorFlow was imported before keras_deeplab, and by itself it computes without oneDNN on this processor. "
                "With it networks take about three quarters of the time: import keras_deeplab before keras and tensorflow, "
                "or set TF_ENABLE_ONEDNN_OPTS=1 (TF_ENABLE_ONEDNN_OPTS=0 to stay without it and without this warning).",
                stacklevel=2,
            )

# The command line imports the rooms that a verb needs, and answers --help without TensorFlow. Everybody else gets all.
STARTED = Path(sys.argv[0]).stem if getattr(sys, "argv", None) else ""
MODULE = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv[:-1] else ""

if (
    STARTED == "keras-deeplab"
    or MODULE.partition(".")[0] in ("keras_deeplab", "recipes", "convert")
    or "KERAS_DEEPLAB_QUIET" in os.environ  # a command started this process
):
    from keras_deeplab.commands import quiet

    quiet.install()

if STARTED != "keras-deeplab" and MODULE != "keras_deeplab":
    # What Keras must know to load a saved model.
    from keras_deeplab.evaluation import metrics  # noqa: F401
    from keras_deeplab.training import losses, optimizers, schedules  # noqa: F401
    from keras_deeplab.zoo.models import DeepLabV3, DeepLabV3Plus  # noqa: F401

if TYPE_CHECKING:
    from keras_deeplab.public import *  # noqa: F403
    from keras_deeplab.public import __all__ as __all__


def __getattr__(name):
    """Imports all public names when one of the others is first used: half of the time of `import keras_deeplab`."""
    if importlib.util.find_spec(f"{__name__}.{name}"):  # a room: `from keras_deeplab import recipes` asks here first
        return importlib.import_module(f"{__name__}.{name}")
    public = None if name.startswith("__") and name != "__all__" else importlib.import_module(f"{__name__}.public")
    if public is None or name not in ("__all__", *public.__all__):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals().update(
        {public_name: getattr(public, public_name) for public_name in public.__all__}, __all__=public.__all__
    )
    return globals()[name]


def __dir__():
    return sorted({*globals(), *__getattr__("__all__")})
