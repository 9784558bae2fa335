"""A path, an address, the bytes of a file, a PIL image or an array in, an upright RGB picture (H, W, 3) uint8 out."""

import os
from pathlib import Path
from typing import IO

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from keras_deeplab.pictures import pillow
from keras_deeplab.pictures.addresses import bytes_of_file, is_address, read_address
from keras_deeplab.pictures.decode import decode_image
from keras_deeplab.pictures.files import BASE64, JPEG, JPEG_END, PNG, TEXTS

# What the functions of this package take as a picture.
Picture = str | os.PathLike | bytes | IO[bytes] | Image.Image | np.ndarray
DECODED_BYTES = 2**29  # TensorFlow's decoders refuse a picture of so many bytes
SHOWN = 80  # characters of a name in an error message

_decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])


def read_image(source: Picture) -> np.ndarray:
    """Reads a picture as 8-bit RGB and turns it upright by its Exif orientation.

    The bytes of a file decide what it is, not its name. Grey, palette, 16-bit and transparent pictures become the RGB values
    that OpenCV's `imread` reads from them. A kind of file that Pillow would read with other values is refused.

    Args:
        source: path of a picture file, its address (http, https, or what fsspec reads, such as s3://), its bytes, a file that
            is open for reading bytes, a PIL image, or an array (H, W, 3) or (H, W): uint8, or numbers of another type that
            are whole and within 0..255. A PIL image is taken with the values that it has.

    Returns:
        uint8 array (H, W, 3).

    Raises:
        ValueError: for CMYK, a file that cannot be read, one of more pixels than the environment variable
            `KERAS_DEEPLAB_MAX_PIXELS` says (2**30 if not set), or an array of another shape or range.
        FileNotFoundError: if there is no such file.
        OSError, ImportError: if an address cannot be read, or needs a package that is not installed.
    """
    if is_address(source):
        return read_bytes(read_address(source), source)
    if hasattr(source, "read"):
        return read_bytes(bytes_of_file(source), "The picture")
    if isinstance(source, (str, os.PathLike)):
        path = _path(source)
        return read_bytes(path.read_bytes(), path.name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return read_bytes(bytes(source), "The picture")
    if isinstance(source, Image.Image):
        return _from_pil(source, "The picture")
    return _from_array(source)


def read_bytes(data: bytes, name, *, decode=_decode) -> np.ndarray:
    """`read_image` of the bytes of a file: the one judgement of a picture file by check, training, evaluation and `segment`.

    A JPEG or PNG is decoded as the SavedModel decodes it, everything else by Pillow.

    Args:
        data: the bytes.
        name: what error messages call the file. They begin with it.
        decode: a function like `decode_image`.

    Raises:
        ValueError: for a file that cannot be read.
    """
    try:
        if data.startswith((JPEG, PNG)):
            return _read_jpeg_or_png(data, decode)
        return pillow.read(data)
    except pillow.Refused as error:
        raise ValueError(f"{name} {error}.") from error


def _path(source):
    """The path of a picture file that exists."""
    text = os.fspath(source)
    text = os.fsdecode(text) if isinstance(text, bytes) else text
    shown = repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")
    try:
        if Path(text).is_file():
            return Path(text)
        is_folder = Path(text).is_dir()
    except (OSError, ValueError):  # a name that is too long, or has a zero byte
        is_folder = False
    if text.startswith(tuple(start.decode() for start, kind in TEXTS.items() if kind == BASE64)):
        raise ValueError(f"A picture must be a path or bytes. Received base64 text: {shown}. Use base64.b64decode.")
    if is_folder:
        raise FileNotFoundError(f"A picture must be a file. Received the folder {shown}. Name the files in it.")
    raise FileNotFoundError(f"There is no picture {shown}.")


def _read_jpeg_or_png(data, decode):
    if data.startswith(JPEG) and not ends(data):
        _check_quietly(data)
    width, height = _size(data)
    pillow.check_size(width, height)
    try:
        return decode(tf.constant(data)).numpy()
    except tf.errors.InvalidArgumentError as error:
        if 3 * width * height >= DECODED_BYTES:
            return pillow.read(data)
        raise pillow.Refused(_cause(data, str(error))) from error


def _size(data):
    """(width, height) from the header."""
    if data.startswith(PNG):
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    try:
        height, width, _ = tf.io.extract_jpeg_shape(data).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise pillow.Refused("is damaged: its JPEG header is not whole. Copy or save the file again") from error
    return int(width), int(height)


def ends(data):
    """Whether a JPEG has its end marker as its last bytes, zeros after it apart."""
    return data.rstrip(b"\0").endswith(JPEG_END)


def _check_quietly(data):
    """Refuses a JPEG that ends too early. TensorFlow refuses it too, but its libjpeg writes to the terminal first."""
    try:
        with pillow.open_picture(data) as image:
            image.load()
    except pillow.Refused:
        raise
    except Exception as error:  # Pillow's readers raise errors of every type for a damaged file
        raise pillow.Refused("is damaged: its JPEG data ends too early. Copy or save the file again") from error


def _cause(data, message):
    """The reason in the message of a failed graph."""
    if "not CMYK" in message:
        return "is CMYK, whose colours depend on a profile. Convert it to RGB first"
    kind = "JPEG" if data.startswith(JPEG) else "PNG"
    return f"is damaged: its bytes are not a whole {kind}. Copy or save the file again"


def _from_pil(image, name):
    # Old Pillow (10.1) opens a PNG of 16 grey bits as mode I, and `exif_transpose` forgets the format.
    has_16_bits = image.mode == "I" and image.format == "PNG"
    try:
        return pillow.rgb_of(ImageOps.exif_transpose(image), has_16_bits)
    except pillow.Refused as error:
        raise ValueError(f"{name} {error}.") from error
    except (OSError, SyntaxError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{name} cannot be read: {error}.") from error


def _from_array(source):
    if isinstance(source, (list, tuple)) or not (hasattr(source, "__array__") or isinstance(source, np.ndarray)):
        kind = "nested lists" if isinstance(source, (list, tuple)) else type(source).__name__
        raise ValueError(
            f"A picture must be a path, bytes, a PIL image or an array. Received: {kind}. "
            "Turn numbers into an array with np.array(...)."
        )
    array = np.asarray(source)
    grey = array.ndim == 2
    if array.size == 0 or not (grey or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"A picture must be an array (H, W, 3) or (H, W), not empty. Received: shape {array.shape}.")
    if array.dtype != np.uint8:
        if not (np.issubdtype(array.dtype, np.number) and np.isrealobj(array)):
            raise ValueError(f"A picture must hold whole numbers of 0..255. Received: {array.dtype}.")
        fits_uint8 = np.array_equal(array, np.round(array)) and array.min() >= 0 and array.max() <= 255
        if not fits_uint8:
            raise ValueError(
                "A picture that is not uint8 must hold whole numbers of 0..255. "
                f"Received: {array.dtype} of {array.min()}..{array.max()}. Multiply a picture of 0..1 by 255 and round it."
            )
        array = array.astype(np.uint8)
    return np.repeat(array[..., None], 3, axis=2) if grey else array
