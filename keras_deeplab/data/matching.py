"""A folder of pictures and one of label maps in; the files that belong together, and those without a partner, out.

The *key* of a file is its path inside the folder without the ending and without a suffix such as `_leftImg8bit`. Files of the
same key belong together.
"""

import codecs
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from keras_deeplab.pictures.files import IMAGE_SUFFIXES, require_folder

LABEL_SUFFIXES = (".png",)
SEPARATORS = "_-."  # a suffix that is found by itself begins with one of these
PREFERRED = (
    "_gtFine_labelTrainIds"  # of the kinds of label maps that Cityscapes has for each picture, the one to train on
)


@dataclass(frozen=True)
class Match:
    """The files of two folders.

    Attributes:
        pairs: [(image path, label path)], sorted by key.
        keys: the key of each pair.
        problems: one line for each file without a partner, sorted.
        notes: lines about what was found out: suffixes, and pictures that were left out.
    """

    pairs: list
    keys: list
    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def match(images, labels, *, image_suffix=None, label_suffix=None, split_file=None):
    """The files that belong together, and those that have no partner.

    A folder's own files count. If it has none, the files of its subfolders count, and the subfolders of both folders must have
    the same names.

    Args:
        images, labels: folders.
        image_suffix, label_suffix: what the names of the files end with before the ending, such as "_leftImg8bit" or
            "_gtFine_labelTrainIds"; other files are left out. An ending may follow, as in "_mask.png". None (the default):
            nothing, or what most files have in common if nothing gives no pair.
        split_file: a text file that names the pictures to use, one on each line: their stems or paths. None: all.

    Returns:
        `Match`.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if a folder holds no such files or two of the same key, or several kinds of label maps belong to the
            pictures.
    """
    images, labels = Path(images), Path(labels)
    picture_files, notes = _files(images, IMAGE_SUFFIXES, image_suffix or "", labels)
    label_files, _ = _files(labels, LABEL_SUFFIXES, label_suffix or "", images)
    pictures = _by_key(images, picture_files, image_suffix or "")
    maps = _by_key(labels, label_files, label_suffix or "")
    found_suffixes = [image_suffix or "", label_suffix or ""]
    if not pictures.keys() & maps.keys():
        pictures, maps, found = _with_found_suffixes(pictures, maps, image_suffix is None, label_suffix is None)
        for i, kind in enumerate(("pictures", "label maps")):
            if found[i]:
                found_suffixes[i] = found[i]
                notes.append(f"The names of the {kind} end with {found[i]!r}.")
    problems = []
    if split_file is not None:
        chosen, problems = _named_in(Path(split_file), pictures, found_suffixes[0], images)
        pictures, maps = ({key: files[key] for key in chosen if key in files} for files in (pictures, maps))
    keys = sorted(pictures.keys() & maps.keys())
    if pictures and not keys:
        return Match([], [], [*problems, _no_pairs(images, labels, pictures, maps)], notes)
    ending = found_suffixes[1] if found_suffixes[1].lower().endswith(LABEL_SUFFIXES) else f"{found_suffixes[1]}.png"
    problems += [
        f"{path} has no label: {labels / key}{ending} is missing." for key, path in pictures.items() if key not in maps
    ]
    problems += [
        f"{path} has no image of the stem {key!r} in {images}." for key, path in maps.items() if key not in pictures
    ]
    return Match([(pictures[key], maps[key]) for key in keys], keys, sorted(problems), notes)


def read_lines(path):
    """The lines of a text file without line ends and blank lines: UTF-8, UTF-16 with a byte order mark, or else Latin-1."""
    data = Path(path).read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _files(folder, endings, suffix, other):
    """The files of a folder, or if it has none those of its subfolders; and a list of a note if subfolders are left out.

    Files in the folder `other` are left out if it is one of the subfolders.
    """
    require_folder(folder)
    own, other = folder.resolve(), other.resolve()
    inside_other = other.relative_to(own).parts if other != own and own in other.parents else None
    files, others = [], None
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if (
            path.suffix.lower() not in endings
            or hidden
            or (inside_other and parts[: len(inside_other)] == inside_other)
        ):
            continue
        if _without_suffix(path.name, suffix, endings) is None:
            others = path
        else:
            files.append(path)
    if not files and others:
        raise ValueError(f"No file of {folder} has a name that ends with {suffix!r}. Received: {others.name}, for one.")
    if not files:
        names = ", ".join(ending[1:].upper() for ending in endings)
        raise ValueError(f"{folder} holds no {names} files, and its subfolders hold none.")
    top = [path for path in files if path.parent == folder]
    if not top or len(top) == len(files):
        return files, []
    left_out = (
        f"{len(files) - len(top)} files in subfolders of {folder} are left out, because the folder has files itself."
    )
    return top, [left_out]


def _without_suffix(name, suffix, endings=IMAGE_SUFFIXES):
    """The name of a file without its ending and the suffix, which may contain the ending; None if it has no such suffix."""
    if not suffix.lower().endswith(endings):
        name = name[: len(name) - len(Path(name).suffix)]
    return name.removesuffix(suffix) if name.endswith(suffix) else None


def _by_key(folder, paths, suffix):
    """{key: path} of files whose names end with the suffix."""
    keyed = {}
    for path in paths:
        parent = path.relative_to(folder).parent.as_posix()
        name = _without_suffix(path.name, suffix)
        key = name if parent == "." else f"{parent}/{name}"
        if key in keyed:
            raise ValueError(
                f"The files of a folder must have different stems. Received: {path}, {keyed[key].name}. Keep one of them."
            )
        keyed[key] = path
    return keyed


def _with_found_suffixes(pictures, maps, search_pictures, search_maps):
    """Both dicts under keys that fit together, and the two suffixes that this took off; unchanged where nothing fits."""
    for by_name in (False, True):  # if the subfolders differ, by the name alone
        images, labels = (_by_name(pictures), _by_name(maps)) if by_name else (pictures, maps)
        if images is None or labels is None:
            continue
        if images.keys() & labels.keys():
            return images, labels, ("", "")
        if found := _found_suffixes(images, labels, search_pictures, search_maps):
            images = {key.removesuffix(found[0]): path for key, path in images.items()}
            labels = {key.removesuffix(found[1]): path for key, path in labels.items() if key.endswith(found[1])}
            return images, labels, found
    return pictures, maps, ("", "")


def _by_name(files):
    """The files under the last part of their keys, or None if two have the same."""
    named = {key.rpartition("/")[2]: path for key, path in files.items()}
    return named if len(named) == len(files) else None


def _found_suffixes(images, labels, search_images, search_labels):
    """(suffix of the pictures, suffix of the label maps) by which more than half of the pictures find a label map, or None.

    Raises:
        ValueError: if several kinds of label maps do.
    """
    for of_image in _common_suffixes(images) if search_images else [""]:
        bases = {key.removesuffix(of_image) for key in images}
        counts = Counter(
            suffix
            for key in labels
            for suffix in (_suffixes(key) if search_labels else [""])
            if key.removesuffix(suffix) in bases
        )
        kinds = sorted(suffix for suffix, count in counts.items() if 2 * count > len(bases))
        if PREFERRED in kinds:
            kinds = [PREFERRED]
        if len(kinds) > 1:
            raise ValueError(
                f"Each picture must have one label map. Received: {len(kinds)} kinds of them, whose names end with "
                f"{', '.join(kinds)}. Choose one: `label_suffix={kinds[-1]}`."
            )
        if kinds:
            return of_image, kinds[0]
    return None


def _suffixes(key):
    """ "" and each end of the name that begins with a separator, from the shortest."""
    start = key.rfind("/") + 2  # the name's first character is no suffix
    return ["", *(key[i:] for i in range(len(key) - 1, start - 1, -1) if key[i] in SEPARATORS)]


def _common_suffixes(keys):
    """The suffixes that all keys have, from the shortest."""
    keys = list(keys)
    return [suffix for suffix in _suffixes(keys[0]) if all(key.endswith(suffix) for key in keys)]


def _no_pairs(images, labels, pictures, maps):
    first, other = (next(iter(files.values())).name for files in (pictures, maps or pictures))
    if not maps:
        return f"The pictures of the split file have no label maps in {labels}. Received: {first}, for one."
    return (
        "A picture and its label map must have names that are equal up to a suffix. "
        f"Received: {len(pictures)} pictures in {images} such as {first}, {len(maps)} label maps in {labels} such as {other}. "
        "Rename them, or tell what their names end with by `image_suffix=...` and `label_suffix=...`."
    )


def _named_in(split_file, pictures, suffix, folder):
    """The keys of the pictures that a split file names, and a list of a line for each entry that is wrong."""
    if not split_file.is_file():
        raise FileNotFoundError(f"There is no split file {str(split_file)!r}.")
    by_name: dict = {}
    for key in pictures:
        by_name.setdefault(key.rpartition("/")[2], []).append(key)
    chosen: dict = {}
    problems = []
    for entry in read_lines(split_file):
        key = _picture_of(entry, pictures, by_name, suffix)
        if key is None:
            problems.append(f"{split_file} names {entry!r}, but {folder} has no such picture.")
        elif key in chosen:
            problems.append(f"{split_file} names the picture {key!r} twice.")
        chosen[key] = True
    if not chosen:
        raise ValueError(f"A split file must name at least one picture. Received: {split_file}, which is empty.")
    chosen.pop(None, None)
    return chosen, problems


def _picture_of(entry, pictures, by_name, suffix):
    """The key of the picture that a line of a split file names, or None. Of a line "PICTURE LABEL" the first word counts."""
    for text in (entry, entry.split()[0]):
        folder, _, name = text.replace("\\", "/").removeprefix("./").rpartition("/")
        bare = name[: len(name) - len(Path(name).suffix)] if name.lower().endswith(IMAGE_SUFFIXES) else name
        names = dict.fromkeys([name, bare, bare.removesuffix(suffix), name.removesuffix(suffix)])
        parents = [part for part in folder.split("/") if part]
        for candidate in names:
            for start in range(len(parents) + 1):  # also without the first folders of the path
                key = "/".join([*parents[start:], candidate])
                if key in pictures:
                    return key
            if not parents and len(by_name.get(candidate, [])) == 1:
                return by_name[candidate][0]
    return None
