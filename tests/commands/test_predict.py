"""The command predict: what it writes for files, folders and lists, what it prints, and its exit status."""

import sys
import types

import numpy as np
import pytest
from PIL import Image
from support.drawn import picture
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab.commands import command_line, predict

NAME = "deeplabv3plus_r18-d8_512x512_80k_loveda"


@pytest.fixture(scope="module")
def model():
    return drawn(NAME, protocol=kd.Protocol("whole"))


@pytest.fixture(autouse=True)
def loaded(model, monkeypatch):
    """The row is loaded as the narrow model, for pictures of their own size."""
    monkeypatch.setattr(command_line, "load", lambda row, weights, **_: model)


def write(path, seed, size=(30, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(*size, seed)).save(path)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def run(*arguments):
    predict.main([NAME, *map(str, arguments)])


def test_a_folder_keeps_its_tree_goes_past_damage_and_ends_with_status_1(model, tmp_path, capsys):
    images, to = tmp_path / "images", tmp_path / "labels"
    for seed, name in enumerate(("a/x.jpg", "a/y.png", "b/x.png")):
        write(images / name, seed)
    (images / "b" / "bad.jpg").write_bytes(b"<html>")
    with pytest.raises(SystemExit) as ended:
        command_line.run(predict.main, [NAME, str(images), "--to", str(to), "--only-labels"])
    assert ended.value.code.startswith("error: 1 of 4 pictures could not be read") and "failed.txt" in ended.value.code
    assert files_in(to) == ["a/x.png", "a/y.png", "b/x.png", "failed.txt", "predictions.jsonl"]
    for name in ("a/x.jpg", "a/y.png", "b/x.png"):
        with Image.open((to / name).with_suffix(".png")) as image:
            assert image.mode == "L" and np.array_equal(np.asarray(image), kd.segment(model, images / name))
    place, cause = (to / "failed.txt").read_text().strip().split("\t")
    assert place == str(images / "b" / "bad.jpg") and cause
    printed = capsys.readouterr()
    assert f"{place}: {cause}" in printed.out and "x.jpg    40x30" in printed.out
    assert "4/4 pictures" in printed.err and "1 failed" in printed.err
    write(images / "b" / "bad.jpg", 4)
    run(images, "--to", to, "--only-labels")
    assert "3 of 4 pictures were done before" in capsys.readouterr().out and not (to / "failed.txt").exists()


@pytest.mark.parametrize(
    "chosen, files, mode",
    [
        ([], ["x.png", "x_overlay.png"], "P"),
        (["--only-labels"], ["x.png"], "L"),
        (["--palette"], ["x.png"], "P"),
        (["--palette", "--overlay"], ["x.png", "x_overlay.png"], "P"),
        (["--only-labels", "--overlay", "--scores"], ["x.npz", "x.png", "x_overlay.png"], "L"),
        (["--scores"], ["x.npz", "x.png", "x_overlay.png"], "P"),
    ],
)
def test_what_is_written_is_chosen(chosen, files, mode, tmp_path):
    write(tmp_path / "x.jpg", 0)
    run(tmp_path / "x.jpg", "--to", tmp_path / "out", *chosen)
    assert files_in(tmp_path / "out") == ["predictions.jsonl", *files]
    with Image.open(tmp_path / "out" / "x.png") as image:
        assert image.mode == mode


def test_lists_and_globs_are_read(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("in/a/x.jpg", "in/b/y.jpg", "z.png")):
        write(tmp_path / name, seed)
    (tmp_path / "list.txt").write_text("in/a/x.jpg\nin/b/y.jpg\n")
    run("@list.txt", "z.png", "--to", "out", "--palette")
    run("in/**/*.jpg", "--to", "globbed", "--palette")
    assert files_in(tmp_path / "out") == ["a/x.png", "b/y.png", "predictions.jsonl", "z.png"]
    assert files_in(tmp_path / "globbed") == ["a/x.png", "b/y.png", "predictions.jsonl"]
    assert np.array_equal(np.asarray(Image.open("globbed/a/x.png")), kd.segment(model, "in/a/x.jpg"))


def test_stop_at_first_stops(tmp_path):
    write(tmp_path / "in" / "a.png", 0)
    (tmp_path / "in" / "b.png").write_bytes(b"")
    write(tmp_path / "in" / "c.png", 1)
    with pytest.raises(ValueError, match="in/b.png: "):
        run(tmp_path / "in", "--to", tmp_path / "out", "--stop-at-first")


def test_other_results_are_refused_unless_overwritten(model, tmp_path):
    write(tmp_path / "a.png", 0)
    run(tmp_path / "a.png", "--to", tmp_path / "out")
    with pytest.raises(ValueError, match="another options.*--overwrite"):
        run(tmp_path / "a.png", "--to", tmp_path / "out", "--multi-scale-flip")
    run(tmp_path / "a.png", "--to", tmp_path / "out", "--multi-scale-flip", "--overwrite")
    labels = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.array_equal(labels, kd.segment(model, tmp_path / "a.png", multi_scale_flip=True))
    with pytest.raises(ValueError, match="would both be written to a.png"):
        run(tmp_path / "a.png", tmp_path / "a.png", "--to", tmp_path / "out")


@pytest.fixture
def same_protocol_afterwards(model):
    yield
    model.protocol = kd.Protocol("whole")


def test_resize_names_another_box_or_none_and_is_part_of_the_record(model, tmp_path, same_protocol_afterwards):
    image, to = tmp_path / "a.png", tmp_path / "out"
    write(image, 0)
    run(image, "--to", to, "--scores", "--resize", 24, 36)
    assert model.protocol == kd.Protocol("whole", resize=(36, 24))
    labels, scores = kd.segment(model, image, return_scores=True)
    assert not np.array_equal(kd.segment(model, image, resize=(40, 30), return_scores=True)[1], scores)
    written = np.load(to / "a.npz")
    assert np.array_equal(written["scores"], scores) and np.array_equal(written["labels"], labels)
    assert written["input"].shape == (24, 32, 3)
    with pytest.raises(ValueError, match="another protocol.*--overwrite"):
        run(image, "--to", to, "--scores", "--resize", "own")
    model.protocol = kd.Protocol("whole")
    kinds = ["palette", "overlay", "scores"]
    assert kd.segment_folder(model, image, to, kinds=kinds, resize=(36, 24), progress=False).skipped == 1
    kd.segment_folder(model, image, tmp_path / "api", kinds=kinds, resize=(36, 24), progress=False)
    assert np.load(tmp_path / "api" / "a.npz")["input"].shape == (24, 32, 3)


def test_resize_own_leaves_the_rest_of_the_protocol():
    for one, own in (
        (
            kd.Protocol("slide", crop=(9, 9), stride=(5, 5), resize=(99, 9)),
            kd.Protocol("slide", crop=(9, 9), stride=(5, 5)),
        ),
        (kd.Protocol("whole", resize=(65, 65), pad=(65, 65), step=16), kd.Protocol("whole", pad=(65, 65))),
    ):
        model = types.SimpleNamespace(protocol=one)
        assert command_line.resized(model, None).protocol == one
        assert command_line.resized(model, "own").protocol == own


@pytest.mark.parametrize("values", [["9"], ["9", "0"], ["9", "9", "9"], ["mine"]])
def test_a_wrong_box_is_refused(values, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path / "a.png", "--to", tmp_path / "out", "--resize", *values)
    assert "argument --resize: must be" in capsys.readouterr().err


def test_mosaics_are_written_as_geotiffs_and_those_that_cannot_be_read_are_listed(model, tmp_path, capsys):
    rasterio = pytest.importorskip("rasterio", reason="needs the extra: rasterio")
    write(tmp_path / "in" / "a.tif", 0)
    write(tmp_path / "in" / "b.tif", 1, size=(20, 30))
    (tmp_path / "in" / "bad.tif").write_bytes(b"no raster")
    with pytest.raises(ValueError, match="1 of 3 rasters could not be read"):
        run(tmp_path / "in", "--to", tmp_path / "out", "--mosaic", "--window", 25, 15)
    assert files_in(tmp_path / "out") == ["a.tif", "b.tif", "failed.txt", "predictions.jsonl"]
    printed = capsys.readouterr().out
    assert "windows of 25x25 pixels, one every 15x15" in printed and "a.tif   40x30" in printed
    assert f"{tmp_path / 'in' / 'bad.tif'}: There must be a raster that GDAL reads." in printed
    model.protocol = kd.Protocol("slide", crop=(25, 25), stride=(15, 15))
    try:
        with rasterio.open(tmp_path / "out" / "a.tif") as dataset:
            assert np.array_equal(dataset.read(1), kd.segment(model, tmp_path / "in" / "a.tif"))
    finally:
        model.protocol = kd.Protocol("whole")
    (tmp_path / "in" / "bad.tif").unlink()
    run(tmp_path / "in" / "*.tif", "--to", tmp_path / "out", "--mosaic", "--window", 25, 15)
    assert "2 of 2 rasters were done before" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, said",
    [
        (["--mosaic", "--overlay"], "With --mosaic .*Received: --overlay too"),
        (["--mosaic", "--only-labels", "--multi-scale-flip"], "--multi-scale-flip and --only-labels too"),
        (["--mosaic", "--resize", "own"], "at the raster's own size. Received: --resize too"),
        (["--bands", "1"], "--bands must come with --mosaic"),
        (["--window", "9", "9"], "--window must come with --mosaic"),
        (["--stretch", "0", "1"], "--stretch must come with --mosaic"),
        (["--mosaic", "--bands", "1", "2"], "--bands names one band .grey. or three"),
        (["--mosaic", "--stretch", "9", "1"], "--stretch is .LOW, HIGH."),
        (["--mosaic", "--window", "9", "10"], "must be at most"),
    ],
)
def test_options_that_contradict_mosaic_are_refused(options, said, tmp_path):
    if "--mosaic" in options:
        pytest.importorskip("rasterio", reason="needs the extra: rasterio")
    write(tmp_path / "a.tif", 0)
    with pytest.raises(SystemExit, match=said):
        command_line.run(predict.main, [NAME, str(tmp_path / "a.tif"), "--to", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        ([], "Name --only-labels or --palette"),
        (["--overlay", "--palette"], "Received: --overlay. Leave one out"),
        (["--only-labels", "--scores"], "Received: --scores"),
        (["--only-labels", "--multi-scale-flip"], "Received: --multi-scale-flip"),
        (["--only-labels", "--stop-at-first"], "Received: --stop-at-first"),
    ],
)
def test_beam_writes_label_maps_alone(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        run(tmp_path / "x.png", "--to", tmp_path / "out", "--engine", "beam", *options, "--", "--direct_num_workers=2")


def test_beam_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match=r"apache-beam, which is not installed. pip install .keras_deeplab\[beam\]"):
        run(tmp_path / "x.png", "--to", tmp_path / "out", "--engine=beam", "--palette")


def test_a_bucket_for_the_results_needs_beam(tmp_path):
    write(tmp_path / "x.png", 0)
    with pytest.raises(ValueError, match="Received: s3://bucket/out. With --engine beam"):
        run(tmp_path / "x.png", "--to", "s3://bucket/out")


@pytest.mark.slow
def test_beam_goes_on_where_one_machine_was_stopped_and_ends_with_status_1(model, tmp_path, capsys):
    pytest.importorskip("apache_beam", reason="needs the extra: beam")
    for seed in range(3):
        write(tmp_path / "images" / f"{seed}.png", seed)
    run(tmp_path / "images" / "0.png", "--to", tmp_path / "out", "--only-labels")
    (tmp_path / "images" / "bad.jpg").write_bytes(b"<html>")
    arguments = [NAME, str(tmp_path / "images"), "--to", str(tmp_path / "out"), "--only-labels", "--engine", "beam"]
    with pytest.raises(SystemExit) as ended:
        command_line.run(predict.main, [*arguments, "--", "--direct_num_workers=1"])
    assert ended.value.code.startswith("error: 1 of 4 pictures could not be read")
    assert "2 of 4 pictures are done now, 1 were done before" in capsys.readouterr().out
    assert files_in(tmp_path / "out") == ["0.png", "1.png", "2.png", "failed.txt", "predictions.jsonl"]
    for seed in range(3):
        with Image.open(tmp_path / "out" / f"{seed}.png") as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), kd.segment(model, tmp_path / "images" / f"{seed}.png"))
