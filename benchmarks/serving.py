"""What serving costs beside the network itself, and what bfloat16 and warm-up requests gain:

    python benchmarks/serving.py [--turns N] [--size H W] [--json F]

Exports DeepLabV3+ R-50 with random weights and a box of the pictures' size, in float32 and bfloat16, and prints, measured in
turns in one run: passes per second of the bare network (pixels in, logits out, folded, one graph of known size), and requests
per second of the SavedModels (JPEG bytes in, PNG out, one picture a request). Then, each in a fresh process, how long the
first request takes after loading, with and without the warm-up requests, and those after it.
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
STEADY = 5  # requests after the first
FIRST = """
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
    """{what: [passes per second]}, one after another in every turn, after one pass that does not count."""
    import tensorflow as tf

    pixels = tf.io.decode_jpeg(picture)[None]
    bare = tf.function(folded, input_signature=[tf.TensorSpec(pixels.shape, tf.uint8)])
    runs = {"bare network, float32": lambda: bare(pixels)}
    for precision, signatures in served.items():
        serve = signatures["serving_default"]
        runs[f"served, {precision}"] = lambda serve=serve: serve(image_bytes=tf.constant([picture]))["label_png"]
    found = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run().numpy()
            if turn:
                found[name].append(1 / (time.perf_counter() - start))
    return found


def first_response(folder, picture, protocol):
    """Seconds of the first request and of the later ones, in a fresh process; warmed up for a protocol unless None."""
    warm = json.dumps(protocol.to_dict()) if protocol else ""
    command = [sys.executable, "-c", FIRST, str(folder), str(picture), warm, str(STEADY)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": paths}
    )
    first, *later = json.loads(done.stdout.splitlines()[-1])
    return first, statistics.median(later)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--turns", type=int, default=7)
    arguments.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    arguments.add_argument("--json", metavar="F")
    options = arguments.parse_args()

    import tensorflow as tf

    import keras_deeplab as kd
    from keras_deeplab.serving.verify import as_jpeg, drawn

    model = kd.DeepLabV3Plus.from_preset(ROW, load_weights=False)
    model.protocol = kd.Protocol("whole", resize=options.size)
    picture = as_jpeg(np.asarray(drawn(*options.size)))
    report = {"size": list(options.size), "turns": options.turns}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "picture.jpg").write_bytes(picture)
        for precision in ("float32", "bfloat16"):
            kd.export_saved_model(model, scratch / precision, precision=precision)
        served = {
            precision: tf.saved_model.load(scratch / precision).signatures for precision in ("float32", "bfloat16")
        }
        found = rates(served, kd.fold_norms(model), picture, options.turns)
        report["per second"] = {name: round(statistics.median(values), 4) for name, values in found.items()}
        print(f"{'passes or requests per second':32}{'median':>9}{'best':>9}")
        for name, values in found.items():
            print(f"{name:32}{statistics.median(values):9.3f}{max(values):9.3f}")
        names = list(found)
        for what, a, b in (("served / bare network", 1, 0), ("bfloat16 / float32, served", 2, 1)):
            ratios = np.array(found[names[a]]) / np.array(found[names[b]])
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
