"""A folder of downloads in, its files out by the path that they have when unpacked: loose, or inside .zip and .tar."""

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

COMPRESSED = (".tgz", ".tar.gz")


@dataclass(frozen=True)
class Source:
    """A file, or a member of an archive.

    Attributes:
        file: path of the file or archive.
        member: name inside the archive; empty for a file.
        span: (offset, length) in bytes of a member of a .tar, which lies in it as it is.
        stamp: size and time of change of the file, by which a result made from it is known to be of it.
    """

    file: str
    member: str = ""
    span: tuple[int, int] | None = None
    stamp: tuple[int, int] = (0, 0)

    def __str__(self):
        return f"{self.file}: {self.member}" if self.member else self.file

    def read(self):
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
def _zip(path, process):  # per process: one file position cannot serve two
    return zipfile.ZipFile(path)


class Files:
    """The files below a folder.

    Args:
        folder: where the downloads lie, as they came or unpacked, in folders of any depth. A member of an archive counts
            as if it were unpacked beside the archive; where both are there, the loose file is read.
        scratch: folder for compressed .tar files without their compression, which cannot be read in any order.
    """

    def __init__(self, folder, scratch):
        self.folder, self.scratch = Path(folder), Path(scratch)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
        self.paths = {}  # path below the folder: Source
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
        """What to say where something was not found."""
        return f" Unpack {', '.join(self.packed)} first." if self.packed else ""

    def find(self, pattern, **fixed):
        """Files whose path ends in a pattern.

        Args:
            pattern: such as `"gtFine/{split}/*/{name}_gtFine_labelIds.png"`: `*` is anything but a slash, `**/` any
                folders or none, `{name}` what distinguishes the files, other braces are given by `fixed`.

        Returns:
            `{name: Source}`, sorted by name.

        Raises:
            ValueError: if two files have one name.
        """
        expression, found = compiled(pattern, **fixed), {}
        for path, source in self.paths.items():
            match = expression.search(path)
            if match is None:
                continue
            name = match["name"]
            if name not in found or (found[name].member and not source.member):
                found[name] = source
            elif found[name].member or not source.member:
                raise ValueError(f"Two files are {name!r} of {pattern!r}: {found[name]} and {source}. Leave one.")
        return dict(sorted(found.items()))

    def one(self, path):
        """The file whose path ends in `path`."""
        *above, last = path.rsplit("/", 1)
        found = self.find("/".join([*above, "{name}"]).replace("{name}", "{name=" + re.escape(last) + "}"))
        if not found:
            raise FileNotFoundError(f"{path} is not below {str(self.folder)!r}.{self.hint()}")
        return found[last]

    def lines(self, path):
        """What the lines of a text file begin with: the names of a split."""
        return [line.split()[0] for line in self.one(path).read().decode().splitlines() if line.strip()]

    def _add(self, path, file, **source):
        if not path.startswith("__MACOSX/") and not path.rsplit("/", 1)[-1].startswith("."):
            self.paths.setdefault(path, Source(file, **source))

    def _add_archive(self, archive):
        above, stamp = archive.parent.relative_to(self.folder).as_posix(), _stamp(archive)
        above = "" if above == "." else above + "/"
        try:
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as members:
                    for member in members.infolist():
                        if not member.is_dir():
                            self._add(above + member.filename, str(archive), member=member.filename, stamp=stamp)
            else:
                plain = self._plain(archive, stamp)
                with tarfile.open(plain, "r:") as members:
                    for member in members:
                        if member.isfile():
                            name, span = member.name.removeprefix("./"), (member.offset_data, member.size)
                            self._add(above + name, str(plain), member=name, span=span, stamp=stamp)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{archive} is no whole archive: {error}. Download it again.") from error

    def _plain(self, archive, stamp):
        """A .tar of the archive: itself, or its copy without compression, made whole or not at all and kept."""
        if archive.suffix == ".tar":
            return archive
        made_of = repr((str(archive.resolve()), stamp))
        plain = self.scratch / f"{archive.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}.tar"
        if not plain.exists():
            print(f"{archive.name} is compressed: unpacking it to {plain}", flush=True)
            self.scratch.mkdir(parents=True, exist_ok=True)
            partial = plain.with_suffix(f".{os.getpid()}")
            with gzip.open(archive) as packed, open(partial, "wb") as file:
                shutil.copyfileobj(packed, file, 2**20)
            partial.replace(plain)
        return plain


def _stamp(path):
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def compiled(pattern, **fixed):
    """A pattern of `Files.find` as a regular expression; `{name=REGEX}` says what a name looks like."""
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
    """A pattern with its braces filled in, for people."""
    return re.sub(r"\{(\w+)(?:=[^}]*)?\}", lambda brace: parts[brace[1]], pattern)
