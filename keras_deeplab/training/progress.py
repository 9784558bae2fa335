"""The steps of a run in; a progress bar, scores of validation, and errors of a diverging loss out.

`Steps` calls each of the other classes after every step, with the number of the step, its loss, and the seconds that it took.
"""

import math
import shutil
import sys
import textwrap
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_deeplab.data import pipeline
from keras_deeplab.networks.deeplab import AUXILIARY_WEIGHT
from keras_deeplab.training import resume
from keras_deeplab.training.keras_hooks import learning_rate_of_step, write_weights_back

RECENT_STEPS = 50  # over which the shown loss and speed are averaged
LINE_INTERVAL = 30.0  # seconds between two lines, if the output is not a terminal
BAR_INTERVAL = 0.2  # seconds between two updates of the bar, if it is
LOSS_LIMIT = 100  # times the loss of guessing all classes equally


@dataclass
class Run:
    """The facts of a run that the listeners of `Steps` need.

    Attributes:
        model: the compiled model.
        folder: `Path` of the folder that the run writes to.
        pairs: the pictures and labels to train on, as `keras_deeplab.data.pairs` returns them.
        batch: pictures of a step, over all devices.
        seed: of the data.
        steps_done: steps that the run had made when it was stopped, or 0.
        steps: steps of the whole run.
        options: {name: value} of all options that the weights depend on.
        head_losses: {"logits" or "auxiliary": loss of the last step} of a model with an auxiliary head; empty without one.
    """

    model: keras.Model
    folder: Path
    pairs: object
    batch: int
    seed: int
    steps_done: int
    steps: int
    options: dict
    head_losses: dict = field(default_factory=dict)


class Steps(keras.callbacks.Callback):
    """Calls `listener(step, loss, seconds)` after every step.

    The step is counted from 1 over the whole run, the loss is that of this step alone, and the seconds are its duration.
    `run.head_losses` are of this step too.

    Args:
        run: the `Run`.
        listeners: called in this order. The seconds of the next step do not include their time.
    """

    def __init__(self, run, listeners):
        super().__init__()
        self.run, self.listeners, self.totals = run, listeners, {}

    def on_train_begin(self, logs=None):
        self.since = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        losses = self.losses_of_step(batch, logs)
        loss = losses.pop("loss")
        self.run.head_losses = {name.removesuffix("_loss"): value for name, value in losses.items()}
        seconds = time.monotonic() - self.since
        with without_distribution():
            for listener in self.listeners:
                listener(self.run.steps_done + batch + 1, loss, seconds)
        self.since = time.monotonic()

    def losses_of_step(self, batch, logs):
        """{name: loss of this step}; the values of `logs` are means of the steps since `fit` began."""
        totals = {name: float(value) * (batch + 1) for name, value in logs.items() if name.endswith("loss")}
        losses = {name: total - self.totals.get(name, 0.0) for name, total in totals.items()}
        self.totals = totals
        return losses


@contextmanager
def without_distribution():
    """A context in which new variables belong to this process only, and not to the `keras.distribution` of all processes.

    Only one of several processes validates and saves. It must not wait for the others, which do not take part.
    """
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


class LossWatch:
    """Stops a run with an error if its loss is not finite, or is more than 100 times that of guessing all classes equally.

    Args:
        run: the `Run`.
        class_weight: the class weights of the loss, or None (the default).
        loss_weights: the weights of the losses whose sum is the loss, or None for one of the weight 1 (the default).
    """

    def __init__(self, run, class_weight=None, loss_weights=None):
        self.run = run
        guessing = (
            math.log(max(2, run.model.num_classes)) * max(class_weight or [1.0]) * max(1.0, sum(loss_weights or [1.0]))
        )
        self.limit = LOSS_LIMIT * guessing * (1 + AUXILIARY_WEIGHT)

    def __call__(self, step, loss, seconds):
        if not math.isfinite(loss):
            self._stop(step, f"The loss must be finite. Received: {loss}")
        if loss > self.limit:
            rule = f"The loss must be at most {self.limit:.4g}, {LOSS_LIMIT} times that of guessing all classes equally"
            self._stop(step, f"{rule}. Received: {loss:.4g}")

    def check_weights(self, step):
        """Raises `ValueError` if a weight is not finite.

        The loss shows this only one step later. By then a checkpoint with these weights could have replaced a good one.
        """
        if not all(np.isfinite(keras.ops.convert_to_numpy(v)).all() for v in self.run.model.weights):
            self._stop(step, "All weights must be finite. Received: infinite values or NaN")

    def _stop(self, step, rule_and_value):
        run, last = self.run, self.run.folder / "last.keras"
        numbers = pipeline.files_of_step(len(run.pairs), run.batch, run.seed, step - 1)
        files = ", ".join(str(run.pairs.images[i]) for i in numbers)
        if last.exists():
            checkpoint = f"The last checkpoint, {last}, is of step {resume.read(last)['step']}"
        else:
            checkpoint = "No checkpoint was saved yet"
        raise ValueError(
            f"{rule_and_value} at step {step}, on {files}. {checkpoint}. Look at the labels of these pictures "
            "(`keras-deeplab check`), or try a lower --learning-rate, or --precision float32 or mixed_bfloat16, and give "
            "the new run another folder --to."
        )


class Progress:
    """Shows a bar with loss, learning rate, pictures per second, the remaining time of the run, and the peak GPU memory.

    If the output is not a terminal, it prints a line every half minute in place of the bar.

    Args:
        run: the `Run`.
    """

    def __init__(self, run):
        self.run, self.recent = run, deque(maxlen=RECENT_STEPS)  # (loss, seconds) of each step
        self.start = None  # (step, time) of the first step
        self.last_shown = None  # time

    def __call__(self, step, loss, seconds):
        now = time.monotonic()
        if self.start is None:  # leave the first step out: its time includes building the graph
            self.start = step, now
        else:
            self.recent.append((loss, seconds))
        interval = BAR_INTERVAL if sys.stdout.isatty() else LINE_INTERVAL
        if self.last_shown is None or now - self.last_shown >= interval or step == self.run.steps:
            self.last_shown = now
            self._draw(self._line(step, loss, now))
            if step == self.run.steps and sys.stdout.isatty():
                print()

    def print_above(self, text):
        """Prints lines of text above the bar."""
        self._draw("")
        print(("\r" if sys.stdout.isatty() else "") + text, flush=True)

    def _line(self, step, loss, now):
        run = self.run
        if self.recent:
            loss = sum(loss for loss, _ in self.recent) / len(self.recent)
        parts = [f"loss {loss:.4f}", f"rate {learning_rate_of_step(run.model.optimizer, step):.2e}"]
        if self.recent:
            # Not from the seconds of the steps: they do not include validation and saving.
            remaining = (now - self.start[1]) / (step - self.start[0]) * (run.steps - step)
            parts.append(f"{run.batch * len(self.recent) / sum(s for _, s in self.recent):.1f} img/s")
            parts.append(f"ETA {timedelta(seconds=round(remaining))}")
        if memory := device_memory():
            parts.append(f"{memory / 2**30:.1f} GiB")
        count, facts = f"step {step}/{run.steps}", " ".join(parts)
        free_columns = shutil.get_terminal_size().columns - len(f"{count} [] {facts} ")
        return f"{count} [{bar(step / run.steps, max(4, min(20, free_columns)))}] {facts}"

    def _draw(self, line):
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            print("\r" + line[:width].ljust(width), end="", flush=True)
        elif line:
            print(line, flush=True)


def bar(share, width):
    """A text bar of `width` characters, of which the `share` 0..1 is filled."""
    return ("=" * int(share * width)).ljust(width)


def device_memory():
    """The peak memory of the first accelerator in bytes, or None if the backend cannot report it."""
    if keras.backend.backend() == "jax":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if keras.backend.backend() == "tensorflow" and tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return None


class Validation:
    """Scores the model regularly and at the end of the run, and saves the model of the highest mIoU as best.keras.

    Args:
        run: the `Run`.
        score: called without arguments; returns what `keras_deeplab.evaluate` returns.
        data: `resume.fingerprint` of the pictures that `score` uses.
        every: steps between two validations.
        print_text: prints a text.
        on_scores: called with the step and the scores, or None (the default).

    Raises:
        ValueError: if there is a best.keras of another run, or one that was chosen on other pictures.
    """

    def __init__(self, run, score, data, every, print_text, on_scores=None):
        self.run, self.score, self.every, self.print_text, self.on_scores = run, score, every, print_text, on_scores
        self.path, self.options, self.best = run.folder / "best.keras", {**run.options, "validation on": data}, None
        if self.path.exists():
            resume.check(self.path, self.options)
            self.best = resume.read(self.path)

    def __call__(self, step, loss, seconds):
        if step % self.every and step != self.run.steps:
            return
        write_weights_back(self.run.model)
        scores = self.score()
        if self.best is None or scores["mIoU"] > self.best["mIoU"]:
            self.best = {"step": step, "mIoU": scores["mIoU"], "options": self.options}
            resume.write(resume.without_optimizer(self.run.model), self.path, self.best)
        self.print_text(self._text(step, scores))
        if self.on_scores:
            self.on_scores(step, scores)

    def _text(self, step, scores):
        classes = [
            f"{of['class'].strip()} {'-' if of['IoU'] is None else format(of['IoU'], '.2f')}"
            for of in scores["per_class"]
        ]
        best = f"best {self.best['mIoU']:.2f} at step {self.best['step']}"
        lines = textwrap.wrap("IoU: " + ", ".join(classes), 110, initial_indent="  ", subsequent_indent="  ")
        return "\n".join([f"step {step}: mIoU {scores['mIoU']:.2f} ({best}), aAcc {scores['aAcc']:.2f}", *lines])
