"""A model in, a SavedModel out: picture bytes to label map, with the model's whole test protocol inside."""

import json
import os
import shutil
from operator import index
from pathlib import Path

import keras
import tensorflow as tf

from keras_deeplab.inference.segment import Network, merge
from keras_deeplab.networks.fast.convolution import Purpose
from keras_deeplab.networks.fold import fold_norms
from keras_deeplab.pictures.decode import MAX_SIDE, decode_image
from keras_deeplab.pictures.draw import padded
from keras_deeplab.serving.fixed_size import fixed_protocol
from keras_deeplab.serving.metadata import describe
from keras_deeplab.serving.warmup import warmup_requests, write_warmup

MAX_PIXELS = 64 * 2**20  # of a picture in a request
MAX_PIXELS_UNRESIZED = 4 * 2**20  # where it goes through the network whole and at its own size: 1 kB of memory a pixel
RESPONSE_BYTES = 2**31 - 1  # what a protocol buffer can hold
PRECISIONS = ("float32", "bfloat16")


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    palette: bool = False,
    precision: str | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int | None = None,
) -> dict:
    """Writes a SavedModel that TensorFlow Serving can load without Keras.

    It runs the graph that `segment` runs, on folded weights and without the auxiliary head, and gives the same labels.
    Pictures are treated one by one, so that a batch may hold any number of them and its result does not depend on what
    else is in it. Signatures:

    | name | input | output |
    |---|---|---|
    | `serving_default` | `image_bytes` string (N,): JPEG or PNG, any sizes | `label_png` string (N,) |
    | `rest` | the same | `label_png_bytes` string (N,): JSON responses hold names that end so as base64 |
    | `tensor` | `images` uint8 (N, H, W, 3) RGB | `labels` uint8 (N, H, W) |
    | `scores` | `images` uint8 (N, H, W, 3) RGB | `scores` float32 (N, H, W, classes) |
    | `metadata` | none | `json` string (1,): row, classes, palette, protocol, SHA-256 of the weights, ... |

    Beside it are the same metadata as assets.extra/metadata.json, and warm-up requests, which TensorFlow Serving runs before
    it answers the first client. A picture that cannot be taken is an InvalidArgumentError that names it.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`, on the TensorFlow backend.
        path: folder to write; replaced if it holds a SavedModel.
        palette: `label_png` in the palette's RGB colours in place of grey class ids.
        precision: `"float32"` or `"bfloat16"`, in which the network computes; by default as the model does.
        size: (height, width) in pixels that every picture has, upright; for compilers that want known shapes.
        max_pixels: larger pictures are refused by their header, before they are decoded. By default 64 megapixels,
            67,108,864, or 4 if the protocol takes pictures whole at their own size, which needs memory in proportion.

    Returns:
        the metadata, a dict.

    Raises:
        ValueError: if the folder holds something else, an option makes no sense, or the backend is not TensorFlow.
    """
    require_tensorflow()
    path = Path(path).resolve()
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / "saved_model.pb").exists())):
        raise ValueError(f"{str(path)!r} is there and holds no SavedModel. Give a new or empty folder.")
    size = checked_size(size)
    max_pixels = checked_max_pixels(max_pixels, size, model.protocol)
    served_model = at_precision(model, precision)
    metadata = describe(model, served_model, palette=bool(palette), size=size, max_pixels=max_pixels)
    served = Served(
        Network(served_model, Purpose.ANY_PROCESSOR), model.palette if palette else None, size, max_pixels, metadata
    )
    partial = path.with_name(path.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    names = ("serving_default", "rest", "tensor", "scores", "metadata")
    tf.saved_model.save(served, str(partial), signatures={name: getattr(served, name) for name in names})
    extra = partial / "assets.extra"
    extra.mkdir()
    (extra / "metadata.json").write_text(json.dumps(metadata, indent=1) + "\n")
    requests = warmup_requests(model.protocol, size, max_pixels)
    write_warmup(extra / "tf_serving_warmup_requests", requests)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(partial, path)
    return metadata


def require_tensorflow():
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel is made by the TensorFlow backend. Save the model with model.save('x.keras') and export "
            f"it from a process with KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}."
        )


def checked_size(size):
    """(height, width) as plain integers, or None."""
    if size is None:
        return None
    try:
        height, width = map(index, size)
    except (TypeError, ValueError):
        height = width = 0
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ValueError(f"size is (height, width), whole numbers of 1..{MAX_SIDE} pixels. Received: {size!r}.")
    return height, width


def checked_max_pixels(max_pixels, size, protocol):
    if max_pixels is None:
        unresized = protocol.mode == "whole" and protocol.resize is None
        return size[0] * size[1] if size else MAX_PIXELS_UNRESIZED if unresized else MAX_PIXELS
    try:
        number = 0 if isinstance(max_pixels, bool) else index(max_pixels)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"max_pixels is a positive whole number. Received: {max_pixels!r}.")
    max_pixels = number
    if size and max_pixels < size[0] * size[1]:
        raise ValueError(
            f"Pictures of {size[1]}x{size[0]} have more pixels than max_pixels={max_pixels}. Leave one of the two out."
        )
    return max_pixels


def at_precision(model, precision):
    """The model, or its folded copy that computes in `precision`: norms are folded before weights are rounded."""
    if precision is None or precision == keras.dtype_policies.get(model.get_config()["dtype"]).name:
        return model
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {' or '.join(map(repr, PRECISIONS))}. Received: {precision!r}.")
    return fold_norms(model, precision)


class Served(tf.Module):
    """What the SavedModel holds: the network's variables and one function per signature."""

    def __init__(self, network, palette, size, max_pixels, metadata):
        super().__init__()
        self.network_variables = [weight.value for weight in network.folded.weights]
        classes = network.coarse.output_shape[-1]
        images = tf.TensorSpec([None, *(size or (None, None)), 3], tf.uint8, name="images")
        image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
        protocol = fixed_protocol(network, *size) if size else any_size(network)

        def label_png(data, name):
            picture = decode_image(data, max_pixels=max_pixels, name=name)
            if size:
                picture = of_size(picture, size, name)
            labels = protocol(picture, False)[0][..., None]
            if palette is not None:
                labels = tf.gather(tf.constant(padded(palette), tf.uint8), tf.cast(labels[..., 0], tf.int32))
            return tf.io.encode_png(labels)

        def segment(images, return_scores):
            count, height, width, _ = tf.unstack(tf.shape(images, tf.int64))
            fits = (height * width <= max_pixels) & (tf.maximum(height, width) <= MAX_SIDE)
            rule = (
                f"A batch is one picture or more, each of 1 to {max_pixels} pixels (max_pixels, set at export) and at most "
                f"{MAX_SIDE} a side. N, H, W:"
            )
            total = count * height * width * classes * 4
            checks = [tf.debugging.Assert(fits & (total > 0), [rule, count, height, width])]
            if return_scores:
                rule = f"A response holds at most {RESPONSE_BYTES} bytes; ask for the scores of fewer or smaller pictures. "
                checks.append(tf.debugging.Assert(total <= RESPONSE_BYTES, [rule + "Bytes:", total]))
            with tf.control_dependencies(checks):
                images = tf.identity(images)
            spec = (
                tf.TensorSpec([None, None, classes], tf.float32)
                if return_scores
                else tf.TensorSpec([None, None], tf.uint8)
            )
            return one_by_one(lambda picture: protocol(picture, return_scores)[int(return_scores)], images, spec)

        def pngs(image_bytes):
            count = tf.size(image_bytes)
            names = tf.strings.join(
                ["Picture ", tf.as_string(tf.range(1, count + 1)), " of the ", tf.as_string(count), " in this batch"]
            )
            return one_by_one(lambda one: label_png(*one), (image_bytes, names), tf.TensorSpec([], tf.string))

        @tf.function(input_signature=[image_bytes])
        def serving_default(image_bytes):
            return {"label_png": pngs(image_bytes)}

        @tf.function(input_signature=[image_bytes])
        def rest(image_bytes):
            return {"label_png_bytes": pngs(image_bytes)}

        @tf.function(input_signature=[images])
        def tensor(images):
            return {"labels": segment(images, False)}

        @tf.function(input_signature=[images])
        def scores(images):
            return {"scores": segment(images, True)}

        @tf.function(input_signature=[])
        def about():
            return {"json": tf.constant([json.dumps(metadata)])}

        self.serving_default, self.rest, self.tensor, self.scores, self.metadata = (
            serving_default, rest, tensor, scores, about,
        )  # fmt: skip


def any_size(network):
    """The network's protocol for a picture of any size: (picture, return_scores) -> labels, scores."""

    def run(picture, return_scores):
        size = tf.shape(picture)[:2]
        box = network.protocol.resize or (tf.reduce_max(size), tf.reduce_min(size))
        return merge([network.view(picture, *box, False)], return_scores)

    return run


def of_size(picture, size, name):
    found = tf.shape(picture)[:2]
    rule = f" is {size[1]}x{size[0]} pixels, as set at export. It is: "
    message = tf.strings.join([name, rule, tf.as_string(found[1]), "x", tf.as_string(found[0])])
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(found == size), [message])]):
        return tf.reshape(picture, [*size, 3])  # ensure_shape would let TensorFlow infer that the check holds


def one_by_one(function, batch, output):
    """`function` of each element, one after another, so that memory does not grow with the batch."""
    return tf.map_fn(function, batch, fn_output_signature=output, parallel_iterations=1)
