"""A model and a video or a camera in, label maps of its frames out, or a video with their colours and the same times.

PyAV, which brings FFmpeg's libraries, reads and writes. Frames are decoded ahead, and are drawn and encoded behind, while the
network runs. A frame becomes RGB by the matrix and the range that its file names; where it names none, FFmpeg takes BT.601 and
the range 16..235. It is turned as the file says (telephones do not turn the pixels themselves).
"""

import collections
import contextlib
import io
import itertools
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, Any, NamedTuple

import keras
import numpy as np

from keras_deeplab.inference.folders import WORKERS, Segmented, cause_of, labelled
from keras_deeplab.inference.predictions import prefetch_map
from keras_deeplab.inference.results import KINDS, Outcome, ResultsFolder, identity, stamp_of
from keras_deeplab.inference.segment import require_options
from keras_deeplab.inference.sources import Source
from keras_deeplab.pictures.addresses import TIMEOUT, is_address, local_path, open_address, scheme_of
from keras_deeplab.pictures.draw import blended
from keras_deeplab.progress import Progress

TIMES = "frames.csv"  # in the folder of label maps: the time of each
FRAME = "{:06}.png"
HDR = {16: "PQ", 18: "HLG"}  # number of a transfer function (ITU-T H.273): its name
BT709, LIMITED = 1, 1  # numbers of FFmpeg for the matrix and the range of the videos that are written
SOUNDS = {"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}  # what players take in an MP4
CUT = 1  # seconds that a video may end before the time that its header says
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}

Video = str | os.PathLike | bytes | IO[bytes] | int


class VideoFrame(NamedTuple):
    """A frame of `segment_video`."""

    seconds: float  # its time in the video
    picture: np.ndarray  # (H, W, 3) uint8, RGB, upright
    labels: np.ndarray  # (H, W) uint8


class Moment(NamedTuple):
    """Which frame it is."""

    number: int  # from 0; frames that cannot be decoded do not count
    time: Fraction | None  # seconds


class Unreadable(ValueError):
    """Why a video cannot be read, as text that goes on from its name."""


class Damaged(ValueError):
    """Why a frame is passed over."""


def segment_video(
    model: keras.Model,
    video: Video,
    *,
    multi_scale_flip: bool | str = False,
    resize: tuple[int, int] | None = None,
    failed: list[tuple[float | None, str]] | None = None,
    devices: list[str] | None = None,
) -> Iterator[VideoFrame]:
    """Yields the frames of a video with their label maps. Each label map equals `segment`'s of the frame in every pixel.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        video: a path, an address (http, https, or what fsspec reads), the bytes of a file, an open file, or the number of a
            camera. All frames of a file are segmented. Of a camera, frames that come while the network runs are left out.
        multi_scale_flip, resize: as for `segment`.
        failed: a list that gets (seconds, cause) of each frame that cannot be decoded. Without it such a frame is an error.
        devices: as for `evaluate`.

    Yields:
        `VideoFrame`: (seconds, picture (H, W, 3) uint8, labels (H, W) uint8), in the order of their times.

    Raises:
        ValueError: for a file that is no video, for what would get wrong colours or edges (HDR, interlaced frames), for a
            frame that cannot be decoded, and for options as `segment` does.
        FileNotFoundError: if there is no such file or camera.
        ImportError: if PyAV is not installed.
        OSError: if an address or a camera cannot be read.
    """
    options = {"multi_scale_flip": multi_scale_flip, "resize": resize}
    require_options(**options)
    name = video if isinstance(video, (str, os.PathLike)) else "The video"
    opened = open_camera(video) if isinstance(video, int) else open_video(video)
    with _named(name), opened as reader, contextlib.closing(_labelled(model, reader, devices, options)) as frames:
        for one in frames:
            if one.error is None:
                yield VideoFrame(float(one.source.time), one.data, one.labels)
            elif failed is None:
                raise Unreadable(f"has a frame that cannot be decoded{_at(one)}: {one.error}")
            else:
                failed.append((one.source.time and float(one.source.time), str(one.error)))


@contextlib.contextmanager
def _named(name):
    """Errors of reading get the name of the video."""
    try:
        yield
    except Unreadable as error:
        raise ValueError(f"{name} {error}.") from error


def _at(one):
    return "" if one.source.time is None else f" at {float(one.source.time):.2f} s"


def _labelled(model, video, devices, options):
    """`Segmented` of each frame."""
    read = newest(video) if video.is_live else _ahead(video.frames())
    with contextlib.closing(read), contextlib.closing(labelled(model, read, devices, options)) as frames:
        for one in frames:
            if one.error is not None and not isinstance(one.error, Damaged):
                raise Unreadable(f"cannot be segmented{_at(one)}: {cause_of(one.error)}") from one.error
            yield one


def _ahead(items):
    """The items, computed on a thread, a few before the caller takes them."""
    end, iterator = object(), iter(items)
    with contextlib.closing(prefetch_map(lambda _: next(iterator, end), itertools.count(), threads=1)) as read:
        yield from iter(read.__next__, end)


def newest(video):
    """The frames of a camera that the caller has time for, always the latest. The others are counted in `video.left_out`."""
    latest, arrived, stopped = collections.deque(maxlen=1), threading.Event(), threading.Event()
    ended = []  # None or an error, when the camera has ended

    def read():
        try:
            for frame in video.frames():
                latest.append(frame)
                video.left_out += 1
                arrived.set()
                if stopped.is_set():
                    break
            ended.append(None)
        except Exception as error:
            ended.append(error)
        arrived.set()

    thread = threading.Thread(target=read)
    thread.start()
    taken = 0
    try:
        while latest or not ended:
            arrived.wait()
            arrived.clear()
            if latest:
                taken += 1
                yield latest.popleft()
    finally:
        stopped.set()
        thread.join()
        video.left_out -= taken
    if ended[0] is not None:
        raise ended[0]


def require_av():
    """PyAV, or `ImportError`."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Videos are read by PyAV, which is not installed. Install it with `pip install av`, or as the extra "
            '"keras_deeplab[video]".'
        ) from error
    return av


@contextlib.contextmanager
def open_video(source):
    """Opens a video file.

    Args:
        source: a path, an address, the bytes of a file or an open file.

    Raises:
        FileNotFoundError: if there is no such file.
        Unreadable: for a file that is no video, or is refused.
    """
    with _container(source) as container:
        yield Reader(container, source)


@contextlib.contextmanager
def _container(source):
    av = require_av()
    with contextlib.ExitStack() as closing:
        try:
            options = {"timeout": TIMEOUT} if is_address(source) else {}
            container = closing.enter_context(av.open(_openable(source, closing), **options))
        except (FileNotFoundError, av.error.HTTPNotFoundError) as error:
            raise FileNotFoundError(f"There is no video {str(source)!r}.") from error
        except av.error.InvalidDataError as error:
            raise Unreadable("is damaged or no video") from error
        except OSError as error:
            raise Unreadable(f"cannot be read: {_words(error)}") from error
        yield container


def _openable(source, closing):
    """What PyAV opens."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if hasattr(source, "read"):
        return source
    if is_address(source) and scheme_of(source) in ("http", "https"):
        return source
    if is_address(source) and scheme_of(source) != "file":
        return closing.enter_context(open_address(source))
    path = local_path(source) if is_address(source) else os.fspath(source)
    return f"file:{os.fsdecode(path)}"  # so that no name is taken for an address of FFmpeg's


def _words(error):
    """FFmpeg's words for an error, in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


@contextlib.contextmanager
def open_camera(camera, seconds=None):
    """Opens a camera.

    Args:
        camera: the number of a camera of this machine, from 0; or its address, device or pipe.
        seconds: how long to read it; None: until it ends.

    Raises:
        OSError: if there is no such camera.
        Unreadable: for something that gives no video.
    """
    av, text = require_av(), str(camera)
    file, kind = _device(text)
    try:
        container = av.open(file, format=kind, timeout=TIMEOUT)
    except av.error.InvalidDataError as error:
        raise Unreadable(f"gives no video: {_words(error)}") from error
    except (av.error.FFmpegError, OSError) as error:
        raise OSError(f"There is no camera {text!r}: {file} cannot be opened ({_words(error)}).") from error
    with container:
        yield Reader(container, None, is_live=True, seconds=seconds)


def _device(text):
    """(what FFmpeg opens, the format that it is told or None) for a camera's number, device, pipe or address."""
    if not text.isdecimal() and (
        is_address(text) or (os.path.exists(text) and not stat.S_ISCHR(os.stat(text).st_mode))
    ):
        return text, None
    kind, pattern = CAMERAS.get(sys.platform, CAMERAS["linux"])
    return (text if kind == "v4l2" and not text.isdecimal() else pattern.format(text)), kind


class Reader:
    """A video that is open. `open_video` and `open_camera` make one.

    Attributes:
        time_base: seconds, a Fraction. The times of the frames are multiples of it.
        total: about how many frames it has, or None if it does not say.
        aspect: width of a pixel divided by its height, a Fraction or None.
        rate: frames a second, a Fraction; of a variable rate the mean.
        source: what it was opened from; None for a camera.
        left_out: frames of a camera that were left out, so far.
    """

    def __init__(self, container, source, is_live=False, seconds=None):
        cover = require_av().stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            raise Unreadable("holds no video")
        self.container, self.stream, self.source = container, streams[0], source
        self.is_live, self.seconds, self.left_out = is_live, seconds, 0
        self.stream.thread_type = "SLICE"  # with a thread for each frame, errors come with a later packet
        if transfer := HDR.get(self.stream.codec_context.color_trc):
            raise Unreadable(
                f"is HDR ({transfer}), whose colours the network does not know. Convert it to SDR first, for example with "
                "ffmpeg's filters zscale and tonemap"
            )
        self.time_base = self.stream.time_base
        self.aspect = self.stream.sample_aspect_ratio
        self.rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        self.total = None if is_live else self.stream.frames or self._estimated()

    def _estimated(self):
        """About how many frames there are, by duration and rate."""
        if self.stream.duration:
            return round(self.stream.duration * self.time_base * self.rate)
        return round(Fraction(self.container.duration, 10**6) * self.rate) if self.container.duration else None

    def frames(self):
        """Decodes the video.

        Yields:
            `Segmented` of each frame, with its picture, or with the error `Damaged`.

        Raises:
            Unreadable: for frames that cannot be taken as they are.
        """
        av = require_av()
        packets, number, first, last, end = self.container.demux(self.stream), 0, None, None, Fraction(0)
        while True:
            packet = None
            try:
                if (packet := next(packets, None)) is None:
                    break
                decoded = packet.decode()
            except (EOFError, BlockingIOError):
                break
            except av.error.InvalidDataError as error:
                yield self._damaged(number, packet and packet.pts, _words(error))
                continue
            except av.error.FFmpegError as error:
                raise Unreadable(f"cannot be read further: {_words(error)}") from error
            for frame in decoded:
                now = self._time_of(frame.pts, last)
                if last is not None and now <= last:
                    yield self._out_of_order(number, frame.pts, last)
                    continue
                first, last = now if first is None else first, now
                end = now + (frame.duration or 0) * self.time_base
                if self.seconds is not None and now - first >= self.seconds:
                    return
                if frame.is_corrupt:
                    yield self._damaged(number, frame.pts, "a part of it is missing")
                    continue
                yield Segmented(Moment(number, now), None, self._pixels(frame))
                number += 1
        if missing := self._missing(end):
            yield self._damaged(number, None, f"it ends {missing:.1f} s before the time that its header says")

    def _time_of(self, pts, last):
        """The time of a frame in seconds. Streams without times have frames at their rate."""
        if pts is not None:
            return pts * self.time_base
        return Fraction(0) if last is None else last + 1 / self.rate

    def _out_of_order(self, number, pts, last):
        """A frame whose time is not after `last`: passed over if it is a camera's. A file has wrong times for others then."""
        now = float(pts * self.time_base)
        if self.is_live:
            return self._damaged(number, pts, f"its time is not after {float(last):.2f} s")
        raise Unreadable(
            f"has a frame at {now:.2f} s after the one at {float(last):.2f} s, so that its times are wrong. Give its frames "
            "new ones, for example with ffmpeg -i IN -fps_mode cfr OUT"
        )

    def _pixels(self, frame):
        """The upright picture of a frame, (H, W, 3) uint8 RGB."""
        if frame.interlaced_frame:
            raise Unreadable(
                "is interlaced: each frame has lines of two moments. Make whole frames of them first, for example with "
                "ffmpeg's filter bwdif"
            )
        pixels = frame.to_ndarray(format="rgb24")
        display = frame.side_data.get(require_av().sidedata.sidedata.Type.DISPLAYMATRIX)
        if display is None:
            return pixels
        display = np.frombuffer(bytes(display), np.int32)
        self.aspect = 1 / self.stream.sample_aspect_ratio if display[1] and self.aspect else self.aspect
        return turned(pixels, display)

    def _damaged(self, number, pts, cause):
        at = None if pts is None else pts * self.time_base
        return Segmented(Moment(number, at), None, None, Damaged(cause))

    def _missing(self, end):
        """Seconds that are missing at the end; 0 if there are none."""
        if self.is_live or not self.stream.duration:
            return 0
        missing = ((self.stream.start_time or 0) + self.stream.duration) * self.time_base - end
        return float(missing) if missing > CUT else 0


def turned(pixels, display):
    """A picture turned and mirrored by the display matrix of its file.

    Args:
        pixels: (H, W, ...).
        display: 9 numbers. A pixel (x, y) is shown at (a x + c y, b x + d y), where the first five are a, b, 0, c, d, times
            65536.

    Raises:
        Unreadable: for other angles than multiples of 90 degrees.
    """
    a, b, _, c, d = (value / 65536 for value in display[:5].tolist())
    if abs(a) == abs(d) == 1 and b == c == 0:
        across, down = a, d
    elif abs(b) == abs(c) == 1 and a == d == 0:
        pixels, across, down = pixels.swapaxes(0, 1), c, b
    else:
        raise Unreadable(f"is to be turned by a matrix that is no multiple of 90 degrees, {(a, b, c, d)}")
    return np.ascontiguousarray(pixels[:: int(down), :: int(across)])


class WrittenVideo(NamedTuple):
    """What became of a video of `written_videos`. `error` is why it could not be read, or None."""

    source: Source
    error: Exception | None = None
    size: tuple[int, int] = (0, 0)  # width, height of its first frame
    frames: int = 0
    took: float = 0.0  # seconds
    pixels: Any = None  # (256,) pixels of each label
    failed: tuple = ()  # (seconds or None, cause) of each frame that was passed over
    notes: tuple = ()  # what else there is to say, as text


@contextlib.contextmanager
def written_videos(model, sources, to, kinds, overwrite, stop_at_first, devices, options, progress, opened=open_video):
    """(the `ResultsFolder`, an iterator of `WrittenVideo`, one for each video that was not done).

    A result appears under its name when it is complete. A video whose writing was stopped is made again.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        sources: a list of `Source`.
        to: the folder for the results.
        kinds: `"overlay"`: NAME_overlay.mp4, the video with the classes in colour. `"grey"` or `"palette"`: the folder
            NAME_labels, with a PNG of each frame's label map, and their times in frames.csv.
        overwrite, stop_at_first, devices: as for `segment_folder`.
        options: of `segment`.
        progress: whether to show a progress bar for each video.
        opened: a function from the place of a source to a context manager that gives a `Reader`.

    Raises:
        ValueError: as `segment_folder`, and if a folder of label maps holds other files too.
    """
    require_av()
    require_options(**options)
    with ResultsFolder.opened(to, sources, kinds, identity(model, options), overwrite, VIDEO_KINDS) as results:
        for source in results.todo:
            _require_own(results, source)
        yield (
            results,
            (
                _written(model, results, source, stop_at_first, devices, options, progress, opened)
                for source in results.todo
            ),
        )


def _require_own(results, source):
    """Raises `ValueError` if a folder that the label maps would replace holds other files."""
    for kind in set(results.kinds) - {"overlay"}:
        folder = results.path_of(source, kind)
        others = [name for name in (os.listdir(folder) if folder.is_dir() else ()) if not _is_frame(name)]
        if others:
            raise ValueError(
                f"The label maps of {source.place} replace the folder {folder}, which holds other files, such as "
                f"{others[0]}. Name another folder for the results."
            )


def _is_frame(name):
    stem, ending = os.path.splitext(name)
    return name == TIMES or (stem.isdecimal() and ending == ".png")


def _written(model, results, source, stop_at_first, devices, options, progress, opened):
    """`WrittenVideo` of a source."""
    stamp = stamp_of(source.place)
    try:
        with (
            opened(source.place) as video,
            Progress(video.total, 0, progress, f"{os.path.basename(source.place)}: ", "frames") as bar,
        ):
            return _write(model, results, source, stamp, video, devices, options, bar)
    except (Unreadable, FileNotFoundError) as error:
        if stop_at_first:
            raise ValueError(f"{source.place}: {cause_of(error)}") from error
        results.note_failure(source.place, cause_of(error))
        return WrittenVideo(source, error)


def _write(model, results, source, stamp, video, devices, options, bar):
    """Writes the results of a video that is open."""
    folder, begun = results.place_for_work(), time.monotonic()
    made = {kind: folder / VIDEO_KINDS[kind][0] for kind in results.kinds}
    sizes, pixels, failed = [], np.zeros(256, np.int64), []

    with contextlib.ExitStack() as closing:
        writers = [
            closing.enter_context(results.writers[kind](path, video, model, kind)) for kind, path in made.items()
        ]

        def draw(one):
            return one, None if one.error else [writer.draw(one) for writer in writers]

        def add(drawn):
            one, parts = drawn
            if one.error is not None:
                failed.append((one.source.time, str(one.error)))
                return one
            for writer, part in zip(writers, parts, strict=True):
                writer.add(one.source, part)
            sizes.append(one.labels.shape[::-1])
            np.add(pixels, np.bincount(one.labels.ravel(), minlength=256), out=pixels)
            return one

        frames = closing.enter_context(contextlib.closing(_labelled(model, video, devices, options)))
        drawn = closing.enter_context(contextlib.closing(prefetch_map(draw, frames, threads=WORKERS)))
        added = closing.enter_context(contextlib.closing(prefetch_map(add, drawn, threads=1)))
        with _ended_by_hand(video):
            for one in added:
                bar.add(failed=one.error is not None)
        if not sizes:
            raise Unreadable("holds no frame that can be decoded")
    results.finish(source, stamp, made)
    notes = tuple(note for writer in writers for note in writer.notes)
    if video.left_out:
        notes += (f"{video.left_out} frames came while the network ran, and are left out",)
    took = time.monotonic() - begun
    return WrittenVideo(source, None, sizes[0], len(sizes), took, pixels, tuple(failed), notes)


@contextlib.contextmanager
def _ended_by_hand(video):
    """Ctrl-C ends the recording of a camera; what was recorded is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if not video.is_live:
            raise


class LabelFrames:
    """A folder with a label map of each frame, and frames.csv with their times."""

    notes = ()

    def __init__(self, folder, video, model, kind):
        self.folder, self.model, self.write = folder, model, KINDS[kind][1]
        folder.mkdir()

    def __enter__(self):
        self.times = open(self.folder / TIMES, "w")
        self.times.write("frame,seconds\n")
        return self

    def __exit__(self, *_):
        self.times.close()

    def draw(self, one):
        path = self.folder / FRAME.format(one.source.number)
        self.write(Outcome(self.model, one.data, one.labels, None), path)
        return path.name

    def add(self, moment, name):
        self.times.write(f"{name},{float(moment.time)!r}\n")


class OverlayVideo:
    """An MP4 (H.264) with the classes in colour, the frames' own times, and the sound of the video.

    H.264 in the form that all players take has even sides: an odd side gets one more row or column, which repeats the last.
    """

    def __init__(self, path, video, model, kind):
        self.path, self.video, self.palette = path, video, model.palette
        self.notes, self.output, self.start = (), None, Fraction(0)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.output is None:
            return
        with contextlib.closing(self.output), self.sound:
            if kind is None:
                self.output.mux(self.stream.encode(None))
                self.sound.copy_until(None)

    def draw(self, one):
        av = require_av()
        pixels = blended(one.data, one.labels, self.palette)
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        return frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)

    def add(self, moment, frame):
        if self.output is None:
            self._open(moment, frame)
        self._require_fits(moment, frame)
        frame.time_base = self.stream.codec_context.time_base
        frame.pts = round((moment.time - self.start) / frame.time_base)
        self.output.mux(self.stream.encode(frame))
        self.sound.copy_until(moment.time)

    def _open(self, moment, frame):
        """Opens the file, with the size of the first frame."""
        av, video = require_av(), self.video
        if video.is_live or moment.time < 0:  # an MP4 begins at 0 or later
            self.start = moment.time
        tick = Fraction(1, video.time_base.denominator)
        # A first frame later than 0 keeps its time exactly if the whole file counts in the same ticks.
        self.output = av.open(os.fspath(self.path), "w", options={"movie_timescale": str(tick.denominator)})
        self.stream = self.output.add_stream("libx264", rate=video.rate, options={"preset": "veryfast", "crf": "18"})
        self.stream.time_base = tick
        codec = self.stream.codec_context
        codec.time_base, codec.width, codec.height, codec.pix_fmt = tick, frame.width, frame.height, "yuv420p"
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED
        if video.aspect:
            codec.sample_aspect_ratio = video.aspect
        self.sound = Sound(video, self.output, self.start)
        self.notes += self.sound.notes

    def _require_fits(self, moment, frame):
        size, first = (frame.width, frame.height), (self.stream.width, self.stream.height)
        if size != first:
            raise Unreadable(
                f"changes its size at {float(moment.time):.2f} s, from {first[0]}x{first[1]} to {size[0]}x{size[1]}, which an "
                "overlay video cannot. Write the label maps alone (--only-labels), or cut the video there"
            )


class Sound:
    """The first sound of a video file, copied into another as it is."""

    def __init__(self, video, output, start):
        self.closing, self.output, self.start = contextlib.ExitStack(), output, start
        self.notes, self.packet = (), None
        if video.source is None or not video.container.streams.audio:
            return
        name = video.container.streams.audio[0].codec_context.codec.canonical_name
        if name not in SOUNDS:
            self.notes = (f"its sound is left out: players do not take {name} in an MP4",)
            return
        source = self.closing.enter_context(_container(video.source)).streams.audio[0]
        self.stream = output.add_stream_from_template(source)
        self.packets = (packet for packet in source.container.demux(source) if packet.dts is not None)
        self._advance()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing.close()

    def copy_until(self, seconds):
        """Copies what is heard up to a time; None: up to the end."""
        while self.packet is not None and (seconds is None or self.packet.dts * self.packet.time_base <= seconds):
            shift = round(self.start / self.packet.time_base)
            self.packet.dts -= shift
            self.packet.pts = None if self.packet.pts is None else self.packet.pts - shift
            self.packet.stream = self.stream
            self.output.mux(self.packet)
            self._advance()

    def _advance(self):
        try:
            self.packet = next(self.packets, None)
        except require_av().error.FFmpegError:  # the picture part of the file says that it is damaged
            self.packet = None


VIDEO_KINDS = {  # kind of result: (what its name adds to the video's, what writes it)
    "grey": ("_labels", LabelFrames),
    "palette": ("_labels", LabelFrames),
    "overlay": ("_overlay.mp4", OverlayVideo),
}
