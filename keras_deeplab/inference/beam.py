"""What the workers of Apache Beam run: pictures in, label maps out, by a SavedModel. It imports nothing else of ours.

Beam sends the classes of this file to its workers by value. So a worker needs the packages apache-beam and tensorflow, and
neither this package nor Keras. The driver is `inference/distributed.py`.

RunInference is not used: its TensorFlow handler stacks pictures, which must then have one size, and loads a SavedModel by
`tf.keras.models.load_model`, which Keras 3 does not do.
"""

import contextlib
import glob
import json
import os
import struct
import sys
import tempfile
import threading
import time
import uuid
import zlib

import apache_beam as beam
from apache_beam.internal.cloudpickle import cloudpickle
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

NOTED_AFTER = 10  # seconds: what a killed worker did in this time is done again
NOTED_AT_ONCE = 100  # pictures whose results are noted together, at most
REFUSED = "assertion failed: ["  # begins TensorFlow's message about a check of the SavedModel


class SegmentPictures(beam.PTransform):
    """For a pipeline of your own: the bytes of pictures in, PNG files of their label maps out.

    Takes a PCollection of (key, bytes of a JPEG or PNG file). Gives a dict of two: "segmented" has (key, bytes of an 8-bit
    grey PNG whose values are class ids), "failed" has (key, why the picture could not be read). The label maps equal
    `segment`'s in every pixel.

    Args:
        saved_model: the folder that `export_saved_model` wrote: a path, or an address that Beam reads, such as gs://. Every
            worker must be able to read it. It is loaded once a process.
    """

    def __init__(self, saved_model):
        super().__init__()
        self.saved_model = os.fspath(saved_model)

    def expand(self, pcollection):
        outputs = pcollection | beam.ParDo(SegmentBytes(self.saved_model)).with_outputs("failed", main="segmented")
        return {"segmented": outputs.segmented, "failed": outputs.failed}


class LoadsModel(beam.DoFn):
    """Loads a SavedModel once a process."""

    def __init__(self, saved_model):
        super().__init__()
        self.saved_model, self.shared = saved_model, Shared()

    def setup(self):
        self.model = self.shared.acquire(lambda: Model(self.saved_model), tag=self.saved_model)


class SegmentBytes(LoadsModel):
    """(key, bytes) in; (key, PNG), or at the output "failed" (key, cause), out."""

    def process(self, element):
        key, data = element
        png, cause = self.model(data)
        yield (key, png) if cause is None else beam.pvalue.TaggedOutput("failed", (key, cause))


class SegmentFiles(LoadsModel):
    """Lines of JSON in, each [name, place, stamp] of a picture; files of label maps out.

    All steps are one DoFn, so that no runner can separate the writing of results from the notes that say that they are
    written.

    Args:
        saved_model: as for `SegmentPictures`.
        folder: of the results.
        unfinished: a folder for files under temporary names.
        running: a file that is there as long as this run may write.
        shards: a folder for the notes of what is done.
        header: the first line of each file of notes.
        kind: of the results, "grey" or "palette".
        colours: of all 256 values of a palette PNG, or None for a grey one: bytes, red, green and blue in turn.
    """

    def __init__(self, saved_model, *, folder, unfinished, running, shards, header, kind, colours):
        super().__init__(saved_model)
        self.folder, self.unfinished, self.running, self.shards = folder, unfinished, running, shards
        self.header, self.kind, self.colours = header, kind, colours

    def start_bundle(self):
        self.notes, self.noted, self.folders = [], time.monotonic(), set()

    def process(self, element):
        name, place, stamp = json.loads(element)
        png, cause = self.segment(place)
        if cause is None:
            if self.colours is not None:
                png = as_palette(png, self.colours)
            self.write(name + ".png", png)
            count("done")
            count("pixels", pixels_of(png))
            self.note({"name": name, "place": place, "stamp": stamp, "kinds": [self.kind]})
        else:
            count("failed")
            self.note({"name": name, "cause": cause})

    def finish_bundle(self):
        self.flush()

    def segment(self, place):
        """(the PNG of a label map, None), or (None, why there is none)."""
        try:
            data = read(place)
        except Exception as error:  # every file system has its own: no such object, no permission, no network
            return None, f"{place} cannot be read: {in_one_line(error)}"
        return self.model(data)

    def write(self, name, data):
        """A file, by a temporary name.

        Raises:
            RuntimeError: if another run has begun in the folder. A worker may outlive a driver that was killed.
        """
        if not FileSystems.exists(self.running):
            raise RuntimeError(f"Another run has begun in {self.folder}: this worker stops.")
        final = f"{self.folder}/{name}"
        temporary = f"{self.unfinished}/{uuid.uuid4().hex}.png"
        write(temporary, data)
        if (parent := os.path.dirname(final)) not in self.folders:
            with contextlib.suppress(OSError):  # it is there
                FileSystems.mkdirs(parent)
            self.folders.add(parent)
        rename(temporary, final)

    def note(self, line):
        self.notes.append(json.dumps(line) + "\n")
        if len(self.notes) >= NOTED_AT_ONCE or time.monotonic() - self.noted > NOTED_AFTER:
            self.flush()

    def flush(self):
        """Writes the notes into a file of its own: object stores cannot add to one."""
        if self.notes:
            write(f"{self.shards}/{uuid.uuid4().hex}.jsonl", "".join([self.header, *self.notes]).encode())
        self.notes, self.noted = [], time.monotonic()


class Model:
    """The bytes of a picture in, (the PNG of its label map, None) or (None, why there is none) out.

    One picture at a time: the threads of a process would only compete for the processor, and each would need the memory of
    a pass.
    """

    def __init__(self, place):
        import tensorflow as tf

        with local_copy(place) as folder:
            self.loaded = tf.saved_model.load(folder)
        self.segment, self.lock = self.loaded.signatures["serving_default"], threading.Lock()
        self.constant, self.faults = tf.constant, (ValueError, MemoryError, tf.errors.OpError)

    def __call__(self, data):
        try:
            with self.lock:
                return self.segment(image_bytes=self.constant([data]))["label_png"].numpy()[0], None
        except self.faults as error:
            return None, cause_of(error)


@contextlib.contextmanager
def local_copy(place):
    """The path of a SavedModel, which is fetched if it lies elsewhere.

    Raises:
        FileNotFoundError: if there is none.
    """
    with contextlib.ExitStack() as closing:
        folder = place
        if FileSystems.get_scheme(place) is not None:
            folder = closing.enter_context(tempfile.TemporaryDirectory())
            copy_tree(place, folder)
        if not os.path.exists(os.path.join(folder, "saved_model.pb")):
            raise FileNotFoundError(
                f"This worker finds no SavedModel at {place}. It must lie where all workers can read it: on a disk that they "
                "share, or in a bucket such as gs://."
            )
        yield folder


def copy_tree(source, target):
    """Copies all files of a folder, from and to any file system."""
    for file in FileSystems.match([glob.escape(source) + "/**"])[0].metadata_list:
        if not file.path.endswith("/"):
            write(f"{target}/{file.path[len(source) :].lstrip('/')}", read(file.path))


def read(place):
    """The bytes of a file, as they are."""
    with FileSystems.open(place, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return file.read()


def write(place, data):
    """Writes a file. Its folders are made if they are missing."""
    with FileSystems.create(place, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(data)


def rename(source, target):
    """Renames a file, in place of the one that has the name."""
    try:
        FileSystems.rename([source], [target])
    except BeamIOError:
        if not FileSystems.exists(target):
            raise
        FileSystems.delete([target])  # HDFS renames to new names only
        FileSystems.rename([source], [target])


def as_palette(png, colours):
    """A PNG of 8 grey bits as one of 8 palette bits: another kind in its header, and the palette behind it."""

    def chunk(data):
        return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))

    is_palette = b"\x03"
    return png[:8] + chunk(png[12:25] + is_palette + png[26:29]) + chunk(b"PLTE" + colours) + png[33:]


def pixels_of(png):
    """The number of pixels, from the header."""
    width, height = struct.unpack(">II", png[16:24])
    return width * height


def count(name, by=1):
    """Adds to one of Beam's counters of this package."""
    Metrics.counter("keras_deeplab", name).inc(by)


def cause_of(error):
    """Why the SavedModel refuses a picture: of TensorFlow's message the line that says it."""
    message = getattr(error, "message", None)
    if message is None or type(error).__name__ != "InvalidArgumentError":
        return in_one_line(error)
    line = message.partition("\n\t [[")[0].rpartition("\n")[2]
    if line.startswith(REFUSED):
        return line.removeprefix(REFUSED).removesuffix("]").replace("Picture 1 of the 1 in this batch", "The picture")
    return f"The picture is damaged: {line.rstrip('.')}. Copy or save the file again."


def in_one_line(error):
    """The message of an error."""
    return " ".join(str(error).split()) or type(error).__name__


# The workers get this file's classes as they are here.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
