"""Measures what serving costs beside the network alone, and what bfloat16 and warm-up requests gain.

    python benchmarks/serving.py [--turns N] [--size H W] [--json F]

Exports DeepLabV3+ R-50 with random weights and a box of the pictures' size, in float32 and bfloat16. Measured in turns, in one
run: passes per second of the network alone (pixels in, logits out, norms folded, one graph of fixed size), and requests per
second of the SavedModels (JPEG bytes in, PNG out, one picture a request). Then, each in a new process, the time of the first
request after loading, with and without warm-up requests, and of later requests.
"""

import argparse
import json
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

import numpy as np  # noqa: E402

ROW = "r50_cityscapes"
LATER_REQUESTS = 5  # after the first
TIMED_REQUESTS = """
import json, sys, time
import tensorflow as tf
from keras_deeplab.serving.warmup import warmup_requests
from keras_deeplab.catalog.protocol import Protocol
folder, picture, protocol, later = sys.argv[1:]
signatures = tf.saved_model.load(folder).signatures
if protocol:
    for name, inputs in warmup_requests(Protocol.from_dict(json.loads(protocol)), None, 2**30):
        signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
data, times = tf.constant([open(picture, "rb").read()]), []
for _ in range(1 + int(later)):
    start = time.perf_counter()
    signatures["serving_default"](image_bytes=data)["label_png"].numpy()
    times.append(time.perf_counter() - start)
print(json.dumps(times))
"""


def rates(served, folded, picture, turns):
    """Runs the network alone and the SavedModels one after another in every turn, after one turn that does not count.

    Args:
        served: {precision: signatures of the SavedModel}.
        folded: the network with folded norms.
        picture: bytes of a JPEG file.
        turns: number of turns.

    Returns:
        {what runs: passes or requests per second in each turn}.
    """
    import tensorflow as tf

    pixels = tf.io.decode_jpeg(picture)[None]
    bare = tf.function(folded, input_signature=[tf.TensorSpec(pixels.shape, tf.uint8)])
    runs = {"bare network, float32": lambda: bare(pixels)}
    for precision, signatures in served.items():
        serve = signatures["serving_default"]
        runs[f"served, {precision}"] = lambda serve=serve: serve(image_bytes=tf.constant([picture]))["label_png"]
    per_second = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run().numpy()
            if turn:
                per_second[name].append(1 / (time.perf_counter() - start))
    return per_second


def first_response(folder, picture, protocol):
    """Times requests in a new process, after warm-up requests for `protocol` unless it is None.

    Returns:
        Seconds of the first request, and the median of later ones.
    """
    warm = json.dumps(protocol.to_dict()) if protocol else ""
    command = [sys.executable, "-c", TIMED_REQUESTS, str(folder), str(picture), warm, str(LATER_REQUESTS)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": paths}
    )
    first, *later = json.loads(process.stdout.splitlines()[-1])
    return first, statistics.median(later)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--turns", type=int, default=7)
    arguments.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    arguments.add_argument("--json", metavar="F")
    options = arguments.parse_args()

    import tensorflow as tf

    import keras_deeplab as kd
    from keras_deeplab.serving.verify import as_file, synthetic_picture

    model = kd.DeepLabV3Plus.from_preset(ROW, load_weights=False)
    model.protocol = kd.Protocol("whole", resize=options.size)
    picture = as_file(np.asarray(synthetic_picture(*options.size)), "JPEG")
    report = {"size": list(options.size), "turns": options.turns}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "picture.jpg").write_bytes(picture)
        for precision in ("float32", "bfloat16"):
            kd.export_saved_model(model, scratch / precision, precision=precision)
        served = {
            precision: tf.saved_model.load(scratch / precision).signatures for precision in ("float32", "bfloat16")
        }
        per_second = rates(served, kd.fold_norms(model), picture, options.turns)
        report["per second"] = {name: round(statistics.median(values), 4) for name, values in per_second.items()}
        print(f"{'passes or requests per second':32}{'median':>9}{'best':>9}")
        for name, values in per_second.items():
            print(f"{name:32}{statistics.median(values):9.3f}{max(values):9.3f}")
        names = list(per_second)
        for what, a, b in (("served / bare network", 1, 0), ("bfloat16 / float32, served", 2, 1)):
            ratios = np.array(per_second[names[a]]) / np.array(per_second[names[b]])
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            report[what] = round(float(middle), 3)
            print(f"{what}: {middle:.2f} (quartiles {low:.2f}, {high:.2f})")
        del served
        for warm in (model.protocol, None):
            first, steady = first_response(scratch / "float32", scratch / "picture.jpg", warm)
            what = f"first response {'with' if warm else 'without'} warm-up / steady"
            report[what] = round(first / steady, 3)
            print(f"{what}: {first:.2f} s / {steady:.2f} s = {first / steady:.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
