"""A released PyTorch file in, a Keras file and a SavedModel out, with a report that both are the same model."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
