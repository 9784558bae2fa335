"""A process that builds functions and times their passes on request: one line of JSON in, one line of JSON out.

    {"make": KIND, "key": KEY, **options}   builds a function and runs it twice. Answer:
                                            {"result": sample of its result, "memory": peak bytes of both passes above
                                            what was resident before them, **facts}
    {"run": KEY}                            runs it once. Answer: {"seconds": s, "processor": seconds of processor time}
    {"about": true}                         Answer: {software: version}

compare.py asks; ours.py and original.py answer, one of them at a time.
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
    """A worker's process ended without an answer."""


class Worker:
    """Starts a worker process, which `ask` sends questions to.

    Args:
        python: the interpreter.
        script: the script to run, relative to this folder.
        environment: variables to set, besides those of this process. Default none.
    """

    def __init__(self, python, script, environment=None):
        self.name = f"{python} {script}"
        self.stderr = tempfile.TemporaryFile("w+")
        command = [python, str(Path(__file__).parent / script)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr)
        environment = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen(command, text=True, bufsize=1, env=environment, **pipes)

    def ask(self, **question):
        """Sends a question and waits for the answer.

        Raises:
            WorkerEnded: if the process ended. The message has its exit status and its last line of output.
        """
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            status = self.process.wait()
            raise WorkerEnded(f"{self.name} ended with status {status} at {question}: {self.last_line()}")
        return json.loads(answer)

    def last_line(self):
        """The last line that the process wrote to standard error."""
        self.stderr.seek(0)
        return "".join(self.stderr.read().strip().splitlines()[-1:])

    def kill(self):
        """Ends the process at once, whatever it does. Returns its `last_line`."""
        self.process.kill()
        return self.last_line()

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.stderr.close()


def serve(makers, about):
    """Answers questions from standard input until it ends. What libraries print goes to standard error.

    Args:
        makers: {KIND: maker}; see `answer`.
        about: returns {software: version}.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    functions = {}
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line), functions, makers, about)) + "\n")


def answer(question, functions, makers, about):
    """The answer to one question; adds a function that it makes to `functions`, under the question's key.

    A maker takes the question's options. It returns a function that runs one pass, and a dict of facts.
    """
    if "about" in question:
        return about()
    if "run" in question:
        start, used = time.perf_counter(), time.process_time()
        functions[question["run"]]()
        return {"seconds": time.perf_counter() - start, "processor": time.process_time() - used}
    function, facts = makers[question.pop("make")](**question | {"key": None})
    functions[question["key"]] = function
    forget_peak()
    before = resident("VmRSS")
    result = sampled(function())
    function()
    return {"result": result, "memory": resident("VmHWM") - before, **facts}


def sampled(result):
    """Evenly spaced values of scores (N, H, W, C), of a label map (H, W), or of a flat list. A full copy would need memory."""
    result = np.asarray(result)
    count = {2: 64, 4: 8}.get(result.ndim, 1000)
    for axis in range(result.ndim):
        side = result.shape[axis]
        result = np.take(result, np.unique(np.linspace(0, side - 1, min(count, side)).round().astype(int)), axis)
    return (result if result.dtype == np.uint8 else result.astype("float32")).tolist()


def resident(field):
    """Bytes that this process has in memory now ("VmRSS"), or had at its peak ("VmHWM")."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status must have the line {field}. Received: none. Memory is measured on Linux only.")


def forget_peak():
    """Makes the peak start from the present use of memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
