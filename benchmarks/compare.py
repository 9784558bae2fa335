"""How fast this package is beside the original, each line measured in turns in one run:

    python benchmarks/compare.py [LINE...] [--original PYTHON | --before DIR] [--rows ROW...] [--size H W] [--turns N]
                                 [--json FILE] [--markdown FILE] [--plot DIR]

LINE is any of: network (logits of a picture, beside a matrix product's speed), step (of training), segment (a file in, a
label map out: whole, sliding window, ms+flip), serving (the same by an exported SavedModel), input (pairs for training, see
training_input.py), memory (peak of a pass), growth (time and memory against picture size, classes and batch), conversion (a
released file to a model); all of them if none is named. PYTHON is an interpreter with mmsegmentation (see
tests/golden/make_networks.py); without it only our side is measured.

Each side is a process of its own; they take turns, one computes at a time. Of the original's ways (eager and torch.compile,
contiguous and channels-last, for bfloat16 lines float32 and bfloat16) each is timed first and the fastest takes the turns.
Both sides have the same weights and input, and a line says so if their results differ.
"""

import argparse
import contextlib
import itertools
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import report  # noqa: E402
import training_input  # noqa: E402
from PIL import Image  # noqa: E402
from support.drawn import picture  # noqa: E402
from worker import Worker, WorkerEnded  # noqa: E402

from keras_deeplab.catalog.rows import find as find_row  # noqa: E402
from keras_deeplab.commands import command_line  # noqa: E402

ROWS = {
    "network": [
        f"{family}_r{depth}-d8_{crop}_80k_cityscapes"
        for crop in ("512x1024", "769x769")
        for family in ("deeplabv3", "deeplabv3plus")
        for depth in (18, 50, 101)
    ],
    "step": ["deeplabv3_r50-d8_512x1024_80k_cityscapes", "deeplabv3plus_r50-d8_512x1024_80k_cityscapes"],
    "segment": ["deeplabv3plus_r50-d8_512x1024_80k_cityscapes", "deeplabv3_r50-d8_769x769_80k_cityscapes"],
    "serving": ["deeplabv3plus_r50-d8_512x1024_80k_cityscapes"],
    "input": [],
    "memory": ["deeplabv3_r50-d8_512x1024_80k_cityscapes", "deeplabv3plus_r50-d8_512x1024_80k_cityscapes"],
    "growth": ["deeplabv3plus_r50-d8_512x1024_80k_cityscapes"],
    "conversion": ["deeplabv3plus_r101-d8_512x1024_80k_cityscapes"],
}
PRECISIONS = ("float32", "bfloat16")
EAGER = [dict(channels_last=last) for last in (False, True)]
WAYS = [dict(compiled=compiled, **way) for compiled in (False, True) for way in EAGER]
REST = 0.25  # seconds between two turns: the threads of the side that was at work spin for a while
TRIALS, TRIAL_SECONDS = 3, 20.0  # passes of each of the original's ways, fewer if they take long
INPUT_SECONDS = 4.0  # of a turn


@contextlib.contextmanager
def sides(options):
    """Our process and the original's, or None."""
    with contextlib.ExitStack() as stack:
        other = options.original, "original.py"
        if options.before:
            other = sys.executable, str(Path(options.before, "benchmarks", "ours.py").resolve())
        commands = [(sys.executable, "ours.py"), other]
        yield [stack.enter_context(contextlib.closing(Worker(*c))) if c[0] else None for c in commands]


def measure(options, line, kind, job, *, precisions=PRECISIONS, ways=({},), peak=None, turns=None, **facts):
    """Lines of one job, a dict for each precision: seconds of every turn, what the original's ways took, memory.

    All run in one pair of processes; memory is that of the job alone if there is one precision and one way. With one turn
    there is nothing to interleave: our process ends before the original passes, since both may not fit into memory.

    Args:
        line: what is measured, for people.
        kind, job: of the workers' makers, and its options.
        ways: options of the original's maker; each is tried in every precision.
        peak: side of a matrix product to run in the same turns, if the share of its speed is asked for.
        turns: of each side, if not the command's.
        facts: copied into each line.
    """
    job, turns = {**job, "is_narrow": options.narrow}, turns or options.turns
    ways = ({},) if options.before else ways
    with sides(options) as (ours, theirs):
        versions = versions_of(ours, theirs)
        made = {p: ours.ask(make=kind, key=p, precision=p, **job) for p in precisions}
        runs, seconds, best = {("ours", p): (ours, p) for p in precisions}, {}, {}
        if turns == 1 and not peak:
            seconds, runs = take_turns(1, runs), {}
            ours.close()
        tried = try_ways(theirs, kind, job, precisions, ways) if theirs else {}
        for p in precisions:
            fair = {key: way for key, way in tried.items() if p == "bfloat16" or way["precision"] == p}
            if fair:
                best[p] = min(fair, key=lambda key: fair[key]["seconds"] or 0)
                runs["original", p] = theirs, best[p]
        if peak:
            for side, p in itertools.product(filter(None, (ours, theirs)), precisions):
                side.ask(make="product", key=f"product {p}", precision=p, side=peak)
                runs[f"product {side is ours}", p] = side, f"product {p}"
        seconds |= take_turns(turns, runs)
    for p in precisions:
        result = {"line": f"{line}, {p}", "precision": p, **facts, "versions": versions}
        result["ours"] = {"seconds": seconds["ours", p], "memory": made[p]["memory"]}
        if p in best:
            chosen = tried[best[p]]
            result["original"] = {"seconds": seconds["original", p], "memory": chosen["memory"], "way": best[p]}
            result["ways"] = {key: way["seconds"] for key, way in tried.items()}  # None if there was no choice
            result["differs"] = differs(
                made[p]["result"], chosen["result"], exact=p == chosen["precision"] == "float32"
            )
        if peak:
            fastest = min(min(values) for (name, q), values in seconds.items() if name.startswith("product") and q == p)
            rate = 2 * peak**3 / fastest
            result["roofline"] = {"flop": made[p]["flop"], "peak": rate, "seconds": made[p]["flop"] / rate}
        yield result


def versions_of(*sides):
    return {name: version for side in sides if side for name, version in side.ask(about=True).items()}


def try_ways(worker, kind, job, precisions, ways):
    """{name: what the worker answered, its precision, and the best time of some passes} of each of the original's ways.

    The time is None where there is but one.
    """
    tried = {}
    for p, way in itertools.product(precisions, ways):
        key = " ".join([p, *(name.replace("_", "-") for name, on in way.items() if on)])
        tried[key] = worker.ask(make=kind, key=key, precision=p, **job, **way)
        trials = []
        while len(precisions) * len(ways) > 1 and len(trials) < TRIALS and sum(trials) < TRIAL_SECONDS:
            trials.append(worker.ask(run=key)["seconds"])
        tried[key] |= dict(precision=p, seconds=min(trials, default=None))
    return tried


def take_turns(turns, runs):
    """{name: seconds of each turn} of runs (worker, key)."""
    seconds = {name: [] for name in runs}
    for _ in range(turns):
        for name, (worker, key) in runs.items():
            time.sleep(REST)
            seconds[name].append(worker.ask(run=key)["seconds"])
    return seconds


def differs(ours, theirs, exact):
    """How the results differ, in words, or None: labels on more than 2 % of the pixels, else 0.1 % of the largest value."""
    ours, theirs = np.array(ours), np.array(theirs)
    if ours.shape != theirs.shape:
        return f"shapes {ours.shape} and {theirs.shape}"
    if ours.dtype.kind == "i":
        share = np.mean(ours != theirs)
        return f"{share:.1%} of the labels differ" if exact and share > 0.02 else None
    share = np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))
    return f"results differ by {share:.1%}" if exact and not share <= 1e-3 else None


def title(row, size=None):
    row = find_row(row)
    name = {"DeepLabV3": "V3", "DeepLabV3Plus": "V3+"}[row.class_name]
    return f"{name} R-{row.backbone[1:]}" + ("" if size is None else f" {size[0]}x{size[1]}")


def network(options, rows):
    for row in rows:
        size = options.size or find_row(row).crop
        job = dict(row=row, size=size)
        yield from measure(options, title(row, size), "forward", job, ways=WAYS, peak=128 if options.narrow else 3072)


def step(options, rows):
    for row in rows:
        size = options.size or (256, 256)
        job = dict(row=row, size=size, batch=2)
        yield from measure(options, f"training step: {title(row, size)} batch 2", "step", job, ways=EAGER)


@contextlib.contextmanager
def picture_file(size):
    """A picture of the size (height, width), and the box that it fits without being resized."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        Image.fromarray(picture(*size, seed=0)).save(path)
        yield dict(picture=str(path), box=(max(size), min(size)))


def segment(options, rows):
    """Of half the size with ms+flip, which is 17 times the work."""
    for row, flip in itertools.product(rows, (False, True)):
        size = options.size or ((512, 1024) if flip else (1024, 2048))
        mode = find_row(row).protocol.mode + (", ms+flip" if flip else "")
        turns = min(options.turns, 3) if flip else None
        with picture_file(size) as file:
            job = dict(row=row, multi_scale_flip=flip, **file)
            yield from measure(options, f"{title(row, size)} {mode}", "segment", job, turns=turns)


def serving(options, rows):
    """One picture a request, no network between."""
    for row in rows:
        size = options.size or find_row(row).crop
        with picture_file(size) as file:
            yield from measure(options, f"request: {title(row, size)}", "serving", dict(row=row, **file))


def input_pipeline(options, _):
    """Its seconds are those of a pair; the row is Cityscapes' whatever the network."""
    size, turn_seconds = options.size or (1024, 2048), 0.1 if options.narrow else INPUT_SECONDS
    with sides(options) as workers:
        versions = versions_of(*workers)
    rates = training_input.rates(options.original, size, turn_seconds, options.turns)
    found = {name: dict(seconds=[1 / rate for rate in values], memory=0) for name, values in rates.items()}
    label = f"pair for training: {size[0]}x{size[1]}, crop 512x1024"
    line = dict(line=label, precision="float32", versions=versions, ours=found[training_input.OURS])
    if options.original:
        line["original"] = {**found[training_input.ORIGINAL], "way": "two processes"}
    yield line


def memory(options, rows):
    """Each in processes of its own, the original eager and contiguous."""
    size, crop = options.size or (1024, 2048), options.size or (256, 256)
    for row, p in itertools.product(rows, PRECISIONS):
        shape = options.size or find_row(row).crop
        only = dict(precisions=[p], turns=1)
        yield from measure(options, f"logits: {title(row, shape)}", "forward", dict(row=row, size=shape), **only)
        with picture_file(size) as file:
            for classes in (19, 150):
                job = dict(row=row, classes=classes, **file)
                yield from measure(options, f"label map: {title(row, size)}, {classes} classes", "segment", job, **only)
        job = dict(row=row, size=crop, batch=2)
        yield from measure(options, f"training step: {title(row, crop)} batch 2", "step", job, **only)


def growth(options, rows):
    """One thing grows at a time, from the logits or label map of a picture of half a megapixel; a failed point is left out."""
    height, width = options.size or (512, 1024)
    for row, p in itertools.product(rows, PRECISIONS):
        points = []
        for factor in (1, 2, 4, 8, 16, 32)[: options.points]:
            size = [int(side * factor**0.5) for side in (height, width)]
            points.append(("megapixels", size[0] * size[1] / 2**20, "segment", dict(row=row), size))
        for classes in (2, 19, 59, 150, 255)[: options.points]:
            points.append(("classes", classes, "segment", dict(row=row, classes=classes), (height, width)))
        for batch in (1, 2, 4, 8)[: options.points]:
            points.append(
                ("batch", batch, "forward", dict(row=row, batch=batch, size=(height, width)), (height, width))
            )
        for sweep, x, kind, job, size in points:
            with picture_file(size) as file:
                job |= file if kind == "segment" else {}
                facts = dict(precisions=[p], turns=1, sweep=sweep, x=x, row=row)
                try:
                    yield from measure(options, f"{title(row)} {x:.3g} {sweep}", kind, job, **facts)
                except WorkerEnded as error:
                    print(f"left out: {error}", file=sys.stderr)


def conversion(options, rows):
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            job = dict(row=row, checkpoint=str(Path(folder, "checkpoint.pth")))
            yield from measure(options, f"from file: {title(row)}", "conversion", job, precisions=PRECISIONS[:1])


LINES = dict(
    network=network,
    step=step,
    segment=segment,
    serving=serving,
    input=input_pipeline,
    memory=memory,
    growth=growth,
    conversion=conversion,
)


def main(argv):
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("lines", nargs="*", metavar="LINE", help=f"{', '.join(LINES)}; all if none is named")
    arguments.add_argument("--original", metavar="PYTHON", help="an interpreter that has mmsegmentation")
    arguments.add_argument("--before", metavar="DIR", help="a checkout of an earlier version in the original's place")
    arguments.add_argument("--rows", nargs="+", metavar="ROW", help="released models, in place of the line's own")
    arguments.add_argument(
        "--size", nargs=2, type=command_line.positive, metavar=("H", "W"), help="pixels, for every line"
    )
    arguments.add_argument("--turns", type=command_line.positive, default=8, help="of each side")
    arguments.add_argument("--points", type=command_line.positive, default=6, help="of each curve of growth, at most")
    arguments.add_argument(
        "--narrow", action="store_true", help="networks an eighth as wide, to try the command itself"
    )
    arguments.add_argument("--json", metavar="FILE", help="keeps every turn; lines measured before stay in the file")
    arguments.add_argument("--markdown", metavar="FILE", help="fills the tables of such a page as docs/performance.md")
    arguments.add_argument("--plot", metavar="DIR", help="draws ratios.svg and growth.svg")
    options = arguments.parse_args(argv)
    if unknown := set(options.lines) - set(LINES):
        raise ValueError(f"A line is one of {', '.join(LINES)}. Received: {', '.join(sorted(unknown))}.")
    if options.before and not Path(options.before, "benchmarks", "ours.py").exists():
        raise ValueError(f"--before is a checkout of keras_deeplab. There is none: {options.before}.")
    if options.original and not shutil.which(options.original):
        raise ValueError(f"--original is an interpreter that has mmsegmentation. There is none: {options.original}.")
    rows = [find_row(row).name for row in options.rows or ()]
    kept = Path(options.json) if options.json else None
    if kept:
        report.keep(kept, {})  # a file that cannot be written is an error now, not after hours
    results = {}
    for name in options.lines or LINES:
        print(f"\n{name}", flush=True)
        for line in LINES[name](options, rows or ROWS[name]):
            print("  ".join(report.cells(name, line)), flush=True)
            results = report.keep(kept, {name: [line]}, results)
    for name, lines in results.items():
        print(f"\n{name}")
        command_line.print_table([report.HEADS[name], *(report.cells(name, line) for line in lines)])
    if options.markdown:
        report.fill(Path(options.markdown), results)
    if options.plot:
        report.plot(Path(options.plot), results)


if __name__ == "__main__":
    command_line.run(main)
