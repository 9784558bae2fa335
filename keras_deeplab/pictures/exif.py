"""Exif orientation: which way up a picture is to be seen (CIPA DC-008, section 4.6.4), read by TensorFlow operations.

A SavedModel must turn pictures as `segment` does, so that the search for the tag is a graph.
"""

import tensorflow as tf

from keras_deeplab.pictures.files import PNG

ORIENTATION = 0x0112  # the tag
SIDES_SWAPPED = (5, 6, 7, 8)  # orientations under which height and width change places
MAX_SEGMENTS = 32768  # of a file to search: 1 s; a PNG of 64 megapixels has up to 25,000


def swaps_sides(image):
    """Whether a PIL image's height and width change places when it is turned upright."""
    return image.getexif().get(ORIENTATION, 1) in SIDES_SWAPPED


def upright(image, turn):
    """The picture (H, W, 3) as it is to be seen, from its Exif orientation 1..8."""

    def transposed():
        return tf.transpose(image, [1, 0, 2])

    return tf.ensure_shape(
        tf.switch_case(
            turn - 1,
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
    """The Exif orientation, int32 1..8; 1 where the file has none."""
    octets = tf.io.decode_raw(data, tf.uint8)
    begin, end = tf.cond(is_jpeg, lambda: _exif_in_jpeg(octets), lambda: _exif_in_png(octets))
    return tf.cond(end - begin >= 14, lambda: _orientation_in_tiff(tf.cast(octets[begin:end], tf.int32)), lambda: 1)


def integer_at(octets, position, size, little_endian=False):
    """The unsigned number of `size` bytes at `position`; bytes beyond the end count as 0, beyond 2**31 it is clipped."""
    part = octets[position : position + size]
    part = tf.pad(part, [[0, size - tf.size(part)]])
    part = tf.cond(tf.convert_to_tensor(little_endian), lambda: part[::-1], lambda: part)
    value = tf.reduce_sum(tf.cast(part, tf.int64) * [256**i for i in reversed(range(size))])
    return tf.cast(tf.minimum(value, 2**31 - 1), tf.int32)


def _walk(octets, start, step):
    """Follows a file's segments: `step(position)` gives (next position, begin, end of the Exif data or 0, 0)."""
    size = tf.size(octets)
    return tf.while_loop(
        lambda position, begin, end: (position >= 0) & (position < size) & (end == 0),
        lambda position, begin, end: step(position),
        [tf.constant(start), tf.constant(0), tf.constant(0)],
        maximum_iterations=MAX_SEGMENTS,
    )[1:]


def _segment(position, advance, size, is_exif, begin, end):
    """One step of `_walk`: on to the next segment, unless this is the Exif one or its length makes no sense."""
    valid = (advance > 0) & (advance < size - position)
    return (
        tf.where(valid, position + advance, size),
        tf.where(is_exif, begin, 0),
        tf.where(is_exif, tf.minimum(end, size), 0),
    )


def _exif_in_jpeg(octets):
    size = tf.size(octets)

    def step(position):
        marker, length = integer_at(octets, position + 1, 1), integer_at(octets, position + 2, 2)
        is_exif = (marker == 0xE1) & (integer_at(octets, position + 4, 4) == int.from_bytes(b"Exif"))
        ends = (integer_at(octets, position, 1) != 0xFF) | (marker == 0xDA) | (marker == 0xD9) | (length < 2)
        advance = tf.where(marker == 0xFF, 1, tf.where(ends, 0, 2 + length))  # 0xFF 0xFF: a fill byte
        return _segment(position, advance, size, is_exif, position + 10, position + 2 + length)

    return _walk(octets, 2, step)


def _exif_in_png(octets):
    size = tf.size(octets)

    def step(position):
        length = integer_at(octets, position, 4)
        is_exif = integer_at(octets, position + 4, 4) == int.from_bytes(b"eXIf")
        within = length < size - position
        return _segment(
            position,
            tf.where(within, length + 12, 0),
            size,
            is_exif & within,
            position + 8,
            position + 8 + tf.where(within, length, 0),
        )

    return _walk(octets, len(PNG), step)


def _orientation_in_tiff(octets):
    little = (octets[0] == ord("I")) & (octets[1] == ord("I"))
    directory = tf.minimum(integer_at(octets, 4, 4, little), tf.size(octets))
    count = tf.minimum(integer_at(octets, directory, 2, little), (tf.size(octets) - directory) // 12)
    entries = tf.reshape(octets[directory + 2 : directory + 2 + 12 * count], [-1, 12])  # tag, type, count, value
    entries = tf.cond(
        little, lambda: tf.gather(entries, [1, 0, 9, 8], axis=1), lambda: tf.gather(entries, [0, 1, 8, 9], axis=1)
    )
    tags, values = entries[:, 0] * 256 + entries[:, 1], entries[:, 2] * 256 + entries[:, 3]
    value = tf.reduce_max(tf.where(tags == ORIENTATION, values, 0), axis=0)
    return tf.where((value >= 1) & (value <= 8) & (tf.size(tags) > 0), value, 1)
