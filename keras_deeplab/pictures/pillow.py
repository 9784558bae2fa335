"""The bytes of a file that TensorFlow does not decode in, RGB (H, W, 3) uint8 with OpenCV's values out, by Pillow.

Pillow and OpenCV read some rare files differently. Where both values follow from what Pillow reads, the result is OpenCV's;
otherwise the file is refused, with the reason. What Pillow alone reads is taken as it is. OpenCV reads TIFF through libtiff's
RGBA interface, whose rules `_tiff` follows.
"""

import io
import os
import sys
import threading

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_deeplab.pictures.files import FORMATS, TEXTS

ORIENTATION = 0x0112  # tags of TIFF and Exif
BITS, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA, FORMAT = 258, 262, 277, 284, 338, 339
WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6  # of PHOTOMETRIC
TIFF_BITS = {  # photometric: the bits of its colours, in files that can be read
    WHITE_IS_0: (1, 2, 4, 8),
    BLACK_IS_0: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    YCBCR: (8,),
}
PREMULTIPLIED, SEPARATE = 1, 2  # of EXTRA: the colours are multiplied by the alpha already, or not yet
BMP_MASKS = {"BGR;15": (0xF8, 0xF8, 0xF8), "BGR;16": (0xF8, 0xFC, 0xF8)}  # OpenCV leaves the lower bits 0
BMP_HEADER_WITHOUT_ALPHA = 52  # bytes; Pillow and OpenCV take its colours from different bits
LIMIT = "KERAS_DEEPLAB_MAX_PIXELS"  # environment variable
DEFAULT_LIMIT = 2**30  # pixels, OpenCV's
_opening = threading.Lock()


class Refused(ValueError):
    """Why a file cannot be read, as text that goes on from its name."""


def read(data: bytes) -> np.ndarray:
    """Reads the first picture of a file and turns it upright.

    Raises:
        Refused: for a file that Pillow cannot read, whose colours are unknown, or that Pillow and OpenCV read differently.
    """
    try:
        with open_picture(data) as image:
            adjust = ADJUSTED.get(image.format or "", _plain)
            return adjust(image, data)
    except Refused:
        raise
    except UnidentifiedImageError as error:
        raise Refused(f"is {_what(data)}. A picture is a JPEG, a PNG or another file that Pillow reads") from error
    except Exception as error:  # Pillow's readers raise errors of every type for a damaged or rare file
        cause = " ".join(str(error).split()) or type(error).__name__
        raise Refused(f"is damaged, or of a kind that Pillow does not read: {cause}") from error


def _what(data):
    """What a file is that Pillow does not know."""
    if not data:
        return "damaged: it is empty"
    for start, kind in FORMATS.items():
        if data.startswith(start):
            return f"damaged, or a {kind} file of a kind that Pillow does not read"
    return next((text for start, text in TEXTS.items() if data.startswith(start)), "damaged or no picture")


def open_picture(data: bytes) -> Image.Image:
    """A PIL image whose header has been read. The limit on its pixels is ours, not Pillow's.

    Raises:
        Refused: for more pixels than the limit.
    """
    image = open_unlimited(io.BytesIO(data))
    check_size(*image.size)
    return image


def open_unlimited(file) -> Image.Image:
    """A PIL image of a path or an open file, of any size, whose header has been read."""
    with _opening:  # Pillow's own limit is one number for the whole process, which only `open` compares
        own = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = own


def check_size(width, height):
    """Raises `Refused` for a picture of more pixels than the environment variable allows."""
    text = os.environ.get(LIMIT) or str(DEFAULT_LIMIT)
    if not text.isdecimal():
        raise ValueError(f"The environment variable {LIMIT} must be a whole number of pixels. Received: {text!r}.")
    if width * height > int(text):
        raise Refused(
            f"has {width}x{height} = {width * height} pixels, more than {text}. If the file is trusted and the memory "
            f"is enough, set the environment variable {LIMIT} to {width * height} or more; or read it window by window: "
            "`keras-deeplab predict --mosaic`, `kd.segment_raster`"
        )


def rgb_of(image, has_16_bits=False):
    """The pixels of a PIL image that is upright already, uint8 RGB; of 16 grey bits the high byte, as OpenCV takes it."""
    if image.mode == "CMYK":
        raise Refused("is CMYK, whose colours depend on a profile. Convert it to RGB first")
    if image.mode.startswith("I;16") or has_16_bits:
        return _grey((np.asarray(image).astype("uint16") >> 8).astype("uint8"))
    if image.mode in ("I", "F"):
        raise Refused(f"has pixels of mode {image.mode}, whose range is unknown. Convert it to 8 bits first")
    if image.mode == "La":
        return _grey(np.asarray(image)[..., 0])
    return np.array(image.convert("RGB"))


def _grey(values):
    return np.repeat(values[..., None], 3, axis=2)


def _plain(image, data):
    """A picture of any format that has no rules of its own."""
    return rgb_of(ImageOps.exif_transpose(image))


def _webp(image, data):
    if image.getexif().get(ORIENTATION, 1) != 1:
        raise Refused(
            "is a WebP file with an Exif turn, which OpenCV does not apply. Save the turned pixels as PNG or JPEG"
        )
    return rgb_of(image)


def _jpeg_or_png(image, data):
    has_16_bits = image.mode == "I"  # old Pillow (10.1) opens a PNG of 16 grey bits so
    return rgb_of(ImageOps.exif_transpose(image), has_16_bits)


def _bmp(image, data):
    codec, _, offset, arguments = image.tile[0]
    if int.from_bytes(data[14:18], "little") == BMP_HEADER_WITHOUT_ALPHA:
        raise Refused("is a BMP file with a rare header of 52 bytes. Save it as PNG")
    if offset != int.from_bytes(data[10:14], "little"):
        raise Refused("is a BMP file whose header and palette contradict each other. Save it as PNG")
    if codec == "bmp_rle" and not (data[28] == 8 and _is_row_by_row(data[offset:], image.width)):
        raise Refused(
            "is a compressed BMP file of 4 bits, or with jumps or runs beyond the end of a row. Save it as PNG"
        )
    pixels = rgb_of(image)
    return pixels & np.array(BMP_MASKS[arguments[0]], np.uint8) if arguments[0] in BMP_MASKS else pixels


def _is_row_by_row(codes, width):
    """Whether no run of a compressed BMP of 8 bits crosses the end of a row, and none jumps.

    Pillow and OpenCV go on differently at the end of a row, and Pillow 10.1 jumps to another place.
    """
    x = position = 0
    while position + 1 < len(codes):
        count, value = codes[position], codes[position + 1]
        position += 2
        if count:  # that many pixels of one value
            x += count
        elif value == 0:  # end of the row
            x = 0
        elif value <= 2:  # 1: end of the picture; 2: a jump to the right and down
            return value == 1
        else:  # that many pixels, padded to an even number of bytes
            x, position = x + value, position + value + value % 2
        if x > width:
            return False
    return True


def _ppm(image, data):
    arguments = image.tile[0][3]
    layout, highest = (arguments if isinstance(arguments, tuple) else (arguments, 255))[:2]
    if layout == "I;16B":  # a PGM of 16 bits
        return rgb_of(image, has_16_bits=True)
    if image.tile[0][0] != "raw" and highest != 255 and image.mode != "1":
        raise Refused(f"is a PNM file whose highest value is {highest}. Convert it to 8 bits (highest value 255) first")
    return rgb_of(image)


def _jpeg_2000(image, data):
    header, _, codes = data.partition(b"\xff\x4f\xff\x51")  # the markers at which the pixels' own header begins
    if b"pclr" in header:
        raise Refused("is a JPEG 2000 file with a palette. Convert it to 8-bit RGB or grey first")
    bits = (codes[38] & 0x7F) + 1 if len(codes) > 38 else 0  # of the first channel
    if bits != 8 and not (bits == 16 and image.mode == "I;16"):
        raise Refused(f"is a JPEG 2000 file of {bits} bits. Convert it to 8-bit RGB or grey first")
    return rgb_of(image)


def _sun(image, data):
    if image.tile[0][3][0] == "BGRX":
        raise Refused("is a Sun raster file of 32 bits, whose channels have no agreed order. Save it as PNG")
    return rgb_of(image)


def _no_drawing(image, data):
    raise Refused(f"is a {image.format} file, which holds a drawing or text and not pixels. Save it as PNG")


def _tiff(image, data):
    """By the rules of libtiff's RGBA interface.

    16 bits of RGB are rounded to 8, v * 255 / 65535; of grey the high byte is taken. Colours not yet multiplied by their
    alpha are multiplied; those multiplied already stay. Further channels are dropped.
    """
    tag = image.tag_v2
    photometric, samples, extra = tag.get(PHOTOMETRIC, 0), tag.get(SAMPLES, 1), tag.get(EXTRA, ())
    bits, turn = tag.get(BITS, (1,)), tag.get(ORIENTATION, 1)
    if image.mode == "CMYK":
        rgb_of(image)
    if len(bits) != samples or len(set(bits)) != 1 or bits[0] not in TIFF_BITS.get(photometric, ()):
        raise Refused(f"is a TIFF file of a rare kind: {_described(tag)}. Convert it to 8-bit RGB or grey first")
    if bits[0] > 8 and set(tag.get(FORMAT, (1,))) != {1}:
        raise Refused(
            "is a TIFF file of signed or floating-point numbers, whose range is unknown. Convert it to 8 bits first"
        )
    if photometric == YCBCR and image.tile[0][0] == "raw":  # libtiff itself converts compressed ones
        raise Refused("is a TIFF file of YCbCr without compression. Convert it to RGB first")
    if image.getexif().get(ORIENTATION, 1) != turn:
        raise Refused("is a TIFF file with a turn in its XMP text alone, which OpenCV does not apply. Save it turned")
    if photometric != RGB:
        return rgb_of(image)
    return _tiff_rgb(image, data, bits[0], extra[0] if extra else 0)


def _described(tag):
    return f"photometric {tag.get(PHOTOMETRIC, 0)}, {tag.get(SAMPLES, 1)} samples of {tag.get(BITS, (1,))} bits"


def _tiff_rgb(image, data, bits, extra):
    if bits == 16 and image.tag_v2.get(PLANAR, 1) == 2:
        raise Refused(
            "is a TIFF file of 16 bits whose channels lie one after the other. Save it with interleaved channels"
        )
    values = _as_stored(image)
    if bits == 16:
        with open_picture(data) as again:
            low = _as_stored(again, low=True)
        values = ((values.astype(np.uint32) * 256 + low + 128) // 257).astype(np.uint8)
    if extra != SEPARATE:
        return values[..., :3]
    alpha = values[..., 3:].astype(np.uint32)
    return ((values[..., :3] * alpha + 127) // 255).astype(np.uint8)


def _as_stored(image, low=False):
    """The samples of an RGB TIFF without Pillow's division by the alpha; of 16 bits the high bytes, or the `low` ones."""
    swapped = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}  # the order of the other byte

    def stored(layout):
        layout = layout.replace("a", "A")  # a: Pillow would divide by it
        return layout[:-1] + swapped[layout[-1]] if low else layout

    # A tile is (codec, corners, offset, arguments): a tuple in Pillow 10, a named one since.
    image.tile = [
        type(tile)._make((*tile[:3], arguments)) if hasattr(tile, "_make") else (*tile[:3], arguments)
        for tile in image.tile
        for arguments in [(stored(tile[3][0]), *tile[3][1:])]
    ]
    image.load()
    return np.array(image)


ADJUSTED = {  # formats whose files need a rule
    "JPEG": _jpeg_or_png,
    "MPO": _jpeg_or_png,
    "PNG": _jpeg_or_png,
    "TIFF": _tiff,
    "BMP": _bmp,
    "WEBP": _webp,
    "PPM": _ppm,
    "JPEG2000": _jpeg_2000,
    "SUN": _sun,
    "EPS": _no_drawing,  # Pillow would start another program for it
    "WMF": _no_drawing,
}
