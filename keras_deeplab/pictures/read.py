"""A path, an address, the bytes of a file, a PIL image or an array in, an upright RGB picture (H, W, 3) uint8 out."""

import io
import os
from pathlib import Path
from typing import IO

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_deeplab.pictures.addresses import bytes_of_file, is_address, read_address
from keras_deeplab.pictures.decode import decode_image

Picture = (
    str | os.PathLike | bytes | IO[bytes] | Image.Image | np.ndarray
)  # what the functions of this package take as a picture

_decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])


def read_image(source: Picture) -> np.ndarray:
    """Reads a picture as 8-bit RGB and turns it upright by its Exif orientation.

    Grey, palette, 16-bit and transparent pictures become the RGB values that OpenCV reads from them.

    Args:
        source: path of a picture file, its address (http, https, or what fsspec reads, such as s3://), its bytes, a file that
            is open for reading bytes, a PIL image, or an array (H, W, 3) or (H, W): uint8, or numbers of another type that
            are whole and within 0..255.

    Returns:
        uint8 array (H, W, 3).

    Raises:
        ValueError: for CMYK, a file that cannot be read, or an array of another shape or range.
        FileNotFoundError: if there is no such file.
        OSError, ImportError: if an address cannot be read, or needs a package that is not installed.
    """
    if is_address(source):
        return _read_bytes(read_address(source), source)
    if hasattr(source, "read"):
        return _read_bytes(bytes_of_file(source), "The picture")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"There is no picture {str(path)!r}.")
        return _read_bytes(path.read_bytes(), path.name)
    if isinstance(source, (bytes, bytearray)):
        return _read_bytes(bytes(source), "The picture")
    if isinstance(source, Image.Image):
        return _from_pil(source, "The picture")
    return _from_array(source)


def _read_bytes(data, name):
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in ("JPEG", "MPO", "PNG"):
                _refuse_cmyk(image, name)
                return _decode(data).numpy()  # as the SavedModel decodes it
            return _from_pil(image, name)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{name} is damaged: {str(error).splitlines()[0]}") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"A picture must be a JPEG, a PNG or another format that Pillow reads. Received: {name}, which is none of them."
        ) from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{name} cannot be read as a picture: {error}. It must be a JPEG, a PNG or another format that Pillow reads."
        ) from error


def _from_pil(image, name):
    _refuse_cmyk(image, name)
    # Older Pillow (10.1) opens a PNG of 16 grey bits as mode I, and `exif_transpose` forgets the format.
    has_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    image = ImageOps.exif_transpose(image)
    if has_16_bits:  # the high byte, as OpenCV takes it
        return np.repeat((np.asarray(image).astype("uint16") >> 8).astype("uint8")[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"{name} has pixels of mode {image.mode}, whose range is unknown. Convert it to 8 bits first.")
    return np.array(image.convert("RGB"))


def _refuse_cmyk(image, name):
    if image.mode == "CMYK":
        raise ValueError(f"{name} is CMYK, whose colours depend on a profile. Convert it to RGB first.")


def _from_array(source):
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
