"""Times `segment` of the authors' models beside their own frozen graphs, and beside the ONNX of these, in turns in one run.

    PYTHONPATH=research:research/slim python benchmarks/authors.py [--turns N] [--graphs DIR] [NAME...]

NAME is one of ROWS below; all if none is given. It needs what tests/golden/make_authors.py needs, and tf2onnx and onnxruntime.
Their code builds each graph at full width with drawn weights, and TensorFlow freezes it as their export does: a picture
uint8 of the crop's size in, its label map out. Our model is loaded from that frozen graph. The table says the best time of
all turns of each side, the median in brackets; the least processor time, which other programs on the machine disturb less;
and on how many pixels the label maps are equal.

"ours" keeps the folded network, as `segment_folder` and a list of pictures do. "ours, anew" is a call of `segment` for one
picture, which folds the norms again, because the weights may have changed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ROWS = {  # {name: (row, class, backbone)}
    "mobilenetv2": ("mobilenetv2_coco_voc_trainaug", "DeepLabV3", "mobilenetv2_tf"),
    "xception65": ("xception65_coco_voc_trainaug", "DeepLabV3Plus", "xception65"),
}
CROP, CLASSES = (513, 513), 21
OPSET = 18


def write_graph(name, path):
    """Writes the authors' frozen graph of a row. In a process of its own: their code turns TensorFlow 2 off."""
    sys.argv = ["make_authors.py", "--full"]
    sys.path.insert(0, str(ROOT / "tests" / "golden"))
    import make_authors as authors
    from deeplab import common, input_preprocess, model

    tf = authors.tf
    _, class_name, backbone = ROWS[name]
    authors.FULL[name], authors.CLASSES = (class_name, backbone, {}), CLASSES
    common.FLAGS(["authors"])
    with tf.Graph().as_default() as graph, tf.Session() as session:
        image = tf.placeholder(tf.uint8, [1, *CROP, 3], "ImageTensor")
        options = authors.options_of(name, 16, CROP)
        _, padded, _ = input_preprocess.preprocess_image_and_label(
            image[0], None, *CROP, is_training=False, model_variant=common.FLAGS.model_variant
        )
        labels = model.predict_labels(padded[None], options)[common.OUTPUT_TYPE]
        tf.identity(labels, "SemanticPredictions")
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            variable.load(authors.weights(variable.op.name, variable.shape.as_list()), session)
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


def their_onnx(path):
    """The same by ONNX Runtime, converted by tf2onnx."""
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    names = dict(input_names=["ImageTensor:0"], output_names=["SemanticPredictions:0"])
    converted, _ = tf2onnx.convert.from_graph_def(definition, opset=OPSET, **names)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # its threads would wait on our side's time
    session = onnxruntime.InferenceSession(converted.SerializeToString(), options)
    return lambda image: session.run(None, {"ImageTensor:0": image})[0][0]


def ours(row, path):
    """The two functions of our side."""
    import keras_deeplab as kd
    from keras_deeplab.inference.segment import network_of, segment_with_network

    model = kd.from_preset(row, weights=path)
    network = network_of(model)
    return {
        "ours": lambda image: segment_with_network(network, model.protocol, image[0]),
        "ours, anew": lambda image: kd.segment(model, image[0]),
    }


def measure(name, turns, folder):
    """Rows of the table for one network."""
    import numpy as np
    from support.drawn import picture

    path = Path(folder, f"{name}.pb")
    if not path.exists():
        subprocess.run([sys.executable, __file__, "--write", name, path], check=True)
    sides = {"their frozen graph": their_graph(path), "its ONNX": their_onnx(path)}
    sides = {**ours(ROWS[name][0], path), **sides}
    image = picture(*CROP, seed=0)[None]
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
            f"{name} {CROP[0]}x{CROP[1]}",
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
    arguments.add_argument("--write", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.write:
        return write_graph(*options.write)
    from keras_deeplab.commands import command_line

    head = "line", "side", "s", "its time / ours", "processor s", "its / ours", "labels equal to their graph's"
    rows = [head]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names:
            rows += measure(name, options.turns, options.graphs or folder)
    command_line.print_table(rows)


if __name__ == "__main__":
    main()
