"""A model in, a LiteRT or ONNX file out: a picture of one size to its label map, the test protocol inside."""

import contextlib
import gc
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_deeplab.inference.segment import Network
from keras_deeplab.networks.fast.convolution import Purpose
from keras_deeplab.networks.fold import fold_norms
from keras_deeplab.serving.export import at_precision, checked_size, require_tensorflow
from keras_deeplab.serving.fixed_size import fixed_protocol
from keras_deeplab.serving.metadata import describe

OPSET = 18  # of ONNX


def export_litert(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    calibration: Sequence[np.ndarray] | None = None,
) -> dict:
    """Writes a LiteRT (TensorFlow Lite) file: weights in float16, or with `calibration` everything in int8.

    Its input `images` is uint8 (1, height, width, 3) RGB, its output `labels` uint8 (1, height, width). NAME.json beside it
    has the metadata.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`, on the TensorFlow backend.
        path: file to write.
        size: (height, width) in pixels of every picture; by default the protocol's box.
        calibration: pictures (height, width, 3) uint8 that show which values occur: a few dozen like those to come. Each
            takes as long as several runs of the network.

    Returns:
        the metadata, a dict.

    Raises:
        ValueError: if there is no size, a calibration picture has another, or the backend is not TensorFlow.
    """
    function, size, metadata = fixed_function(model, size, "int8" if calibration is not None else "float16")
    holder = tf.Module()
    holder.labels = function
    holder.weights = function.get_concrete_function().variables
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], holder)
    converter.experimental_enable_resource_variables = False  # weights are constants
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if calibration is None:
        converter.target_spec.supported_types = [tf.float16]
    else:
        shapes = {picture.shape for picture in calibration}
        if shapes != {(*size, 3)}:
            raise ValueError(
                f"Calibration pictures are (height, width, 3) of the size {size}. Received: {sorted(shapes)}."
            )
        converter.representative_dataset = lambda: ([picture[None]] for picture in calibration)
        kinds = tf.lite.OpsSet  # the resize to the box and the normalisation stay in integers and float32
        converter.target_spec.supported_ops = [kinds.TFLITE_BUILTINS_INT8, kinds.TFLITE_BUILTINS]
    write(Path(path), converter.convert(), metadata)
    return metadata


def export_onnx(model: keras.Model, path: str | os.PathLike, *, size: tuple[int, int] | None = None) -> dict:
    """Writes an ONNX file in float32, with the same input and output as `export_litert`'s, and NAME.json beside it.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`, on the TensorFlow backend.
        path: file to write.
        size: (height, width) in pixels of every picture; by default the protocol's box.

    Returns:
        the metadata, a dict.

    Raises:
        ImportError: without tf2onnx.
        ValueError: if there is no size, or the backend is not TensorFlow.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise ImportError('ONNX needs tf2onnx and onnxruntime: pip install "keras_deeplab[onnx]".') from error
    function, _, metadata = fixed_function(model, size, "float32")
    with collecting():
        converted, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=OPSET)
    write(Path(path), converted.SerializeToString(), metadata)
    return metadata


@contextlib.contextmanager
def collecting():
    """Collects garbage every second: tf2onnx leaves a copy of all weights in a reference cycle with each of its passes.

    R-50 took 5 GB in place of 11.
    """
    done = threading.Event()

    def collect():
        while not done.wait(1.0):
            gc.collect()

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def fixed_function(model, size, precision):
    """The protocol as a function of one picture, in float32 and made of operations that converters know."""
    require_tensorflow()
    size = checked_size(size) or default_size(model.protocol)
    folded = fold_norms(at_precision(model, "float32"))
    # All windows at once: a second call of the network would hold all weights a second time.
    run = fixed_protocol(Network(folded, Purpose.CONVERSION), *size, at_once=2**31)

    @tf.function(input_signature=[tf.TensorSpec([1, *size, 3], tf.uint8, name="images")])
    def function(images):
        return {"labels": run(images[0], False)[0][None]}

    metadata = describe(model, folded, palette=False, size=size, max_pixels=size[0] * size[1])
    kept = {key: value for key, value in metadata.items() if key not in ("label_png", "signatures")}
    return function, size, {**kept, "precision": precision}


def default_size(protocol):
    if protocol.resize is None:
        raise ValueError(
            "A model without a resize box takes pictures of any size: give size=(height, width) in pixels."
        )
    return protocol.resize[::-1]


def write(path, data, metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    os.replace(partial, path)
    path.with_suffix(".json").write_text(json.dumps(metadata, indent=1) + "\n")
