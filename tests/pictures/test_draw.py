"""Pictures of label maps: ids are kept, colours are those of the palette, and the legend names the classes that occur."""

import numpy as np
import pytest
from PIL import Image

import keras_deeplab as kd
from keras_deeplab.pictures.draw import LEGEND_CLASSES, edged, label_picture, legend, shares_by_area

LABELS = np.repeat(np.array([[0, 1], [1, 255]], np.uint8), 50, 0).repeat(80, 1)
PALETTE = ((255, 0, 0), (0, 255, 0))


def test_palette_pictures_hold_ids_and_show_colours(tmp_path):
    kd.palette_image(LABELS, PALETTE).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), LABELS)
        rgb = np.asarray(image.convert("RGB"))
    assert (
        rgb[0, 0].tolist() == [255, 0, 0] and rgb[0, -1].tolist() == [0, 255, 0] and rgb[-1, -1].tolist() == [0, 0, 0]
    )


def test_overlays_blend_the_classes_and_leave_ignored_pixels():
    picture = np.full((*LABELS.shape, 3), 100, np.uint8)
    drawn = np.asarray(kd.overlay(picture, LABELS, ("road", "sky"), PALETTE, opacity=0.5))
    assert drawn.shape[1] == 160 and drawn.shape[0] > 100
    assert drawn[0, 0].tolist() == [178, 50, 50] and drawn[99, 159].tolist() == [100, 100, 100]
    assert drawn[20, 79].tolist() == [255, 0, 0] and drawn[20, 80].tolist() == [0, 255, 0]  # their edges
    key = {tuple(c) for c in drawn[100:].reshape(-1, 3)}
    assert {(50, 178, 50), (178, 50, 50)} <= key and (0, 255, 0) not in key  # as the classes look in the picture


def test_edges_are_where_labels_differ_and_as_wide_as_the_picture_needs():
    for side, width in ((40, 1), (1500, 3)):
        labels = np.zeros((side, side), np.uint8)
        labels[:, side // 2 :], labels[: side // 4] = 1, 255
        pixels = np.full((side, side, 3), 9, np.uint8)
        edged(pixels, labels, PALETTE)
        row = pixels[-1, :, :2].astype(int)
        assert row[:, 0].tolist() == [9] * (side // 2 - width) + [255] * width + [0] * width + [9] * (side // 2 - width)
        assert (pixels[: side // 4] == 9).all()  # pixels without a class keep their own colour
        assert (pixels[side // 4 : side // 4 + width, :5] == (255, 0, 0)).all() and (pixels[-5:, :5] == 9).all()


def test_the_legend_sums_up_what_is_beyond_twenty():
    labels = np.repeat(np.arange(23, dtype=np.uint8), range(1, 24))[None]
    entries = shares_by_area(labels, [f"c{i}" for i in range(150)])
    assert entries[0] == (22, "c22 8.3%") and entries[19] == (3, "c3 1.4%") and len(entries) == LEGEND_CLASSES + 1
    assert entries[20] == (None, "3 others 2.2%")  # (1 + 2 + 3) / 276
    assert shares_by_area(np.full((2, 2), 255, np.uint8), ["a", "b"]) == []


def test_pixels_without_a_class_are_striped_also_where_a_class_is_black():
    drawn = label_picture(np.where(LABELS == 0, 0, LABELS), ((0, 0, 0), (0, 255, 0)))
    assert (drawn[:50, :80] == 0).all() and set(drawn[50:, 80:].ravel().tolist()) == {170, 220}


def test_a_legend_wraps_in_a_narrow_picture():
    entries = [((i, i, i), f"class number {i}") for i in range(8)]
    assert legend(entries, 150, 12).height > legend(entries, 2000, 12).height > 0
    assert legend(entries, 2000, 30).height > legend(entries, 2000, 12).height
    assert legend([], 100, 12).height == 0


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.full((4, 6), 2), "Labels must be 0..1, .* or 255. Received: 2"),
        (np.full((4, 6), -1), "Received: -1"),
        (np.full((4, 6), 300), "Received: 300"),
        (np.zeros((4, 6)), "must hold integers"),
        (np.zeros((4, 6, 1), np.uint8), r"shape \(4, 6, 1\)"),
    ],
)
def test_labels_that_the_palette_does_not_know_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        kd.palette_image(labels, PALETTE)
    with pytest.raises(ValueError, match=message):
        kd.overlay(np.zeros((4, 6, 3), np.uint8), labels, ("road", "sky"), PALETTE)


def test_overlays_take_what_segment_takes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: 4 wide and 6 high in the file, 6 wide and 4 high upright
    image = Image.fromarray(np.full((6, 4, 3), 90, np.uint8))
    image.save(tmp_path / "x.jpg", exif=exif)
    labels = np.zeros((4, 6), np.uint8)
    for source in (tmp_path / "x.jpg", (tmp_path / "x.jpg").read_bytes(), Image.open(tmp_path / "x.jpg")):
        assert kd.overlay(source, labels, ("road", "sky"), PALETTE).width == 6
    with pytest.raises(ValueError, match="have its picture's size"):
        kd.overlay(image, labels, ("road", "sky"), PALETTE)
    with pytest.raises(ValueError, match="Received: 1 classes, 2 colours"):
        kd.overlay(tmp_path / "x.jpg", labels, ("road",), PALETTE)
