"""The command: what it writes, what it says of the official numbers, and one clear line for a mistake."""

import os
import subprocess
import sys

import pytest
from support import ROOT, miniatures

from keras_deeplab.commands import prepare

pytest.importorskip("tensorflow_datasets", reason="needs the extra: datasets")
pytest.importorskip("scipy", reason="needs the extra: datasets")


def test_it_writes_a_data_set_and_says_what_is_short(tmp_path, capsys):
    from keras_deeplab.data.pairs import open_prepared

    miniatures.draw("loveda", tmp_path / "from")
    arguments = ["loveda", "--from", str(tmp_path / "from"), "--to", str(tmp_path / "to"), "--processes", "1"]
    prepare.main(arguments)
    said = capsys.readouterr()
    assert "train  urban  2         1156" in said.out and "val    rural  2         992" in said.out
    assert "warning: train has 2 pictures of urban and not the official 1156: 1154 are missing." in said.err
    last = said.out.splitlines()[-2:]
    assert last[0].split()[:3] == ["train", "4", "2522"] and last[1].split()[:3] == ["val", "4", "1669"]
    pairs = open_prepared(tmp_path / "to", "val")
    assert (len(pairs), pairs.dataset) == (4, "loveda")
    prepare.main(arguments)
    said = capsys.readouterr()
    assert "is there already" in said.out and "train  4" in said.out and not said.err


def test_official_numbers_are_not_warned_of(tmp_path, capsys, monkeypatch):
    from keras_deeplab.data import builders, catalog

    miniatures.draw("voc12aug", tmp_path)
    builder = builders.find("voc12aug")(data_dir=str(tmp_path / "to"))
    official = catalog._splits({"VOC 2012": 2, "SBD": 3}, 2)
    monkeypatch.setattr(builders.Voc12aug, "dataset", type("D", (), {"splits": official, "title": "VOC"}))
    prepare.count(builder, tmp_path)
    said = capsys.readouterr()
    assert said.err == "warning: val has 1 pictures and not the official 2: 1 are missing.\n"
    assert "train  VOC 2012  2         2" in said.out and "train  SBD       3         3" in said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["citiscapes", "--from", ".", "--to", "out"], "No data set is named 'citiscapes'. Closest: cityscapes"),
        (["cityscapes", "--from", "none", "--to", "out"], "There is no folder 'none'. Cityscapes takes leftImg8bit_"),
        (["ade20k", "--from", ".", "--to", "out"], "The folder '.' is empty. ADE20K takes ADEChallengeData2016.zip"),
        (["ade20k", "--from", ".", "--to", "out", "--stray-colours"], "ade20k has no options"),
    ],
)
def test_a_mistake_ends_in_one_line_and_writes_nothing(arguments, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "recipes.prepare", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and message in last and last.startswith("error: ")
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())
