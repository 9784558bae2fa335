"""Times one picture by every form that this package exports to, in turns in one process: which to deploy on this machine.

    python benchmarks/exports.py [--rows ROW...] [--size H W] [--turns N] [--to DIR]

Needs openvino and nncf beside this package. The SavedModels take the bytes of a PNG file and give those of a label map; the
others take the pixels of one size and give labels. All have the same drawn weights and the whole test protocol; int8 is
calibrated on a few drawn pictures, which is enough for its time and says nothing of its labels. --to keeps the files, and uses
those that are there.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import keras_deeplab as kd  # noqa: E402  # before Keras: TensorFlow reads what this sets while it is imported

# isort: split
import numpy as np  # noqa: E402
import openvino  # noqa: E402
import tensorflow as tf  # noqa: E402
from compare import PAUSE  # noqa: E402
from report import machine  # noqa: E402
from support.drawn import picture  # noqa: E402

from keras_deeplab.commands import command_line  # noqa: E402

ROWS = ["deeplabv3plus_r50-d8_512x1024_80k_cityscapes", "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"]
PICTURES = 6  # to calibrate int8 on


def writers(model, size):
    """{name of the file or folder: a function that writes it}."""
    calibration = [picture(*size, seed=i) for i in range(PICTURES)]
    return {
        "saved_float32": lambda to: kd.export_saved_model(model, to, precision="float32"),
        "saved_bfloat16": lambda to: kd.export_saved_model(model, to, precision="bfloat16"),
        "saved_bfloat16_here": lambda to: kd.export_saved_model(model, to, precision="bfloat16", this_processor=True),
        "openvino_float32": lambda to: kd.export_openvino(model, to, size=size),
        "openvino_int8": lambda to: kd.export_openvino(model, to, size=size, calibration=calibration),
        "float32.tflite": lambda to: kd.export_litert(model, to, size=size, precision="float32"),
        "float16.tflite": lambda to: kd.export_litert(model, to, size=size),
        "int8.tflite": lambda to: kd.export_litert(model, to, size=size, calibration=calibration),
    }


def runs(folder, size):
    """{form: a function without arguments that labels one picture}."""
    image = picture(*size, seed=0)[None]
    return {
        "SavedModel, float32": of_saved_model(folder / "saved_float32", image),
        "SavedModel, bfloat16": of_saved_model(folder / "saved_bfloat16", image),
        "SavedModel, bfloat16, --this-processor": of_saved_model(folder / "saved_bfloat16_here", image),
        "OpenVINO, float32": of_openvino(folder / "openvino_float32", image, "f32"),
        "OpenVINO, bfloat16": of_openvino(folder / "openvino_float32", image, "bf16"),
        "OpenVINO, int8": of_openvino(folder / "openvino_int8", image, "f32"),
        "LiteRT, float32": of_litert(folder / "float32.tflite", image),
        "LiteRT, float16": of_litert(folder / "float16.tflite", image),
        "LiteRT, int8": of_litert(folder / "int8.tflite", image),
    }


def of_saved_model(path, image):
    served = tf.saved_model.load(str(path))
    serve, data = served.signatures["serving_default"], tf.io.encode_png(image[0])[None]
    return lambda: served and serve(image_bytes=data)  # the signature does not keep the model's variables


def of_openvino(path, image, precision):
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(path / "model.xml", "CPU", options).create_infer_request()
    return lambda: request.infer([image])


def of_litert(path, image):
    interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    return interpreter.invoke


def main(argv):
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", nargs="+", default=ROWS, metavar="ROW")
    arguments.add_argument(
        "--size", nargs=2, type=command_line.positive_integer, default=(512, 1024), metavar=("H", "W")
    )
    arguments.add_argument("--turns", type=command_line.positive_integer, default=8)
    arguments.add_argument("--to", metavar="DIR", help="folder of the exported files")
    options = arguments.parse_args(argv)
    import ours

    print("| row | form | s | SavedModel in float32 / this |\n|---|---|---|---|")
    for row in options.rows:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(options.to or scratch, row)
            folder.mkdir(parents=True, exist_ok=True)
            model = ours.build(row, "float32", is_narrow=False)
            model.protocol = kd.Protocol("whole", resize=options.size)
            for name, write in writers(model, options.size).items():
                if not (folder / name).exists():
                    write(folder / name)
            sides = runs(folder, options.size)
            seconds = {form: [] for form in sides}
            for turn in range(options.turns + 1):
                for form, run in sides.items():
                    time.sleep(PAUSE)
                    start = time.perf_counter()
                    run()
                    if turn:
                        seconds[form].append(time.perf_counter() - start)
        first = min(next(iter(seconds.values())))
        for form, taken in seconds.items():
            best = min(taken)
            print(f"| {row} | {form} | {best:.3f} ({statistics.median(taken):.3f}) | {first / best:.2f} |", flush=True)
    print(
        f"\n{machine()}; TensorFlow {tf.__version__}, OpenVINO {openvino.__version__.split('-')[0]}, NumPy {np.__version__}"
    )


if __name__ == "__main__":
    command_line.run(main)
