"""Files that are written whole or not at all, and locks that say who holds them. Imports nothing else of ours."""

import contextlib
import errno
import json
import os
import socket
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


FULL = (errno.ENOSPC, errno.EDQUOT)  # the system's numbers for a full disk


class InUseError(OSError):
    """Another process works on the same files. The message says which process, since when, and what to do."""


@contextlib.contextmanager
def written_whole(path):
    """Gives a temporary path beside `path`; what is written there takes the place of `path` at the end of the block.

    The temporary name keeps the ending of `path` and holds the process number, so that two processes do not share it. If the
    block raises, the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.stem}.part{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_temporary_files(path):
    """Removes what killed processes left of `written_whole(path)`. Call it while holding the lock of the folder."""
    for temporary in Path(path).parent.glob(f"{Path(path).stem}.part[0-9]*{Path(path).suffix}"):
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_named(folder):
    """Names the folder in the error of a full disk. The system's own names none once a file is open.

    TensorFlow, HDF5 and NumPy wrap the system's error in others, which only its text tells. All become one OSError.
    """
    try:
        yield
    except Exception as error:
        number = next((n for n in FULL if getattr(error, "errno", None) == n or os.strerror(n) in str(error)), None)
        if number is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), os.fspath(folder)) from error


@contextlib.contextmanager
def locked(path, what):
    """Holds a lock file inside the block. The system frees the lock of a process that was killed.

    The error of a full disk in the block gets the name of the lock's folder.

    Args:
        path: of the lock file. Its folder is made if it is missing.
        what: what the holder does, for the message to others, such as "is training into run".

    Raises:
        InUseError: if another process, or another block of this one, holds the lock.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(path)
    try:
        with full_disk_named(path.parent):
            if handle is not None:
                holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "what": what}
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(holder).encode(), 0)
            yield
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)  # still locked: nobody else can hold this file now
            os.close(handle)


def _acquire(path):
    """The locked handle of the file, or None where the system or the file system has no such locks."""
    if fcntl is None:
        return None
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(handle)
            os.close(handle)
            raise InUseError(f"{holder} Wait until it ends, stop it, or name another place.") from None
        except OSError:  # some network file systems
            os.close(handle)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)  # the holder before removed the file that was opened here: try again with the new one


def _holder(handle):
    """Who holds a lock, in words."""
    try:
        holder = json.loads(os.pread(handle, 65536, 0))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        here = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
        return f"Process {holder['pid']}{here} {holder['what']} since {since}."
    except (ValueError, KeyError, TypeError):  # the other process has only just taken the lock
        return "Another process works here."
