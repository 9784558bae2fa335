"""A video's frames, times and label maps are those of its file; what FFmpeg reads with wrong colours or edges is refused."""

import builtins
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from support import SUPPORT, videos
from support.drawn import picture
from support.folder_elsewhere import shared_model

import keras_deeplab as kd
from keras_deeplab.commands import command_line, predict
from keras_deeplab.inference import video
from keras_deeplab.inference.segment import network_of
from keras_deeplab.inference.sources import is_video

av = pytest.importorskip("av", reason="PyAV, the extra video, reads and writes videos")

MILLISECOND = Fraction(1, 1000)
VARIABLE = [1707, 1711, 1790, 1791, 1850, 1901, 1999, 2003]  # milliseconds
VARIABLE = [time + 400 * block for block in range(25) for time in VARIABLE]


@pytest.fixture(scope="module")
def model():
    return network_of(shared_model()).folded  # `segment` would fold another one again for each of the frames


@pytest.fixture
def loaded(model, monkeypatch):
    monkeypatch.setattr(command_line, "load", lambda row, weights, **_: model)


def run(*arguments):
    predict.main(["r18_loveda", *map(str, arguments)])


def read(source):
    """[(time, picture)] of a video's frames, and the causes of those that are passed over."""
    with video.open_video(source) as reader:
        frames = list(reader.frames())
    return [(one.source.time, one.data) for one in frames if one.error is None], [
        str(one.error) for one in frames if one.error is not None
    ]


def assert_same(got, expected):
    assert [time for time, _ in got] == [time for time, _ in expected]
    for (_, ours), (_, theirs) in zip(got, expected, strict=True):
        assert np.array_equal(ours, theirs)


def labels_in(path):
    with Image.open(path) as image:
        return np.asarray(image)


def assert_written(model, to, name, expected):
    """The overlay has the frames' times and even sides; the label maps are `segment`'s of the decoded frames."""
    times = [time for time, _ in expected]
    overlay = videos.decoded(str(to / f"{name}_overlay.mp4"))
    assert [time for time, _ in overlay] == times
    height, width = expected[0][1].shape[:2]
    assert {frame.shape for _, frame in overlay} == {(height + height % 2, width + width % 2, 3)}
    folder = to / f"{name}_labels"
    table = (folder / "frames.csv").read_text().splitlines()
    assert table == ["frame,seconds", *(f"{i:06}.png,{float(time)!r}" for i, time in enumerate(times))]
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"{i:06}.png" for i in range(len(times))), "frames.csv",
    ]  # fmt: skip
    for i, (_, pixels) in enumerate(expected):
        assert np.array_equal(labels_in(folder / f"{i:06}.png"), kd.segment(model, pixels)), i


def test_frames_times_and_label_maps_of_an_odd_turned_video_of_variable_rate(model, loaded, tmp_path, capsys):
    path, to = tmp_path / "clip.mp4", tmp_path / "out"
    videos.write(str(path), 24, (48, 63), pixels="yuv444p", times=VARIABLE[:24], tick=MILLISECOND, turn=90, sound="aac")
    expected = [(time, np.rot90(frame)) for time, frame in videos.decoded(str(path))]
    assert [time for time, _ in expected] == [time * MILLISECOND for time in VARIABLE[:24]]
    run(path, "--to", to, "--only-labels", "--overlay")
    assert_written(model, to, "clip", expected)
    printed = capsys.readouterr()
    assert "clip.mp4  48x63  24" in printed.out and "clip.mp4: 24/24 frames" in printed.err
    with av.open(str(path)) as before, av.open(str(to / "clip_overlay.mp4")) as after:
        heard = [[(p.pts * p.time_base, bytes(p)) for p in file.demux(audio=0) if p.size] for file in (before, after)]
    assert heard[0] == heard[1] and len(heard[0]) > 5
    run(path, "--to", to, "--only-labels", "--overlay")
    assert "1 of 1 videos were done before" in capsys.readouterr().out
    with contextlib.closing(kd.segment_video(model, path)) as frames:
        first = next(frames)
    assert first.seconds == float(expected[0][0]) and np.array_equal(first.picture, expected[0][1])
    assert np.array_equal(first.labels, labels_in(to / "clip_labels" / "000000.png"))


@pytest.mark.parametrize("number", range(8))
def test_a_display_matrix_moves_each_pixel_to_where_it_says(number):
    a, b, c, d = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
                  (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0)][number]  # fmt: skip
    pixels = picture(5, 7, seed=number)
    places = {(a * x + c * y, b * x + d * y): pixels[y, x] for y in range(5) for x in range(7)}
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    shown = video.turned(pixels, 65536 * np.array([a, b, 0, c, d, 0, 0, 0, 16384], np.int64))
    assert shown.shape[:2] == ((5, 7) if a else (7, 5))
    assert all(np.array_equal(shown[y - top, x - left], value) for (x, y), value in places.items())


def test_a_display_matrix_of_another_angle_is_refused():
    with pytest.raises(ValueError, match="no multiple of 90 degrees"):
        video.turned(picture(5, 7, seed=0), 65536 * np.array([0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1]))


COLOURS = {  # kind: (how it is written, (weight of red, of blue) of its matrix, (lowest, highest) of Y or None for grey)
    "BT.601 without tags": ({}, (0.299, 0.114), (16, 235)),
    "BT.709": ({"colorspace": 1, "color_range": 1}, (0.2126, 0.0722), (16, 235)),
    "BT.709, full range": ({"colorspace": 1, "color_range": 2}, (0.2126, 0.0722), (0, 255)),
    "10 bits": ({"pixels": "yuv420p10le"}, (0.299, 0.114), (16, 235)),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_colours_follow_the_matrix_and_range_of_the_file(kind, tmp_path):
    written, (red, blue), (low, high) = COLOURS[kind]
    path, bits = str(tmp_path / "x.mkv"), 10 if "10" in kind else 8
    colour = np.array([200, 90, 40])
    with av.open(path, "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, written.get("pixels", "yuv420p")
        for name in {"colorspace", "color_range"} & set(written):
            setattr(stream.codec_context, name, written[name])
        luma = red * colour[0] + (1 - red - blue) * colour[1] + blue * colour[2]
        chroma = [(colour[2] - luma) / (2 - 2 * blue), (colour[0] - luma) / (2 - 2 * red)]
        scale = 224 if low else 255
        values = [low + luma * (high - low) / 255, *(128 + value * scale / 255 for value in chroma)]
        values = [round(value * 2 ** (bits - 8)) for value in values]
        kind = "uint16" if bits == 10 else "uint8"
        planes = [np.full(256 // size, value, kind) for value, size in zip(values, (1, 4, 4), strict=True)]
        frame = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(24, 16), format=stream.pix_fmt)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    [(_, pixels)], _ = read(path)
    assert np.abs(pixels.astype(int) - colour).max() <= 2, pixels[0, 0]


def test_grey_frames_keep_their_values(tmp_path):
    path = str(tmp_path / "grey.mkv")
    videos.write(path, 2, codec="ffv1", pixels="gray")
    (_, pixels), _ = read(path)[0]
    assert np.ptp(pixels[1], axis=-1).max() == 0 and np.ptp(pixels[1]) > 50


def test_files_without_times_duration_or_seeking_are_read(tmp_path, monkeypatch):
    videos.write(str(tmp_path / "a.mp4"), 12, times=range(3, 15))
    expected = videos.decoded(str(tmp_path / "a.mp4"))
    assert expected[0][0] == Fraction(3, 25)
    assert_same(read(tmp_path / "a.mp4")[0], expected)
    assert_same(read((tmp_path / "a.mp4").read_bytes())[0], expected)
    assert_same(read(open(tmp_path / "a.mp4", "rb"))[0], expected)
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/bucket/a.mp4", (tmp_path / "a.mp4").read_bytes())
    assert_same(read("memory://bucket/a.mp4")[0], expected)
    monkeypatch.chdir(tmp_path)
    os.rename("a.mp4", "http:a.mp4")
    assert_same(read("http:a.mp4")[0], expected)

    class Stream:  # a file that cannot go back: no duration, no number of frames
        def __init__(self):
            self.data = b""

        def write(self, data):
            self.data += data

    stream = Stream()
    videos.write(stream, 12, format="matroska")
    with video.open_video(stream.data) as reader:
        assert reader.total is None and len(list(reader.frames())) == 12
    videos.write("raw.h264", 12, format="h264")
    assert [time for time, _ in read("raw.h264")[0]] == [Fraction(i, 25) for i in range(12)]


def test_an_address_is_read(tmp_path):
    videos.write(str(tmp_path / "a.mp4"), 12)
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("localhost", 0), lambda *args: handler(*args, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://localhost:{server.server_port}"
        assert_same(read(f"{address}/a.mp4")[0], videos.decoded(str(tmp_path / "a.mp4")))
        with pytest.raises(FileNotFoundError, match="There is no video 'http.*none.mp4'"):
            read(f"{address}/none.mp4")
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(ValueError, match="cannot be read: Connection refused"):
        read(f"{address}/a.mp4")


def test_damaged_frames_are_passed_over_and_counted(model, tmp_path):
    path = tmp_path / "a.mp4"
    videos.write(str(path), 30, options={"bf": "0"})
    whole = dict(videos.decoded(str(path)))
    videos.damage(path, [20])
    got, causes = read(path)
    assert len(causes) == 1 and len(got) == 29 and Fraction(20, 25) not in dict(got)
    assert all(np.array_equal(frame, whole[time]) for time, frame in got[:20])
    with pytest.raises(ValueError, match="a.mp4 has a frame that cannot be decoded at 0.80 s: "):
        list(kd.segment_video(model, path))
    failed = []
    assert len(list(kd.segment_video(model, path, failed=failed))) == 29 and failed[0][0] == 0.8


def test_a_file_that_was_cut_short_says_so(tmp_path):
    path = tmp_path / "a.mp4"
    videos.write(str(path), 100, times=range(0, 200, 2), options={"bf": "0"}, of_file={"movflags": "faststart"})
    begun = path.with_name("begun.mp4")
    with av.open(str(path)) as container:
        end = [packet.pos for packet in container.demux(video=0) if packet.size][60]
    begun.write_bytes(path.read_bytes()[:end])
    got, causes = read(begun)
    assert len(got) == 60 and "s before the time that its header says" in causes[-1]


def written_as(folder, kind):
    path = folder / f"{kind}.mp4"
    if kind == "HDR":
        videos.write(str(path), 3, pixels="yuv420p10le", color_trc=16, colorspace=9, color_primaries=9)
    elif kind == "interlaced":
        videos.write(str(path), 3, options={"x264-params": "interlaced=1"})
    elif kind == "holds no video":
        with av.open(str(path), "w") as output:
            videos.write_tone(output, output.add_stream("aac", rate=8000, layout="mono"), 0.5)
    else:
        path.write_bytes({"damaged or no video": b"<html>", "is empty": b""}.get(kind, b""))
    return path


@pytest.mark.parametrize("kind", ["HDR", "interlaced", "holds no video", "damaged or no video"])
def test_what_cannot_be_read_rightly_is_refused_listed_and_the_next_video_is_done(kind, model, loaded, tmp_path):
    path, to = written_as(tmp_path, kind), tmp_path / "out"
    with pytest.raises(ValueError, match=kind) as refused:
        list(kd.segment_video(model, path))
    assert str(refused.value).startswith(str(path))
    videos.write(str(tmp_path / "right.mp4"), 2)
    with pytest.raises(ValueError, match="1 of 2 videos could not be read"):
        run(path, tmp_path / "right.mp4", "--to", to)
    assert sorted(file.name for file in to.iterdir()) == ["failed.txt", "predictions.jsonl", "right_overlay.mp4"]
    assert (to / "failed.txt").read_text().startswith(f"{path}\t") and kind in (to / "failed.txt").read_text()
    with pytest.raises(ValueError, match=kind):
        run(path, "--to", to, "--stop-at-first")


def test_frames_that_change_size_end_the_overlay(loaded, tmp_path):
    for name, size in (("a", (48, 64)), ("b", (64, 48))):
        videos.write(str(tmp_path / f"{name}.h264"), 2, size, format="h264")
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join((tmp_path / f"{name}.h264").read_bytes() for name in "ab"))
    with pytest.raises(ValueError, match="1 of 1 videos"):
        run(both, "--to", tmp_path / "out")
    assert "changes its size at 0.08 s, from 64x48 to 48x64" in (tmp_path / "out" / "failed.txt").read_text()
    run(both, "--to", tmp_path / "out", "--palette")
    shapes = [labels_in(path).shape for path in sorted((tmp_path / "out" / "both_labels").glob("*.png"))]
    assert shapes == [(48, 64)] * 2 + [(64, 48)] * 2


def test_times_that_go_back_are_refused_and_passed_over_if_they_are_a_cameras(model, tmp_path):
    path = (
        tmp_path / "a.avi"
    )  # AVI has no times: FFmpeg numbers frames as they are stored, which B-frames are not shown in
    videos.write(str(path), 12, options={"bf": "2"})
    with pytest.raises(ValueError, match="a.avi has a frame at 0.08 s after the one at 0.16 s"):
        list(kd.segment_video(model, path))
    with video.open_video(path) as reader:
        reader.is_live = True
        frames = list(reader.frames())
    assert any("not after 0.16 s" in str(one.error) for one in frames)
    times = [one.source.time for one in frames if one.error is None]
    assert times == sorted(set(times))


def test_a_disk_that_is_full_ends_the_run_and_leaves_nothing(loaded, tmp_path, monkeypatch):
    videos.write(str(tmp_path / "a.mp4"), 4)

    def full(self, moment, frame):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video.OverlayVideo, "_require_fits", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "a.mp4", "--to", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["predictions.jsonl"]


def test_a_folder_of_label_maps_is_replaced_only_if_it_holds_nothing_else(loaded, tmp_path):
    videos.write(str(tmp_path / "a.mp4"), 3)
    run(tmp_path / "a.mp4", "--to", tmp_path / "out", "--palette")
    videos.write(str(tmp_path / "a.mp4"), 2)
    run(tmp_path / "a.mp4", "--to", tmp_path / "out", "--palette")
    folder = tmp_path / "out" / "a_labels"
    assert sorted(path.name for path in folder.iterdir()) == ["000000.png", "000001.png", "frames.csv"]
    videos.write(str(tmp_path / "a.mp4"), 3)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files, such as notes.txt"):
        run(tmp_path / "a.mp4", "--to", tmp_path / "out", "--palette")
    assert len(list(folder.iterdir())) == 4


def test_pictures_and_videos_are_told_apart(model, loaded, tmp_path, capsys, monkeypatch):
    assert is_video("a.MOV") and is_video("https://example.org/a.mp4?v=1") and not is_video("a.gif")
    (tmp_path / "in" / "deep").mkdir(parents=True)
    videos.write(str(tmp_path / "in" / "deep" / "a.mp4"), 2)
    with pytest.raises(ValueError, match=r"holds no JPG.* 1 videos in them are not taken.*deep/\*.mp4"):
        run(tmp_path / "in", "--to", tmp_path / "out")
    (tmp_path / "in" / "a.png").touch()
    with pytest.raises(ValueError, match="1 of 1 pictures could not be read"):
        run(tmp_path / "in", "--to", tmp_path / "out")
    assert "1 videos in them are not taken, such as" in capsys.readouterr().out
    with pytest.raises(ValueError, match="two commands.*a.png and .*a.mp4"):
        run(tmp_path / "in" / "a.png", tmp_path / "in" / "deep" / "a.mp4", "--to", tmp_path / "out")
    with pytest.raises(ValueError, match="segment_video"):
        kd.segment_folder(model, tmp_path / "in" / "deep" / "a.mp4", tmp_path / "out")
    with pytest.raises(ValueError, match="--scores is for pictures"):
        run(tmp_path / "in" / "deep" / "a.mp4", "--to", tmp_path / "out", "--scores")
    with pytest.raises(FileNotFoundError, match="There is no picture"):
        run(tmp_path / "none.mp4", "--to", tmp_path / "out")
    importing = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *args: importing("none" if name == "av" else name, *args))
    with pytest.raises(ImportError, match=r"pip install av.*keras_deeplab\[video\]"):
        run(tmp_path / "in" / "deep" / "a.mp4", "--to", tmp_path / "out")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "INPUT"),
        (["a.mp4", "--camera", "0"], "in place of INPUT"),
        (["a.mp4", "--seconds", "1"], "for --camera"),
        (["--camera", "0", "--seconds", "0"], "positive"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        run(*arguments, "--to", "out")
    assert said in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras have other names elsewhere")
def test_a_camera_that_is_not_there_is_refused(model, loaded, tmp_path):
    with pytest.raises(OSError, match="There is no camera '99': /dev/video99 cannot be opened"):
        run("--camera", 99, "--to", tmp_path / "out")
    with pytest.raises(OSError, match="There is no camera '99'"):
        next(kd.segment_video(model, 99))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_of_a_camera_the_newest_frames_are_taken_and_the_others_counted(loaded, tmp_path, capsys):
    videos.write(str(tmp_path / "a.mkv"), 40, times=range(1000, 1040))
    data, pipe = (tmp_path / "a.mkv").read_bytes(), tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True).start()
    run("--camera", pipe, "--to", tmp_path / "out", "--palette", "--overlay")
    printed = capsys.readouterr().out
    [overlay] = (tmp_path / "out").glob("camera_*_overlay.mp4")
    times = [time for time, _ in videos.decoded(str(overlay))]
    assert times[0] == 0 and times == sorted(set(times)) and set(times) <= {Fraction(i, 25) for i in range(40)}
    assert len(times) == 40 or f"{40 - len(times)} frames came while the network ran" in printed
    [folder] = (tmp_path / "out").glob("camera_*_labels")
    assert len(list(folder.glob("*.png"))) == len(times)


class Live:
    """A camera of 50 frames that come faster than they are taken."""

    left_out = 0

    def frames(self):
        for number in range(50):
            time.sleep(0.002)
            yield number


def test_the_last_frame_of_a_camera_is_taken_and_its_error_comes_through():
    camera, taken = Live(), []
    for number in video.newest(camera):
        time.sleep(0.005)
        taken.append(number)
    assert taken == sorted(set(taken)) and taken[-1] == 49 and len(taken) < 50
    assert camera.left_out == 50 - len(taken)
    camera.frames = lambda: (1 / (2 - number) for number in range(3))
    with pytest.raises(ZeroDivisionError):
        list(video.newest(camera))


def test_ctrl_c_ends_a_recording_and_keeps_it(model, tmp_path, monkeypatch):
    videos.write(str(tmp_path / "a.mkv"), 30)
    kept = []

    def stop(bar, failed=False):
        kept.append(0)
        if len(kept) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(video.Progress, "add", stop)

    def record(is_live):
        source = video.Source(str(tmp_path / "a.mkv"), f"live {is_live}")

        @contextlib.contextmanager
        def opened(place):
            with video.open_video(place) as reader:
                reader.is_live = is_live
                yield reader

        monkeypatch.setattr(video, "newest", lambda reader: reader.frames())
        kept.clear()
        options = {"multi_scale_flip": False, "resize": None}
        run = video.written_videos(
            model, [source], tmp_path / "out", ["overlay"], False, False, None, options, False, opened
        )
        with run as (_, made):
            return next(made)

    one = record(True)
    assert 5 <= one.frames == len(videos.decoded(str(tmp_path / "out" / "live True_overlay.mp4"))) < 30
    with pytest.raises(KeyboardInterrupt):
        record(False)
    assert not (tmp_path / "out" / "live False_overlay.mp4").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "size, written",
    [
        ((48, 64), {}),
        ((97, 65), {"pixels": "yuv444p"}),
        ((96, 128), {"times": VARIABLE, "tick": MILLISECOND}),
        ((65, 96), {"pixels": "yuv444p", "turn": 270, "sound": "aac"}),
        ((64, 96), {"codec": "mpeg4", "tick": Fraction(1001, 30000), "times": range(7, 207)}),
    ],
    ids=["plain", "odd", "variable rate", "turned", "1001/30000 s"],
)
def test_two_hundred_frames(model, loaded, tmp_path, size, written):
    path, to = tmp_path / "clip.mp4", tmp_path / "out"
    videos.write(str(path), 200, size, **written)
    quarters = {None: 0, 270: 3}[written.get("turn")]
    expected = [(time, np.rot90(frame, quarters)) for time, frame in videos.decoded(str(path))]
    assert len(expected) == 200
    run(path, "--to", to, "--only-labels", "--overlay")
    assert_written(model, to, "clip", expected)
    for one, (seconds, pixels) in zip(kd.segment_video(model, path), expected, strict=True):
        assert one.seconds == float(seconds) and np.array_equal(one.picture, pixels)
        assert np.array_equal(one.labels, kd.segment(model, pixels))


@pytest.mark.slow
def test_kills_leave_nothing_half_written(model, tmp_path):
    path, to = tmp_path / "clip.mp4", tmp_path / "out"
    videos.write(str(path), 200)
    command = [sys.executable, str(SUPPORT / "video_elsewhere.py"), str(path), str(to)]
    for frames in (1, 40, 190, 199):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(frames):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        visible = {file.name for file in to.iterdir() if not file.name.startswith(".")}
        assert visible == {"predictions.jsonl"}, frames
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert {file.name for file in to.iterdir()} == {"predictions.jsonl", "clip_labels", "clip_overlay.mp4"}
    assert_written(model, to, "clip", videos.decoded(str(path)))
