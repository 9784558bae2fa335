"""The README tells the truth: its Python runs, its commands exist, its tree is the tree."""

import re
from pathlib import Path

import pytest
from drawn import picture
from narrow import build, tensors
from PIL import Image
from torch_files import released

from keras_deeplab.zoo import table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files that the README's examples name; released ones are narrow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path))
    for name in ("r101_cityscapes", "r50_cityscapes"):
        row = table.find(name, "DeepLabV3Plus")
        (tmp_path / row.file).write_bytes(released(tensors(build(row.name, auxiliary_head=True))))
    (tmp_path / "work_dirs").mkdir()
    (tmp_path / "work_dirs" / "iter_80000.pth").write_bytes((tmp_path / row.file).read_bytes())
    Image.fromarray(picture(60, 80, seed=0)).save(tmp_path / "street.jpg")


@pytest.mark.filterwarnings("ignore:.*the classifiers start from random weights")
def test_the_python_examples_run(here):
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2 and names["labels"].shape == (60, 80) and names["logits"].shape == (1, 65, 97, 19)
    assert Path("saved_model", "saved_model.pb").exists() and Path("street_labels.png").exists()


@pytest.mark.filterwarnings("ignore:.*the classifiers start from random weights")
def test_the_python_of_the_training_page_runs(here):
    for kind, mode in (("images", "RGB"), ("labels", "L")):
        Path(kind).mkdir()
        for i in range(4):
            image = Image.fromarray(picture(60, 80, seed=i))
            (image if mode == "RGB" else image.convert("L").point(lambda v: v // 86)).save(f"{kind}/{i}.png")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.S):
        exec(block, names)
    assert int(names["model"].optimizer.iterations) == 2


def test_every_command_exists():
    pages = [README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))]
    modules = set(re.findall(r"python -m ([\w.]+)", "".join(pages)))
    assert modules >= {"recipes.quickstart", "recipes.predict", "recipes.export", "convert"}
    for module in modules:
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_ci_runs_the_readmes_commands():
    script = (ROOT / ".ci" / "run").read_text()
    assert "\npytest\n" in script and "\npytest\n" in README
    assert 'pip install --quiet -e ".[test]"' in script and 'pip install -e ".[test]"' in README


def test_the_tree_is_the_tree():
    tree = re.search(r"## What is where\n\n```\n(.*?)```", README, re.S)[1]
    top, inside = (set(re.findall(pattern, tree, re.M)) for pattern in (r"^(\w+)/", r"^  (\w+)/"))
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and path.name[0] not in "._" and not path.name.endswith("egg-info")
    }
    packages = {path.parent.name for path in (ROOT / "keras_deeplab").glob("*/__init__.py")}
    assert top == folders - {"build", "dist", "quickstart"} and inside == packages


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
