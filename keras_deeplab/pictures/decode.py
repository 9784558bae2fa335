"""JPEG or PNG bytes in, an upright RGB picture out: one graph for `segment` and for the SavedModel.

The decoders' settings give OpenCV's and Pillow's values byte for byte.
"""

import tensorflow as tf

from keras_deeplab.pictures.exif import integer_at, orientation, upright
from keras_deeplab.pictures.files import JPEG, PNG

MAX_SIDE = 32768  # pixels; the matrices that spread the scores grow with it
FOREIGN = {  # how a file of another kind begins
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"/9j/": 'base64 text; JSON holds it as {"b64": "..."}',
    b"iVBORw0K": 'base64 text; JSON holds it as {"b64": "..."}',
}


def decode_image(data, *, max_pixels=None, name="A picture"):
    """An encoded picture as (H, W, 3) uint8 RGB, turned as its Exif orientation says.

    Args:
        data: string scalar, the bytes of a JPEG (grey, YCbCr or RGB) or PNG (any kind; 16 bits are cut to 8, alpha is
            dropped).
        max_pixels: refuse larger pictures, and sides beyond `MAX_SIDE`, by the file's header, before anything is decoded.
        name: what messages call the picture, a string or a string scalar.

    Raises:
        tf.errors.InvalidArgumentError: for anything else.
    """
    is_jpeg = tf.equal(tf.strings.substr(data, 0, len(JPEG)), JPEG)
    is_png = tf.equal(tf.strings.substr(data, 0, len(PNG)), PNG)
    kind = tf.where(tf.equal(tf.strings.length(data), 0), "empty", "no picture file")
    for start, foreign in FOREIGN.items():
        kind = tf.where(tf.equal(tf.strings.substr(data, 0, len(start)), start), foreign, kind)
    with tf.control_dependencies(
        [_require(is_jpeg | is_png, name, " is the bytes of a JPEG or PNG file. It is: ", kind)]
    ):
        data = tf.identity(data)
    if max_pixels is not None:
        height, width = tf.cond(is_jpeg, lambda: _size_of_jpeg(data), lambda: _size_of_png(data))
        fits = (tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= max_pixels) & (
            tf.maximum(height, width) <= MAX_SIDE
        )
        rule = f" has at most {max_pixels} pixels (max_pixels, set at export) and {MAX_SIDE} a side. It is: "
        with tf.control_dependencies([_require(fits, name, rule, width, "x", height)]):
            data = tf.identity(data)
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(data, name), lambda: tf.io.decode_png(data, channels=3))
    return upright(tf.ensure_shape(image, [None, None, 3]), orientation(data, is_jpeg))


def _require(condition, *message):
    parts = [part if isinstance(part, str) or part.dtype == tf.string else tf.as_string(part) for part in message]
    return tf.debugging.Assert(condition, [tf.strings.join(parts)])


def _size_of_jpeg(data):
    return tuple(tf.unstack(tf.io.extract_jpeg_shape(data)[:2]))


def _size_of_png(data):
    header = tf.io.decode_raw(tf.strings.substr(data, 0, 24), tf.uint8)  # signature, length, IHDR, width, height
    return integer_at(header, 20, 4), integer_at(header, 16, 4)


def _decode_jpeg(data, name):
    channels = tf.io.extract_jpeg_shape(data)[2]
    message = name, " is grey or colour (1 or 3 channels), not CMYK. Channels: ", channels
    with tf.control_dependencies([_require(channels < 4, *message)]):
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
