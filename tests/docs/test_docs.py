"""What docs/ makes of the code: the README's table, a page for each model, the reference, and pictures."""

import json
import re
import shlex
import subprocess

import numpy as np
import pytest
from PIL import Image
from support import ROOT, miniatures
from support.cache import release
from support.drawn import picture
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab import commands
from keras_deeplab.catalog import rows
from keras_deeplab.recipes.scenes import write_scenes


@pytest.fixture(scope="module")
def docs():
    """Imports the scripts of docs/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        import zoo

        yield zoo


def test_the_readmes_table_is_that_of_the_presets(docs):
    readme, presets = (ROOT / "README.md").read_text(), kd.list_presets(details=True)
    assert docs.fill(readme, docs.models_table(presets)) == readme, "run python docs/zoo.py"
    table = docs.models_table(presets)
    assert sum(map(int, re.findall(r"(\d+) of", table))) == len(presets)
    best = max(row.mIoU for row in rows.select(dataset="cityscapes", backbone="r101"))
    (line,) = re.findall(r"\| r101 \|.*", table)
    assert f"| {best:.1f} |" in line and line.endswith("| 1.8 |")
    assert all(f"| {backbone} |" in table for backbone in rows.backbones())


def test_every_model_has_a_page_with_its_facts(docs, tmp_path):
    pytest.importorskip("yaml", reason="needs the extra: docs")
    docs.write_cards(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"index", *rows.ROWS}
    index = (tmp_path / "index.md").read_text()
    compared = {entry["row"] for entry in json.loads((ROOT / "docs" / "agreement.json").read_text())}
    for name, row in rows.ROWS.items():
        page = (tmp_path / f"{name}.md").read_text()
        assert f"[{name}]({name}.md)" in index and f'kd.from_preset("{name}")' in page
        assert row.checkpoint_licence in page and page.count('<span class="class">') == len(row.classes)
        original = {"OpenMMLab": "mmsegmentation 1.2.2", "torchvision": "torchvision 0.29.1"}.get(
            row.source, "the authors' code"
        )
        assert (name in compared) <= (f"Compared with {original}" in page)
        assert "doi" in page or "arxiv.org" in page


def test_a_models_page_has_the_figures_of_its_own_network(docs):
    row = rows.find("deeplabv3plus_r50-d8_512x512_80k_ade20k")
    text = docs.proof(row)
    assert "at full size, on 2026-11-2" in text and "99.9960 % of the labels equal, mIoU within 0.0041 points" in text
    assert "with an eighth of the channels" in text
    assert "2.03 times as fast as the original, in 312 MiB (the original: 649)" in docs.speed(
        rows.find("deeplabv3plus_r50-d8_512x1024_80k_cityscapes")
    )
    for name in ("deeplabv3plus_s101_cityscapes", "deeplabv3_r101-d16-mg124_512x1024_80k_cityscapes"):
        assert docs.speed(rows.find(name)).startswith("Not measured.")


def test_the_reference_has_every_public_name():
    named = re.findall(r"auto\w+:: (?:keras_deeplab\.\w+\.)?(\w+)", (ROOT / "docs" / "reference.md").read_text())
    assert sorted(named) == [name for name in kd.__all__ if name != "__version__"]


def test_every_page_is_in_the_sites_contents():
    index = (ROOT / "docs" / "index.md").read_text()
    named = set(re.findall(r"^([\w/]+)$", "\n".join(re.findall(r"```{toctree}(.*?)```", index, re.S)), re.M))
    pages = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (ROOT / "docs").glob("*.md")}
    pages |= {f"tutorials/{path.stem}" for path in (ROOT / "docs" / "tutorials").glob("*.md")}
    assert named == pages - {"index"} | {"zoo/index"}


def test_panels_name_each_class_in_its_own_place(docs):
    pytest.importorskip("scipy", reason="needs the extra: docs")
    from make_picture import GAP, panels, widest_place

    labels = np.zeros((200, 300), np.uint8)
    labels[:, 200:] = 1
    labels[0, 0] = 2  # too few pixels for a name
    row, column = widest_place(labels == 1)
    assert column == pytest.approx(250, abs=1) and 49 <= row <= 150 and widest_place(labels == 2) is None
    sheet = np.asarray(panels(picture(200, 300, seed=0), labels, ["a", "b", "c"], [(9, 9, 9), (200, 0, 0), (0, 0, 9)]))
    assert np.array_equal(sheet[:, :300], picture(200, 300, seed=0)) and sheet.shape == (200, 600 + GAP, 3)
    assert (sheet[199, -1] == (200, 0, 0)).all() and (sheet[:, 300 + GAP + 200 :] == 255).all(-1).any()


def test_the_gallery_is_made_from_released_files(docs, here):
    pytest.importorskip("scipy", reason="needs the extra: docs")
    import make_gallery

    release(here, "deeplabv3plus_r18_loveda")
    Image.fromarray(picture(60, 80, seed=0)).save("lake.jpg")
    make_gallery.main(["--rows", "deeplabv3plus_r18_loveda", "--photos", "lake.jpg", "--to", "out"])
    page, name = (here / "out" / "gallery.md").read_text(), rows.find("deeplabv3plus_r18_loveda").name
    assert f"## {name}" in page and rows.find(name).file in page and kd.__version__ in page
    (shown,) = re.findall(r"\]\((gallery/.*\.jpg)\)", page)
    assert Image.open(here / "out" / shown).height == 60
    with pytest.raises(
        ValueError, match="must have names of their own.*: pictures are named after them. Received: lake"
    ):
        make_gallery.main(["--photos", "lake.jpg", "./lake.jpg"])


def test_the_readmes_picture_shows_photographs_side_by_side(docs):
    pytest.importorskip("scipy", reason="needs the extra: docs")
    import make_picture

    photos = [Image.fromarray(picture(60, width, seed=0)) for width in (90, 60)]
    sheet = make_picture.strip(photos, drawn("deeplabv3plus_r18_loveda"))
    assert sheet.width == (90 + 60) * make_picture.HEIGHT // 60 and sheet.height > make_picture.HEIGHT
    assert np.asarray(sheet)[: make_picture.HEIGHT, 90 * make_picture.HEIGHT // 60 :].std() > 10  # the second is there


TUTORIALS = {  # each with a file that it leaves
    "segment": "careful/street.png",
    "finetune": "models/mine/1/saved_model.pb",
    "score": "report/index.html",
    "serve": "models/deeplab/1/saved_model.pb",
    "million": "labels/a/0.png",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_the_commands_of_a_tutorial_run(name, here, monkeypatch):
    release(here, "deeplabv3plus_r18_cityscapes", "deeplabv3plus_r101_cityscapes")
    miniatures.draw("cityscapes", here / "downloads" / "cityscapes")
    for folder in ("images", "labels", "photos/a"):
        (here / folder).mkdir(parents=True)
    for i in range(3):
        for folder in ("images", "photos/a"):
            Image.fromarray(picture(60, 80, seed=i)).save(here / folder / f"{i}.png")
        Image.fromarray(picture(60, 80, seed=i)[..., 0] % 19).save(here / "labels" / f"{i}.png")
    Image.fromarray(picture(60, 80, seed=0)).save("street.jpg")
    for number, kind in enumerate(("train", "held_out")):  # as the quickstart draws them
        write_scenes(here / "quickstart" / "scenes" / kind, 30, seed=number)
    page = (ROOT / "docs" / "tutorials" / f"{name}.md").read_text()
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page, re.S | re.M)
    for line in "".join(block for language, block in blocks if not language).replace("\\\n", "").splitlines():
        carry_out(line, monkeypatch)
    for block in (block for language, block in blocks if language == "python"):
        exec(re.sub("^   ", "", block, flags=re.M), {})
    assert (here / TUTORIALS[name]).exists()


def carry_out(line, monkeypatch):
    """Runs a line of a tutorial: shortened where it trains; the quickstart's scenes are there, and Docker may not be."""
    if "docker" in line or "quickstart --to" in line:
        return
    verb, *words = shlex.split(line.replace("--steps 500", "--steps 2"))
    if verb == "keras-deeplab":
        monkeypatch.setattr("sys.argv", [verb, *words])
        commands.main()
    else:
        subprocess.run(line, shell=True, check=True)
