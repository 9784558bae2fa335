"""Which files are pictures: by their ending in a folder, by their first bytes in a file."""

from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # how such a file begins


def list_files(folder, suffixes=IMAGE_SUFFIXES, *, subfolders=False):
    """The files of a folder that have one of the endings, in any case, sorted by path. Hidden files do not count.

    Args:
        folder: the folder.
        suffixes: endings in lower case, with their dot.
        subfolders: whether to look into the folders in it as well.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    paths = folder.rglob("*") if subfolders else folder.iterdir()
    found = sorted(path for path in paths if path.suffix.lower() in suffixes and not path.name.startswith("."))
    if not found:
        raise ValueError(f"{folder} holds no {', '.join(suffix[1:].upper() for suffix in suffixes)} files.")
    return found
