"""JAX and PyTorch give the logits of the original, as TensorFlow does, and `segment` the same labels."""

import os
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT, SUPPORT, authors
from support.drawn import SIZES, picture
from support.narrow import drawn

import keras_deeplab as kd

ROWS = [
    "deeplabv3plus_r18-d8_512x1024_80k_cityscapes",
    "deeplabv3_r50-d8_769x769_40k_cityscapes",
    "deeplabv3plus_m-v2-d8_512x1024_80k_cityscapes",
    "deeplabv3_s101-d8_512x1024_80k_cityscapes",
]
AUTHORS = ["xception65", "mobilenetv2", "mobilenetv2_decoder", "xception71_dpc"]  # of tests/support/authors.py


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """(name, backend) -> what tests/support/backend_logits.py gives for a network in a process with another backend.

    One process computes all networks of a group: JAX compiles every operation for every shape, and the networks share many.
    """
    folders = {}

    def get(name, backend):
        pytest.importorskip(backend, reason=f"needs {backend}")
        group = ROWS if name in ROWS else AUTHORS
        key = backend, *group
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(backend)
            command = [sys.executable, SUPPORT / "backend_logits.py", folders[key], *group]
            subprocess.run(command, check=True, env={**os.environ, "KERAS_BACKEND": backend})
        result = np.load(folders[key] / f"{name}.npz")
        assert result["backend"] == backend
        return result

    return get


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("name", ROWS)
def test_other_backends_give_the_originals_logits(name, backend, elsewhere, golden):
    result, expected = elsewhere(name, backend), golden("logits")
    for height, width in SIZES:
        for output in ("logits", "auxiliary"):
            key = f"{height}x{width}/{output}"
            difference = np.abs(result[key] - expected[f"{name}/{key}"]).max() / expected[f"{name}/{key}/std"]
            assert difference <= 1e-4, key
    assert np.mean(result["labels"] == kd.segment(drawn(name), picture(60, 80, seed=0), resize=(120, 90))) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("name", AUTHORS)
def test_other_backends_give_the_authors_logits(name, backend, elsewhere, golden):
    result, expected = elsewhere(name, backend), golden("authors")
    for height, width in SIZES:
        key = f"{name}/os16/{height}x{width}"
        difference = np.abs(result[f"{height}x{width}/logits"] - expected[key]).max() / expected[f"{key}/std"]
        print(f"{backend} {key}: {difference:.1e}")
        assert difference <= 1e-4, key
    labels = kd.segment(authors.drawn(name, output_stride=16), picture(60, 80, seed=0), resize=(120, 90))
    assert np.mean(result["labels"] == labels) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_layers_keep_their_promises_on_other_backends(backend):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", str(ROOT / "tests/networks/test_layer_promises.py")]
    process = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0 and " passed" in process.stdout, process.stdout[-2000:]
