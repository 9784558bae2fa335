"""Measures how many pairs per second the training input makes, beside decoding alone and beside the original.

    python benchmarks/training_input.py [--original PYTHON] [--seconds S] [--turns N]

Draws 2048x1024 PNG pairs and measures in turns, in one run: decoding alone (`tf.io.decode_png` on both files), `training_data`
(crop 512x1024, full augmentation, batches of 4), and the original's pipeline with two worker processes, if PYTHON is an
interpreter with mmsegmentation. Ratios compare neighbouring turns, because other work on the machine slows all alike. Use as
many cores as training leaves to the input:

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
    """Writes pictures as hard to decode as photographs (3.7 MB for 2048x1024), and labels in blocks of 19 classes and 255.

    Returns:
        The folders of the pictures and of the labels.
    """
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
    """Decodes `BATCH` pairs for each `next`, and does nothing else."""
    import tensorflow as tf

    def decode(image, label):
        image, label = tf.io.read_file(image), tf.io.read_file(label)
        return tf.io.decode_png(image, channels=3), tf.io.decode_png(label, channels=1)

    paths = [[str(path) for path in sorted(folder.iterdir())] for folder in (images, labels)]
    data = tf.data.Dataset.from_tensor_slices(tuple(paths)).repeat().map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    data = iter(data.prefetch(2))
    while True:
        for _ in range(BATCH):
            next(data)
        yield


def ours(images, labels):
    """Makes a batch of `training_data` for each `next`."""
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
    """Makes `BATCH` pairs of the original's pipeline for each `next`, in a process of its own."""
    command = [python, str(ROOT / "benchmarks" / "original_input.py"), str(images), str(labels), str(BATCH)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        while True:
            process.stdin.write("next\n")
            if process.stdout.readline() != "done\n":
                raise SystemExit(f"{python} ended. It needs mmsegmentation 1.2.2 (see tests/golden/make_networks.py).")
            yield
    finally:
        process.stdin.close()
        process.wait()


def turn(make, seconds):
    """Pairs per second of a newly started source: no batch is prefetched, and no other source runs."""
    source = make()
    next(source), next(source), next(source)  # compile, and fill the buffers
    batches, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        next(source)
        batches += 1
    source.close()
    return BATCH * batches / elapsed


def rates(python, size, seconds, turns):
    """Measures the sources one after another in each turn.

    Args:
        python: an interpreter with mmsegmentation, or None to leave the original out.
        size: height, width of the pictures.
        seconds: of each source in each turn.
        turns: number of turns.

    Returns:
        {name of the source: pairs per second in each turn}.
    """
    with tempfile.TemporaryDirectory() as folder:
        folders = draw(Path(folder), *size)
        sources = {DECODING: lambda: decoding(*folders), OURS: lambda: ours(*folders)}
        if python:
            sources[ORIGINAL] = lambda: original(python, *folders)
        pairs_per_second = {name: [] for name in sources}
        for _ in range(turns):
            for name, make in sources.items():
                pairs_per_second[name].append(turn(make, seconds))
    return pairs_per_second


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--original", metavar="PYTHON", help="an interpreter that has mmsegmentation")
    arguments.add_argument("--seconds", type=float, default=4.0, help="of each source in each turn")
    arguments.add_argument("--turns", type=int, default=7)
    options = arguments.parse_args()
    pairs_per_second = rates(options.original, (1024, 2048), options.seconds, options.turns)
    pairs_per_second = {name: np.array(values) for name, values in pairs_per_second.items()}
    for name, values in pairs_per_second.items():
        print(f"{name}: median {np.median(values):.1f}, best {values.max():.1f} pairs/s")
    for name in [name for name in pairs_per_second if name != OURS]:
        ratios = pairs_per_second[OURS] / pairs_per_second[name]
        low, high = np.quantile(ratios, [0.25, 0.75])
        best = pairs_per_second[OURS].max() / pairs_per_second[name].max()
        print(f"{OURS} / {name}: median {np.median(ratios):.2f} (quartiles {low:.2f}, {high:.2f}), best {best:.2f}")


if __name__ == "__main__":
    main()
