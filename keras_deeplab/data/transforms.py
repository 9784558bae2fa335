"""A picture, its label map and random numbers in; a crop augmented as for the released models out (mmsegmentation 1.2.2).

`draw` makes the random numbers from a seed. Everything else is a pure function of them: the same numbers give the same
crop eagerly, inside tf.data and in the original. The steps and their order are the original's: `random_resize`,
`random_crop`, `random_flip`, `photometric`, `pad`. `augment` gives the same values as these steps together, in a fraction
of the time: it computes only the pixels that the crop shows, in compiled code.

Images are RGB (H, W, 3) uint8. Labels are (H, W) uint8, with 255 for "no class". Crops and boxes are in pixels.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.data.label_rule import label_table
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

ATTEMPTS = 11  # boxes that are drawn for a crop; the last one is used without a check of its classes
NUMBERS = 2 * ATTEMPTS + 11  # random numbers of one example
BRIGHTNESS = 32.0  # largest change up or down, in levels of 0..255
CONTRAST = SATURATION = (0.5, 1.5)  # lowest and highest factor
HUE = 18  # changes are -18..17, in units of OpenCV's hue (0..179 for the full circle)
TILE = 512  # pixels; pictures are padded to multiples of it, so that XLA compiles for few picture sizes


class Photometric(NamedTuple):
    """The random numbers of `photometric`. Brightness 0 and contrast 1 stand for a step that is left out.

    Saturation and hue have switches of their own: the conversion to HSV and back changes a picture even where saturation
    and hue stay the same.
    """

    brightness: Any  # float32, levels to add
    contrast: Any  # float32, factor
    contrast_last: Any  # bool: the contrast step follows the hue step; otherwise it precedes the saturation step
    saturate: Any  # bool: whether the saturation step is done
    saturation: Any  # float32, factor
    turn_hue: Any  # bool: whether the hue step is done
    hue: Any  # int32, in units of two degrees


class Draws(NamedTuple):
    """The random numbers of one example."""

    ratio: Any  # float64, factor for the box that the picture is resized into
    offsets: Any  # float64 (11, 2) in 0..1: vertical and horizontal place of each box that a crop may need
    flip: Any  # bool
    photometric: Photometric


def draw(seed, *, resize_ratio, flip, photometric=True):
    """The random numbers of one example: independent, and uniform in their ranges.

    Args:
        seed: (2,) integers. The same seed gives the same numbers everywhere.
        resize_ratio: (lowest, highest) factor for the box that pictures are resized into.
        flip: probability of mirroring left to right.
        photometric: whether colours are changed. Default True.

    Returns:
        `Draws` of scalars and one (11, 2) tensor.
    """
    u = tf.random.stateless_uniform([NUMBERS], seed, dtype=tf.float64, alg="philox")
    return draws_of(u, resize_ratio=resize_ratio, flip=flip, photometric=photometric)


def draws_of(u, *, resize_ratio, flip, photometric=True):
    """As `draw`, but from uniform random numbers in place of a seed.

    Args:
        u: (`NUMBERS`,) float64 of 0..1.
        resize_ratio, flip, photometric: as for `draw`.
    """
    offsets, u = tf.reshape(u[: 2 * ATTEMPTS], [ATTEMPTS, 2]), tf.unstack(u[2 * ATTEMPTS :])

    def between(value, low, high, dtype=tf.float32):
        return tf.cast(low + value * (high - low), dtype)

    chance = 0.5 if photometric else 0.0  # of each change of the colours
    return Draws(
        ratio=between(u[0], *resize_ratio, tf.float64),
        offsets=offsets,
        flip=u[1] < flip,
        photometric=Photometric(
            brightness=tf.where(u[2] < chance, between(u[3], -BRIGHTNESS, BRIGHTNESS), 0.0),
            contrast=tf.where(u[4] < chance, between(u[5], *CONTRAST), 1.0),
            contrast_last=u[6] < 0.5,
            saturate=u[7] < chance,
            saturation=between(u[8], *SATURATION),
            turn_hue=u[9] < chance,
            hue=tf.cast(tf.floor(u[10] * (2 * HUE)), tf.int32) - HUE,
        ),
    )


def reduce_zero_label(label):
    """0 becomes 255, every other label is lowered by one, 255 stays."""
    return tf.where((label == 0) | (label == IGNORE), tf.constant(IGNORE, label.dtype), label - 1)


def resized_size(height, width, ratio, *, base):
    """The (height, width) after `random_resize`: that of the picture fitted into the box times the ratio, truncated.

    Without a box (None) it is the picture's own size that is multiplied.
    """
    base = (height, width) if base is None else tuple(map(float, base))
    base = [tf.cast(side, tf.float64) for side in base]
    long_side, short_side = tf.maximum(*base), tf.minimum(*base)
    box = [tf.cast(side * tf.cast(ratio, tf.float64), tf.int32) for side in (long_side, short_side)]
    return fit_in_box(height, width, *box)


def random_resize(image, label, ratio, *, base):
    """The picture and its label map, resized to fit into the box `base` times `ratio`. The aspect ratio is kept.

    The picture is resized bilinearly, the label map by nearest neighbour.

    Args:
        ratio: float64 scalar, `Draws.ratio`.
        base: the two sides of the box in pixels, in any order.

    Returns:
        image (h, w, 3) uint8, label (h, w) uint8.
    """
    size = resized_size(*_size(label), ratio, base=base)
    return resize_uint8(image, *size), resize_nearest(label, *size)


def crop_offset(label_crop, size, offsets, *, crop, cat_max_ratio):
    """The place of a crop: the first of the drawn boxes in which no class covers too much.

    A box is refused if one class has `cat_max_ratio` or more of its labelled pixels, or if fewer than two classes occur.
    The eleventh box is used in any case.

    Args:
        label_crop: function of (top, left) that returns the label map of the box there.
        size: (height, width) of the resized picture, int32 scalars.
        offsets: (11, 2), `Draws.offsets`.
        crop: (height, width) in pixels.
        cat_max_ratio: share of the labelled pixels; 1 accepts the first box.

    Returns:
        (top, left), int32 scalars, and the label map of that box.
    """
    margins = [tf.cast(tf.maximum(side - part, 0) + 1, tf.float64) for side, part in zip(size, crop, strict=True)]
    boxes = tf.cast(tf.floor(offsets * tf.stack(margins)), tf.int32)

    def refused(attempt, label):
        return (attempt < ATTEMPTS - 1) & _class_covers_too_much(label, cat_max_ratio)

    def next_box(attempt, label):
        return attempt + 1, label_crop(boxes[attempt + 1, 0], boxes[attempt + 1, 1])

    attempt, label = tf.constant(0), label_crop(boxes[0, 0], boxes[0, 1])
    if cat_max_ratio < 1:
        attempt, label = tf.while_loop(
            refused, next_box, (attempt, label), (attempt.shape, tf.TensorShape([None, None])), parallel_iterations=1
        )
    return (boxes[attempt, 0], boxes[attempt, 1]), label


def _class_covers_too_much(label, cat_max_ratio):
    """Whether one class has `cat_max_ratio` or more of the labelled pixels, or fewer than two classes occur."""

    def share(pixels, labelled):
        return tf.cast(pixels, tf.float64) / tf.cast(labelled, tf.float64)

    def by_count():
        counts = tf.math.bincount(tf.cast(tf.reshape(label, [-1]), tf.int32), minlength=256, maxlength=256)[:IGNORE]
        most, labelled = tf.reduce_max(counts), tf.reduce_sum(counts)
        return (tf.math.count_nonzero(counts) < 2) | (share(most, labelled) >= cat_max_ratio)

    # A bound below the limit proves that every class is below it, and hence that two classes occur. Most crops pass.
    bound_passes = share(*_class_size_bound(label)) < cat_max_ratio
    return tf.cond(bound_passes, lambda: False, by_count)


@tf.function(jit_compile=True)
def _class_size_bound(label):
    """An upper bound on the number of pixels of every class, and the number of labelled pixels.

    Each of the eight bits of a label divides the classes into two groups. No class has more pixels than the larger
    group. This takes a third of the time of a count of each class.
    """
    label = tf.reshape(label, [-1])
    label = tf.pad(label, [[0, -tf.size(label) % 8]], constant_values=IGNORE)
    words = tf.bitcast(tf.reshape(label, [-1, 8]), tf.uint64)  # eight labels in each

    def shifted(words, bits):
        return tf.bitwise.right_shift(words, tf.constant(bits, tf.uint64))

    def count(words):
        """The number of labels whose last bit is set."""
        last = tf.bitwise.bitwise_and(words, tf.constant(0x0101010101010101, tf.uint64))
        return tf.reduce_sum(tf.cast(tf.raw_ops.PopulationCount(x=last), tf.int32))

    all_set = words
    for bits in (1, 2, 4):  # afterwards the last bit of a label says whether all its eight bits were set: 255, ignored
        all_set = tf.bitwise.bitwise_and(all_set, shifted(all_set, bits))
    ignored = count(all_set)
    labelled = tf.size(label) - ignored
    groups = tf.stack([count(shifted(words, bit)) for bit in range(8)]) - ignored  # labelled pixels with that bit set
    return tf.reduce_min(tf.maximum(groups, labelled - groups)), labelled


def random_crop(image, label, offsets, *, crop, cat_max_ratio):
    """The part of a picture and its label map at the place that `crop_offset` gives, at most `crop` (height, width)."""

    def part(x, top, left):
        return x[top : top + crop[0], left : left + crop[1]]

    box, label = crop_offset(
        lambda *box: part(label, *box), _size(label), offsets, crop=crop, cat_max_ratio=cat_max_ratio
    )
    return part(image, *box), label


def random_flip(image, label, flip):
    """The picture and its label map, mirrored left to right if `flip` is true."""
    return tf.where(flip, image[:, ::-1], image), tf.where(flip, label[:, ::-1], label)


def photometric(image, draws):
    """Brightness, contrast, saturation and hue, in 8 bits as in the original. Contrast can also be the last step.

    The saturation and the hue step each convert to OpenCV's 8-bit HSV (hue 0..179) and back. XLA compiles the code once
    for each picture size.

    Args:
        image: (H, W, 3) uint8.
        draws: `Photometric`.

    Returns:
        (H, W, 3) uint8.
    """
    return tf.transpose(_photometric(tf.transpose(image, [2, 0, 1]), draws), [1, 2, 0])


def pad(image, label, *, crop):
    """The picture and its label map, padded below and on the right to the size `crop`.

    Returns:
        image (height, width, 3) float32, padded with the mean colour, which the model normalises to 0; label
        (height, width) uint8, padded with 255.
    """
    height, width = _size(label)
    inside = (tf.range(crop[0]) < height)[:, None] & (tf.range(crop[1]) < width)[None]
    margins = [[0, tf.maximum(crop[0] - height, 0)], [0, tf.maximum(crop[1] - width, 0)]]
    image = tf.pad(tf.cast(image, tf.float32), [*margins, [0, 0]])
    label = tf.pad(label, margins, constant_values=IGNORE)
    return tf.where(inside[..., None], image, tf.constant(MEAN)), tf.ensure_shape(label, crop)


def augment(image, label, draws, *, resize_base, crop, cat_max_ratio, reduce_zero, label_map=None):
    """The complete augmentation of one example: the values of the single steps of this module, computed faster.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) uint8, as in the file.
        draws: `Draws`.
        resize_base: the two sides, in pixels, of the box that a ratio of 1 fits pictures into; None: their own size.
        crop: (height, width) in pixels.
        cat_max_ratio: as for `crop_offset`.
        reduce_zero: whether to apply `reduce_zero_label` first.
        label_map: {label: class number} that is applied after it, or None.

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
        label_map=label_map,
    )
    return finish(image[None], size[None], crop=crop)[0], label


def augment_to_bytes(image, label, draws, *, resize_base, crop, cat_max_ratio, reduce_zero, label_map=None):
    """`augment` without its last step, `finish`, which takes less time on a whole batch.

    Returns:
        image (3, height, width) uint8; the size (height, width) of the resized picture, beyond which the crop is padding;
        label (height, width) uint8.
    """
    size_in = _size(label)
    size = resized_size(*size_in, draws.ratio, base=resize_base)
    image, label = _pad_to_tiles(image), _pad_to_tiles(label[..., None])
    table = label_table(reduce_zero, label_map)

    def label_crop(top, left):
        rows, columns = _crop_positions((top, left), size, crop, draws.flip)
        indices = nearest_index(size_in[0], size[0], rows), nearest_index(size_in[1], size[1], columns)
        return _label_crop(label, *indices, tf.stack(size), table, crop=crop)

    box, label = crop_offset(label_crop, size, draws.offsets, crop=crop, cat_max_ratio=cat_max_ratio)
    rows, columns = _crop_positions(box, size, crop, draws.flip)
    taps = (
        bilinear_taps(size_in[0], size[0], rows, horizontal=False),
        bilinear_taps(size_in[1], size[1], columns, horizontal=True),
    )
    image = _image_crop(image, *taps, *_early_brightness_contrast(draws.photometric))
    image = _saturation_hue_contrast(image, draws.photometric)
    return tf.ensure_shape(image, [3, *crop]), tf.stack(size), tf.ensure_shape(label, crop)


def finish(images, sizes, crop):
    """A batch of `augment_to_bytes` as the model takes it, with its padding in the mean colour.

    Args:
        images: (N, 3, height, width) uint8.
        sizes: (N, 2), the sizes that `augment_to_bytes` returns.
        crop: (height, width) in pixels.

    Returns:
        (N, height, width, 3) float32 of 0..255.
    """
    # Two passes, the transposition on bytes and the padding on rows, take half the time of one.
    return _fill_padding(_channels_last(images), sizes, crop=crop)


@tf.function(jit_compile=True)
def _channels_last(images):
    return tf.transpose(images, [0, 2, 3, 1])


@tf.function(jit_compile=True)
def _fill_padding(images, sizes, crop):
    # True inside the picture: (N, height), (N, 3 * width).
    rows, values = tf.range(crop[0]) < sizes[:, :1], tf.range(3 * crop[1]) < 3 * sizes[:, 1:]
    images = tf.cast(tf.reshape(images, [-1, crop[0], 3 * crop[1]]), tf.float32)
    images = tf.where(rows[:, :, None] & values[:, None], images, tf.tile(tf.constant(MEAN), [crop[1]]))
    return tf.reshape(images, [-1, *crop, 3])


def _crop_positions(box, size, crop, flip):
    """The rows and columns of the resized picture that a crop shows; beyond its end the last one, hidden later by padding."""
    rows = tf.minimum(box[0] + tf.range(crop[0]), size[0] - 1)
    shown = tf.minimum(crop[1], size[1])  # columns that are not padding
    columns = tf.where(flip, shown - 1 - tf.range(crop[1]), tf.range(crop[1]))
    return rows, tf.clip_by_value(box[1] + columns, 0, size[1] - 1)


def _size(label):
    return tf.shape(label)[0], tf.shape(label)[1]


def _pad_to_tiles(image):
    """(H, W, C), padded with zeros below and on the right to multiples of `TILE`."""
    height, width = _size(image)
    below, right, channels = -height % TILE, -width % TILE, image.shape[-1]

    def padded():
        # With width and channels as one axis the padding takes a quarter of the time.
        rows = tf.reshape(image, [height, width * channels])
        rows = tf.pad(rows, [[0, below], [0, right * channels]])
        return tf.reshape(rows, [height + below, width + right, channels])

    return tf.cond((below == 0) & (right == 0), lambda: image, padded)


@tf.function(jit_compile=True)
def _label_crop(label, rows, columns, size, table, crop):
    label = tf.gather(tf.gather(label[..., 0], rows), columns, axis=1)
    label = label if table is None else tf.gather(table, tf.cast(label, tf.int32))
    inside = (tf.range(crop[0]) < size[0])[:, None] & (tf.range(crop[1]) < size[1])[None]
    return tf.where(inside, label, tf.constant(IGNORE, tf.uint8))


def _image_crop(image, row_taps, column_taps, brightness=0.0, contrast=1.0):
    """A part of the resized picture after brightness and contrast, (3, height, width) uint8.

    Channels come first so that the later passes read contiguous memory. Brightness and contrast are part of the same pass
    and take no extra time.
    """
    top, bottom, *weights = row_taps
    rows, top, bottom = _source_rows(top, bottom)
    return _mixed_rows(_mixed_columns(image, rows, column_taps), (top, bottom), weights, brightness, contrast)


def _source_rows(top, bottom):
    """The rows of the picture that a crop is interpolated from, and the places of `top` and `bottom` among them.

    Neighbouring rows of the crop share source rows. Hence the crop needs fewer than two source rows for each of its rows,
    unless the picture shrinks to less than half. XLA compiles the code for each number of source rows: the number is
    rounded up so that only about ten occur.
    """
    count = tf.size(top)
    step, span = tf.maximum(count // 4, 1), bottom[-1] - top[0] + 1
    # Rounded up to a multiple of `step` plus 2. A ratio of 1 needs exactly such a number of rows.
    rows = tf.range(2 - (2 - span) // step * step)
    return tf.cond(
        span <= 2 * count,
        lambda: (tf.minimum(top[0] + rows, bottom[-1]), top - top[0], bottom - top[0]),
        lambda: (tf.concat([top, bottom], 0), tf.range(count), count + tf.range(count)),
    )


# Two functions: in a single one XLA would compute the columns again for every row of the crop.


@tf.function(jit_compile=True)
def _mixed_columns(image, rows, taps):
    left, right, *weights = taps
    rows = tf.transpose(tf.gather(image, rows), [2, 0, 1])
    return tf.cast(mix_columns(tf.gather(rows, left, axis=2), tf.gather(rows, right, axis=2), weights), tf.int16)


@tf.function(jit_compile=True)
def _mixed_rows(rows, indices, weights, brightness, contrast):
    weights = [weight[:, None] for weight in weights]
    image = mix_rows(*(tf.gather(rows, index, axis=1) for index in indices), weights)
    return _to_uint8(_to_uint8(_float(image) + brightness), contrast)


# The photometric passes work on (3, H, W) uint8, so that the arrays between them are small. Each is compiled separately:
# in a single function XLA would compute everything before the last pass again for every channel.


def _photometric(image, draws):
    return _saturation_hue_contrast(_brightness_contrast(image, *_early_brightness_contrast(draws)), draws)


def _early_brightness_contrast(draws):
    """The numbers of the steps before the saturation: brightness, and contrast or 1 where its step comes last."""
    return draws.brightness, tf.where(draws.contrast_last, 1.0, draws.contrast)


def _saturation_hue_contrast(image, draws):
    image = tf.cond(draws.saturate, lambda: _from_hsv(_saturated(_to_hsv(image), draws.saturation)), lambda: image)
    image = tf.cond(draws.turn_hue, lambda: _from_hsv(_hue_turned(_to_hsv(image), draws.hue)), lambda: image)
    return tf.cond(draws.contrast_last, lambda: _brightness_contrast(image, 0.0, draws.contrast), lambda: image)


@tf.function(jit_compile=True)
def _brightness_contrast(image, brightness, contrast):
    return _to_uint8(_to_uint8(_float(image) + brightness), contrast)


@tf.function(jit_compile=True)
def _saturated(hsv, factor):
    h, s, v = tf.unstack(hsv)
    return tf.stack([h, _to_uint8(s, factor), v])


@tf.function(jit_compile=True)
def _hue_turned(hsv, hue):
    h, s, v = tf.unstack(hsv)
    return tf.stack([tf.cast((tf.cast(h, tf.int32) + hue) % 180, tf.uint8), s, v])


@tf.function(jit_compile=True)
def _to_hsv(image):
    """OpenCV's 8-bit conversion, in fixed point with 12 fractional bits: hue 0..179, saturation and value 0..255."""
    r, g, b = tf.unstack(tf.cast(image, tf.int32))
    v = tf.maximum(tf.maximum(r, g), b)
    span = v - tf.minimum(tf.minimum(r, g), b)
    s = tf.bitwise.right_shift(span * _quotient(255 << 12, v) + (1 << 11), 12)
    h = tf.where(v == r, g - b, tf.where(v == g, b - r + 2 * span, r - g + 4 * span))
    h = tf.bitwise.right_shift(h * _quotient((180 << 12) // 6, span) + (1 << 11), 12)
    return tf.cast(tf.stack([tf.where(h < 0, h + 180, h), s, v]), tf.uint8)


@tf.function(jit_compile=True)
def _from_hsv(hsv):
    """OpenCV's 8-bit conversion as its vector code computes it: in float32, then truncated."""
    h, s, v = (_float(x) for x in tf.unstack(hsv))
    h, s, v = h * (6 / 180), s * (1 / 255), v * (1 / 255)
    sector = tf.floor(h)
    f = h - sector
    low, falling, rising = v * (1 - s), v * (1 - s * f), v * (1 - s * (1 - f))
    by_sector = (  # red, green and blue in each of the six sectors of the hue circle
        (v, falling, low, low, rising, v),
        (rising, v, v, falling, low, low),
        (low, low, rising, v, v, falling),
    )
    channels = [tf.cast(_value_of_sector(sector, values) * 255.0, tf.int32) for values in by_sector]
    return tf.cast(tf.stack(channels), tf.uint8)


def _float(image):
    return tf.cast(image, tf.float32)


def _to_uint8(image, factor=1.0):
    """The image times a factor, as uint8: clipped to 0..255, then truncated, not rounded."""
    return tf.cast(tf.clip_by_value(_float(image) * factor, 0.0, 255.0), tf.uint8)


def _quotient(dividend, divisor):
    """The rounded quotient. Where the divisor is 0 it does not matter: it is multiplied by 0."""
    return tf.cast(tf.round(float(dividend) / _float(tf.maximum(divisor, 1))), tf.int32)


def _value_of_sector(sector, values):
    result = values[-1]
    for k, value in reversed(list(enumerate(values[:-1]))):
        result = tf.where(sector == k, value, result)
    return result
