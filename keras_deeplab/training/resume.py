"""A run in, a checkpoint out from which the same run continues: weights, optimizer, random states, step and options.

A checkpoint is a .keras file that also contains `training.json`, the record of its training. A file is written under another
name and then renamed, so the process may be killed at any moment.

A model from a checkpoint is compiled by the recipe and not by Keras: Keras does not store which layers are frozen, and would
therefore not load the optimizer's state.
"""

import hashlib
import json
import os
import signal
import threading
import zipfile

import keras

from keras_deeplab.files import written_whole
from keras_deeplab.training.keras_hooks import write_weights_back
from keras_deeplab.zoo import models  # noqa: F401 (Keras finds the classes of a file only if they are imported)
from keras_deeplab.zoo.presets import copy_weights

RECORD = "training.json"


def write(model, path, record=None):
    """Saves a model. If the process is killed meanwhile, the old file stays as it was.

    Args:
        model: a Keras model. If it is compiled, its optimizer is saved too.
        path: `Path` of the .keras file.
        record: for a checkpoint, the record of its training, which must be convertible to JSON. None (the default): none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights_back(model)
    with written_whole(path) as partial:
        model.save(partial)
        if record:
            with zipfile.ZipFile(partial, "a") as archive:
                archive.writestr(RECORD, json.dumps(record))


def read(path):
    """The record of a checkpoint, a dict.

    Raises:
        ValueError: if the file is not a checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(RECORD))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"{path} must be a checkpoint that `keras-deeplab train` wrote. Received: a file without the record {RECORD}. "
            "Move it away, or train --to another folder."
        ) from error


def check(path, options):
    """Raises `ValueError` if a checkpoint was made with other options than these, {name: value}."""
    saved_options = read(path)["options"]
    options = json.loads(json.dumps(options))  # as in the file: JSON turns tuples into lists
    different = [name for name in {**saved_options, **options} if saved_options.get(name) != options.get(name)]
    if different:
        saved, received = (
            ", ".join(_option_text(name, values.get(name)) for name in different) for values in (saved_options, options)
        )
        raise ValueError(
            f"A run must be continued with its own options. {path} was made with {saved}. Received: {received}. "
            "Use the same options, or train --to another folder."
        )


def _option_text(name, value):
    """An option as an error message shows it: "--crop 33 49", or "no --batch"."""
    if value is None or value == []:
        return f"no {name}"
    return f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"


def steps_made(path, options):
    """The number of steps that a checkpoint was written after, or 0 if there is no file.

    Raises:
        ValueError: if the file is not a checkpoint, or was made with other options.
    """
    if not path.exists():
        return 0
    check(path, options)
    return read(path)["step"]


def load(path):
    """The model of a checkpoint, not compiled."""
    return keras.saving.load_model(path, compile=False)


def restore(model, path):
    """Loads the weights, the optimizer's state and the random states of a checkpoint into a compiled model.

    The optimizer must be built.
    """
    model.load_weights(path)


def without_optimizer(model):
    """A copy of the model that is not compiled. Its file is half as large."""
    write_weights_back(model)
    copy = type(model).from_config(model.get_config())
    copy_weights(model, copy, ())
    return copy


def fingerprint(pairs):
    """A text that identifies a set of pictures: their number, and their data set and split or a digest of their names."""
    if hasattr(pairs, "dataset"):
        return f"{len(pairs)} pictures of {pairs.dataset} {pairs.split}"
    return f"{len(pairs)} pictures, names {hashlib.sha256(chr(10).join(pairs.stems).encode()).hexdigest()[:8]}"


class Stop:
    """A context in which Ctrl-C or SIGTERM is noted, so that the step can be finished and saved. A second one stops at once.

    Attributes:
        requested: whether the run is to stop.
    """

    requested = False

    def __enter__(self):
        self._previous_handlers = {}
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _request(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Not by `print`, which fails if the signal interrupts another `print`.
        os.write(2, b"\nStopping after this step. Press Ctrl-C again to stop at once without saving this step.\n")


class Checkpoint:
    """Writes last.keras regularly, at the end of the run, and when a stop is requested. A stop then ends the run.

    Args:
        run: the `Run`.
        every: steps between two checkpoints.
        stop: a `Stop`.
        check_weights: called with the step before a checkpoint is written; raises if the weights must not be saved.
    """

    def __init__(self, run, every, stop, check_weights):
        self.run, self.every, self.stop, self.check_weights = run, every, stop, check_weights

    def __call__(self, step, loss, seconds):
        last = self.run.folder / "last.keras"
        if step % self.every == 0 or step == self.run.steps or self.stop.requested:
            write_weights_back(self.run.model)
            self.check_weights(step)
            write(self.run.model, last, {"step": step, "options": self.run.options})
        if self.stop.requested and step < self.run.steps:
            print(
                f"\nStopped after step {step} of {self.run.steps} and saved {last}. The same command continues from it."
            )
            raise KeyboardInterrupt
