"""`keras-deeplab prepare`: what it writes, how it warns of missing pictures, and one line for a mistake."""

import os
import subprocess
import sys

import pytest
from support import ROOT, miniatures

from keras_deeplab.commands import prepare

pytest.importorskip("tensorflow_datasets", reason="needs the extra: datasets")
pytest.importorskip("scipy", reason="needs the extra: datasets")


def test_it_writes_a_data_set_and_warns_of_missing_pictures(tmp_path, capsys):
    from keras_deeplab.data.pairs import open_prepared

    miniatures.draw("loveda", tmp_path / "from")
    arguments = ["loveda", "--from", str(tmp_path / "from"), "--to", str(tmp_path / "to"), "--processes", "1"]
    prepare.main(arguments)
    printed = capsys.readouterr()
    assert "train  urban  2         1156" in printed.out and "val    rural  2         992" in printed.out
    assert "warning: train has 2 pictures of urban, officially 1156: 1154 are missing." in printed.err
    last = printed.out.splitlines()[-2:]
    assert last[0].split()[:3] == ["train", "4", "2522"] and last[1].split()[:3] == ["val", "4", "1669"]
    pairs = open_prepared(tmp_path / "to", "val")
    assert (len(pairs), pairs.dataset) == (4, "loveda")
    prepare.main(arguments)
    printed = capsys.readouterr()
    assert "is there already" in printed.out and "train  4" in printed.out and not printed.err


def test_it_does_not_warn_of_official_numbers(tmp_path, capsys, monkeypatch):
    from keras_deeplab.catalog import datasets
    from keras_deeplab.data import builders

    miniatures.draw("voc12aug", tmp_path)
    builder = builders.find("voc12aug")(data_dir=str(tmp_path / "to"))
    official = datasets._splits({"VOC 2012": 2, "SBD": 3}, 2)
    monkeypatch.setattr(builders.Voc12aug, "dataset", type("D", (), {"splits": official, "title": "VOC"}))
    prepare.print_counts(builder, tmp_path)
    printed = capsys.readouterr()
    assert printed.err == "warning: val has 1 pictures, officially 2: 1 are missing.\n"
    assert "train  VOC 2012  2         2" in printed.out and "train  SBD       3         3" in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["citiscapes", "--from", ".", "--to", "out"], "No data set is named 'citiscapes'. Closest: cityscapes"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (
                    ["cityscapes", "--from", "none", "--to", "out"],
                    "There is no folder 'none'. Cityscapes needs leftImg8b",
                ),
                (
                    ["ade20k", "--from", ".", "--to", "out"],
                    "The folder '.' is empty. ADE20K needs ADEChallengeData2016",
                ),
                (["ade20k", "--from", ".", "--to", "out", "--stray-colours"], "ade20k has no options"),
            ]
        ),
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
