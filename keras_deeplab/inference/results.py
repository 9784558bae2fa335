"""Label maps in, files of a folder out; and the record of that folder, by which a later run skips what is done.

The record is predictions.jsonl: the first line says by which model, protocol and options the results are made, each further
line that a picture is done. A line is added when all results of its picture are in place. The workers of Apache Beam write
such lines into files of the folder .predictions.shards; whichever run comes next puts them into the record.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
import zlib
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
SHARDS = ".predictions.shards"

ANEW = "begin this one anew (--overwrite, in Python overwrite=True)"


# For PNG files. zlib looks for runs alone: two to four times as fast, and smaller where the borders of classes are curved.
OF_LABEL_MAPS = {"compress_type": zlib.Z_RLE}


class Outcome(NamedTuple):
    """What there is to write about a picture."""

    model: keras.Model
    picture: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None
    resize: tuple[int, int] | None = None  # as of `segment`


def _write_grey(outcome, path):
    Image.fromarray(outcome.labels).save(path, **OF_LABEL_MAPS)


def _write_palette(outcome, path):
    palette_image(outcome.labels, outcome.model.palette).save(path, **OF_LABEL_MAPS)


def _write_overlay(outcome, path):
    overlay(outcome.picture, outcome.labels, outcome.model.classes, outcome.model.palette).save(path)


def _write_scores(outcome, path):
    resized = resized_to_box(protocol_of(outcome.model, outcome.resize), outcome.picture)
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


def protocol_of(model, resize):
    """The model's test protocol with the option `resize` of `segment`."""
    return model.protocol.resized(resize) if resize else model.protocol


def identity(model, options, folded=None):
    """What the results depend on, as a dict for JSON: those of equal dicts are equal.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        options: of `segment`.
        folded: the model without batch norms, if the caller has it.
    """
    folded = folded or network_of(model, calls_again=True).folded
    config = {key: value for key, value in folded.get_config().items() if key not in ("name", "row", "protocol")}
    digest = hashlib.sha256(repr(sorted(config.items())).encode())
    for weight in folded.get_weights():
        digest.update(np.ascontiguousarray(weight))
    chosen = {key: "box" if value is True else value for key, value in options.items() if value}
    protocol = protocol_of(model, chosen.pop("resize", None))
    return {
        "model": digest.hexdigest(),
        "row": model.row,
        "protocol": json.loads(json.dumps(protocol.to_dict())),
        "options": chosen,
        "backend": keras.backend.backend(),
    }


class LocalFiles:
    """The files of a folder of results on this machine. `inference.distributed.BeamFiles` is the same for other storage.

    Names are relative to the folder.
    """

    def __init__(self, folder):
        if is_address(folder):
            raise ValueError(
                f"Results must be written to a folder of this machine. Received: {folder}. With --engine beam, in Python "
                "`kd.segment_with_beam`, they may go to any storage that Apache Beam writes."
            )
        self.folder = Path(folder)

    def place(self, name):
        """The path of a file."""
        return str(self.folder / name)

    def locked(self):
        """Holds the folder, and makes it if need be."""
        return locked(self.folder / LOCK, f"is writing predictions into {self.folder}")

    def exists(self, name):
        """Whether there is such a file."""
        return os.path.exists(self.folder / name)

    def names_in(self, name):
        """The files of a folder in it."""
        with contextlib.suppress(FileNotFoundError):
            return [f"{name}/{file}" for file in sorted(os.listdir(self.folder / name))]
        return []

    def lines(self, name):
        """The lines of a file, an iterator of bytes, or None without the file."""
        try:
            file = open(self.folder / name, "rb")
        except FileNotFoundError:
            return None
        return _closing(file)

    def write(self, name, lines):
        """Writes a text file whole, or not at all. The caller holds the folder."""
        remove_temporary_files(self.folder / name)
        with written_whole(self.folder / name) as temporary:
            with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(lines)

    def remove(self, name):
        """Removes a file, or a folder with all that is in it, if it is there."""
        if (self.folder / name).is_dir():
            shutil.rmtree(self.folder / name, ignore_errors=True)
        else:
            (self.folder / name).unlink(missing_ok=True)


def _closing(file):
    with file:
        yield from file


class ResultsFolder:
    """The folder of the results, for one run. `opened` or `begun` makes one.

    Attributes:
        kinds: what a source's results are, a list.
        endings: {kind of result: what its file's name adds to the source's}.
        todo: the sources whose results are missing, in order.
        skipped: how many are done.
    """

    def __init__(self, folder, kinds, table=KINDS, files=None):
        self.folder, self.kinds, self.files = folder, kinds, files or LocalFiles(folder)
        self.endings = {kind: table[kind][0] for kind in kinds}
        self.writers = {kind: table[kind][1] for kind in kinds}
        self.todo, self.skipped = [], 0
        self._adding = threading.Lock()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder, sources, kinds, of, overwrite=False, table=KINDS):
        """`begun`, for results that `write` writes."""
        with cls.begun(Path(folder), sources, kinds, of, overwrite, table) as self:
            (self.folder / UNFINISHED).mkdir()
            with open(self.folder / RECORD, "ab", buffering=0) as self._record:
                yield self

    @classmethod
    @contextlib.contextmanager
    def begun(cls, folder, sources, kinds, of, overwrite=False, table=KINDS, files=None):
        """Locks the folder, makes it if need be, and finds out what is done.

        Args:
            folder: for the results.
            sources: a list of `Source`.
            kinds: of `table`.
            of: what `identity` returns.
            overwrite: whether to begin anew, whatever the folder holds.
            table: what `kinds` are of, such as `KINDS`.
            files: of the folder; `LocalFiles` if not given.

        Raises:
            ValueError: if the folder holds results of another identity or of other pictures, or files that no record names,
                and `overwrite` is not set; if results would overwrite pictures or one another.
            InUseError: if another run writes into the folder.
        """
        self = cls(folder, kinds, table, files)
        self.require_distinct(sources)
        with self.files.locked():
            self._read(sources, of, overwrite)
            self.files.remove(UNFINISHED)  # of a run that was killed
            self.files.remove(FAILED)
            try:
                yield self
            finally:
                self.files.remove(UNFINISHED)

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
        self._add(Done(source.name, absolute(source.place), stamp, list(self.kinds)))

    def path_of(self, source, kind):
        """Where a result of a source goes."""
        return self.folder / self.name_of(source, kind)

    def name_of(self, source, kind):
        """The name of a result in the folder."""
        return source.name + self.endings[kind]

    def _add(self, done):
        with self._adding:
            self._record.write((json.dumps(done._asdict()) + "\n").encode())

    def note_failure(self, place, cause):
        """Adds a picture that could not be read to failed.txt."""
        with open(self.folder / FAILED, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(_failure(place, cause))

    def require_distinct(self, sources):
        """Raises `ValueError` if two results, or a result and a picture, would be the same file."""
        place_of, pictures = {}, {_real(source.place) for source in sources}
        for place, name in sources:
            for ending in self.endings.values():
                if (result := name + ending) in place_of:
                    raise ValueError(
                        f"{place} and {place_of[result]} would both be written to {result}. Give them other names, or "
                        "predict them into two folders."
                    )
                if _real(self.files.place(result)) in pictures:
                    raise ValueError(
                        f"{self.files.place(result)} is a picture, and would be overwritten by the results of {place}. Name "
                        "another folder for the results."
                    )
                place_of[result] = place

    def take_notes(self, of):
        """Puts what Beam's workers noted into the record, and the pictures that they could not read into failed.txt.

        Returns:
            how many pictures were done, and a list of (place, cause) of those that failed.

        Raises:
            OSError: if a picture is neither.
        """
        _, done, causes = _lines_of(self.files)
        failed = [(one.place, causes[one.name]) for one in self.todo if one.name in causes and one.name not in done]
        made = sum(one.name in done for one in self.todo)
        if failed:
            self.files.write(FAILED, [_failure(*one) for one in failed])
        self._write_record(of, done)
        if lost := len(self.todo) - made - len(failed):
            raise OSError(f"Beam says that it is done, but {lost} pictures are not. Run the same again.")
        return made, failed

    def _read(self, sources, of, overwrite):
        """Sets `todo` and `skipped`, and writes the record anew, without damaged lines."""
        done = {}
        if not overwrite:
            begun, done, _ = _lines_of(self.files)
            if begun is None:
                self._require_absent(sources)
            else:
                _require_same(self.folder, begun, of)
        self.todo = [source for source in sources if not self._is_done(source, done.get(source.name))]
        self.skipped = len(sources) - len(self.todo)
        for source in self.todo:
            done.pop(source.name, None)
        self._write_record(of, done)

    def _write_record(self, of, done):
        self.files.write(RECORD, [header_of(of), *(json.dumps(one._asdict()) + "\n" for one in done.values())])
        self.files.remove(SHARDS)

    def _require_absent(self, sources):
        for kind in self.kinds:
            for source in sources:
                if self.files.exists(result := self.name_of(source, kind)):
                    raise ValueError(
                        f"{self.files.place(result)} exists, and {self.folder} has no {RECORD} that says by which model it "
                        f"was made. Name another folder, or {ANEW}."
                    )

    def _is_done(self, source, done):
        """Whether the results of a picture are in place.

        Raises:
            ValueError: if they are of another picture.
        """
        if done is None:
            return False
        stamp = stamp_of(source.place)
        same_place, same_stamp = done.place == absolute(source.place), done.stamp == stamp
        if not same_place and not (
            same_stamp and stamp
        ):  # a picture that was moved has another place and the same stamp
            raise ValueError(
                f"{self.files.place(self.name_of(source, self.kinds[0]))} is the result of {done.place}, not of "
                f"{source.place}. Name another folder, or {ANEW}."
            )
        has_all = set(self.kinds) <= set(done.kinds)
        return same_stamp and has_all and all(self.files.exists(self.name_of(source, kind)) for kind in self.kinds)


class Done(NamedTuple):
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


def absolute(place):
    """The place as the record has it."""
    return place if is_address(place) else os.path.abspath(place)


def _real(place):
    return place if is_address(place) else real_path(place)


def _failure(place, cause):
    """A line of failed.txt."""
    return f"{place}\t{cause}".replace("\n", " ") + "\n"


def header_of(of):
    """The first line of a record."""
    return json.dumps({"version": 1, **of}) + "\n"


def _lines_of(files):
    """What a folder's record says: its first line (None without a record), {name: `Done`}, {name: why it failed}.

    Lines of the workers count if they are of the same identity. A line cut short by a kill is left out.
    """
    if (lines := files.lines(RECORD)) is None:
        return None, {}, {}
    begun, done, causes = _parsed(next(lines, b"")), {}, {}
    if not isinstance(begun, dict) or "model" not in begun:
        raise ValueError(
            f"{files.place(RECORD)} is not a record of predictions, or is damaged. Name another folder, or delete it."
        )
    _gather(lines, done, causes)
    for shard in files.names_in(SHARDS):
        if (lines := files.lines(shard)) is not None and _parsed(next(lines, b"")) == begun:
            _gather(lines, done, causes)
    return begun, done, causes


def _gather(lines, done, causes):
    for line in lines:
        one = _parsed(line)
        if isinstance(one, dict) and "cause" in one:
            causes[one["name"]] = one["cause"]
        else:
            with contextlib.suppress(TypeError):
                one = Done(**one)
                done[one.name] = one


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
