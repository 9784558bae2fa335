"""A model and a raster of any size in, a GeoTIFF of its label map out; rows of windows are computed one after the other.

The windows' beginnings cut the raster into pieces. A piece needs the few windows that reach into it, so its label map follows
as soon as the last of them is computed, by `segment`'s own formula, always from the same windows in the same order. Scores of
windows are kept no longer than that: about one row of windows. Finished rows of the label map go to a file at once, and a run
that was killed goes on after them.
"""

import contextlib
import functools
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.files import written_whole
from keras_deeplab.inference.folders import cause_of
from keras_deeplab.inference.predictions import prefetch_map
from keras_deeplab.inference.results import MOSAIC_KINDS, ResultsFolder, identity, stamp_of
from keras_deeplab.inference.segment import WINDOW_PIXELS, network_of, placement, window_starts
from keras_deeplab.inference.sources import find_pictures, real_path
from keras_deeplab.pictures import rasters
from keras_deeplab.pictures.addresses import is_address
from keras_deeplab.progress import Progress

OPEN = ".mosaics"  # folder, among the results, of what is computed of unfinished rasters
SIDE = 1024  # pixels, of windows where the protocol says nothing of sizes
SCORE_BYTES = np.dtype(np.float16).itemsize


def segment_raster(
    model: keras.Model,
    raster: str | os.PathLike,
    to: str | os.PathLike,
    *,
    protocol: Protocol | None = None,
    bands: list[int] | None = None,
    stretch: tuple[float, float] | None = None,
    scores: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Writes the label map of a raster that may be larger than the memory, such as an aerial mosaic, as a GeoTIFF.

    The network sees overlapping windows of the raster at its own size, and their scores are averaged, as `segment` does by a
    sliding-window protocol. A run that was stopped, or killed, goes on after its last finished row of windows.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        raster: path of a GeoTIFF or of another raster that GDAL reads, JPEG and PNG too.
        to: the folder for the results: STEM.tif, a tiled GeoTIFF (uint8, class ids, 255 where the raster has no data) with
            the raster's georeference, the colours and names of the classes, and overviews.
        protocol: windows of your own, `Protocol("slide", crop=..., stride=...)`. None: what `mosaic_protocol` says.
        bands: numbers of three bands (red, green, blue), or of one (grey), from 1. None: 1, 2 and 3, or the only one.
        stretch: (low, high): the values that become 0 and 255, for bands that are not 8-bit. Values between them become
            round((value - low) * 255 / (high - low)). None: the values are 0..255 already.
        scores: whether to write STEM_scores.tif too: the mean logits of each class, 16-bit floating-point numbers, one band a
            class; NaN where there is no data. Of a model with one output it is the probability of class 1.
        overwrite: whether to begin anew in a folder that holds other results. Otherwise these are refused.
        progress: whether to show how many windows are done.

    Returns:
        the path of the label map.

    Raises:
        ValueError: for a file that GDAL does not read, bands that it does not have, pixels that are not 8-bit without
            `stretch`, and a folder of results by another model, protocol or options.
        FileNotFoundError: if there is no such file.
        ImportError: if rasterio is not installed: pip install "keras_deeplab[rasterio]".
        OSError: if a result cannot be written; `keras_deeplab.files.InUseError` if another run writes into the folder.
    """
    rasters.load_rasterio()
    (source, *others) = find_pictures(raster, to)
    if others:
        raise ValueError(f"`raster` names one raster. Received: {os.fspath(raster)}, which are {1 + len(others)}.")
    options = Options.checked(model, protocol, bands, stretch, scores)
    with written(model, [source], to, options, overwrite=overwrite, stop_at_first=True, progress=progress) as run:
        list(run.finished)
    return Path(to) / f"{source.name}.tif"


def mosaic_protocol(protocol: Protocol) -> Protocol:
    """The sliding windows for rasters of any size, at the raster's own size.

    A protocol with windows keeps them. For one that sees whole pictures they are squares, as large as the short side of the
    box that its pictures fit into, or of the size that they are padded to (1024 pixels without either). They overlap by a
    third, as those of the released models do.
    """
    if protocol.mode == "slide":
        return Protocol("slide", crop=protocol.crop, stride=protocol.stride)
    side = min(protocol.resize or protocol.pad or (SIDE, SIDE))
    return Protocol("slide", crop=(side, side), stride=(-(-2 * side // 3),) * 2)


class Options(NamedTuple):
    """How rasters are segmented."""

    protocol: Protocol
    bands: list | None
    stretch: tuple | None
    scores: bool

    @classmethod
    def checked(cls, model, protocol, bands, stretch, scores):
        """`Options` of what a user names.

        Raises:
            ValueError: for what cannot be used.
        """
        if protocol is not None and (protocol.mode != "slide" or protocol.resize):
            raise ValueError(
                "`protocol` must have mode 'slide' and no `resize`: a raster keeps its size. "
                f"Received: mode={protocol.mode!r}, resize={protocol.resize}."
            )
        protocol = protocol or mosaic_protocol(model.protocol)
        return cls(protocol, rasters.check_bands(bands), rasters.check_stretch(stretch), bool(scores))

    @property
    def kinds(self):
        return ["labels", *["scores"] * self.scores]

    def to_dict(self):
        """What the results depend on, as JSON values."""
        return {
            "crop": list(self.protocol.crop),
            "stride": list(self.protocol.stride),
            "bands": self.bands,
            "stretch": None if self.stretch is None else list(self.stretch),
        }


class Run(NamedTuple):
    """A run over rasters: `results` is its `ResultsFolder`, `finished` an iterator of (source, `Mosaic`, error or None)."""

    results: ResultsFolder
    finished: object


@contextlib.contextmanager
def written(model, sources, to, options, *, overwrite, stop_at_first, progress):
    """A `Run` whose rasters are segmented, and written, when they are taken from it."""
    of = identity(model, {"mosaic": options.to_dict()})
    with ResultsFolder.opened(to, sources, options.kinds, of, overwrite, MOSAIC_KINDS) as results:
        if overwrite:
            shutil.rmtree(results.folder / OPEN, ignore_errors=True)
        yield Run(results, _finished(model, results, of, options, stop_at_first, progress))
        with contextlib.suppress(OSError):
            (results.folder / OPEN).rmdir()  # if it is empty


def _finished(model, results, of, options, stop_at_first, progress):
    for source in results.todo:
        try:
            yield source, _segmented(model, source, results, of, options, progress), None
        except (ValueError, MemoryError, tf.errors.OpError) as error:
            if stop_at_first:
                raise ValueError(f"{source.place}: {cause_of(error)}") from error
            results.note_failure(source.place, cause_of(error))
            yield source, None, error


def _segmented(model, source, results, of, options, progress):
    if is_address(source.place):
        raise ValueError("A raster is read from a file, window by window. Received: an address. Download it first.")
    stamp = stamp_of(source.place)
    with rasters.open_raster(source.place, options.bands, options.stretch) as raster:
        folder = results.folder / OPEN / source.name
        mosaic = Mosaic(folder, model, raster, options, {**of, "place": real_path(source.place), "stamp": stamp})
        mosaic.compute(progress)
        results.write(source, stamp, mosaic)
        shutil.rmtree(folder)
    return mosaic


class Mosaic:
    """A raster whose label map is being computed, and the files of what is done.

    Attributes:
        counts: (256,) int64, pixels of each label, when the label map is written.
    """

    def __init__(self, folder, model, raster, options, of):
        self.folder, self.model, self.raster, self.options = Path(folder), model, raster, options
        self.shape = raster.height, raster.width
        self.of = json.loads(json.dumps({**of, "kinds": options.kinds, "shape": self.shape}))  # lists for tuples
        self.network = network_of(model)
        crop, stride = options.protocol.crop, options.protocol.stride
        self.tops, self.lefts = (
            Axis(window_starts(side, *axis).numpy().tolist(), min(axis[0], side), side)
            for side, axis in zip(self.shape, zip(crop, stride, strict=True), strict=True)
        )
        self.counts = None

    @property
    def _outputs(self):
        return self.network.coarse.output_shape[-1]

    @property
    def _batch(self):
        """The number of windows in a pass of the network, as in `segment`."""
        return max(WINDOW_PIXELS // (self.tops.window * self.lefts.window), 1)

    def compute(self, progress):
        """Computes the label map from the first row of windows on that is not done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        done = self._done()
        self._require_space(done)
        bar = Progress(len(self.tops) * len(self.lefts), done * len(self.lefts), progress, noun="windows")
        with self._files(done) as files, bar, contextlib.closing(self._pieces(done)) as pieces:
            for (row, column), piece in pieces:  # as many as windows
                place = self.tops.piece(row)[0], self.lefts.piece(column)[0]
                for kind, file in files.items():
                    write_block(file, self.shape[1], place, getattr(piece, kind))
                if column == len(self.lefts) - 1:
                    self._note(row + 1, files.values())
                bar.add()

    @contextlib.contextmanager
    def _files(self, done):
        """{kind: file} of what is computed, open for writing; empty unless some rows are done."""
        try:
            with contextlib.ExitStack() as closing:
                mode = "r+b" if done else "w+b"
                yield {kind: closing.enter_context(open(self.folder / kind, mode)) for kind in self.options.kinds}
        except OSError as error:  # a full disk, whose error names no file
            error.filename = error.filename or str(self.folder)
            raise

    def _note(self, rows, files):
        """Notes how many rows of windows are done, when they are on the disk."""
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        with written_whole(self.folder / "state.json") as temporary:
            temporary.write_text(json.dumps({**self.of, "rows": rows}))

    def _done(self):
        """How many rows of windows an earlier run of the same raster, model and options has done."""
        try:
            state = json.loads((self.folder / "state.json").read_text())
            done = state.pop("rows")
            return done if state == self.of and all(self._holds(kind, done) for kind in self.options.kinds) else 0
        except (OSError, ValueError):  # there is none, or a file of it is missing
            return 0

    def _holds(self, kind, rows):
        """Whether the file of a kind is as long as that many rows of windows are."""
        sizes = {"labels": 1, "scores": SCORE_BYTES * self._outputs}  # bytes of a pixel
        pixels = self.tops.piece(rows - 1)[1] * self.shape[1]
        return os.path.getsize(self.folder / kind) >= pixels * sizes[kind]

    def _require_space(self, done):
        """Raises `OSError` if scores will not fit: they do not shrink, and the GeoTIFF is written beside them."""
        if not self.options.scores:
            return
        pixels = 2 * self.shape[0] - (self.tops.piece(done - 1)[1] if done else 0)
        needed = SCORE_BYTES * self._outputs * pixels * self.shape[1]
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                f"Scores of {self._outputs} classes at {self.shape[1]}x{self.shape[0]} pixels need {needed / 1e9:.1f} GB. "
                f"Received: {free / 1e9:.1f} GB free on the disk of {self.folder}. Free some, or leave `scores` out."
            )

    def _pieces(self, first_row):
        """((row, column), `Piece`) of each piece from a row of windows on, row by row."""
        if first_row == len(self.tops):
            return
        need = self.tops.first_inside(first_row)  # the first row of windows that reaches into these pieces
        coarse, valid = {}, {}  # {(row, column): scores of a window}, {row: which pixels of its pieces have data}
        todo = ((row, column) for row in range(first_row, len(self.tops)) for column in range(len(self.lefts)))
        row, column = next(todo, (None, None))
        # A pass of the network has the windows that it would have if the run had begun with the first.
        begun = need * len(self.lefts) // self._batch * self._batch
        with contextlib.closing(self._strips(begun // len(self.lefts))) as strips:
            following = itertools.islice(windows(strips, self.lefts, valid), begun % len(self.lefts), None)
            for (i, j), scores in self._scores(following):
                if i >= need:
                    coarse[i, j] = scores
                while row is not None and self._is_ready(row, column, coarse):
                    yield (row, column), self._piece(row, column, coarse, valid[row])
                    self._forget(row, column, coarse, valid)
                    row, column = next(todo, (None, None))

    def _is_ready(self, row, column, coarse):
        return all(window in coarse for window in self._windows_inside(row, column))

    def _windows_inside(self, row, column):
        rows, columns = self.tops.inside(row), self.lefts.inside(column)
        return itertools.product(rows, columns)

    def _forget(self, row, column, coarse, valid):
        """Drops the scores that no later piece needs."""
        rows = range(self.tops.first_inside(row), self.tops.first_inside(row + 1))
        columns = range(self.lefts.first_inside(column), self.lefts.first_inside(column + 1))
        for window in itertools.product(rows, columns):
            del coarse[window]
        if column == len(self.lefts) - 1:
            del valid[row]

    def _piece(self, row, column, coarse, valid):
        """The label map, and maybe scores, of a piece."""
        (top, bottom), (left, right) = self.tops.piece(row), self.lefts.piece(column)
        if valid is not None:
            valid = valid[: bottom - top, left:right]
            if not valid.any():
                return Piece.empty(valid.shape, self._outputs)
        rows, columns = self.tops.inside(row), self.lefts.inside(column)
        scores = np.stack([[coarse[i, j] for j in columns] for i in rows])
        down, across, h, w, classes = scores.shape
        scores = scores.transpose(0, 2, 1, 3, 4).reshape(down * h, across * w, classes)
        placed = self.tops.placement(row, h, self.network.align_corners)
        spread = self.lefts.placement(column, w, self.network.align_corners)
        labels, scores = self.network.merge([(scores, placed, spread)], self.options.scores)
        labels, scores = labels.numpy(), scores.numpy().astype(np.float16)
        if valid is not None:
            labels[~valid] = IGNORE
            if self.options.scores:
                scores[~valid] = np.nan
        return Piece(labels, scores)

    def _strips(self, first):
        """(row, pixels (window height, width, 3), valid) of each row of windows. The next ones are read ahead."""
        start = end = self.tops.starts[first]
        spans = []  # (first row of pixels, number) that are new in each row of windows
        for top in self.tops.starts[first:]:
            spans.append((end, top + self.tops.window - end))
            end = top + self.tops.window
        pixels, valid = np.zeros((0, self.shape[1], 3), np.uint8), np.zeros((0, self.shape[1]), bool)
        with contextlib.closing(prefetch_map(lambda span: self.raster.read(*span), spans, threads=1)) as read:
            for row, (new, has_data) in enumerate(read, first):
                shift, start = self.tops.starts[row] - start, self.tops.starts[row]
                pixels = np.concatenate([pixels[shift:], new])
                has_data = np.ones(new.shape[:2], bool) if has_data is None else has_data
                valid = np.concatenate([valid[shift:], has_data])
                yield row, pixels, None if valid.all() else valid

    def _scores(self, windows):
        """((row, column), scores (h, w, classes) float32) of each window.

        A pass of the network takes as many windows as one of `segment`. Passes without any data are left out.
        """
        empty = None
        while batch := list(itertools.islice(windows, self._batch)):
            if empty is None or any(has_data for *_, has_data in batch):
                scores = self.network.scores(np.stack([window for _, window, _ in batch])).numpy()
                empty = np.zeros_like(scores[0])
            else:
                scores = [empty] * len(batch)
            yield from zip([place for place, *_ in batch], scores, strict=True)

    def write_labels(self, path):
        with open(self.folder / "labels", "rb") as file:
            self.counts = rasters.write_labels(
                path,
                lambda top, rows: read_block(file, self.shape[1], (top, 0), (rows, self.shape[1]), np.uint8),
                self.shape,
                self.raster.profile,
                self.model.classes,
                self.model.palette,
                self._tags(),
            )

    def write_scores(self, path):
        with open(self.folder / "scores", "rb") as file:
            rasters.write_scores(
                path,
                lambda top, left, rows, columns: read_block(
                    file, self.shape[1], (top, left), (rows, columns, self._outputs), np.float16
                ),
                self.shape,
                self.raster.profile,
                self.model.classes[-self._outputs :],
                self._tags(),
            )

    def _tags(self):
        protocol = json.dumps(self.options.protocol.to_dict())
        return {**self.raster.tags, "model": self.model.row or self.model.name, "protocol": protocol}


class Piece(NamedTuple):
    """Part of a result: labels (height, width) uint8 and scores (height, width, outputs) float16, empty if not wanted."""

    labels: np.ndarray
    scores: np.ndarray

    @classmethod
    def empty(cls, shape, outputs):
        return cls(np.full(shape, IGNORE, np.uint8), np.full((*shape, outputs), np.nan, np.float16))


class Axis:
    """The windows along one axis of a raster, and the pieces that their beginnings cut it into: as many pieces as windows.

    Args:
        starts: where the windows begin, ascending.
        window: their length in pixels.
        extent: the length of the raster in pixels.
    """

    def __init__(self, starts, window, extent):
        self.starts, self.window, self.extent = starts, window, extent

    def __len__(self):
        return len(self.starts)

    def piece(self, number):
        """(first pixel, end) of a piece."""
        return self.starts[number], (*self.starts[1:], self.extent)[number]

    def first_inside(self, number):
        """The first window that reaches into a piece; the number of windows, for the piece after the last one."""
        if number == len(self):
            return number
        return next(i for i, start in enumerate(self.starts) if start + self.window > self.starts[number])

    def inside(self, number):
        """The windows that reach into a piece."""
        return range(self.first_inside(number), number + 1)

    def placement(self, number, coarse, align_corners):
        """`segment`'s matrix that brings the scores of these windows to the pixels of the piece."""
        windows, (first, end) = self.inside(number), self.piece(number)
        begin = self.starts[windows[0]]
        starts = tuple(self.starts[i] - begin for i in windows)
        return _placement(coarse, self.window, starts, first - begin, end - begin, align_corners)


@functools.lru_cache(maxsize=64)
def _placement(coarse, window, starts, first, end, align_corners):
    return placement(coarse, window, tf.constant(starts), end, align_corners)[first:]


def windows(strips, lefts, valid_of):
    """((row, column), pixels, whether it has data) of each window; `valid_of` gets the valid pixels of each row."""
    for row, strip, valid in strips:
        valid_of[row] = valid
        for column, left in enumerate(lefts.starts):
            there = slice(left, left + lefts.window)
            yield (row, column), strip[:, there], valid is None or bool(valid[:, there].any())


def write_block(file, width, place, block):
    """Writes a block (rows, columns, ...) into a file of an array that is `width` columns wide, at a place (row, column)."""
    size = block[0, 0].nbytes
    for row, line in enumerate(block, place[0]):
        file.seek((row * width + place[1]) * size)
        file.write(np.ascontiguousarray(line))


def read_block(file, width, place, shape, kind):
    """Reads what `write_block` wrote: (rows, columns, ...) of a NumPy type."""
    block = np.empty(shape, kind)
    size = block[0, 0].nbytes
    for row, line in enumerate(block, place[0]):
        file.seek((row * width + place[1]) * size)
        file.readinto(memoryview(line).cast("B"))
    return block
