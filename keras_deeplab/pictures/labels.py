"""The bytes of a PNG in, its label map (H, W) uint8 out, by TensorFlow operations: training and evaluation read alike."""

import zlib

import tensorflow as tf

from keras_deeplab.pictures.decode import kind_of
from keras_deeplab.pictures.files import FORMATS, PNG

PALETTE = 3  # the colour type of a PNG with a palette
BYTES = [bytes([i]) for i in range(256)]  # uint8 -> a string of one byte
RULE = "A label must be an 8-bit PNG, grey or palette, whose values are the classes and 255."


def read_label(data: bytes, name, *, decode=None):
    """Reads a label map.

    Args:
        data: the bytes of the file.
        name: what error messages call the file.
        decode: a function like `decode_label`. None (the default): this function, as a graph.

    Returns:
        (H, W) uint8, the values in the file: those of a grey PNG, the indices (not the colours) of a palette PNG.

    Raises:
        ValueError: for another kind of file, more than 8 bits, colours or alpha, or a damaged file.
    """
    content = tf.constant(data)
    if fault := label_fault(content).numpy().decode():
        raise ValueError(f"{name} {fault}. {RULE}")
    try:
        return (decode or _decode)(content).numpy()
    except tf.errors.InvalidArgumentError as error:
        reason = "it has no bytes" if not data else "its bytes are not a whole PNG"
        raise ValueError(f"{name} is damaged: {reason}. Copy or save the file again. {RULE}") from error


def check_class_count(num_classes, reduce_zero_label):
    """Raises `ValueError` if the label of the last class would be 255, which means "no class"."""
    most = 254 if reduce_zero_label else 255
    if num_classes > most:
        rule = " with reduce_zero_label, whose labels count from 1" if reduce_zero_label else ""
        raise ValueError(
            f"There must be at most {most} classes{rule}: label 255 has no class. Received: {num_classes}."
        )


def decode_label(data):
    """The labels in a PNG file: the values of a grey PNG, the indices (not the colours) of a palette PNG.

    Args:
        data: string scalar, the bytes of the file. One bit per pixel gives 0 and 1.

    Returns:
        (H, W) uint8.
    """
    header = header_of(data)
    return unscaled(decode_grey(palette_as_grey(data, *header)), *header)


def label_fault(data):
    """Why a file is no label map, as text that goes on from its name; "" if it is one, or is damaged.

    Args:
        data: string scalar, the bytes of the file. Its first bytes decide, not its name: TensorFlow's `decode_png` would
            decode a JPEG as well, to values that are no labels.
    """
    depth, colour = header_of(data)
    kind = kind_of(data, FORMATS)
    is_grey_or_palette = (colour == 0) | (colour == PALETTE)
    fault = tf.where(depth == 16, "has 16 bits per pixel", tf.where(is_grey_or_palette, "", "has colours or alpha"))
    other = tf.strings.join(["is in fact a ", kind, " file"])
    return tf.where((kind == "PNG") | (kind == ""), fault, other)


def header_of(data):
    """(bit depth, colour type) of a PNG, int32 scalars; (8, 0) for a file of another kind."""

    def read():
        return tuple(tf.unstack(tf.cast(tf.io.decode_raw(tf.strings.substr(data, 24, 2), tf.uint8), tf.int32), num=2))

    is_png = (tf.strings.substr(data, 0, len(PNG)) == PNG) & (tf.strings.length(data) > 33)
    return tf.cond(is_png, read, lambda: (tf.constant(8), tf.constant(0)))


def decode_grey(data):
    return tf.io.decode_png(data, channels=1)[..., 0]


def palette_as_grey(data, depth, colour):
    return tf.cond(colour == PALETTE, lambda: _with_grey_type(data), lambda: data)


def unscaled(label, depth, colour):
    """Palette indices and 1-bit values as they are in the file: the decoder scales values of fewer than 8 bits to 0..255.

    Grey values of 2 and 4 bits stay scaled, as Pillow reads them too.
    """
    highest = tf.maximum(tf.bitwise.left_shift(1, depth) - 1, 1)  # the header of a damaged file may say 0 bits
    scale = tf.where((colour == PALETTE) | (depth == 1), 255 // highest, 1)
    return tf.cond(scale > 1, lambda: label // tf.cast(scale, tf.uint8), lambda: label)


# TensorFlow decodes a palette PNG to its colours. The same file with the colour type of a grey PNG decodes to the indices.
# CRC-32 is linear: this change of the header changes its checksum by the same exclusive or in every file.
_CHECKSUM_CHANGE = zlib.crc32(bytes([PALETTE, 0, 0, 0])) ^ zlib.crc32(bytes(4))


def _with_grey_type(data):
    """The bytes of a palette PNG with the colour type (byte 25) of a grey one and the header's new checksum (29..32)."""
    old = tf.io.decode_raw(tf.strings.substr(data, 29, 4), tf.uint8)
    new = tf.bitwise.bitwise_xor(old, tf.constant(list(_CHECKSUM_CHANGE.to_bytes(4, "big")), tf.uint8))
    checksum = tf.strings.reduce_join(tf.gather(tf.constant(BYTES), tf.cast(new, tf.int32)))
    part = tf.strings.substr
    return tf.strings.join([part(data, 0, 25), b"\0", part(data, 26, 3), checksum, part(data, 33, -1)])


_decode = tf.function(decode_label, input_signature=[tf.TensorSpec([], tf.string)])
