"""What is exported is written beside its place and then put there; a kill at any step loses neither the old nor the new.

Beside the place of NAME lie, only while an export runs or after one was killed:
    .NAME.new   what is being written, or being deleted
    .NAME.old   what was in the place before; only between the two renames
    .NAME.lock  says which process exports; see `keras_deeplab.files.locked`
"""

import contextlib
import json
import os
import shutil

from keras_deeplab.files import locked, remove_temporary_files, written_whole


@contextlib.contextmanager
def folder_in_place_of(path):
    """Gives a new folder to write; at the end of the block it takes the place of the folder `path`, if there is one.

    A killed export is tidied up here, at the start of the next one. If the block raises, `path` stays as it was.

    Args:
        path: a resolved `Path`.

    Raises:
        InUseError: if another process exports to the same place.
        ValueError: if `path` is where a file system is mounted, because such a folder cannot be renamed.
    """
    if os.path.ismount(path):
        raise ValueError(
            "An export is put in its place by renaming, and a folder where a file system is mounted cannot be renamed. "
            f"Received: {str(path)!r}. Name a folder inside it."
        )
    new, old = (path.with_name(f".{path.name}.{which}") for which in ("new", "old"))
    with exporting(path):
        recover(path, new, old)
        new.mkdir()
        try:
            yield new
            if path.exists():
                os.rename(path, old)
            os.rename(new, path)
        finally:
            recover(path, new, old)


def recover(path, new, old):
    """Brings the folders of an export that ended at any step into order: the place has the old or the new folder."""
    shutil.rmtree(new, ignore_errors=True)
    if not old.exists():
        return
    if path.exists():
        os.rename(old, new)  # so that a folder called `old` is always whole
        shutil.rmtree(new, ignore_errors=True)
    else:
        os.rename(old, path)


def exporting(path):
    """The lock of an export to `path`, a resolved path of a folder or file."""
    return locked(path.with_name(f".{path.name}.lock"), f"is exporting to {path}")


def write_with_metadata(path, data, metadata):
    """Writes the bytes `data` to the file `path`, and the metadata to the .json file beside it.

    The file never lies beside another file's metadata. Call it inside `exporting_file(path)`.
    """
    description = path.with_suffix(".json")
    with written_whole(description) as new_description:
        new_description.write_text(json.dumps(metadata, indent=1) + "\n")
        with written_whole(path) as new_file:
            new_file.write_bytes(data)
            description.unlink(missing_ok=True)  # the old one; a kill from here on leaves a file without metadata


@contextlib.contextmanager
def exporting_file(path):
    """Holds the lock of an export to the file `path`, and removes what killed exports left beside it.

    Raises:
        InUseError: if another process exports to the same path.
        ValueError: if the file's name ends in .json, as that of its metadata does, or if it is a folder.
    """
    if path.suffix == ".json" or path.is_dir():
        raise ValueError(
            "The path of an exported file must not be a folder, and must not end in .json as its metadata does. "
            f"Received: {str(path)!r}. Choose a path such as model.tflite or model.onnx."
        )
    with exporting(path.resolve()):
        for file in (path, path.with_suffix(".json")):
            remove_temporary_files(file)
        yield
