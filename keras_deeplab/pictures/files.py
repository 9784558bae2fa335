"""A folder in, its picture files out; how videos are named; the first bytes by which a file is known, whatever its name."""

from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"),
    *(".3gp", ".ogv"),
)
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # the first bytes of such a file
JPEG_END = b"\xff\xd9"  # its last two bytes
BASE64 = 'base64 text. In JSON, write {"b64": "..."} and the server decodes it'
FORMATS = {  # the first bytes of a file: its format, for error messages
    JPEG: "JPEG",
    PNG: "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"%PDF": "PDF",
}
TEXTS = {  # the first bytes of what is taken for a picture by mistake: what it is
    b"/9j/": BASE64,  # of a JPEG
    b"iVBORw0K": BASE64,  # of a PNG
    b"data:image": BASE64,
    b"version https://git-lfs": "a pointer of Git LFS. `git lfs pull` fetches the file",
    b"<": "HTML or XML text",
}


def require_folder(path):
    """Raises FileNotFoundError if `path` is no folder; the message says so if it is a file."""
    if not Path(path).is_dir():
        kind = " It is a file: name the folder that holds it." if Path(path).is_file() else ""
        raise FileNotFoundError(f"There is no folder {str(path)!r}.{kind}")


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
    require_folder(folder)
    paths = folder.rglob("*") if subfolders else folder.iterdir()
    files = sorted(path for path in paths if path.suffix.lower() in suffixes and not path.name.startswith("."))
    if not files:
        raise ValueError(f"{folder} holds no {', '.join(suffix[1:].upper() for suffix in suffixes)} files.")
    return files
