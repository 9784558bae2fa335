"""Label maps in, files of a folder out; and the record of that folder, by which a later run skips what is done.

The record is predictions.jsonl: the first line says by which model, protocol and options the results are made, each further
line that a picture is done. A line is added when all results of its picture are in place.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from PIL import Image

from keras_deeplab.files import locked, remove_temporary_files, written_whole
from keras_deeplab.inference.segment import network_of, resized_to_box
from keras_deeplab.inference.sources import real_path
from keras_deeplab.pictures.addresses import is_address
from keras_deeplab.pictures.draw import overlay, palette_image

RECORD, FAILED, LOCK, UNFINISHED = "predictions.jsonl", "failed.txt", ".predictions.lock", ".predictions.unfinished"

ANEW = "begin this one anew (--overwrite, in Python overwrite=True)"


class Outcome(NamedTuple):
    """What there is to write about a picture."""

    model: keras.Model
    picture: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None


def _write_grey(outcome, path):
    Image.fromarray(outcome.labels).save(path)


def _write_palette(outcome, path):
    palette_image(outcome.labels, outcome.model.palette).save(path)


def _write_overlay(outcome, path):
    overlay(outcome.picture, outcome.labels, outcome.model.classes, outcome.model.palette).save(path)


def _write_scores(outcome, path):
    resized = resized_to_box(outcome.model.protocol, outcome.picture)
    np.savez(path, labels=outcome.labels, scores=outcome.scores, input=resized)


KINDS = {  # kind of result: (what its file's name adds to the picture's, what writes it)
    "grey": (".png", _write_grey),
    "palette": (".png", _write_palette),
    "overlay": ("_overlay.png", _write_overlay),
    "scores": (".npz", _write_scores),
}
MOSAIC_KINDS = {  # the same for rasters, whose outcome is an `inference.rasters.Mosaic`
    "labels": (".tif", lambda mosaic, path: mosaic.write_labels(path)),
    "scores": ("_scores.tif", lambda mosaic, path: mosaic.write_scores(path)),
}


def identity(model, options):
    """What the results depend on, as a dict for JSON: those of equal dicts are equal.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        options: of `segment`.
    """
    folded = network_of(model).folded
    config = {key: value for key, value in folded.get_config().items() if key not in ("name", "row", "protocol")}
    digest = hashlib.sha256(repr(sorted(config.items())).encode())
    for weight in folded.get_weights():
        digest.update(np.ascontiguousarray(weight))
    chosen = {key: "box" if value is True else value for key, value in options.items() if value}
    if "resize" in chosen:
        chosen["resize"] = sorted(map(int, chosen["resize"]), reverse=True)
    return {
        "model": digest.hexdigest(),
        "row": model.row,
        "protocol": json.loads(json.dumps(model.protocol.to_dict())),
        "options": chosen,
        "backend": keras.backend.backend(),
    }


class ResultsFolder:
    """The folder of the results, for one run. `opened` makes one.

    Attributes:
        kinds: what a source's results are, a list.
        endings: {kind of result: what its file's name adds to the source's}.
        todo: the sources whose results are missing, in order.
        skipped: how many are done.
    """

    def __init__(self, folder, kinds, table=KINDS):
        self.folder, self.kinds = Path(folder), kinds
        self.endings = {kind: table[kind][0] for kind in kinds}
        self.writers = {kind: table[kind][1] for kind in kinds}
        self.todo, self.skipped = [], 0
        self._adding = threading.Lock()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder, sources, kinds, of, overwrite=False, table=KINDS):
        """Locks the folder, makes it if need be, and finds out what is done.

        Args:
            folder: for the results.
            sources: a list of `Source`.
            kinds: of `table`.
            of: what `identity` returns.
            overwrite: whether to begin anew, whatever the folder holds.
            table: what `kinds` are of, such as `KINDS`.

        Raises:
            ValueError: if the folder holds results of another identity or of other pictures, or files that no record names,
                and `overwrite` is not set; if results would overwrite pictures or one another.
            InUseError: if another run writes into the folder.
        """
        self = cls(folder, kinds, table)
        self.require_distinct(sources)
        with locked(self.folder / LOCK, f"is writing predictions into {folder}"):
            self._read(sources, of, overwrite)
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)  # of a run that was killed
            (self.folder / UNFINISHED).mkdir()
            (self.folder / FAILED).unlink(missing_ok=True)
            try:
                with open(self.folder / RECORD, "ab", buffering=0) as self._record:
                    yield self
            finally:
                shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)

    def write(self, source, stamp, outcome):
        """Writes the results of a picture, and notes that it is done. Several threads may write at the same time.

        Args:
            source: a `Source`.
            stamp: what `stamp_of` returned before the picture was read.
            outcome: an `Outcome`.
        """
        unfinished = {}
        for kind in reversed(self.kinds):  # the label map last
            unfinished[kind] = self.folder / UNFINISHED / f"{threading.get_ident()}{self.endings[kind]}"
            self.writers[kind](outcome, unfinished[kind])
        self.finish(source, stamp, unfinished)

    def place_for_work(self):
        """A new folder for results that are being written. It is removed at the end of the run."""
        return Path(tempfile.mkdtemp(dir=self.folder / UNFINISHED))

    def finish(self, source, stamp, unfinished):
        """Moves complete results to their places, and notes that the source is done.

        Args:
            source, stamp: as of `write`.
            unfinished: {kind of result: path of the file or folder}.
        """
        for kind, made in unfinished.items():
            path = self.path_of(source, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():  # nothing takes the place of a folder that is not empty
                os.replace(path, self.place_for_work() / path.name)
            os.replace(made, path)
        self._add(_Done(source.name, _absolute(source.place), stamp, list(self.kinds)))

    def path_of(self, source, kind):
        """Where a result of a source goes."""
        return self.folder / (source.name + self.endings[kind])

    def _add(self, done):
        with self._adding:
            self._record.write((json.dumps(done._asdict()) + "\n").encode())

    def note_failure(self, place, cause):
        """Adds a picture that could not be read to failed.txt."""
        line = f"{place}\t{cause}".replace("\n", " ")
        with open(self.folder / FAILED, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(line + "\n")

    def require_distinct(self, sources):
        """Raises `ValueError` if two results, or a result and a picture, would be the same file."""
        place_of, pictures = {}, {real_path(source.place) for source in sources if not is_address(source.place)}
        for place, name in sources:
            for ending in self.endings.values():
                if (result := name + ending) in place_of:
                    raise ValueError(
                        f"{place} and {place_of[result]} would both be written to {result}. Give them other names, or "
                        "predict them into two folders."
                    )
                if real_path(self.folder / result) in pictures:
                    raise ValueError(
                        f"{self.folder / result} is a picture, and would be overwritten by the results of {place}. Name "
                        "another folder for the results."
                    )
                place_of[result] = place

    def _read(self, sources, of, overwrite):
        """Sets `todo` and `skipped`, and writes the record anew, without damaged lines."""
        path = self.folder / RECORD
        remove_temporary_files(path)
        done = {}
        if not overwrite:
            begun, done = _lines_of(path)
            if begun is None:
                self._require_absent(sources)
            else:
                _require_same(self.folder, begun, of)
        self.todo = [source for source in sources if not self._is_done(source, done.get(source.name))]
        self.skipped = len(sources) - len(self.todo)
        for source in self.todo:
            done.pop(source.name, None)
        with written_whole(path) as temporary, open(temporary, "w") as file:
            file.write(json.dumps({"version": 1, **of}) + "\n")
            file.writelines(json.dumps(one._asdict()) + "\n" for one in done.values())

    def _require_absent(self, sources):
        for kind in self.kinds:
            for source in sources:
                if os.path.exists(result := self.path_of(source, kind)):
                    raise ValueError(
                        f"{result} exists, and {self.folder} has no {RECORD} that says by which model it was made. Name "
                        f"another folder, or {ANEW}."
                    )

    def _is_done(self, source, done):
        """Whether the results of a picture are in place.

        Raises:
            ValueError: if they are of another picture.
        """
        if done is None:
            return False
        stamp = stamp_of(source.place)
        same_place, same_stamp = done.place == _absolute(source.place), done.stamp == stamp
        if not same_place and not (
            same_stamp and stamp
        ):  # a picture that was moved has another place and the same stamp
            raise ValueError(
                f"{self.path_of(source, self.kinds[0])} is the result of {done.place}, not of {source.place}. Name another "
                f"folder, or {ANEW}."
            )
        has_all = set(self.kinds) <= set(done.kinds)
        return same_stamp and has_all and all(os.path.exists(self.path_of(source, kind)) for kind in self.kinds)


class _Done(NamedTuple):
    """A line of the record."""

    name: str  # of the results
    place: str  # of the picture: its absolute path, or its address
    stamp: list | None
    kinds: list


def stamp_of(place):
    """[bytes, time of the last change in ns] of a file, by which a changed picture is known. None for an address."""
    if is_address(place):
        return None
    try:
        status = os.stat(place)
    except OSError:
        return None  # reading it will say why
    return [status.st_size, status.st_mtime_ns]


def _absolute(place):
    return place if is_address(place) else os.path.abspath(place)


def _lines_of(path):
    """The first line of a record (None if there is no record), and {name: `_Done`}. A line cut short by a kill is left out."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return None, {}
    with file:
        begun, done = _parsed(file.readline()), {}
        if not isinstance(begun, dict) or "model" not in begun:
            raise ValueError(
                f"{path} is not a record of predictions, or is damaged. Name another folder, or delete it."
            )
        for line in file:
            with contextlib.suppress(TypeError):
                one = _Done(**_parsed(line))
                done[one.name] = one
    return begun, done


def _parsed(line):
    try:
        return json.loads(line)
    except ValueError:
        return None


def _require_same(folder, begun, of):
    """Raises `ValueError` if a record began with another identity."""
    different = [key for key in of if key != "row" and begun.get(key) != of[key]]
    if different:
        made_by = f" of {begun['row']}" if begun.get("row") else ""
        raise ValueError(
            f"{folder} holds results{made_by} by another {' and '.join(different)}. Name another folder, or {ANEW}."
        )
