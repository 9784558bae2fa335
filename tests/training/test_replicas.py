"""Training gives the same weights on one device, on two devices of a MirroredStrategy, and in two JAX processes."""

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


def train(devices, folder, steps, dtype):
    """Trains in new processes.

    Args:
        devices: "one", "two" or "hosts", as for support/replicas.py.
        folder: for the file with the weights.
        steps, dtype: number of steps, and dtype policy.

    Returns:
        {PyTorch name: weights} after the last step, with the loss as "loss".
    """
    path = folder / f"{devices}_{dtype}.npz"
    command = [sys.executable, SCRIPT, devices, path, str(steps), dtype]
    if devices == "hosts":
        with socket.socket() as free_port:
            free_port.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free_port.getsockname()[1]}"
        processes = [subprocess.Popen([*command, str(i), address], env=ENVIRONMENT) for i in range(2)]
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    else:
        subprocess.run(command, env=ENVIRONMENT, check=True)
    return dict(np.load(path))


def largest_difference(weights, expected, ulps=0):
    """The largest difference of a weight, relative to the largest change that training made to its tensor.

    Of each difference, `ulps` units in the last place are not counted.
    """
    before = tensors(drawn(NAME, auxiliary_head=True))
    return max(
        (np.abs(weights[name] - expected[name]) - ulps * np.spacing(np.abs(expected[name]))).max()
        / np.abs(expected[name] - before[name]).max()
        for name in before
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def one_device(folder):
    return train("one", folder, 5, "float64")


@pytest.mark.parametrize("devices", ["two", pytest.param("hosts", marks=pytest.mark.slow)])
def test_five_steps_in_float64_give_the_same_weights(devices, folder, one_device):
    result = train(devices, folder, 5, "float64")
    assert largest_difference(result, one_device) <= 1e-9
    assert abs(result["loss"] - one_device["loss"]) <= 1e-9


@pytest.mark.slow
def test_one_step_in_float32_gives_the_same_weights(folder):
    one, two = (train(devices, folder, 1, "float32") for devices in ("one", "two"))
    # One ulp is not counted: a norm's weight of about 1.5 has an ulp of 1.2e-7, and changes by 4e-4 only.
    assert largest_difference(two, one, ulps=1) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_on_two_devices(policy, folder):
    result = train("two", folder, 3, policy)
    assert all(np.isfinite(array).all() for array in result.values())
    assert any(not np.array_equal(result[name], array) for name, array in tensors(drawn(NAME)).items())


@pytest.mark.slow
def test_an_overflow_on_one_replica_skips_the_step_on_all():
    script = SUPPORT / "overflow.py"
    printed = {
        optimizer: subprocess.run(
            [sys.executable, script, optimizer], env=ENVIRONMENT, check=True, capture_output=True, text=True
        ).stdout.split("\n")[-2]
        for optimizer in ("ours", "keras")
    }
    assert printed["ours"] == "finite True changed False"
    assert printed["keras"] == "finite False changed True"  # if this fails, Keras is correct and ours can be removed
