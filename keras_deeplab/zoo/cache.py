"""The folder of downloaded weights in, what lies there out: lists, checks and removes what `fetch` put there."""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from keras_deeplab.catalog import rows
from keras_deeplab.zoo.fetch import cache_dir, locked, read_sha256, sha256_of

PART, RECORD = ".part", ".sha256"  # what the names of a beginning of a file, and of the record of its hash, end with


class Cached(NamedTuple):
    """A downloaded file.

    Attributes:
        name: of the file.
        size: in bytes.
        is_whole: False for the beginning of a download that was interrupted.
        models: names of the rows whose weights it holds. Files of backbones have none.
    """

    name: str
    size: int
    is_whole: bool
    models: list[str]


def cached_files():
    """The files that `fetch` keeps in the cache, by name: a list of `Cached`. Other files in the folder are not listed."""
    folder = cache_dir()
    models: dict[str, list[str]] = {}
    for row in rows.ROWS.values():
        models.setdefault(file_of(row), []).append(row.name)
    names = {path.name for path in folder.glob("*") if path.is_file()} if folder.is_dir() else set()
    whole = {name: True for name in names if name + RECORD in names}
    parts = {name.removesuffix(PART): False for name in names if name.endswith(PART)}
    return [
        Cached(name, (folder / (name + PART * (not is_whole))).stat().st_size, is_whole, models.get(name, []))
        for name, is_whole in sorted({**parts, **whole}.items())
    ]


def file_of(row):
    """The name of a row's file in the cache."""
    return row.url.rpartition("/")[2]


def has_changed(name):
    """Whether a file differs from what it was at its first use.

    Raises:
        ValueError: if the record of its hash cannot be read.
    """
    path = cache_dir() / name
    return sha256_of(path) != read_sha256(path.with_name(name + RECORD))


def remove(name):
    """Removes a file from the cache with all that is kept beside it. Waits until no process downloads."""
    folder = cache_dir()
    with locked(folder):
        for ending in ("", RECORD, PART, PART + ".json"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(Path(folder, name + ending))
