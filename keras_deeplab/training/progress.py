"""A run in, what people want to know of it out: how far it is, how good, and where it went wrong.

Each class here is called after every step with the step, its loss, and the seconds it took (`Steps`).
"""

import math
import shutil
import sys
import textwrap
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_deeplab.data import pipeline
from keras_deeplab.training import resume
from keras_deeplab.training.keras_hooks import learning_rate_of_step, write_weights_back
from keras_deeplab.training.losses import AUXILIARY_WEIGHT

RECENT = 50  # steps that the shown loss and speed are means of
LINES = 30.0  # seconds between two lines where the output is no terminal
REDRAWN = 0.2  # seconds between two states of the bar where it is
EXPLODED = 100  # times the loss of guessing all classes alike


@dataclass
class Run:
    """What all that watch a run must know.

    Attributes:
        model: compiled.
        to: `Path` of the folder that the run writes into.
        pairs: the pictures and labels to train on, as of `keras_deeplab.data.pairs`.
        batch: pictures of a step over all devices.
        seed: of the data.
        done: steps made before.
        steps: steps of the whole run.
        options: {name: value} of all that the weights depend on.
    """

    model: keras.Model
    to: Path
    pairs: object
    batch: int
    seed: int
    done: int
    steps: int
    options: dict


class Steps(keras.callbacks.Callback):
    """Calls `listener(step, loss, seconds)` after every step: its number from 1 in the whole run, its own loss, its time.

    Args:
        done: steps of the run before this `fit`.
        listeners: called in this order; their time is not the next step's.
    """

    def __init__(self, done, listeners):
        super().__init__()
        self.done, self.listeners, self.total = done, listeners, 0.0

    def on_train_begin(self, logs=None):
        self.since = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        total = float(logs["loss"]) * (batch + 1)  # Keras tells the mean since `fit` began
        loss, self.total = total - self.total, total
        seconds = time.monotonic() - self.since
        with alone():
            for listener in self.listeners:
                listener(self.done + batch + 1, loss, seconds)
        self.since = time.monotonic()


@contextmanager
def alone():
    """Variables made inside are this process's own: of several processes, one validates and saves."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


class Watch:
    """Stops a run whose loss is not finite or explodes: above 100 times that of guessing all classes alike.

    Args:
        run: the `Run`.
        class_weight: as the loss has it, or None.
    """

    def __init__(self, run, class_weight=None):
        self.run = run
        guessing = math.log(max(2, run.model.num_classes)) * max(class_weight or [1.0])
        self.limit = EXPLODED * guessing * (1 + AUXILIARY_WEIGHT)

    def __call__(self, step, loss, seconds):
        if not math.isfinite(loss):
            self.complain(step, f"The loss is {loss}")
        if loss > self.limit:
            self.complain(step, f"The loss explodes: it is {loss:.4g}")

    def weights(self, step):
        """Raises if weights are not finite: the loss shows it only one step later, and a checkpoint of them is lost."""
        if not all(np.isfinite(keras.ops.convert_to_numpy(v)).all() for v in self.run.model.weights):
            self.complain(step, "Weights are not finite")

    def complain(self, step, what):
        run, last = self.run, self.run.to / "last.keras"
        numbers = pipeline.files_of_step(len(run.pairs), run.batch, run.seed, step - 1)
        files = [str(run.pairs.images[i]) for i in numbers]
        kept = f"{last} has step {resume.read(last)['step']}, before it" if last.exists() else "Nothing was saved yet"
        raise ValueError(
            f"{what} at step {step}, on {', '.join(files)}. {kept}. Look at these labels (keras-deeplab check); "
            "try a lower --learning-rate, --precision float32 or mixed_bfloat16, and another --to."
        )


class Progress:
    """A bar with loss, learning rate, pictures per second, time to go of the whole run, and the device's peak memory.

    Where the output is no terminal, a line every half minute.
    """

    def __init__(self, run):
        self.run, self.recent = run, deque(maxlen=RECENT)
        self.start = self.shown = None

    def __call__(self, step, loss, seconds):
        now = time.monotonic()
        if self.start is None:  # the first step compiles: its time tells nothing of the others
            self.start = step, now
        else:
            self.recent.append((loss, seconds))
        pause = REDRAWN if sys.stdout.isatty() else LINES
        if self.shown is None or now - self.shown >= pause or step == self.run.steps:
            self.shown = now
            self._draw(self._line(step, loss, now))
            if step == self.run.steps and sys.stdout.isatty():
                print()

    def say(self, text):
        """Prints lines above the bar."""
        self._draw("")
        print(("\r" if sys.stdout.isatty() else "") + text, flush=True)

    def _line(self, step, loss, now):
        run = self.run
        if self.recent:
            loss = sum(loss for loss, _ in self.recent) / len(self.recent)
        parts = [f"loss {loss:.4f}", f"rate {learning_rate_of_step(run.model.optimizer, step):.2e}"]
        if self.recent:
            left = (now - self.start[1]) / (step - self.start[0]) * (run.steps - step)
            parts.append(f"{run.batch * len(self.recent) / sum(s for _, s in self.recent):.1f} img/s")
            parts.append(f"ETA {timedelta(seconds=round(left))}")
        if memory := device_memory():
            parts.append(f"{memory / 2**30:.1f} GiB")
        count, told = f"step {step}/{run.steps}", " ".join(parts)
        room = shutil.get_terminal_size().columns - len(f"{count} [] {told} ")
        return f"{count} [{bar(step / run.steps, max(4, min(20, room)))}] {told}"

    def _draw(self, line):
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            print("\r" + line[:width].ljust(width), end="", flush=True)
        elif line:
            print(line, flush=True)


def bar(share, width):
    return ("=" * int(share * width)).ljust(width)


def device_memory():
    """The most bytes that the first accelerator has held, or None where the backend does not tell."""
    if keras.backend.backend() == "jax":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if keras.backend.backend() == "tensorflow" and tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return None


class Validation:
    """Scores the model every so often and at the end; the one of highest mIoU is best.keras.

    Args:
        run: the `Run`.
        score: called without arguments, as `keras_deeplab.evaluate` answers.
        on: `resume.fingerprint` of what it scores on.
        every: steps from one validation to the next.
        say: prints text.
        scored: called with the step and what `score` gave.

    Raises:
        ValueError: if there is a best.keras of another run, or chosen on other pictures.
    """

    def __init__(self, run, score, on, every, say, scored=None):
        self.run, self.score, self.every, self.say, self.scored = run, score, every, say, scored
        self.path, self.options, self.best = run.to / "best.keras", {**run.options, "validation on": on}, None
        if self.path.exists():
            resume.check(self.path, self.options)
            self.best = resume.read(self.path)

    def __call__(self, step, loss, seconds):
        if step % self.every and step != self.run.steps:
            return
        write_weights_back(self.run.model)
        found = self.score()
        if self.best is None or found["mIoU"] > self.best["mIoU"]:
            self.best = {"step": step, "mIoU": found["mIoU"], "options": self.options}
            resume.write(resume.without_optimizer(self.run.model), self.path, self.best)
        self.say(self._text(step, found))
        if self.scored:
            self.scored(step, found)

    def _text(self, step, found):
        classes = [
            f"{scores['class'].strip()} {'-' if scores['IoU'] is None else format(scores['IoU'], '.2f')}"
            for scores in found["per_class"]
        ]
        best = f"best {self.best['mIoU']:.2f} at step {self.best['step']}"
        lines = textwrap.wrap("IoU: " + ", ".join(classes), 110, initial_indent="  ", subsequent_indent="  ")
        return "\n".join([f"step {step}: mIoU {found['mIoU']:.2f} ({best}), aAcc {found['aAcc']:.2f}", *lines])
