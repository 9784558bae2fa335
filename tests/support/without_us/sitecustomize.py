"""On PYTHONPATH, keeps this package and Keras from the workers of Apache Beam: importing them there is an error."""

import sys

if "apache_beam.runners.worker.sdk_worker_main" in sys.orig_argv:
    for name in ("keras", "keras_deeplab"):
        sys.modules[name] = None
