"""The package's rooms import one another in one direction: each may import only from rooms listed above it."""

import ast
from pathlib import Path

import pytest
from support import ROOT

ROOMS = [  # README and CONTRIBUTING describe them; recipes and convert stand at the top of a checkout
    "version",
    "catalog",
    "pictures",
    "keras_tools",
    "files",
    "progress",
    "networks",
    "zoo",
    "data",
    "inference",
    "evaluation",
    "training",
    "serving",
    "recipes",
    "commands",
    "convert",
    "public",
    "renamed",
]
ALONE = {"catalog", "pictures", "keras_tools", "files", "progress"}  # these import nothing of ours at all


def room_of(module):
    """The room of a dotted name such as keras_deeplab.data.pairs; None if it is not ours, "" for the whole package."""
    package, _, rest = module.partition(".")
    if package in ("recipes", "convert"):
        return package
    return rest.partition(".")[0] if package == "keras_deeplab" else None


def imports_of(source):
    """(line, module) of every import, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"line {node.lineno}: imports are absolute")
            if node.module == "keras_deeplab":  # `from keras_deeplab import recipes` is an import of the room
                yield from ((node.lineno, f"keras_deeplab.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module


def broken_arrows(path, source):
    """A line for each import of a room that is not above the file's own."""
    own = path.relative_to(ROOT).parts[0]
    if own == "keras_deeplab":
        own = path.relative_to(ROOT / "keras_deeplab").parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return []
    lines = []
    for line, module in imports_of(source):
        room = room_of(module)
        if room is None or room == own or room == "version":
            continue
        if room not in ROOMS or ROOMS.index(room) > ROOMS.index(own) or own in ALONE:
            lines.append(f"{path.relative_to(ROOT)}:{line} imports {module}; {own} may import only rooms above it")
    return lines


def files():
    return [path for top in ("keras_deeplab", "recipes", "convert") for path in sorted((ROOT / top).rglob("*.py"))]


def test_every_arrow_goes_up():
    assert [line for path in files() for line in broken_arrows(path, path.read_text())] == []


def test_every_folder_and_file_of_the_package_is_a_room():
    package = ROOT / "keras_deeplab"
    found = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__", "__main__"} == set(ROOMS) - {"recipes", "convert"}


@pytest.mark.parametrize(
    "place, source, said",
    [
        ("networks/aspp.py", "from keras_deeplab.zoo import fetch", "networks/aspp.py:1 imports keras_deeplab.zoo"),
        (
            "data/pairs.py",
            "def f():\n    import keras_deeplab.training.losses",
            "pairs.py:2 imports keras_deeplab.training",
        ),
        ("training/losses.py", "import keras_deeplab as kd", "losses.py:1 imports keras_deeplab; training may"),
        ("catalog/rows.py", "from keras_deeplab.pictures import read", "catalog may import only"),
        ("serving/export.py", "from keras_deeplab import recipes", "imports keras_deeplab.recipes"),
        ("zoo/assign.py", "import recipes", "imports recipes"),
    ],
)
def test_an_arrow_that_goes_down_is_named_with_its_file_and_line(place, source, said):
    (line,) = broken_arrows(Path(ROOT, "keras_deeplab", place), source)
    assert said in line


def test_the_model_files_say_nothing_of_folding_and_the_fast_ways_have_one_door():
    networks = ROOT / "keras_deeplab" / "networks"
    for name in ("deeplab.py", "aspp.py", "decoder.py", "backbones/resnet.py"):
        assert "folded" not in (networks / name).read_text(), name
    doors = {"convolution", "folded"}
    for path in files():
        if path.is_relative_to(networks / "fast"):
            continue
        for line, module in imports_of(path.read_text()):
            inside = module.removeprefix("keras_deeplab.networks.fast.") if ".networks.fast" in module else "folded"
            assert inside in doors or inside == "keras_deeplab.networks.fast", (
                f"{path}:{line} goes past the door: {module}"
            )
