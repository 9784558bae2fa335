"""JPEG or PNG bytes in, an upright RGB picture out: one graph for `segment` and for the SavedModel.

The decoders' settings give OpenCV's and Pillow's values byte for byte.
"""

import tensorflow as tf

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # the Exif tag (CIPA DC-008, 4.6.4)
MAX_SIDE = 32768  # pixels; the matrices that spread the scores grow with it
MAX_SEGMENTS = 32768  # of a file to look through for its orientation: 1 s; a PNG of 64 megapixels has up to 25,000
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
    return _number(header, 20, 4), _number(header, 16, 4)


def _decode_jpeg(data, name):
    channels = tf.io.extract_jpeg_shape(data)[2]
    message = name, " is grey or colour (1 or 3 channels), not CMYK. Channels: ", channels
    with tf.control_dependencies([_require(channels < 4, *message)]):
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


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


def _number(octets, position, size, little_endian=False):
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
        marker, length = _number(octets, position + 1, 1), _number(octets, position + 2, 2)
        is_exif = (marker == 0xE1) & (_number(octets, position + 4, 4) == int.from_bytes(b"Exif"))
        ends = (_number(octets, position, 1) != 0xFF) | (marker == 0xDA) | (marker == 0xD9) | (length < 2)
        advance = tf.where(marker == 0xFF, 1, tf.where(ends, 0, 2 + length))  # 0xFF 0xFF: a fill byte
        return _segment(position, advance, size, is_exif, position + 10, position + 2 + length)

    return _walk(octets, 2, step)


def _exif_in_png(octets):
    size = tf.size(octets)

    def step(position):
        length = _number(octets, position, 4)
        is_exif = _number(octets, position + 4, 4) == int.from_bytes(b"eXIf")
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
    directory = tf.minimum(_number(octets, 4, 4, little), tf.size(octets))
    count = tf.minimum(_number(octets, directory, 2, little), (tf.size(octets) - directory) // 12)
    entries = tf.reshape(octets[directory + 2 : directory + 2 + 12 * count], [-1, 12])  # tag, type, count, value
    entries = tf.cond(
        little, lambda: tf.gather(entries, [1, 0, 9, 8], axis=1), lambda: tf.gather(entries, [0, 1, 8, 9], axis=1)
    )
    tags, values = entries[:, 0] * 256 + entries[:, 1], entries[:, 2] * 256 + entries[:, 3]
    value = tf.reduce_max(tf.where(tags == ORIENTATION, values, 0), axis=0)
    return tf.where((value >= 1) & (value <= 8) & (tf.size(tags) > 0), value, 1)
