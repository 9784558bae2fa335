"""Rare kinds of files have OpenCV's values or are refused with the reason; mistakes in the call are named."""

import io
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.drawn import picture

import keras_deeplab as kd
from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.data.folder import check
from keras_deeplab.evaluation.report import describe
from keras_deeplab.inference.segment import check_pictures
from keras_deeplab.pictures.labels import check_class_count, read_label
from keras_deeplab.pictures.read import read_bytes, read_image

DEEP = np.random.default_rng(0).integers(0, 65536, (5, 6, 4))
FEW = np.random.default_rng(1).integers(0, 256, (5, 6, 4))


def tiff(values, photometric, bits, extra=None, more=()):
    """The bytes of a TIFF without compression; `values` is (H, W, samples)."""
    height, width, samples = values.shape
    tags = {
        256: [width],
        257: [height],
        258: [bits] * samples,
        259: [1],
        262: [photometric],
        277: [samples],
        278: [height],
    }
    tags |= {273: [0], 279: [values.size * bits // 8], **({338: [extra]} if extra is not None else {}), **dict(more)}
    start = 8 + 2 + 12 * len(tags) + 4
    entries, blob = b"", b""
    tags[273] = [start + 2 * samples * (samples > 2)]
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}H", *numbers)
        if len(packed) > 4:
            blob, packed = blob + packed, struct.pack("<I", start + len(blob))
        entries += struct.pack("<HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    assert tags[273] == [start + len(blob)]
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
        + blob
        + values.astype(f"<u{bits // 8}").tobytes()
    )


def bmp(words, masks=None):
    """The bytes of a BMP of 16 bits a pixel, the last row first."""
    height, width = words.shape
    extra = struct.pack("<III", *masks) if masks else b""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3 if masks else 0, 0, 0, 0, 0, 0) + extra
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(header)) + header + words[::-1].astype("<u2").tobytes()


def rounded(values):
    return (values + 128) // 257


@pytest.mark.parametrize(
    "data, expected",
    [  # libtiff's rules, which OpenCV uses: 16 bits are rounded; separate alpha (2) multiplies; stored products (1) stay
        (tiff(DEEP[..., :3], 2, 16), rounded(DEEP[..., :3])),
        (tiff(DEEP, 2, 16, 1), rounded(DEEP[..., :3])),
        (tiff(DEEP, 2, 16, 2), (rounded(DEEP[..., :3]) * rounded(DEEP[..., 3:]) + 127) // 255),
        (tiff(FEW, 2, 8, 1), FEW[..., :3]),
        (tiff(FEW, 2, 8, 0), FEW[..., :3]),
        (tiff(FEW, 2, 8, 2), (FEW[..., :3] * FEW[..., 3:] + 127) // 255),
        (tiff(DEEP[..., :1], 1, 16), np.repeat(DEEP[..., :1] >> 8, 3, axis=2)),
    ],
)
def test_tiffs_have_the_values_of_opencv(data, expected):
    assert np.array_equal(read_bytes(data, "x.tif"), expected)


def test_bmps_of_16_bits_have_the_values_of_opencv():
    words = DEEP[..., 0]
    parts = [
        np.stack([words >> high & top, words >> 5 & green, words & 31], -1)
        for high, top, green in ((10, 31, 31), (11, 31, 63))
    ]
    assert np.array_equal(read_bytes(bmp(words), "x"), parts[0] * 8)
    assert np.array_equal(read_bytes(bmp(words, (0xF800, 0x7E0, 0x1F)), "x"), parts[1] * [8, 4, 8])


def turned_webp():
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(picture(9, 7, 0)).save(file, "WEBP", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    "data, message",
    [
        (tiff(FEW[..., :3], 8, 8), "rare kind: photometric 8"),  # Lab
        (tiff(FEW[..., :3], 6, 8), "YCbCr without compression"),
        (tiff(DEEP[..., :1], 0, 16), "rare kind: photometric 0"),  # white is zero
        (tiff(DEEP[..., :1], 1, 16, more=[(339, [2])]), "signed or floating-point"),
        (b"P6 1 1 65535\n" + bytes(6), "highest value is 65535"),
        (turned_webp(), "WebP file with an Exif turn"),
        (b"", "damaged: it is empty"),
        (b"<!DOCTYPE html>", "HTML or XML text"),
        (b"iVBORw0KGgo", "base64 text"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\xff\xd8\xff", "is damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "its bytes are not a whole PNG"),
        (b"DDS " + struct.pack("<I", 124) + bytes(120), "damaged, or of a kind"),
    ],
)
def test_kinds_without_agreed_values_are_refused_with_the_reason(data, message):
    with pytest.raises(ValueError, match=f"x.file .*{message}") as error:
        read_bytes(data, "x.file")
    assert "\n" not in str(error.value) and "Graph" not in str(error.value)


def test_a_cut_jpeg_is_refused_without_a_word_on_the_terminal(capfd):
    file = io.BytesIO()
    Image.fromarray(picture(40, 40, 0)).save(file, "JPEG")
    with pytest.raises(ValueError, match="x.jpg is damaged: its JPEG data ends too early"):
        read_bytes(file.getvalue()[:-40], "x.jpg")
    assert "JPEG" not in "".join(capfd.readouterr())


def test_the_pixel_limit_is_ours_and_can_be_raised(monkeypatch):
    for file_format in ("PNG", "JPEG", "BMP"):
        file = io.BytesIO()
        Image.fromarray(picture(40, 50, 0)).save(file, file_format)
        monkeypatch.setenv("KERAS_DEEPLAB_MAX_PIXELS", "1999")
        with pytest.raises(ValueError, match="50x40 = 2000 pixels, more than 1999.* KERAS_DEEPLAB_MAX_PIXELS to 2000"):
            read_bytes(file.getvalue(), "x")
        monkeypatch.setenv("KERAS_DEEPLAB_MAX_PIXELS", "2000")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own limit
        assert read_bytes(file.getvalue(), "x").shape == (40, 50, 3)


def test_what_is_no_path_is_named_shortly(tmp_path):
    for text, message in (
        ("http://127.0.0.1:9/a.jpg", "http://127.0.0.1:9/a.jpg cannot be read"),
        ("/9j/" + "A" * 5000, "base64.b64decode"),
        ("a" * 5000, "There is no picture"),
        (str(tmp_path), "Received the folder"),
    ):
        with pytest.raises((ValueError, OSError), match=message) as error:
            read_image(text)
        assert len(str(error.value)) < 250


def test_the_last_class_never_has_label_255():
    check_class_count(255, False)
    check_class_count(254, True)
    for count, reduced in ((256, False), (255, True)):
        with pytest.raises(ValueError, match=f"Received: {count}"):
            check_class_count(count, reduced)


def test_a_report_names_a_box_only_where_there_is_one():
    options = {"resize": None, "multi_scale_flip": True}
    for box, words in ((None, "six scales of the picture"), ((64, 32), "resized into 64x32, six scales of the box")):
        assert words in describe(SimpleNamespace(protocol=Protocol("whole", resize=box)), options)


def test_nested_lists_are_no_pictures():
    rows = picture(4, 5, 0).tolist()
    for call in (check_pictures, read_image):
        with pytest.raises(ValueError, match="nested lists.* np.array"):
            call(rows)
    check_pictures([picture(4, 5, 0), "a.jpg", b"bytes"])


def test_one_judgement_decides_whatever_the_name(tmp_path):
    """A JPEG mask named .png is refused everywhere; a TIFF named .jpg is read everywhere."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    label = np.arange(24 * 32).reshape(24, 32) % 3
    Image.fromarray(picture(24, 32, 0)).save(images / "a.jpg", format="TIFF")
    Image.fromarray(label.astype(np.uint8)).save(labels / "a.png")
    assert check(images, labels, 3).problems == []
    image, read = next(kd.evaluation_data(images, labels, reduce_zero_label=False).as_numpy_iterator())
    assert np.array_equal(image, picture(24, 32, 0)) and np.array_equal(read, label)
    Image.fromarray(label.astype(np.uint8)).save(labels / "a.png", format="JPEG")
    message = "a.png is in fact a JPEG file"
    assert message in check(images, labels, 3).problems[0]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        next(iter(kd.evaluation_data(images, labels, reduce_zero_label=False)))
    with pytest.raises(ValueError, match=message):
        read_label((labels / "a.png").read_bytes(), "a.png")
