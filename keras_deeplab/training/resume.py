"""A run in, a file out from which the very same run goes on: weights, optimizer, random states, step and options.

The file is a .keras file with a record in it, `training.json`. Files are replaced whole, so a process may be killed at any
moment. What a checkpoint is loaded into is compiled anew: Keras would forget which layers are frozen, and then drop the
optimizer's state.
"""

import hashlib
import json
import os
import signal
import threading
import zipfile

import keras

from keras_deeplab.training.keras_hooks import write_weights_back
from keras_deeplab.zoo import models  # noqa: F401 (Keras finds the classes of a file only where they are imported)
from keras_deeplab.zoo.presets import copy_weights

RECORD = "training.json"


def write(model, path, record=None):
    """Saves a model, whole or not at all.

    Args:
        model: its optimizer, if it is compiled, is saved too.
        path: of the .keras file.
        record: of its training, if the file is a checkpoint: what `read` gives back, as JSON has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.part.keras")
    write_weights_back(model)
    model.save(partial)
    if record:
        with zipfile.ZipFile(partial, "a") as archive:
            archive.writestr(RECORD, json.dumps(record))
    os.replace(partial, path)


def read(path):
    """The record of a checkpoint.

    Raises:
        ValueError: if the file is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(RECORD))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of a training. Move it away, or train --to another folder."
        ) from error


def check(path, options):
    """Raises `ValueError` if a checkpoint was made with other options, on which the weights depend."""
    made = read(path)["options"]
    options = json.loads(json.dumps(options))  # tuples are lists there
    other = [name for name in {**made, **options} if made.get(name) != options.get(name)]
    if other:
        then, now = (", ".join(_said(name, values.get(name)) for name in other) for values in (made, options))
        raise ValueError(
            f"{path} was made with {then}. Received: {now}. Go on with the same, or train --to another folder."
        )


def _said(name, value):
    if value is None or value == []:
        return f"no {name}"
    return f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"


def steps_made(path, options):
    """The steps that a checkpoint of these options has behind it; 0 where there is no file."""
    if not path.exists():
        return 0
    check(path, options)
    return read(path)["step"]


def load(path):
    """The model of a checkpoint, uncompiled."""
    return keras.saving.load_model(path, compile=False)


def restore(model, path):
    """Fills a model, its optimizer, which is built, and its random states from a checkpoint."""
    model.load_weights(path)


def without_optimizer(model):
    """The same model, uncompiled: half the size in a file."""
    write_weights_back(model)
    copy = type(model).from_config(model.get_config())
    copy_weights(model, copy, ())
    return copy


def fingerprint(pairs):
    """What tells one set of pictures from another: how many there are, and a digest of their names."""
    if hasattr(pairs, "dataset"):
        return f"{len(pairs)} pictures of {pairs.dataset} {pairs.split}"
    return f"{len(pairs)} pictures, names {hashlib.sha256(chr(10).join(pairs.stems).encode()).hexdigest()[:8]}"


class Stop:
    """Inside, Ctrl-C and SIGTERM let a step finish and be saved; a second one does not wait.

    Attributes:
        asked: whether the run is to stop.
    """

    asked = False

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        else:
            self._before = {}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        os.write(2, b"\nStops after this step. Once more: stops at once, with the last checkpoint.\n")


class Checkpoint:
    """Writes last.keras every so often, at the end, and when the run is to stop, which it then does.

    Args:
        run: the `Run`.
        every: steps from one to the next.
        stop: a `Stop`.
        sound: called with the step before its weights are written; raises if they are not fit to go on from.
    """

    def __init__(self, run, every, stop, sound):
        self.run, self.every, self.stop, self.sound = run, every, stop, sound

    def __call__(self, step, loss, seconds):
        last = self.run.to / "last.keras"
        if step % self.every == 0 or step == self.run.steps or self.stop.asked:
            write_weights_back(self.run.model)
            self.sound(step)
            write(self.run.model, last, {"step": step, "options": self.run.options})
        if self.stop.asked and step < self.run.steps:
            print(
                f"\nStopped after step {step} of {self.run.steps}, saved in {last}: the same command goes on from it."
            )
            raise KeyboardInterrupt
