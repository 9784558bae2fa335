"""One device, two devices of a MirroredStrategy and two JAX processes train the same weights."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from support import SUPPORT
from support.narrow import drawn, tensors

NAME = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
SCRIPT = SUPPORT / "replicas.py"
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("KERAS_BACKEND", "TF_CONFIG")}


def train(how, folder, steps, dtype):
    """The weights after `steps` steps, and the loss."""
    out = folder / f"{how}_{dtype}.npz"
    command = [sys.executable, SCRIPT, how, out, str(steps), dtype]
    if how == "hosts":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        running = [subprocess.Popen([*command, str(i), address], env=ENVIRONMENT) for i in range(2)]
        assert [process.wait(timeout=300) for process in running] == [0, 0]
    else:
        subprocess.run(command, env=ENVIRONMENT, check=True)
    return dict(np.load(out))


def worst(found, expected, ulps=0):
    """The largest difference in units of the largest change of the tensor that it is in, roundings of `ulps` units aside."""
    before = tensors(drawn(NAME, auxiliary_head=True))
    return max(
        (np.abs(found[name] - expected[name]) - ulps * np.spacing(np.abs(expected[name]))).max()
        / np.abs(expected[name] - before[name]).max()
        for name in before
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def one_device(folder):
    return train("one", folder, 5, "float64")


@pytest.mark.parametrize("how", ["two", "hosts"])
def test_five_steps_in_float64_give_the_same_weights(how, folder, one_device):
    found = train(how, folder, 5, "float64")
    assert worst(found, one_device) <= 1e-9
    assert abs(found["loss"] - one_device["loss"]) <= 1e-9


@pytest.mark.slow
def test_one_step_in_float32_gives_the_same_weights(folder):
    one, two = (train(how, folder, 1, "float32") for how in ("one", "two"))
    assert worst(two, one, ulps=1) <= 1e-4  # a norm's weight of 1.5 changes by 4e-4 and is kept to 1.2e-7


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_on_two_devices(policy, folder):
    found = train("two", folder, 3, policy)
    assert all(np.isfinite(array).all() for array in found.values())
    assert any(not np.array_equal(found[name], array) for name, array in tensors(drawn(NAME)).items())


def test_an_overflow_on_one_replica_skips_the_step_on_all():
    script = SUPPORT / "overflow.py"
    printed = {
        kind: subprocess.run(
            [sys.executable, script, kind], env=ENVIRONMENT, check=True, capture_output=True, text=True
        ).stdout.split("\n")[-2]
        for kind in ("ours", "keras")
    }
    assert printed["ours"] == "finite True changed False"
    assert printed["keras"] == "finite False changed True"  # if this ever fails, Keras was mended and ours can go
