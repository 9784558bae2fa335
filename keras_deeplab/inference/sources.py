"""Files, folders, globs, lists and addresses in, a list of pictures with the names of their results out."""

import functools
import glob
import os
import posixpath
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from keras_deeplab.pictures.addresses import file_system, is_address, local_path, scheme_of
from keras_deeplab.pictures.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES


class Source(NamedTuple):
    """A picture, and where its results go."""

    place: str  # path or address
    name: str  # of its results, relative to their folder and without ending, with / between folders


def find_pictures(inputs, to=None, list_address=None):
    """Finds the pictures that the inputs name.

    Args:
        inputs: one or a list of
            a path of a file; its results are called by its stem.
            a path of a folder: all its pictures, at any depth. The results keep the folders below it.
            a glob such as "photos/*/*.jpg"; ** stands for any depth. The results keep the folders below its fixed beginning.
            "@list.txt": a text file with one of the above, or an address, in each line. Relative paths start from the
                current folder. The results keep the folders below the deepest one that all pictures of the list are in.
            an address: of one file, or of a folder or a glob for those of fsspec.
        to: the folder of the results. What is in it is not searched.
        list_address: a function like `list_by_fsspec`, which is the default.

    Returns:
        a list of `Source`.

    Raises:
        FileNotFoundError: if a file, folder or list does not exist. (Missing files of a list are found when they are read.)
        ValueError: if an input names no picture, or if the results would lie among the pictures of a searched folder.
        ImportError: if addresses need a package that is not installed.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    list_address = list_address or list_by_fsspec
    return [source for text in inputs for source in _of_input(os.fspath(text), to, list_address)]


def _of_input(text, to, list_address):
    if text.startswith("@") and not os.path.exists(text):
        return _of_list(text[1:], to, list_address)
    root, places = _expanded(text, to, list_address)
    if not places:
        raise FileNotFoundError(f"There is no picture {text!r}.")
    return [Source(place, _name(place, root)) for place in places]


def _expanded(text, to, list_address):
    """(the folder that the names of results start from, places) of any input but a list. Empty for a file that is missing."""
    if is_address(text) and scheme_of(text) == "file":
        text = str(local_path(text))
    if is_address(text):
        return list_address(text)
    if os.path.isfile(text):
        return os.path.dirname(os.path.abspath(text)), [text]
    if os.path.isdir(text):
        return text, _searched(text, to)
    if glob.has_magic(text):
        return _of_glob(text, to)
    return "", []


def _searched(folder, to):
    """The pictures of a folder at any depth, sorted."""
    require_outside(folder, to)
    places = list(_walk(folder, to))
    if not places:
        kinds = ", ".join(suffix[1:].upper() for suffix in IMAGE_SUFFIXES)
        raise ValueError(f"{folder} holds no {kinds} files. {not_taken(videos_in([folder], to))}".strip())
    return places


def is_video(place):
    """Whether the name of a file, or its address, ends as those of videos do."""
    return has_suffix(path_of(place) if is_address(place) else place, VIDEO_SUFFIXES)


def videos_in(inputs, to=None):
    """The videos in the folders of `find_pictures`' inputs, which takes the pictures in them alone."""
    folders = [text for text in map(os.fspath, inputs) if os.path.isdir(text)]
    return [place for folder in folders for place in _walk(folder, to, suffixes=VIDEO_SUFFIXES)]


def not_taken(videos):
    """A sentence about the videos of `videos_in`; no text if there are none."""
    if not videos:
        return ""
    folder, ending = os.path.dirname(videos[0]), os.path.splitext(videos[0])[1]
    return (
        f"Folders are searched for pictures, so {len(videos)} videos in them are not taken, such as {videos[0]}. Name them in "
        f'a command of their own, or write a glob: "{os.path.join(folder, "*" + ending)}".'
    )


def _walk(folder, to, seen=frozenset(), suffixes=IMAGE_SUFFIXES):
    """The visible pictures of a folder, in order. Links to folders are followed, but not in circles."""
    real = os.path.realpath(folder)
    if real in seen or (to is not None and real == os.path.realpath(to)):
        return
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    for entry in visible:
        is_folder, is_file = _kind_of(entry)
        if is_folder:
            yield from _walk(entry.path, to, seen | {real}, suffixes)
        elif has_suffix(entry.name, suffixes) and is_file:
            yield entry.path


def _kind_of(entry):
    """Whether an entry of a folder is a folder, and whether it is a file. A link to itself is neither."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:
        return False, False


def has_suffix(name, suffixes=IMAGE_SUFFIXES):
    """Whether a name ends with one of `suffixes`, as pictures do."""
    return os.path.splitext(name)[1].lower() in suffixes


def require_outside(folder, to):
    """Raises `ValueError` if results would lie among the pictures of `folder`, where the next search would find them."""
    if to is not None and os.path.realpath(folder) == os.path.realpath(to):
        raise ValueError(
            f"The results must not lie among the pictures: the next run would take them for pictures. Received: {folder} "
            f"for both. Name another folder for the results, such as {os.path.join(folder, 'labels')}."
        )


def _of_glob(pattern, to):
    root = fixed_beginning(pattern)
    require_outside(root, to)
    names_ending = os.path.splitext(pattern)[1] != ""
    inside = None if to is None else os.path.join(os.path.realpath(to), "")
    places = []
    for place in sorted(glob.glob(pattern, recursive=True)):
        if inside and os.path.join(os.path.realpath(place), "").startswith(inside):
            continue
        if os.path.isdir(place):
            if not names_ending and "**" not in pattern:
                places.extend(_walk(place, to, frozenset({os.path.realpath(root)})))
        elif names_ending or has_suffix(place):
            places.append(place)
    if not places:
        raise ValueError(f"No picture matches {pattern!r}.")
    return root, list(dict.fromkeys(places))


def fixed_beginning(pattern):
    """The folders of a glob before the first that has a wildcard."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern or os.curdir


def _of_list(file, to, list_address):
    """The pictures of a list, each once. Lines that name nothing are kept: reading them fails, and says so."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"There is no list {file!r} (the text after @).")
    places = []
    for line in Path(file).read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n"):
        if line := line.rstrip("\r"):
            places.extend(_expanded(line, to, list_address)[1] or [line])
    if not places:
        raise ValueError(f"The list {file} names no picture.")
    places = list(dict.fromkeys(places))
    roots = {kind: _common_folder(group) for kind, group in _by_kind(places).items()}
    return [Source(place, _name(place, roots[is_address(place)])) for place in places]


def _by_kind(places):
    kinds = {kind: [place for place in places if is_address(place) is kind] for kind in (False, True)}
    return {kind: group for kind, group in kinds.items() if group}


def _common_folder(places):
    """The deepest folder that all places are in. They are all paths, or all addresses."""
    if is_address(places[0]):
        return posixpath.commonpath([posixpath.dirname(path_of(place)) for place in places])
    return os.path.commonpath({os.path.dirname(os.path.abspath(place)) for place in places})


def _name(place, root):
    """The place relative to `root`, without ending."""
    if is_address(place):
        return posixpath.splitext(posixpath.relpath(path_of(place), root))[0]
    return os.path.splitext(os.path.relpath(place, root))[0].replace(os.sep, "/")


def path_of(address):
    """Host and path of an address as a path, whose parts are plain names."""
    parts = urllib.parse.urlsplit(address)
    is_web = parts.scheme.lower() in ("http", "https")  # there, and only there, % stands for a character
    names = [urllib.parse.unquote(name) if is_web else name for name in parts.path.split("/")]
    plain = [name.replace("/", "_").replace("\0", "_") for name in names if name not in ("", ".", "..")]
    return "/" + "/".join([parts.netloc or "_", *plain])


def list_by_fsspec(address):
    """(the folder that the names of results start from, as `path_of` gives it; the pictures) of an address."""
    if scheme_of(address) in ("http", "https"):
        return posixpath.dirname(path_of(address)), [address]
    system, path = file_system(address)
    try:
        if glob.has_magic(path) and not system.exists(path):
            found, root = system.glob(path), fixed_beginning(path)
        elif system.isdir(path):
            found, root = system.find(path), path
        else:
            return posixpath.dirname(path_of(address)), [address]
        places = [system.unstrip_protocol(one) for one in sorted(found) if has_suffix(one)]
    except (FileNotFoundError, ImportError, ValueError):
        raise
    except Exception as error:  # every storage has its own: wrong keys, no network, no such bucket
        raise OSError(f"{address} cannot be listed: {error or type(error).__name__}.") from error
    if not places:
        raise ValueError(f"No picture is at {address}.")
    return path_of(system.unstrip_protocol(root)), places


@functools.lru_cache(maxsize=1024)
def _real_folder(folder):
    return os.path.realpath(folder)


def real_path(place):
    """The place with links in its folders resolved; pictures of one folder cost one look at the disk together."""
    folder, name = os.path.split(os.path.abspath(place))
    return os.path.join(_real_folder(folder), name)
