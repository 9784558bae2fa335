"""The README and the pages tell the truth: their commands and options exist, the tree is the tree, links lead somewhere."""

import re
import subprocess
import sys
from importlib.util import find_spec

from support import ROOT

from keras_deeplab.commands import VERBS

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]


def test_every_command_exists():
    pages = [README, *(path.read_text() for path in PAGES)]
    verbs = set(re.findall(r"keras-deeplab +([a-z]+)", "".join(pages)))
    assert verbs == set(VERBS)
    for module in set(re.findall(r"python -m ([\w.]+)", "".join(pages))):
        assert find_spec(module), module


def test_commands_in_pages_have_the_options_that_they_use():
    helps = {}
    for verb in VERBS:
        command = [sys.executable, "-X", "importtime", "-m", "keras_deeplab", verb, "--help"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "tensorflow" not in shown.stderr, f"keras-deeplab {verb} --help must answer without TensorFlow"
        helps[verb] = shown.stdout
    for path in PAGES:
        for verb, options in re.findall(r"keras-deeplab +([a-z]+)((?:[^\n`\\]|\\\n)*)", path.read_text()):
            for option in re.findall(r" (--[a-z0-9-]+)", options.partition(" -- ")[0]):  # then Beam's
                assert option in helps[verb], f"{path.name}: keras-deeplab {verb} has no {option}"


def test_every_verb_runs_from_a_checkout_too():
    for verb, (module, _) in VERBS.items():
        assert verb == "convert" or find_spec(f"recipes.{verb}").origin == find_spec(module).origin
    assert find_spec("convert.__main__").origin == find_spec(VERBS["convert"][0]).origin


def test_ci_runs_the_readmes_commands():
    script = (ROOT / ".ci" / "run").read_text()
    for command in ('pip install {}-e ".[test]"', "keras-deeplab quickstart"):
        assert command.format("--quiet ") in script and command.format("") in README
    assert re.search(r"^ *pytest$", script, re.M) and re.search("^pytest$", README, re.M)


def test_the_readme_is_short():
    assert len(README.splitlines()) < 150


def test_the_tree_is_the_tree():
    tree = re.search(r"## What is where\n.*?```\n(.*?)```", README, re.S)[1]
    top, inside = (set(re.findall(pattern, tree, re.M)) for pattern in (r"^(\w+)/", r"^  (\w+)/"))
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and path.name[0] not in "._" and not path.name.endswith("egg-info")
    }
    packages = {path.parent.name for path in (ROOT / "keras_deeplab").glob("*/__init__.py")}
    assert top == folders - {"build", "dist", "quickstart"} and inside == packages


def test_links_lead_somewhere():
    for path in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "RELEASE.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            is_generated = target.startswith(("zoo/", "../zoo/"))  # pages of the site
            assert target.startswith("http") or is_generated or (path.parent / target).exists(), (
                f"{path.name}: {target}"
            )
