"""Quiet TensorFlow, and the golden arrays by name."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

import keras_deeplab  # noqa: E402, F401  # before Keras: TensorFlow reads what this sets while it is imported

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def random_numbers_start_anew(request):
    """A test module's `random` gives the same numbers in every test, whichever tests ran before."""
    if isinstance(getattr(request.module, "random", None), np.random.Generator):
        request.module.random = np.random.default_rng(0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder that is the cache too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def golden():
    """name -> {key: array} of tests/golden/NAME.npz."""
    files = {}

    def load(name):
        if name not in files:
            with np.load(GOLDEN / f"{name}.npz") as arrays:
                files[name] = dict(arrays)
        return files[name]

    return load
