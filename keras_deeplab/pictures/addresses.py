"""An address such as https://example.org/street.jpg or s3://bucket/street.jpg in, the bytes behind it out.

http and https are read by Python itself, file: as a path, every other scheme by fsspec, which people install with the package
of their storage (`pip install fsspec s3fs`).
"""

import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

TIMEOUT = 30  # seconds without a byte until a download fails
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters or more: C:// is a drive


def is_address(source) -> bool:
    """Whether a source is text that begins with a scheme, such as https://."""
    return isinstance(source, str) and _SCHEME.match(source) is not None


def scheme_of(address):
    """The scheme in lower case, without ://."""
    return _SCHEME.match(address)[1].lower()


def read_address(address) -> bytes:
    """The bytes behind an address.

    Raises:
        FileNotFoundError: if there is nothing at this address.
        OSError: if it cannot be read. The message has the address and the cause.
        ImportError: if the package that reads this kind of address is not installed.
        ValueError: for a scheme that nobody knows.
    """
    scheme = scheme_of(address)
    if scheme not in ("file", "http", "https"):
        system, path = file_system(address)
    try:
        if scheme == "file":
            return local_path(address).read_bytes()
        if scheme in ("http", "https"):
            return _download(address)
        return system.cat_file(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no picture at {address}.") from error
    except Exception as error:  # every storage has its own: no network, wrong keys, a connection that ends early
        raise OSError(f"{address} cannot be read: {error or type(error).__name__}.") from error


def open_address(address):
    """The file at an address that fsspec reads, open for reading bytes, from any place in it.

    Raises:
        FileNotFoundError, OSError, ImportError, ValueError: as `read_address`.
    """
    system, path = file_system(address)
    try:
        return system.open(path, "rb")
    except FileNotFoundError:
        raise
    except Exception as error:  # every storage has its own
        raise OSError(f"{address} cannot be read: {error or type(error).__name__}.") from error


def bytes_of_file(file) -> bytes:
    """What an open file has from its position on.

    Raises:
        ValueError: if it gives text.
    """
    data = file.read()
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError(
            f"A file must be open for reading bytes: mode 'rb'. Received: one that gives {type(data).__name__}."
        )
    return bytes(data)


def _download(address):
    request = urllib.request.Request(_quoted(address), headers={"User-Agent": "keras_deeplab"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(address) from error
        raise


def _quoted(address):
    """The address with what may not stand in a request, such as spaces, as % and its code. What has a % stays."""
    return urllib.parse.quote(address, safe="%:/?#[]@!$&'()*+,;=~")


def local_path(address):
    """The path of an address that begins with file://."""
    return Path(urllib.request.url2pathname(urllib.parse.urlsplit(address).path))


def file_system(address):
    """The fsspec file system of an address, and the address as a path in it.

    Raises:
        ImportError: if fsspec, or its package for this scheme, is not installed.
        ValueError: for a scheme that fsspec does not know.
    """
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(
            f"Addresses of {scheme_of(address)}:// are read by fsspec, which is not installed. Received: {address}. "
            "pip install fsspec and its package for this storage, such as s3fs or gcsfs."
        ) from error
    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise ImportError(
            f"fsspec needs one more package for {scheme_of(address)}://. Received: {address}. {error}"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"An address must begin with http://, https://, file:// or a scheme that fsspec knows. Received: {address}."
        ) from error
