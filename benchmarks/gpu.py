"""Measures this package on JAX and the original on PyTorch on one GPU, in turns in one run.

    python benchmarks/gpu.py [LINE...] [--batch KIND=N...] [--size H W] [--turns N] [--seconds S] [--together N]
                             [--json FILE]

LINE is KIND:ROW:PRECISION. KIND is forward (logits of pictures) or step (a training step). PRECISION is float32, bfloat16 or
exact. float32 is what each framework does by default, which is TF32 in convolutions. bfloat16 is the original's autocast and
our `mixed_bfloat16`. exact is float32 without TF32, and shows how far the results of both sides are from each other.

Needs Keras, JAX and what benchmarks/original.py needs, all with a GPU. Each side of a line is a process of its own. N of them
compile at a time, for S seconds in all. They try out algorithms on the one GPU: of 12 at a time, none of six training steps
was ready after two minutes. Then those that are ready take turns, and one computes at a time. Our side runs with XLA's
measured choice of algorithms and with cuDNN's own ("untuned", which compiles sooner), the original with channels-last tensors
eagerly and by torch.compile. Memory is each framework's peak on the GPU; ours includes what XLA needed while it chose
algorithms.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]
from worker import Worker, WorkerEnded  # noqa: E402

LINES = [
    f"{kind}:deeplabv3plus_r{depth}-d8_512x1024_80k_cityscapes:{precision}"
    for depth in (50, 101)
    for kind in ("forward", "step")
    for precision in ("bfloat16", "float32")
]
BATCH = {"forward": 8, "step": 2}  # 2 is what each of the original's GPUs trains on
PRECISIONS = ("float32", "bfloat16", "exact")
PASSES = {"forward": 10, "step": 20}  # of one turn
OURS = {"ours": {}, "untuned": {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}}  # {side: its environment}
ORIGINAL = {"eager": dict(compiled=False), "compiled": dict(compiled=True)}  # {side: options of its maker}
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TORCHINDUCTOR_COMPILE_THREADS": "4"}  # all share one machine


class Side:
    """One side of a line: a worker that makes its function, and the seconds of its turns."""

    def __init__(self, line, side, options):
        kind, row, precision = line.split(":")
        self.line, self.name, self.seconds = line, side, []
        self.passes = 1 if precision == "exact" else PASSES[kind]
        script = "gpu_ours.py" if side in OURS else "gpu_original.py"
        self.worker = Worker(sys.executable, script, {**ENVIRONMENT, **OURS.get(side, {})})
        self.job = dict(row=row, precision=precision, size=options.size, batch=options.batch[kind], passes=self.passes)
        self.question = dict(make=kind, key="run", **self.job, **ORIGINAL.get(side, {}))
        self.about, self.result = {}, None

    def make(self):
        start = time.perf_counter()
        try:
            self.result = np.array(self.worker.ask(**self.question)["result"])
            print(f"{self.line} {self.name}: made in {time.perf_counter() - start:.0f} s", flush=True)
        except WorkerEnded as error:
            print(error, flush=True)

    def turn(self):
        self.seconds.append(self.worker.ask(run="run")["seconds"] / self.passes)


def ready(line, options):
    """The sides of a line that could make their functions in time. The others are ended, since they would disturb."""
    sides = [Side(line, name, options) for name in options.sides]
    with ThreadPoolExecutor(options.together) as pool:
        made = [pool.submit(side.make) for side in sides]
        wait(made, options.seconds)
        for side, future in zip(sides, made, strict=True):
            if not future.done():
                future.cancel()
                print(f"{line} {side.name}: not ready in time. Its last words: {side.worker.kill()}", flush=True)
    return [side for side in sides if side.result is not None]


def difference(ours, theirs):
    """The largest difference of logits over their standard deviation, or that of the first step's losses over the loss."""
    if theirs.ndim == 1:
        return float(np.abs(ours[0] - theirs[0]) / np.abs(theirs[0]))
    return float(np.max(np.abs(ours - theirs)) / theirs.std())


def in_words(sides):
    """A line of the table: best and median milliseconds of a pass, MiB, the other sides' best over our best, differences."""
    best = {side.name: min(side.seconds) for side in sides}
    times = [
        f"{s.name} {1000 * best[s.name]:.2f} ({1000 * np.median(s.seconds):.2f}) ms, {s.about['memory'] / 2**20:.0f} MiB"
        for s in sides
    ]
    ours, others = ([side for side in sides if (side.name in OURS) is ours] for ours in (True, False))
    if ours:
        fastest = min(ours, key=lambda side: best[side.name])
        for other in others:
            ratio, apart = best[other.name] / best[fastest.name], difference(fastest.result, other.result)
            times.append(f"{other.name} / {fastest.name} {ratio:.2f}, results differ by {apart:.1e}")
    return f"{sides[0].line}, batch {sides[0].job['batch']}: " + "; ".join(times)


def line_of(text):
    """The `type` of LINE."""
    kind, *rest = text.split(":")
    if kind not in PASSES or len(rest) != 2 or rest[1] not in PRECISIONS:
        kinds, precisions = "|".join(PASSES), "|".join(PRECISIONS)
        raise argparse.ArgumentTypeError(f"must be {kinds}:ROW:{precisions}. Received: {text!r}")
    return text


def count_of(text):
    """The `type` of --turns and --together."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more. Received: {text!r}")
    return int(text)


def batch_of(text):
    """The `type` of --batch: (kind, number of pictures)."""
    kind, _, count = text.partition("=")
    if kind not in BATCH or not count.isdecimal() or int(count) < 1:
        raise argparse.ArgumentTypeError(f"must be {'|'.join(BATCH)}=N, N 1 or more. Received: {text!r}")
    return kind, int(count)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", metavar="LINE", nargs="*", type=line_of, default=LINES)
    parser.add_argument("--batch", metavar="KIND=N", nargs="+", type=batch_of, default=[])
    parser.add_argument("--size", nargs=2, type=int, default=[512, 1024])
    parser.add_argument("--turns", type=count_of, default=8)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--together", type=count_of, default=2)
    parser.add_argument("--sides", nargs="+", choices=[*OURS, *ORIGINAL], default=[*OURS, *ORIGINAL])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    options.batch = BATCH | dict(options.batch)
    measured = []
    for line in options.lines:
        sides = ready(line, options)
        for _ in range(options.turns):
            for side in sides:
                side.turn()
        for side in sides:
            side.about = side.worker.ask(about=True)
        if sides:
            print(in_words(sides), flush=True)
            facts = [dict(side=s.name, seconds=s.seconds, about=s.about, **s.job) for s in sides]
            measured.append(dict(line=line, sides=facts))
            if options.json:
                options.json.write_text(json.dumps(measured))
        for side in sides:
            side.worker.close()


if __name__ == "__main__":
    main()
