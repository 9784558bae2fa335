"""Measures what a folder of pictures costs beside the network alone: reading, decoding, label maps and PNG files included.

    python benchmarks/folder.py [--original PYTHON] [--turns N] [--pictures N] [--row ROW] [--size H W] [--json F]

Compares pictures per second of `segment_folder` (JPEG files in, palette PNG files out) with passes per second of the bare
network (pixels in, logits out, norms folded, one graph of fixed size), and with the original's inferencer on the same folder
(JPEG files in, one picture at a time, PNG files out, no overlays). PYTHON is an interpreter with mmsegmentation, see
tests/golden/make_networks.py; without it only our side is measured. All run in turns, after a turn that does not count. Both
sides have the same drawn weights, and a box of the pictures' size. Seconds of processor time for a picture are printed too:
they say what a folder costs on a machine where other programs run as well.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from compare import PAUSE, differs  # noqa: E402
from worker import Worker, sampled  # noqa: E402

BARE, FOLDER, ORIGINAL = "bare network", "folder", "original's folder"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--original", metavar="PYTHON")
    arguments.add_argument("--turns", type=int, default=7)
    arguments.add_argument("--pictures", type=int, default=24, metavar="N", help="in each turn")
    arguments.add_argument("--row", default="deeplabv3plus_r18-d8_512x1024_80k_cityscapes")
    arguments.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    arguments.add_argument("--json", metavar="F")
    options = arguments.parse_args()

    import ours
    import tensorflow as tf
    from PIL import Image

    import keras_deeplab as kd
    from keras_deeplab.serving.verify import as_file, synthetic_picture

    model = ours.build(options.row, "float32", is_narrow=False)
    model.protocol = kd.Protocol("whole", resize=options.size)
    picture = as_file(np.asarray(synthetic_picture(*options.size)), "JPEG")
    pixels = tf.io.decode_jpeg(picture)[None]
    bare = tf.function(kd.fold_norms(model), input_signature=[tf.TensorSpec(pixels.shape, tf.uint8)])
    per_second, processor, said = {BARE: [], FOLDER: []}, {BARE: [], FOLDER: []}, None
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as closing:
        images, labels = Path(scratch, "images"), Path(scratch, "labels")
        images.mkdir()
        for i in range(options.pictures):
            (images / f"{i}.jpg").write_bytes(picture)

        def passes():
            for _ in range(options.pictures):
                bare(pixels).numpy()

        def folder():
            made, _, failed = kd.segment_folder(model, images, labels, overwrite=True, progress=False)
            assert made == options.pictures and not failed

        runs = {BARE: measured(passes), FOLDER: measured(folder)}
        if options.original:
            worker = closing.enter_context(contextlib.closing(Worker(options.original, "original.py")))
            job = dict(row=options.row, precision="float32", pictures=str(images), to=str(Path(scratch, "theirs")))
            theirs = worker.ask(make="folder", key="folder", box=sorted(options.size, reverse=True), **job)["result"]
            runs[ORIGINAL], per_second[ORIGINAL], processor[ORIGINAL] = lambda: worker.ask(run="folder"), [], []
        for turn in range(options.turns + 1):
            for name, run in runs.items():
                time.sleep(PAUSE)
                answer = run()
                if turn:
                    processor[name].append(answer["processor"] / options.pictures)
                    per_second[name].append(options.pictures / answer["seconds"])
        if options.original:
            with Image.open(labels / "0.png") as image:
                said = differs(sampled(np.asarray(image)), theirs, exact=True)
    print(f"{'pictures per second':24}{'median':>9}{'best':>9}{'processor, s a picture':>25}")
    for name, values in per_second.items():
        used = statistics.median(processor[name])
        print(f"{name:24}{statistics.median(values):9.3f}{max(values):9.3f}{used:25.3f}")
    report = {"row": options.row, "size": list(options.size), "pictures": options.pictures, **per_second}
    for other in [name for name in per_second if name != FOLDER]:
        report[f"folder / {other}"] = compared(per_second[FOLDER], per_second[other], other)
        work = statistics.median(np.array(processor[other]) / np.array(processor[FOLDER]))
        print(f"processor time of the {other} / of the folder: {work:.2f}")
    if said:
        print(said)
    if options.json:
        Path(options.json).write_text(json.dumps({**report, "processor": processor}, indent=1) + "\n")


def measured(function):
    """The function, whose result becomes its seconds, as a worker's answer has them."""

    def run():
        start, used = time.perf_counter(), time.process_time()
        function()
        return {"seconds": time.perf_counter() - start, "processor": time.process_time() - used}

    return run


def compared(folder, other, name):
    """Prints the ratio of two rates, turn by turn; returns its median."""
    low, middle, high = np.quantile(np.array(folder) / np.array(other), [0.25, 0.5, 0.75])
    best = max(folder) / max(other)
    print(f"folder / {name}: {middle:.2f} (quartiles {low:.2f}, {high:.2f}), of the best turns {best:.2f}")
    return round(float(middle), 3)


if __name__ == "__main__":
    main()
