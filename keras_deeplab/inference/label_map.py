"""The network's scores of a picture in, its label map out: rows @ scores @ columns.T for each class, then the best class.

`inference/segment.py` says what the matrices are. Label maps are computed in bands of rows, so that the scores of the whole
picture never are in memory at once. On a processor those of a tile of pixels are computed at a time: they are in its cache
when the best class is looked for.
"""

from functools import partial

import tensorflow as tf

from keras_deeplab.networks.fast import processor
from keras_deeplab.networks.fast.convolution import Purpose

BAND_VALUES = 16 * 1024 * 1024  # scores in memory at once: those of a band, which has at least one row of pixels
TILE_PIXELS = 16 * 1024  # pixels of a tile, which has at least one column of the band
TILES_AT_ONCE = 8  # at most: TensorFlow computes as many at the same time as there are cores


def combined(scores):
    """The scores of one view or of several, (height, width, outputs) each, as the scores that decide.

    Logits of a single view stay as they are. Of several views it is the mean of their probabilities. A model with one output
    has probabilities (sigmoid) in any case. (The original takes the sigmoid a second time for several views, which labels
    every pixel as class 1.)
    """
    probabilities = tf.nn.softmax if scores[0].shape[-1] > 1 else tf.sigmoid
    if len(scores) == 1:
        return scores[0] if scores[0].shape[-1] > 1 else probabilities(scores[0])
    return tf.add_n([probabilities(part) for part in scores]) / len(scores)


def labels_of(scores, threshold):
    """The label map, uint8, of combined scores (..., outputs): the best class, or 1 where one output exceeds `threshold`."""
    if scores.shape[-1] == 1:
        return tf.cast(scores[..., 0] > threshold, tf.uint8)
    return tf.cast(tf.argmax(scores, -1, output_type=tf.int32), tf.uint8)


def merge(views, return_scores, threshold=None, graph_is_for=Purpose.ANY_PROCESSOR):
    """The label map of one or several views of a picture.

    Args:
        views: a list of (scores, rows, columns), as `Network.view` returns them.
        return_scores: whether to return scores of all pixels too.
        threshold: the probability above which the one output of a model means class 1; unused for other models.
        graph_is_for: a `Purpose`.

    Returns:
        labels (H, W) uint8, and scores (H, W, classes) float32: logits of a single view, the mean probabilities (softmax) of
        several. Without `return_scores` they are empty, (0, 0, classes).
    """
    height, width = (tf.shape(matrix)[0] for matrix in views[0][1:])
    classes = views[0][0].shape[-1]
    band = tf.maximum(BAND_VALUES // (width * classes), 1)  # rows
    bands = (height + band - 1) // band
    label_bands = tf.TensorArray(tf.uint8, size=bands, infer_shape=False, element_shape=[None, None])
    score_bands = tf.TensorArray(tf.float32, size=bands, infer_shape=False, element_shape=[None, None, classes])
    in_tiles = len(views) == 1 and classes > 1 and not (return_scores or processor.has_gpu())
    are_finite = tf.reduce_all(tf.math.is_finite(views[0][0]))  # otherwise 0 * infinity spreads beyond a tile

    def step(i, label_bands, score_bands):
        parts = [(coarse, rows[i * band : (i + 1) * band], columns) for coarse, rows, columns in views]
        if in_tiles:
            by_tiles, at_once = partial(labels_by_tiles, *parts[0], graph_is_for), partial(labels_at_once, *parts[0])
            return i + 1, label_bands.write(i, tf.cond(are_finite, by_tiles, at_once)), score_bands
        scores = combined([band_scores(*part) for part in parts])
        label_bands = label_bands.write(i, labels_of(scores, threshold))
        return i + 1, label_bands, score_bands.write(i, scores) if return_scores else score_bands

    _, label_bands, score_bands = tf.while_loop(
        lambda i, *_: i < bands, step, [0, label_bands, score_bands], parallel_iterations=1
    )
    return label_bands.concat(), score_bands.concat() if return_scores else tf.zeros([0, 0, classes])


def band_scores(coarse, rows, columns):
    """rows @ coarse @ columns.T for each class: (rows of the band, width, classes)."""
    h, w, classes = tf.unstack(tf.shape(coarse))
    scores = tf.reshape(rows @ tf.reshape(coarse, [h, w * classes]), [-1, w, classes])
    return tf.ensure_shape(columns @ scores, [None, None, coarse.shape[-1]])


def labels_at_once(coarse, rows, columns):
    """The label map of a band, of the scores of all its pixels."""
    return labels_of(band_scores(coarse, rows, columns), None)


def labels_by_tiles(coarse, rows, columns, graph_is_for):
    """As `labels_at_once`, of finite scores of several classes, sooner on a processor.

    The matrices are mostly zeros: a pixel's score comes from few coarse scores. So the product for some columns of pixels
    takes the coarse scores that they need alone. Scores are class by class, (classes, width, height), for `best_class`.
    """
    classes, height = coarse.shape[-1], tf.shape(rows)[0]
    top, bottom = reach(rows)
    scores = tf.transpose(coarse[top:bottom], [2, 1, 0])
    w, h = tf.unstack(tf.shape(scores)[1:])
    scores = tf.matmul(tf.reshape(scores, [classes * w, h]), rows[:, top:bottom], transpose_b=True)
    scores = tf.reshape(scores, [classes, w, height])
    best_class = running_best if graph_is_for is Purpose.INFERENCE else first_best
    width, across = tf.shape(columns)[0], tf.maximum(TILE_PIXELS // height, 1)  # columns of a tile
    tiles = (width + across - 1) // across
    labels = tf.TensorArray(tf.uint8, size=tiles, infer_shape=False, element_shape=[None, None])

    def step(i, labels):
        weights = columns[i * across : (i + 1) * across]
        left, right = reach(weights)
        tile = tf.ensure_shape(weights[:, left:right] @ scores[:, left:right], [classes, None, None])
        return i + 1, labels.write(i, best_class(tile))

    _, labels = tf.while_loop(lambda i, _: i < tiles, step, [0, labels], parallel_iterations=TILES_AT_ONCE)
    return tf.transpose(labels.concat())


def reach(matrix):
    """The first column of a matrix that is not all zeros, and the one after the last."""
    used = tf.where(tf.reduce_any(matrix != 0, axis=0))[:, 0]
    return used[0], used[-1] + 1


def first_best(scores):
    """The class of the highest score, the lowest of several, uint8. Scores are class by class: (classes, ...)."""
    return tf.cast(tf.argmax(scores, output_type=tf.int32), tf.uint8)


def running_best(scores):
    """As `first_best`, of finite scores. TensorFlow's argmax compares numbers one by one, and this several at once."""
    best, *others = tf.unstack(scores)
    labels = tf.zeros_like(best)  # float32, because TensorFlow chooses among bytes one by one
    for label, score in enumerate(others, 1):
        labels = tf.where(score > best, float(label), labels)
        best = tf.maximum(best, score)
    return tf.cast(labels, tf.uint8)
