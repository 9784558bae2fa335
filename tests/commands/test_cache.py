"""`keras-deeplab cache` lists, checks and removes what was downloaded, and nothing else."""

import hashlib

import pytest

from keras_deeplab.catalog import rows
from keras_deeplab.commands import cache
from keras_deeplab.zoo.cache import file_of

ROW = rows.find("deeplabv3plus_r101_cityscapes")
FILE = file_of(ROW)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache with a model's file, a backbone's file, the beginning of a download, and a file of the user's."""
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path))
    for name in (FILE, "backbone.pth"):
        (tmp_path / name).write_bytes(name.encode() * 50_000)
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        (tmp_path / f"{name}.sha256").write_text(f"{digest}  {name}\n")
    (tmp_path / "half.pth.part").write_bytes(b"x" * 300_000)
    (tmp_path / "half.pth.part.json").write_text("{}")
    (tmp_path / "own.pth").write_bytes(b"x")
    return tmp_path


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_files_are_listed_with_model_size_and_state(folder, capsys):
    cache.main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["backbone.pth", "0.6", "complete"]
    assert lines[3].split() == [FILE, f"{len(FILE) / 20:.1f}", "complete", ROW.name]
    assert lines[4].split() == ["half.pth", "0.3", "unfinished"]
    assert lines[-1].startswith("3 files, ") and str(folder) in lines[-1] and "own.pth" not in "".join(lines)


def test_a_changed_file_is_named(folder, capsys):
    cache.main(["--check"])
    assert capsys.readouterr().out.count("as at first use") == 2
    (folder / "backbone.pth").write_bytes(b"other")
    with pytest.raises(ValueError, match="as at its first use. Received: backbone.pth, changed since"):
        cache.main(["--check"])


def test_a_model_is_removed_with_what_is_beside_it(folder):
    before = names(folder)
    cache.main(["--clear", ROW.name, "half.pth"])
    assert before - names(folder) == {FILE, f"{FILE}.sha256", "half.pth.part", "half.pth.part.json"}


def test_all_leaves_files_that_were_not_downloaded(folder, capsys):
    cache.main(["--clear", "all"])
    assert names(folder) == {"own.pth"}
    cache.main([])
    assert f"No downloaded weights in {folder}" in capsys.readouterr().out
    cache.main(["--clear", "all"])


@pytest.mark.parametrize(
    "name, message",
    [
        ("own.pth", "No row is named 'own.pth'"),
        ("all", "`all` stands alone after --clear. Received: .* all. Leave it out"),
        ("deeplabv3_r50_ade20k", "not in the cache.* Received: --clear deeplabv3_r50_ade20k. Nothing was removed"),
    ],
)
def test_a_wrong_name_removes_nothing(folder, name, message):
    before = names(folder)
    with pytest.raises(ValueError, match=message):
        cache.main(["--clear", FILE, name])
    assert names(folder) == before


def test_a_cache_that_does_not_exist_is_empty(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path / "none"))
    cache.main(["--check"])
    assert "No downloaded weights" in capsys.readouterr().out
