"""A model in, a SavedModel out that turns the bytes of pictures into label maps, by the model's test protocol."""

import contextlib
import json
import os
from operator import index
from pathlib import Path

import keras
import tensorflow as tf

from keras_deeplab.inference.label_map import merge
from keras_deeplab.inference.results import identity
from keras_deeplab.inference.segment import Network, passes, require_options, require_sizes_of
from keras_deeplab.networks.fast.convolution import Purpose
from keras_deeplab.networks.fold import fold_norms
from keras_deeplab.pictures.decode import MAX_SIDE, decode_image
from keras_deeplab.pictures.draw import padded_palette
from keras_deeplab.serving.fixed_size import fixed_protocol
from keras_deeplab.serving.metadata import describe
from keras_deeplab.serving.replace import folder_in_place_of
from keras_deeplab.serving.warmup import warmup_requests, write_warmup

MAX_PIXELS = 64 * 2**20  # of a picture in a request
MAX_PIXELS_UNRESIZED = 4 * 2**20  # if the network gets the whole picture at its own size, which takes 1 kB a pixel
MAX_RESPONSE_BYTES = 2**31 - 1  # the limit of a protocol buffer
PRECISIONS = ("float32", "bfloat16")


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    palette: bool = False,
    precision: str | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int | None = None,
    multi_scale_flip: bool | str = False,
    this_processor: bool = False,
) -> dict:
    """Writes a SavedModel that TensorFlow Serving can load without Keras.

    It runs the graph that `segment` runs and gives the same labels. Batch norms are folded into the convolutions, and the
    auxiliary head is left out. Pictures are processed one by one, so a batch may hold any number of them, and the result for
    a picture does not depend on the others. The signatures are:

    - `serving_default`: `image_bytes` string (N,), JPEG or PNG of any sizes, in; `label_png` string (N,) out.
    - `rest`: the same in; `label_png_bytes` string (N,) out, base64 in JSON responses, because its name ends in `_bytes`.
    - `tensor`: `images` uint8 (N, H, W, 3) RGB in; `labels` uint8 (N, H, W) out.
    - `scores`: `images` uint8 (N, H, W, 3) RGB in; `scores` float32 (N, H, W, classes) out.
    - `single`, with `size` only: `images` uint8 (1, H, W, 3) RGB in; `labels` uint8 (1, H, W) out; a graph without loops.
    - `metadata`: nothing in; `json` string (1,) out: row, classes, palette, protocol, SHA-256 of the weights, ...

    The folder assets.extra has the same metadata as metadata.json, and warm-up requests, which TensorFlow Serving runs before
    it answers the first client. If a picture must be refused, the whole request fails with an InvalidArgumentError that
    names the picture.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`, on the TensorFlow backend.
        path: folder to write. If it holds a SavedModel, that one is replaced when the new one is complete.
        palette: whether `label_png` is in the palette's RGB colours. False (the default): grey class ids.
        precision: `"float32"` or `"bfloat16"`, the number type that the network computes in. None (the default): the
            model's.
        size: (height, width) in pixels that every picture must have, after it is turned upright. The signature
            `single`, for compilers and converters, then has known shapes and no loop. None (the default): any size.
        max_pixels: larger pictures are refused by the size in their header, before they are decoded. None (the default):
            height * width of `size`; without `size` 67,108,864, or 4,194,304 if the network gets whole pictures at their
            own size, because it then needs memory in proportion to their size (with several sizes of the picture, this
            many at the largest of them).
        multi_scale_flip: as for `segment`: whether each answer averages six sizes of the picture, each plain and mirrored,
            which takes about 17 times as long. Scores are then mean probabilities. False (the default): one size.
        this_processor: whether the graph may use what is fast on this machine's processor and not on others, as `segment`
            does: in bfloat16 some convolutions differ. False (the default): it is about as fast on all.

    Returns:
        The metadata, a dict.

    Raises:
        ValueError: if the folder holds something else, an option has a wrong value, or the backend is not TensorFlow.
        InUseError: if another process exports to the same folder.
    """
    with saved_model_in_place_of(
        model,
        path,
        palette=palette,
        precision=precision,
        size=size,
        max_pixels=max_pixels,
        multi_scale_flip=multi_scale_flip,
        this_processor=this_processor,
    ) as (_, metadata):
        return metadata


@contextlib.contextmanager
def saved_model_in_place_of(
    model,
    path,
    *,
    palette=False,
    precision=None,
    size=None,
    max_pixels=None,
    multi_scale_flip=False,
    this_processor=False,
):
    """Writes a SavedModel beside `path`; at the end of the block it takes the place of `path`. Arguments as above.

    If the block raises, for example because it found a fault in the new SavedModel, `path` stays as it was.

    Returns:
        A context that gives (folder of the new SavedModel, metadata).
    """
    require_tensorflow()
    path = Path(path).resolve()
    size = checked_size(size)
    require_options(multi_scale_flip, None)
    require_sizes_of(model.protocol, multi_scale_flip)
    max_pixels = checked_max_pixels(max_pixels, size, model.protocol, multi_scale_flip)
    served_model = at_precision(model, precision)
    with folder_in_place_of(path) as new:
        require_replaceable(path)
        network = Network(served_model, purpose_of(this_processor))
        options = dict(size=size, max_pixels=max_pixels, multi_scale_flip=multi_scale_flip)
        metadata = {
            **describe(model, served_model, palette=bool(palette), **options),
            # By it `segment_with_beam` knows what was done before.
            "identity": identity(model, {"multi_scale_flip": multi_scale_flip, "resize": None}, network.folded),
        }
        module = ServedModule(network, model.palette if palette else None, metadata=metadata, **options)
        tf.saved_model.save(
            module, str(new), signatures={name: getattr(module, name) for name in metadata["signatures"]}
        )
        extra = new / "assets.extra"
        extra.mkdir()
        (extra / "metadata.json").write_text(json.dumps(metadata, indent=1) + "\n")
        write_warmup(extra / "tf_serving_warmup_requests", warmup_requests(model.protocol, size, max_pixels))
        yield new, metadata


def purpose_of(this_processor):
    """The `Purpose` of an exported graph."""
    return Purpose.INFERENCE if this_processor else Purpose.ANY_PROCESSOR


def require_replaceable(path, file="saved_model.pb", kind="SavedModel"):
    """Raises `ValueError` if `path` is neither new, nor an empty folder, nor one with `file`, by which its `kind` is known."""
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / file).exists())):
        raise ValueError(
            f"A new {kind} must be written to a new or empty folder, or in place of another {kind}. "
            f"Received: {str(path)!r}, which exists and holds no {kind}. Choose another folder."
        )


def require_tensorflow():
    """Raises `ValueError` on another backend than TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Exporting needs the TensorFlow backend. Received: {keras.backend.backend()}. Save the model with "
            "model.save('x.keras') and export it in a process with KERAS_BACKEND=tensorflow."
        )


def checked_size(size):
    """(height, width) as plain integers, or None. Raises `ValueError` for another value."""
    if size is None:
        return None
    try:
        height, width = map(index, size)
    except (TypeError, ValueError):
        height = width = 0  # refused below
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ValueError(f"size must be (height, width), whole numbers of 1 to {MAX_SIDE} pixels. Received: {size!r}.")
    return height, width


def checked_max_pixels(max_pixels, size, protocol, multi_scale_flip):
    """`max_pixels` as a plain integer, or its default. Raises `ValueError` for a wrong value."""
    if max_pixels is None:
        if size:
            return size[0] * size[1]
        if protocol.mode == "slide" or (protocol.resize and multi_scale_flip != "picture"):
            return MAX_PIXELS
        return int(MAX_PIXELS_UNRESIZED / (max(protocol.factors) ** 2 if multi_scale_flip else 1))
    try:
        number = 0 if isinstance(max_pixels, bool) else index(max_pixels)
    except TypeError:
        number = 0  # refused below
    if number < 1:
        raise ValueError(f"max_pixels must be a positive whole number. Received: {max_pixels!r}.")
    max_pixels = number
    if size and max_pixels < size[0] * size[1]:
        raise ValueError(
            f"max_pixels must be at least the number of pixels of `size`, {size[0] * size[1]}. "
            f"Received: max_pixels={max_pixels} and size={size}. Leave one of them out."
        )
    return max_pixels


def at_precision(model, precision):
    """The model if it computes in `precision` (or if that is None), else a folded copy of it that does.

    Norms are folded before the weights are rounded. Raises `ValueError` for an unknown precision.
    """
    if precision is None or precision == keras.dtype_policies.get(model.get_config()["dtype"]).name:
        return model
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {' or '.join(map(repr, PRECISIONS))}. Received: {precision!r}.")
    return fold_norms(model, precision)


class ServedModule(tf.Module):
    """The object that is saved: the network's variables, and one function for each signature."""

    def __init__(self, network, palette, *, size, max_pixels, multi_scale_flip, metadata):
        super().__init__()
        # Only variables that are attributes of the module are saved.
        self.network_variables = [weight.value for weight in network.folded.weights]
        classes = network.coarse.output_shape[-1]
        images = tf.TensorSpec([None, *(size or (None, None)), 3], tf.uint8, name="images")
        image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
        if size:
            without_loops = fixed_protocol(network, *size, multi_scale_flip=multi_scale_flip)
        if size and not multi_scale_flip:
            protocol = without_loops
        else:
            protocol = any_size_protocol(network, multi_scale_flip)

        def label_png(data, name):
            picture = decode_image(data, max_pixels=max_pixels, name=name)
            if size:
                picture = require_size(picture, size, name)
            labels = protocol(picture, False)[0][..., None]
            if palette is not None:
                labels = tf.gather(tf.constant(padded_palette(palette), tf.uint8), tf.cast(labels[..., 0], tf.int32))
            return tf.io.encode_png(labels)

        def segment(images, return_scores):
            count, height, width, _ = tf.unstack(tf.shape(images, tf.int64))
            fits = (height * width <= max_pixels) & (tf.maximum(height, width) <= MAX_SIDE)
            rule = (
                f"A batch must have at least one picture, each of 1 to {max_pixels} pixels (max_pixels, set at export) and "
                f"at most {MAX_SIDE} a side. Received N, H, W:"
            )
            score_bytes = count * height * width * classes * 4
            checks = [tf.debugging.Assert(fits & (score_bytes > 0), [rule, count, height, width])]
            if return_scores:
                rule = (
                    f"A response can have at most {MAX_RESPONSE_BYTES} bytes. Ask for the scores of fewer or smaller "
                    "pictures. Bytes of these scores:"
                )
                checks.append(tf.debugging.Assert(score_bytes <= MAX_RESPONSE_BYTES, [rule, score_bytes]))
            with tf.control_dependencies(checks):
                images = tf.identity(images)  # all that uses these images waits for the checks
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
            return one_by_one(lambda pair: label_png(*pair), (image_bytes, names), tf.TensorSpec([], tf.string))

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

        if size:

            @tf.function(input_signature=[tf.TensorSpec([1, *size, 3], tf.uint8, name="images")])
            def single(images):
                return {"labels": without_loops(images[0], False)[0][None]}

            self.single = single

        @tf.function(input_signature=[])
        def metadata_json():
            return {"json": tf.constant([json.dumps(metadata)])}

        self.serving_default, self.rest, self.tensor, self.scores, self.metadata = (
            serving_default, rest, tensor, scores, metadata_json,
        )  # fmt: skip


def any_size_protocol(network, multi_scale_flip=False):
    """The model's test protocol for pictures of any size, as a function. `multi_scale_flip` is as for `segment`.

    Returns:
        A function (picture, return_scores) -> labels (height, width) uint8, scores (height, width, classes) or empty.
    """

    def run(picture, return_scores):
        size = tf.shape(picture)[:2]
        box = tf.reduce_max(size), tf.reduce_min(size)
        if network.protocol.resize and multi_scale_flip != "picture":
            box = network.protocol.resize
        views = views_in_a_loop(network, picture, passes(network.protocol, box, multi_scale_flip))
        return merge(views, return_scores, network.threshold)

    return run


def views_in_a_loop(network, picture, arguments):
    """`network.view_of` for each element of `passes`, as a list, by a graph that holds the network once.

    Without the loop, TensorFlow would copy the network into the graph for each of twelve passes, and optimise all copies
    during the first request.
    """
    if len(arguments) == 1:
        return [network.view_of(picture, *arguments[0])]
    count, classes = len(arguments), network.coarse.output_shape[-1]
    long, short, mirrored, factor = map(tf.stack, zip(*arguments, strict=True))
    shapes = [None, None, classes], [None, None], [None, None]
    parts = [
        tf.TensorArray(tf.float32, count, infer_shape=False, element_shape=shape, clear_after_read=False)
        for shape in shapes
    ]

    def step(i, *parts):
        view = network.view_of(picture, long[i], short[i], mirrored[i], factor[i])
        return i + 1, *(part.write(i, value) for part, value in zip(parts, view, strict=True))

    _, *parts = tf.while_loop(lambda i, *_: i < count, step, [0, *parts], parallel_iterations=1)
    return [tuple(part.read(i) for part in parts) for i in range(count)]


def require_size(picture, size, name):
    """The picture with the static shape (*size, 3). The graph fails if the picture has another size."""
    shape = tf.shape(picture)[:2]
    rule = f" must be {size[1]}x{size[0]} pixels (size, set at export). Received: "
    message = tf.strings.join([name, rule, tf.as_string(shape[1]), "x", tf.as_string(shape[0]), "."])
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(shape == size), [message])]):
        # Not ensure_shape: from it TensorFlow would conclude that the check always holds, and remove the check.
        return tf.reshape(picture, [*size, 3])


def one_by_one(function, batch, output):
    """Applies `function` to each element, one after another, so that memory does not grow with the batch."""
    return tf.map_fn(function, batch, fn_output_signature=output, parallel_iterations=1)
