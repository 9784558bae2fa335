"""`recipes.train`: from a folder to a model; killed and started again it gives the same weights; mistakes are one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from drawn import picture
from narrow import build, tensors
from PIL import Image
from torch_files import released

import keras_deeplab as kd
from recipes import train

NAME = "deeplabv3plus_r18-d8_512x512_80k_loveda"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder of eight pictures with three classes, and a narrow checkpoint to start from."""
    folder = tmp_path_factory.mktemp("train")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i in range(8):
        image = picture(60, 80, seed=i)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray((image[..., 0] // 86).astype("uint8")).save(folder / "labels" / f"{i}.png")
    (folder / "labels" / "classes.txt").write_text("dark\ngrey\nbright\n")
    (folder / "narrow.pth").write_bytes(released(tensors(build(NAME, auxiliary_head=True))))
    return folder


def arguments(here, to, *more):
    given = {"--images": here / "images", "--labels": here / "labels", "--init": here / "narrow.pth", "--to": to}
    options = {"--num-classes": 3, "--steps": 8, "--batch": 2, "--save-every": 2, "--learning-rate": 0.01}
    flat = [str(part) for pair in (given | options).items() for part in pair]
    return [NAME, *flat, "--crop", "33", "49", *more]


@pytest.fixture(scope="module")
def uninterrupted(here):
    with pytest.warns(UserWarning, match="the classifiers start from random weights"):
        train.main(arguments(here, here / "whole"))
    return keras.saving.load_model(here / "whole" / "model.keras")


def test_training_learns_the_folder_and_writes_a_model(here, uninterrupted):
    assert int(uninterrupted.optimizer.iterations) == 8 and uninterrupted.num_classes == 3
    labels = kd.segment(uninterrupted, here / "images" / "0.png")
    assert labels.shape == (60, 80) and labels.max() <= 2
    assert uninterrupted.classes == ("dark", "grey", "bright")
    kd.export_saved_model(uninterrupted, here / "saved_model")


def test_killed_twice_it_ends_with_the_same_weights(here, uninterrupted):
    # The first checkpoint is the uninterrupted run's own start, so that the random classifiers are the same ones.
    script = (
        "import keras, sys; keras.utils.set_random_seed(0); from recipes import command, train; command.run(train.main)"
    )
    command = [sys.executable, "-c", script, *arguments(here, here / "killed")]
    last = here / "killed" / "last.keras"
    for _ in range(2):
        before = last.stat().st_mtime_ns if last.exists() else 0
        running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while running.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    model = keras.saving.load_model(here / "killed" / "model.keras")
    assert all(map(np.array_equal, model.get_weights(), uninterrupted.get_weights()))


@pytest.mark.parametrize(
    "more, message",
    [
        (["--steps", "9"], "was made with --steps 8"),
        (["--init", "r110", "--to", "new"], "No row is named 'r110'"),
        (["--images", "nowhere", "--to", "new"], "nowhere"),
        (["--num-classes", "2", "--to", "new"], "python -m recipes.check lists them"),
    ],
)
def test_mistakes_are_one_line(here, uninterrupted, more, message):
    done = subprocess.run(
        [sys.executable, "-m", "recipes.train", *arguments(here, here / "whole"), *more],
        capture_output=True, text=True, cwd=here, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1 and message in done.stderr.strip().splitlines()[-1], done.stderr[-2000:]


@pytest.mark.parametrize("option", ["--steps", "--batch", "--save-every", "--num-classes"])
def test_counts_are_positive(here, option, capsys):
    with pytest.raises(SystemExit):
        train.main(arguments(here, here / "none", option, "0"))
    assert f"{option}: a positive whole number is needed, not '0'" in capsys.readouterr().err


def test_several_machines_on_tensorflow_are_refused(here, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(ValueError, match="JAX backend with keras.distribution"):
        train.main(arguments(here, here / "machines"))
