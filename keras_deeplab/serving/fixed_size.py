"""A network in, its test protocol for pictures of one size out: without loops and with known shapes, as converters need it."""

import tensorflow as tf

from keras_deeplab.inference.label_map import BAND_VALUES, band_scores, combined, labels_of
from keras_deeplab.inference.segment import (
    WINDOW_PIXELS,
    extent_of,
    pad_with_mean,
    passes,
    resize,
    scaled_side,
    window_starts,
)
from keras_deeplab.pictures.resize import resize_aligned


def fixed_protocol(network, height, width, *, multi_scale_flip=False, at_once=None):
    """The model's test protocol for pictures of one size, as a function.

    It computes what `network.view_of` and `merge` compute, in the same order: the windows of a sliding window, then the label
    map in bands of rows.

    Args:
        network: a `keras_deeplab.inference.segment.Network`.
        height, width: of the pictures, in pixels.
        multi_scale_flip: as for `segment`.
        at_once: how many windows go through the network together. None (the default): as many as in `network.view`.

    Returns:
        A function (picture, return_scores) -> labels (height, width) uint8, scores (height, width, classes) or empty.
    """
    protocol = network.protocol
    box = max(height, width), min(height, width)
    if protocol.resize and multi_scale_flip != "picture":
        box = protocol.resize
    views = [fixed_view(network, height, width, *one, at_once) for one in passes(protocol, box, multi_scale_flip)]
    classes = network.coarse.output_shape[-1]
    band = max(BAND_VALUES // (width * classes), 1)

    def run(picture, return_scores):
        picture = tf.ensure_shape(picture, [height, width, 3])
        parts = [(scores_of(picture), rows, columns) for scores_of, rows, columns in views]
        bands = [
            combined([band_scores(scores, rows[top : top + band], columns) for scores, rows, columns in parts])
            for top in range(0, height, band)
        ]
        labels = [labels_of(scores, network.threshold) for scores in bands]
        scores = tf.concat(bands, axis=0) if return_scores else tf.zeros([0, 0, classes])
        return tf.ensure_shape(tf.concat(labels, axis=0), [height, width]), scores

    return run


def fixed_view(network, height, width, long_side, short_side, mirrored, factor, at_once):
    """One pass of `network.view_of` for pictures of one size.

    Args:
        network, height, width, at_once: as of `fixed_protocol`.
        long_side, short_side, mirrored, factor: one element of `passes`.

    Returns:
        A function picture -> scores, and the matrices rows and columns, which depend on the size only: as of `network.view`.
    """
    protocol, box = network.protocol, (int(long_side), int(short_side))
    nothing = tf.zeros([height, width, 3], tf.uint8)
    rows, columns = (matrix.numpy() for matrix in network.view_of(nothing, *box, mirrored, factor)[1:])
    extent = [int(side) for side in extent_of(protocol, height, width, *box)]
    padded = [max(side, least) for side, least in zip(extent, protocol.pad or extent, strict=True)]
    window = [int(scaled_side(side, factor)) for side in padded] if protocol.pad else extent
    starts = [[0], [0]]
    if protocol.mode == "slide":
        window = [min(crop, side) for crop, side in zip(protocol.crop, extent, strict=True)]
        starts = [window_starts(*axis).numpy() for axis in zip(extent, protocol.crop, protocol.stride, strict=True)]
    corners = [(top, left) for top in starts[0] for left in starts[1]]
    at_once = at_once or max(WINDOW_PIXELS // (window[0] * window[1]), 1)

    def resized(picture):
        """The picture as the network gets it, before it is cut into windows."""
        if not protocol.pad:
            if extent != [height, width]:
                picture = tf.ensure_shape(resize(protocol, picture, extent), [*extent, 3])
            return picture[:, ::-1] if mirrored else picture
        picture = tf.cast(picture, tf.float32)
        if extent != [height, width]:
            picture = resize_aligned(picture, *extent)
        picture = tf.ensure_shape(pad_with_mean(picture, padded, network.mean), [*padded, 3])
        picture = picture[:, ::-1] if mirrored else picture
        return picture if window == padded else tf.ensure_shape(resize_aligned(picture, *window), [*window, 3])

    def scores_of(picture):
        picture = resized(picture)
        windows = [picture[top : top + window[0], left : left + window[1]] for top, left in corners]
        scores = [
            tf.cast(network.run(tf.stack(windows[i : i + at_once])), tf.float32)
            for i in range(0, len(windows), at_once)
        ]
        scores = tf.concat(scores, axis=0) if len(scores) > 1 else scores[0]
        _, h, w, classes = scores.shape
        scores = tf.reshape(scores, [len(starts[0]), len(starts[1]), h, w, classes])
        return tf.reshape(tf.transpose(scores, [0, 2, 1, 3, 4]), [len(starts[0]) * h, len(starts[1]) * w, classes])

    return scores_of, rows, columns
