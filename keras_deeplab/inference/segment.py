"""A model and a picture in, a label map out, by the model's own test protocol.

Resizing is linear and separable, and so is averaging overlapping windows. The score of a class at every pixel is therefore
    rows @ scores @ columns.T
where `scores` are the network's, at its own coarse stride, windows side by side, and the two matrices hold everything
that follows: up to the window's size, into the window's place, the mean where windows overlap, mirrored back, and up or
down to the picture's size. So full-size scores never exist at once: label maps are made by bands of rows.
"""

import weakref

import keras
import numpy as np
import tensorflow as tf

from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.networks.fast.convolution import Purpose, purpose
from keras_deeplab.networks.fold import fold_norms, refold
from keras_deeplab.networks.layers import interpolation_matrix
from keras_deeplab.pictures.read import Picture, read_image
from keras_deeplab.pictures.resize import fit_in_box, resize_uint8

FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of multi-scale testing, each plain and mirrored
WINDOW_PIXELS = 2 * 1024 * 1024  # in one pass of the network, at least one window
BAND_VALUES = 16 * 1024 * 1024  # scores in memory at once, at least one row of pixels


def segment(
    model: keras.Model,
    image: Picture | list[Picture] | tuple[Picture, ...],
    *,
    multi_scale_flip: bool | str = False,
    resize: tuple[int, int] | None = None,
    return_scores: bool = False,
):
    """The label map of a picture, by the model's own protocol: resize box, whole or sliding window.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        image: path, PIL image, array (H, W, 3) or (H, W) of 0..255, or a list of them.
        multi_scale_flip: average over six sizes, each plain and mirrored. True or `"box"`: of the protocol's box, as the
            published figures were measured; `"picture"`: of the picture's own size, as mmsegmentation 1.2.2 does.
        resize: (long, short) sides in pixels of the box the picture is resized to fit, in place of the protocol's.
        return_scores: whether to return scores too.

    Returns:
        labels (H, W) uint8 at the picture's size; with `return_scores`, (labels, scores): scores (H, W, classes) float32 are
        logits, or mean probabilities with `multi_scale_flip`. A list of these for a list.

    Raises:
        ValueError: for a picture that cannot be read, a model of more than 255 classes, or options that contradict.
    """
    network = network_of(model)
    if isinstance(image, (list, tuple)):
        return [segment_by(network, model.protocol, one, multi_scale_flip, resize, return_scores) for one in image]
    return segment_by(network, model.protocol, image, multi_scale_flip, resize, return_scores)


def segment_by(network, protocol, image, multi_scale_flip=False, resize=None, return_scores=False):
    if multi_scale_flip not in (False, True, "box", "picture"):
        raise ValueError(f"multi_scale_flip is False, True, 'box' or 'picture'. Received: {multi_scale_flip!r}.")
    if multi_scale_flip == "picture" and resize is not None:
        raise ValueError(
            "multi_scale_flip='picture' takes its sizes from the picture, not from a box. "
            f"Received: resize={resize!r}; leave one of the two out."
        )
    picture = tf.constant(read_image(image))
    size = picture.shape[:2]
    box = box_of(protocol, size) if resize is None else Protocol("whole", resize=resize).resize
    if not multi_scale_flip:
        views = [network.view(picture, *box, False)]
    else:
        if multi_scale_flip == "picture":
            boxes = [tuple(int(side * factor + 0.5) for side in size) for factor in FACTORS]
        else:
            boxes = [tuple(int(side * factor) for side in box) for factor in FACTORS]
        views = [
            network.view(picture, max(sides), max(min(sides), 1), mirrored)
            for sides in boxes
            for mirrored in (False, True)
        ]
    labels, scores = network.merge(views, return_scores)
    return (labels.numpy(), scores.numpy()) if return_scores else labels.numpy()


def box_of(protocol, size):
    """The (long, short) sides in pixels that a picture of `size` (height, width) is resized to fit."""
    return protocol.resize or (max(size), min(size))


class Network:
    """A model's folded graph with its protocol around it, in TensorFlow whatever the model's backend.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        graph_is_for: a `Purpose`: whether it runs on this machine, on others too, or is converted.

    Attributes:
        folded: the model with its norms folded.
        view: (picture, long side, short side, mirrored) -> scores and matrices of one pass.
    """

    def __init__(self, model, graph_is_for=Purpose.INFERENCE):
        if model.num_classes > 255:
            raise ValueError(
                f"A label map has 8 bits, one value of them for 'ignore': 255 classes at most. "
                f"Received: {model.num_classes}."
            )
        self.graph_is_for = graph_is_for
        self.folded = fold_norms(model)
        self.align_corners = self.folded.get_config()["align_corners"]
        self.protocol = model.protocol
        self.coarse = keras.Model(self.folded.input, self.folded.get_layer("logits").input[0])
        self.view = self._view
        if keras.backend.backend() == "tensorflow":
            scalar = tf.TensorSpec([], tf.int32)
            self.view = tf.function(
                self._view,
                input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), scalar, scalar, tf.TensorSpec([], tf.bool)],
            )
        self._merges = {}  # (number of views, whether with scores) -> graph

    def merge(self, views, return_scores):
        """Labels and scores of `views`: the function `merge`, traced once for any size."""
        key = len(views), return_scores
        if key not in self._merges:
            matrix = tf.TensorSpec([None, None], tf.float32)
            view = tf.TensorSpec([None, None, self.coarse.output_shape[-1]], tf.float32), matrix, matrix
            self._merges[key] = tf.function(
                lambda views: merge(views, return_scores), input_signature=[[view] * len(views)]
            )
        return self._merges[key](views)

    def _view(self, picture, long_side, short_side, mirrored):
        """One pass over the picture, resized to fit the box: coarse scores and the matrices that bring them to its size."""
        size = tf.unstack(tf.shape(picture)[:2])
        resized = resize_uint8(picture, *fit_in_box(*size, long_side, short_side))
        resized = tf.cond(mirrored, lambda: resized[:, ::-1], lambda: resized)
        extent = tf.unstack(tf.shape(resized)[:2])
        if self.protocol.mode == "slide":
            window = [tf.minimum(crop, side) for crop, side in zip(self.protocol.crop, extent, strict=True)]
            starts = [
                window_starts(*axis) for axis in zip(extent, self.protocol.crop, self.protocol.stride, strict=True)
            ]
        else:
            window, starts = extent, [tf.zeros([1], tf.int32)] * 2
        scores = self._windows(resized, *starts, *window)  # (a, b, h, w, classes)
        coarse = tf.unstack(tf.shape(scores)[2:4])
        rows, columns = (
            placement(*axis, self.align_corners) for axis in zip(coarse, window, starts, extent, strict=True)
        )
        columns = tf.cond(mirrored, lambda: columns[::-1], lambda: columns)
        rows, columns = (
            resized_matrix(matrix, side, self.align_corners) for matrix, side in zip((rows, columns), size, strict=True)
        )
        a, b, h, w, classes = tf.unstack(tf.shape(scores))
        return tf.reshape(tf.transpose(scores, [0, 2, 1, 3, 4]), [a * h, b * w, classes]), rows, columns

    def _windows(self, picture, tops, lefts, height, width):
        """The network's scores of every window, (tops, lefts, h, w, classes), as many at a time as memory allows."""
        corners = tf.stack(tf.meshgrid(tops, lefts, indexing="ij"), axis=-1)
        corners = tf.reshape(corners, [-1, 2])
        count = tf.shape(corners)[0]
        batch = tf.maximum(WINDOW_PIXELS // (height * width), 1)
        parts = tf.TensorArray(
            tf.float32,
            size=(count + batch - 1) // batch,
            infer_shape=False,
            element_shape=[None, None, None, self.coarse.output_shape[-1]],
        )

        def step(i, parts):
            windows = tf.map_fn(
                lambda corner: picture[corner[0] : corner[0] + height, corner[1] : corner[1] + width],
                corners[i * batch : (i + 1) * batch],
                fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8),
            )
            return i + 1, parts.write(i, tf.cast(self.run(windows), tf.float32))

        _, parts = tf.while_loop(lambda i, _: i * batch < count, step, [0, parts], parallel_iterations=1)
        scores = parts.concat()
        return tf.reshape(scores, [tf.size(tops), tf.size(lefts), *tf.unstack(tf.shape(scores))[1:]])

    def run(self, images):
        """Coarse scores of pictures (N, H, W, 3)."""
        if keras.backend.backend() == "tensorflow":
            with purpose(self.graph_is_for):
                return self.coarse(images)
        return tf.constant(np.asarray(self.coarse.predict_on_batch(images.numpy()), "float32"))


_networks: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model -> its Network


def network_of(model):
    """The model's `Network`, traced once and brought up to date with its weights at every call."""
    network = _networks.get(model)
    if network is None or network.protocol != model.protocol:
        network = _networks[model] = Network(model)
    elif network.folded is not model:
        refold(model, network.folded)
    return network


def window_starts(extent, crop, stride):
    """Where windows begin along one axis: every `stride` pixels, the last one shifted back to end at the border."""
    count = (tf.maximum(extent - crop, 0) + stride - 1) // stride + 1
    return tf.maximum(tf.minimum(tf.range(count) * stride, extent - crop), 0)


def placement(coarse, window, starts, extent, align_corners):
    """The matrix (extent, len(starts) * coarse) that interpolates each window's scores, puts them in place and averages."""
    interpolate = interpolation(coarse, window, align_corners)
    offsets = tf.range(extent)[:, None] - starts[None]  # of each pixel in each window
    inside = tf.cast((offsets >= 0) & (offsets < window), tf.float32)
    weights = inside / tf.reduce_sum(inside, axis=1, keepdims=True)
    matrix = tf.gather(interpolate, tf.clip_by_value(offsets, 0, window - 1)) * weights[..., None]
    return tf.reshape(matrix, [extent, -1])


def interpolation(size_in, size_out, align_corners):
    """`interpolation_matrix` as a TensorFlow tensor, whatever the backend."""
    if keras.backend.backend() == "tensorflow":
        return interpolation_matrix(size_in, size_out, align_corners)
    return tf.constant(keras.ops.convert_to_numpy(interpolation_matrix(int(size_in), int(size_out), align_corners)))


def resized_matrix(matrix, size, align_corners):
    """`matrix` followed by a bilinear resize of what it gives to `size`."""
    extent = tf.shape(matrix)[0]
    return tf.cond(tf.equal(extent, size), lambda: matrix, lambda: interpolation(extent, size, align_corners) @ matrix)


def merge(views, return_scores):
    """Labels (H, W) uint8 of one or several views, and their scores (H, W, classes), empty unless asked for.

    Scores are the view's own; of several views the mean of their softmax.
    """
    height, width = (tf.shape(matrix)[0] for matrix in views[0][1:])
    classes = views[0][0].shape[-1]
    band = tf.maximum(BAND_VALUES // (width * classes), 1)
    bands = (height + band - 1) // band
    label_bands = tf.TensorArray(tf.uint8, size=bands, infer_shape=False, element_shape=[None, None])
    score_bands = tf.TensorArray(tf.float32, size=bands, infer_shape=False, element_shape=[None, None, classes])

    def step(i, label_bands, score_bands):
        scores = [band_scores(coarse, rows[i * band : (i + 1) * band], columns) for coarse, rows, columns in views]
        scores = scores[0] if len(scores) == 1 else tf.add_n([tf.nn.softmax(s) for s in scores]) / len(scores)
        label_bands = label_bands.write(i, tf.cast(tf.argmax(scores, -1, output_type=tf.int32), tf.uint8))
        return i + 1, label_bands, score_bands.write(i, scores) if return_scores else score_bands

    _, label_bands, score_bands = tf.while_loop(
        lambda i, *_: i < bands, step, [0, label_bands, score_bands], parallel_iterations=1
    )
    return label_bands.concat(), score_bands.concat() if return_scores else tf.zeros([0, 0, classes])


def band_scores(coarse, rows, columns):
    """rows @ coarse @ columns.T for each class: (band, width, classes)."""
    h, w, classes = tf.unstack(tf.shape(coarse))
    scores = tf.reshape(rows @ tf.reshape(coarse, [h, w * classes]), [-1, w, classes])
    return tf.ensure_shape(columns @ scores, [None, None, coarse.shape[-1]])


def resized_to_box(protocol, picture):
    """The picture (H, W, 3) uint8 as the network gets it: resized to fit the protocol's box."""
    size = fit_in_box(*picture.shape[:2], *box_of(protocol, picture.shape[:2]))
    return resize_uint8(tf.constant(picture), *size).numpy()
