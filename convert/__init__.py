"""A released PyTorch file in, a Keras file and a SavedModel out, with the proof that they are the same model."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
