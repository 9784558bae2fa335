"""DeepLabV3 and DeepLabV3+ for Keras 3: the models that were released, provably the same."""

import os
import sys
from pathlib import Path

from keras_deeplab import renamed
from keras_deeplab.version import __version__ as __version__

renamed.install()

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
    from keras_deeplab.public import *  # noqa: F403
    from keras_deeplab.public import __all__ as __all__
