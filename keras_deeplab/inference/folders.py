"""A model and any number of pictures in, files of their label maps out; what is done is skipped, what is damaged is listed.

Pictures are read and decoded ahead, and results are written behind, while the network runs. So the memory does not grow with
the number of pictures. The network gets one picture at a time: a batch is computed in another order, and differs in the last
bits.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_deeplab.inference.predictions import on_devices, prefetch_map
from keras_deeplab.inference.results import KINDS, Outcome, ResultsFolder, identity, stamp_of
from keras_deeplab.inference.segment import merged, network_of, require_options, views_of
from keras_deeplab.inference.sources import Source, find_pictures, is_video
from keras_deeplab.pictures.addresses import is_address, read_address
from keras_deeplab.pictures.read import read_image
from keras_deeplab.progress import Progress

READERS = 4  # threads that fetch the bytes of files, which wait for a disk or a network
WORKERS = max(1, min(8, (os.cpu_count() or 1) // 2))  # threads that decode, and as many that encode
FAULTS_OF_PICTURES = (ValueError, OSError, MemoryError, tf.errors.OpError)  # the next picture may be right

Inputs = str | os.PathLike | Sequence[str | os.PathLike]


class FolderResult(NamedTuple):
    """What `segment_folder` did: how many pictures it segmented (`made`), how many were done before (`skipped`), and which it
    could not read (`failed`), as (path, cause)."""

    made: int
    skipped: int
    failed: list[tuple[str, str]]


class Segmented(NamedTuple):
    """A picture on its way. `error` is why it could not be read or segmented, or None."""

    source: Source
    stamp: list | None
    data: Any  # bytes of the file, then the picture (H, W, 3) uint8
    error: Exception | None = None
    views: Any = None  # what the network made of it, until its label map is computed
    labels: np.ndarray | None = None
    scores: np.ndarray | None = None


def segment_folder(
    model: keras.Model,
    images: Inputs,
    to: str | os.PathLike,
    *,
    multi_scale_flip: bool | str = False,
    resize: tuple[int, int] | None = None,
    kinds: Sequence[str] = ("palette",),
    overwrite: bool = False,
    stop_at_first: bool = False,
    devices: list[str] | None = None,
    progress: bool = True,
) -> FolderResult:
    """Writes the label maps of many pictures. Each equals `segment`'s in every pixel.

    A result appears under its name when it is complete. The folder `to` keeps a record, predictions.jsonl, of what is done. So
    a run that was stopped, or killed, goes on where it was, and loses the few pictures that it was working on. A picture that
    changed is segmented again.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        images: one or a list of: a picture file; a folder, which is searched at any depth; a glob such as
            `"photos/**/*.jpg"`; `"@list.txt"`, a file with one of these a line; an address (http, https, or what fsspec
            reads).
        to: the folder for the results: STEM.png for each picture. The folders below a searched folder are kept.
        multi_scale_flip, resize: as for `segment`.
        kinds: what to write. `"palette"`: STEM.png, 8-bit palette PNG whose values are class ids. `"grey"`: the same as a grey
            PNG. `"overlay"`: STEM_overlay.png, the picture with its classes in colour. `"scores"`: STEM.npz with labels,
            scores, and input, the resized picture.
        overwrite: whether to begin anew in a folder that holds other results. Otherwise these are refused.
        stop_at_first: whether a picture that cannot be read ends the run. Otherwise it is passed over, and listed in the
            result and in failed.txt; the next run tries it again.
        devices: as for `evaluate`.
        progress: whether to show a progress bar.

    Returns:
        `FolderResult`: (made, skipped, failed).

    Raises:
        ValueError: for inputs without pictures, for two pictures whose results would have one name, for a folder of results by
            another model, protocol or options, and for options as `segment` does.
        FileNotFoundError: if a file or folder does not exist.
        OSError: if a result cannot be written; `keras_deeplab.files.InUseError` if another run writes into the folder.
    """
    made, failed = 0, []
    options = {"multi_scale_flip": multi_scale_flip, "resize": resize}
    sources = _pictures(images, to)
    with written(model, sources, to, kinds, overwrite, stop_at_first, devices, options) as (results, pictures):
        with Progress(len(sources), results.skipped, progress) as bar:
            for one in pictures:
                if one.error is None:
                    made += 1
                else:
                    failed.append((one.source.place, cause_of(one.error)))
                bar.add(failed=one.error is not None)
    return FolderResult(made, results.skipped, failed)


def segment_files(
    model: keras.Model,
    images: Inputs,
    *,
    multi_scale_flip: bool | str = False,
    resize: tuple[int, int] | None = None,
    failed: list[tuple[str, str]] | None = None,
    devices: list[str] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the label maps of many pictures, which are read ahead. Memory does not grow with their number.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        images: as for `segment_folder`.
        multi_scale_flip, resize: as for `segment`.
        failed: a list that gets (path, cause) of each picture that cannot be read. Without it such a picture is an error.
        devices: as for `evaluate`.

    Yields:
        (path or address, labels (H, W) uint8) of each picture, in order.

    Raises:
        ValueError, FileNotFoundError: as `segment_folder`, and for a picture that cannot be read.
    """
    options = {"multi_scale_flip": multi_scale_flip, "resize": resize}
    require_options(**options)
    sources = _pictures(images)
    with contextlib.closing(_segmented(model, sources, devices, options)) as pictures:
        for one in pictures:
            if one.error is None:
                yield one.source.place, one.labels
            elif failed is None:
                _raise_named(one)
            else:
                failed.append((one.source.place, cause_of(one.error)))


def _pictures(images, to=None):
    """`find_pictures`, without videos."""
    sources = find_pictures(images, to)
    if video := next((source.place for source in sources if is_video(source.place)), None):
        raise ValueError(f"The inputs must be pictures. Received: {video}. `segment_video` takes a video.")
    return sources


@contextlib.contextmanager
def written(model, sources, to, kinds, overwrite, stop_at_first, devices, options):
    """(the `ResultsFolder`, an iterator of `Segmented`, one for each picture that was not done, written when it comes).

    The arguments are those of `segment_folder`; `options` are of `segment`.
    """
    require_options(**options)
    require_kinds(kinds)
    options = {**options, "return_scores": "scores" in kinds}
    of = identity(model, {key: value for key, value in options.items() if key != "return_scores"})

    def write(one):
        if one.error is None:
            results.write(one.source, one.stamp, Outcome(model, one.data, one.labels, one.scores, options["resize"]))
        return one._replace(data=None, scores=None)

    with ResultsFolder.opened(to, sources, kinds, of, overwrite) as results, contextlib.ExitStack() as closing:
        segmented = closing.enter_context(contextlib.closing(_segmented(model, results.todo, devices, options)))
        pictures = closing.enter_context(contextlib.closing(prefetch_map(write, segmented, threads=WORKERS)))
        yield results, _noted(pictures, results, stop_at_first)


def require_kinds(kinds):
    """Raises `ValueError` unless the kinds of results are known and have distinct files, one of them a label map."""
    if isinstance(kinds, str) or not set(kinds) <= set(KINDS) or len({"grey", "palette"} & set(kinds)) != 1:
        raise ValueError(
            f"kinds is a list of {', '.join(map(repr, KINDS))}, with either 'grey' or 'palette'. Received: {kinds!r}."
        )


def _noted(pictures, results, stop_at_first):
    """The pictures; those that failed are noted in failed.txt, or the first is raised."""
    for one in pictures:
        if one.error is not None:
            if stop_at_first:
                _raise_named(one)
            results.note_failure(one.source.place, cause_of(one.error))
        yield one


def _raise_named(one):
    """Raises the error of a picture with its path or address."""
    raise ValueError(f"{one.source.place}: {cause_of(one.error)}") from one.error


def cause_of(error):
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _segmented(model, sources, devices, options):
    """`Segmented` of each source, in order."""
    with contextlib.ExitStack() as closing:
        read = closing.enter_context(contextlib.closing(prefetch_map(_read, sources, threads=READERS)))
        decoded = closing.enter_context(contextlib.closing(prefetch_map(_decoded, read, threads=WORKERS)))
        yield from closing.enter_context(contextlib.closing(labelled(model, decoded, devices, options)))


def labelled(model, pictures, devices, options):
    """Pictures with their label maps, in order; one that has an error is passed on.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        pictures: an iterable of `Segmented` whose `data` are pictures.
        devices: as for `evaluate`.
        options: of `segment`.

    Yields:
        `Segmented`.
    """
    return_scores = options.get("return_scores", False)
    of_views = {key: options[key] for key in ("multi_scale_flip", "resize")}

    @_passing_errors
    def run(model, one):
        network = network_of(model)
        return one._replace(views=(network, views_of(network, network.protocol, one.data, **of_views)))

    @_passing_errors
    def merge(one):  # beside the network, which is at the next picture
        result = merged(*one.views, return_scores)
        labels, scores = result if return_scores else (result, None)
        return one._replace(views=None, labels=labels, scores=scores)

    with contextlib.ExitStack() as closing:
        viewed = closing.enter_context(contextlib.closing(on_devices(model, run, pictures, devices)))
        yield from closing.enter_context(contextlib.closing(prefetch_map(merge, viewed, threads=1)))


def _passing_errors(function):
    """The function for pictures without an error; one that it raises goes on with the picture."""

    @functools.wraps(function)
    def passing(*arguments):
        one = arguments[-1]
        if one.error is not None:
            return one
        try:
            return function(*arguments)
        except FAULTS_OF_PICTURES as error:
            return one._replace(data=None, views=None, error=error)

    return passing


def _read(source):
    """A source with the bytes of its file."""
    stamp = stamp_of(source.place)  # before the file is read: if it changes meanwhile, the next run sees it
    try:
        return Segmented(source, stamp, _bytes_of(source.place))
    except FAULTS_OF_PICTURES as error:
        return Segmented(source, stamp, None, error)


def _bytes_of(place):
    if is_address(place):
        return read_address(place)
    with open(place, "rb") as file:
        return file.read()


@_passing_errors
def _decoded(one):
    """The bytes of a file decoded."""
    return one._replace(data=read_image(one.data))
