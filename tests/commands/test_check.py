"""`keras-deeplab check`: the printed faults and frequencies, the picture grid, and one line at the end if there is a fault."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFont
from support import ROOT
from support.drawn import picture

import keras_deeplab as kd
from keras_deeplab.commands import check, command_line


@pytest.fixture
def folders(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for number in range(4):
        Image.fromarray(picture(48, 64, number)).save(images / f"{number}.png")
        label = np.zeros((48, 64), np.uint8)
        label[:, 32:], label[:6] = 1 + number % 2, 255
        Image.fromarray(label).save(labels / f"{number}.png")
    return images, labels


def arguments(folders, *more):
    return ["--images", str(folders[0]), "--labels", str(folders[1]), "--num-classes", "3", *more]


def test_it_prints_the_classes_and_draws_a_grid(folders, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("road\nsky\ncar\n")
    check.main(arguments(folders, "--to", str(tmp_path / "grid.png")))
    out = capsys.readouterr().out
    assert "4 pairs, no faults." in out and "road       50.000%" in out and "12.500% of all" in out
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width == 3 * (check.TILE_WIDTH + check.GAP) + check.GAP and grid.height > 2 * 240
        pixels = np.asarray(grid).astype(int)
    x, y = check.GAP, check.GAP + check.NAME_HEIGHT
    assert (pixels[y - check.NAME_HEIGHT : y, x:][:, : check.TILE_WIDTH] < 128).any()  # the name
    assert (pixels[:, : check.GAP] == 255).all() and (pixels[:, x + check.TILE_WIDTH :][:, : check.GAP] == 255).all()
    image = np.asarray(Image.open(folders[0] / "0.png").resize((check.TILE_WIDTH, 240)))
    colours = kd.DeepLabV3Plus(3, backbone="r18", base_channels=4).palette  # those of a model that is trained on them
    for column, label in ((40, 0), (280, 1)):
        expected = (image[120, column] + np.array(colours[label])) / 2
        assert np.abs(pixels[y + 120, x + column] - expected).max() <= 1


def test_faults_are_listed_and_end_in_one_line(folders, tmp_path, capsys):
    Image.fromarray(np.full((48, 64), 200, np.uint8)).save(folders[1] / "1.png")
    (folders[1] / "2.png").unlink()
    with pytest.raises(ValueError, match="2 faults in 3 pairs: .*2.png has no label"):
        check.main(arguments(folders, "--to", str(tmp_path / "grid.png")))
    out = capsys.readouterr().out
    assert "1.png holds 200 (3072 pixels). Labels are 0..2, and 255" in out and (tmp_path / "grid.png").exists()


def test_the_grid_leaves_out_what_cannot_be_read(folders):
    (folders[0] / "0.png").write_bytes(b"nothing")
    pairs = [(folders[0] / f"{i}.png", folders[1] / f"{i}.png") for i in range(4)]
    column = check.TILE_WIDTH + check.GAP
    assert check.grid(pairs, None, 3, {}).width == 3 * column + check.GAP
    assert check.grid(pairs[:1], None, 3, {"reduce_zero_label": True}).width == column + check.GAP


def test_a_long_name_is_cut_at_its_beginning():
    font = ImageFont.load_default(14)
    cut = check.shortened("x" * 200 + "_7.png", font)
    assert cut.startswith("...x") and cut.endswith("x_7.png") and font.getlength(cut) <= check.TILE_WIDTH
    assert check.shortened("a.png", font) == "a.png"


@pytest.mark.parametrize(
    "more, message",
    [
        ([], "error: 1 fault"),
        pytest.param(
            ["--num-classes", "300"],
            "error: --num-classes must be from 2 to 255; the background is a class too. Received: 300.",
            marks=pytest.mark.slow,
        ),
        pytest.param(["--images", "none"], "error: There is no folder 'none'.", marks=pytest.mark.slow),
    ],
)
def test_the_command_ends_in_one_line_and_non_zero(folders, tmp_path, more, message):
    (folders[1] / "2.png").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "recipes.check", *arguments(folders), *more],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith(message) and "Traceback" not in done.stderr


def test_masks_of_0_and_255_are_a_fault_with_the_option_that_mends_it(folders, capsys):
    for path in folders[1].iterdir():
        Image.fromarray(np.where(np.arange(64) < 9, 255, 0).astype(np.uint8)[None].repeat(48, 0)).save(path)
    two = [*arguments(folders)[:-1], "2"]
    with pytest.raises(ValueError, match="1 fault in 4 pairs: Class 1 of 0..1 occurs in no label map"):
        check.main(two)
    assert "Masks of 0 and 255 need --binary: 255 is then class 1" in capsys.readouterr().out
    check.main([*two, "--binary"])
    assert "14.062%" in capsys.readouterr().out  # 9 columns of 64
    check.main([*two, "--label-map", "255=1"])
    check.main([*two, "--allow-missing-classes"])
    with pytest.raises(
        ValueError, match="--num-classes must be from 2 to 255; the background is a class too. Received: 1"
    ):
        check.main([*two[:-1], "1"])


def test_messages_name_the_options_of_the_verb_that_runs():
    command_line.add_label_rule(command_line.parser("check", "x", row=False))
    text = "Use `reduce_zero_label=True` or `label_map={255: 1}`, not `batch=0`; leave `label_map` out."
    assert command_line.as_options(text) == "Use --reduce-zero-label or --binary, not `batch=0`; leave --label-map out."
