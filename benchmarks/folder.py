"""Measures what a folder of pictures costs beside the network alone: reading, decoding, label maps and PNG files included.

    python benchmarks/folder.py [--turns N] [--pictures N] [--row ROW] [--size H W] [--json F]

Compares pictures per second of `segment_folder` (JPEG files in, palette PNG files out) with passes per second of the bare
network (pixels in, logits out, norms folded, one graph of fixed size). Both run in turns, in one process, after a turn that
does not count. The model has random weights and a box of the pictures' size. Seconds of processor time for a picture are
printed too: they say what a folder costs on a machine where other programs run as well.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--turns", type=int, default=7)
    arguments.add_argument("--pictures", type=int, default=24, metavar="N", help="in each turn")
    arguments.add_argument("--row", default="deeplabv3plus_r18_cityscapes")
    arguments.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    arguments.add_argument("--json", metavar="F")
    options = arguments.parse_args()

    import tensorflow as tf

    import keras_deeplab as kd
    from keras_deeplab.serving.verify import as_jpeg, synthetic_picture

    model = kd.from_preset(options.row, load_weights=False)
    model.protocol = kd.Protocol("whole", resize=options.size)
    picture = as_jpeg(np.asarray(synthetic_picture(*options.size)))
    pixels = tf.io.decode_jpeg(picture)[None]
    bare = tf.function(kd.fold_norms(model), input_signature=[tf.TensorSpec(pixels.shape, tf.uint8)])
    per_second, processor = {"bare network": [], "folder": []}, {"bare network": [], "folder": []}
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch, "images")
        images.mkdir()
        for i in range(options.pictures):
            (images / f"{i}.jpg").write_bytes(picture)

        def passes():
            for _ in range(options.pictures):
                bare(pixels).numpy()

        def folder():
            made, _, failed = kd.segment_folder(model, images, Path(scratch, "labels"), overwrite=True, progress=False)
            assert made == options.pictures and not failed

        for turn in range(options.turns + 1):
            for name, run in zip(per_second, (passes, folder), strict=True):
                start, used = time.perf_counter(), time.process_time()
                run()
                if turn:
                    processor[name].append((time.process_time() - used) / options.pictures)
                    per_second[name].append(options.pictures / (time.perf_counter() - start))
    ratios = np.array(per_second["folder"]) / np.array(per_second["bare network"])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"{'pictures per second':24}{'median':>9}{'best':>9}{'processor, s a picture':>25}")
    for name, values in per_second.items():
        used = statistics.median(processor[name])
        print(f"{name:24}{statistics.median(values):9.3f}{max(values):9.3f}{used:25.3f}")
    best = max(per_second["folder"]) / max(per_second["bare network"])
    print(f"folder / bare network: {middle:.2f} (quartiles {low:.2f}, {high:.2f}), of the best turns {best:.2f}")
    if options.json:
        report = {"row": options.row, "size": list(options.size), "pictures": options.pictures, **per_second}
        report["folder / bare network"] = round(float(middle), 3)
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
