"""A folder of downloads is read however it is packed, and what cannot be read is named."""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile

import pytest

pytest.importorskip("keras_deeplab.data.builders", reason="needs the extra: datasets", exc_type=ImportError)

from keras_deeplab.data.builders.files import Files

PATTERN = "Train/Urban/images_png/{name}.png"
PICTURES = {f"Train/Urban/images_png/{i}.png": bytes([i]) * 1000 + os.urandom(1000) for i in range(3)}


def zipped(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members):
    """A .tar. A tuple (kind of a member, target) in place of bytes is a link."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, tuple):
                member.type, member.linkname = data
                data = b""
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def deflated(members):
    return zipped(members, zipfile.ZIP_DEFLATED)


def linked(kind, of_folder=False):
    """The pictures of which all but the first lie elsewhere and are reached by links of a kind."""
    names = list(PICTURES)
    if of_folder:
        moved = {name.replace("Train/", "pool/"): data for name, data in PICTURES.items()}
        return {"Train": (kind, "pool"), **moved}
    target = (lambda name: name) if kind == tarfile.LNKTYPE else (lambda name: f"../../../{name}")
    elsewhere = {f"pool/{i}": PICTURES[name] for i, name in enumerate(names[1:])}
    links = {name: (kind, target(f"pool/{i}")) for i, name in enumerate(names[1:])}
    return {names[0]: PICTURES[names[0]], **elsewhere, **links}


def zip_with_link():
    file = io.BytesIO(zipped({"pool/0": PICTURES[next(iter(PICTURES))], **dict(list(PICTURES.items())[1:])}))
    with zipfile.ZipFile(file, "a") as archive:
        link = zipfile.ZipInfo(next(iter(PICTURES)))
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "../../../pool/0")
    return file.getvalue()


def renamed(change):
    return {change(name): data for name, data in PICTURES.items()}


PACKINGS = {
    "Train.zip": lambda: zipped(PICTURES),
    "TRAIN.ZIP": lambda: deflated(PICTURES),
    "Train.zip?download=1": lambda: zipped(PICTURES),
    "Train.zip.1": lambda: zipped(PICTURES),
    "bzip2 in a.zip": lambda: zipped(PICTURES, zipfile.ZIP_BZIP2),
    "lzma in a.zip": lambda: zipped(PICTURES, zipfile.ZIP_LZMA),
    "Train.tar": lambda: tarred(PICTURES),
    "Train.TAR": lambda: tarred(renamed(lambda name: f"./{name}")),
    "Train.tgz": lambda: gzip.compress(tarred(PICTURES)),
    "uncompressed by the browser.tgz": lambda: tarred(PICTURES),
    "Train.tar.bz2": lambda: bz2.compress(tarred(PICTURES)),
    "Train.tar.xz": lambda: lzma.compress(tarred(PICTURES)),
    "Train.txz": lambda: lzma.compress(tarred(PICTURES)),
    "zip in.zip": lambda: deflated({"Train.zip": deflated(PICTURES)}),
    "zip in zip in.zip": lambda: deflated({"a/b.zip": deflated({"Train.zip": zipped(PICTURES)})}),
    "tgz in.zip": lambda: zipped({"Train.tgz": gzip.compress(tarred(PICTURES))}),
    "zip in.tar.gz": lambda: gzip.compress(tarred({"Train.zip": deflated(PICTURES)})),
    "backslashes.zip": lambda: zipped(renamed(lambda name: name.replace("/", "\\"))),
    "capital endings.zip": lambda: zipped(renamed(lambda name: name.replace(".png", ".PNG"))),
    "hard links.tar": lambda: tarred(linked(tarfile.LNKTYPE)),
    "symbolic links.tgz": lambda: gzip.compress(tarred(linked(tarfile.SYMTYPE))),
    "link to a folder.tar": lambda: tarred(linked(tarfile.SYMTYPE, of_folder=True)),
    "symbolic link.zip": zip_with_link,
    "folder of macOS.zip": lambda: zipped({**PICTURES, "a/__MACOSX/Train/Urban/images_png/0.png": b"resource fork"}),
}


def contents(files, pattern=PATTERN):
    sources = files.find(pattern)
    files.provide(sources.values())
    return {f"Train/Urban/images_png/{name}.png": source.read() for name, source in sources.items()}


@pytest.mark.parametrize("name", PACKINGS)
def test_the_same_pictures_are_read_however_they_are_packed(name, tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / name).write_bytes(PACKINGS[name]())
    assert contents(Files(tmp_path / "from", tmp_path / "scratch")) == PICTURES
    assert contents(Files(tmp_path / "from", tmp_path / "scratch")) == PICTURES  # from the copies that are there now


def test_files_with_backslashes_or_capital_endings_are_read(tmp_path):
    for i, (name, data) in enumerate(PICTURES.items()):
        path = tmp_path / (name.replace("/", "\\") if i else name.replace(".png", ".PNG"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert contents(Files(tmp_path, tmp_path / "scratch")) == PICTURES


def test_of_two_files_the_one_with_the_right_ending_counts(tmp_path):
    folder = tmp_path / "Train" / "Urban" / "images_png"
    folder.mkdir(parents=True)
    (folder / "0.PNG").write_bytes(b"other")
    (folder / "0.png").write_bytes(b"right")
    assert list(contents(Files(tmp_path, tmp_path / "scratch")).values()) == [b"right"]


def test_a_compressed_archive_that_is_not_needed_is_not_copied(tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "Train.zip").write_bytes(zipped(PICTURES))
    (tmp_path / "from" / "other.tar.gz").write_bytes(gzip.compress(tarred({"a.png": b"other"})))
    assert contents(Files(tmp_path / "from", tmp_path / "scratch")) == PICTURES
    assert not (tmp_path / "scratch").exists()


def test_links_in_a_circle_or_to_nothing_do_no_harm(tmp_path):
    for name, data in PICTURES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "Train" / "up").symlink_to(tmp_path)
    (tmp_path / "Train" / "self").symlink_to("self")
    (tmp_path / "Train" / "nothing.zip").symlink_to("nowhere.zip")
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "Train").symlink_to(tmp_path / "Train")  # the same files by two ways
    os.mkfifo(tmp_path / "pipe.zip")
    files = Files(tmp_path, tmp_path / "scratch")
    assert contents(files) == PICTURES
    assert "nothing.zip is a link to nothing." in files.hint() and "self is a link to nothing." in files.hint()


def test_the_folder_can_be_a_link_but_not_one_to_itself(tmp_path):
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="There is no folder '.*self'"):
        Files(tmp_path / "self", tmp_path / "scratch")
    with pytest.raises(
        FileNotFoundError, match="There is no folder '.*file'. It is a file: name the folder that holds it"
    ):
        Files(tmp_path / "file", tmp_path / "scratch")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.rar", b"", "Unpack a.rar first."),
        ("a.tar.zst", b"", "Unpack a.tar.zst first."),
        ("a.zip.001", b"", "Unpack a.zip.001 first."),
        ("a.zip.part", b"", "Finish the download of a.zip.part first."),
        ("Unconfirmed 1.crdownload", b"", "Finish the download of Unconfirmed 1.crdownload first."),
        ("a.zip", zipped({"b/c.7z": b""}), "Unpack .*a.zip: b/c.7z first."),
        ("a.tar", tarred({"b.png": (tarfile.SYMTYPE, "../nowhere")}), "a.tar: b.png is a link to nothing."),
        ("a.tar", tarred({"b.png": (tarfile.SYMTYPE, "b.png")}), "a.tar: b.png is a link to nothing."),
    ],
)
def test_what_cannot_be_read_is_named(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "README").touch()
    with pytest.raises(FileNotFoundError, match=f"There is no list.txt below '.*'. .*{message}"):
        Files(tmp_path, tmp_path / "scratch").one("list.txt")


def test_a_sparse_file_in_a_tar_is_named(tmp_path):
    member = tarfile.TarInfo("Train/Urban/images_png/0.png")
    member.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    files = Files(tmp_path, tmp_path / "scratch")
    assert not contents(files) and "0.png is a sparse file: unpack the archive." in files.hint()


def damaged_in_the_middle(archive):
    place = archive.find(b".png") + 600  # inside the first member
    return archive[:place] + bytes(byte ^ 0x55 for byte in archive[place : place + 40]) + archive[place + 40 :]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_bytes_in_a_zip_name_the_member(compression, tmp_path):
    (tmp_path / "a.zip").write_bytes(damaged_in_the_middle(zipped(PICTURES, compression)))
    first = Files(tmp_path, tmp_path / "scratch").find(PATTERN)["0"]
    with pytest.raises(ValueError, match=r"a.zip: Train/Urban/images_png/0.png cannot be unpacked: .*Download"):
        first.read()


def test_an_encrypted_member_is_named(tmp_path):
    data = bytearray(zipped(PICTURES))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # set the flag in both headers of the first member
        data[data.find(mark) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(
        ValueError, match="0.png cannot be unpacked: .*encrypted.*Unpack the archive with another program"
    ):
        Files(tmp_path, tmp_path / "scratch").find(PATTERN)["0"].read()


@pytest.mark.parametrize("pack", [zipped, deflated, tarred, lambda members: gzip.compress(tarred(members))])
def test_a_cut_or_damaged_archive_is_named_and_never_read_in_part(pack, tmp_path):
    archive, path = pack(PICTURES), tmp_path / "a.zip"
    for place in range(0, len(archive), 251):
        cut, damaged = archive[:place], archive[:place] + os.urandom(20) + archive[place + 20 :]
        for data in (cut, damaged):
            path.write_bytes(data)
            try:
                files = Files(tmp_path, tmp_path / f"scratch{place}{len(data)}")
                read = contents(files)
            except ValueError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                continue
            assert all(message.startswith(f"{path} is damaged or incomplete: ") for message in files.damaged)
            if data == cut:
                assert files.damaged or read == PICTURES


def test_a_damaged_archive_inside_another_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({**PICTURES, "in/b.zip": zipped(PICTURES)[:-50]}))
    files = Files(tmp_path, tmp_path / "scratch")
    assert contents(files) == PICTURES
    assert len(files.damaged) == 1 and "a.zip: in/b.zip is damaged or incomplete" in files.damaged[0]


def test_an_archive_that_holds_itself_ends(tmp_path):
    data = zipped(PICTURES)
    for _ in range(12):
        data = deflated({"in.zip": data})
    (tmp_path / "a.zip").write_bytes(data)
    assert contents(Files(tmp_path, tmp_path / "scratch")) == {}


def test_an_archive_that_was_replaced_is_read_anew(tmp_path):
    for change in (b"first", b"second"):
        (tmp_path / "a.zip").write_bytes(zipped({"Train/Urban/images_png/0.png": change}))
        assert list(contents(Files(tmp_path, tmp_path / "scratch")).values()) == [change]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_can_have_a_byte_order_mark(encoding, tmp_path):
    (tmp_path / "list.txt").write_bytes("one 1\r\ntwo\n\none\n".encode(encoding))
    assert Files(tmp_path, tmp_path / "scratch").lines("list.txt") == ["one", "two"]


def test_a_list_that_is_no_text_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\x00\xfa")
    with pytest.raises(ValueError, match="list.txt is damaged or not a text file"):
        Files(tmp_path, tmp_path / "scratch").lines("list.txt")
