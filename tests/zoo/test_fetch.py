"""Downloads: parts are joined only if they are of one file, damaged notes heal, and a second address helps. No network."""

import hashlib
import http.server
import json
import threading

import pytest

from keras_deeplab.zoo import fetch

BODY = bytes(range(256)) * 40
NAME = "model_20200101-" + "0" * 8 + ".pth"


class Server(http.server.BaseHTTPRequestHandler):
    """Answers each request by the next of `answers`, functions of the handler; the last one answers all further ones."""

    def do_GET(self):
        type(self).requests.append((self.path, self.headers.get("Range")))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer(self)

    def log_message(self, *_):
        pass


def answer(status=200, body=BODY, start=None, etag='"1"', length=None, **headers):
    """A function that sends such a response. `start` makes the Content-Range."""

    def send(handler):
        handler.send_response(status)
        headers.setdefault("Content-Length", str(len(body) if length is None else length))
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        for key, value in {"ETag": etag, **headers}.items():
            if value is not None:
                handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return send


BROKEN = answer(body=BODY[:1000], length=len(BODY))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "WAITS", ())
    return tmp_path


@pytest.fixture
def serve():
    """serve(*answers) -> (address, list of requests)."""
    running = []

    def start(*answers):
        own = type("Own", (Server,), {"answers": list(answers), "requests": []})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), own)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/{NAME}", own.requests

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def get(url, check=lambda part: None):
    return fetch.fetch(url, check)


def broken_off(url):
    with pytest.raises(FileNotFoundError, match=f"ended after 1000 of {len(BODY)} bytes"):
        get(url)


JOINED = answer(206, BODY[1000:], start=1000)
OTHER = bytes(reversed(BODY))
FOREIGN_PARTS = {
    "another file": answer(206, OTHER[1000:], start=1000, etag='"2"'),
    "another place": answer(206, BODY[900:], start=900),
    "no place": answer(206, BODY[1000:]),
    "a damaged place": answer(206, BODY[1000:], Content_Range="bytes from here"),
    "another unit": answer(206, BODY[1000:], Content_Range="lines 1000-10239/10240"),
    "no ETag": answer(206, BODY[1000:], start=1000, etag=None),
    "a weak ETag": answer(206, BODY[1000:], start=1000, etag='W/"1"'),
}


def test_a_part_of_the_same_file_is_joined(cache, serve):
    url, requests = serve(BROKEN, JOINED)
    broken_off(url)
    assert get(url).read_bytes() == BODY
    assert [part for _, part in requests] == [None, "bytes=1000-"]
    assert sorted(path.name for path in cache.iterdir()) == [NAME, f"{NAME}.sha256"]


@pytest.mark.parametrize("name", FOREIGN_PARTS)
def test_a_part_of_another_file_or_place_is_not_joined(cache, serve, name):
    url, requests = serve(BROKEN, FOREIGN_PARTS[name], answer())
    broken_off(url)
    assert get(url).read_bytes() == BODY
    assert [part for _, part in requests] == [None, "bytes=1000-", None]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_strong_etag_a_download_begins_anew(cache, serve, etag):
    url, requests = serve(answer(body=BODY[:1000], length=len(BODY), etag=etag, Last_Modified="today"), answer())
    broken_off(url)
    assert get(url).read_bytes() == BODY
    assert [part for _, part in requests] == [None, None]


@pytest.mark.parametrize("part", [BODY, BODY + b"more", OTHER])
def test_a_part_that_is_already_long_enough_begins_anew(cache, serve, part):
    url, requests = serve(answer(416, b"", Content_Range=f"bytes */{len(BODY)}"), answer())
    (cache / f"{NAME}.part").write_bytes(part)
    (cache / f"{NAME}.part.json").write_text(json.dumps({"url": url, "etag": '"1"'}))
    assert get(url).read_bytes() == BODY
    assert len(requests) == 2 and not list(cache.glob("*.part*"))


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 10**5,
        b"3",
        b'"1"',
        b'{"url": 1}',
        b'{"url": URL, "etag": "a\\nb"}',
        b'{"url": URL}',
    ],
)
def test_a_damaged_note_beside_a_part_begins_anew(cache, serve, note):
    url, requests = serve(answer())
    (cache / f"{NAME}.part").write_bytes(OTHER[:1000])
    (cache / f"{NAME}.part.json").write_bytes(note.replace(b"URL", json.dumps(url).encode()))
    assert get(url).read_bytes() == BODY and requests == [(f"/{NAME}", None)]


@pytest.mark.parametrize("length", ["many", "-3", "", "9" * 5000])
def test_a_length_that_is_no_number_is_ignored(cache, serve, length):
    url, _ = serve(answer(length=length))
    assert get(url).read_bytes() == BODY


@pytest.mark.parametrize("headers", [{}, {"Content_Length": None}])
def test_an_empty_body_is_called_empty(cache, serve, headers):
    url, _ = serve(answer(body=b"", **headers))
    with pytest.raises(ValueError, match=f"{NAME} must hold weights. Received: an empty file from http"):
        get(url)
    assert not list(cache.iterdir())


def test_a_failure_that_may_be_temporary_is_tried_again(cache, serve, monkeypatch):
    monkeypatch.setattr(fetch, "WAITS", (0, 0))
    url, requests = serve(answer(503, b""), BROKEN, JOINED)
    assert get(url).read_bytes() == BODY
    assert [part for _, part in requests] == [None, None, "bytes=1000-"]
    (cache / NAME).unlink()
    url, requests = serve(answer(404, b""))
    with pytest.raises(FileNotFoundError, match="404"):
        get(url)
    assert len(requests) == 1


def mirrored(monkeypatch, first, second):
    monkeypatch.setattr(fetch, "MIRRORS", {first.removesuffix(NAME): second.removesuffix(NAME)})


@pytest.mark.parametrize("failure", [answer(404, b""), answer(500, b""), BROKEN, answer(body=b"<html>")])
def test_a_second_address_is_tried_when_the_first_fails(cache, serve, monkeypatch, failure):
    first, requests = serve(failure)
    second, others = serve(answer(etag='"2"'))
    mirrored(monkeypatch, first, second)

    def check(part):
        if part.read_bytes() != BODY:
            raise ValueError("no weights")

    assert get(first, check).read_bytes() == BODY
    assert len(requests) == 1 and others == [(f"/{NAME}", None)]


def test_a_second_address_is_not_asked_without_need_and_is_checked_too(cache, serve, monkeypatch):
    first, requests = serve(answer())
    second, others = serve(answer(body=OTHER))
    mirrored(monkeypatch, first, second)
    assert get(first).read_bytes() == BODY and others == []
    (cache / NAME).unlink()
    first, _ = serve(answer(404, b""))
    mirrored(monkeypatch, first, second)
    with pytest.raises(ValueError, match="changed since its first use"):
        get(first)


def test_a_part_of_the_first_address_is_not_joined_at_the_second(cache, serve, monkeypatch):
    first, requests = serve(BROKEN, answer(404, b""))
    second, others = serve(answer(404, b""), answer(body=OTHER))
    mirrored(monkeypatch, first, second)
    with pytest.raises(FileNotFoundError, match="ended after 1000 .*; http.*404.* Download http"):
        get(first)
    assert get(first).read_bytes() == OTHER
    assert [part for _, part in requests] == [None, "bytes=1000-"] and others[1] == (f"/{NAME}", None)


def test_a_part_that_nobody_asked_for_is_refused(cache, serve):
    url, _ = serve(JOINED)
    with pytest.raises(FileNotFoundError, match="must have status 200; it has 206"):
        get(url)


def test_openmmlabs_files_have_a_second_address():
    url = "https://download.openmmlab.com/mmsegmentation/v0.5/deeplabv3/a/a_20200101-12345678.pth"
    assert fetch.addresses(url) == [
        url, "https://mmassets.onedl.ai/mmsegmentation/v0.5/deeplabv3/a/a_20200101-12345678.pth"
    ]  # fmt: skip
    assert len(fetch.addresses("https://download.pytorch.org/models/resnet50-0676ba61.pth")) == 1


DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize(
    "record", [b"", b"\n", bytes(70), f"{DIGEST}  {NAME}\n".encode(), DIGEST.upper().encode(), DIGEST.encode("utf-16")]
)
def test_a_hash_of_any_writer_is_read_and_an_empty_one_is_written_anew(cache, record):
    (cache / NAME).write_bytes(BODY)
    (cache / f"{NAME}.sha256").write_bytes(record)
    get(f"http://127.0.0.1:1/{NAME}")
    assert fetch.read_sha256(cache / f"{NAME}.sha256") == DIGEST


@pytest.mark.parametrize("record", [b"\xff\xfe\x00", b"hello", DIGEST[:63].encode(), (DIGEST + "0").encode()])
def test_what_is_no_hash_is_named(cache, record):
    (cache / NAME).write_bytes(BODY)
    (cache / f"{NAME}.sha256").write_bytes(record)
    with pytest.raises(
        ValueError, match=f"{NAME}.sha256 must hold the SHA-256 of {NAME}.* Received: .* Delete {NAME}.sha256"
    ):
        get(f"http://127.0.0.1:1/{NAME}")


def test_the_digits_in_a_name_prove_a_file_but_do_not_refuse_one(cache):
    proven = f"model-{DIGEST[:8]}.pth"
    for name in (proven, NAME):
        (cache / name).write_bytes(BODY)
        (cache / f"{name}.sha256").write_text("f" * 64)  # of two files that an earlier version joined
    get(f"http://127.0.0.1:1/{proven}")
    assert fetch.read_sha256(cache / f"{proven}.sha256") == DIGEST
    with pytest.raises(ValueError, match="changed since its first use"):
        get(f"http://127.0.0.1:1/{NAME}")
    (cache / f"{NAME}.sha256").unlink()
    assert get(f"http://127.0.0.1:1/{NAME}") == cache / NAME


def test_where_names_are_the_files_own_hashes_others_are_refused(cache, serve, monkeypatch):
    url, _ = serve(answer())
    monkeypatch.setattr(fetch, "NAMED_BY_HASH", (url.removesuffix(NAME),))
    with pytest.raises(ValueError, match=f"must begin with 00000000. Received: {DIGEST}"):
        get(url)
    assert not list(cache.iterdir())
    proven = url.replace("0" * 8, DIGEST[:8])
    assert get(proven).read_bytes() == BODY


def test_a_download_shows_name_size_and_speed_and_says_that_it_tries_again(cache, serve, capsys, monkeypatch):
    monkeypatch.setattr(fetch, "WAITS", (0,))
    monkeypatch.setattr(fetch, "SHOWN_EVERY", (0.0, 0.0))
    url, requests = serve(answer(status=503, body=b""), answer())
    assert get(url).read_bytes() == BODY and len(requests) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "503" in lines[0] and lines[0].startswith(NAME) and lines[0].endswith("next attempt in 0 s")
    assert lines[1].startswith(f"{NAME}: 0.0 of 0.0 MB") and lines[-1].startswith(f"{NAME}: 0.0 of 0.0 MB")
