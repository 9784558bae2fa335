"""Label maps by Apache Beam equal `segment`'s, its record is `segment_folder`'s, and killed processes lose nothing.

Needs `pip install "apache-beam[aws]"`; the slow test of a bucket needs `pip install "moto[server,s3]"` too.
"""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT, SUPPORT
from support.drawn import picture
from support.folder_elsewhere import model as narrow_model
from support.many_pictures import assert_all_equal, labels_in, names_in, write_pictures

import keras_deeplab as kd
from keras_deeplab.inference import results

beam = pytest.importorskip("apache_beam", reason="needs the extra: beam")

from keras_deeplab.inference import beam as workers  # noqa: E402
from keras_deeplab.inference import distributed  # noqa: E402

TWO_PROCESSES = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]


@pytest.fixture(scope="module")
def model():
    return narrow_model()


@pytest.fixture(scope="module")
def saved_model(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    kd.export_saved_model(model, folder)
    return folder


def png_of(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def test_a_grey_png_becomes_a_palette_png_with_the_same_values():
    labels = np.random.default_rng(0).integers(0, 7, (33, 47), dtype=np.uint8)
    palette = [(i, 2 * i, 255 - i) for i in range(7)]
    colours = bytes(sum(distributed.padded_palette(palette), ()))
    png = workers.as_palette(png_of(Image.fromarray(labels)), colours)
    with Image.open(io.BytesIO(png)) as image:
        expected = kd.palette_image(labels, palette)
        assert image.mode == "P" and np.array_equal(np.asarray(image), labels)
        assert np.array_equal(image.convert("RGB"), expected.convert("RGB"))
    assert workers.pixels_of(png) == 33 * 47


def test_label_maps_equal_segments_and_either_engine_finishes_what_the_other_began(model, saved_model, tmp_path):
    images, to = tmp_path / "images", tmp_path / "labels"
    damaged = write_pictures(images, 24, every=12)
    hidden = (images / "part 1").rename(tmp_path / "part 1")
    assert kd.segment_folder(model, images, to, progress=False).made == 15
    hidden.rename(images / "part 1")
    result = kd.segment_with_beam(saved_model, images, to)
    failed = {str(images / name) for name, is_damaged in damaged.items() if is_damaged}
    assert result[:2] == (7, 15) and {place for place, _ in result.failed} == failed == names_in(to / "failed.txt")
    assert_all_equal(model, images, to, damaged)
    (images / "part 0" / "0.jpg").write_bytes(picture_bytes(9))
    assert kd.segment_with_beam(saved_model, images, to)[:2] == (1, 21)
    assert kd.segment_folder(model, images, to, progress=False)[:2] == (0, 22)
    assert_all_equal(model, images, to, damaged)


def picture_bytes(seed):
    return png_of(Image.fromarray(picture(33, 47, seed)))


def test_results_of_another_model_are_refused_unless_overwritten(model, saved_model, tmp_path):
    (tmp_path / "a.png").write_bytes(picture_bytes(0))
    kd.segment_folder(model, tmp_path / "a.png", tmp_path / "out", resize=(20, 30), progress=False)
    with pytest.raises(ValueError, match="another protocol.*overwrite"):
        kd.segment_with_beam(saved_model, tmp_path / "a.png", tmp_path / "out")


def shard(folder, of, *lines):
    (folder / results.SHARDS).mkdir(exist_ok=True)
    text = results.header_of(of) + "".join(json.dumps(line) + "\n" for line in lines)
    (folder / results.SHARDS / f"{len(list((folder / results.SHARDS).iterdir()))}.jsonl").write_text(text)


def test_a_run_on_one_machine_takes_over_what_killed_workers_noted(model, tmp_path):
    images, to = tmp_path / "images", tmp_path / "out"
    write_pictures(images, 7)
    kd.segment_folder(model, images, to, progress=False)
    begun, *done = map(json.loads, (to / "predictions.jsonl").read_text().splitlines())
    of = {key: value for key, value in begun.items() if key != "version"}
    (to / "predictions.jsonl").write_text(results.header_of(of))
    shard(to, of, *done[:3], {"name": done[4]["name"], "cause": "no"})
    shard(to, {**of, "model": "another"}, *done[3:])
    assert kd.segment_folder(model, images, to, progress=False)[:2] == (4, 3)
    assert not (to / results.SHARDS).exists()


@pytest.mark.parametrize(
    "options, said",
    [
        (["--direct_num_worker=2"], "Beam has no option '--direct_num_worker=2'. Closest: --direct_num_workers"),
        (["direct_num_workers=2"], "Beam has no option 'direct_num_workers=2'. Closest: --direct_num_workers"),
        (["--direct_num_workers=two"], "Beam refuses an option: .*invalid int value: 'two'"),
        (["--runner=FlonkRunner"], "Unexpected pipeline runner: FlonkRunner"),
        (["--runner=DataflowRunner"], "Dataflow's workers reach addresses alone.*Received: .*out"),
    ],
)
def test_options_that_beam_would_ignore_or_cannot_serve_are_refused(options, said, saved_model, tmp_path):
    (tmp_path / "a.png").write_bytes(picture_bytes(0))
    with pytest.raises(ValueError, match=said):
        kd.segment_with_beam(saved_model, tmp_path / "a.png", tmp_path / "out", beam_options=options)
    assert not (tmp_path / "out" / "a.png").exists()


def test_beam_knows_every_option_of_the_page():
    lines = re.findall(r"^\| [^|]+ \| `(--[^`]+)` \|$", (ROOT / "docs" / "beam.md").read_text(), re.M)
    lines = [line.split() for line in lines if "direct_num_workers" in line or "runner" in line]
    assert len(lines) == 4 and all(distributed.pipeline_options(line) for line in lines)


def test_places_that_hold_nothing_or_that_beam_does_not_reach_are_refused(saved_model, tmp_path):
    (tmp_path / "a.png").write_bytes(picture_bytes(0))

    def refused(said, *, model=saved_model, images=tmp_path / "a.png", to=tmp_path / "out"):
        with pytest.raises((ValueError, OSError), match=said):
            kd.segment_with_beam(model, images, to)

    refused("There is no SavedModel .* at .*none", model=tmp_path / "none")
    refused("No picture matches", images=str(tmp_path / "*.jpg"))
    refused("Beam reads no web addresses", images="https://example.org/a.png")
    refused("Beam has no file system for none://bucket/a.png", images="none://bucket/a.png")
    refused("Beam has no file system for none://bucket", to="none://bucket/out")
    with pytest.raises(ValueError, match="segment_with_beam"):
        results.LocalFiles("s3://bucket/out")


def test_a_saved_model_of_one_size_or_of_an_earlier_version_is_refused(saved_model, tmp_path):
    (tmp_path / "assets.extra").mkdir()
    metadata = json.loads((saved_model / "assets.extra" / "metadata.json").read_text())
    for change, said in (
        ({"size": [9, 9]}, "of any size"),
        ({"label_png": "RGB, ..."}, "grey"),
        ({}, "Export it again"),
    ):
        changed = {**metadata, **change}
        if not change:
            del changed["identity"]
        (tmp_path / "assets.extra" / "metadata.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=said):
            distributed.metadata_of(str(tmp_path))


def test_a_worker_without_the_model_says_so(tmp_path):
    pipeline = beam.Pipeline(runner=distributed.runner_of(distributed.pipeline_options([])))
    pipeline | beam.Create([("key", b"")]) | workers.SegmentPictures(tmp_path / "none")
    with pytest.raises(OSError, match="pipeline failed: .*This worker finds no SavedModel at .*none") as caught:
        distributed.finished(pipeline)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_bytes_go_through_a_pipeline_of_ones_own(model, saved_model):
    from apache_beam.testing.util import assert_that, equal_to

    good, bad = picture_bytes(1), b"GIF89a"
    expected = kd.segment(model, good)

    def is_expected(found):
        ((key, png),) = found
        with Image.open(io.BytesIO(png)) as image:
            assert key == "good" and np.array_equal(np.asarray(image), expected)

    runner = distributed.runner_of(distributed.pipeline_options([]))
    with beam.Pipeline(runner=runner) as pipeline:
        pictures = pipeline | beam.Create([("good", good), ("bad", bad)])
        outputs = pictures | workers.SegmentPictures(saved_model)
        assert_that(outputs["segmented"], is_expected, label="good")
        cause = "The picture must be the bytes of a JPEG or PNG file. Received: GIF."
        assert_that(outputs["failed"], equal_to([("bad", cause)]), label="bad")


def start(saved_model, images, to, *options):
    command = [sys.executable, str(SUPPORT / "beam_elsewhere.py"), str(saved_model), str(images), str(to)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *TWO_PROCESSES, *options], start_new_session=True, **pipes)


def workers_of(process):
    """The numbers of a driver's worker processes, which have a shell between them."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    return [pid for pid, parent in parents.items() if parents.get(parent) == process.pid]


def wait_for(process, count, number):
    """Waits until `count()` is `number`, or the process ends."""
    while process.poll() is None and count() < number:
        time.sleep(0.2)
    assert process.poll() is None, process.communicate()[0]


def killed_twice_then_finished(begin, count, check, after):
    """Starts a run whose worker is killed, one whose driver is killed, and one that ends; gives what it says.

    Args:
        begin: starts a run.
        count: how many label maps there are.
        check: fails if one of them is half-written.
        after: how many more label maps there must be until the next kill.
    """
    first = begin()
    wait_for(first, count, after)
    os.kill(workers_of(first)[0], signal.SIGKILL)
    said = first.communicate()[0]
    assert first.returncode == 1 and "OSError: The Beam pipeline failed: A worker process was killed" in said, said
    check()
    before = count()
    second = begin()
    wait_for(second, count, before + after)
    second.kill()  # its workers live a while longer
    second.wait()
    check()
    third = begin()
    said = third.communicate()[0]
    assert third.returncode == 0, said
    print(f"done after the first kill: {before}; {said.splitlines()[-1]}")
    return said


@pytest.mark.slow
def test_two_thousand_pictures_by_two_processes_without_this_package(model, saved_model, tmp_path, monkeypatch):
    images, to = tmp_path / "images", tmp_path / "labels"
    damaged = write_pictures(images, 2000)
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT / "without_us"))

    def written():
        walk = os.walk(to)  # not rglob, which fails when a folder disappears
        files = [Path(folder, file) for folder, _, files in walk for file in files if file.endswith(".png")]
        return [path for path in files if results.UNFINISHED not in path.parts]

    def none_is_half_written():
        for path in written():
            labels_in(path)

    said = killed_twice_then_finished(
        lambda: start(saved_model, images, to), lambda: len(written()), none_is_half_written, after=150
    )
    assert "failed 20" in said
    assert names_in(to / "failed.txt") == {str(images / name) for name, is_damaged in damaged.items() if is_damaged}
    assert_all_equal(model, images, to, damaged)
    assert kd.segment_folder(model, images, to, progress=False)[:2] == (0, 1980)


@pytest.fixture
def bucket():
    """(a client of an object store on this machine with an empty bucket, Beam's options for it)."""
    boto3 = pytest.importorskip("boto3", reason='needs pip install "apache-beam[aws]"')
    moto = pytest.importorskip("moto.server", reason='needs pip install "moto[server,s3]"')
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    options = {
        "endpoint_url": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "region_name": "us-east-1",
    }
    client = boto3.client("s3", **options)
    client.create_bucket(Bucket="bucket")
    yield client, [f"--s3_{name.removeprefix('aws_')}={value}" for name, value in options.items()]
    server.stop()


def keys_in(client, folder):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=folder + "/")
    return {one["Key"] for page in pages for one in page.get("Contents", [])}


@pytest.mark.slow
def test_pictures_of_a_bucket_by_two_processes(model, saved_model, bucket, tmp_path):
    client, options = bucket
    # Not two thousand: Beam makes a client of its own for every request to S3, which takes longer than such a small picture.
    damaged = write_pictures(tmp_path, 60, every=12)
    for name in damaged:
        client.upload_file(str(tmp_path / name), "bucket", f"photos/{name}")

    def written():
        hidden = f"labels/{results.UNFINISHED}"
        return [key for key in keys_in(client, "labels") if key.endswith(".png") and not key.startswith(hidden)]

    def labels_at(key):
        with Image.open(io.BytesIO(client.get_object(Bucket="bucket", Key=key)["Body"].read())) as image:
            assert image.mode == "P"
            return np.asarray(image)

    def none_is_half_written():
        for key in written():
            labels_at(key)

    said = killed_twice_then_finished(
        lambda: start(saved_model, "s3://bucket/photos", "s3://bucket/labels", *options),
        lambda: len(written()),
        none_is_half_written,
        after=6,
    )
    assert "failed 5" in said
    expected = {f"labels/{Path(name).with_suffix('.png')}" for name, is_damaged in damaged.items() if not is_damaged}
    assert keys_in(client, "labels") == expected | {"labels/predictions.jsonl", "labels/failed.txt"}
    for name, is_damaged in damaged.items():
        if not is_damaged:
            key = f"labels/{Path(name).with_suffix('.png')}"
            assert np.array_equal(labels_at(key), kd.segment(model, tmp_path / name)), name
