"""A model in, a LiteRT or ONNX file out that turns a picture of one size into its label map, by the model's test protocol."""

import contextlib
import gc
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
from keras_deeplab.serving.replace import exporting_file, write_with_metadata

OPSET = 18  # of ONNX


def export_litert(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    calibration: Sequence[np.ndarray] | None = None,
    precision: str | None = None,
) -> dict:
    """Writes a LiteRT (TensorFlow Lite) file: weights in float16, or with `calibration` weights and activations in int8.

    The file's input `images` is uint8 (1, height, width, 3) RGB, its output `labels` uint8 (1, height, width). A file of the
    same name with the ending .json has the metadata.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`, on the TensorFlow backend.
        path: file to write.
        size: (height, width) of every picture, in pixels. None (the default): the protocol's box.
        calibration: pictures (height, width, 3) uint8, from which the ranges of the int8 values are measured: a few dozen
            that look like those to be segmented. Each takes as long as several runs of the network. None (the default):
            float16.
        precision: "float32" for a file of twice the size whose labels are those of `segment` but for ties. None (the
            default): "float16", or with `calibration` "int8".

    Returns:
        The metadata, a dict.

    Raises:
        ValueError: if `size` is missing and there is no box, if a calibration picture has another size, if `precision` and
            `calibration` contradict, if the path ends in .json, or if the backend is not TensorFlow.
        InUseError: if another process exports to the same path.
    """
    precision = precision or ("float16" if calibration is None else "int8")
    if precision not in (("float32", "float16") if calibration is None else ("int8",)):
        with_or_without = "without calibration pictures" if calibration is None else "with calibration pictures"
        raise ValueError(
            "precision must be 'float32' or 'float16' without calibration pictures, 'int8' with them. "
            f"Received: {precision!r} {with_or_without}."
        )
    with exporting_file(path := Path(path)):
        function, size, metadata = fixed_size_function(model, size, precision)
        write_with_metadata(path, litert_bytes(function, size, calibration, precision), metadata)
    return metadata


def litert_bytes(function, size, calibration, precision):
    """The content of a LiteRT file that computes `function`, of `fixed_size_function`. The rest as above."""
    module = tf.Module()
    module.labels = function
    module.weights = function.get_concrete_function().variables
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
    converter.experimental_enable_resource_variables = False  # store the weights as constants
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if calibration is not None:
        require_calibration(calibration, size)
        converter.representative_dataset = lambda: ([picture[None]] for picture in calibration)
        op_sets = tf.lite.OpsSet  # the second for the resize to the box and the normalisation, which are not in int8
        converter.target_spec.supported_ops = [op_sets.TFLITE_BUILTINS_INT8, op_sets.TFLITE_BUILTINS]
        return quantized(converter)
    return converter.convert()


def quantized(converter):
    """The int8 LiteRT file of a converter that has calibration pictures, with the resizes of the scores in float32.

    These are matrix products. In int8 they would round the scores at every pixel, just before the best class is chosen.
    """
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=["BATCH_MATMUL", "FULLY_CONNECTED"])
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=converter.representative_dataset, debug_options=options
    )
    return debugger.get_nondebug_quantized_model()


def require_calibration(pictures, size):
    """Raises `ValueError` unless there are pictures (*size, 3)."""
    shapes = {picture.shape for picture in pictures}
    if shapes != {(*size, 3)}:
        raise ValueError(f"Calibration pictures must have the shape {(*size, 3)}. Received: {sorted(shapes)}.")


def export_onnx(model: keras.Model, path: str | os.PathLike, *, size: tuple[int, int] | None = None) -> dict:
    """Writes an ONNX file in float32.

    Its input and output, and the .json file with the metadata, are as those of `export_litert`.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`, on the TensorFlow backend.
        path: file to write.
        size: (height, width) of every picture, in pixels. None (the default): the protocol's box.

    Returns:
        The metadata, a dict.

    Raises:
        ImportError: without tf2onnx.
        ValueError: if `size` is missing and there is no box, if the path ends in .json, or if the backend is not TensorFlow.
        InUseError: if another process exports to the same path.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise ImportError('ONNX needs tf2onnx and onnxruntime: pip install "keras_deeplab[onnx]".') from error
    with exporting_file(path := Path(path)):
        function, _, metadata = fixed_size_function(model, size, "float32")
        with collecting_garbage():
            converted, _ = tf2onnx.convert.from_function(
                function, function.input_signature, opset=OPSET, custom_op_handlers=ONNX_HANDLERS
            )
        write_with_metadata(path, converted.SerializeToString(), metadata)
    return metadata


def resize_to_a_size(graph, node, *_):
    """Has tf2onnx write a bilinear resize to a size, in place of one by a factor.

    ONNX's shape inference rounds a size down that is computed from a factor: 7 pixels by the float32 nearest to 25 / 7 are 24,
    where the resize itself gives 25, and ONNX Runtime refuses the file. tf2onnx writes sizes only if they are no constants.
    """
    from tf2onnx.onnx_opset.nn import Resize

    size = graph.make_node("Identity", [node.input[1]])
    graph.replace_input(node, node.input[1], size.output[0], 1)
    Resize.version_11(graph, node)


ONNX_HANDLERS: dict[str, tuple] = {
    "ResizeBilinear": (resize_to_a_size, [])
}  # {TensorFlow operation: (function, its arguments)}


@contextlib.contextmanager
def collecting_garbage():
    """A context in which garbage is collected every second.

    Each pass of tf2onnx leaves a copy of all weights in a reference cycle. With early collection, converting
    ResNet-50 takes 5 GB of memory in place of 11 GB.
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


def fixed_size_function(model, size, precision):
    """The test protocol as a `tf.function` in float32, of operations that converters support.

    Returns:
        The function images (1, height, width, 3) uint8 -> {"labels": (1, height, width) uint8}, the size, and the metadata,
        in which the precision is `precision`.
    """
    require_tensorflow()
    size = checked_size(size) or default_size(model.protocol)
    folded = fold_norms(at_precision(model, "float32"))
    # All windows at once: with a second call of the network, the file would hold all weights twice.
    run = fixed_protocol(Network(folded, Purpose.CONVERSION), *size, at_once=2**31)

    @tf.function(input_signature=[tf.TensorSpec([1, *size, 3], tf.uint8, name="images")])
    def function(images):
        return {"labels": run(images[0], False)[0][None]}

    metadata = describe(model, folded, palette=False, size=size, max_pixels=size[0] * size[1])
    for key in ("label_png", "signatures"):  # of SavedModels only
        del metadata[key]
    return function, size, {**metadata, "precision": precision}


def default_size(protocol):
    """(height, width) of the protocol's box in pixels. Raises `ValueError` if the protocol has none."""
    if protocol.box is None:
        raise ValueError(
            "size must be given for a model whose protocol has no resize box, or one that limits the short side alone. "
            "Received: no size. Give size=(height, width) in pixels, or --size H W."
        )
    return protocol.box
