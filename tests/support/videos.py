"""Drawn videos, written by PyAV: a moving picture in any size, codec, pixel format and times."""

from fractions import Fraction

import numpy as np
from support.drawn import picture


def frames_of(count, size, seed=0):
    """Pictures (H, W, 3) uint8 of a scene that moves to the right, a new one every 50 frames."""
    height, width = size
    for number in range(count):
        if number % 50 == 0:
            scene = picture(height, 2 * width, seed + number)
        yield scene[:, number % 50 * width // 50 :][:, :width]


def write(
    path,
    count=24,
    size=(48, 64),
    *,
    codec="libx264",
    pixels="yuv420p",
    times=None,
    tick=Fraction(1, 25),
    turn=None,
    display=None,
    sound=None,
    options=None,
    format=None,
    of_file=None,
    **attributes,
):
    """Writes a video.

    Args:
        path: of the file, or an open file.
        count, size, codec, pixels: number of frames, (height, width), FFmpeg's names of the codec and the pixel format.
        times: of the frames, in ticks; tick: in seconds.
        turn: degrees of its display matrix; display: the 9 numbers of the matrix itself.
        sound: the codec of a tone of the video's length.
        options: of the codec; attributes: of its context; format: FFmpeg's name of the file's format, of_file:
            its options.
    """
    import av

    times = range(count) if times is None else times
    with av.open(path, "w", format=format, options=of_file or {}) as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.time_base = stream.codec_context.time_base = tick
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        if turn is not None:
            stream.set_display_rotation(turn)
        if display is not None:
            stream.set_display_matrix(display)
        heard = output.add_stream(sound, rate=8000, layout="mono") if sound else None
        for time, drawn in zip(times, frames_of(count, size), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn), format="rgb24")
            frame.pts, frame.time_base = time, tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if heard:
            write_tone(output, heard, float(times[-1] * tick))


def write_tone(output, stream, seconds):
    """Adds a tone of some seconds."""
    import av

    for start in range(0, int(8000 * seconds), 800):
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(start, start + 800) / 8000)
        frame = av.AudioFrame.from_ndarray(wave[None].astype("float32"), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def decoded(path):
    """[(time in seconds, a Fraction, RGB array)] of a video's frames, by PyAV alone; frames are not turned."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        return [(frame.pts * stream.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]


def damage(path, numbers):
    """Overwrites the data of some packets."""
    import av

    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data, noise = bytearray(path.read_bytes()), np.random.default_rng(0)
    for number in numbers:
        position, size = packets[number]
        data[position + 8 : position + size] = noise.bytes(size - 8)
    path.write_bytes(data)
