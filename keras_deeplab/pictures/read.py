"""What people have, a path, bytes, a PIL image or an array, to an upright RGB picture (H, W, 3) uint8; or a clear error."""

import io
import os
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_deeplab.pictures.decode import decode_image

Picture = str | os.PathLike | bytes | Image.Image | np.ndarray  # what people have

_decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])


def read_image(source: Picture) -> np.ndarray:
    """An upright RGB picture.

    Args:
        source: path of a picture file, the bytes of one, a PIL image, or an array (H, W, 3) or (H, W) of 0..255, uint8
            or integral floats. Grey, palette, 16-bit and transparent pictures become 8-bit RGB as OpenCV reads them;
            Exif orientation is honoured.

    Returns:
        uint8 array (H, W, 3).

    Raises:
        ValueError: for CMYK, an unreadable file, or an array of another shape or range.
        FileNotFoundError: if there is no such file.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"There is no picture {str(path)!r}.")
        return _read_bytes(path.read_bytes(), path.name)
    if isinstance(source, bytes):
        return _read_bytes(source, "The picture")
    if isinstance(source, Image.Image):
        return _from_pil(source, "The picture")
    return _from_array(source)


def _read_bytes(data, name):
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in ("JPEG", "MPO", "PNG"):
                _refuse_cmyk(image, name)
                return _decode(data).numpy()  # the SavedModel's own decoder
            return _from_pil(image, name)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{name} is damaged: {str(error).splitlines()[0]}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is no picture file. JPEG, PNG and what Pillow reads are.") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{name} cannot be read as a picture: {error}. JPEG, PNG and what Pillow reads are."
        ) from error


def _from_pil(image, name):
    _refuse_cmyk(image, name)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image).astype("uint16") >> 8).astype("uint8")[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"{name} has {image.mode} pixels, whose range is unknown. Convert them to 8 bits first.")
    return np.array(image.convert("RGB"))


def _refuse_cmyk(image, name):
    if image.mode == "CMYK":
        raise ValueError(f"{name} is CMYK, whose colours depend on a profile. Convert it to RGB first.")


def _from_array(source):
    array = np.asarray(source)
    grey = array.ndim == 2
    if array.size == 0 or not (grey or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"A picture is an array (H, W, 3) or (H, W). Received: shape {array.shape}.")
    if array.dtype != np.uint8:
        if not (np.issubdtype(array.dtype, np.number) and np.isrealobj(array)):
            raise ValueError(f"A picture is uint8 or integral floats of 0..255. Received: {array.dtype}.")
        whole = np.array_equal(array, np.round(array)) and array.min() >= 0 and array.max() <= 255
        if not whole:
            raise ValueError(
                "A picture of another type than uint8 holds whole numbers of 0..255: multiply pictures of 0..1 by "
                f"255 and round them. Received: {array.dtype} of {array.min()}..{array.max()}."
            )
        array = array.astype(np.uint8)
    return np.repeat(array[..., None], 3, axis=2) if grey else array
