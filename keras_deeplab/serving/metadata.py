"""A model in, the metadata of its exported file out: weights, published scores, classes, test protocol and signatures."""

import hashlib

import keras
import numpy as np
import tensorflow as tf

from keras_deeplab.catalog import rows
from keras_deeplab.version import __version__


def describe(model, served_model, *, palette, size, max_pixels, multi_scale_flip=False):
    """The metadata of a SavedModel, a dict of plain JSON values.

    Args:
        model: the model to be exported.
        served_model: the model that the SavedModel holds, which may compute in another precision.
        palette, size, max_pixels, multi_scale_flip: as for `export_saved_model`.
    """
    row = rows.ROWS.get(model.row)
    precision = keras.dtype_policies.get(served_model.get_config()["dtype"]).compute_dtype
    return {
        "row": model.row,
        "network": type(model).__name__,
        "classes": list(model.classes),
        "palette": [[int(value) for value in colour] for colour in model.palette],
        "protocol": model.protocol.to_dict(),
        "multi_scale_flip": "box" if multi_scale_flip is True else multi_scale_flip,
        "threshold": model.threshold,  # the probability above which a single output means class 1
        "precision": precision,
        "size": list(size) if size else None,
        "max_pixels": max_pixels,
        "label_png": "RGB, the palette's colours" if palette else "grey, class ids",
        "weights_sha256": weights_sha256(model),
        "published_for_row": {"mIoU": row.mIoU, "mIoU_ms_flip": row.mIoU_ms_flip, "url": row.url} if row else None,
        "licence": row.checkpoint_licence if row else None,
        "versions": {"keras_deeplab": __version__, "keras": keras.__version__, "tensorflow": tf.__version__},
        "signatures": signatures(palette, size, score_kind(model, multi_scale_flip)),
    }


def score_kind(model, multi_scale_flip):
    """What the scores of a model are, as text."""
    if model.threshold is not None:
        return "float32 (N, H, W, 1): the probability of class 1, at the picture's size"
    kind = "mean probabilities" if multi_scale_flip else "logits"
    return f"float32 (N, H, W, {model.num_classes}): {kind} at the picture's size"


def signatures(palette, size, scores):
    """{signature: what it does, its inputs and outputs}. `scores` is what `score_kind` returns."""
    files = "string (N,): the bytes of JPEG or PNG files of any sizes; Exif orientation is honoured"
    images = "uint8 (N, H, W, 3): RGB of 0..255"
    png = f"string (N,): a PNG of each picture's size, {'RGB, the palette' if palette else 'grey, class ids'}"
    return {
        "serving_default": {
            "does": "label maps of files",
            "inputs": {"image_bytes": files},
            "outputs": {"label_png": png},
        },
        "rest": {
            "does": "the same, for JSON: responses hold outputs whose names end in _bytes as base64",
            "inputs": {"image_bytes": files},
            "outputs": {"label_png_bytes": png},
        },
        "tensor": {
            "does": "label maps of pictures of one size",
            "inputs": {"images": images},
            "outputs": {"labels": "uint8 (N, H, W): class ids"},
        },
        "scores": {
            "does": "a score of each class at each pixel",
            "inputs": {"images": images},
            "outputs": {"scores": scores},
        },
        **(
            {
                "single": {
                    "does": "the label map of one picture, by a graph without loops, for compilers and converters",
                    "inputs": {"images": f"uint8 (1, {size[0]}, {size[1]}, 3): RGB of 0..255"},
                    "outputs": {"labels": f"uint8 (1, {size[0]}, {size[1]}): class ids"},
                }
            }
            if size
            else {}
        ),
        "metadata": {"does": "this description", "inputs": {}, "outputs": {"json": "string (1,)"}},
    }


def weights_sha256(model):
    """The SHA-256 of all weights that the label map depends on, in hex.

    It is computed over the layers in the order of their names, and over the weights of a layer in the order of theirs: of
    each weight, both names, the shape, and the float32 values in little-endian order. The auxiliary head is left out, so the
    result is the same for a model with and without it.
    """
    digest = hashlib.sha256()
    for layer in sorted(model.layers, key=lambda layer: layer.name):
        if layer.name.startswith("auxiliary"):
            continue
        for weight in sorted(layer.weights, key=lambda weight: weight.name):
            values = np.asarray(keras.ops.convert_to_numpy(weight), "<f4")
            digest.update(f"{layer.name}/{weight.name}{values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()
