"""A URL in, a file in the cache out.

An interrupted download continues where it stopped. A file enters the cache only when it is complete. Its hash is recorded.
"""

import contextlib
import hashlib
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from keras_deeplab.files import written_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 20  # bytes to read at a time
TIMEOUT = 30  # seconds without a byte until a download fails
SHOWN_EVERY = (0.2, 30.0)  # seconds between two lines about a download, on a terminal and elsewhere
WAITS = (1, 5)  # seconds before the second and the third attempt at an address
TEMPORARY = (408, 429, 500, 502, 503, 504)  # HTTP statuses that another attempt may not meet

# {the beginning of a URL: that of a second address with the same paths}. A fork of OpenMMLab's projects keeps their files too.
MIRRORS = {"https://download.openmmlab.com/": "https://mmassets.onedl.ai/"}
# Names of files end in the first digits of a SHA-256. At these addresses it is that of the file itself, and PyTorch checks it
# too. OpenMMLab took it before it removed the optimizer: there, other digits say nothing, and the same digits prove the file.
NAMED_BY_HASH = ("https://download.pytorch.org/",)
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.")


def cache_dir():
    """The folder of downloaded weights: `KERAS_DEEPLAB_CACHE`, or by default keras_deeplab in Keras's home folder."""
    keras_home = os.environ.get("KERAS_HOME", Path("~", ".keras"))
    return Path(os.environ.get("KERAS_DEEPLAB_CACHE") or Path(keras_home, "keras_deeplab")).expanduser()


def fetch(url, check):
    """The cached file of a URL, downloaded first if it is not there.

    Args:
        url: what to download; the last part of the URL becomes the name of the file. If this address fails, the second address
            of `MIRRORS` is tried.
        check: a function of a path that raises `ValueError` if the file is not what it should be. It is called before a
            download enters the cache.

    Returns:
        the path of the file. NAME.sha256 beside it holds its hash at first use.

    Raises:
        FileNotFoundError: if the file is not in the cache and cannot be downloaded. The message says which file to put where.
        ValueError: if the file has changed since its first use, its hash cannot be read, or the download fails `check`.
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
                download_from_any(addresses(url), path, check)
    remember_sha256(path)
    return path


def addresses(url):
    """The URL, and the same file at a second address if there is one."""
    return [url, *(mirror + url.removeprefix(start) for start, mirror in MIRRORS.items() if url.startswith(start))]


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


def download_from_any(urls, path, check):
    """Downloads to `path` from the first of several addresses that gives the file.

    Raises:
        ValueError: if what came from one of them, and from no other the file, fails `check`.
        FileNotFoundError: if nothing came.
    """
    failures, refusal = [], None
    for url in urls:
        try:
            return download_checked(url, path, check)
        except ValueError as error:
            refusal = refusal or error
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{error}" if len(urls) == 1 else f"{url}: {error}")
    if refusal:
        raise refusal
    raise FileNotFoundError(
        f"{path.name} is not in {path.parent} and could not be downloaded ({'; '.join(failures)}). Download {urls[0]} on "
        f"another machine and put it there as {path.name}, or give the file as weights=."
    )


def download_checked(url, path, check):
    """Downloads to `path` by way of PATH.part, which keeps the beginning of a download that was interrupted."""
    part = path.with_name(path.name + ".part")
    download_patiently(url, part)
    try:
        if not part.stat().st_size:
            raise ValueError(f"{path.name} must hold weights. Received: an empty file from {url}. Try again later.")
        check(part)
        check_name(url, part)
    except ValueError:
        part.unlink()
        raise
    os.replace(part, path)


def check_name(url, part):
    """Raises `ValueError` if the name of a file tells its hash, and the file has another."""
    digits = HASH_IN_NAME.search(url.rpartition("/")[2])
    if digits and url.startswith(NAMED_BY_HASH) and not (digest := sha256_of(part)).startswith(digits[1]):
        raise ValueError(f"The SHA-256 of {url} must begin with {digits[1]}. Received: {digest}. Try again.")


def download_patiently(url, part):
    """Downloads, and tries again after failures that may be temporary. Each attempt continues the one before."""
    for wait in (*WAITS, None):
        try:
            return download(url, part)
        except (OSError, http.client.HTTPException) as error:
            # An error without a status is of a computer without a network, or of an address where nobody listens.
            is_final = isinstance(error, urllib.error.URLError) and getattr(error, "code", None) not in TEMPORARY
            if wait is None or is_final or isinstance(error, PermissionError | IsADirectoryError):
                raise
            print(f"{part.stem}: the download failed ({error}); next attempt in {wait} s", file=sys.stderr, flush=True)
        time.sleep(wait)


def download(url, part):
    """Downloads to the path `part`, and continues an earlier attempt if the file on the server is provably the same.

    PART.json keeps the address and the strong ETag of the file that `part` is the beginning of.

    Raises:
        OSError, HTTPException: if the download fails.
    """
    record = part.with_name(part.name + ".json")
    etag = recorded_etag(record, url)
    size = part.stat().st_size if etag and part.exists() else 0  # bytes that are downloaded
    if size:
        try:
            with request(url, {"Range": f"bytes={size}-", "If-Range": etag}) as response:
                if response.status == http.client.OK:
                    return receive(response, url, part, record)
                if continues(response, size, etag):
                    return receive(response, url, part, record, size)
        except urllib.error.HTTPError as error:  # for a part that has all bytes of the file, or more
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
    with request(url, {}) as response:
        if response.status != http.client.OK:
            raise OSError(f"the server's answer must have status 200; it has {response.status}")
        receive(response, url, part, record)


def request(url, headers):
    """The opened response to a request."""
    headers = {"User-Agent": "keras_deeplab", **headers}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)


def continues(response, size, etag):
    """Whether a part of a file is of the file with this ETag, and begins after `size` bytes."""
    start = response.status == http.client.PARTIAL_CONTENT and re.match(
        r"bytes (\d+)-", response.headers.get("Content-Range") or ""
    )
    return bool(start) and int(start[1]) == size and strong_etag(response) == etag


def strong_etag(response):
    """The ETag of a response, or None if it does not promise the same bytes."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else None


def recorded_etag(record, url):
    """The ETag in PART.json, or None if there is none, or none for this address."""
    try:
        recorded = json.loads(record.read_bytes())
    except (OSError, ValueError, RecursionError):  # no file, or a damaged one: then the download begins anew
        return None
    etag = recorded.get("etag") if isinstance(recorded, dict) and recorded.get("url") == url else None
    return etag if isinstance(etag, str) and etag.isascii() and etag.isprintable() else None


def receive(response, url, part, record, size=0):
    """Writes the bytes of a response to `part`, after the `size` bytes that it keeps.

    Raises:
        OSError: if the connection ends before the file.
    """
    total = (
        None if response.length is None else size + response.length
    )  # http.client ignores a length that is no number
    record.unlink(missing_ok=True)
    with open(part, "ab" if size else "wb") as file:
        if etag := strong_etag(response):  # not before `part` has no bytes of another file
            record.write_text(json.dumps({"url": url, "etag": etag}))
        with Progress(part.stem, size, total) as progress:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                size += len(chunk)
                progress.show(size)
    if total is not None and size < total:
        raise OSError(f"the connection ended after {size} of {total} bytes; the next attempt continues from there")
    record.unlink(missing_ok=True)


class Progress:
    """A line on standard error about a download: name, megabytes, speed. On a terminal it is written over itself.

    Args:
        name: of the file.
        size: bytes that an earlier attempt downloaded.
        total: bytes of the file, or None if the server does not say.
    """

    def __init__(self, name, size, total):
        self.name, self.first, self.size, self.total = name, size, size, total
        self.is_terminal = sys.stderr.isatty()
        self.start = self.shown = time.monotonic()

    def __enter__(self):
        self.write()
        return self

    def show(self, size):
        """Notes how many bytes there are now."""
        self.size = size
        if time.monotonic() - self.shown >= SHOWN_EVERY[0 if self.is_terminal else 1]:
            self.write()

    def __exit__(self, *_):
        self.write(end="\n")

    def line(self):
        """The line, such as "model.pth: 12.3 of 45.6 MB, 7.8 MB/s"."""
        of_total = f" of {self.total / 1e6:.1f}" if self.total else ""
        seconds = time.monotonic() - self.start
        rate = f", {(self.size - self.first) / 1e6 / seconds:.1f} MB/s" if seconds > 0.01 else ""
        return f"{self.name}: {self.size / 1e6:.1f}{of_total} MB{rate}"

    def write(self, end=""):
        self.shown = time.monotonic()
        if self.is_terminal:
            print(f"\r{self.line()}\x1b[K", end=end, file=sys.stderr, flush=True)
        else:
            print(self.line(), file=sys.stderr, flush=True)


def remember_sha256(path):
    """Records the file's hash in NAME.sha256 beside it, or compares it with the one recorded there.

    A file whose hash begins with the digits in its name is the published one: it replaces another hash.

    Raises:
        ValueError: if the hashes differ, or if the recorded one cannot be read.
    """
    record = path.with_name(path.name + ".sha256")
    digest = sha256_of(path)
    recorded = read_sha256(record)
    if digest == recorded:
        return
    digits = HASH_IN_NAME.search(path.name)
    if recorded is None or (digits and digest.startswith(digits[1])):
        with contextlib.suppress(OSError), written_whole(record) as temporary:  # a shared cache may be read-only
            temporary.write_text(f"{digest}  {path.name}\n")  # as sha256sum writes it
        return
    raise ValueError(
        f"{path} has changed since its first use. Its SHA-256 must be {recorded}. Received: {digest}. Delete the file to "
        f"download it again, or delete {record.name} if you replaced the file on purpose."
    )


def read_sha256(record):
    """The hash in a file that `remember_sha256` or sha256sum wrote, or None if there is no such file or it is empty.

    Raises:
        ValueError: if the file holds something else.
    """
    try:
        content = record.read_bytes()
    except OSError:
        return None
    if not content.strip(b"\0\r\n\t "):  # zeros: a system that lost power may leave them
        return None
    found = re.search(rb"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])", content.replace(b"\0", b""))  # UTF-16 too
    if not found:
        raise ValueError(
            f"{record} must hold the SHA-256 of {record.stem} in hex. Received: {content[:32]!r}. Delete {record.name}; "
            "the next use writes it anew."
        )
    return found[0].decode().lower()


def sha256_of(path):
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
