"""Compares logits, label maps, mIoU and time with the original, for the named rows or for all of a source.

    python benchmarks/agreement.py --original PYTHON [--source SOURCE] [--narrow] [--float64] [ROW ...]

PYTHON is an interpreter that has the original of SOURCE: "openmmlab" (the default), "authors" or "torchvision"; the module of
benchmarks/originals of this name says what it needs. It builds each row's network from the original's own code with random
weights, writes them to a file, and segments synthetic pictures. This process reads the file by `from_preset` and does the
same. --narrow, of OpenMMLab's rows, takes an eighth of the channels: all rows in minutes. Rows with the same network and test
protocol are compared once. --float64 computes our labels in float64 too and prints on how many pixels each side's float32
labels differ from them, which tells rounding from a fault.

Writes docs/agreement.json, which keeps the results of earlier runs for other rows, and the table docs/agreement.md.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from originals import ORIGINALS  # noqa: E402
from PIL import Image  # noqa: E402
from support.drawn import picture  # noqa: E402

SIZES = ((180, 240), (210, 150))  # height, width of the pictures in pixels; the last one is timed
MEANS = ("mIoU", "mAcc", "aAcc")
PAGE = """# Agreement with the originals

`python benchmarks/agreement.py --original PYTHON --source SOURCE` wrote this page. It compares networks and test protocols of
the released models with their originals, in float32 on a CPU:

{originals}

Both sides read the same random weights from a file, and two synthetic pictures of {sizes} pixels. Both run the
row's own test pipeline, from the picture file to the label map. A *row* is one released model. "Narrow" networks have an
eighth of the channels, and all layers, rates, strides, classes and protocols of the row.

- logits: the largest difference on noise of 65x97, in standard deviations of the logits.
- labels: the share of the pixels whose labels are equal.
- mIoU: the original's, in percent. The labels are its own label maps, with some blocks replaced by other classes and by the
  label that does not count.
- differs, class IoU: by how many points our mIoU, and at most our IoU of a class, differ from the original's. If a class has
  500 pixels, one pixel moves its IoU by 0.2 points.
- seconds: the time of the original and of ours for one picture, from file to label map, on the number of threads in the line.
  Compare them only within a line: other programs ran on the machine.

The authors' rows of ADE20K got pictures of sizes that their protocol keeps, since both sides count at different sizes
otherwise ([authors.md](authors.md)); torchvision's scores were resized to the picture's own size.

{summary}

{tables}
"""


def rows_of(names, source):
    """The named rows; without names, one row of each network and test protocol of a source."""
    from keras_deeplab.catalog import rows

    found = [rows.find(name) for name in names] or [row for row in rows.ROWS.values() if row.source == source]
    if wrong := [row.name for row in found if row.source != source]:
        raise SystemExit(f"The rows must be those of {source}. Received: {', '.join(wrong)}. Give their --source.")
    first_rows = {}
    for row in found:
        first_rows.setdefault(row.name if names else repr((row.class_name, row.architecture, row.protocol)), row)
    return list(first_rows.values())


def sizes_of(row):
    """The sizes of the pictures of a row: those that its protocol keeps, if both sides would count at different sizes."""
    if not row.protocol.step:
        return SIZES
    side, _ = row.protocol.resize
    return (3 * (side - 1) // 4 + 1, side), (side, 9 * (side - 1) // 16 + 1)


def run_original(process, row, folder):
    """Lets the original process a row and write its results to `folder`; see original_agreement.py.

    Returns:
        the path of the file of weights.
    """
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{row.name} {folder}\n")
    done, _, weights = process.stdout.readline().strip().partition(" ")
    if done != "done":
        raise SystemExit("The original's process ended. Its module in benchmarks/originals says what it needs.")
    return folder / weights


def compare(process, row, folder, narrow, float64=False):
    """Compares one row; returns its entry of agreement.json."""
    import keras_deeplab as kd

    (folder / "images").mkdir()
    sizes = sizes_of(row)
    for i, size in enumerate(sizes):
        Image.fromarray(picture(*size, seed=i)).save(folder / "images" / f"{i}.png")
    weights = run_original(process, row, folder)
    theirs = json.loads((folder / "scores.json").read_text())
    cls = getattr(kd, row.class_name)
    model = cls.from_preset(row.name, weights=weights)
    logits, expected = np.asarray(model(np.load(folder / "noise.npy"))), np.load(folder / "logits.npy")
    images = [folder / "images" / f"{i}.png" for i in range(len(sizes))]
    found = [np.asarray(Image.open(folder / "found" / image.name)) for image in images]
    labels, seconds = [], []
    for image in images:
        start = time.perf_counter()
        labels.append(kd.segment(model, image))
        seconds.append(time.perf_counter() - start)
    if float64:
        exact = cls.from_preset(row.name, weights=weights, dtype="float64")
        exact = [kd.segment(exact, image) for image in images]
        sides = {"original": found, "ours": labels}
        counts = ", ".join(f"{name} {unequal(maps, exact)}" for name, maps in sides.items())
        print(f"{row.name}: pixels whose label is not that of our float64: {counts}", flush=True)
    no_class = bool(row.protocol.step)  # the authors' rows of ADE20K have an output for pixels of no class
    ours = kd.evaluate(model, folder / "images", folder / "labels", reduce_zero_label=no_class, progress=False)
    if [value is None for value in ours["IoU"]] != [value is None for value in theirs["IoU"]]:
        raise SystemExit(f"{row.name}: the classes that occur are not those of the original.")
    iou_differences = [abs(a - b) for a, b in zip(ours["IoU"], theirs["IoU"], strict=True) if a is not None]
    return {
        "row": row.name,
        "narrow": narrow,
        "logits": float(np.abs(logits - expected).max() / expected.std()),
        "labels": 1 - unequal(labels, found) / sum(array.size for array in found),
        "mIoU": theirs["mIoU"],
        **{f"{name} difference": abs(ours[name] - theirs[name]) for name in MEANS},
        "IoU difference": 100 * max(iou_differences),
        "original seconds": theirs["seconds"][-1],
        "seconds": seconds[-1],
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "date": datetime.date.today().isoformat(),
    }


def unequal(maps, others):
    """The number of pixels whose labels differ."""
    return sum(int((one != other).sum()) for one, other in zip(maps, others, strict=True))


def page(entries):
    """The Markdown page of all entries of agreement.json."""
    from keras_deeplab.catalog import rows

    tables, summary = [], []
    sources = {entry["row"]: rows.find(entry["row"]).source for entry in entries}
    for source, narrow in itertools.product((source for source, _ in ORIGINALS.values()), (False, True)):
        title = f"{source}, {'narrow' if narrow else 'full size'}"
        chosen = [entry for entry in entries if (sources[entry["row"]], entry["narrow"]) == (source, narrow)]
        if not chosen:
            continue
        lines = [
            f"## {title}\n",
            "| row | logits | labels | mIoU | differs | class IoU | threads | seconds, original | ours |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for entry in sorted(chosen, key=lambda entry: entry["row"]):
            cells = (
                entry["row"],
                f"{entry['logits']:.1e}",
                f"{100 * entry['labels']:.4f} %",
                f"{entry['mIoU']:.2f}",
                f"{entry['mIoU difference']:.4f}",
                f"{entry['IoU difference']:.3f}",
                f"{entry['threads']}",
                f"{entry['original seconds']:.2f}",
                f"{entry['seconds']:.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        tables.append("\n".join(lines))
        logits = max(entry["logits"] for entry in chosen)
        equal_labels = 100 * min(entry["labels"] for entry in chosen)
        differences = ", ".join(
            f"{name} within {max(entry[f'{name} difference'] for entry in chosen):.4f} points" for name in MEANS
        )
        summary.append(
            f"{title}, {len(chosen)} rows: logits within {logits:.1e}; at least {equal_labels:.4f} % of the labels equal; "
            f"{differences}."
        )
    originals = "\n".join(f"- the rows of {source}: {original}" for source, original in ORIGINALS.values())
    sizes = " and ".join(f"{height}x{width}" for height, width in SIZES)
    return PAGE.format(sizes=sizes, summary="\n\n".join(summary), tables="\n\n".join(tables), originals=originals)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "rows", metavar="ROW", nargs="*", help="names, full or short; all of the source if none is given"
    )
    arguments.add_argument("--original", metavar="PYTHON", required=True, help="an interpreter that has the original")
    arguments.add_argument("--source", choices=ORIGINALS, default="openmmlab", help="of the rows")
    arguments.add_argument("--narrow", action="store_true", help="an eighth of the channels")
    arguments.add_argument("--float64", action="store_true", help="compare both sides with our float64 too")
    arguments.add_argument("--threads", type=int, default=os.cpu_count(), help="number of threads of each side")
    arguments.add_argument("--to", metavar="DIR", default=ROOT / "docs", type=Path, help="folder of the results")
    options = arguments.parse_args()
    if not shutil.which(options.original):
        arguments.error(f"--original must be an interpreter that has the original. Received: {options.original}.")
    rows = rows_of(options.rows, ORIGINALS[options.source][0])
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(options.threads)  # PyTorch and TensorFlow read it when they start
    state = options.to / "agreement.json"
    earlier = json.loads(state.read_text()) if state.exists() else []
    entries = {(entry["row"], entry["narrow"]): entry for entry in earlier}
    command = [
        options.original,
        str(ROOT / "benchmarks" / "original_agreement.py"),
        options.source,
        "narrow" if options.narrow else "full",
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        for row in rows:
            with tempfile.TemporaryDirectory() as folder:
                entry = entries[row.name, options.narrow] = compare(
                    process, row, Path(folder), options.narrow, options.float64
                )
            print(
                f"{row.name}: logits {entry['logits']:.1e}, labels {100 * entry['labels']:.4f} %, mIoU "
                f"{entry['mIoU']:.2f} differs by {entry['mIoU difference']:.4f}, {entry['original seconds']:.1f} s, "
                f"ours {entry['seconds']:.1f} s",
                flush=True,
            )
            state.write_text(json.dumps(list(entries.values()), indent=1) + "\n")
            (options.to / "agreement.md").write_text(page(list(entries.values())))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
