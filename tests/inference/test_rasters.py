"""Rasters of any size: label maps equal `segment`'s by the same windows; nothing is lost by a kill; the place is kept."""

import itertools
import json
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from support import SUPPORT
from support.drawn import picture
from support.narrow import drawn
from support.raster_elsewhere import ROW

import keras_deeplab as kd
from keras_deeplab.catalog import rows
from keras_deeplab.files import InUseError, locked
from keras_deeplab.inference import rasters, results
from keras_deeplab.networks.fast import processor
from keras_deeplab.pictures import rasters as files

rasterio = pytest.importorskip("rasterio", reason="needs the extra: rasterio")
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

SLIDE = kd.Protocol("slide", crop=(65, 97), stride=(40, 60))
GROUND = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.3, 0.0, 4e5, 0.0, -0.3, 5e6)}
WINDOWS, NOTE = rasters.windows, rasters.Mosaic._note


@pytest.fixture(scope="module")
def model():
    return drawn(ROW, protocol=SLIDE)


def write(path, pixels, **profile):
    """A GeoTIFF of an array (H, W, bands)."""
    height, width, count = pixels.shape
    profile = {"driver": "GTiff", "dtype": pixels.dtype, **GROUND, **profile}
    with rasterio.open(path, "w", height=height, width=width, count=count, **profile) as dataset:
        dataset.write(pixels.transpose(2, 0, 1))
    return path


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read().transpose(1, 2, 0).squeeze()


def run(model, raster, to, **options):
    return read(kd.segment_raster(model, raster, to, progress=False, **options))


def shuffled(rows):
    """`windows` in another order: those of several rows at a time, by chance."""

    def windows(strips, lefts, valid):
        following, order = WINDOWS(strips, lefts, valid), random.Random(0)
        while group := list(itertools.islice(following, rows * len(lefts))):
            order.shuffle(group)
            yield from group

    return windows


def test_labels_and_scores_equal_segments_and_the_ground_is_the_same(model, tmp_path):
    pixels = picture(200, 300, seed=1)
    raster = write(tmp_path / "a.tif", pixels)
    labels, scores = kd.segment(model, pixels, return_scores=True)
    found = kd.segment_raster(model, raster, tmp_path / "out", scores=True, progress=False)
    assert np.array_equal(read(found), labels)
    assert np.abs(read(tmp_path / "out" / "a_scores.tif") - scores).max() <= 2**-11 * np.abs(scores).max()
    with rasterio.open(found) as dataset:
        assert (dataset.crs, dataset.transform) == (rasterio.CRS.from_epsg(32633), GROUND["transform"])
        assert dataset.nodata == 255 and dataset.overviews(1) == [2] and dataset.profile["tiled"]
        assert [dataset.colormap(1)[i] for i in (1, 255)] == [(*model.palette[1], 255), (0, 0, 0, 0)]
        assert dataset.tags()["class_6"] == model.classes[6] and dataset.tags()["AREA_OR_POINT"] == "Area"
        assert json.loads(dataset.tags()["protocol"])["stride"] == [40, 60]
    with rasterio.open(tmp_path / "out" / "a_scores.tif") as dataset:
        assert dataset.descriptions == tuple(model.classes) and dataset.transform == GROUND["transform"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.tif", "a_scores.tif", "predictions.jsonl"]


@pytest.mark.parametrize("size", [(50, 300), (200, 60), (30, 40), (66, 97)])
def test_rasters_smaller_than_a_window_are_segmented_as_segment_does(model, size, tmp_path):
    pixels = picture(*size, seed=2)
    labels = run(model, write(tmp_path / "a.tif", pixels), tmp_path / "out")
    assert np.array_equal(labels, kd.segment(model, pixels))


def draw(path, height, width, drawn_rows):
    """A large GeoTIFF; below `drawn_rows`, and in a hole, it has no data. Zero in some bands alone is data."""
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "nodata": 0, "tiled": True, "sparse_ok": True, **GROUND}
    rolled = np.maximum(picture(512, width, seed=0), 1)
    with rasterio.open(path, "w", height=height, width=width, compress="deflate", zlevel=1, **profile) as dataset:
        for top in range(0, drawn_rows, 512):
            rows = np.roll(rolled, 37 * top, axis=1)[: drawn_rows - top]
            rows[:, 700:2600] *= not 1000 < top < 3000
            dataset.write(rows.transpose(2, 0, 1), window=rasterio.windows.Window(0, top, width, len(rows)))
    return path


def start(raster, to):
    command = [sys.executable, str(SUPPORT / "raster_elsewhere.py"), str(raster), str(to)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def rows_done(to):
    try:
        return json.loads(next(to.rglob("state.json")).read_text())["rows"]
    except (StopIteration, FileNotFoundError):
        return 0


def kill_at(process, to, rows, seconds=0.0):
    """Kills the process some seconds after it has noted that many rows of windows."""
    while process.poll() is None and rows_done(to) < rows:
        time.sleep(0.5)
    time.sleep(seconds)
    process.kill()
    assert process.wait() != 0


def report(process, kind):
    """Waits for the process, and prints its memory."""
    output = process.communicate()[0]
    assert process.returncode == 0
    ready, highest = (int(number) / 2**20 for number in output.split())
    print(f"{kind}: {ready:.0f} MiB with the network, {highest:.0f} MiB at most, {highest - ready:.0f} more")
    return highest - ready


def rows_of(path, top, rows):
    with rasterio.open(path) as dataset:
        return dataset.read(window=rasterio.windows.Window(0, top, dataset.width, rows)).transpose(1, 2, 0)


@pytest.mark.slow
def test_a_mosaic_of_12000x9000_killed_shuffled_and_in_crops(tmp_path, monkeypatch):
    raster, killed, other = draw(tmp_path / "a.tif", 9000, 12000, 9000), tmp_path / "killed", tmp_path / "other"
    kill_at(start(raster, killed), killed, 3, 0.7)
    kill_at(start(raster, killed), killed, 8, 1.9)
    assert report(start(raster, killed), "12,000 x 9,000") < 2048
    model, began = drawn(ROW), time.perf_counter()
    monkeypatch.setattr(rasters, "windows", shuffled(rows=2))
    kd.segment_raster(model, raster, other, progress=False)
    print(f"12,000 x 9,000: {time.perf_counter() - began:.0f} s")
    model.protocol = rasters.mosaic_protocol(model.protocol)
    (side, _), (stride, _) = model.protocol.crop, model.protocol.stride
    compared = different = 0
    for top, left, ends in ((0, 0, False), (5 * stride, 9 * stride, False), (9 * stride, 13 * stride, True)):
        bottom, right = (9000, 12000) if ends else (top + 2 * stride + side, left + 2 * stride + side)
        pixels = rows_of(raster, top, bottom - top)[:, left:right]
        labels, scores = kd.segment(model, pixels, return_scores=True)
        labels[(pixels == 0).all(axis=-1)] = 255
        found = rows_of(killed / "a.tif", top, bottom - top)[:, left:right, 0]
        # Beside a cut, windows of the mosaic reach in that the crop does not have.
        before = slice(side - stride if top else 0, None if ends else 2 * stride)
        beside = slice(side - stride if left else 0, None if ends else 2 * stride)
        compared += labels[before, beside].size
        places = np.argwhere(labels[before, beside] != found[before, beside])
        different += len(places)
        for y, x in places:  # the best two scores are equal but for the last bits, which depend on the matrices' size
            best, second = (scores[before, beside][y, x, classes[before, beside][y, x]] for classes in (labels, found))
            assert best - second < 4 * np.spacing(best)
    print(f"crops: {different} of {compared} pixels differ")
    assert different < 5 and compared > 5e6
    counts = np.zeros(256, int)
    for top in range(0, 9000, 1000):
        found = rows_of(killed / "a.tif", top, 1000)
        assert np.array_equal(found, rows_of(other / "a.tif", top, 1000))
        assert np.array_equal(found[..., 0] == 255, (rows_of(raster, top, 1000) == 0).all(axis=-1))
        counts += np.bincount(found.ravel(), minlength=256)
    assert np.count_nonzero(counts) > 3 and counts[255] > 1e6
    with rasterio.open(killed / "a.tif") as dataset:
        assert (dataset.crs, dataset.transform) == (rasterio.CRS.from_epsg(32633), GROUND["transform"])
        assert dataset.overviews(1) == [2, 4, 8, 16, 32]


@pytest.mark.slow
def test_memory_of_a_mosaic_of_30000x30000(tmp_path):
    raster = draw(tmp_path / "a.tif", 30000, 30000, 1500)
    assert report(start(raster, tmp_path / "out"), "30,000 x 30,000") < 2048
    assert np.array_equal(np.unique(rows_of(tmp_path / "out" / "a.tif", 1500, 28500)), [255])


def test_another_order_of_windows_gives_the_same_bits(model, tmp_path, monkeypatch):
    raster = write(tmp_path / "a.tif", picture(200, 300, seed=1))
    found = [run(model, raster, tmp_path / "one", scores=True), read(tmp_path / "one" / "a_scores.tif")]
    monkeypatch.setattr(rasters, "windows", shuffled(rows=3))
    monkeypatch.setattr(rasters, "WINDOW_PIXELS", 3 * 65 * 97)  # other passes of the network, too
    again = [run(model, raster, tmp_path / "two", scores=True), read(tmp_path / "two" / "a_scores.tif")]
    if processor.has_avx2_alone():  # there the order of the sums depends on how many windows a pass has
        np.testing.assert_allclose(found[1], again[1], rtol=2**-10, atol=1e-6)  # the last of 16 bits
        assert np.mean(found[1] != again[1]) <= 1e-3 and np.mean(found[0] != again[0]) <= 1e-3
    else:
        assert all(map(np.array_equal, found, again))


def interrupted(monkeypatch, rows):
    """Lets a run end when it has noted so many rows of windows; the list gets each window that a run reads."""
    seen = []

    def stop(mosaic, done, files):
        NOTE(mosaic, done, files)
        if done == rows:
            raise KeyboardInterrupt

    def counted(*arguments):
        for place, *rest in WINDOWS(*arguments):
            seen.append(place)
            yield place, *rest

    monkeypatch.setattr(rasters.Mosaic, "_note", stop)
    monkeypatch.setattr(rasters, "windows", counted)
    return seen


def test_a_stopped_run_goes_on_after_its_last_row_of_windows(model, tmp_path, monkeypatch):
    pixels = picture(200, 300, seed=1)
    raster, to, expected = write(tmp_path / "a.tif", pixels), tmp_path / "out", kd.segment(model, pixels)
    monkeypatch.setattr(rasters, "WINDOW_PIXELS", 5 * 65 * 97)  # a row of windows in a pass
    for change in (None, "raster", "lost"):
        seen = interrupted(monkeypatch, rows=3)
        with pytest.raises(KeyboardInterrupt):
            run(model, raster, to)
        assert not (to / "a.tif").exists() and rows_done(to) == 3 and seen[0] == (0, 0)
        if change == "raster":
            write(tmp_path / "a.tif", pixels[::-1])
            expected = kd.segment(model, pixels[::-1])
        elif change == "lost":
            (to / rasters.OPEN / "a" / "labels").unlink()
        seen = interrupted(monkeypatch, rows=None)
        assert np.array_equal(run(model, raster, to), expected)
        assert seen[0] == ((2, 0) if change is None else (0, 0)) and seen[-1] == (4, 4)
        assert sorted(path.name for path in to.iterdir()) == ["a.tif", "predictions.jsonl"]
        (to / "a.tif").unlink()


def test_what_is_computed_is_kept_when_the_result_cannot_be_written(model, tmp_path, monkeypatch):
    raster, to = write(tmp_path / "a.tif", picture(200, 300, seed=1)), tmp_path / "out"
    require_equal = files._require_equal
    monkeypatch.setattr(files, "_require_equal", lambda found, expected: require_equal(found, expected + 1))
    with pytest.raises(
        OSError, match=r"There must be space for the results in .*out.* holds other values than were written"
    ):
        run(model, raster, to)
    assert [path.name for path in to.iterdir() if path.suffix == ".tif"] == [] and rows_done(to) == 5
    monkeypatch.undo()
    seen = interrupted(monkeypatch, rows=None)
    assert np.array_equal(run(model, raster, to), kd.segment(model, raster)) and seen == []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rasters, "write_block", full)
    with pytest.raises(OSError, match="No space left on device: .*b'"):
        run(model, write(tmp_path / "b.tif", picture(66, 97, seed=1)), to)
    monkeypatch.undo()
    monkeypatch.setattr(rasters.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**5}))
    with pytest.raises(OSError, match="Scores of 7 classes at 97x66 pixels need 0.0 GB. Received: 0.0 GB free"):
        run(model, tmp_path / "b.tif", tmp_path / "new", scores=True)


def test_no_data_is_255_and_windows_without_data_are_left_out(model, tmp_path, monkeypatch):
    pixels = np.maximum(picture(200, 300, seed=1), 1)
    pixels[:110, :200] = 0
    pixels[150, 20:40, :2] = 0  # one band has data
    labels, (batches, scores) = kd.segment(model, pixels), ([], model_network(model).scores)
    monkeypatch.setattr(rasters, "WINDOW_PIXELS", 1)
    monkeypatch.setattr(model_network(model), "scores", lambda x: batches.append(len(x)) or scores(x))
    found = run(model, write(tmp_path / "a.tif", pixels, nodata=0), tmp_path / "out", scores=True)
    labels[:110, :200] = 255
    assert np.array_equal(found, labels) and len(batches) == 25 - 3  # one window of those without data gave the size
    assert np.array_equal(np.isnan(read(tmp_path / "out" / "a_scores.tif")[..., 0]), labels == 255)


def model_network(model):
    return rasters.network_of(model)


def test_results_of_other_options_are_refused_and_two_runs_do_not_share_a_folder(model, tmp_path):
    raster, to = write(tmp_path / "a.tif", picture(66, 97, seed=1)), tmp_path / "out"
    run(model, raster, to)
    with pytest.raises(ValueError, match="by another options.*overwrite"):
        run(model, raster, to, bands=[3, 2, 1])
    with pytest.raises(ValueError, match="by another options.*overwrite"):
        kd.segment_folder(model, raster, to, progress=False)
    swapped = kd.segment(model, picture(66, 97, seed=1)[..., ::-1])
    assert np.array_equal(run(model, raster, to, bands=[3, 2, 1], overwrite=True), swapped)
    with pytest.raises(ValueError, match="a.tif is a picture, and would be overwritten"):
        run(model, raster, tmp_path)
    with locked(to / results.LOCK, "is writing predictions into out"), pytest.raises(InUseError, match="is writing"):
        run(model, raster, to)


def test_the_windows_are_the_rows_own_or_squares_of_its_pictures():
    def windows(name):
        protocol = rasters.mosaic_protocol(rows.find(name).protocol)
        assert protocol.resize is None
        return protocol.crop, protocol.stride

    assert windows("deeplabv3plus_r101-d8_769x769_80k_cityscapes") == ((769, 769), (513, 513))
    assert windows("deeplabv3plus_r18_loveda") == ((1024, 1024), (683, 683))
    assert windows("deeplabv3plus_r18_potsdam") == windows("deeplabv3plus_r18_vaihingen") == ((512, 512), (342, 342))
    assert windows("deeplabv3plus_r18_isaid") == ((896, 896), (598, 598))
    assert rasters.mosaic_protocol(kd.Protocol("whole", pad=(513, 513))).crop == (513, 513)
    assert rasters.mosaic_protocol(kd.Protocol("whole")).crop == (1024, 1024)


def opened(path, top=0, count=None, bands=None, stretch=None):
    with files.open_raster(path, files.check_bands(bands), files.check_stretch(stretch)) as raster:
        return raster.read(top, count or raster.height)


def test_pixels_are_read_as_pictures_are(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "READ_VALUES", 3 * 40 * 7)  # seven rows at once
    monkeypatch.setenv("KERAS_DEEPLAB_MAX_PIXELS", "1000")
    pixels = picture(30, 40, seed=3)
    for name, image in (
        ("rgb.png", Image.fromarray(pixels)),
        ("rgb.jpg", Image.fromarray(pixels)),
        ("grey.jpg", Image.fromarray(pixels[..., 0])),
        ("palette.png", Image.fromarray(pixels).quantize(16)),
        ("one bit.tif", Image.fromarray(pixels[..., 0]).convert("1")),
        ("white is 0.tif", Image.fromarray(pixels[..., 0])),
    ):
        options = {"tiffinfo": {262: 0}} if "white" in name else {"subsampling": 0} if "jpg" in name else {}
        image.save(tmp_path / name, **options)
        found, valid = opened(tmp_path / name)
        monkeypatch.delenv("KERAS_DEEPLAB_MAX_PIXELS")
        difference = np.abs(found.astype(int) - kd.read_image(tmp_path / name)).max()
        assert difference <= (name == "rgb.jpg") and valid is None, name  # GDAL rounds the colours of a JPEG otherwise
        monkeypatch.setenv("KERAS_DEEPLAB_MAX_PIXELS", "1000")
    assert np.array_equal(opened(tmp_path / "rgb.png", 11, 9)[0], pixels[11:20])


def test_bands_stretch_and_masks(tmp_path):
    pixels = picture(30, 40, seed=3)
    five = np.concatenate([pixels, pixels[..., ::-1][..., :2]], axis=-1)
    raster = write(tmp_path / "5.tif", five)
    assert np.array_equal(opened(raster)[0], pixels)
    assert np.array_equal(opened(raster, bands=[5, 4, 1])[0], five[..., [4, 3, 0]])
    assert np.array_equal(opened(raster, bands=2)[0], pixels[..., [1, 1, 1]])
    deep = write(tmp_path / "16.tif", pixels.astype("uint16") * 40, nodata=0)
    found, valid = opened(deep, stretch=(1000, 8000))
    assert np.array_equal(found, np.clip(np.round((pixels * 40.0 - 1000) * 255 / 7000), 0, 255))
    assert np.array_equal(valid, (pixels > 0).any(axis=-1))
    real = pixels.astype("float32") / 255
    real[3, 4, 1], real[5, 6, 2] = np.nan, np.inf
    found, valid = opened(write(tmp_path / "real.tif", real), stretch=(0, 1))
    assert np.array_equal(found[valid], pixels[valid]) and np.argwhere(~valid).tolist() == [[3, 4], [5, 6]]
    for name, alpha in (("alpha.tif", pixels[..., 0] // 128 * 255), ("grey.tif", pixels[..., 1] // 200)):
        colours = pixels if name == "alpha.tif" else pixels[..., :1]
        raster = write(tmp_path / name, np.dstack([colours, alpha]), alpha="yes")
        found, valid = opened(raster)
        assert np.array_equal(found, np.broadcast_to(colours, found.shape)) and np.array_equal(valid, alpha > 0)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(raster := tmp_path / "5.tif", "r+") as dataset:
        dataset.write_mask(pixels[..., 2] > 99)
    assert np.array_equal(opened(raster)[1], pixels[..., 2] > 99)


def test_rasters_that_cannot_be_taken_as_they_are_are_refused(tmp_path):
    pixels = picture(30, 40, seed=3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending in ("jpg", "png", "tif"):
        Image.fromarray(pixels).save(tmp_path / f"turned.{ending}", exif=exif)
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(pixels[..., 0]).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(pixels).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(picture(300, 400, seed=3)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:6000])
    (tmp_path / "text.tif").write_text("no raster")
    write(tmp_path / "two.tif", pixels[..., :2])
    write(tmp_path / "16.tif", pixels.astype("uint16"))
    write(tmp_path / "real.tif", pixels.astype("float32"))
    write(tmp_path / "complex.tif", pixels.astype("complex64"))
    write(tmp_path / "cut.tif", pixels)
    with open(tmp_path / "cut.tif", "r+b") as file:
        file.truncate(2000)
    for name, options, said in (
        ("turned.jpg", {}, "to be turned by its orientation tag"),
        ("turned.png", {}, "to be turned by its orientation tag"),
        ("turned.tif", {}, "to be turned by its orientation tag"),
        ("cmyk.jpg", {}, "is CMYK"),
        ("bits.png", {}, "must be 8-bit, 0..255. Received: uint8 of 1 bits. Say by `stretch`"),
        ("palette.png", {"stretch": (0, 9)}, "Leave `stretch` out"),
        ("cut.jpg", {}, "cannot read the rows 0 to 300"),
        ("cut.tif", {}, "GDAL"),
        ("text.tif", {}, "There must be a raster that GDAL reads"),
        ("two.tif", {}, "Name one by `bands`"),
        ("16.tif", {}, "Received: uint16. Say by `stretch`"),
        ("real.tif", {}, "Received: float32. Say by `stretch`"),
        ("complex.tif", {"stretch": (0, 1)}, "Received: complex ones"),
        ("16.tif", {"bands": [1, 2, 4]}, "Received: 1 2 4, of a raster with 3 bands, so that 4 is missing"),
        ("16.tif", {"bands": [1, 2]}, "`bands` names one band"),
        ("16.tif", {"bands": [0, 1, 2]}, "`bands` names one band"),
        ("16.tif", {"stretch": (9, 9)}, "`stretch` is .LOW, HIGH."),
        ("16.tif", {"stretch": (9,)}, "`stretch` is .LOW, HIGH."),
    ):
        with pytest.raises(ValueError, match=said):
            opened(tmp_path / name, **options)
            print(name)


def test_without_rasterio_the_extra_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImportError, match=r"pip install .*keras_deeplab\[rasterio\]"):
        kd.segment_raster(model, tmp_path / "a.tif", tmp_path / "out")
