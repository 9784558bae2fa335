"""A model in, a SavedModel out: picture bytes to label map, with the model's whole test protocol inside."""

import os
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from keras_deeplab.inference.decode import decode_image
from keras_deeplab.inference.drawing import padded
from keras_deeplab.inference.segment import merge, network_of


def export_saved_model(model, path, *, colours=False):
    """Writes a SavedModel that TensorFlow Serving can load without Keras.

    It runs the graph that `segment` runs and gives the same labels. Pictures are treated one by one, so that a batch may
    hold any number of them and its result does not depend on what else is in it. Signatures:

    | name | input | output |
    |---|---|---|
    | `serving_default` | `image_bytes` string (N,): JPEG or PNG, any sizes | `label_png` string (N,) |
    | `tensor` | `images` uint8 (N, H, W, 3) RGB | `labels` uint8 (N, H, W) |
    | `scores` | `images` uint8 (N, H, W, 3) RGB | `scores` float32 (N, H, W, classes) |

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`, on the TensorFlow backend.
        path: folder to write; replaced if it holds a SavedModel.
        colours: `label_png` in the palette's RGB colours in place of grey class ids.

    Raises:
        ValueError: if the folder holds something else, or the backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel is made by the TensorFlow backend. Save the model with model.save('x.keras') and export "
            f"it from a process with KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}."
        )
    path = Path(path)
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / "saved_model.pb").exists())):
        raise ValueError(f"{str(path)!r} is there and holds no SavedModel. Give a new or empty folder.")
    served = Served(network_of(model), model.palette if colours else None)
    partial = path.with_name(path.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    tf.saved_model.save(
        served,
        str(partial),
        signatures={"serving_default": served.serve, "tensor": served.tensor, "scores": served.scores},
    )
    shutil.rmtree(path, ignore_errors=True)
    os.replace(partial, path)


class Served(tf.Module):
    """What the SavedModel holds: the network's variables and one function per signature."""

    def __init__(self, network, palette):
        super().__init__()
        self.network_variables = [variable.value for variable in network.folded.variables]
        classes = network.coarse.output_shape[-1]
        images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")

        def run(picture, return_scores):
            size = tf.shape(picture)[:2]
            box = network.protocol.resize or (tf.reduce_max(size), tf.reduce_min(size))
            return merge([network.view(picture, *box, False)], return_scores)

        def label_png(data):
            labels = run(decode_image(data), False)[0]
            pixels = (
                labels[..., None]
                if palette is None
                else tf.gather(tf.constant(padded(palette), tf.uint8), tf.cast(labels, tf.int32))
            )
            return tf.io.encode_png(pixels)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serve(image_bytes):
            return {"label_png": each(label_png, image_bytes, tf.TensorSpec([], tf.string))}

        @tf.function(input_signature=[images])
        def tensor(images):
            return {
                "labels": each(lambda picture: run(picture, False)[0], images, tf.TensorSpec([None, None], tf.uint8))
            }

        @tf.function(input_signature=[images])
        def scores(images):
            return {
                "scores": each(
                    lambda picture: run(picture, True)[1], images, tf.TensorSpec([None, None, classes], tf.float32)
                )
            }

        self.serve, self.tensor, self.scores = serve, tensor, scores


def each(function, batch, output):
    """`function` of each element, one after another, so that memory does not grow with the batch."""
    return tf.map_fn(function, batch, fn_output_signature=output, parallel_iterations=1)
