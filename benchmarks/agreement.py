"""Every row, or those named, beside the original: logits, label maps, mIoU and time.

    python benchmarks/agreement.py --original PYTHON [--narrow] [ROW ...]

PYTHON has mmsegmentation 1.2.2 (see tests/golden/make_networks.py). It builds each row's network from the original's own
configuration with weights drawn at random, writes them to a file, and segments drawn pictures; this process reads the file
by `from_preset` and does the same. --narrow takes an eighth of the width, for all rows in minutes. Rows that share network
and test protocol are compared once. Writes docs/agreement.json, which keeps what earlier runs found of other rows, and the
table docs/agreement.md.
"""

import argparse
import contextlib
import datetime
import json
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

SIZES = ((180, 240), (210, 150))  # height, width of the pictures; the last one is timed
MEANS = ("mIoU", "mAcc", "aAcc")
PAGE = """# Agreement with the original

Made by `python benchmarks/agreement.py --original PYTHON`, which compares every network and test protocol of the zoo with
mmsegmentation 1.2.2 in float32 on a CPU: weights drawn at random in a file that both read, two drawn pictures, the row's
own test pipeline from the picture file to its label map. "Narrow" networks have an eighth of the width, and all layers, rates,
strides, classes and protocols of the row.

- logits: largest difference on noise of 65x97, in standard deviations of the logits.
- labels: share of the {pixels} pixels whose labels are equal.
- mIoU: the original's, on labels that are its own label maps with blocks of other classes and of 255; then by how many points
  ours differs from it, and a class's IoU at most. One pixel of a class of 500 moves its IoU by 0.2 points.
- seconds: of the original and of ours for one picture, file to label map, on as many threads as the line says. Read them
  within a line only: other programs ran on the machine.

{summary}

{tables}
"""


def rows_of(names):
    """The rows named; without names, one of each network and protocol."""
    from keras_deeplab.catalog import rows

    if names:
        return [rows.find(name) for name in names]
    distinct = {}
    for row in rows.ROWS.values():
        distinct.setdefault(repr((row.class_name, row.architecture, row.protocol)), row)
    return list(distinct.values())


def ask(process, row, folder):
    """Has the original compare a row."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{row.name} {folder}\n")
    if process.stdout.readline() != "done\n":
        raise SystemExit("The original ended: its interpreter needs what tests/golden/make_networks.py needs.")


def compare(process, row, folder, narrow):
    """The figures of one row."""
    import keras_deeplab as kd

    (folder / "images").mkdir()
    for i, size in enumerate(SIZES):
        Image.fromarray(picture(*size, seed=i)).save(folder / "images" / f"{i}.png")
    ask(process, row, folder)
    theirs = json.loads((folder / "scores.json").read_text())
    model = getattr(kd, row.class_name).from_preset(row.name, weights=folder / "row.pth")
    logits, expected = np.asarray(model(np.load(folder / "noise.npy"))), np.load(folder / "logits.npy")
    seconds, equal, pixels = [], 0, 0
    for i in range(len(SIZES)):
        start = time.perf_counter()
        labels = kd.segment(model, folder / "images" / f"{i}.png")
        seconds.append(time.perf_counter() - start)
        equal += int((labels == np.asarray(Image.open(folder / "found" / f"{i}.png"))).sum())
        pixels += labels.size
    ours = kd.evaluate(model, folder / "images", folder / "labels", progress=False)
    if [value is None for value in ours["IoU"]] != [value is None for value in theirs["IoU"]]:
        raise SystemExit(f"{row.name}: other classes occur than in the original.")
    classes = [abs(a - b) for a, b in zip(ours["IoU"], theirs["IoU"], strict=True) if a is not None]
    return {
        "row": row.name,
        "narrow": narrow,
        "logits": float(np.abs(logits - expected).max() / expected.std()),
        "labels": equal / pixels,
        "mIoU": theirs["mIoU"],
        **{f"{name} difference": abs(ours[name] - theirs[name]) for name in MEANS},
        "IoU difference": 100 * max(classes),
        "original seconds": theirs["seconds"][-1],
        "seconds": seconds[-1],
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "date": datetime.date.today().isoformat(),
    }


def page(found):
    """The Markdown page of all figures."""
    tables, summary = [], []
    for narrow, title in ((False, "Full size"), (True, "Narrow")):
        chosen = [figures for figures in found if figures["narrow"] == narrow]
        if not chosen:
            continue
        lines = [
            f"## {title}\n",
            "| row | logits | labels | mIoU | differs | class IoU | threads | seconds, original | ours |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for f in sorted(chosen, key=lambda figures: figures["row"]):
            cells = (
                f["row"],
                f"{f['logits']:.1e}",
                f"{100 * f['labels']:.4f} %",
                f"{f['mIoU']:.2f}",
                f"{f['mIoU difference']:.4f}",
                f"{f['IoU difference']:.3f}",
                f"{f['threads']}",
                f"{f['original seconds']:.2f}",
                f"{f['seconds']:.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        tables.append("\n".join(lines))
        logits, least = max(f["logits"] for f in chosen), 100 * min(f["labels"] for f in chosen)
        differences = ", ".join(
            f"{name} within {max(f[f'{name} difference'] for f in chosen):.4f} points" for name in MEANS
        )
        summary.append(
            f"{title}, {len(chosen)} rows: logits within {logits:.1e}; at least {least:.4f} % of the labels equal; "
            f"{differences}."
        )
    return PAGE.format(
        pixels=sum(height * width for height, width in SIZES), summary="\n\n".join(summary), tables="\n\n".join(tables)
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("rows", metavar="ROW", nargs="*", help="names, full or short; all unless given")
    arguments.add_argument("--original", metavar="PYTHON", required=True, help="an interpreter that has mmsegmentation")
    arguments.add_argument("--narrow", action="store_true", help="an eighth of the width")
    arguments.add_argument("--threads", type=int, default=os.cpu_count(), help="of either side")
    arguments.add_argument("--to", metavar="DIR", default=ROOT / "docs", type=Path, help="for agreement.json and .md")
    options = arguments.parse_args()
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(options.threads)  # read by PyTorch and by TensorFlow when they start
    state = options.to / "agreement.json"
    found = {(f["row"], f["narrow"]): f for f in (json.loads(state.read_text()) if state.exists() else [])}
    command = [
        options.original,
        str(ROOT / "benchmarks" / "original_agreement.py"),
        "narrow" if options.narrow else "full",
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        for row in rows_of(options.rows):
            with tempfile.TemporaryDirectory() as folder:
                figures = found[row.name, options.narrow] = compare(process, row, Path(folder), options.narrow)
            print(
                f"{row.name}: logits {figures['logits']:.1e}, labels {100 * figures['labels']:.4f} %, mIoU "
                f"{figures['mIoU']:.2f} differs by {figures['mIoU difference']:.4f}, {figures['original seconds']:.1f} s, "
                f"ours {figures['seconds']:.1f} s",
                flush=True,
            )
            state.write_text(json.dumps(list(found.values()), indent=1) + "\n")
            (options.to / "agreement.md").write_text(page(found.values()))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
