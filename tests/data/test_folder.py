"""Folders of images and labels: which files belong together, and one line for each kind of fault."""

import os

import numpy as np
import pytest
from PIL import Image
from support.drawn import picture

from keras_deeplab.data import folder
from keras_deeplab.data.matching import match
from keras_deeplab.data.pairs import find_pairs
from keras_deeplab.pictures import libjpeg
from keras_deeplab.pictures.exif import ORIENTATION


def label_map(height=24, width=32, classes=3):
    return (np.arange(height)[:, None] // 8 + np.arange(width) // 16).astype(np.uint8) % classes


@pytest.fixture
def folders(tmp_path):
    """Three sound pairs: a JPEG, a PNG with a palette label, a TIFF with a 2-bit palette label."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for seed, name in enumerate(("a.jpg", "b.png", "c.tif")):
        Image.fromarray(picture(24, 32, seed)).save(images / name)
    Image.fromarray(label_map()).save(labels / "a.png")
    palette = Image.fromarray(label_map())
    palette.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0])
    palette.save(labels / "b.png")
    palette.save(labels / "c.png", bits=2)
    return images, labels


def test_pairs_have_the_same_stems(folders):
    pairs = find_pairs(*folders)
    assert [path.name for path in pairs.images] == ["a.jpg", "b.png", "c.tif"]
    assert [path.name for path in pairs.labels] == ["a.png", "b.png", "c.png"]
    assert find_pairs(pairs.images, pairs.labels).images == pairs.images
    assert pairs.read(1) == ((folders[0] / "b.png").read_bytes(), (folders[1] / "b.png").read_bytes())


def test_sound_folders_give_a_histogram(folders):
    report = folder.check(*folders, 3)
    assert report.problems == [] and len(report.pairs) == 3 and report.ignored == 0
    counts = 3 * np.bincount(label_map().ravel(), minlength=3)
    assert np.array_equal(report.pixels, counts) and report.pictures.tolist() == [3, 3, 3]
    rows = report.histogram(("road", "sky", "car"))
    assert rows[1][:2] == (0, "road") and rows[-1][0] == 255 and len(rows) == 5


def test_the_zero_label_is_reduced(folders):
    _, labels = folders
    counted = label_map() + 1
    counted[:8] = 0
    for name in "abc":
        Image.fromarray(counted).save(labels / f"{name}.png")
    report = folder.check(*folders, 3, reduce_zero_label=True)
    assert report.problems == [] and report.ignored == 3 * 8 * 32
    assert np.array_equal(report.pixels, 3 * np.bincount(label_map()[8:].ravel(), minlength=3))


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def sixteen_bits(path):
    Image.fromarray(label_map().astype(np.uint16)).save(path)


def coloured(path):
    Image.fromarray(picture(24, 32, 0)).save(path)


def with_200(path):
    label = label_map()
    label[3, :5] = 200
    Image.fromarray(label).save(path)


def counted_from_1(path):
    Image.fromarray(label_map() + 1).save(path)


def smaller(path):
    Image.fromarray(label_map()[:, :30]).save(path)


def jpeg(path):
    Image.fromarray(label_map()).save(path, format="JPEG")


def cmyk(path):
    Image.fromarray(picture(24, 32, 0)).convert("CMYK").save(path)


@pytest.mark.parametrize(
    "name, damage, parts",
    [
        ("labels/b.png", cut_in_half, ["b.png is damaged"]),
        ("images/b.png", cut_in_half, ["b.png is damaged"]),
        ("labels/b.png", sixteen_bits, ["b.png has 16 bits"]),
        ("labels/b.png", coloured, ["b.png has colours or alpha"]),
        ("labels/a.png", with_200, ["a.png holds 200 (5 pixels)", "0..2, and 255 for pixels to ignore."]),
        ("labels/a.png", counted_from_1, ["a.png holds 3 (", "use `reduce_zero_label=True`"]),
        ("labels/a.png", smaller, ["a.jpg is 32x24, but its label", "a.png is 30x24"]),
        ("labels/a.png", jpeg, ["a.png is in fact a JPEG file"]),
        ("images/a.jpg", cmyk, ["a.jpg is CMYK"]),
        ("labels/a.png", lambda path: path.unlink(), ["a.jpg has no label", "a.png"]),
        ("images/a.jpg", lambda path: path.unlink(), ["a.png has no image of the stem 'a'"]),
        ("images/a.jpg", lambda path: path.write_bytes(b""), ["a.jpg is damaged: it is empty"]),
    ],
)
def test_each_fault_is_one_line_that_names_the_file(folders, name, damage, parts):
    damage(folders[0].parent / name)
    report = folder.check(*folders, 3)
    assert len(report.problems) == 1 and "\n" not in report.problems[0]
    assert all(part in report.problems[0] for part in parts), report.problems


def test_a_jpeg_that_libjpeg_complains_of_is_named_and_used(folders, capfd):
    whole = (folders[0] / "a.jpg").read_bytes()
    # OpenCV reads it too, with the same complaint.
    (folders[0] / "a.jpg").write_bytes(whole[: len(whole) - 60] + whole[-2:])
    report = folder.check(*folders, 3)
    assert report.problems == [] and report.sizes == {(32, 24): 3}
    assert len(report.notes) == 1 and report.notes[0].startswith(
        f"{folders[0] / 'a.jpg'} is damaged, and is used as far as"
    )
    assert "(Corrupt JPEG data: premature end of data segment)" in report.notes[0]
    assert capfd.readouterr().err == ""


def test_what_others_write_while_libjpeg_is_overheard_appears_afterwards(capfd):
    with libjpeg.overheard() as complaints:
        os.write(2, b"Corrupt JPEG data: premature end of data segment\nhello\n")
    assert complaints == ["Corrupt JPEG data: premature end of data segment"]
    assert "hello" in capfd.readouterr().err


def test_values_above_the_classes_explain_the_zero_rule(folders):
    with_200(folders[1] / "a.png")
    (line,) = folder.check(*folders, 3, reduce_zero_label=True, allow_missing_classes=True).problems
    assert "0..3, and 255" in line and "every other label is lowered by one" in line


def test_a_folder_without_files_or_with_one_stem_twice_is_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no"):
        folder.check(folders[0], tmp_path / "empty", 3)
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_pairs(tmp_path / "none", folders[1])
    with pytest.raises(FileNotFoundError, match="There is no folder '.*a.png'. It is a file: name the folder"):
        find_pairs(folders[0], folders[1] / "a.png")
    Image.fromarray(picture(24, 32, 0)).save(folders[0] / "b.jpg")
    with pytest.raises(ValueError, match="must have different stems. Received: .*b.png, b.jpg. Keep one"):
        find_pairs(*folders)


def test_training_refuses_a_missing_partner(folders):
    (folders[1] / "a.png").unlink()
    with pytest.raises(ValueError, match="a.jpg has no label"):
        find_pairs(*folders)
    with pytest.raises(ValueError, match="as many labels as images"):
        find_pairs(["a.png"], [])
    with pytest.raises(ValueError, match="must be paths of files. Received: ndarray in a list"):
        find_pairs([picture(24, 32, 0)], ["a.png"])
    with pytest.raises(ValueError, match="Labels are needed"):
        find_pairs(folders[0])


def test_the_size_of_a_photo_is_that_after_its_exif_orientation(folders):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(picture(32, 24, 0)).save(folders[0] / "a.jpg", exif=exif)
    assert folder.check(*folders, 3).problems == []


def test_class_names_are_read_if_there_is_a_file_of_them(folders):
    assert folder.read_classes(*folders) is None
    (folders[0].parent / "classes.txt").write_text("road\nsky \n\ncar\n")
    assert folder.read_classes(*folders) == ("road", "sky", "car")


def masks(folders, *values, count=3):
    """Label maps of three pictures whose pixels are these values in equal parts."""
    label = np.repeat(np.array(values, np.uint8), 768 // len(values)).reshape(24, 32)
    for name in "abc"[:count]:
        Image.fromarray(label).save(folders[1] / f"{name}.png")
    return folders


@pytest.mark.parametrize(
    "values, num_classes, rule, parts",
    [
        (
            (0, 255),
            2,
            {},
            ["Class 1 of 0..1", "0 (50 %), 255 (50 %); 255 is ignored", "need `label_map={255: 1}`: 255 is"],
        ),
        ((0, 255), 3, {}, ["Classes 1..2 of 0..2", "`label_map={255: 1}` with `num_classes=2`"]),
        ((0, 255), 2, {"reduce_zero_label": True}, ["`label_map={255: 1}`", "Leave `reduce_zero_label` out."]),
        ((1, 2), 3, {}, ["Class 0 of 0..2", "use `reduce_zero_label=True` and `num_classes=2`"]),
        ((1, 2, 3), 3, {}, ["Class 0 of 0..2", "use `reduce_zero_label=True` and `num_classes=3`"]),
        ((0, 1, 2), 5, {}, ["Classes 3..4 of 0..4", "If there are only 3 classes, use `num_classes=3`."]),
        ((0, 1, 2), 3, {"reduce_zero_label": True}, ["Class 2 of", "leave `reduce_zero_label` out"]),
        ((0, 1), 3, {"label_map": {1: 2}}, ["Class 1 of 0..2", "(1 becomes 2)"]),
        ((0, 3), 4, {}, ["Classes 1..2 of 0..3", "Look at the label maps"]),
    ],
)
def test_a_class_in_no_label_map_is_a_fault_with_its_remedy(folders, values, num_classes, rule, parts):
    report = folder.check(*masks(folders, *values), num_classes, **rule)
    assert all(part in report.problems[0] for part in parts), report.problems
    assert "`allow_missing_classes=True`" in report.problems[0]
    allowed = folder.check(*folders, num_classes, allow_missing_classes=True, **rule)
    assert allowed.problems == report.problems[1:] and allowed.missing == report.missing != []


def test_a_label_map_is_applied_after_the_zero_rule(folders):
    masks(folders, 0, 1, 2, 255)
    report = folder.check(*folders, 2, label_map={255: 1, 1: 0, 2: 1})
    assert report.problems == [] and report.pixels.tolist() == [3 * 384, 3 * 384] and report.ignored == 0
    report = folder.check(*folders, 2, reduce_zero_label=True, label_map={0: 1, 1: 0, 255: 255})
    assert report.pixels.tolist() == [3 * 192, 3 * 192] and report.ignored == 3 * 384
    for wrong in ({255: 256}, {"a": 1}, {0: 0.5}, [1]):
        with pytest.raises(ValueError, match="`label_map` must be"):
            folder.check(*folders, 2, label_map=wrong)


def test_soft_edges_and_too_few_classes_are_explained(folders):
    Image.fromarray(np.arange(768, dtype=np.int64).reshape(24, 32).astype(np.uint8)).save(folders[1] / "a.png")
    (line,) = folder.check(*folders, 2, label_map={255: 1}).problems[:1]
    assert "mask > 127" in line
    with pytest.raises(
        ValueError, match="from 2 to 255; the background is a class too. Received: 1. .*`num_classes=2`"
    ):
        folder.check(*folders, 1)


def test_many_label_maps_are_read_until_every_class_was_seen(folders, monkeypatch):
    monkeypatch.setattr(folder, "READ_AT_ONCE", 1)
    masks(folders, 0, 1)
    Image.fromarray(label_map()).save(folders[1] / "b.png")  # alone has class 2, and is not among the evenly spaced two
    pairs = match(*folders).pairs
    assert folder.check_pairs(pairs, 2, at_most=2).scanned == 2
    report = folder.check_pairs(pairs, 3, at_most=2)
    assert report.scanned == 3 and report.problems == [] and report.sizes == {(32, 24): 2}
    assert folder.check_pairs(pairs, 3, at_most=3).sizes == {(32, 24): 3}
    assert folder.picture_sizes(find_pairs(*folders), 2) == ({(32, 24): 2}, 2)
