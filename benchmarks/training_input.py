"""How much of the time that decoding takes anyway is left to training's input:

    python benchmarks/training_input.py [--original PYTHON] [--seconds S] [--turns N]

Draws 2048x1024 PNG pairs and prints, measured in turns in one run, pairs per second of decoding alone
(`tf.io.decode_png` on both files), of `training_data` (crop 512x1024, full augmentation, batches of 4), and of the
original's pipeline with two worker processes, if PYTHON has mmsegmentation. The ratios are of neighbouring turns, so that
other work on the machine, which slows all alike, matters little. Use as many cores as training will leave to the input:

    taskset -c 0,1 python benchmarks/training_input.py
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from support.drawn import picture  # noqa: E402

PAIRS, BATCH = 8, 4
DECODING, OURS, ORIGINAL = "decoding alone", "training_data", "the original"


def draw(folder, height, width):
    """Pictures as hard to decode as photographs (3.7 MB for 2048x1024), labels in blocks of 19 classes and 255."""
    images, labels = folder / "images", folder / "labels"
    images.mkdir()
    labels.mkdir()
    for number in range(PAIRS):
        Image.fromarray(picture(height, width, seed=number)).save(images / f"{number}.png")
        label = np.random.default_rng(number).integers(0, 19, (16, 32), dtype=np.uint8)
        label = label.repeat(-(-height // 16), 0).repeat(-(-width // 32), 1)[:height, :width]
        label[:20] = 255
        Image.fromarray(label).save(labels / f"{number}.png")
    return images, labels


def decoding(images, labels):
    """Endless pairs, decoded and nothing more."""
    import tensorflow as tf

    def decode(image, label):
        read = tf.io.read_file
        return tf.io.decode_png(read(image), channels=3), tf.io.decode_png(read(label), channels=1)

    paths = [[str(path) for path in sorted(folder.iterdir())] for folder in (images, labels)]
    data = tf.data.Dataset.from_tensor_slices(tuple(paths)).repeat().map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    data = iter(data.prefetch(2))
    while True:
        for _ in range(BATCH):
            next(data)
        yield


def ours(images, labels):
    from keras_deeplab.data.pipeline import training_data

    data = training_data(
        images,
        labels,
        resize_base=(2048, 1024),
        resize_ratio=(0.5, 2.0),
        crop=(512, 1024),
        cat_max_ratio=0.75,
        flip=0.5,
        reduce_zero_label=False,
        batch=BATCH,
        seed=0,
    )
    for _ in data:
        yield


def original(python, images, labels):
    """A process that makes `BATCH` pairs whenever it is asked to."""
    command = [python, str(ROOT / "benchmarks" / "original_input.py"), str(images), str(labels), str(BATCH)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        while True:
            process.stdin.write("next\n")
            if process.stdout.readline() != "done\n":
                raise SystemExit(f"{python} ended: it needs mmsegmentation 1.2.2 (see tests/golden/make_networks.py).")
            yield
    finally:
        process.stdin.close()
        process.wait()


def turn(make, seconds):
    """Pairs per second of a source started anew, so that nothing was fetched ahead and nothing else runs."""
    source = make()
    next(source), next(source), next(source)  # compiling, filling
    batches, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        next(source)
        batches += 1
    source.close()
    return BATCH * batches / passed


def rates(python, size, seconds, turns):
    """{what: pairs per second in each turn}, one after another; the original's too if there is a `python` that has it."""
    with tempfile.TemporaryDirectory() as folder:
        folders = draw(Path(folder), *size)
        sources = {DECODING: lambda: decoding(*folders), OURS: lambda: ours(*folders)}
        if python:
            sources[ORIGINAL] = lambda: original(python, *folders)
        found = {name: [] for name in sources}
        for _ in range(turns):
            for name, make in sources.items():
                found[name].append(turn(make, seconds))
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--original", metavar="PYTHON", help="an interpreter that has mmsegmentation")
    arguments.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    arguments.add_argument("--turns", type=int, default=7)
    options = arguments.parse_args()
    found = rates(options.original, (1024, 2048), options.seconds, options.turns)
    found = {name: np.array(values) for name, values in found.items()}
    for name, values in found.items():
        print(f"{name}: median {np.median(values):.1f}, best {values.max():.1f} pairs/s")
    for name in [name for name in found if name != OURS]:
        ratios = found[OURS] / found[name]
        low, high = np.quantile(ratios, [0.25, 0.75])
        best = found[OURS].max() / found[name].max()
        print(f"{OURS} / {name}: median {np.median(ratios):.2f} (quartiles {low:.2f}, {high:.2f}), best {best:.2f}")


if __name__ == "__main__":
    main()
