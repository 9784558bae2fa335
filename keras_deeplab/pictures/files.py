"""A folder in, its picture files out; and the first bytes by which a picture file is known."""

from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # the first bytes of such a file


def list_files(folder, suffixes=IMAGE_SUFFIXES, *, subfolders=False):
    """Lists the files of a folder that have one of the endings. Hidden files are left out.

    Args:
        folder: the folder.
        suffixes: endings in lower case, with their dot. Upper case in the names of the files makes no difference.
        subfolders: whether to look into the folders inside it too, to any depth.

    Returns:
        a list of `pathlib.Path`, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    paths = folder.rglob("*") if subfolders else folder.iterdir()
    files = sorted(path for path in paths if path.suffix.lower() in suffixes and not path.name.startswith("."))
    if not files:
        raise ValueError(f"{folder} holds no {', '.join(suffix[1:].upper() for suffix in suffixes)} files.")
    return files
