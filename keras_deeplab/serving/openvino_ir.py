"""A model in, an OpenVINO model out that turns a picture into its label map, by the model's test protocol."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_deeplab.inference.segment import Network, require_options, require_sizes_of
from keras_deeplab.networks.fast.convolution import Purpose
from keras_deeplab.serving.export import (
    any_size_protocol,
    at_precision,
    checked_size,
    require_replaceable,
    require_tensorflow,
)
from keras_deeplab.serving.fixed_size import fixed_protocol
from keras_deeplab.serving.litert_onnx import require_calibration
from keras_deeplab.serving.metadata import describe
from keras_deeplab.serving.replace import folder_in_place_of

IN_FLOAT32 = [
    "MatMul",
    "Add",
    "Multiply",
    "Subtract",
    "Concat",
    "Interpolate",
    "ReduceMean",
    "AvgPool",
]  # of an int8 model
FILE = "model.xml"  # the graph; OpenVINO keeps the weights in model.bin beside it


def export_openvino(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    multi_scale_flip: bool | str = False,
    calibration: Sequence[np.ndarray] | None = None,
) -> dict:
    """Writes a folder with an OpenVINO model: model.xml, model.bin and metadata.json.

    The model's input `images` is uint8 (1, height, width, 3) RGB, its output `labels` uint8 (1, height, width). Weights are
    float32. In which type the network computes is chosen when the model is compiled: OpenVINO takes a lower precision where
    the processor has one, unless `INFERENCE_PRECISION_HINT` is `f32`. The folder is a version of a model as OpenVINO Model
    Server expects it.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`, on the TensorFlow backend.
        path: folder to write. If it holds an OpenVINO model, that one is replaced when the new one is complete.
        size: (height, width) of every picture, in pixels. None (the default): any size; with `calibration` the size of the
            calibration pictures.
        multi_scale_flip: as for `segment`; needs `size`. False (the default): one size.
        calibration: pictures (height, width, 3) uint8 of one size, from which the ranges of int8 values are measured; a
            hundred or more that look like those to be segmented. Needs NNCF. None (the default): no int8.

    Returns:
        The metadata, a dict.

    Raises:
        ImportError: without openvino, or with `calibration` without nncf.
        ValueError: if the folder holds something else, an option has a wrong value, or the backend is not TensorFlow.
        InUseError: if another process exports to the same folder.
    """
    openvino = imported("openvino")
    require_tensorflow()
    require_options(multi_scale_flip, None)
    require_sizes_of(model.protocol, multi_scale_flip)
    size = checked_size(size)
    if multi_scale_flip and size is None:  # OpenVINO cannot run the loop over passes of several sizes
        raise ValueError(
            f"`multi_scale_flip` in an OpenVINO model needs `size`. Received: multi_scale_flip={multi_scale_flip!r} without "
            "it. Give the height and width of the pictures."
        )
    if calibration is not None:
        imported("nncf")
        size = size or calibration[0].shape[:2]
        require_calibration(calibration, size)
    path = Path(path).resolve()
    with folder_in_place_of(path) as new:
        require_replaceable(path, FILE, "OpenVINO model")
        folded = at_precision(model, "float32")
        converted = openvino.convert_model(protocol_function(folded, size, multi_scale_flip))
        if calibration is not None:
            converted = quantized(converted, calibration)
        openvino.save_model(converted, new / FILE, compress_to_fp16=False)
        metadata = describe(model, folded, palette=False, size=size, max_pixels=None, multi_scale_flip=multi_scale_flip)
        for key in ("label_png", "signatures", "max_pixels"):  # of SavedModels only
            del metadata[key]
        metadata["precision"] = "float32" if calibration is None else "int8"
        (new / "metadata.json").write_text(json.dumps(metadata, indent=1) + "\n")
    return metadata


def protocol_function(model, size, multi_scale_flip):
    """The test protocol as a concrete function images (1, height, width, 3) uint8 -> {"labels": (1, height, width) uint8}."""
    network = Network(model, Purpose.CONVERSION)
    if size:
        run = fixed_protocol(network, *size, multi_scale_flip=multi_scale_flip)
    else:
        run = any_size_protocol(network, multi_scale_flip)

    @tf.function(input_signature=[tf.TensorSpec([1, *(size or (None, None)), 3], tf.uint8, name="images")])
    def function(images):
        return {"labels": run(images[0], False)[0][None]}

    concrete = function.get_concrete_function()
    concrete.network = network  # which owns the weights
    return concrete


def quantized(converted, calibration):
    """The OpenVINO model with dense convolutions in int8, and everything else in float32.

    The resizes of the scores are matrix products just before the best class is chosen. With sums and products in int8 too, the
    quickstart's network lost 2.2 points of mIoU; with convolutions alone it lost none. A depthwise convolution sums only nine
    products, so that it gains little from int8, and it loses most: on photographs a trained MobileNetV2 keeps 99.5 % of
    float32's labels without these in int8, and 98.4 % with them.
    """
    nncf = imported("nncf")
    nncf.set_log_level(40)  # errors only
    in_float32 = [one.get_friendly_name() for one in converted.get_ops() if is_depthwise(one)]
    return nncf.quantize(
        converted,
        nncf.Dataset(list(calibration), lambda picture: picture[None]),
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(names=in_float32, types=IN_FLOAT32, validate=False),
    )


def is_depthwise(operation):
    """Whether an operation of OpenVINO is a convolution of each channel by itself."""
    if operation.get_type_name() != "GroupConvolution":
        return False
    _, filters, channels, *_ = operation.input(1).get_partial_shape()
    return (filters, channels) == (1, 1)


def imported(name):
    """The module `name` of the extra "openvino". Raises `ImportError` with the remedy."""
    try:
        return __import__(name)
    except ImportError as error:
        raise ImportError(f'OpenVINO models need {name}: pip install "keras_deeplab[openvino]".') from error
