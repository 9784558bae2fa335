"""Training augmentation as the released models had it: a picture, its label map and drawn numbers in, a crop out.

The numbers are drawn by `draw`, from a seed; everything else is a pure function of them, so that the same draws give the
same crop: eagerly, inside tf.data, and in the original (mmsegmentation 1.2.2), whose steps these are, in its order:
`random_resize`, `random_crop`, `random_flip`, `photometric`, `pad`. `augment` is all of them at once, value for value,
for a fraction of the time: it makes only the pixels that the crop shows, in one compiled pass.

Images are RGB (H, W, 3) uint8, labels (H, W) uint8 with 255 for "no class"; crops and boxes are in pixels.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.networks.layers import MEAN
from keras_deeplab.pictures.resize import (
    bilinear_taps,
    fit_in_box,
    mix_columns,
    mix_rows,
    nearest_index,
    resize_nearest,
    resize_uint8,
)

ATTEMPTS = 11  # boxes that the category rule may draw; the last is taken unchecked
NUMBERS = 2 * ATTEMPTS + 11  # random numbers of one example
BRIGHTNESS = 32.0  # levels, up or down
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18  # on OpenCV's scale, half a degree: -18..17
TILE = 512  # compiled code is for one picture size; padded to multiples of this, pictures have few


class Photometric(NamedTuple):
    """The numbers of `photometric`. A step that is not taken has brightness 0, contrast 1.

    Saturation and hue have switches besides: the way to HSV and back changes a picture even when nothing is done there.
    """

    brightness: Any  # float32, levels to add
    contrast: Any  # float32, factor
    contrast_last: Any  # bool: after the hue, otherwise before the saturation
    saturate: Any  # bool
    saturation: Any  # float32, factor
    turn_hue: Any  # bool
    hue: Any  # int32, in units of two degrees


class Draws(NamedTuple):
    """The numbers of one example."""

    ratio: Any  # float64, of the resize
    offsets: Any  # float64 (11, 2) in 0..1: down and right, one row per box that the category rule may need
    flip: Any  # bool
    photometric: Photometric


def draw(seed, *, resize_ratio, flip):
    """The numbers of one example, independent and uniform.

    Args:
        seed: (2,) integers. The same seed gives the same numbers everywhere.
        resize_ratio: (lowest, highest).
        flip: probability of mirroring.

    Returns:
        `Draws` of scalars and one (11, 2) tensor.
    """
    u = tf.random.stateless_uniform([NUMBERS], seed, dtype=tf.float64, alg="philox")
    return draws_of(u, resize_ratio=resize_ratio, flip=flip)


def draws_of(u, *, resize_ratio, flip):
    """`draw` with its random numbers given: `NUMBERS` of 0..1, float64."""
    offsets, u = tf.reshape(u[: 2 * ATTEMPTS], [ATTEMPTS, 2]), tf.unstack(u[2 * ATTEMPTS :])

    def between(value, low, high, dtype=tf.float32):
        return tf.cast(low + value * (high - low), dtype)

    return Draws(
        ratio=between(u[0], *resize_ratio, tf.float64),
        offsets=offsets,
        flip=u[1] < flip,
        photometric=Photometric(
            brightness=tf.where(u[2] < 0.5, between(u[3], -BRIGHTNESS, BRIGHTNESS), 0.0),
            contrast=tf.where(u[4] < 0.5, between(u[5], *CONTRAST), 1.0),
            contrast_last=u[6] < 0.5,
            saturate=u[7] < 0.5,
            saturation=between(u[8], *SATURATION),
            turn_hue=u[9] < 0.5,
            hue=tf.cast(tf.floor(u[10] * (2 * HUE)), tf.int32) - HUE,
        ),
    )


def reduce_zero_label(label):
    """0 becomes 255, every other label is lowered by one, 255 stays."""
    return tf.where((label == 0) | (label == IGNORE), tf.constant(IGNORE, label.dtype), label - 1)


def resized_size(height, width, ratio, *, base):
    """(height, width) that `random_resize` gives: the box times the ratio, truncated, and the picture fitted into it."""
    box = [tf.cast(side * tf.cast(ratio, tf.float64), tf.int32) for side in (float(max(base)), float(min(base)))]
    return fit_in_box(height, width, *box)


def random_resize(image, label, ratio, *, base):
    """The picture fitted, keeping its ratio, into the box `base` times `ratio`; bilinear, the label by nearest.

    Args:
        ratio: float64 scalar, `Draws.ratio`.
        base: the two sides of the box, in any order.
    """
    size = resized_size(*_size(label), ratio, base=base)
    return resize_uint8(image, *size), resize_nearest(label, *size)


def crop_offset(label_crop, size, offsets, *, crop, cat_max_ratio):
    """Where a crop begins: the first of the drawn boxes in which no class covers too much.

    A box is refused where one class has `cat_max_ratio` or more of the labelled pixels, or only one class (or none)
    occurs; the eleventh is taken whatever it holds.

    Args:
        label_crop: (top, left) -> the label map there.
        size: (height, width) of the whole, int32 scalars.
        offsets: (11, 2), `Draws.offsets`.

    Returns:
        (top, left), int32 scalars, and the label map there.
    """
    margins = [tf.cast(tf.maximum(side - part, 0) + 1, tf.float64) for side, part in zip(size, crop, strict=True)]
    boxes = tf.cast(tf.floor(offsets * tf.stack(margins)), tf.int32)

    def refused(attempt, label):
        return (attempt < ATTEMPTS - 1) & _one_class_rules(label, cat_max_ratio)

    def again(attempt, label):
        return attempt + 1, label_crop(boxes[attempt + 1, 0], boxes[attempt + 1, 1])

    attempt, label = tf.constant(0), label_crop(boxes[0, 0], boxes[0, 1])
    if cat_max_ratio < 1:
        attempt, label = tf.while_loop(
            refused, again, (attempt, label), (attempt.shape, tf.TensorShape([None, None])), parallel_iterations=1
        )
    return (boxes[attempt, 0], boxes[attempt, 1]), label


def _one_class_rules(label, cat_max_ratio):
    def share(pixels, labelled):
        return tf.cast(pixels, tf.float64) / tf.cast(labelled, tf.float64)

    def counted():
        counts = tf.math.bincount(tf.cast(tf.reshape(label, [-1]), tf.int32), minlength=256, maxlength=256)[:IGNORE]
        most, labelled = tf.reduce_max(counts), tf.reduce_sum(counts)
        return (tf.math.count_nonzero(counts) < 2) | (share(most, labelled) >= cat_max_ratio)

    few = share(*_most_of_one_class(label)) < cat_max_ratio  # whence two classes at least
    return tf.cond(few, lambda: False, counted)


@tf.function(jit_compile=True)
def _most_of_one_class(label):
    """A number of pixels that no class exceeds, and that of the labelled ones.

    Each bit parts the classes in two, and none has more pixels than the larger part. That takes a third of the time
    of counting each class, and mostly suffices.
    """
    label = tf.reshape(label, [-1])
    label = tf.pad(label, [[0, -tf.size(label) % 8]], constant_values=IGNORE)
    words = tf.bitcast(tf.reshape(label, [-1, 8]), tf.uint64)  # of eight labels each

    def shifted(words, bits):
        return tf.bitwise.right_shift(words, tf.constant(bits, tf.uint64))

    def count(words):
        """Of labels whose last bit is set."""
        last = tf.bitwise.bitwise_and(words, tf.constant(0x0101010101010101, tf.uint64))
        return tf.reduce_sum(tf.cast(tf.raw_ops.PopulationCount(x=last), tf.int32))

    ignored = words
    for bits in (1, 2, 4):
        ignored = tf.bitwise.bitwise_and(ignored, shifted(ignored, bits))  # in the last bit: whether all eight are set
    ignored = count(ignored)
    labelled = tf.size(label) - ignored
    parts = tf.stack([count(shifted(words, bit)) for bit in range(8)]) - ignored
    return tf.reduce_min(tf.maximum(parts, labelled - parts)), labelled


def random_crop(image, label, offsets, *, crop, cat_max_ratio):
    """A part of at most `crop` (height, width), placed by `crop_offset`."""

    def part(x, top, left):
        return x[top : top + crop[0], left : left + crop[1]]

    box, label = crop_offset(
        lambda *box: part(label, *box), _size(label), offsets, crop=crop, cat_max_ratio=cat_max_ratio
    )
    return part(image, *box), label


def random_flip(image, label, flip):
    """Both mirrored left to right where `flip`."""
    return tf.where(flip, image[:, ::-1], image), tf.where(flip, label[:, ::-1], label)


def photometric(image, draws):
    """Brightness, contrast, saturation, hue and contrast, in 8 bits as the original computes them.

    Saturation and hue go through OpenCV's 8-bit HSV (hue 0..179), there and back once for each. Compiled for each size
    of picture that it meets.

    Args:
        image: (H, W, 3) uint8.
        draws: `Photometric`.

    Returns:
        (H, W, 3) uint8.
    """
    return tf.transpose(_photometric(tf.transpose(image, [2, 0, 1]), draws), [1, 2, 0])


def pad(image, label, *, crop):
    """(height, width) of `crop` by adding below and to the right: 0 after the model's normalisation, and label 255.

    Returns:
        image (height, width, 3) float32, in which the padding is the mean that the model subtracts; label uint8.
    """
    height, width = _size(label)
    inside = (tf.range(crop[0]) < height)[:, None] & (tf.range(crop[1]) < width)[None]
    below = [[0, tf.maximum(crop[0] - height, 0)], [0, tf.maximum(crop[1] - width, 0)]]
    image = tf.pad(tf.cast(image, tf.float32), [*below, [0, 0]])
    label = tf.pad(label, below, constant_values=IGNORE)
    return tf.where(inside[..., None], image, tf.constant(MEAN)), tf.ensure_shape(label, crop)


def augment(image, label, draws, *, resize_base, crop, cat_max_ratio, reduce_zero):
    """The whole augmentation of one example: the steps of this module in their order.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) uint8, as in the file.
        draws: `Draws`.
        resize_base: the two sides of the box that a ratio of 1 fits pictures into.
        crop: (height, width).
        cat_max_ratio: of the category rule; 1 turns it off.
        reduce_zero: apply `reduce_zero_label` first.

    Returns:
        image (height, width, 3) float32 of 0..255 and label (height, width) uint8, of the size `crop`.
    """
    image, size, label = augment_to_bytes(
        image,
        label,
        draws,
        resize_base=resize_base,
        crop=crop,
        cat_max_ratio=cat_max_ratio,
        reduce_zero=reduce_zero,
    )
    return finish(image[None], size[None], crop=crop)[0], label


def augment_to_bytes(image, label, draws, *, resize_base, crop, cat_max_ratio, reduce_zero):
    """`augment` up to its last step, `finish`, which is cheaper for a whole batch.

    Returns:
        image (3, height, width) uint8, its size (height, width) before padding, label (height, width) uint8.
    """
    size_in = _size(label)
    size = resized_size(*size_in, draws.ratio, base=resize_base)
    image, label, reduce_zero = _tiled(image), _tiled(label[..., None]), tf.constant(bool(reduce_zero))

    def label_crop(top, left):
        rows, columns = _positions((top, left), size, crop, draws.flip)
        indices = nearest_index(size_in[0], size[0], rows), nearest_index(size_in[1], size[1], columns)
        return _label_crop(label, *indices, tf.stack(size), reduce_zero, crop=crop)

    box, label = crop_offset(label_crop, size, draws.offsets, crop=crop, cat_max_ratio=cat_max_ratio)
    rows, columns = _positions(box, size, crop, draws.flip)
    taps = (
        bilinear_taps(size_in[0], size[0], rows, horizontal=False),
        bilinear_taps(size_in[1], size[1], columns, horizontal=True),
    )
    image = _colours(_image_crop(image, *taps, *_first_levels(draws.photometric)), draws.photometric)
    return tf.ensure_shape(image, [3, *crop]), tf.stack(size), tf.ensure_shape(label, crop)


def finish(images, sizes, crop):
    """(N, height, width, 3) float32 of (N, 3, height, width) uint8, the mean where a picture of `sizes` (N, 2) ends."""
    return _padded(_channels_last(images), sizes, crop=crop)  # on bytes first, then in rows: half the time of one pass


@tf.function(jit_compile=True)
def _channels_last(images):
    return tf.transpose(images, [0, 2, 3, 1])


@tf.function(jit_compile=True)
def _padded(images, sizes, crop):
    rows, values = tf.range(crop[0]) < sizes[:, :1], tf.range(3 * crop[1]) < 3 * sizes[:, 1:]
    images = tf.cast(tf.reshape(images, [-1, crop[0], 3 * crop[1]]), tf.float32)
    images = tf.where(rows[:, :, None] & values[:, None], images, tf.tile(tf.constant(MEAN), [crop[1]]))
    return tf.reshape(images, [-1, *crop, 3])


def _positions(box, size, crop, flip):
    """Which rows and columns of the resized picture a crop shows; past its end the last, which padding then hides."""
    rows = tf.minimum(box[0] + tf.range(crop[0]), size[0] - 1)
    shown = tf.minimum(crop[1], size[1])  # columns that are not padding
    columns = tf.where(flip, shown - 1 - tf.range(crop[1]), tf.range(crop[1]))
    return rows, tf.clip_by_value(box[1] + columns, 0, size[1] - 1)


def _size(label):
    return tf.shape(label)[0], tf.shape(label)[1]


def _tiled(image):
    """(H, W, C) with zeros up to multiples of `TILE`."""
    height, width = _size(image)
    below, right, channels = -height % TILE, -width % TILE, image.shape[-1]

    def padded():  # as two axes: a quarter of the time
        rows = tf.reshape(image, [height, width * channels])
        rows = tf.pad(rows, [[0, below], [0, right * channels]])
        return tf.reshape(rows, [height + below, width + right, channels])

    return tf.cond((below == 0) & (right == 0), lambda: image, padded)


@tf.function(jit_compile=True)
def _label_crop(label, rows, columns, size, reduce_zero, crop):
    label = tf.gather(tf.gather(label[..., 0], rows), columns, axis=1)
    label = tf.where(reduce_zero, reduce_zero_label(label), label)
    inside = (tf.range(crop[0]) < size[0])[:, None] & (tf.range(crop[1]) < size[1])[None]
    return tf.where(inside, label, tf.constant(IGNORE, tf.uint8))


def _image_crop(image, row_taps, column_taps, brightness=0.0, contrast=1.0):
    """A part of the resized picture, (3, height, width) uint8: with channels first the later passes are contiguous.

    Brightness and contrast come with it for nothing.
    """
    top, bottom, *weights = row_taps
    rows, top, bottom = _source_rows(top, bottom)
    return _mixed_rows(_mixed_columns(image, rows, column_taps), (top, bottom), weights, brightness, contrast)


def _source_rows(top, bottom):
    """The rows of the picture that a crop mixes, and where `top` and `bottom` are among them.

    Neighbours share rows, so that there are fewer than two for each row of the crop, unless a picture shrinks to less
    than half. Compiled code is for one number of them; there are about ten.
    """
    count = tf.size(top)
    step, span = tf.maximum(count // 4, 1), bottom[-1] - top[0] + 1
    rows = tf.range(2 - (2 - span) // step * step)  # rounded up; two more than a multiple is what a ratio of 1 takes
    return tf.cond(
        span <= 2 * count,
        lambda: (tf.minimum(top[0] + rows, bottom[-1]), top - top[0], bottom - top[0]),
        lambda: (tf.concat([top, bottom], 0), tf.range(count), count + tf.range(count)),
    )


# In two pieces: in one the compiler computes the columns anew for every row of the crop.


@tf.function(jit_compile=True)
def _mixed_columns(image, rows, taps):
    left, right, *weights = taps
    rows = tf.transpose(tf.gather(image, rows), [2, 0, 1])
    return tf.cast(mix_columns(tf.gather(rows, left, axis=2), tf.gather(rows, right, axis=2), weights), tf.int16)


@tf.function(jit_compile=True)
def _mixed_rows(rows, indices, weights, brightness, contrast):
    weights = [weight[:, None] for weight in weights]
    image = mix_rows(*(tf.gather(rows, index, axis=1) for index in indices), weights)
    return _stored(_stored(_float(image) + brightness), contrast)


# The photometric passes work on (3, H, W) uint8, so that what is between them is small. Each is compiled on its own: in
# one piece the compiler computes what comes before the last pass anew for every channel.


def _photometric(image, draws):
    return _colours(_levels(image, *_first_levels(draws)), draws)


def _first_levels(draws):
    """Brightness, and contrast unless it comes last."""
    return draws.brightness, tf.where(draws.contrast_last, 1.0, draws.contrast)


def _colours(image, draws):
    image = tf.cond(draws.saturate, lambda: _from_hsv(_saturated(_to_hsv(image), draws.saturation)), lambda: image)
    image = tf.cond(draws.turn_hue, lambda: _from_hsv(_turned(_to_hsv(image), draws.hue)), lambda: image)
    return tf.cond(draws.contrast_last, lambda: _levels(image, 0.0, draws.contrast), lambda: image)


@tf.function(jit_compile=True)
def _levels(image, brightness, contrast):
    return _stored(_stored(_float(image) + brightness), contrast)


@tf.function(jit_compile=True)
def _saturated(hsv, factor):
    h, s, v = tf.unstack(hsv)
    return tf.stack([h, _stored(s, factor), v])


@tf.function(jit_compile=True)
def _turned(hsv, hue):
    h, s, v = tf.unstack(hsv)
    return tf.stack([tf.cast((tf.cast(h, tf.int32) + hue) % 180, tf.uint8), s, v])


@tf.function(jit_compile=True)
def _to_hsv(image):
    """OpenCV's 8-bit conversion, in its fixed point of 12 bits; 0..179, 0..255 and 0..255."""
    r, g, b = tf.unstack(tf.cast(image, tf.int32))
    v = tf.maximum(tf.maximum(r, g), b)
    span = v - tf.minimum(tf.minimum(r, g), b)
    s = tf.bitwise.right_shift(span * _quotient(255 << 12, v) + (1 << 11), 12)
    h = tf.where(v == r, g - b, tf.where(v == g, b - r + 2 * span, r - g + 4 * span))
    h = tf.bitwise.right_shift(h * _quotient((180 << 12) // 6, span) + (1 << 11), 12)
    return tf.cast(tf.stack([tf.where(h < 0, h + 180, h), s, v]), tf.uint8)


@tf.function(jit_compile=True)
def _from_hsv(hsv):
    """OpenCV's 8-bit conversion as its vector code does it: in float32, truncated."""
    h, s, v = (_float(x) for x in tf.unstack(hsv))
    h, s, v = h * (6 / 180), s * (1 / 255), v * (1 / 255)
    sector = tf.floor(h)
    f = h - sector
    low, falling, rising = v * (1 - s), v * (1 - s * f), v * (1 - s * (1 - f))
    by_sector = (
        (v, falling, low, low, rising, v),
        (rising, v, v, falling, low, low),
        (low, low, rising, v, v, falling),
    )
    channels = [tf.cast(_chosen(sector, values) * 255.0, tf.int32) for values in by_sector]
    return tf.cast(tf.stack(channels), tf.uint8)


def _float(image):
    return tf.cast(image, tf.float32)


def _stored(image, factor=1.0):
    """Times a factor and into 8 bits: clipped, then truncated, not rounded."""
    return tf.cast(tf.clip_by_value(_float(image) * factor, 0.0, 255.0), tf.uint8)


def _quotient(dividend, divisor):
    """Rounded, and of no consequence where the divisor is 0."""
    return tf.cast(tf.round(float(dividend) / _float(tf.maximum(divisor, 1))), tf.int32)


def _chosen(sector, values):
    result = values[-1]
    for k, value in reversed(list(enumerate(values[:-1]))):
        result = tf.where(sector == k, value, result)
    return result
