"""Label maps of many pictures equal `segment`'s; damaged pictures are listed; a killed run loses nothing that was done."""

import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import SUPPORT
from support.drawn import picture
from support.folder_elsewhere import model as narrow_model
from support.folder_elsewhere import shared_model
from support.many_pictures import assert_all_equal, labels_in, names_in, write_pictures

import keras_deeplab as kd
from keras_deeplab.files import InUseError, locked
from keras_deeplab.inference import folders, results
from keras_deeplab.inference.folders import WORKERS
from keras_deeplab.inference.sources import find_pictures

VIEWS_OF = folders.views_of
IN_FLIGHT = 2 * WORKERS + 5  # pictures that the network had, and whose results are not written: at most


@pytest.fixture(scope="module")
def model():
    return shared_model()


def test_label_maps_equal_segments_and_damaged_pictures_are_listed(model, tmp_path):
    images, to = tmp_path / "images", tmp_path / "labels"
    damaged = write_pictures(images, 48, every=12)
    result = kd.segment_folder(model, images, to, progress=False)
    failed = {str(images / name) for name, is_damaged in damaged.items() if is_damaged}
    assert (result.made, result.skipped) == (44, 0) and {path for path, _ in result.failed} == failed
    assert names_in(to / "failed.txt") == failed and all(cause for _, cause in result.failed)
    assert_all_equal(model, images, to, damaged)


def test_what_is_done_is_skipped_and_what_was_mended_changed_or_lost_is_done(model, tmp_path, monkeypatch):
    images, to = tmp_path / "images", tmp_path / "labels"
    damaged = write_pictures(images, 12, every=6)
    kd.segment_folder(model, images, to, progress=False)
    calls = []
    monkeypatch.setattr(folders, "views_of", lambda *args, **options: calls.append(0) or VIEWS_OF(*args, **options))
    assert kd.segment_folder(model, images, to, progress=False)[:2] == (0, 10) and not calls
    mended, changed, lost = (images / name for name in ("part 0/3.jpg", "part 0/1.png", "part 1/8.JPEG"))
    assert damaged["part 0/3.jpg"]
    for path in (mended, changed):
        Image.fromarray(picture(33, 47, seed=99)).save(path)
    (to / "part 1" / "8.png").unlink()
    with open(to / "predictions.jsonl", "a") as file:
        file.write('{"name": "part 0/0", "pla')  # cut short by a kill
    result = kd.segment_folder(model, images, to, progress=False)
    assert result[:2] == (3, 8) and len(calls) == 3 and len(result.failed) == 1
    assert_all_equal(model, images, to, {**damaged, "part 0/3.jpg": False})
    assert lost.exists()


def test_a_kind_that_is_added_later_is_made(model, tmp_path):
    Image.fromarray(picture(30, 40, seed=0)).save(tmp_path / "a.png")
    kd.segment_folder(model, tmp_path / "a.png", tmp_path / "out", kinds=["grey"], progress=False)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.mode == "L" and np.array_equal(np.asarray(image), kd.segment(model, tmp_path / "a.png"))
    kinds = ["grey", "overlay", "scores"]
    assert kd.segment_folder(model, tmp_path / "a.png", tmp_path / "out", kinds=kinds, progress=False).made == 1
    scores = np.load(tmp_path / "out" / "a.npz")["scores"]
    assert np.array_equal(scores, kd.segment(model, tmp_path / "a.png", return_scores=True)[1])
    assert Image.open(tmp_path / "out" / "a_overlay.png").width == 40
    assert kd.segment_folder(model, tmp_path / "a.png", tmp_path / "out", kinds=["grey"], progress=False).skipped == 1


def refused(said, *arguments, **options):
    with pytest.raises(ValueError, match=f"{said}.*overwrite"):
        kd.segment_folder(*arguments, progress=False, **options)


def test_results_of_another_model_protocol_or_options_are_refused_unless_overwritten(model, tmp_path):
    Image.fromarray(picture(30, 40, seed=0)).save(tmp_path / "a.png")
    written, to = tmp_path / "out" / "a.png", (tmp_path / "a.png", tmp_path / "out")
    kd.segment_folder(model, *to, progress=False)
    before, weights = written.read_bytes(), model.get_weights()
    other = narrow_model()
    other.protocol = kd.Protocol("slide", crop=(20, 20), stride=(10, 10))
    refused("another protocol", other, *to)
    refused("another options", model, *to, multi_scale_flip=True)
    refused("another protocol", model, *to, resize=(40, 30))
    model.get_layer("decode_head-conv_seg").set_weights([np.zeros((1, 1, 16, 7)), np.arange(7)])
    try:
        refused("another model", model, *to)
        assert written.read_bytes() == before
        assert kd.segment_folder(model, *to, overwrite=True, progress=False).made == 1
        assert np.all(labels_in(written) == 6)
    finally:
        model.set_weights(weights)
    kd.segment_folder(model, *to, overwrite=True, resize=(20, 30), progress=False)
    assert np.array_equal(labels_in(written), kd.segment(model, to[0], resize=(20, 30)))
    assert kd.segment_folder(model, *to, resize=(30, 20), progress=False).skipped == 1


def test_files_of_others_are_not_overwritten(model, tmp_path):
    for folder, seed in (("one", 0), ("two", 1), ("out", 2)):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture(30, 40 + seed, seed)).save(tmp_path / folder / "a.png")
    with pytest.raises(ValueError, match="has no predictions.jsonl"):
        kd.segment_folder(model, tmp_path / "one", tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="is a picture, and would be overwritten"):
        kd.segment_folder(model, tmp_path / "one" / "a.png", tmp_path / "one", overwrite=True, progress=False)
    with pytest.raises(ValueError, match="must not lie among the pictures"):
        kd.segment_folder(model, tmp_path / "one", tmp_path / "one", progress=False)
    kd.segment_folder(model, tmp_path / "one", tmp_path / "new", progress=False)
    with pytest.raises(ValueError, match="is the result of .*one/a.png, not of .*two/a.png"):
        kd.segment_folder(model, tmp_path / "two", tmp_path / "new", progress=False)
    (tmp_path / "one").rename(tmp_path / "moved")
    assert kd.segment_folder(model, tmp_path / "moved", tmp_path / "new", progress=False).skipped == 1
    assert (tmp_path / "out" / "a.png").stat().st_size and labels_in(tmp_path / "new" / "a.png").shape == (30, 40)


def test_two_runs_do_not_write_into_one_folder(model, tmp_path):
    Image.fromarray(picture(30, 40, seed=0)).save(tmp_path / "a.png")
    with locked(tmp_path / "out" / results.LOCK, "is writing predictions into out"):
        with pytest.raises(InUseError, match="is writing predictions into out since"):
            kd.segment_folder(model, tmp_path / "a.png", tmp_path / "out", progress=False)


def test_a_disk_that_is_full_ends_the_run_and_blames_no_picture(model, tmp_path, monkeypatch):
    write_pictures(tmp_path / "images", 5)

    def full(outcome, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(results.KINDS, "palette", (".png", full))
    with pytest.raises(OSError, match="No space left"):
        kd.segment_folder(model, tmp_path / "images", tmp_path / "out", progress=False)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["predictions.jsonl"]


def test_stop_at_first_raises_the_pictures_error(model, tmp_path):
    write_pictures(tmp_path / "images", 5)
    (tmp_path / "images" / "part 0" / "3.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match="part 0/3.jpg: "):
        kd.segment_folder(model, tmp_path / "images", tmp_path / "out", stop_at_first=True, progress=False)
    with pytest.raises(ValueError, match="part 0/3.jpg: "):
        list(kd.segment_files(model, tmp_path / "images"))


def test_the_iterator_gives_each_path_and_label_map(model, tmp_path):
    damaged, failed = write_pictures(tmp_path, 12, every=6), []
    pairs = dict(kd.segment_files(model, [tmp_path], failed=failed))
    assert {str(Path(path).relative_to(tmp_path)) for path in pairs} == {n for n, bad in damaged.items() if not bad}
    assert all(np.array_equal(labels, kd.segment(model, path)) for path, labels in pairs.items())
    assert {path for path, _ in failed} == {str(tmp_path / name) for name, bad in damaged.items() if bad}


def tree(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_globs_and_lists_keep_their_tree(tmp_path, monkeypatch):
    tree(
        tmp_path,
        "in/a/x.jpg",
        "in/a/x.txt",
        "in/b/c/x.PNG",
        "in/.git/y.jpg",
        "in/b/.z.jpg",
        "in/out/x.png",
        "in/[1].jpg",
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "itself.jpg").symlink_to(tmp_path / "in" / "itself.jpg")
    (tmp_path / "list.txt").write_text("in/a/x.jpg\r\nin/b\n\nin/a/x.jpg\nin/gone.jpg\nin/[1].jpg\n")

    def names(*inputs):
        return [source.name for source in find_pictures(inputs, "in/out")]

    assert names("in") == ["[1]", "a/x", "b/c/x"]
    (tmp_path / "in" / "itself.jpg").unlink()
    assert names("in/*") == ["[1]", "a/x", "b/c/x"]
    (tmp_path / "in" / "round").unlink()
    assert names("in/**/x.*") == ["a/x", "a/x", "b/c/x"] and names("in/b/*/*.PNG") == ["c/x"]
    assert names("in/a/x.jpg", "in/[1].jpg") == ["x", "[1]"]
    assert names("@list.txt") == ["a/x", "b/c/x", "gone", "[1]"]


@pytest.mark.parametrize(
    "inputs, said",
    [
        ("none.jpg", "There is no picture 'none.jpg'"),
        ("*.jpg", "No picture matches"),
        ("@none.txt", "There is no list 'none.txt'"),
        ("@empty.txt", "names no picture"),
        ("empty", "holds no JPG"),
        ("none://bucket/x.jpg", "scheme that fsspec knows"),
    ],
)
def test_inputs_without_pictures_are_refused(inputs, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, "empty.txt", "empty/readme.txt")
    with pytest.raises((ValueError, OSError), match=said):
        find_pictures(inputs, tmp_path / "out")


def test_a_model_option_or_kind_that_is_wrong_is_refused_before_anything_is_written(model, tmp_path):
    Image.fromarray(picture(30, 40, seed=0)).save(tmp_path / "a.png")
    for options in (
        {"multi_scale_flip": "boxes"},
        {"multi_scale_flip": "picture", "resize": (9, 9)},
        {"resize": (0, 9)},
        {"kinds": "palette"},
        {"kinds": ["overlay"]},
        {"kinds": ["grey", "palette"]},
    ):
        with pytest.raises(ValueError, match="Received"):
            kd.segment_folder(model, tmp_path / "a.png", tmp_path / "out", progress=False, **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def web(tmp_path):
    """The address of a server of files; /gone is missing, /broken ends early."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0].lstrip("/").replace("%20", " ")
            if path == "gone.png":
                self.send_error(404)
                return
            data = (tmp_path / path.replace("broken", "a b")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: 20 if "broken" in path else None])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_addresses_are_read(model, web, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    Image.fromarray(picture(30, 40, seed=0)).save(tmp_path / "a b.png")
    expected = kd.segment(model, tmp_path / "a b.png")
    data = (tmp_path / "a b.png").read_bytes()
    fsspec.filesystem("memory").pipe({"/bucket/x/1.png": data, "/bucket/x/y/2.png": data, "/bucket/x/readme.txt": b""})
    addresses = [f"{web}/a b.png?v=1", (tmp_path / "a b.png").as_uri(), "memory://bucket/x/1.png"]
    for address in addresses:
        assert np.array_equal(kd.segment(model, address), expected), address
    assert np.array_equal(kd.segment(model, data), expected)
    assert np.array_equal(kd.segment(model, io.BytesIO(data)), expected)
    drawn = kd.overlay(picture(30, 40, seed=0), expected, model.classes, model.palette)
    for source in (addresses[2], data, io.BytesIO(data)):
        assert np.array_equal(kd.overlay(source, expected, model.classes, model.palette), drawn)
    (tmp_path / "list.txt").write_text(f"{web}/a b.png\n{web}/gone.png\n{web}/broken.png\n")
    inputs = [f"@{tmp_path / 'list.txt'}", "memory://bucket/x"]
    result = kd.segment_folder(model, inputs, tmp_path / "out", progress=False)
    assert result.made == 3 and [place.rpartition("/")[2] for place, _ in result.failed] == ["gone.png", "broken.png"]
    for name in ("a b", "1", "y/2"):
        assert np.array_equal(labels_in(tmp_path / "out" / f"{name}.png"), expected)
    assert [source.name for source in find_pictures("memory://bucket/x/*/*.png")] == ["y/2"]
    assert kd.segment_folder(model, inputs, tmp_path / "out", progress=False).skipped == 3
    with pytest.raises(FileNotFoundError, match="There is no picture at memory://bucket/none.png"):
        kd.segment(model, "memory://bucket/none.png")


@pytest.mark.parametrize(
    "missing, said",
    [("fsspec", "fsspec, which is not installed.*pip install fsspec"), ("s3fs", "one more package for s3://")],
)
def test_an_address_without_its_package_is_refused_by_the_packages_name(missing, said, monkeypatch):
    if missing != "fsspec":
        pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, missing, None)  # importing it fails
    with pytest.raises(ImportError, match=said):
        kd.read_image("s3://bucket/street.jpg")


def start(images, to, log):
    command = [sys.executable, str(SUPPORT / "folder_elsewhere.py"), str(images), str(to), str(log)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_after(process, log, count, seconds=0.0):
    """Kills the process when the log has `count` lines more, and some seconds later. False if it has ended before."""
    lines = count_lines(log) + count
    while process.poll() is None and count_lines(log) < lines:
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    return process.wait() != 0


def count_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_killed_run_goes_on_where_it_was(model, tmp_path, monkeypatch):
    images, to, log = tmp_path / "images", tmp_path / "labels", tmp_path / "log"
    damaged = write_pictures(images, 60, every=30)
    assert kill_after(start(images, to, log), log, 25)
    whole = list(to.rglob("*.png"))
    for path in whole:
        if results.UNFINISHED not in path.parts:
            labels_in(path)  # none is half-written
    calls = []
    monkeypatch.setattr(folders, "views_of", lambda *args, **options: calls.append(0) or VIEWS_OF(*args, **options))
    result = kd.segment_folder(model, images, to, progress=False)
    assert result.made + result.skipped == 58 and len(calls) == result.made < 58
    assert count_lines(log) + len(calls) <= 58 + IN_FLIGHT
    assert_all_equal(model, images, to, damaged)


@pytest.mark.slow
def test_two_thousand_pictures_killed_ten_times(model, tmp_path):
    images, to, log = tmp_path / "images", tmp_path / "labels", tmp_path / "log"
    damaged, moments = write_pictures(images, 2000), random.Random(0)
    kills = 0
    for _ in range(10):
        kills += kill_after(start(images, to, log), log, moments.randint(1, 180), moments.random() / 20)
        for path in to.rglob("*.png"):
            if results.UNFINISHED not in path.parts:
                labels_in(path)
    last = start(images, to, log)
    assert last.communicate()[0] == "20\n" and last.returncode == 0 and kills == 10
    again = count_lines(log) - 1980
    print(f"made twice by ten kills: {again}, of at most {10 * IN_FLIGHT} in flight")
    assert 0 <= again <= 10 * IN_FLIGHT
    assert names_in(to / "failed.txt") == {str(images / name) for name, is_damaged in damaged.items() if is_damaged}
    assert len({json.loads(line)["name"] for line in open(to / "predictions.jsonl").readlines()[1:]}) == 1980
    assert_all_equal(model, images, to, damaged)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_pictures(model, tmp_path):
    images, to, log = tmp_path / "images", tmp_path / "labels", tmp_path / "log"
    damaged = write_pictures(images, 2000)
    process = start(images, to, log)
    assert process.communicate()[0] == "20\n"
    resident = [int(line) for line in log.read_text().split()]
    assert len(resident) == 1980
    print(f"MiB after 200: {resident[199] / 2**20:.0f}, at the end: {resident[-1] / 2**20:.0f}")
    assert resident[-1] <= 1.05 * resident[199]
    assert_all_equal(model, images, to, damaged)
    assert os.path.getsize(to / "failed.txt") > 0
