"""Our side of compare.py: what is to be timed in, a function that runs it once out. A worker process (worker.py)."""

import dataclasses
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import keras_deeplab as kd  # noqa: E402  # before Keras: TensorFlow reads what this sets while it is imported

# isort: split
import keras  # noqa: E402
import numpy as np  # noqa: E402
from support import narrow  # noqa: E402
from support.drawn import NARROW, batches, images  # noqa: E402
from support.torch_files import released  # noqa: E402
from worker import serve  # noqa: E402

from keras_deeplab import recipes  # noqa: E402
from keras_deeplab.catalog import rows  # noqa: E402
from keras_deeplab.networks.backbones import BACKBONES  # noqa: E402
from keras_deeplab.networks.fast.convolution import Purpose, purpose  # noqa: E402

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build(row, precision, is_narrow, classes=None, **options):
    """The network of a row, with the same random weights as on the original's side."""
    row = rows.find(row)
    widths = {**BACKBONES[row.backbone].widths, **row.architecture}
    options |= {name: NARROW[name] if is_narrow else widths.get(name) for name in NARROW}
    if classes:
        options |= dict(num_classes=classes, classes=None, palette=None, row=None)
    return narrow.drawn(row.name, dtype=POLICIES[precision], **options)


def forward(row, precision, size, batch=1, is_narrow=False, classes=None, key=None):
    """Pictures in, logits at their size out: the network with folded norms, in a graph for any size, as `segment` runs it."""
    import tensorflow as tf

    model = build(row, precision, is_narrow, classes)
    folded = kd.fold_norms(model)
    run = tf.function(folded, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    x = tf.constant(images(*size, batch))

    def once(_keep_alive=model):  # a pass would use the freed model's memory again, and seem to need less
        return run(x)

    return once, {"flop": flop(model, batch, *size)}


def flop(model, batch, height, width):
    """Floating-point operations of the convolutions of one pass, without products with the padding around the map."""
    layers = [layer for layer in model.layers if "Conv" in type(layer).__name__]
    outputs = [layer.output for layer in layers]
    shapes = keras.Model(model.input, outputs).compute_output_spec(keras.KerasTensor((batch, height, width, 3)))
    total = 0
    for layer, shape in zip(layers, (output.shape for output in shapes), strict=True):
        taps = layer.kernel_size[0]
        # Of three taps, the middle one always lies on the map. Each outer one lies in the padding for `outside` of the pixels.
        outside = [min(layer.dilation_rate[0], side) / side for side in shape[1:3]]
        share = (1 - outside[0] * 2 / 3) * (1 - outside[1] * 2 / 3) if taps == 3 else 1.0
        total += 2 * batch * shape[1] * shape[2] * layer.kernel.shape.num_elements() * share
    return total


def product(precision, side, key=None):
    """A product of two square matrices: the fastest arithmetic of the machine, to compare with."""
    import tensorflow as tf

    a, b = (tf.cast(tf.random.normal([side, side], seed=seed), precision) for seed in (0, 1))
    return lambda: tf.matmul(a, b), {"flop": 2 * side**3}


def step(row, precision, size, batch, is_narrow=False, key=None):
    """A training step as `keras-deeplab train` runs it: both losses, gradients, the row's optimizer."""
    model = build(row, precision, is_narrow, auxiliary_head=True, dropout=0.0)
    recipes.find(row).compile(model)
    raw, labels = (drawn[0] for drawn in batches(1, batch, *size, model.num_classes))
    raw = raw.astype("float32")

    def once():
        # Without `build`, Keras traces the step twice. It is part of the first pass, so that the velocities count as its
        # memory, as in the original.
        model.optimizer.build(model.trainable_variables)
        return [model.train_on_batch(raw, labels, return_dict=True)["loss"]]

    return once, {}


def segment(row, precision, picture, box, multi_scale_flip=False, is_narrow=False, classes=None, key=None):
    """A file in, a label map out."""
    model = build(row, precision, is_narrow, classes)
    return lambda: kd.segment(model, picture, multi_scale_flip=multi_scale_flip, resize=box), {}


def serving(row, precision, picture, box, is_narrow=False, key=None):
    """Bytes of a picture file in, a PNG label map out: a request to the exported model, without a connection between."""
    import tensorflow as tf

    model = build(row, "float32", is_narrow)
    model.protocol = dataclasses.replace(model.protocol, resize=box)
    with tempfile.TemporaryDirectory() as folder:
        kd.export_saved_model(model, Path(folder, "1"), precision=precision)
        served = tf.saved_model.load(Path(folder, "1"))
    data = tf.constant([Path(picture).read_bytes()])

    def once():
        png = served.signatures["serving_default"](image_bytes=data)["label_png"]
        return tf.io.decode_png(png[0])[..., 0]

    return once, {}


def export(row, precision, size, folder, to, is_narrow=False, key=None):
    """Writes ours.xml and ours.onnx, for runtimes.py: the network alone (`to` is "forward") or the whole protocol ("serving").

    It needs openvino and tf2onnx.
    """
    import openvino
    import tensorflow as tf
    import tf2onnx

    model, file = build(row, precision, is_narrow), str(Path(folder, "ours"))
    if to == "serving":
        model.protocol = dataclasses.replace(model.protocol, resize=(max(size), min(size)))
        kd.export_openvino(model, file, size=size)
        for ending in ("xml", "bin"):
            Path(file, f"model.{ending}").replace(f"{file}.{ending}")
        kd.export_onnx(model, f"{file}.onnx", size=size)
    else:
        folded = kd.fold_norms(model)
        run = tf.function(folded, input_signature=[tf.TensorSpec([1, *size, 3], tf.uint8, name="images")])
        with purpose(Purpose.CONVERSION):
            converted = openvino.convert_model(run.get_concrete_function())
            openvino.save_model(converted, f"{file}.xml", compress_to_fp16=False)
            tf2onnx.convert.from_function(run, run.input_signature, opset=18, output_path=f"{file}.onnx")
        np.save(f"{file}.npy", images(*size, 1))
    return lambda: [0.0], {}


def conversion(row, precision, checkpoint, is_narrow=False, key=None):
    """A released file in, a model out. Writes the file first, for the original's side too."""
    model = build(row, precision, is_narrow, auxiliary_head=True)
    Path(checkpoint).write_bytes(released(narrow.tensors(model)))
    load = getattr(kd, rows.find(row).class_name).from_preset
    classifier = "decode_head-conv_seg"
    return lambda: load(row, weights=checkpoint, auxiliary_head=True).get_layer(classifier).bias.numpy(), {}


MAKERS = dict(
    forward=forward,
    product=product,
    step=step,
    segment=segment,
    serving=serving,
    export=export,
    conversion=conversion,
)


def about():
    """{software: version}."""
    import tensorflow as tf

    return {"keras_deeplab": kd.__version__, "keras": keras.__version__, "tensorflow": tf.__version__}


if __name__ == "__main__":
    serve(MAKERS, about)
