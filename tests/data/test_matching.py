"""Which pictures and label maps belong together: suffixes, subfolders and split files."""

import numpy as np
import pytest
from PIL import Image

from keras_deeplab.data import folder
from keras_deeplab.data.matching import match
from keras_deeplab.data.pairs import find_pairs


def make(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def names_of(found, root):
    return [tuple(path.relative_to(root).as_posix() for path in pair) for pair in found.pairs]


@pytest.fixture
def cityscapes(tmp_path):
    """Two cities of the official layout, with four kinds of label files for each picture."""
    for city, number in (("aachen", "000000_000019"), ("bochum", "000000_000313"), ("bochum", "000000_000600")):
        stem = f"{city}/{city}_{number}"
        make(tmp_path / "leftImg8bit" / "train", [f"{stem}_leftImg8bit.png"])
        kinds = ("color", "instanceIds", "labelIds", "labelTrainIds")
        make(tmp_path / "gtFine" / "train", [f"{stem}_gtFine_{kind}.png" for kind in kinds])
    return tmp_path / "leftImg8bit" / "train", tmp_path / "gtFine" / "train"


def test_the_official_layout_of_cityscapes_is_found_by_itself(cityscapes, tmp_path):
    found = match(*cityscapes)
    assert names_of(found, tmp_path)[0] == (
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png",
    )
    assert len(found.pairs) == 3 and found.problems == [] and found.keys[0] == "aachen/aachen_000000_000019"
    assert found.notes == [
        "The names of the pictures end with '_leftImg8bit'.",
        "The names of the label maps end with '_gtFine_labelTrainIds'.",
    ]
    chosen = match(*cityscapes, image_suffix="_leftImg8bit", label_suffix="_gtFine_labelIds.png")
    assert [label.name.endswith("_gtFine_labelIds.png") for _, label in chosen.pairs] == [True] * 3


def test_several_kinds_of_label_maps_need_a_choice(cityscapes):
    for path in cityscapes[1].rglob("*labelTrainIds.png"):
        path.unlink()
    with pytest.raises(ValueError, match="3 kinds of them, .* _gtFine_color, .*`label_suffix=_gtFine_labelIds`"):
        match(*cityscapes)


@pytest.mark.parametrize(
    "images, labels, pairs",
    [
        (["a.jpg", "b.jpg"], ["a_mask.png", "b_mask.png"], 2),
        (["a.jpg", "a_1.jpg"], ["a_gt.png", "a_1_gt.png"], 2),
        (["a_image.jpg", "b_image.jpg"], ["a_label.png", "b_label.png"], 2),
        (["a_image.jpg", "b_image.jpg"], ["a.png", "b.png"], 2),
        (["x/1.jpg", "y/1.jpg"], ["x/1.png", "y/1.png"], 2),
        (["x/1.jpg", "y/2.jpg"], ["1.png", "2.png"], 2),
        (["1.jpg", "2.jpg"], ["x/1-seg.png", "y/2-seg.png"], 2),
        (["1.jpg", "old/2.jpg"], ["1.png"], 1),
        (["one.tif"], ["one_gt.png"], 1),
    ],
)
def test_names_that_differ_by_a_suffix_or_a_folder_belong_together(tmp_path, images, labels, pairs):
    found = match(make(tmp_path / "images", images), make(tmp_path / "labels", labels))
    assert found.problems == [] and len(found.pairs) == pairs
    for image, label in found.pairs:
        assert label.stem.split("_")[0].split("-")[0] == image.stem.split("_")[0]


def test_a_missing_label_is_named_also_after_a_found_suffix(tmp_path):
    images = make(tmp_path / "images", ["a.jpg", "b.jpg", "c.jpg"])
    labels = make(tmp_path / "labels", ["a_mask.png", "b_mask.png"])
    assert match(images, labels).problems == [f"{images / 'c.jpg'} has no label: {labels / 'c_mask.png'} is missing."]


def test_folders_without_a_common_name_are_one_line(tmp_path):
    images, labels = make(tmp_path / "images", ["a.jpg", "b.jpg"]), make(tmp_path / "labels", ["1.png", "2.png"])
    (line,) = match(images, labels).problems
    assert "a.jpg" in line and "1.png" in line and "`label_suffix=...`" in line


def test_labels_inside_the_folder_of_pictures_are_no_pictures(tmp_path):
    make(tmp_path, ["city/a.png", "labels/city/a.png", "city/.hidden/b.png"])
    found = match(tmp_path, tmp_path / "labels")
    assert names_of(found, tmp_path) == [("city/a.png", "labels/city/a.png")]


LINES = "aachen/aachen_000000_000019_leftImg8bit.png\nbochum_000000_000600\n"


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode("utf-8"),
        LINES.encode("utf-8-sig"),
        LINES.replace("\n", "\r\n").encode("utf-16"),
        LINES.replace("/", "\\").encode(),
        b"\n/leftImg8bit/train/" + LINES.encode() + b"\n\n",
        b"aachen/aachen_000000_000019 x.png\nbochum/bochum_000000_000600 y.png",
    ],
)
def test_a_split_file_names_pictures_by_stem_or_path(cityscapes, tmp_path, content):
    (tmp_path / "train.txt").write_bytes(content)
    found = match(*cityscapes, split_file=tmp_path / "train.txt")
    assert found.keys == ["aachen/aachen_000000_000019", "bochum/bochum_000000_000600"] and found.problems == []


def test_a_split_file_s_mistakes_are_named(cityscapes, tmp_path):
    (tmp_path / "train.txt").write_text("aachen_000000_000019\nnothing\naachen/aachen_000000_000019\n")
    problems = match(*cityscapes, split_file=tmp_path / "train.txt").problems
    assert [line.partition("train.txt ")[2][:16] for line in problems] == ["names 'nothing',", "names the pictur"]
    (tmp_path / "empty.txt").write_bytes(b"\xef\xbb\xbf\n")
    with pytest.raises(ValueError, match="at least one picture"):
        match(*cityscapes, split_file=tmp_path / "empty.txt")
    with pytest.raises(FileNotFoundError, match="no split file"):
        match(*cityscapes, split_file=tmp_path / "none.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_class_names_are_read_in_every_encoding(tmp_path, encoding):
    (tmp_path / "classes.txt").write_bytes("Straße\r\nHäuser\r\n".encode(encoding))
    assert folder.read_classes(tmp_path, tmp_path) == ("Straße", "Häuser")


def test_pairs_have_names_with_their_folder(tmp_path):
    make(tmp_path / "images", ["x/1.jpg", "y/1.jpg"])
    make(tmp_path / "labels", ["x/1_gt.png", "y/1_gt.png"])
    assert find_pairs(tmp_path / "images", tmp_path / "labels").stems == ["x/1", "y/1"]
    with pytest.raises(ValueError, match="two folders, or two lists"):
        find_pairs(tmp_path / "images", [])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    assert find_pairs([tmp_path / "a.png"], [tmp_path / "a.png"]).stems == ["a"]
