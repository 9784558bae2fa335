"""`keras-deeplab quickstart`: its scenes, whose colours say nothing about the classes, its files, and what it learns."""

import base64
import io
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from support import ROOT

import keras_deeplab as kd
from keras_deeplab.catalog import rows
from keras_deeplab.commands import VERBS, quickstart
from keras_deeplab.data.folder import check, read_classes
from keras_deeplab.recipes import scenes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folders (images, labels) of two sets of scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    for name, seed in (("train", 0), ("held_out", 1)):
        scenes.write_scenes(folder / name, 40, seed)
    return [(folder / name / "images", folder / name / "labels") for name in ("train", "held_out")]


def run(to, *more):
    """Runs the command in a process of its own, because it must divide the processor before TensorFlow starts."""
    return subprocess.run(
        [sys.executable, "-m", "recipes.quickstart", "--to", str(to), *more], cwd=ROOT, capture_output=True, text=True
    )


def test_scenes_are_written_as_training_reads_them(drawn):
    for folders in drawn:
        report = check(*folders, len(scenes.CLASSES))
        assert not report.problems and len(report.pairs) == 40 and report.ignored == 0
        assert min(report.pictures) >= 5 and read_classes(*folders) == tuple(scenes.CLASSES)


def test_equal_seeds_give_equal_scenes_and_other_seeds_give_others():
    first, again, other = (scenes.scene(np.random.default_rng(seed)) for seed in ((0, 1), (0, 1), (0, 2)))
    assert all(map(np.array_equal, first, again)) and not np.array_equal(first[1], other[1])


def test_the_mean_colour_tells_the_classes_hardly_better_than_chance(drawn):
    assert quickstart.nearest_mean_colour(*drawn)["mIoU"] < 20


def test_the_next_steps_are_commands_of_rows_that_exist():
    for _, command in quickstart.NEXT_STEPS:
        program, verb, *arguments = command.split()
        assert program == "keras-deeplab" and verb in VERBS
        if verb != "list":
            assert rows.find(arguments[0]).backbone == "mobilenetv2"
    light = kd.list_presets(backbone="mobilenetv2", details=True)
    assert all(2e6 <= row["parameters"] <= 18.5e6 for row in light)


@pytest.mark.slow  # CI runs the whole quickstart
def test_a_few_steps_write_all_files(tmp_path):
    done = run(tmp_path, "--steps", "3")
    assert done.returncode == 0, done.stderr
    assert "equal those of segment" in done.stdout and "nearest mean colour" in done.stdout
    assert "keras-deeplab list --backbone mobilenetv2" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"scenes", "model.keras", "saved_model", "index.html"}
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.classes == tuple(scenes.CLASSES) and int(model.optimizer.iterations) == 3
    page = (tmp_path / "index.html").read_text()
    assert (tmp_path / "index.html").as_uri() in done.stdout and "mIoU by the nearest mean colour" in page
    stem, source = re.search(r'<h3>(\d+) .*?alt="label .*?<img src="([^"]+)" alt="prediction"', page).groups()
    labels = kd.segment(model, tmp_path / "scenes" / "held_out" / "images" / f"{stem}.png")
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    assert np.array_equal(drawn, np.array([*scenes.CLASSES.values()])[labels])


def test_another_backend_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "recipes.quickstart", "--to", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "KERAS_BACKEND=tensorflow" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_textures_and_outlines_are_learned(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    model, by_colour = map(float, re.search(r"^mean +([\d.]+) +([\d.]+)$", done.stdout, re.M).groups())
    assert model >= 75 and by_colour < 40
