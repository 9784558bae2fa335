"""A process that builds things to time and runs them when it is asked to: one line of JSON in, one line of JSON out.

    {"make": KIND, "key": KEY, **options}   builds one and passes twice:
                                            {"result": some of what came out, "memory": peak bytes of both passes above
                                            what was resident before them, **facts}
    {"run": KEY}                            one pass: {"seconds": s}
    {"about": true}                         {software: version}

ours.py and original.py answer; compare.py asks, one of them at a time.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


class WorkerEnded(OSError):
    """A worker's process ended where it should have answered."""


class Worker:
    """The asking side: `ask` sends a question and waits for the answer."""

    def __init__(self, python, script):
        self.name = f"{python} {script}"
        self.said = tempfile.TemporaryFile("w+")
        command = [python, str(Path(__file__).parent / script)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said)
        self.process = subprocess.Popen(command, text=True, bufsize=1, **pipes)

    def ask(self, **question):
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            status = self.process.wait()
            self.said.seek(0)
            last = self.said.read().strip().splitlines()[-1:]
            raise WorkerEnded(f"{self.name} ended with status {status} at {question}: {''.join(last)}")
        return json.loads(answer)

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.said.close()


def serve(makers, about):
    """The answering side. What libraries print goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    things = {}
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line), things, makers, about)) + "\n")


def answer(question, things, makers, about):
    """A maker takes the question's options and returns a function, which passes once, and a dict of facts."""
    if "about" in question:
        return about()
    if "run" in question:
        start = time.perf_counter()
        things[question["run"]]()
        return {"seconds": time.perf_counter() - start}
    thing, facts = makers[question.pop("make")](**question | {"key": None})
    things[question["key"]] = thing
    forget_peak()
    before = resident("VmRSS")
    result = few(thing())
    thing()
    return {"result": result, "memory": resident("VmHWM") - before, **facts}


def few(result):
    """Evenly spaced values of scores (N, H, W, C), of a label map (H, W), or of anything flat."""
    result = np.asarray(result)
    count = {2: 64, 4: 8}.get(result.ndim, 1000)
    for axis in range(result.ndim):
        side = result.shape[axis]
        result = np.take(result, np.unique(np.linspace(0, side - 1, min(count, side)).round().astype(int)), axis)
    return (result if result.dtype == np.uint8 else result.astype("float32")).tolist()  # a copy of all would be memory


def resident(field):
    """Bytes in memory now ("VmRSS") or at the peak ("VmHWM") of this process; Linux alone tells."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status does not tell {field}: memory is measured on Linux only")


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")
