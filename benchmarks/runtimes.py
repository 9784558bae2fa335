"""Other runtimes' side of compare.py: an exported file in, a function that runs it once out. A worker process (worker.py).

It needs openvino, onnxruntime, numpy and Pillow. The file is an OpenVINO model (.xml), or ONNX, which both runtimes read.
"""

import io
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import openvino  # noqa: E402
from PIL import Image  # noqa: E402
from worker import serve  # noqa: E402

HINTS = {"float32": "f32", "bfloat16": "bf16"}


def by_openvino(file, precision):
    """A function of an array that runs the model in the precision."""
    options = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(file, "CPU", options)
    request = compiled.create_infer_request()
    return lambda x: request.infer([x])[0]


def by_onnxruntime(file, precision):
    """The same. ONNX Runtime computes in the file's precision, which is float32."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


RUNTIMES = {"OpenVINO": by_openvino, "ONNX Runtime": by_onnxruntime}


def forward(file, runtime, precision, key=None):
    """The input that was saved beside the file in, logits (N, H, W, classes) out; the original's are (N, classes, H, W)."""
    run, x = RUNTIMES[runtime](file, precision), np.load(Path(file).with_suffix(".npy"))
    channels_first = x.shape[1] == 3
    return lambda: run(x).transpose(0, 2, 3, 1) if channels_first else run(x), {}


def serving(file, runtime, precision, picture, key=None):
    """Bytes of a picture file in, a PNG label map out, by a file that takes a picture uint8 (1, H, W, 3)."""
    run, data = RUNTIMES[runtime](file, precision), Path(picture).read_bytes()

    def once():
        labels = run(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[None])[0]
        Image.fromarray(labels).save(io.BytesIO(), "png")
        return labels

    return once, {}


MAKERS = dict(forward=forward, serving=serving)


def about():
    """{software: version}."""
    return {"openvino": openvino.__version__.split("-")[0], "onnxruntime": onnxruntime.__version__}


if __name__ == "__main__":
    serve(MAKERS, about)
