"""A URL in, a file in the cache out.

An interrupted download continues where it stopped. A file enters the cache only when it is complete. Its hash is recorded.
"""

import contextlib
import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import keras

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 20  # bytes to read at a time
TIMEOUT = 30  # seconds without a byte until a download fails


def cache_dir():
    """The folder of downloaded weights: `KERAS_DEEPLAB_CACHE`, or by default keras_deeplab in Keras's home folder."""
    keras_home = os.environ.get("KERAS_HOME", Path("~", ".keras"))
    return Path(os.environ.get("KERAS_DEEPLAB_CACHE") or Path(keras_home, "keras_deeplab")).expanduser()


def fetch(url, check):
    """The cached file of a URL, downloaded first if it is not there.

    Args:
        url: what to download; the last part of the URL becomes the name of the file.
        check: a function of a path that raises `ValueError` if the file is not what it should be. It is called before a
            download enters the cache.

    Returns:
        the path of the file. NAME.sha256 beside it holds its hash at first use.

    Raises:
        FileNotFoundError: if the file is not in the cache and cannot be downloaded. The message says which file to put where.
        ValueError: if the file has changed since its first use, or the download fails `check`.
    """
    path = cache_dir() / url.rpartition("/")[2]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileNotFoundError(
                f"KERAS_DEEPLAB_CACHE must be a folder, or a path where one can be created, to keep {path.name} in. "
                f"Received: {path.parent} ({error}). Set it to another folder, or give the file as weights=."
            ) from error
        with locked(path.parent):
            if not path.exists():
                download_checked(url, path, check)
    remember_sha256(path)
    return path


@contextlib.contextmanager
def locked(folder):
    """A context in which only one process downloads into a folder: two would damage each other's file. Not on Windows."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no such lock either
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # this also unlocks the folder


def download_checked(url, path, check):
    """Downloads to `path` by way of PATH.part, which keeps the beginning of a download that was interrupted."""
    part = path.with_name(path.name + ".part")
    try:
        download(url, part)
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f"{path.name} is not in {path.parent} and could not be downloaded ({error}). Download {url} on another machine "
            f"and put it there as {path.name}, or give the file as weights=."
        ) from error
    try:
        check(part)
    except ValueError:
        part.unlink()
        raise
    os.replace(part, path)


def download(url, part):
    """Downloads to the path `part`, and continues an earlier attempt if the file on the server is still the same.

    PART.json keeps the validator of the file (its ETag or modification date), by which the server knows whether it is.

    Raises:
        OSError, HTTPException: if the download fails.
    """
    validator_path = part.with_name(part.name + ".json")
    size = part.stat().st_size if part.exists() else 0  # bytes that are downloaded
    headers = {"User-Agent": "keras_deeplab"}
    if size and validator_path.exists():
        headers |= {"Range": f"bytes={size}-", "If-Range": json.loads(validator_path.read_text())}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        size = size if resumed else 0
        length = response.headers.get("Content-Length")
        total = size + int(length) if length else None
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        validator_path.unlink(missing_ok=True)
        if validator and not validator.startswith("W/"):  # W/: a weak one, which does not promise the same bytes
            validator_path.write_text(json.dumps(validator))
        bar = keras.utils.Progbar(total, unit_name="byte")
        with open(part, "ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                size += len(chunk)
                if size != total:
                    bar.update(size)
            bar.update(size, finalize=True)
    if total is not None and size < total:
        raise OSError(f"the connection ended after {size} of {total} bytes; the next attempt continues from there")
    validator_path.unlink(missing_ok=True)


def remember_sha256(path):
    """Records the file's hash in NAME.sha256 beside it, or compares it with the one recorded there.

    Raises:
        ValueError: if the hashes differ.
    """
    record = path.with_name(path.name + ".sha256")
    digest = sha256_of(path)
    try:
        recorded = record.read_text().split()[0]
    except (OSError, IndexError):
        try:
            record.write_text(f"{digest}  {path.name}\n")  # as sha256sum writes it
        except OSError:
            pass  # a shared cache may be read-only; then the hash cannot be recorded
        return
    if digest != recorded:
        raise ValueError(
            f"{path} has changed since its first use. Its SHA-256 must be {recorded}. Received: {digest}. Delete the file to "
            f"download it again, or delete {record.name} if you replaced the file on purpose."
        )


def sha256_of(path):
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
