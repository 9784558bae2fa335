"""The bytes of a picture file in, its Exif orientation 1..8 out (CIPA DC-008, section 4.6.4), and pictures turned by it.

TensorFlow operations search for the tag, because a SavedModel must turn pictures as `segment` does.
"""

import tensorflow as tf

from keras_deeplab.pictures.files import PNG

ORIENTATION = 0x0112  # number of the tag
SIDES_SWAPPED = (5, 6, 7, 8)  # orientations under which height and width change places
MAX_SEGMENTS = 32768  # searched in a file, which takes 1 s; a PNG of 64 megapixels has up to 25,000


def swaps_sides(image):
    """Whether a PIL image's height and width change places when it is turned upright."""
    return image.getexif().get(ORIENTATION, 1) in SIDES_SWAPPED


def upright(image, turn):
    """Turns a picture (H, W, 3) upright; `turn` is its Exif orientation, int32 1..8."""

    def transposed():
        return tf.transpose(image, [1, 0, 2])

    return tf.ensure_shape(
        tf.switch_case(
            tf.convert_to_tensor(turn) - 1,
            [
                lambda: image,
                lambda: image[:, ::-1],
                lambda: image[::-1, ::-1],
                lambda: image[::-1],
                transposed,
                lambda: transposed()[:, ::-1],
                lambda: transposed()[::-1, ::-1],
                lambda: transposed()[::-1],
            ],
        ),
        [None, None, 3],
    )


def orientation(data, is_jpeg):
    """The Exif orientation of a file, int32 1..8; 1 (upright) where the file has none.

    Args:
        data: string scalar, the bytes of a JPEG or PNG file.
        is_jpeg: bool scalar; False: a PNG.
    """
    octets = tf.io.decode_raw(data, tf.uint8)
    begin, end = tf.cond(is_jpeg, lambda: _exif_in_jpeg(octets), lambda: _exif_in_png(octets))
    # Fewer than 14 bytes hold no tag.
    return tf.cond(end - begin >= 14, lambda: _orientation_in_tiff(tf.cast(octets[begin:end], tf.int32)), lambda: 1)


def integer_at(octets, position, size, little_endian=False):
    """The unsigned integer of `size` bytes at `position`, clipped to 2**31 - 1. Bytes beyond the end count as 0."""
    part = octets[position : position + size]
    part = tf.pad(part, [[0, size - tf.size(part)]])
    part = tf.cond(tf.convert_to_tensor(little_endian), lambda: part[::-1], lambda: part)
    value = tf.reduce_sum(tf.cast(part, tf.int64) * [256**i for i in reversed(range(size))])
    return tf.cast(tf.minimum(value, 2**31 - 1), tf.int32)


def _walk(octets, start, step):
    """Goes through a file's segments until one holds Exif data.

    Args:
        octets: uint8, the bytes of the file.
        start: position of the first segment.
        step: gives for a position (position of the next segment, begin of the Exif data, end of it); begin and end are 0
            where the segment holds none.

    Returns:
        (begin, end) of the Exif data; (0, 0) if there is none.
    """
    size = tf.size(octets)
    return tf.while_loop(
        lambda position, begin, end: (position >= 0) & (position < size) & (end == 0),
        lambda position, begin, end: step(position),
        (
            tf.constant(start),
            tf.constant(0),
            tf.constant(0),
        ),  # a tuple, as `step` returns: outside of graphs both must agree
        maximum_iterations=MAX_SEGMENTS,
    )[1:]


def _next_segment(position, advance, size, is_exif, begin, end):
    """What a `step` of `_walk` returns. A length that leads backwards or out of the file ends the walk."""
    valid = (advance > 0) & (advance < size - position)
    return (
        tf.where(valid, position + advance, size),
        tf.where(is_exif, begin, 0),
        tf.where(is_exif, tf.minimum(end, size), 0),
    )


def _exif_in_jpeg(octets):
    """(begin, end) of the Exif data: the APP1 segment (marker FF E1) that starts with "Exif" and two zero bytes."""
    size = tf.size(octets)

    def step(position):
        marker, length = integer_at(octets, position + 1, 1), integer_at(octets, position + 2, 2)
        is_exif = (marker == 0xE1) & (integer_at(octets, position + 4, 4) == int.from_bytes(b"Exif"))
        # Markers end at the pixels (FF DA), at the end of the picture (FF D9) or where the file is damaged.
        is_last = (integer_at(octets, position, 1) != 0xFF) | (marker == 0xDA) | (marker == 0xD9) | (length < 2)
        advance = tf.where(marker == 0xFF, 1, tf.where(is_last, 0, 2 + length))  # FF FF: a fill byte
        return _next_segment(position, advance, size, is_exif, position + 10, position + 2 + length)

    return _walk(octets, 2, step)


def _exif_in_png(octets):
    """(begin, end) of the Exif data: the chunk "eXIf". A chunk is length, name, data and checksum: 12 bytes and the data."""
    size = tf.size(octets)

    def step(position):
        length = integer_at(octets, position, 4)
        is_exif = integer_at(octets, position + 4, 4) == int.from_bytes(b"eXIf")
        is_inside = length < size - position
        return _next_segment(
            position,
            tf.where(is_inside, length + 12, 0),
            size,
            is_exif & is_inside,
            position + 8,
            position + 8 + tf.where(is_inside, length, 0),
        )

    return _walk(octets, len(PNG), step)


def _orientation_in_tiff(octets):
    """The orientation in Exif data, which is laid out as a TIFF file: a header, then a directory of 12-byte entries."""
    little_endian = (octets[0] == ord("I")) & (octets[1] == ord("I"))
    directory = tf.minimum(integer_at(octets, 4, 4, little_endian), tf.size(octets))
    count = tf.minimum(integer_at(octets, directory, 2, little_endian), (tf.size(octets) - directory) // 12)
    entries = tf.reshape(octets[directory + 2 : directory + 2 + 12 * count], [-1, 12])  # tag, type, count, value
    # The bytes of the tag and of the value, the high byte first.
    entries = tf.cond(
        little_endian,
        lambda: tf.gather(entries, [1, 0, 9, 8], axis=1),
        lambda: tf.gather(entries, [0, 1, 8, 9], axis=1),
    )
    tags, values = entries[:, 0] * 256 + entries[:, 1], entries[:, 2] * 256 + entries[:, 3]
    value = tf.reduce_max(tf.where(tags == ORIENTATION, values, 0), axis=0)
    return tf.where((value >= 1) & (value <= 8) & (tf.size(tags) > 0), value, 1)
