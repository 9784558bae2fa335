"""JPEG or PNG bytes in, an upright RGB picture out, by TensorFlow operations: `segment` and the SavedModel decode alike.

The decoders are set so that every pixel value equals OpenCV's and Pillow's.
"""

import tensorflow as tf

from keras_deeplab.pictures.exif import integer_at, orientation, upright
from keras_deeplab.pictures.files import FORMATS, JPEG, PNG, TEXTS

MAX_SIDE = 32768  # pixels; the matrices in inference/segment.py that resize the scores grow with the side


def decode_image(data, *, max_pixels=None, name="A picture"):
    """Decodes a picture and turns it upright by its Exif orientation.

    Args:
        data: string scalar, the bytes of a JPEG (grey, YCbCr or RGB) or PNG (any kind; 16 bits are cut to 8, alpha is
            dropped).
        max_pixels: the most pixels that a picture may have; it may then have at most `MAX_SIDE` pixels a side, too. Both
            are read from the file's header before anything is decoded. None (the default): no limit.
        name: what error messages call the picture, a string or a string scalar.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, for other data, CMYK, a damaged file or too large a picture.
    """
    is_jpeg = tf.equal(tf.strings.substr(data, 0, len(JPEG)), JPEG)
    is_png = tf.equal(tf.strings.substr(data, 0, len(PNG)), PNG)
    received = tf.where(tf.equal(tf.strings.length(data), 0), "no bytes", "an unknown kind of file")
    received = kind_of(data, {**FORMATS, **TEXTS}, received)
    rule = " must be the bytes of a JPEG or PNG file. Received: "
    with tf.control_dependencies([_require(is_jpeg | is_png, name, rule, received, ".")]):
        data = tf.identity(data)
    if max_pixels is not None:
        height, width = tf.cond(is_jpeg, lambda: _size_of_jpeg(data), lambda: _size_of_png(data))
        fits = (tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= max_pixels) & (
            tf.maximum(height, width) <= MAX_SIDE
        )
        rule = f" must have at most {max_pixels} pixels (max_pixels, set at export) and {MAX_SIDE} a side. Received: "
        with tf.control_dependencies([_require(fits, name, rule, width, "x", height, ".")]):
            data = tf.identity(data)
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(data, name), lambda: tf.io.decode_png(data, channels=3))
    return upright(tf.ensure_shape(image, [None, None, 3]), orientation(data, is_jpeg))


def kind_of(data, kinds, unknown=""):
    """What the first bytes of a file say it is, whatever its name.

    Args:
        data: string scalar, the bytes of the file.
        kinds: {first bytes: kind}.
        unknown: the kind of every other file.

    Returns:
        string scalar.
    """
    kind = tf.convert_to_tensor(unknown)
    for start, name in kinds.items():
        kind = tf.where(tf.equal(tf.strings.substr(data, 0, len(start)), start), name, kind)
    return kind


def _require(condition, *message):
    """An operation that fails unless `condition` holds; the parts of the message are strings and scalar tensors."""
    parts = [part if isinstance(part, str) or part.dtype == tf.string else tf.as_string(part) for part in message]
    return tf.debugging.Assert(condition, [tf.strings.join(parts)])


def _size_of_jpeg(data):
    """(height, width) from the header."""
    return tuple(tf.unstack(tf.io.extract_jpeg_shape(data)[:2]))


def _size_of_png(data):
    """(height, width) from the header: 16 bytes of signature, length and "IHDR", then width and height of 4 bytes each."""
    header = tf.io.decode_raw(tf.strings.substr(data, 0, 24), tf.uint8)
    return integer_at(header, 20, 4), integer_at(header, 16, 4)


def _decode_jpeg(data, name):
    channels = tf.io.extract_jpeg_shape(data)[2]
    message = name, " must be grey or colour (1 or 3 channels), not CMYK. Received: ", channels, " channels."
    with tf.control_dependencies([_require(channels < 4, *message)]):
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
