"""What the project says of itself agrees: package list, lowest versions, version, CI's steps."""

import configparser
import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest
from support import ROOT

import keras_deeplab as kd

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def lines(text):
    return [line for line in text.strip().splitlines() if line]


def test_the_package_list_is_what_is_there():
    tops = {"keras_deeplab": "keras_deeplab", "recipes": "keras_deeplab.recipes", "convert": "keras_deeplab.convert"}
    there = set()
    for top, package in tops.items():
        for path in (ROOT / top).rglob("__init__.py"):
            there.add(".".join([package, *path.parent.relative_to(ROOT / top).parts]))
    assert set(lines(SETUP["options"]["packages"])) == there
    assert lines(SETUP["options"]["package_dir"]) == [f"{package} = {top}" for top, package in tops.items()]


def test_the_lowest_versions_are_those_that_ci_tests():
    bounds = dict(
        re.match(r"([\w-]+) >= ([\d.]+)", line).groups() for line in lines(SETUP["options"]["install_requires"])
    )
    pinned = dict(line.split("==") for line in lines((ROOT / ".ci" / "lowest-versions.txt").read_text()))
    assert bounds.keys() == pinned.keys()
    assert all(pinned[name] == bound or pinned[name] == f"{bound}.0" for name, bound in bounds.items())


def test_keras_is_below_version_4_and_python_is_what_the_classifiers_say():
    assert "keras >= 3.12, < 4" in lines(SETUP["options"]["install_requires"])
    minor = [int(version) for version in re.findall(r"Python :: 3\.(\d+)", SETUP["metadata"]["classifiers"])]
    assert SETUP["options"]["python_requires"] == f">=3.{min(minor)}, <3.{max(minor) + 1}"
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert [int(version) for version in re.findall(r'"3\.(\d+)"', workflow)][: len(minor)] == minor


def test_one_version_everywhere():
    assert re.search(rf"^version: {re.escape(kd.__version__)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert f"## {kd.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_a_package_index_gets_the_readme_with_absolute_links():
    setup = runpy.run_path(ROOT / "setup.py")
    text = "[a](docs/a.md#b) ![c](docs/c.jpg) [d](https://example.org) [e](#f) [g](LICENSE)"
    assert setup["absolute_links"](text, "https://host/x", "1.2") == (
        "[a](https://host/x/blob/v1.2/docs/a.md#b) ![c](https://host/x/raw/v1.2/docs/c.jpg) [d](https://example.org) [e](#f) "
        "[g](https://host/x/blob/v1.2/LICENSE)"
    )
    readme = setup["absolute_links"]((ROOT / "README.md").read_text(), "https://host/x", "1.2")
    assert all(target.startswith(("http", "#")) for target in re.findall(r"\]\(([^)]+)\)", readme))


def test_the_workflow_runs_what_ci_runs():
    steps = re.findall(r"run: (.*)", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert steps == [".ci/run newest", ".ci/run lowest"]
    script = (ROOT / ".ci" / "run").read_text()
    for path in re.findall(r"tests/[\w/.]+", script.partition("lowest() {")[2]):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md", "CHANGELOG.md", "RELEASE.md"])
def test_files_that_pages_name_are_there(name):
    for path in re.findall(
        r"`((?:keras_deeplab|tests|docs|catalog|networks|commands|training|data)/[\w/.]+\.\w+)`",
        (ROOT / name).read_text(),
    ):
        assert (ROOT / path).exists() or (ROOT / "keras_deeplab" / path).exists() or Path(path).suffix == ".npz", path


@pytest.mark.parametrize("failing", ["pip", "ruff", "keras-deeplab", "pytest", "sphinx-build"])
def test_the_ci_script_ends_with_the_first_command_that_fails(failing, tmp_path):
    log = tmp_path / "log"
    for name in ("python3", "pip", "ruff", "keras-deeplab", "pytest", "sphinx-build"):
        command = tmp_path / name
        command.write_text(f'#!/bin/sh\necho {name} >> "{log}"\nexit {int(name == failing)}\n')
        command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", str(ROOT / ".ci" / "run")], env=environment, capture_output=True)
    assert done.returncode == 1 and log.read_text().split()[-1] == failing
