"""Labels of photographs by released, trained weights, beside those of the programs that the weights were made for.

    python benchmarks/trained.py FILE.tflite PICTURE... [--authors research:research/slim]

The authors also trained MobileNetV2 for processors that compute in eight bits. Coral's repository `test_data` on GitHub has
these models as LiteRT files: deeplabv3_mnv2_pascal_quant.tflite and deeplabv3_mnv2_dm05_pascal_quant.tflite. A weight is an
integer times a scale, and the norms are already in the convolutions. So the file has the weights of a network in float32. They
are written as a checkpoint with the authors' names, which `from_preset` loads as any other.

Each picture is resized to 513 pixels at its longer side, and surrounded by grey. The table says on how many of its pixels our
labels are equal to those of

- LiteRT, which runs the file as it is and rounds every feature map to eight bits;
- with --authors, their own code, which computes in float32 with the same weights. The option names the folders of the code,
  and benchmarks/authors.py says what else it needs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import authors  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

import keras_deeplab as kd  # noqa: E402
from keras_deeplab.commands import command_line  # noqa: E402

SIZES = {"deeplabv3_mnv2_pascal_quant.tflite": 2_193_224, "deeplabv3_mnv2_dm05_pascal_quant.tflite": 760_904}  # bytes
RELEASED = next(iter(SIZES))
SIDE, GREY = authors.CROP[0], 128
NAMES = {32: "mobilenetv2", 16: "mobilenetv2_dm05"}  # {filters of the first layer: key of `authors.ROWS`}
KERNELS = {"CONV_2D": "weights", "DEPTHWISE_CONV_2D": "depthwise_weights"}  # {operation: name of its kernel's variable}
EPSILON = {"MobilenetV2": 1e-3}  # of the norms of a part of the network; 1e-5 in the others
SMALLEST_SHARE = 0.01  # of a picture's pixels that a class has at least to be named


def opened(path):
    """An interpreter of a LiteRT file."""
    if path.read_bytes()[4:8] != b"TFL3":
        raise ValueError(f"FILE must be a LiteRT file, such as {RELEASED}. Received: {path}, which is of another kind.")
    if (size := path.stat().st_size) != SIZES.get(path.name, size):  # a file that is cut off would crash LiteRT
        raise ValueError(f"{path.name} must have {SIZES[path.name]} bytes. Received: {size}. Download it again.")
    resolver = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # others replace the operations
    interpreter = tf.lite.Interpreter(str(path), num_threads=2, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return interpreter


def variables_of(interpreter):
    """{name of the authors' variable: array} of a quantised LiteRT file."""
    tensors, found = {one["index"]: one for one in interpreter.get_tensor_details()}, {}

    def value(index):
        scales, zeros, axis = (
            tensors[index]["quantization_parameters"][key] for key in ("scales", "zero_points", "quantized_dimension")
        )
        if not len(scales):
            name = tensors[index]["name"]
            raise ValueError(f"FILE must be quantised, as {RELEASED} is. Received: {name} without a scale.")
        array = interpreter.get_tensor(index).astype("float64")
        shape = [-1 if len(scales) > 1 and i == axis else 1 for i in range(array.ndim)]
        return ((array - zeros.reshape(shape)) * scales.astype("float64").reshape(shape)).astype("float32")

    for operation in interpreter._get_ops_details():
        if operation["op_name"] not in KERNELS:
            continue
        _, kernel, bias = operation["inputs"]
        layer = tensors[kernel]["name"].split(";")[-1].split("/weights_quant")[0]
        # LiteRT's axes are (filters, height, width, channels), of a depthwise kernel (1, height, width, channels).
        found[f"{layer}/{KERNELS[operation['op_name']]}"] = value(kernel).transpose(1, 2, 3, 0)
        if layer.startswith("logits"):
            found[f"{layer}/biases"] = value(bias)
            continue
        variance = np.ones_like(value(bias))
        norm = {"gamma": np.sqrt(variance + EPSILON.get(layer.split("/")[0], 1e-5)), "beta": value(bias)}
        norm |= {"moving_mean": 0 * variance, "moving_variance": variance}
        found |= {f"{layer}/BatchNorm/{name}": array for name, array in norm.items()}
    return found


def save(variables, prefix):
    """Writes variables as a TensorFlow 1 checkpoint."""
    names, values = list(variables), list(variables.values())
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)


def model_of(interpreter, checkpoint=None):
    """Our model with the weights of a file.

    Args:
        interpreter: what `opened` returned.
        checkpoint: the beginning of the names of the checkpoint's files. Default None: they are not kept.
    """
    if checkpoint is None:
        with tempfile.TemporaryDirectory() as folder:
            return model_of(interpreter, f"{folder}/model.ckpt-0")
    variables = variables_of(interpreter)
    save(variables, checkpoint)
    return kd.from_preset(authors.ROWS[name_of(variables)][0], weights=checkpoint)


def name_of(variables):
    """The network's key in `authors.ROWS`."""
    kernel = variables.get("MobilenetV2/Conv/weights")
    if kernel is None or kernel.shape[-1] not in NAMES:
        raise ValueError(f"FILE must have the authors' MobileNetV2, as {RELEASED} has. Received: another network.")
    return NAMES[kernel.shape[-1]]


def litert(interpreter):
    """A function of a picture (513, 513, 3) that gives its label map by the file itself."""

    def run(picture):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture[None])
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]

    return run


def their_code(name, checkpoint, folders):
    """The same by the authors' code, in the folders of PYTHONPATH, with a checkpoint's variables."""
    path = Path(f"{checkpoint}.pb")
    command = [sys.executable, authors.__file__, "--write", name, path, "--weights", checkpoint]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": folders})
    run = authors.their_graph(path)
    return lambda picture: run(picture[None])


def fitted(path):
    """A picture resized and surrounded, (513, 513, 3) uint8, and the height and the width that it has there."""
    picture = Image.fromarray(kd.read_image(path))
    width, height = (round(side * SIDE / max(picture.size)) for side in picture.size)
    canvas = np.full((SIDE, SIDE, 3), GREY, "uint8")
    canvas[:height, :width] = picture.resize((width, height), Image.Resampling.BILINEAR)
    return canvas, height, width


def main(argv):
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("file", metavar="FILE", type=Path, help="a quantised LiteRT file of Coral's")
    arguments.add_argument("pictures", metavar="PICTURE", type=Path, nargs="+")
    arguments.add_argument("--authors", metavar="FOLDERS", help="their code, as in PYTHONPATH")
    options = arguments.parse_args(argv)
    if missing := [str(path) for path in (options.file, *options.pictures) if not path.exists()]:
        arguments.error(f"Every FILE and PICTURE must exist. Missing: {', '.join(missing)}.")
    interpreter = opened(options.file)
    sides = {"LiteRT": litert(interpreter)}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = f"{folder}/model.ckpt-0"
        model = model_of(interpreter, checkpoint)
        if options.authors:
            name = name_of(variables_of(interpreter))
            sides["the authors' code"] = their_code(name, checkpoint, options.authors)
    lines, equal = [("picture", *(f"equal to {side}" for side in sides), "classes")], []
    for path in options.pictures:
        canvas, height, width = fitted(path)
        place = np.s_[:height, :width]
        labels = np.asarray(kd.segment(model, canvas))[place]
        equal.append([np.mean(labels == run(canvas)[place]) for run in sides.values()])
        shares = np.bincount(labels.ravel(), minlength=model.num_classes) / labels.size
        named = [f"{model.classes[i]} {shares[i]:.0%}" for i in np.argsort(-shares) if shares[i] >= SMALLEST_SHARE]
        lines.append((path.name, *(f"{share:.3%}" for share in equal[-1]), ", ".join(named)))
    for words, over in (("mean", np.mean), ("least", np.min)):
        lines.append((f"{words} of {len(equal)}", *(f"{share:.3%}" for share in over(equal, axis=0)), ""))
    command_line.print_table(lines)


if __name__ == "__main__":
    command_line.run(main)
