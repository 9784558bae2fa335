"""An archive in; its members out, each as a `Source` that can be read at any time and from several processes.

The members of a .zip or an uncompressed .tar are read in place. Those of a compressed .tar, and of an archive inside another
archive, are listed in place and read from a copy in a scratch folder. `Archive.copy` makes that copy when it is needed.
"""

import bz2
import contextlib
import functools
import gzip
import hashlib
import lzma
import os
import posixpath
import re
import shutil
import stat
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from keras_deeplab.files import written_whole

# File names of archives that can be read, also as a browser or wget alters them: Train.zip.1, Train.zip?download=1.
NAME = re.compile(r"\.(zip|tar|tgz|tbz2?|txz)(\.(gz|bz2|xz))?(\.\d|\?.*| ?\(\d+\))?$", re.IGNORECASE)
DECOMPRESS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # by the first bytes of a file
DEPTH = 5  # archives in archives that are opened; a file can be made that holds itself without end


@dataclass(frozen=True)
class Source:
    """A file, or a member of an archive.

    Attributes:
        file: path of the file or archive, or of the archive's copy in the scratch folder.
        member: name inside the archive; empty for a file.
        span: (offset, length) in bytes of a member of a .tar, which is stored uncompressed; None for others.
        stamp: (size in bytes, time of change in ns) of the downloaded file. A result that was made from a file with
            another stamp is not used again.
        archive: the archive's name in messages, if `file` is a copy.
    """

    file: str
    member: str = ""
    span: tuple[int, int] | None = None
    stamp: tuple[int, int] = (0, 0)
    archive: str = ""

    def __str__(self):
        return f"{self.archive or self.file}: {self.member}" if self.member else self.file

    def read(self):
        """The contents, bytes.

        Raises:
            ValueError: if the archive is damaged, encrypted or compressed in a way that Python cannot read.
            OSError: if the file cannot be read.
        """
        try:
            if self.span is not None:
                return self._read_span(*self.span)
            if self.member:
                return _zip(self.file, self.stamp, os.getpid()).read(self.member)
            return Path(self.file).read_bytes()
        except (RuntimeError, NotImplementedError) as error:  # encrypted; an unusual compression
            raise ValueError(f"{self} cannot be unpacked: {error}. Unpack the archive with another program.") from error
        except Exception as error:  # the readers raise errors of many types for damaged bytes
            if is_of_system(error):
                raise type(error)(f"{self} cannot be read: {error.strerror}.") from error
            raise ValueError(f"{self} cannot be unpacked: {error}. Download the archive again.") from error

    def _read_span(self, offset, length):
        with open(self.file, "rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) < length:
            raise EOFError("the archive ends inside it")
        return data


# `process` is a key of the cache because a forked process must not share a file position, `stamp` because an archive can be
# replaced while Python runs.
@functools.lru_cache(maxsize=8)
def _zip(path, stamp, process):
    return zipfile.ZipFile(path)


class Archive:
    """An archive among the downloads, or inside another archive.

    Args:
        path: of the archive; of the outermost one if it is inside another.
        stamp: size and time of change of the file `path`.
        scratch: folder for copies.
        outer: the `Archive` that it is a member of, or None.
        member: its name in `outer`.

    Attributes:
        file: path from which members are read: `path`, or a copy that may still have to be made.
        damaged: what is wrong with the archives inside that could not be listed, a list of messages.
        skipped: the names of members that cannot be read, with the reason.
    """

    def __init__(self, path, stamp, scratch, outer=None, member=""):
        self.path, self.stamp, self.scratch, self.outer, self.member = Path(path), stamp, scratch, outer, member
        self.damaged, self.skipped = [], []
        self.name = posixpath.basename(member) or self.path.name
        with self._stored() as file:
            start = file.read(6)
        self.decompress = next((opener for magic, opener in DECOMPRESS.items() if start.startswith(magic)), None)
        self.is_copied = self.decompress is not None or outer is not None
        self.file = self.path
        with self._opened() as file:
            start = file.read(512)
        named_zip = ".zip" in self.name.lower() and start[257:262] != b"ustar"  # a damaged .zip may start with anything
        self.is_zip = start.startswith(b"PK") or named_zip
        if self.is_copied:
            inputs = repr((str(self), os.path.realpath(self.path), stamp))
            ending = "zip" if self.is_zip else "tar"
            self.file = scratch / f"{self.name}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}.{ending}"

    def __str__(self):
        return f"{self.outer}: {self.member}" if self.outer else str(self.path)

    @property
    def depth(self):
        return self.outer.depth + 1 if self.outer else 0

    def sources(self):
        """All files in the archive and in the archives inside it.

        Returns:
            ({path: `Source`}, {copy that may be needed: the `Archive` that makes it}).
        """
        with self._opened() as file:
            members, links = (self._in_zip if self.is_zip else self._in_tar)(file)
        for path, target in links.items():
            self._follow(path, target, links, members)
        sources, copies = {}, {str(self.file): self} if self.is_copied else {}
        for path, source in members.items():
            if self.depth < DEPTH and NAME.search(path):
                inner_sources, inner_copies = self._inside(path, source)
                sources |= inner_sources
                copies |= inner_copies
            else:
                sources[path] = source
        return sources, copies

    def copy(self):
        """Writes the copy that members are read from, unless it is there or not needed.

        Raises:
            ValueError: if the archive is damaged.
            OSError: if the copy cannot be written.
        """
        if not self.is_copied or self.file.exists():
            return
        print(f"{self} is copied to {self.file}, to be read in any order", flush=True)
        self.scratch.mkdir(parents=True, exist_ok=True)
        try:
            with self._opened() as file, written_whole(self.file) as partial, open(partial, "wb") as to:
                shutil.copyfileobj(file, to, 2**20)
        except Exception as error:
            if is_of_system(error):
                raise
            raise ValueError(damage(self, error)) from error

    @contextlib.contextmanager
    def _stored(self):
        """The archive as it is stored, a binary file."""
        with self.outer.member_opened(self.member) if self.outer else open(self.path, "rb") as file:
            yield file

    @contextlib.contextmanager
    def _opened(self):
        """The archive uncompressed, a binary file."""
        if self.file != self.path and self.file.exists():
            with open(self.file, "rb") as file:
                yield file
            return
        with (
            self._stored() as file,
            self.decompress(file) if self.decompress else contextlib.nullcontext(file) as opened,
        ):
            yield opened

    @contextlib.contextmanager
    def member_opened(self, member):
        """A member, a binary file."""
        with self._opened() as file:
            if self.is_zip:
                with zipfile.ZipFile(file) as members, members.open(member) as opened:
                    yield opened
            else:
                with tarfile.open(fileobj=file, mode="r:") as members, members.extractfile(member) as opened:
                    yield opened

    def _source(self, member, span=None):
        return Source(str(self.file), member, span, self.stamp, str(self) if self.is_copied else "")

    def _in_zip(self, file):
        """({path: `Source`}, {path of a symbolic link: its target})."""
        found, links = {}, {}
        with zipfile.ZipFile(file) as members:
            for member in members.infolist():
                path = normal(member.filename)
                if member.filename.endswith(("/", "\\")):
                    continue
                if stat.S_ISLNK(member.external_attr >> 16):
                    links[path] = _target(path, members.read(member).decode(errors="replace"))
                else:
                    found.setdefault(path, self._source(member.filename))
        return found, links

    def _in_tar(self, file):
        """As `_in_zip`; a hard link counts as a link too."""
        found, links = {}, {}
        with tarfile.open(fileobj=file, mode="r:") as members:
            for member in members:
                path = normal(member.name)
                if member.issparse():
                    self.skipped.append(f"{self}: {path} is a sparse file: unpack the archive")
                elif member.isfile():
                    found.setdefault(path, self._source(member.name, (member.offset_data, member.size)))
                elif member.issym():
                    links[path] = _target(path, member.linkname)
                elif member.islnk():
                    links[path] = normal(member.linkname)
            # tarfile takes a damaged header, or one that is cut, for the end of the archive. The end is a block of zeros.
            file.seek(members.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                self.damaged.append(damage(self, f"what follows byte {members.offset} is no member and not the end"))
        return found, links

    def _follow(self, path, target, links, members):
        """Adds what a link points to, a file or all files of a folder, to `members`."""
        seen = {path}
        while target in links and target not in seen:
            seen.add(target)
            target = links[target]
        if target in members:
            members.setdefault(path, members[target])
            return
        below = [name for name in members if name.startswith(f"{target}/")]
        if not below:
            self.skipped.append(f"{self}: {path} is a link to nothing")
        for name in below:
            members.setdefault(path + name.removeprefix(target), members[name])

    def _inside(self, path, source):
        """`sources` of an archive that is a member. Its files count as unpacked beside it."""
        try:
            inner = Archive(self.path, self.stamp, self.scratch, self, source.member)
            sources, copies = inner.sources()
        except Exception as error:  # see `damage`
            self.damaged.append(damage(f"{self}: {path}", error))
            return {}, {}
        self.damaged += inner.damaged
        self.skipped += inner.skipped
        folder = posixpath.dirname(path)
        return {posixpath.join(folder, name): inner_source for name, inner_source in sources.items()}, copies


def normal(name):
    """A name in an archive as a path: some programs write "\\" for "/", or a "./" in front."""
    return posixpath.normpath(name.replace("\\", "/")).lstrip("/")


def _target(path, link):
    """The path that a symbolic link at `path` points to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link.replace("\\", "/")))


def damage(name, error):
    """The message about an archive that could not be listed. For damaged bytes, the readers raise errors of many types."""
    if is_of_system(error):
        return f"{name} cannot be read: {error.strerror}."
    return (
        f"{name} is damaged or incomplete: {error}. Download it again, or take it out of the folder if it belongs to another "
        "data set."
    )


def is_of_system(error):
    """Whether an error is the operating system's, such as a missing right, and not due to the bytes of a file."""
    return isinstance(error, OSError) and error.errno is not None
