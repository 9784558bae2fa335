"""A SavedModel and any number of pictures in, files of their label maps out, by many workers of Apache Beam.

The driver: it finds the pictures, sets aside what is done, starts a pipeline whose workers run `inference/beam.py`, and puts
their notes into the record of the folder. The record is the one of `segment_folder`: a run that one of the two began can be
finished by the other.
"""

import contextlib
import difflib
import glob
import io
import json
import os
import posixpath
import threading
import time
import uuid
from collections.abc import Sequence

from keras_deeplab.inference.folders import FolderResult, Inputs, cause_of
from keras_deeplab.inference.results import SHARDS, UNFINISHED, LocalFiles, ResultsFolder, absolute, header_of, stamp_of
from keras_deeplab.inference.sources import find_pictures, fixed_beginning, has_suffix, path_of
from keras_deeplab.pictures.addresses import is_address, scheme_of
from keras_deeplab.pictures.draw import padded_palette

LABEL_MAPS = ("grey", "palette")  # of the kinds of results, those that Beam's workers make
STAYS = "What is done stays done: run the same again, and it goes on."


def segment_with_beam(
    saved_model: str | os.PathLike,
    images: Inputs,
    to: str | os.PathLike,
    *,
    kind: str = "palette",
    overwrite: bool = False,
    beam_options: Sequence[str] = (),
) -> FolderResult:
    """Writes the label maps of many pictures by Apache Beam: several processes, or a cluster. Each equals `segment`'s.

    The record in the folder is `segment_folder`'s, so that either can finish what the other began. Workers need the packages
    apache-beam and tensorflow, and not this one.

    Args:
        saved_model: the folder that `export_saved_model` wrote, of any size of pictures and grey: a path, or an address that
            Beam reads (gs://, s3://, hdfs://). A path is copied into `to`, where the workers find it.
        images: as for `segment_folder`. Beam lists and reads addresses.
        to: the folder for the results, which all workers must reach: a path, or an address that Beam writes.
        kind: `"palette"` or `"grey"`, as for `segment_folder`.
        overwrite: as for `segment_folder`.
        beam_options: Beam's pipeline options, such as ["--runner=DataflowRunner", "--region=europe-west1"]. Without
            --runner everything runs here, in as many processes as --direct_num_workers says with
            --direct_running_mode=multi_processing.

    Returns:
        `FolderResult`: (made, skipped, failed).

    Raises:
        ImportError: if apache-beam is not installed.
        ValueError: for options that Beam does not know, a SavedModel of one size or in colours, and as `segment_folder`.
        FileNotFoundError: if a picture, folder or SavedModel does not exist.
        OSError: if the folder cannot be read or written, or the pipeline fails. What is done stays done.
    """
    options, to = pipeline_options(beam_options), os.fspath(to)
    return segment_sources(saved_model, pictures_for_beam(options, images, to), to, kind, overwrite, options)


def segment_sources(saved_model, sources, to, kind, overwrite, options):
    """`segment_with_beam` of what `pictures_for_beam` found, with what `pipeline_options` returned."""
    if kind not in LABEL_MAPS:
        raise ValueError(f"kind is {' or '.join(map(repr, LABEL_MAPS))}. Received: {kind!r}.")
    saved_model = os.fspath(saved_model)
    metadata = metadata_of(saved_model)
    of, files = metadata["identity"], BeamFiles(to) if is_address(to) else LocalFiles(to)
    with ResultsFolder.begun(to, sources, [kind], of, overwrite, files=files) as results:
        if results.todo:
            run_pipeline(options, results, saved_model, metadata)
        made, failed = results.take_notes(of)
    return FolderResult(made, results.skipped, failed)


def pictures_for_beam(options, images, to):
    """The pictures that the inputs name, as `Source`. Beam lists addresses.

    Raises:
        FileNotFoundError, ValueError, OSError: as `find_pictures`, and for pictures that the workers cannot reach.
    """
    sources = find_pictures(images, to, lambda address: list_by_beam(address, to))
    require_reachable(options, to, sources)
    return sources


def run_pipeline(options, results, saved_model, metadata):
    """Runs the pipeline over the pictures that are not done, and waits for it."""
    import apache_beam as beam

    from keras_deeplab.inference import beam as workers

    place = results.files.place
    if not is_address(saved_model):
        workers.copy_tree(saved_model, place(f"{UNFINISHED}/model"))
        saved_model = place(f"{UNFINISHED}/model")
    # A file, not `beam.Create`: that would put a million names into the pipeline, which Dataflow refuses above 10 MB.
    todo, running = f"{UNFINISHED}/todo.jsonl", f"{UNFINISHED}/{uuid.uuid4().hex}.running"
    lines = [json.dumps([one.name, absolute(one.place), stamp_of(one.place)]) + "\n" for one in results.todo]
    results.files.write(todo, lines)
    results.files.write(running, ["This run may write.\n"])  # not empty: Beam writes no empty objects to S3
    (kind,) = results.kinds
    segment = workers.SegmentFiles(
        saved_model,
        folder=place("").rstrip("/"),
        unfinished=place(UNFINISHED),
        running=place(running),
        shards=place(SHARDS),
        header=header_of(metadata["identity"]),
        kind=kind,
        colours=bytes(sum(padded_palette(metadata["palette"]), ())) if kind == "palette" else None,
    )
    pipeline = beam.Pipeline(runner=runner_of(options), options=options)
    pipeline | "skipped" >> beam.Create([results.skipped]) | beam.Map(lambda number: workers.count("skipped", number))
    pictures = pipeline | "pictures that are not done" >> beam.io.ReadFromText(place(todo))
    pictures | "spread over the workers" >> beam.Reshuffle() | "segment" >> beam.ParDo(segment)
    finished(pipeline)


def finished(pipeline):
    """Runs a pipeline to its end.

    Raises:
        OSError: if it fails. The message has the cause.
    """
    try:
        state = pipeline.run().wait_until_finish()
    except Exception as error:  # each runner has its own, with the traceback of the worker in its text
        raise OSError(f"The Beam pipeline failed: {last_line(error)} {STAYS}") from error
    if state != "DONE":
        raise OSError(f"The Beam pipeline ended as {state}; its log says why. {STAYS}")


def last_line(error):
    """The last line of a message that may have a traceback in it, without what Beam adds."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].strip()


def pipeline_options(flags):
    """Beam's options.

    Raises:
        ImportError: if apache-beam is not installed.
        ValueError: for an option that Beam does not know, which it would ignore, or a wrong value.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError(
            "The engine beam needs the package apache-beam, which is not installed. "
            'pip install "keras_deeplab[beam]", and apache-beam[gcp] or apache-beam[aws] for gs:// or s3://.'
        ) from error
    from apache_beam.io.filesystems import FileSystems

    flags, options, parsers, said = list(flags), PipelineOptions(list(flags)), [], io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options.get_all_options(add_extra_args_fn=parsers.append)
            _, unknown = parsers[0].parse_known_args(flags)
    except SystemExit:
        raise ValueError(f"Beam refuses an option: {last_line(said.getvalue())}.") from None
    if unknown:
        raise ValueError(f"Beam has no option {unknown[0]!r}.{closest(unknown[0], parsers[0])}")
    FileSystems.set_options(options)
    return options


def closest(text, parser):
    """A hint at options with a similar name, or nothing."""
    names = [name for action in parser._actions for name in action.option_strings]
    found = difflib.get_close_matches(text.partition("=")[0], names)
    return f" Closest: {', '.join(found)}." if found else ""


def runner_of(options):
    """The runner that the options name; without one, Beam's DirectRunner that is part of the package.

    Raises:
        ValueError: if Beam has no such runner.
    """
    from apache_beam.options.pipeline_options import StandardOptions, WorkerOptions
    from apache_beam.runners import create_runner
    from apache_beam.runners.direct.direct_runner import DirectRunner

    name = options.view_as(StandardOptions).runner
    if name in (None, "DirectRunner"):
        runner = DirectRunner()
        runner.is_interactive()  # keeps it from Prism, a program that it would download first
        watch_processes()
        of_workers = options.view_as(WorkerOptions)
        of_workers.default_sdk_harness_log_level = of_workers.default_sdk_harness_log_level or "WARNING"
        return runner
    try:
        return create_runner(name)
    except AttributeError as error:
        raise ValueError(f"Beam has no runner {name!r}.") from error


def watch_processes():
    """Lets a pipeline of the DirectRunner fail when one of its processes is killed. Beam 2.77 waits for it for ever.

    Beam does the same for workers in Docker.
    """
    from apache_beam.portability import python_urns
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    @worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
    class WatchedHandler(worker_handlers.SubprocessSdkWorkerHandler):
        is_closed = False

        def start_worker(self):
            super().start_worker()
            threading.Thread(target=self.watch, daemon=True).start()

        def watch(self):
            self.worker_thread.join()
            while not self.is_closed:  # what is asked of it later, too, must fail
                with contextlib.suppress(RuntimeError):  # another thread asked something at this moment
                    self.control_conn.abort(RuntimeError("A worker process was killed, maybe for want of memory."))
                time.sleep(1)

        def close(self):
            self.is_closed = True
            if self.worker_thread.is_alive():
                super().close()


def require_reachable(options, to, sources):
    """Raises `ValueError` for places of this machine if the workers are Dataflow's."""
    from apache_beam.options.pipeline_options import StandardOptions

    runner = options.view_as(StandardOptions).runner or ""
    if "dataflow" in runner.lower():
        for place in (to, *(source.place for source in sources)):
            if not is_address(place):
                raise ValueError(
                    f"Dataflow's workers reach addresses alone, such as gs://bucket/photos. Received: {place}, which is on "
                    "this machine."
                )


def metadata_of(saved_model):
    """What `export_saved_model` wrote about a SavedModel.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for one that gives other results than `segment_folder`, or that says too little about itself.
    """
    from apache_beam.io.filesystems import FileSystems

    from keras_deeplab.inference.beam import read

    place = f"{saved_model}/assets.extra/metadata.json"
    with named(saved_model, "read"):
        if not FileSystems.exists(place):
            raise FileNotFoundError(f"There is no SavedModel of `export_saved_model` at {saved_model}.")
        metadata = json.loads(read(place))
    if "identity" not in metadata:
        raise ValueError(f"The SavedModel {saved_model} was exported by an earlier version. Export it again.")
    if metadata["size"] or metadata["label_png"].startswith("RGB"):
        raise ValueError(
            f"The SavedModel must give grey label maps of pictures of any size. Received: {saved_model}, exported with "
            "`size` or `palette`. Export it without."
        )
    return metadata


@contextlib.contextmanager
def named(place, doing):
    """Gives an error of a file system the place and one line."""
    try:
        yield
    except (FileNotFoundError, ImportError):
        raise
    except ValueError as error:
        raise ValueError(f"Beam has no file system for {place}: {cause_of(error)}") from error
    except Exception as error:  # every storage has its own: wrong keys, no network, no such bucket
        raise OSError(f"{place} cannot be {doing}: {cause_of(error)}") from error


def list_by_beam(address, to):
    """Like `sources.list_by_fsspec`, by Beam's file systems."""
    from apache_beam.io.filesystems import FileSystems

    if scheme_of(address) in ("http", "https"):
        raise ValueError(
            f"Beam reads no web addresses. Received: {address}. Leave out --engine beam, or copy it to a bucket."
        )
    if address.rstrip("/") == to.rstrip("/"):
        raise ValueError(f"The results must not lie among the pictures. Received: {address} for both.")
    with named(address, "listed"):
        FileSystems.get_filesystem(address)
        if has_suffix(address) and not glob.has_magic(address):  # not asked for: a list may have a million
            return posixpath.dirname(path_of(address)), [address]
        if glob.has_magic(address):
            root, pattern = fixed_beginning(address), address
        else:
            root, pattern = address, glob.escape(address.rstrip("/")) + "/**"
        found = [file.path for file in FileSystems.match([pattern])[0].metadata_list]
        if not found and not glob.has_magic(address) and has_name(address) and FileSystems.exists(address):
            return posixpath.dirname(path_of(address)), [address]
    inside = to.rstrip("/") + "/"
    places = sorted(place for place in found if has_suffix(place) and not place.startswith(inside))
    if not places:
        raise ValueError(f"No picture is at {address}.")
    return path_of(root), places


def has_name(address):
    """Whether an address names more than a bucket."""
    return posixpath.dirname(path_of(address)) != "/"


class BeamFiles:
    """`results.LocalFiles` for a folder in any storage that Beam writes. The folder is listed once.

    There are no locks: two runs into one folder at the same time do the same work twice.
    """

    def __init__(self, folder):
        self.folder = folder.rstrip("/")
        self.listing = None

    def place(self, name):
        return f"{self.folder}/{name}"

    def locked(self):
        return contextlib.nullcontext()

    def exists(self, name):
        if self.listing is None:
            self.listing = set(self.names_in(""))
        return name in self.listing

    def names_in(self, name):
        from apache_beam.io.filesystems import FileSystems

        with named(self.folder, "listed"):
            pattern = glob.escape(self.place(name).rstrip("/")) + "/**"
            return sorted(file.path[len(self.folder) + 1 :] for file in FileSystems.match([pattern])[0].metadata_list)

    def lines(self, name):
        from apache_beam.io.filesystems import FileSystems

        from keras_deeplab.inference.beam import read

        with named(self.place(name), "read"):
            if not FileSystems.exists(self.place(name)):
                return None
            return iter(read(self.place(name)).splitlines(keepends=True))

    def write(self, name, lines):
        from keras_deeplab.inference.beam import rename, write

        with named(self.place(name), "written"):
            temporary = self.place(f"{UNFINISHED}/{os.path.basename(name)}.part")
            write(temporary, "".join(lines).encode("utf-8", "surrogateescape"))
            rename(temporary, self.place(name))

    def remove(self, name):
        from apache_beam.io.filesystems import FileSystems

        with named(self.place(name), "removed"):
            gone = [self.place(file) for file in self.names_in(name)]
            if FileSystems.exists(self.place(name)):
                gone.append(self.place(name))
            FileSystems.delete(gone)
