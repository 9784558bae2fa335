"""Times `segment` of the authors' models beside their own frozen graphs in several runtimes, in turns in one run.

    PYTHONPATH=research:research/slim python benchmarks/authors.py [--size H W] [--turns N] [--graphs DIR] [NAME...]

NAME is one of ROWS below; all if none is given. It needs what tests/golden/make_authors.py needs, and tf2onnx, onnxruntime and
openvino. Their code builds each graph at full width with drawn weights, and TensorFlow freezes it as their export does: a
picture uint8 of the size in, its label map out. Our model is loaded from that frozen graph. The other sides are the graph in
TensorFlow, its ONNX in ONNX Runtime and in OpenVINO, and our LiteRT file, each with as many threads as there are cores. The
table says the best time of all turns of each side, the median in brackets; the least processor time, which other programs on
the machine disturb less; and on how many pixels the label maps are equal.

"ours" keeps the folded network, as `segment_folder` and a list of pictures do. "ours, one picture a call" is a call of
`segment` for one picture, which looks whether the weights have changed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ROWS = {  # {name: (row, class, backbone, other arguments)}
    "mobilenetv2_dm05": ("mobilenetv2_dm05_coco_voc_trainaug", "DeepLabV3", "mobilenetv2_tf", {"base_channels": 16}),
    "mobilenetv2": ("mobilenetv2_coco_voc_trainaug", "DeepLabV3", "mobilenetv2_tf", {}),
    "xception65": ("xception65_coco_voc_trainaug", "DeepLabV3Plus", "xception65", {}),
}
CROP, CLASSES = (513, 513), 21
OPSET = 18


def write_graph(name, path, size=CROP, weights=None):
    """Writes the authors' frozen graph of a row. In a process of its own: their code turns TensorFlow 2 off.

    Args:
        name: a key of `ROWS`.
        path: file to write.
        size: height and width of the graph's pictures.
        weights: a checkpoint with all variables. None, the default: they are drawn.
    """
    sys.argv = ["make_authors.py", "--full"]
    sys.path.insert(0, str(ROOT / "tests" / "golden"))
    import make_authors as authors
    from deeplab import common, input_preprocess, model

    tf = authors.tf
    authors.FULL[name], authors.CLASSES = ROWS[name][1:], CLASSES
    value = tf.train.load_checkpoint(weights).get_tensor if weights else None
    common.FLAGS(["authors"])
    with tf.Graph().as_default() as graph, tf.Session() as session:
        image = tf.placeholder(tf.uint8, [1, *size, 3], "ImageTensor")
        options = authors.options_of(name, 16, size)
        _, padded, _ = input_preprocess.preprocess_image_and_label(
            image[0], None, *size, is_training=False, model_variant=common.FLAGS.model_variant
        )
        labels = model.predict_labels(padded[None], options)[common.OUTPUT_TYPE]
        tf.identity(labels, "SemanticPredictions")
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            drawn = authors.weights(variable.op.name, variable.shape.as_list())
            variable.load(value(variable.op.name) if weights else drawn, session)
        frozen = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["SemanticPredictions"])
    Path(path).write_bytes(frozen.SerializeToString())


def their_graph(path):
    """A function of a picture (1, H, W, 3) that runs a frozen graph in a session."""
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
    session = tf.compat.v1.Session(graph=graph)
    run = session.make_callable("SemanticPredictions:0", feed_list=["ImageTensor:0"])
    return lambda image: run(image)[0]


def onnx_of(path):
    """The ONNX of a frozen graph, bytes."""
    import tensorflow as tf
    import tf2onnx

    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    names = dict(input_names=["ImageTensor:0"], output_names=["SemanticPredictions:0"])
    return tf2onnx.convert.from_graph_def(definition, opset=OPSET, **names)[0].SerializeToString()


def in_onnx_runtime(onnx):
    """A function of a picture (1, H, W, 3) that runs an ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Its threads would wait on the other sides' time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(onnx, options)
    return lambda image: session.run(None, {"ImageTensor:0": image})[0][0]


def in_openvino(onnx, folder):
    """The same in OpenVINO, in float32."""
    import openvino

    path = Path(folder, "graph.onnx")
    path.write_bytes(onnx)
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(path), "CPU", options)
    return lambda image: compiled(image)[0][0]


def in_litert(model, size, folder):
    """The same in LiteRT, of the file that we export."""
    import tensorflow as tf

    import keras_deeplab as kd

    path = Path(folder, "model.tflite")
    kd.export_litert(model, path, size=size, precision="float32")
    interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    pictures, labels = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(image):
        interpreter.set_tensor(pictures, image)
        interpreter.invoke()
        return interpreter.get_tensor(labels)[0]

    return run


def our_model(row, path, size):
    """Our model of a frozen graph, which pads pictures to the same size."""
    import keras_deeplab as kd

    model = kd.from_preset(row, weights=path)
    model.protocol = replace(model.protocol, pad=size)
    return model


def ours(model):
    """The two functions of our side."""
    import keras_deeplab as kd
    from keras_deeplab.inference.segment import network_of, segment_with_network

    network = network_of(model)
    return {
        "ours": lambda image: segment_with_network(network, model.protocol, image[0]),
        "ours, one picture a call": lambda image: kd.segment(model, image[0]),
    }


def measure(name, size, turns, folder, scratch):
    """Rows of the table for one network."""
    import numpy as np
    from support.drawn import picture

    path = Path(folder, f"{name}_{size[0]}x{size[1]}.pb")
    if not path.exists():
        sides = map(str, size)
        subprocess.run([sys.executable, __file__, "--write", name, path, "--size", *sides], check=True)
    model, onnx = our_model(ROWS[name][0], path, size), onnx_of(path)
    sides = {
        **ours(model),
        "their frozen graph": their_graph(path),
        "its ONNX in ONNX Runtime": in_onnx_runtime(onnx),
        "its ONNX in OpenVINO": in_openvino(onnx, scratch),
        "our LiteRT file": in_litert(model, size, scratch),
    }
    image = picture(*size, seed=0)[None]
    labels = {side: np.asarray(run(image)) for side, run in sides.items()}
    times, processor = {side: [] for side in sides}, {side: [] for side in sides}
    for _ in range(turns):
        for side, run in sides.items():
            start, start_processor = time.perf_counter(), time.process_time()
            run(image)
            times[side].append(time.perf_counter() - start)
            processor[side].append(time.process_time() - start_processor)
    for side in sides:
        best = min(times[side])
        same = np.mean(labels[side] == labels["their frozen graph"])
        yield (
            f"{name} {size[0]}x{size[1]}",
            side,
            f"{best:.3f} ({statistics.median(times[side]):.3f})",
            f"{best / min(times['ours']):.2f}",
            f"{min(processor[side]):.3f}",
            f"{min(processor[side]) / min(processor['ours']):.2f}",
            f"{same:.3%}",
        )


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("names", metavar="NAME", nargs="*", default=list(ROWS))
    arguments.add_argument("--turns", type=int, default=8)
    arguments.add_argument(
        "--graphs", metavar="DIR", help="keep the frozen graphs in this folder, and use those that it has"
    )
    arguments.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=CROP, help="of the picture")
    arguments.add_argument("--write", nargs=2, metavar=("NAME", "FILE"), help="only write a frozen graph")
    arguments.add_argument(
        "--weights", metavar="CHECKPOINT", help="with --write: its variables, in place of drawn ones"
    )
    options = arguments.parse_args()
    if unknown := [name for name in options.names if name not in ROWS]:
        arguments.error(f"NAME must be one of {', '.join(ROWS)}. Received: {', '.join(unknown)}.")
    size = tuple(options.size)
    if options.write:
        return write_graph(*options.write, size, options.weights)
    from keras_deeplab.commands import command_line

    head = "line", "side", "s", "its time / ours", "processor s", "its / ours", "labels equal to their graph's"
    rows = [head]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names:
            rows += measure(name, size, options.turns, options.graphs or folder, folder)
    command_line.print_table(rows)


if __name__ == "__main__":
    main()
