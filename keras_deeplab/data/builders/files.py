"""A folder of downloads in, its files out by the path that they have when unpacked: single files and members of archives."""

import functools
import gzip
import hashlib
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

COMPRESSED = (".tgz", ".tar.gz")  # endings of compressed .tar files


@dataclass(frozen=True)
class Source:
    """A file, or a member of an archive.

    Attributes:
        file: path of the file or archive.
        member: name inside the archive; empty for a file.
        span: (offset, length) in bytes of a member of a .tar, which is stored uncompressed; None for others.
        stamp: (size in bytes, time of change in ns) of the file. A result that was made from a file with another stamp is
            not used again.
    """

    file: str
    member: str = ""
    span: tuple[int, int] | None = None
    stamp: tuple[int, int] = (0, 0)

    def __str__(self):
        return f"{self.file}: {self.member}" if self.member else self.file

    def read(self):
        """The contents, bytes. ValueError if the archive is damaged."""
        try:
            if self.span is not None:
                with open(self.file, "rb") as file:
                    file.seek(self.span[0])
                    data = file.read(self.span[1])
                if len(data) < self.span[1]:
                    raise ValueError(f"{self} is damaged: the archive ends inside it. Download it again.")
                return data
            if self.member:
                return _zip(self.file, os.getpid()).read(self.member)
        except (zipfile.BadZipFile, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
            raise ValueError(f"{self} cannot be unpacked: {error}.") from error
        return Path(self.file).read_bytes()


@functools.lru_cache(maxsize=8)
def _zip(path, process):  # `process` is a key of the cache: a forked process must not share a file position
    return zipfile.ZipFile(path)


class Files:
    """The files below a folder.

    Args:
        folder: the folder of the downloads, packed or unpacked, in subfolders of any depth. A member of an archive counts
            as a file unpacked beside the archive. If there is such a file too, the file is read.
        scratch: folder for decompressed copies of compressed .tar files, whose members cannot be read in any order.

    Attributes:
        paths: {path below the folder: `Source`}.
        packed: names of archives that cannot be read.

    Raises:
        FileNotFoundError: if there is no such folder, or it is empty.
        ValueError: if an archive is damaged.
    """

    def __init__(self, folder, scratch):
        self.folder, self.scratch = Path(folder), Path(scratch)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
        self.paths = {}
        archives, self.packed = [], []
        for root, folders, names in os.walk(self.folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.endswith(".unfinished"))  # see Builder.work
            for name in sorted(names):
                path = Path(root, name)
                if name.endswith((".zip", ".tar", *COMPRESSED)):
                    archives.append(path)
                elif name.endswith((".rar", ".7z")):
                    self.packed.append(name)
                else:
                    self._add(path.relative_to(self.folder).as_posix(), str(path), stamp=_stamp(path))
        if not self.paths and not archives:
            raise FileNotFoundError(f"The folder {str(folder)!r} is empty.{self.hint()}")
        for path in archives:
            self._add_archive(path)

    def hint(self):
        """The end of a message that something was not found: the archives to unpack, if there are any."""
        return f" Unpack {', '.join(self.packed)} first." if self.packed else ""

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
        expression, sources = compiled(pattern, **fixed), {}
        for path, source in self.paths.items():
            match = expression.search(path)
            if match is None:
                continue
            name = match["name"]
            if name not in sources or (sources[name].member and not source.member):
                sources[name] = source
            elif sources[name].member or not source.member:
                raise ValueError(
                    f"Only one file may match {pattern!r} with the name {name!r}. Received: {sources[name]} and {source}. "
                    "Keep one of them."
                )
        return dict(sorted(sources.items()))

    def one(self, path):
        """The `Source` of the file whose path ends in `path`. FileNotFoundError if there is none."""
        *parent, last = path.rsplit("/", 1)
        sources = self.find("/".join([*parent, "{name}"]).replace("{name}", "{name=" + re.escape(last) + "}"))
        if not sources:
            raise FileNotFoundError(f"There is no {path} below {str(self.folder)!r}.{self.hint()}")
        return sources[last]

    def lines(self, path):
        """The first word of each line of a text file: the names of the pictures of a split."""
        return [line.split()[0] for line in self.one(path).read().decode().splitlines() if line.strip()]

    def _add(self, path, file, **source):
        # Hidden files and the folder __MACOSX hold no data: macOS writes them beside the files that it packs.
        if not path.startswith("__MACOSX/") and not path.rsplit("/", 1)[-1].startswith("."):
            self.paths.setdefault(path, Source(file, **source))

    def _add_archive(self, archive):
        parent, stamp = archive.parent.relative_to(self.folder).as_posix(), _stamp(archive)
        parent = "" if parent == "." else parent + "/"
        try:
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as members:
                    for member in members.infolist():
                        if not member.is_dir():
                            self._add(parent + member.filename, str(archive), member=member.filename, stamp=stamp)
            else:
                tar = self._uncompressed(archive, stamp)
                with tarfile.open(tar, "r:") as members:
                    for member in members:
                        if member.isfile():
                            name, span = member.name.removeprefix("./"), (member.offset_data, member.size)
                            self._add(parent + name, str(tar), member=name, span=span, stamp=stamp)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{archive} is damaged or incomplete: {error}. Download it again.") from error

    def _uncompressed(self, archive, stamp):
        """The path of the archive as an uncompressed .tar: itself, or a copy in the scratch folder.

        The copy appears only when it is complete, and is used again by a later run.
        """
        if archive.suffix == ".tar":
            return archive
        inputs = repr((str(archive.resolve()), stamp))
        tar = self.scratch / f"{archive.name}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}.tar"
        if not tar.exists():
            print(f"{archive.name} is compressed: decompressing it to {tar}", flush=True)
            self.scratch.mkdir(parents=True, exist_ok=True)
            partial = tar.with_suffix(f".{os.getpid()}")
            with gzip.open(archive) as compressed, open(partial, "wb") as file:
                shutil.copyfileobj(compressed, file, 2**20)
            partial.replace(tar)
        return tar


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
    return re.compile(f"(?:^|/){expression}$")


def filled(pattern, **parts):
    """A pattern with the texts of its braces filled in, for messages."""
    return re.sub(r"\{(\w+)(?:=[^}]*)?\}", lambda brace: parts[brace[1]], pattern)
