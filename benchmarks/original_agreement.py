"""The original's side of agreement.py: names of rows in, the original's results out, for random weights.

    python original_agreement.py SOURCE narrow|full

SOURCE is a module of originals/, which says what it needs. It reads lines "ROW FOLDER" from its standard input.
FOLDER/images holds pictures. For each line it writes to FOLDER the row's file of weights, noise.npy, logits.npy and
scores.json, and the folders found/ (its label maps) and labels/ (its label maps with some blocks replaced by other classes and
by the label that does not count). Then it prints "done" and the name of the file of weights.

`Original(name, folder, full, first)` of such a module builds the network of a row, with random weights under which all classes
occur in the picture `first`, and writes them to the folder. It has the attributes `weights` (that file's name), `num_classes`
and `ignore` (the label that does not count), and the methods `logits(height, width)` of noise and `labels(path)`.
`scores(found, truth, num_classes, ignore)` scores lists of label maps: "mIoU", "mAcc", "aAcc" in percent, "IoU" as a list.
"""

import importlib
import json
import pathlib
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).parents[1] / "tests" / folder) for folder in ("", "golden")]

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from support.drawn import images  # noqa: E402

NOISE = (65, 97)  # height, width in pixels
BLOCKS = 14  # in each label map


def compare(source, name, folder, full):
    """Writes the original's results for a row to `folder`; `full` builds the network at full size."""
    paths = sorted((folder / "images").iterdir())
    original = source.Original(name, folder, full, paths[0])
    np.save(folder / "noise.npy", images(*NOISE))
    np.save(folder / "logits.npy", original.logits(*NOISE))
    found, truth, seconds = [], [], []
    for i, path in enumerate(paths):
        start = time.perf_counter()
        found.append(original.labels(path))
        seconds.append(time.perf_counter() - start)
        truth.append(with_wrong_blocks(found[-1], original, np.random.default_rng(i)))
        for kind, maps in (("found", found), ("labels", truth)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(maps[-1].astype(np.uint8)).save(folder / kind / f"{path.stem}.png")
    scores = source.scores(found, truth, original.num_classes, original.ignore)
    (folder / "scores.json").write_text(json.dumps({**scores, "seconds": seconds}))
    return original.weights


def with_wrong_blocks(labels, original, generator):
    """The label map with some blocks replaced by random classes and by the label that does not count."""
    labels = labels.copy()
    for _ in range(BLOCKS):
        (top, left), (height, width) = (
            generator.integers(0, limit) for limit in (labels.shape, np.array(labels.shape) // 4)
        )
        block = generator.choice([original.ignore, generator.integers(original.num_classes)])
        labels[top : top + height, left : left + width] = block
    return labels


def main(source, kind):
    source = importlib.import_module(f"originals.{source}")
    for line in sys.stdin:
        name, folder = line.rstrip("\n").split(" ", 1)
        print("done", compare(source, name, pathlib.Path(folder), kind == "full"), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
