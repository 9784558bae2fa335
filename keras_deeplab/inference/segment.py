"""A model and a picture in, a label map out, by the model's own test protocol.

Resizing is linear and separable, and so is averaging overlapping windows. The scores of a class at all pixels are therefore
    rows @ scores @ columns.T
Here `scores` are the network's logits before any resize, with the windows side by side. The two matrices do all that
follows: they resize the scores to the window's size, put them in the window's place, take the mean where windows overlap,
mirror them back, and resize them to the picture's size. `inference/label_map.py` does the rest.
"""

import functools
import os
import weakref

import keras
import numpy as np
import tensorflow as tf

from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.inference.label_map import merge
from keras_deeplab.keras_tools import Snapshot, per_channel
from keras_deeplab.networks.fast.convolution import Purpose, purpose
from keras_deeplab.networks.fold import fold_norms, refold
from keras_deeplab.networks.layers import interpolation_matrix
from keras_deeplab.pictures.read import Picture, read_image
from keras_deeplab.pictures.resize import (
    fit_in_box,
    fit_in_steps,
    fit_rounded_down,
    resize_aligned,
    resize_antialiased,
    resize_uint8,
)

WINDOW_PIXELS = 2 * 1024 * 1024  # pixels in one pass of the network, which has at least one window


def segment(
    model: keras.Model,
    image: Picture | list[Picture] | tuple[Picture, ...],
    *,
    multi_scale_flip: bool | str = False,
    resize: tuple[int, int] | None = None,
    return_scores: bool = False,
):
    """Computes the label map of a picture by the model's test protocol.

    The protocol (`model.protocol`) says to which box pictures are resized, and whether the network sees the whole picture or
    a sliding window.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        image: a path, an address (https://, or what fsspec reads), the bytes of a file, an open file, a PIL image, an array
            (H, W, 3) or (H, W) of 0..255, or a list of them.
        multi_scale_flip: whether to average the probabilities of six sizes, each plain and mirrored. True or `"box"`: sizes
            of the protocol's box, as the published figures were measured; with a protocol that pads pictures, sizes of the
            padded picture, as DeepLab's authors do. `"picture"`: sizes of the picture, as mmsegmentation 1.2.2 does. False
            (the default): one size.
        resize: (long, short) sides in pixels of the box that the picture is resized to fit. None (the default): the
            protocol's box.
        return_scores: whether to return the scores too.

    Returns:
        labels (H, W) uint8, of the upright picture's size. With `return_scores`, (labels, scores): scores (H, W, classes)
        float32 are logits, or with `multi_scale_flip` mean probabilities. For a list of pictures, a list of these.

    Raises:
        ValueError: for a picture that cannot be read, a model of more than 255 classes, or options that contradict each other.
        FileNotFoundError: if there is no such file.
    """
    network = network_of(model, calls_again=True)
    if isinstance(image, (list, tuple)):
        check_pictures(image)
        return [
            segment_with_network(network, model.protocol, one, multi_scale_flip, resize, return_scores) for one in image
        ]
    return segment_with_network(network, model.protocol, image, multi_scale_flip, resize, return_scores)


def check_pictures(images):
    """Raises `ValueError` if a list holds something other than pictures, such as the rows of `array.tolist()`."""
    for number, image in enumerate(images):
        is_readable = any(hasattr(image, name) for name in ("__array__", "__array_interface__", "read"))
        if not is_readable and not isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview)):
            kind = "nested lists" if isinstance(image, (list, tuple)) else f"{type(image).__name__} as element {number}"
            raise ValueError(
                "A list must hold pictures: paths, bytes, PIL images or arrays. "
                f"Received: {kind}. Turn numbers into an array with np.array(...)."
            )


def segment_with_network(network, protocol, image, multi_scale_flip=False, resize=None, return_scores=False):
    """`segment` of one picture with a given `Network`."""
    return merged(network, views_of(network, protocol, image, multi_scale_flip, resize), return_scores)


def views_of(network, protocol, image, multi_scale_flip=False, resize=None):
    """The first part of `segment`, which runs the network: a list of (scores, rows, columns) for `merged`."""
    require_options(multi_scale_flip, resize)
    require_sizes_of(protocol, multi_scale_flip)
    picture = tf.constant(read_image(image))
    size = picture.shape[:2]
    box = box_of(protocol, size) if resize is None else Protocol("whole", resize=resize).resize
    if multi_scale_flip == "picture":
        box = max(size), min(size)
    return [network.view_of(picture, *one) for one in passes(protocol, box, multi_scale_flip)]


def passes(protocol, box, multi_scale_flip):
    """What the passes of the network over one picture differ in.

    Args:
        protocol: the test protocol.
        box: (long, short) sides of the box that the picture is resized to fit; with `multi_scale_flip="picture"` those of
            the picture. Integers or int32 scalars, in pixels.
        multi_scale_flip: as for `segment`.

    Returns:
        [(long, short, mirrored, factor)], the arguments of `Network.view_of`: the sides of the box of this pass, int32
        scalars, and the size relative to the padded picture, which is 1 for protocols that do not pad.
    """
    if not multi_scale_flip:
        return [(*box, False, 1.0)]
    flips = (False, True)
    if protocol.pad:
        return [(*box, mirrored, factor) for factor in protocol.factors for mirrored in flips]
    rounding = 0.5 if multi_scale_flip == "picture" else 0.0  # as mmcv rounds
    boxes = [
        [tf.cast(tf.cast(side, tf.float64) * factor + rounding, tf.int32) for side in box]
        for factor in protocol.factors
    ]
    return [(long, tf.maximum(short, 1), mirrored, 1.0) for long, short in boxes for mirrored in flips]


def require_sizes_of(protocol, multi_scale_flip):
    """Raises `ValueError` for several sizes of the picture with a protocol that pads it."""
    if protocol.pad and multi_scale_flip == "picture":
        raise ValueError(
            "This model's protocol pads pictures, and several sizes are those of the padded picture. "
            "Received: multi_scale_flip='picture'. Write multi_scale_flip=True."
        )


def merged(network, views, return_scores=False):
    """The second part of `segment`: the label map, or (label map, scores), of what `views_of` returned."""
    labels, scores = network.merge(views, return_scores)
    return (labels.numpy(), scores.numpy()) if return_scores else labels.numpy()


def require_options(multi_scale_flip, resize):
    """Raises `ValueError` for options of `segment` that it does not know or that contradict each other."""
    if multi_scale_flip not in (False, True, "box", "picture"):
        raise ValueError(f"multi_scale_flip is False, True, 'box' or 'picture'. Received: {multi_scale_flip!r}.")
    if multi_scale_flip == "picture" and resize is not None:
        raise ValueError(
            "multi_scale_flip='picture' takes its sizes from the picture, not from a box. "
            f"Received: resize={resize!r}. Leave one of the two out."
        )
    if resize is not None:
        Protocol("whole", resize=resize)


def box_of(protocol, size):
    """The (long, short) sides in pixels that a picture of `size` (height, width) is resized to fit."""
    return protocol.resize or (max(size), min(size))


def graph_of(function, signature):
    """A `tf.function` of one signature, which is traced at its first call.

    A call of the `tf.function` itself counts as a trace of all that have the same code: TensorFlow would warn that it traces
    too often when a program has segmented with five models.
    """
    trace = functools.cache(tf.function(function, input_signature=signature).get_concrete_function)
    return lambda *arguments: trace()(*arguments)


class Network:
    """Runs a model by its test protocol, as TensorFlow graphs. The model itself may be on another backend.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        graph_is_for: a `Purpose`: whether the graphs run on this machine, on other machines too, or are converted.

    Attributes:
        folded: the model with its batch norms folded into the convolutions.
        coarse: the same model up to its logits before they are resized to the picture.
        protocol: the model's test protocol.
        view: a function (picture, long side, short side, mirrored) -> (scores, rows, columns) of one pass, where the box
            that the picture is resized to fit has these sides.
        padded_view: the same for a protocol that pads pictures, with the size relative to the padded picture as a fifth.
        scores: a function from windows (N, H, W, 3) uint8 to their scores (N, h, w, classes) float32.
        score_stride: pixels of the network's input per score.

    Raises:
        ValueError: for a model of more than 255 classes.
    """

    def __init__(self, model, graph_is_for=Purpose.INFERENCE):
        if model.num_classes > 255:
            raise ValueError(
                "A model must have at most 255 classes: a label map has 8 bits, and its value 255 means 'ignore'. "
                f"Received: {model.num_classes} classes."
            )
        self.graph_is_for = graph_is_for
        self.folded = fold_norms(model)
        self.align_corners = self.folded.get_config()["align_corners"]
        self.protocol, self.threshold = model.protocol, model.threshold
        self.coarse = keras.Model(self.folded.input, self.folded.get_layer("logits").input[0])
        self.mean = per_channel(self.folded.get_layer("normalize").mean, "float32")
        self.score_stride = 4 if model.has_decoder else model.get_config()["output_stride"]
        self.seen = None  # the weights that were folded, if they are remembered
        self.view, self.padded_view, self.scores = self._view, self._padded_view, self._scores
        if keras.backend.backend() == "tensorflow":
            scalar = tf.TensorSpec([], tf.int32)
            specs = [tf.TensorSpec([None, None, 3], tf.uint8), scalar, scalar, tf.TensorSpec([], tf.bool)]
            self.view = graph_of(self._view, specs)
            self.padded_view = graph_of(self._padded_view, [*specs, tf.TensorSpec([], tf.float32)])
            self.scores = graph_of(self._scores, [tf.TensorSpec([None, None, None, 3], tf.uint8)])
        self._merge_graphs = {}  # (number of views, whether it returns scores) -> graph

    def view_of(self, picture, long_side, short_side, mirrored, factor):
        """`view`, or `padded_view` with the factor, whichever the protocol asks for."""
        if self.protocol.pad:
            return self.padded_view(picture, long_side, short_side, mirrored, factor)
        return self.view(picture, long_side, short_side, mirrored)

    def merge(self, views, return_scores):
        """The function `merge` as a graph, traced once for pictures of all sizes."""
        key = len(views), return_scores
        if key not in self._merge_graphs:
            matrix = tf.TensorSpec([None, None], tf.float32)
            view = tf.TensorSpec([None, None, self.coarse.output_shape[-1]], tf.float32), matrix, matrix
            self._merge_graphs[key] = graph_of(
                lambda views: merge(views, return_scores, self.threshold, self.graph_is_for), [[view] * len(views)]
            )
        return self._merge_graphs[key](views)

    def _view(self, picture, long_side, short_side, mirrored):
        """One pass over the picture, resized to fit the box and maybe mirrored.

        Args:
            picture: (H, W, 3) uint8.
            long_side, short_side: of the box in pixels, int32 scalars.
            mirrored: bool scalar.

        Returns:
            scores (windows down * h, windows across * w, classes) float32, where (h, w) is the size of the logits of a
            window; rows (H, windows down * h) and columns (W, windows across * w), the matrices of this file's formula.
        """
        picture_size = tf.unstack(tf.shape(picture)[:2])
        resized = resize(self.protocol, picture, extent_of(self.protocol, *picture_size, long_side, short_side))
        resized = tf.cond(mirrored, lambda: resized[:, ::-1], lambda: resized)
        extent = tf.unstack(tf.shape(resized)[:2])
        if self.protocol.mode == "slide":
            window = [tf.minimum(crop, side) for crop, side in zip(self.protocol.crop, extent, strict=True)]
            starts = [
                window_starts(*axis) for axis in zip(extent, self.protocol.crop, self.protocol.stride, strict=True)
            ]
        else:
            window, starts = extent, [tf.zeros([1], tf.int32)] * 2
        scores = self._window_scores(resized, *starts, *window)  # (windows down, windows across, h, w, classes)
        coarse_size = tf.unstack(tf.shape(scores)[2:4])
        rows, columns = (
            placement(*axis, self.align_corners) for axis in zip(coarse_size, window, starts, extent, strict=True)
        )
        columns = tf.cond(mirrored, lambda: columns[::-1], lambda: columns)
        rows, columns = (
            resized_matrix(matrix, side, self.align_corners)
            for matrix, side in zip((rows, columns), picture_size, strict=True)
        )
        down, across, h, w, classes = tf.unstack(tf.shape(scores))
        scores = tf.reshape(tf.transpose(scores, [0, 2, 1, 3, 4]), [down * h, across * w, classes])
        return scores, rows, columns

    def _padded_view(self, picture, long_side, short_side, mirrored, factor):
        """`_view` as DeepLab's authors test: the picture is padded, then mirrored and resized by a factor.

        Args:
            picture, long_side, short_side, mirrored: as of `_view`.
            factor: size of the network's input relative to the padded picture, float32 scalar.

        Returns:
            as of `_view`, with one window.
        """
        picture_size = tf.unstack(tf.shape(picture)[:2])
        extent = extent_of(self.protocol, *picture_size, long_side, short_side)
        padded = [tf.maximum(side, least) for side, least in zip(extent, self.protocol.pad, strict=True)]
        x = pad_with_mean(resize_aligned(tf.cast(picture, tf.float32), *extent), padded, self.mean)
        x = tf.cond(mirrored, lambda: x[:, ::-1], lambda: x)
        x = resize_aligned(x, *(scaled_side(side, factor) for side in padded))
        scores = tf.cast(self.run(x[None])[0], tf.float32)
        rows, columns = (
            self._from_coarse(*axis, factor) for axis in zip(tf.unstack(tf.shape(scores)[:2]), padded, strict=True)
        )
        columns = tf.cond(mirrored, lambda: columns[::-1], lambda: columns)
        rows, columns = (
            resized_matrix(matrix[:side], size, self.align_corners)
            for matrix, side, size in zip((rows, columns), extent, picture_size, strict=True)
        )
        return scores, rows, columns

    def _from_coarse(self, coarse, padded, factor):
        """The matrix that brings scores to the padded picture along an axis, (padded, coarse).

        The authors' code resizes the scores twice if the network saw a smaller picture: to the size that scores of the
        padded picture have, then to the picture's.
        """
        between = scaled_side(padded, tf.maximum(factor, 1.0) / self.score_stride)
        first = interpolation(coarse, between, self.align_corners)
        return resized_matrix(first, padded, self.align_corners)

    def _window_scores(self, picture, tops, lefts, height, width):
        """The network's scores of all windows, (len(tops), len(lefts), h, w, classes) float32.

        A pass of the network takes as many windows as have `WINDOW_PIXELS` together, to bound the memory.
        """
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
            return i + 1, parts.write(i, self._scores(windows))

        _, parts = tf.while_loop(lambda i, _: i * batch < count, step, [0, parts], parallel_iterations=1)
        scores = parts.concat()
        return tf.reshape(scores, [tf.size(tops), tf.size(lefts), *tf.unstack(tf.shape(scores))[1:]])

    def _scores(self, windows):
        return tf.cast(self.run(tf.convert_to_tensor(windows)), tf.float32)

    def run(self, images):
        """The logits (N, h, w, classes) of pictures (N, H, W, 3), before they are resized."""
        if keras.backend.backend() == "tensorflow":
            with purpose(self.graph_is_for):
                return self.coarse(images)
        return tf.constant(np.asarray(self.coarse.predict_on_batch(images.numpy()), "float32"))


_networks: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model -> its Network


def network_of(model, *, calls_again=False):
    """The model's `Network`. It is built once, and gets the weights that the model has now at every call.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        calls_again: whether calls for the same model are likely to follow, as in a loop over pictures. Its weights are then
            remembered, so that only weights that have changed are folded again. Default False.
    """
    network = _networks.get(model)
    is_new = network is None or (network.protocol, network.threshold) != (model.protocol, model.threshold)
    if not is_new and (network.folded is model or (network.seen and network.seen.is_current())):
        return network
    seen = None
    if calls_again:  # before they are folded, so that no later change is missed
        seen = Snapshot(model.weights) if is_new or network.seen is None else network.seen
        seen.take()
    if is_new:
        network = _networks[model] = Network(model)
    else:
        network.seen = None  # until they are folded
        refold(model, network.folded)
    network.seen = seen
    return network


def window_starts(extent, crop, stride):
    """Where the windows begin along one axis: every `stride` pixels. The last window is shifted back to end at the border.

    Args:
        extent, crop, stride: pixels of the picture and of a window, and from one window to the next.

    Returns:
        (windows,) int32.
    """
    count = (tf.maximum(extent - crop, 0) + stride - 1) // stride + 1
    return tf.maximum(tf.minimum(tf.range(count) * stride, extent - crop), 0)


def placement(coarse, window, starts, extent, align_corners):
    """The matrix that brings the scores of the windows to the picture, along one axis.

    It interpolates each window's scores, puts them in place and averages them where windows overlap.

    Args:
        coarse, window, extent: the length of a window's scores, of a window and of the picture.
        starts: (windows,) int32, where the windows begin.
        align_corners: whether the interpolation keeps the outermost pixel centres in place; PyTorch's option.

    Returns:
        (extent, windows * coarse) float32.
    """
    interpolate = interpolation(coarse, window, align_corners)
    offsets = tf.range(extent)[:, None] - starts[None]  # of each pixel in each window
    inside = tf.cast((offsets >= 0) & (offsets < window), tf.float32)
    weights = inside / tf.reduce_sum(inside, axis=1, keepdims=True)
    matrix = tf.gather(interpolate, tf.clip_by_value(offsets, 0, window - 1)) * weights[..., None]
    return tf.reshape(matrix, [extent, -1])


def interpolation(size_in, size_out, align_corners):
    """`interpolation_matrix` as a TensorFlow tensor, on every Keras backend."""
    if keras.backend.backend() == "tensorflow":
        return interpolation_matrix(size_in, size_out, align_corners)
    return tf.constant(keras.ops.convert_to_numpy(interpolation_matrix(int(size_in), int(size_out), align_corners)))


def resized_matrix(matrix, size, align_corners):
    """The matrix of two steps: `matrix`, then a bilinear resize of its result to `size`."""
    extent = tf.shape(matrix)[0]
    return tf.cond(tf.equal(extent, size), lambda: matrix, lambda: interpolation(extent, size, align_corners) @ matrix)


def extent_of(protocol, height, width, long_side, short_side):
    """(height, width) that a picture is resized to, before it is padded, so that it fits into a box."""
    if protocol.step:
        return fit_in_steps(height, width, long_side, short_side, protocol.step)
    fit = fit_rounded_down if protocol.antialias else fit_in_box
    return fit(height, width, long_side, short_side)


def resize(protocol, picture, size):
    """A picture (H, W, 3) uint8 resized as a protocol without padding does, to `size` (height, width)."""
    return (resize_antialiased if protocol.antialias else resize_uint8)(picture, *size)


def pad_with_mean(x, size, mean):
    """A picture (H, W, 3) with the mean pixel at the bottom and the right, up to a size (height, width)."""
    height, width = tf.unstack(tf.shape(x)[:2])
    return tf.pad(x - mean, [[0, size[0] - height], [0, size[1] - width], [0, 0]]) + mean


def scaled_side(side, factor):
    """(side - 1) * factor + 1 in whole pixels, rounded down: corners keep their places. An int32 scalar."""
    return tf.cast((tf.cast(side, tf.float32) - 1.0) * factor + 1.0, tf.int32)


def resized_to_box(protocol, picture):
    """The picture (H, W, 3) uint8 as the network gets it: resized to fit the protocol's box, uint8.

    With a protocol that pads, float32, and before it is padded.
    """
    size = extent_of(protocol, *picture.shape[:2], *box_of(protocol, picture.shape[:2]))
    if protocol.pad:
        return resize_aligned(tf.cast(picture, tf.float32), *size).numpy()
    return resize(protocol, tf.constant(picture), size).numpy()
