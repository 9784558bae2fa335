"""Measures what Apache Beam costs on one machine: the same pictures by `segment_folder` and by `segment_with_beam`.

    python benchmarks/beam.py [--processes N] [--pictures FEW MANY] [--turns N] [--row ROW] [--size H W]

Compares three ways to label a folder of JPEG files, in turns: one process of `segment_folder`; N processes of it, each with
a share of the pictures; and Beam's own runner with N worker processes, from a SavedModel that was exported before. Each runs
FEW and MANY pictures, in new processes. The difference of the two times is that of MANY - FEW pictures. What is left of the
time of FEW is the start: imports, the model, and Beam's pipeline. All write palette PNG files. The weights are drawn.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from keras_deeplab.commands import command_line  # noqa: E402

FOLDER = """
import sys, keras
import keras_deeplab as kd
model = keras.saving.load_model(sys.argv[1], compile=False)
made, _, failed = kd.segment_folder(model, "@" + sys.argv[2], sys.argv[3], kinds=["palette"], overwrite=True, progress=False)
assert not failed
"""
BEAM = """
import sys
import keras_deeplab as kd
options = ["--direct_running_mode=multi_processing", "--direct_num_workers=" + sys.argv[4]]
made, _, failed = kd.segment_with_beam(
    sys.argv[1], "@" + sys.argv[2], sys.argv[3], kind="palette", overwrite=True, beam_options=options
)
assert not failed
"""


def main(argv):
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--processes", type=command_line.positive_integer, default=2)
    arguments.add_argument(
        "--pictures", type=command_line.positive_integer, nargs=2, default=(16, 80), metavar=("FEW", "MANY")
    )
    arguments.add_argument("--turns", type=command_line.positive_integer, default=3)
    arguments.add_argument("--row", default="deeplabv3plus_r18-d8_512x1024_80k_cityscapes")
    arguments.add_argument(
        "--size", type=command_line.positive_integer, nargs=2, default=(512, 1024), metavar=("H", "W")
    )
    options = arguments.parse_args(argv)
    few, many = options.pictures
    if not options.processes <= few < many:
        raise ValueError(
            f"--pictures must be two numbers, the smaller first, of --processes or more. Received: {few} {many}."
        )
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        prepare(options, scratch)

        def folder(count, processes):
            lists = [list_of(scratch, range(first, count, processes)) for first in range(processes)]
            return [(FOLDER, scratch / "model.keras", names, scratch / f"out{i}") for i, names in enumerate(lists)]

        def beam(count):
            return [
                (BEAM, scratch / "saved_model", list_of(scratch, range(count)), scratch / "beam", options.processes)
            ]

        ways = {
            "folder, one process": lambda count: folder(count, 1),
            f"folder, {options.processes} processes": lambda count: folder(count, options.processes),
            f"Beam, {options.processes} processes": beam,
        }
        seconds = {(way, count): [] for way in ways for count in options.pictures}
        for _ in range(options.turns):
            for way, count in seconds:
                seconds[way, count].append(timed(ways[way](count)))
    print(f"{'':24}{'s a picture':>14}{'start, s':>12}   of all turns: s a picture")
    for way in ways:
        rates = [(b - a) / (many - few) for a, b in zip(seconds[way, few], seconds[way, many], strict=True)]
        rate = statistics.median(rates)
        start = statistics.median(seconds[way, few]) - few * rate
        print(f"{way:24}{rate:14.3f}{start:12.1f}   {', '.join(f'{one:.3f}' for one in sorted(rates))}")


def prepare(options, scratch):
    """Writes the pictures, the model and its SavedModel."""
    import numpy as np
    import ours

    import keras_deeplab as kd
    from keras_deeplab.serving.verify import as_file, synthetic_picture

    model = ours.build(options.row, "float32", is_narrow=False)
    model.protocol = kd.Protocol("whole", resize=options.size)
    model.save(scratch / "model.keras")
    kd.export_saved_model(model, scratch / "saved_model")
    picture = as_file(np.asarray(synthetic_picture(*options.size)), "JPEG")
    for i in range(max(options.pictures)):
        (scratch / f"{i}.jpg").write_bytes(picture)


def list_of(scratch, numbers):
    """The path of a file that lists the pictures of these numbers."""
    path = scratch / f"{numbers.start}_{numbers.stop}_{numbers.step}.txt"
    path.write_text("".join(f"{scratch / f'{i}.jpg'}\n" for i in numbers))
    return path


def timed(commands):
    """The seconds that the commands, (program, argument...), take together at the same time."""
    start = time.perf_counter()
    running = [subprocess.Popen([sys.executable, "-c", *map(str, command)], cwd=ROOT) for command in commands]
    if any([process.wait() for process in running]):
        raise SystemExit("A process failed; its error stands above.")
    return time.perf_counter() - start


if __name__ == "__main__":
    command_line.run(main)
