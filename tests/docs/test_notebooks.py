"""The notebooks of docs/notebooks run from their first cell to their last, with few training steps."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from support import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all notebooks run: the quickstart's model is trained once."""
    return tmp_path_factory.mktemp("notebooks")


def test_notebooks_are_saved_without_outputs():
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path.name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs(path, folder, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra: docs")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra: docs")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    steps = 0
    for cell in notebook.cells:
        cell.source, changed = re.subn(r"^STEPS = \d+", "STEPS = 20", cell.source, flags=re.M)
        steps += changed
    assert steps == 1
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    printed = "".join(out.get("text", "") for cell in done.cells for out in cell.get("outputs", []))
    seen = {"segment": "stripes", "finetune": "textured   IoU", "compare": "output stride 16"}[path.stem]
    assert seen in printed
    pictures = [out for cell in done.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) == {"segment": 3, "finetune": 2, "compare": 0}[path.stem]
