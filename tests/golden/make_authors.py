"""Writes authors.npz: what the authors' own TensorFlow code gives for the weights and pictures of tests/support.

    PYTHONPATH=research:research/slim python make_authors.py [--segment | --full]

Needs tensorflow 2.21, tf_keras 2.21, tf_slim 1.1.0 and, as `research`, that folder of tensorflow/models of October 2018
(deeplab and slim). It is written for TensorFlow 1: this script stands in for `tf.contrib`. With --segment only the second and
the third of what follows. --full writes authors_full.npz in its place: the first, of networks of full width.

NETWORK/osSTRIDE/HxW: `sample` of the logits at the head's own stride, whose crop is the picture, and their deviation (/std).
segment/NETWORK/HxW: the label map of a picture that is padded to the crop, and with /ms over scales and with flips; by the
classifier segment/NETWORK/weights and /biases, which spreads the classes over the first picture.
resize/HxW: a picture resized to a longest side of 65 and to sides of a multiple of 16 plus one, `sample` of it, and its size.
"""

import os
import pathlib
import sys
import types

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import importlib  # noqa: E402

import numpy as np  # noqa: E402
import tensorflow as tf2  # noqa: E402
import tf_slim  # noqa: E402
from tf_slim.nets import resnet_utils  # noqa: E402

tf = tf2.compat.v1
tf.disable_v2_behavior()
tf.contrib = types.SimpleNamespace(slim=tf_slim)
sys.modules["tensorflow"] = tf
for name, module in {
    "": tf.contrib,
    ".slim": tf_slim,
    ".slim.nets": types.SimpleNamespace(resnet_utils=resnet_utils),
}.items():
    sys.modules[f"tensorflow.contrib{name}"] = module


import deeplab  # noqa: E402
from deeplab import common, input_preprocess, model  # noqa: E402
from deeplab.core import xception  # noqa: E402
from support.authors import CLASSES, CROP, FACTORS, FULL, FULL_STRIDES, NETWORKS, PICTURES, SIZES, STRIDES, weights  # noqa: E402
from support.drawn import FULL_SIZES, images, picture, sample  # noqa: E402

VARIANTS = {
    "xception65": "xception_65",
    "xception41": "xception_41",
    "xception71": "xception_71",
    "mobilenetv2_tf": "mobilenet_v2",
}
CELL = pathlib.Path(deeplab.__path__[0], "core", "dense_prediction_cell_branch5_top1_cityscapes.json")
block = xception.xception_block
for name in (
    "",
    ".base",
    ".convolutional",
    ".core",
    ".normalization",
    ".pooling",
):  # TensorFlow looks for them one level up
    sys.modules[f"tf_keras.legacy_tf_layers{name}"] = importlib.import_module(f"tf_keras.src.legacy_tf_layers{name}")


def narrow_block(scope, depth_list, *args, **options):
    return block(scope, [depth // 8 for depth in depth_list], *args, **options)


if "--full" not in sys.argv:
    xception.xception_block = narrow_block


def options_of(name, output_stride, crop):
    """The authors' `ModelOptions` of a narrow network."""
    cls, backbone, arguments = (FULL if "--full" in sys.argv else NETWORKS)[name]
    common.FLAGS.model_variant = VARIANTS[backbone]
    common.FLAGS.decoder_output_stride = 4 if cls == "DeepLabV3Plus" else None
    common.FLAGS.dense_prediction_cell_json = str(CELL) if arguments.get("dense_prediction_cell") else ""
    common.FLAGS.depth_multiplier = arguments.get("base_channels", 32) / 32 if "mobilenet" in name else 1.0
    rates = None if "mobilenet" in name else [max(1, rate * 8 // output_stride) for rate in (12, 24, 36)]
    return common.ModelOptions({common.OUTPUT_TYPE: CLASSES}, crop, rates, output_stride)


def run(build, own=None):
    """What the tensors that `build` makes give with drawn weights, and those of `own`, {variable: array}."""
    with tf.Graph().as_default(), tf.Session() as session:
        tensors = build()
        for variable in tf.global_variables():
            name = variable.op.name
            value = own[name] if own and name in own else weights(name, variable.shape.as_list())
            variable.load(value, session)
        return session.run(tensors)


def logits(name, output_stride, size):
    options = options_of(name, output_stride, size)
    x = tf.constant(images(*size).astype("float32"))
    found = model.multi_scale_logits(x, options, [1.0])
    return found[common.OUTPUT_TYPE][model.MERGED_LOGITS_SCOPE]


def spread(name):
    """A classifier that gives every class mean 0 and deviation 1 over the first picture."""
    values = run(lambda: segment(name, picture(*PICTURES[0], 0), None)).reshape(-1, CLASSES)
    mean, deviation = values.mean(0), values.std(0)
    weight, bias = (weights(f"logits/semantic/{part}", shape) for part, shape in
                    (("weights", (1, 1, 256, CLASSES)), ("biases", (CLASSES,))))  # fmt: skip
    return {"logits/semantic/weights": weight / deviation, "logits/semantic/biases": (bias - mean) / deviation}


def segment(name, image, several):
    """The label map of a picture; of `several` scales, or of one (False), or its logits (None)."""
    options = options_of(name, 16, CROP)
    _, padded, _ = input_preprocess.preprocess_image_and_label(
        tf.constant(image), None, *CROP, is_training=False, model_variant=common.FLAGS.model_variant
    )
    if several is None:
        return model.multi_scale_logits(padded[None], options, [1.0])[common.OUTPUT_TYPE][model.MERGED_LOGITS_SCOPE]
    if several:
        found = model.predict_labels_multi_scale(padded[None], options, FACTORS, add_flipped_images=True)
    else:
        found = model.predict_labels(padded[None], options)
    return found[common.OUTPUT_TYPE][0, : image.shape[0], : image.shape[1]]


def resize(image, side, step):
    resized, _, _ = input_preprocess.preprocess_image_and_label(
        tf.constant(image),
        None,
        side,
        side,
        side + step,
        side + step,
        step,
        is_training=False,
        model_variant="xception_65",
    )
    return resized


def logits_of(networks, strides, sizes):
    """{key: what the file keeps} of the logits of networks."""
    kept = {}
    for name in networks:
        for stride in strides:
            if stride == 32 and "dpc" in name:
                continue  # the authors' cell has no rates for it
            for size in sizes:
                key = f"{name}/os{stride}/{size[0]}x{size[1]}"
                values = run(lambda n=name, o=stride, s=size: logits(n, o, s))
                kept[key], kept[f"{key}/std"] = sample(values), values.std()
                print(key, values.shape, values.std(), flush=True)
    return kept


def main():
    common.FLAGS(["make_authors"])
    kept = {}
    if "--segment" in sys.argv:
        kept = dict(np.load(HERE / "authors.npz"))
    if "--full" in sys.argv:
        np.savez_compressed(HERE / "authors_full.npz", **logits_of(FULL, FULL_STRIDES, FULL_SIZES))
        return
    if not kept:
        kept = logits_of(NETWORKS, STRIDES, SIZES)
    for name in ("xception65", "mobilenetv2"):
        own = spread(name)
        kept |= {f"segment/{name}/{variable.rpartition('/')[2]}": value for variable, value in own.items()}
        for seed, size in enumerate(PICTURES):
            for several in (False, True):
                key = f"segment/{name}/{size[0]}x{size[1]}" + ("/ms" if several else "")
                image = picture(*size, seed)
                labels = run(lambda n=name, i=image, m=several: segment(n, i, m), own)
                kept[key] = labels.astype("uint8")
                print(key, np.bincount(labels.ravel()), flush=True)
    for seed, size in enumerate([(50, 80), (131, 97), (65, 65), (33, 41)]):
        image = picture(*size, seed)
        values = run(lambda i=image: resize(i, 65, 16))
        kept[f"resize/{size[0]}x{size[1]}"], kept[f"resize/{size[0]}x{size[1]}/size"] = (
            sample(values[None]),
            values.shape,
        )
        print(size, values.shape, flush=True)
    np.savez_compressed(HERE / "authors.npz", **kept)


if __name__ == "__main__":
    main()
