"""Measures time and memory of this package and of the original, side by side in one run.

    python benchmarks/compare.py [LINE...] [--original PYTHON | --before DIR] [--runtime PYTHON] [--rows ROW...]
                                 [--size H W] [--turns N] [--json FILE] [--markdown FILE] [--plot DIR]

LINE names what to measure; without a name, all of these:

    network     logits of a picture, beside the speed of a matrix product
    step        a training step
    segment     a picture file in, a label map out: whole, sliding window, multi-scale and flip (ms+flip)
    serving     the same, by an exported SavedModel
    input       pairs for training, see training_input.py
    memory      peak memory of a pass
    growth      time and memory against picture size, number of classes and batch
    conversion  a released file in, a model out
    runtimes    logits and requests, beside the same networks in OpenVINO and ONNX Runtime

PYTHON of --original is an interpreter with mmsegmentation (see tests/golden/make_networks.py), for "runtimes" with onnx too.
Without it only our side is measured. PYTHON of --runtime is an interpreter with openvino and onnxruntime; without it the line
"runtimes" is left out. Our own interpreter then needs openvino and tf2onnx.

Each side is a process of its own. They take turns, and only one computes at a time. The original can run in several ways:
eager or torch.compile, contiguous or channels-last tensors, and for bfloat16 lines float32 or bfloat16. Each way is timed
first, and the fastest takes part in the turns. Both sides have the same weights and input. If their results differ, the line
says so.
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
import plots  # noqa: E402
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
    "runtimes": [
        f"{network}-d8_512x1024_80k_cityscapes"
        for network in ("deeplabv3_r50", "deeplabv3plus_r50", "deeplabv3plus_r18")
    ],
}
RUNTIMES = [("OpenVINO", "float32"), ("OpenVINO", "bfloat16"), ("ONNX Runtime", "float32")]
FILES = {("ours", "OpenVINO"): "ours.xml", ("ours", "ONNX Runtime"): "ours.onnx"}  # the other side has one for both
PRECISIONS = ("float32", "bfloat16")
EAGER = [dict(channels_last=last) for last in (False, True)]
WAYS = [dict(compiled=compiled, **way) for compiled in (False, True) for way in EAGER]
PAUSE = 0.25  # seconds between two turns, in which the threads of the side before stop spinning
TRIALS, TRIAL_SECONDS = 3, 20.0  # passes of each way of the original, fewer if they take longer than that
INPUT_SECONDS = 4.0  # of a turn of the line "input"


@contextlib.contextmanager
def sides(options):
    """Our worker and the original's; None in its place if it is not measured."""
    with contextlib.ExitStack() as stack:
        other = options.original, "original.py"
        if options.before:
            other = sys.executable, str(Path(options.before, "benchmarks", "ours.py").resolve())
        commands = [(sys.executable, "ours.py"), other]
        yield [
            stack.enter_context(contextlib.closing(Worker(*command))) if command[0] else None for command in commands
        ]


def measure(options, line, kind, job, *, precisions=None, ways=({},), peak=None, turns=None, **facts):
    """Measures one job in one pair of processes; yields a line for each precision.

    A line is a dict with the seconds of every turn, the time of each way of the original, and memory. The memory is that of
    the job alone only if there is one precision and one way. With a single turn, our process ends before the original's
    passes begin, because both may not fit into memory.

    Args:
        line: what is measured, in words.
        kind, job: the maker of the workers, and its options.
        precisions: of the lines; default the command's.
        ways: options of the original's maker; each way is tried in every precision.
        peak: width of a square matrix whose product runs in the same turns, to compare its speed; None for no product.
        turns: of each side; default the command's.
        facts: copied into each line.
    """
    job, turns = {**job, "is_narrow": options.narrow}, turns or options.turns
    precisions = precisions or options.precisions
    ways = ({},) if options.before else ways
    with sides(options) as (ours, theirs):
        versions = versions_of(ours, theirs)
        made = {p: ours.ask(make=kind, key=p, precision=p, **job) for p in precisions}
        runs, seconds, best = {("ours", p): (ours, p) for p in precisions}, {}, {}
        if turns == 1 and not peak:
            seconds, runs = take_turns(1, runs), {}
            ours.close()
        way_results = try_ways(theirs, kind, job, precisions, ways) if theirs else {}
        for p in precisions:
            # A bfloat16 line may use float32, but not the other way round.
            allowed = {key: way for key, way in way_results.items() if p == "bfloat16" or way["precision"] == p}
            if allowed:
                best[p] = min(allowed, key=lambda key: allowed[key]["seconds"] or 0)
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
            chosen = way_results[best[p]]
            result["original"] = {"seconds": seconds["original", p], "memory": chosen["memory"], "way": best[p]}
            result["ways"] = {key: way["seconds"] for key, way in way_results.items()}  # None if there is one way
            result["differs"] = differs(
                made[p]["result"], chosen["result"], exact=p == chosen["precision"] == "float32"
            )
        if peak:
            fastest = min(min(values) for (name, q), values in seconds.items() if name.startswith("product") and q == p)
            rate = 2 * peak**3 / fastest
            result["roofline"] = {"flop": made[p]["flop"], "peak": rate, "seconds": made[p]["flop"] / rate}
        yield result


def versions_of(*sides):
    """{software: version} of all sides that are not None."""
    return {name: version for side in sides if side for name, version in side.ask(about=True).items()}


def try_ways(worker, kind, job, precisions, ways):
    """Times each way of the original in each precision.

    Returns:
        {name of the way: the worker's answer, with "precision" and "seconds", the best time of some passes}. The time is
        None if there is only one way.
    """
    way_results = {}
    for p, way in itertools.product(precisions, ways):
        key = " ".join([p, *(name.replace("_", "-") for name, on in way.items() if on)])
        way_results[key] = worker.ask(make=kind, key=key, precision=p, **job, **way)
        trials = []
        while len(precisions) * len(ways) > 1 and len(trials) < TRIALS and sum(trials) < TRIAL_SECONDS:
            trials.append(worker.ask(run=key)["seconds"])
        way_results[key] |= dict(precision=p, seconds=min(trials, default=None))
    return way_results


def take_turns(turns, runs):
    """Runs each (worker, key) of {name: (worker, key)} once in every turn. Returns {name: seconds of each turn}."""
    seconds = {name: [] for name in runs}
    for _ in range(turns):
        for name, (worker, key) in runs.items():
            time.sleep(PAUSE)
            seconds[name].append(worker.ask(run=key)["seconds"])
    return seconds


def differs(ours, theirs, exact):
    """How the results differ, in words, or None if they agree.

    Labels may differ on 2 % of the pixels, other results by 0.1 % of the largest value. Only float32 results (`exact`) are
    compared; of bfloat16 results only the shapes.
    """
    ours, theirs = np.array(ours), np.array(theirs)
    if ours.shape != theirs.shape:
        return f"shapes {ours.shape} and {theirs.shape}"
    if ours.dtype.kind == "i":
        share = np.mean(ours != theirs)
        return f"{share:.1%} of the labels differ" if exact and share > 0.02 else None
    share = np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))
    return f"results differ by {share:.1%}" if exact and not share <= 1e-3 else None


def title(row, size=None):
    """A short name such as "V3+ R-50 512x1024"."""
    row = find_row(row)
    name = {"DeepLabV3": "V3", "DeepLabV3Plus": "V3+"}[row.class_name]
    backbone = f"R-{row.backbone[1:]}" if row.backbone[0] == "r" and row.backbone[1].isdecimal() else row.backbone
    return f"{name} {backbone}" + ("" if size is None else f" {size[0]}x{size[1]}")


def network(options, rows):
    """Logits of one picture."""
    for row in rows:
        size = options.size or find_row(row).crop
        job = dict(row=row, size=size)
        yield from measure(options, title(row, size), "forward", job, ways=WAYS, peak=128 if options.narrow else 3072)


def step(options, rows):
    """A training step of two crops."""
    for row in rows:
        size = options.size or (256, 256)
        job = dict(row=row, size=size, batch=2)
        yield from measure(options, f"training step: {title(row, size)} batch 2", "step", job, ways=EAGER)


@contextlib.contextmanager
def picture_file(size):
    """A temporary picture file of the size (height, width), and the box into which it fits without being resized."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        Image.fromarray(picture(*size, seed=0)).save(path)
        yield dict(picture=str(path), box=(max(size), min(size)))


def segment(options, rows):
    """A picture file in, a label map out. Pictures have half the height and width with ms+flip, which is 17 times the work."""
    for row, flip in itertools.product(rows, (False, True)):
        size = options.size or ((512, 1024) if flip else (1024, 2048))
        mode = find_row(row).protocol.mode + (", ms+flip" if flip else "")
        turns = min(options.turns, 3) if flip else None
        with picture_file(size) as file:
            job = dict(row=row, multi_scale_flip=flip, **file)
            yield from measure(options, f"{title(row, size)} {mode}", "segment", job, turns=turns)


def serving(options, rows):
    """Requests of one picture to the SavedModel, in the process that loaded it."""
    for row in rows:
        size = options.size or find_row(row).crop
        with picture_file(size) as file:
            yield from measure(options, f"request: {title(row, size)}", "serving", dict(row=row, **file))


def input_pipeline(options, _):
    """Seconds of one pair of the training input. It is that of Cityscapes' rows, the same for every network."""
    size, turn_seconds = options.size or (1024, 2048), 0.1 if options.narrow else INPUT_SECONDS
    with sides(options) as workers:
        versions = versions_of(*workers)
    rates = training_input.rates(options.original, size, turn_seconds, options.turns)
    sources = {name: dict(seconds=[1 / rate for rate in values], memory=0) for name, values in rates.items()}
    label = f"pair for training: {size[0]}x{size[1]}, crop 512x1024"
    line = dict(line=label, precision="float32", versions=versions, ours=sources[training_input.OURS])
    if options.original:
        line["original"] = {**sources[training_input.ORIGINAL], "way": "two processes"}
    yield line


def memory(options, rows):
    """Peak memory of a pass. Each line has processes of its own; the original is eager and contiguous."""
    size, crop = options.size or (1024, 2048), options.size or (256, 256)
    for row, p in itertools.product(rows, options.precisions):
        shape = options.size or find_row(row).crop
        once = dict(precisions=[p], turns=1)
        yield from measure(options, f"logits: {title(row, shape)}", "forward", dict(row=row, size=shape), **once)
        with picture_file(size) as file:
            for classes in (19, 150):
                job = dict(row=row, classes=classes, **file)
                yield from measure(options, f"label map: {title(row, size)}, {classes} classes", "segment", job, **once)
        job = dict(row=row, size=crop, batch=2)
        yield from measure(options, f"training step: {title(row, crop)} batch 2", "step", job, **once)


def growth(options, rows):
    """Time and memory while picture size, number of classes or batch grows, one at a time; failed points are left out."""
    height, width = options.size or (512, 1024)
    for row, p in itertools.product(rows, options.precisions):
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
                    print(f"warning: a point is left out: {error}", file=sys.stderr)


def conversion(options, rows):
    """A released file in, a model out."""
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            job = dict(row=row, checkpoint=str(Path(folder, "checkpoint.pth")))
            yield from measure(options, f"from file: {title(row)}", "conversion", job, precisions=PRECISIONS[:1])


def runtimes(options, rows):
    """Our network in TensorFlow beside the original's and ours in other runtimes: logits, and requests."""
    if not options.runtime:
        return
    for row, (kind, words) in itertools.product(rows, {"forward": "logits", "serving": "request"}.items()):
        size = options.size or find_row(row).crop
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(picture_file(size))
            folder = Path(options.exports or stack.enter_context(tempfile.TemporaryDirectory()), f"{row} {kind}")
            export(options, folder, dict(row=row, size=size, to=kind, is_narrow=options.narrow))
            job = dict(row=row, is_narrow=options.narrow, **(file if kind == "serving" else dict(size=size)))
            yield from measure_runtimes(options, f"{words}: {title(row, size)}", kind, job, folder, file["picture"])


def export(options, folder, job):
    """Writes our files and the original's into `folder`, unless it has them."""
    names = {"ours": "ours.onnx", "original": "original.onnx"}
    commands = {"ours": (sys.executable, "ours.py"), "original": (options.original, "original.py")}
    folder.mkdir(parents=True, exist_ok=True)
    for source, (python, script) in commands.items():
        if python and not Path(folder, names[source]).exists():
            with contextlib.closing(Worker(python, script)) as worker:
                worker.ask(make="export", key="export", precision="float32", folder=str(folder), **job)


def measure_runtimes(options, line, kind, job, folder, picture):
    """Yields a line for each file, runtime and precision, beside our network in TensorFlow in the same precision.

    Each side has a process of its own, and all take turns.
    """
    sources = ["original", "ours"] if options.original else ["ours"]
    runtimes = [runtime for runtime in RUNTIMES if runtime[1] in options.precisions]
    others = [(source, *runtime) for source, runtime in itertools.product(sources, runtimes)]
    with contextlib.ExitStack() as stack:

        def worker(*command):
            return stack.enter_context(contextlib.closing(Worker(*command)))

        made, runs = {}, {}
        for p in options.precisions:
            runs[p] = worker(sys.executable, "ours.py"), p
            made[p] = runs[p][0].ask(make=kind, key=p, precision=p, **job)
        for other in others:
            source, runtime, p = other
            file = Path(folder, FILES.get((source, runtime), "original.onnx"))
            runs[other] = worker(options.runtime, "runtimes.py"), p
            question = dict(file=str(file), runtime=runtime, precision=p)
            question |= dict(picture=picture) if kind == "serving" else {}
            made[other] = runs[other][0].ask(make=kind, key=p, **question)
        versions = versions_of(*(side for side, _ in runs.values()))
        seconds = take_turns(options.turns, runs)
    for other in others:
        source, runtime, p = other
        name = f"{line} in {runtime}" if source == "original" else f"{line}, our export in {runtime}"
        result = {"line": f"{name}, {p}", "precision": p, "versions": versions}
        for name, key in (("ours", p), ("original", other)):
            result[name] = {"seconds": seconds[key], "memory": made[key]["memory"], "way": runtime}
        yield result | {"differs": differs(made[p]["result"], made[other]["result"], exact=p == "float32")}


LINES = dict(
    network=network,
    step=step,
    segment=segment,
    serving=serving,
    input=input_pipeline,
    memory=memory,
    growth=growth,
    conversion=conversion,
    runtimes=runtimes,
)


def main(argv):
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "lines", nargs="*", metavar="LINE", help=f"one or more of {', '.join(LINES)}; all if none is named"
    )
    arguments.add_argument("--original", metavar="PYTHON", help="an interpreter that has mmsegmentation")
    arguments.add_argument("--runtime", metavar="PYTHON", help="an interpreter that has openvino and onnxruntime")
    arguments.add_argument(
        "--exports", metavar="DIR", help='keep the files of the line "runtimes" here, and use those that the folder has'
    )
    arguments.add_argument(
        "--before", metavar="DIR", help="a checkout of an earlier version, to compare with in place of the original"
    )
    arguments.add_argument(
        "--rows", nargs="+", metavar="ROW", help="released models to measure, in place of the line's own"
    )
    arguments.add_argument(
        "--size", nargs=2, type=command_line.positive_integer, metavar=("H", "W"), help="of pictures, in pixels"
    )
    arguments.add_argument("--turns", type=command_line.positive_integer, default=8, help="turns of each side")
    arguments.add_argument(
        "--precisions",
        nargs="+",
        metavar="P",
        choices=PRECISIONS,
        default=PRECISIONS,
        help="of the lines to measure: bfloat16 takes minutes a pass on processors without it",
    )
    arguments.add_argument(
        "--points", type=command_line.positive_integer, default=6, help="most points of a growth curve"
    )
    arguments.add_argument(
        "--narrow", action="store_true", help="networks with an eighth of the channels, to try the command itself"
    )
    arguments.add_argument("--json", metavar="FILE", help="add every turn to this file; other lines stay in it")
    arguments.add_argument("--markdown", metavar="FILE", help="fill the tables of a page such as docs/performance.md")
    arguments.add_argument("--plot", metavar="DIR", help="draw ratios.svg and growth.svg in this folder")
    options = arguments.parse_args(argv)
    if unknown := set(options.lines) - set(LINES):
        raise ValueError(f"LINE must be one of {', '.join(LINES)}. Received: {', '.join(sorted(unknown))}.")
    if options.before and not Path(options.before, "benchmarks", "ours.py").exists():
        raise ValueError(f"--before must be a checkout of keras_deeplab. Received: {options.before}.")
    if options.original and not shutil.which(options.original):
        raise ValueError(f"--original must be an interpreter with mmsegmentation. Received: {options.original}.")
    if options.runtime and not shutil.which(options.runtime):
        raise ValueError(f"--runtime must be an interpreter with openvino. Received: {options.runtime}.")
    rows = [find_row(row).name for row in options.rows or ()]
    results_file = Path(options.json) if options.json else None
    if results_file:
        report.keep(results_file, {})  # a file that cannot be written fails now and not after hours of work
    results = {}
    for name in options.lines or LINES:
        print(f"\n{name}", flush=True)
        for line in LINES[name](options, rows or ROWS[name]):
            print("  ".join(report.cells(name, line)), flush=True)
            results = report.keep(results_file, {name: [line]}, results)
    for name, lines in results.items():
        print(f"\n{name}")
        command_line.print_table([report.HEADS[name], *(report.cells(name, line) for line in lines)])
    if options.markdown:
        report.fill(Path(options.markdown), results)
    if options.plot:
        plots.plot(Path(options.plot), results)


if __name__ == "__main__":
    command_line.run(main)
