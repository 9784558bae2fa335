"""Pictures of every kind are read and resized bit for bit as OpenCV does, and turned upright; others are refused."""

import shutil
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import GOLDEN
from support.drawn import images, picture

from keras_deeplab.pictures.read import read_image
from keras_deeplab.pictures.resize import fit_in_box, resize_uint8

PICTURES = GOLDEN / "pictures"
READABLE = sorted(path.name for path in PICTURES.iterdir() if path.name != "cmyk.jpg")


@pytest.mark.parametrize("name", READABLE)
def test_files_are_read_as_opencv_reads_them(name, golden):
    assert np.array_equal(read_image(PICTURES / name), golden("pictures")[name])


@pytest.mark.parametrize("name", READABLE)
def test_pil_images_are_read_like_their_files(name, golden):
    with Image.open(PICTURES / name) as image:
        assert np.array_equal(read_image(image), golden("pictures")[name])


def test_a_pil_image_of_32_bits_is_refused_unless_it_came_from_a_png(golden):
    with Image.open(PICTURES / "grey16.png") as image:
        values = np.asarray(image).astype(np.int32)
        opened = Image.fromarray(values)  # mode I, as old Pillow opens this PNG
    with pytest.raises(ValueError, match="mode I, whose range is unknown"):
        read_image(opened)
    opened.format = "PNG"
    assert np.array_equal(read_image(opened), golden("pictures")["grey16.png"])


def test_all_eight_orientations_are_different_and_upright(golden):
    turned = [golden("pictures")[f"orientation{turn}.jpg"] for turn in range(1, 9)]
    assert [image.shape[:2] for image in turned] == [(17, 24)] * 4 + [(24, 17)] * 4
    assert len({image.tobytes() for image in turned}) == 8


def test_arrays_keep_their_values():
    rgb = picture(9, 7, seed=0)
    assert np.array_equal(read_image(rgb), rgb)
    assert (
        np.array_equal(read_image(rgb.astype("float64")), rgb) and read_image(rgb.astype("float64")).dtype == np.uint8
    )
    assert np.array_equal(read_image(rgb[..., 0]), np.stack([rgb[..., 0]] * 3, axis=-1))


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((4, 4, 3)) + 0.5, "whole numbers of 0..255"),
        (np.full((4, 4, 3), 256.0), "whole numbers of 0..255"),
        (np.full((4, 4, 3), -1), "whole numbers of 0..255"),
        (np.full((4, 4, 3), np.nan), "whole numbers of 0..255"),
        (np.zeros((4, 4, 4), np.uint8), r"Received: shape \(4, 4, 4\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"Received: shape \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"Received: shape \(0, 4, 3\)"),
        (np.array([["a"]]), "Received: <U1"),
    ],
)
def test_other_arrays_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        read_image(array)


def test_cmyk_is_refused():
    for source in (PICTURES / "cmyk.jpg", Image.open(PICTURES / "cmyk.jpg")):
        with pytest.raises(ValueError, match="CMYK"):
            read_image(source)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no picture .*nowhere.jpg"):
        read_image(tmp_path / "nowhere.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((PICTURES / "rgba.png").read_bytes()[:200])
    (tmp_path / "cut.jpg").write_bytes((PICTURES / "progressive.jpg").read_bytes()[:300])
    for name in ("text.jpg", "cut.png", "cut.jpg"):
        with pytest.raises(ValueError, match=name):
            read_image(tmp_path / name)


def test_other_formats_are_read_by_pillow(tmp_path):
    rgb = picture(9, 7, seed=0)
    for name in ("x.bmp", "x.tif"):
        Image.fromarray(rgb).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), rgb)


@pytest.mark.parametrize("name", ["orientation6.jpg", "orientation6.png"])
def test_damaged_exif_never_stops_the_reading(name, tmp_path):
    data = bytearray((PICTURES / name).read_bytes())
    tag = data.index(b"\x01\x12")  # position of the orientation's tag, big-endian
    shape = read_image(PICTURES / "orientation1.jpg").shape if name.endswith("jpg") else (17, 24, 3)
    for change in ({tag + 9: 9}, {tag + 9: 0}, {tag: 0x7F}, {tag - 3: 0xFF, tag - 2: 0xFF}, {tag - 6: 0xFF}):
        broken = bytearray(data)
        for position, value in change.items():
            broken[position] = value
        shutil.copy(PICTURES / name, tmp_path / name)
        (tmp_path / name).write_bytes(broken)
        try:
            assert sorted(read_image(tmp_path / name).shape) == sorted(shape)
        except ValueError:
            assert name.endswith("png")  # the checksum of the PNG's chunk no longer fits


def test_resize_equals_opencv(golden):
    resize = tf.function(
        resize_uint8, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)] + [tf.TensorSpec([], tf.int32)] * 2
    )
    for height, width, new_height, new_width, crc in golden("pictures")["resize"].tolist():
        resized = resize(images(height, width)[0], new_height, new_width).numpy()
        assert resized.shape == (new_height, new_width, 3)
        assert zlib.crc32(resized.tobytes()) == crc, (height, width, new_height, new_width)


@pytest.mark.parametrize(
    "size, box, expected",
    [
        ((1024, 2048), (2048, 1024), (1024, 2048)),  # Cityscapes keeps its size
        ((333, 500), (2048, 512), (512, 769)),
        ((500, 333), (2048, 512), (769, 512)),
        ((100, 1000), (2048, 512), (205, 2048)),  # the long side of the box is the limit
        ((1, 3000), (520, 520), (1, 520)),  # at least one pixel
    ],
)
def test_pictures_keep_their_ratio_in_the_box(size, box, expected):
    assert tuple(map(int, fit_in_box(*size, *box))) == expected
