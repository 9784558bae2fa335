"""A folder of downloads in, its files out by the path that they have when unpacked: single files and members of archives."""

import codecs
import os
import re
import stat
from pathlib import Path

from keras_deeplab.data.builders import archives
from keras_deeplab.data.builders.archives import Archive, Source
from keras_deeplab.pictures.files import require_folder

# Endings of files that hold data but cannot be read here, and what to do with them.
UNREADABLE = {
    "Unpack {}": (".rar", ".7z", ".gz", ".bz2", ".xz", ".zst", ".lz", ".lz4", ".z", ".z01", ".001", ".ace", ".iso"),
    "Finish the download of {}": (
        ".part",
        ".partial",
        ".crdownload",
        ".download",
        ".opdownload",
        ".aria2",
        ".filepart",
    ),
}
MOST = 3  # files of a kind that a message names
ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # by first bytes


class Files:
    """The files below a folder.

    Args:
        folder: the folder of the downloads, packed or unpacked, in subfolders of any depth. A member of an archive counts
            as a file unpacked beside the archive. If there is such a file too, the file is read.
        scratch: folder for copies of archives whose members cannot be read in any order (see `archives`).

    Attributes:
        paths: {path below the folder: `Source`}.
        damaged: a message for each archive that cannot be read. The data set may be complete without it.

    Raises:
        FileNotFoundError: if there is no such folder, or it is empty.
    """

    def __init__(self, folder, scratch):
        self.folder, self.scratch = Path(folder), Path(scratch)
        require_folder(folder)
        self.paths, self.damaged = {}, []
        self._copies = {}  # {copy of an archive that may be needed: the `Archive` that makes it}
        self._unread = {remedy: [] for remedy in UNREADABLE}
        self._problems = []  # sentences about files that cannot be read for other reasons
        found = []
        for path in self._walk():
            if archives.NAME.search(path.name):
                found.append(path)
            elif remedy := unreadable(path.name):
                self._unread[remedy].append(path.name)
            else:
                self._add(path.relative_to(self.folder).as_posix(), Source(str(path), stamp=_stamp(path)))
        if not self.paths and not found:
            raise FileNotFoundError(f"The folder {str(folder)!r} is empty.{self.hint()}")
        for path in found:
            self._add_archive(path)

    def hint(self):
        """The end of a message that something was not found: what the folder has that cannot be read, and what to do."""
        remedies = [f"{remedy.format(_some(names))} first." for remedy, names in self._unread.items() if names]
        more = f" {len(self._problems) - MOST} others cannot be read." if len(self._problems) > MOST else ""
        return "".join(f" {sentence}" for sentence in [*remedies, *self._problems[:MOST]]) + more

    def like(self, pattern):
        """The end of a message that no file matches a pattern: what the folder has in its place."""
        ending = "." + pattern.rpartition(".")[2]
        alike = [path for path in self.paths if path.lower().endswith(ending)]
        return f" Its {len(alike)} files *{ending} are {_some(alike)}." if alike else f" It has no files *{ending}."

    def provide(self, sources):
        """Makes the copies of archives that some `Source`s are read from (see `Archive.copy`)."""
        for file in dict.fromkeys(source.file for source in sources):
            if file in self._copies:
                self._copies[file].copy()

    def find(self, pattern, **fixed):
        """Files whose path ends in a pattern.

        Args:
            pattern: for example `"gtFine/{place}/*/{name}_gtFine_labelIds.png"`. `*` stands for any text without a slash,
                `**/` for any number of folders, `{name}` for the name of the file.
            **fixed: texts for the other braces of the pattern.

        Returns:
            `{name: Source}`, sorted by name.

        Raises:
            ValueError: if two files have the same name.
        """
        expression, found = compiled(pattern, **fixed), {}
        ending = pattern.rpartition(".")[2]
        for path, source in self.paths.items():
            if match := expression.search(path):
                rank = (not path.endswith(ending), bool(source.member))  # .jpg before .JPG, a file before a member
                found.setdefault(match["name"], []).append((rank, source))
        return {name: self._best(pattern, name, found[name]) for name in sorted(found)}

    def _best(self, pattern, name, ranked):
        """The source of lowest rank. ValueError if there are two, unless links lead to the same file."""
        lowest = min(rank for rank, _ in ranked)
        first, *others = [source for rank, source in ranked if rank == lowest]
        for other in others:
            if first.member != other.member or os.path.realpath(first.file) != os.path.realpath(other.file):
                raise ValueError(
                    f"Only one file may match {pattern!r} with the name {name!r}. Received: {first} and {other}. "
                    "Keep one of them."
                )
        return first

    def one(self, path):
        """The `Source` of the file whose path ends in `path`, ready to read. FileNotFoundError if there is none."""
        stem, _, ending = path.rpartition(".")
        *parent, stem = stem.rsplit("/", 1)
        sources = self.find("/".join([*parent, "{name=" + re.escape(stem) + "}"]) + f".{ending}")
        if not sources:
            raise FileNotFoundError(f"There is no {path} below {str(self.folder)!r}.{self.hint()}")
        self.provide(sources.values())
        return sources[stem]

    def lines(self, path):
        """The first word of each line of a text file, each once: the names of the pictures of a split."""
        source = self.one(path)
        data = source.read()
        encoding = next((name for mark, name in ENCODINGS.items() if data.startswith(mark)), "utf-8")
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(f"{source} is damaged or not a text file: {error}. Download it again.") from error
        return list(dict.fromkeys(line.split()[0] for line in text.splitlines() if line.strip()))

    def _walk(self):
        """The paths of all files below the folder, sorted within each folder. Links are followed, but not in a circle."""
        ancestors = {str(self.folder): {os.path.realpath(self.folder)}}  # {folder: real paths of it and of those above}
        for root, folders, names in os.walk(self.folder, followlinks=True, onerror=self._note):
            above = ancestors.pop(root)
            for name in sorted(folders):
                real = os.path.realpath(os.path.join(root, name))
                if name.endswith(".unfinished") or real in above:  # the first is `Builder.work`
                    folders.remove(name)
                else:
                    ancestors[os.path.join(root, name)] = above | {real}
            folders.sort()
            for name in sorted(names):
                path = Path(root, name)
                try:
                    if stat.S_ISREG(path.stat().st_mode):
                        yield path
                except OSError as error:
                    self._note(error)

    def _note(self, error):
        """Keeps what is wrong with a file or folder, for messages that something is missing."""
        path = error.filename
        self._problems.append(
            f"{path} is a link to nothing." if os.path.islink(path) else f"{path} cannot be read: {error.strerror}."
        )

    def _add(self, path, source):
        path = path.replace("\\", "/")  # some programs unpack "a/b" as a file of the name "a\\b"
        # Hidden files and the folder __MACOSX hold no data: macOS writes them beside the files that it packs.
        *folders, name = path.split("/")
        if "__MACOSX" not in folders and not name.startswith("."):
            self.paths.setdefault(path, source)

    def _add_archive(self, path):
        parent = path.parent.relative_to(self.folder)
        try:
            archive = Archive(path, _stamp(path), self.scratch)
            sources, copies = archive.sources()
        except Exception as error:  # see `archives.damage`
            self.damaged.append(archives.damage(path, error))
            return
        for member, source in sources.items():
            if remedy := unreadable(member):
                self._unread[remedy].append(str(source))
            self._add((parent / member).as_posix(), source)
        self._copies |= copies
        self.damaged += archive.damaged
        self._problems += [f"{skipped}." for skipped in archive.skipped]


def unreadable(name):
    """What to do with a file that cannot be read, by its ending; None for others."""
    return next((remedy for remedy, endings in UNREADABLE.items() if name.lower().endswith(endings)), None)


def _some(names):
    more = f" and {len(names) - MOST} others" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _stamp(path):
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def compiled(pattern, **fixed):
    """A pattern of `Files.find` as a regular expression for the end of a path.

    `{name=REGEX}` in a pattern restricts the names to those that match REGEX.
    """
    parts = re.split(r"(\*\*/|\*|\{\w+(?:=[^}]*)?\})", pattern)
    expression = ""
    for part in parts:
        if part == "**/":
            expression += "(?:.+/)?"
        elif part == "*":
            expression += "[^/]+"
        elif part.startswith("{name"):
            expression += f"(?P<name>{part[6:-1] or '[^/]+'})"
        elif part.startswith("{"):
            expression += re.escape(fixed[part[1:-1]])
        else:
            expression += re.escape(part)
    expression, dot, ending = expression.rpartition(r"\.")
    return re.compile(f"(?:^|/){expression}{dot}(?i:{ending})$")  # .JPG is .jpg


def filled(pattern, **parts):
    """A pattern with the texts of its braces filled in, for messages."""
    return re.sub(r"\{(\w+)(?:=[^}]*)?\}", lambda brace: parts[brace[1]], pattern)
