"""A URL in, a file in the cache out: resumed where it broke off, moved in place only when whole, its hash remembered."""

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

CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without a byte


def cache_dir():
    """The folder of downloaded weights: `KERAS_DEEPLAB_CACHE`, or keras_deeplab in Keras's home."""
    home = os.environ.get("KERAS_HOME", Path("~", ".keras"))
    return Path(os.environ.get("KERAS_DEEPLAB_CACHE") or Path(home, "keras_deeplab")).expanduser()


def fetch(url, check):
    """The cached file of a URL, downloaded first if it is not there.

    Args:
        url: what to download; the file keeps the URL's last part as its name.
        check: a function of a path that raises `ValueError` if the file is not what it should be. Called before a
            download takes its place in the cache.

    Returns:
        its path. NAME.sha256 beside it holds the hash at first use.

    Raises:
        FileNotFoundError: if it is not there and cannot be downloaded; says where to put which file.
        ValueError: if the file is not the one of its first use, or the download fails `check`.
    """
    path = cache_dir() / url.rpartition("/")[2]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileNotFoundError(
                f"KERAS_DEEPLAB_CACHE is a folder, made at need, to keep {path.name} in. {path.parent} cannot be one "
                f"({error}). Set it to another one, or give the file as weights=."
            ) from error
        with one_at_a_time(path.parent):
            if not path.exists():
                download_checked(url, path, check)
    remember_sha256(path)
    return path


@contextlib.contextmanager
def one_at_a_time(folder):
    """Whoever else fetches into the folder waits: two downloads into one part would spoil it. Windows has no such lock."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # nor have some network file systems
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # and unlocked


def download_checked(url, path, check):
    part = path.with_name(path.name + ".part")
    try:
        download(url, part)
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f"{path.name} is not in {path.parent} and could not be downloaded ({error}). Download {url} elsewhere and "
            f"put it there under that name, or give the file as weights=."
        ) from error
    try:
        check(part)
    except ValueError:
        part.unlink()
        raise
    os.replace(part, path)


def download(url, part):
    """Downloads to the path `part`, going on where an earlier try ended if the server's file is still the same."""
    stamp_path = part.with_name(part.name + ".json")
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "keras_deeplab"}
    if have and stamp_path.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": json.loads(stamp_path.read_text())}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        stamp = response.headers.get("ETag") or response.headers.get("Last-Modified")
        stamp_path.unlink(missing_ok=True)
        if stamp and not stamp.startswith("W/"):
            stamp_path.write_text(json.dumps(stamp))
        bar = keras.utils.Progbar(total, unit_name="byte")
        with open(part, "ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                if have != total:
                    bar.update(have)
            bar.update(have, finalize=True)
    if total is not None and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes; the next try goes on from there")
    stamp_path.unlink(missing_ok=True)


def remember_sha256(path):
    """Records the file's hash beside it, or compares it with the one recorded.

    Raises:
        ValueError: if the file has changed since.
    """
    record = path.with_name(path.name + ".sha256")
    digest = sha256_of(path)
    try:
        recorded = record.read_text().split()[0]
    except (OSError, IndexError):
        try:
            record.write_text(f"{digest}  {path.name}\n")  # as sha256sum writes it
        except OSError:
            pass  # a read-only cache, shared by many: nothing to remember it with
        return
    if digest != recorded:
        raise ValueError(
            f"{path} has changed since its first use: its SHA-256 was {recorded} and is {digest}. Delete it to download it "
            f"again, or delete {record.name} if you replaced it on purpose."
        )


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
