"""The original's side of agreement.py: names of rows in, mmsegmentation's results out, for random weights.

    python original_agreement.py narrow|full

reads lines "ROW FOLDER" from its standard input. FOLDER/images holds pictures. For each line it writes to FOLDER the files
row.pth, noise.npy, logits.npy and scores.json, and the folders found/ (its label maps) and labels/ (its label maps with some
blocks replaced by other classes and by 255). Then it prints "done". It needs the packages of tests/golden/make_networks.py.
"""

import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "golden"))

import make_networks as original  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmseg.evaluation.metrics import IoUMetric  # noqa: E402
from PIL import Image  # noqa: E402

NOISE = (65, 97)  # height, width in pixels
BLOCKS = 14  # in each label map


def compare(name, folder, full):
    """Writes the original's results for a row to `folder`; `full` builds the network at full size."""
    cfg, model = original.build(original.configs()[name], full)
    paths = sorted((folder / "images").iterdir())
    original.spread(model, paths[0], cfg)
    torch.save({"meta": {}, "state_dict": model.state_dict()}, folder / "row.pth")
    np.save(folder / "noise.npy", original.images(*NOISE))
    np.save(folder / "logits.npy", next(original.logits(model, *NOISE))[1])
    pipe, areas, seconds = next(original.pipelines(cfg, None)), [], []
    for i, path in enumerate(paths):
        start = time.perf_counter()
        labels = original.run(model, pipe, path)[2].argmax(0).numpy()
        seconds.append(time.perf_counter() - start)
        truth = with_wrong_blocks(labels, model.num_classes, np.random.default_rng(i))
        for kind, array in (("found", labels), ("labels", truth)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(folder / kind / f"{path.stem}.png")
        maps = (torch.from_numpy(array.astype(np.int64)) for array in (labels, truth))
        areas.append(IoUMetric.intersect_and_union(*maps, model.num_classes, 255))
    scores = IoUMetric.total_area_to_metrics(*(sum(column) for column in zip(*areas, strict=True)), ["mIoU"])
    means = {f"m{key}": 100 * float(np.nanmean(scores[key])) for key in ("IoU", "Acc")}
    iou = [None if np.isnan(value) else float(value) for value in scores["IoU"]]
    scores = {**means, "aAcc": 100 * float(scores["aAcc"]), "IoU": iou, "seconds": seconds}
    (folder / "scores.json").write_text(json.dumps(scores))


def with_wrong_blocks(labels, classes, generator):
    """The label map with some blocks replaced by random classes and by 255."""
    labels = labels.copy()
    for _ in range(BLOCKS):
        (top, left), (height, width) = (
            generator.integers(0, limit) for limit in (labels.shape, np.array(labels.shape) // 4)
        )
        labels[top : top + height, left : left + width] = generator.choice([255, generator.integers(classes)])
    return labels


def main(kind):
    original.init_default_scope("mmseg")
    for line in sys.stdin:
        name, folder = line.rstrip("\n").split(" ", 1)
        compare(name, pathlib.Path(folder), kind == "full")
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
