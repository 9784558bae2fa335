"""A folder of downloads in, a prepared data set out: the steps that all builders share.

They find the pictures, count them, convert them in several processes and write them with TensorFlow Datasets (TFDS).
"""

import contextlib
import errno
import functools
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import warnings
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.data.builders import labels
from keras_deeplab.data.builders.archives import Source
from keras_deeplab.data.builders.files import Files, filled
from keras_deeplab.files import locked, written_whole
from keras_deeplab.pictures.exif import swaps_sides
from keras_deeplab.progress import Progress

# What errors of a full disk say: the system's, and that of TFDS.
FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "Not enough disk space")


@dataclass(frozen=True)
class Picture:
    """One picture of a release.

    Attributes:
        name: its name, unique in its split.
        part: the part of the split that it comes from, by its name in the catalogue.
        image: its image file.
        label: its label file, or other data that the builder's `label_map` turns into labels.
    """

    name: str
    part: str
    image: Source
    label: Source | tuple


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares a data set from its official download: encoded pictures and label maps of train ids.

    Train ids are the class numbers that a network learns: 0, 1, ... and 255 for pixels to ignore.

    Each data set is a subclass with its file patterns (see `Files.find`). If its splits are lists of names, it overrides
    `pictures`; if its label files are of another kind, `label_map`; if its pictures are cut into tiles, `examples`.

    Args:
        processes: number of processes that convert pictures; None: one per core.
        options: keyword arguments of `examples`, for example the size of a tile.
        **kwargs: arguments of `tfds.core.GeneratorBasedBuilder`, above all `data_dir`.

    Raises:
        ValueError: if the data set has no such option.
    """

    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks for checksums of downloads, of which there are none. TFDS 4.9.10 imports importlib_resources to look for
    # them, but does not install it.
    code_path = url_infos = None
    image = label = None  # patterns of the image files and label files
    places = {}  # {split: {part: the text that replaces {place} in a pattern}}
    options = {}  # {name of an option: default}

    def __init__(self, *, processes=None, options=None, **kwargs):
        self.processes = processes or os.cpu_count()
        self.chosen = {**self.options, **(options or {})}  # {name of an option: value}
        if unknown := set(self.chosen) - set(self.options):
            options = f"the options {', '.join(self.options)}" if self.options else "no options"
            raise ValueError(f"{self.name} has {options}. Received: {', '.join(sorted(unknown))}.")
        self._surveys = {}  # {folder of downloads: (pictures, `Files`)}
        super().__init__(**kwargs)

    @property
    def dataset(self):
        return DATASETS[self.name]

    def _info(self):
        picture = tfds.features.Image(shape=(None, None, 3), doc="the file as released, or a lossless tile of it")
        ids = tfds.features.Image(shape=(None, None, 1), encoding_format="png", doc="train ids, 255 ignored")
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.dataset.title}, {self.dataset.num_classes} classes, prepared as mmsegmentation does.",
            features=tfds.features.FeaturesDict({"image": picture, "label": ids, "name": tfds.features.Text()}),
            license=self.dataset.licence,
            metadata=tfds.core.MetadataDict(self.chosen) if self.chosen else None,
        )

    # What a data set can override.

    def pictures(self, files):
        """All pictures of a download, `{split: [Picture]}`.

        Args:
            files: `Files` of the folder of downloads.
        """
        return {
            split: [picture for part, place in parts.items() for picture in self.paired(files, part, place=place)]
            for split, parts in self.places.items()
        }

    @classmethod
    def label_map(cls, picture):
        """The train ids of a picture, (H, W) uint8."""
        values = labels.ids(picture.label.read(), picture.label)
        return labels.train_ids(values, DATASETS[cls.name].label_ids, picture.label)

    @classmethod
    def examples(cls, picture):
        """The examples made from a picture, `[(name, encoded image, encoded label)]`.

        None as an encoded image stands for the picture's own file, unchanged.
        """
        ids = cls.label_map(picture)
        check_size(picture, ids.shape)
        return [(Path(picture.image.member or picture.image.file).stem, None, labels.png(ids))]

    # What all data sets share.

    def paired(self, files, part, names=None, *, image=None, label=None, **fixed):
        """The images and labels of the same name, `[Picture]`.

        Args:
            files: `Files` of the folder of downloads.
            part: the part of the split that they belong to.
            names: names of pictures, of which those without an image are left out; None: all images of the pattern.
            image, label: file patterns; None: those of the data set.
            **fixed: texts for the other braces of the patterns.

        Raises:
            FileNotFoundError: if an image has no label.
        """
        image, label = image or self.image, label or self.label
        image_files, label_files = files.find(image, **fixed), files.find(label, **fixed)
        names = image_files if names is None else [name for name in names if name in image_files]
        for name in names:
            if name not in label_files:
                raise FileNotFoundError(
                    f"{image_files[name]} has no label: no {filled(label, name=name, **fixed)} is below "
                    f"{str(files.folder)!r}.{files.hint()}"
                )
        return [Picture(name, part, image_files[name], label_files[name]) for name in names]

    def prepare(self, source, report=None):
        """Writes the data set from a folder of downloads, unless it exists. Continues an interrupted run.

        Args:
            source: folder of the downloads.
            report: function without arguments that is called when all pictures are found and before they are converted;
                None: warns of missing pictures by `warnings.warn`.

        Raises:
            keras_deeplab.files.InUseError: if another process prepares this data set in the same folder.
            Besides, as `keras_deeplab.data.builders.prepare`.
        """
        if self.data_path.exists():
            with contextlib.suppress(OSError), self._locked():
                shutil.rmtree(self.work, ignore_errors=True)  # left by a run that was stopped at its very end
        else:
            with disk_full_explained(self.root), self._locked():
                if not self.data_path.exists():
                    self._write(source, report or functools.partial(self._warn, source))
        self._check_options()

    def _write(self, source, report):
        pictures = self.survey(source)  # raises its errors here, because TFDS would wrap them
        report()
        files = self._surveys[_key(source)][1]
        used = [file for split in pictures.values() for picture in split for file in (picture.image, picture.label)]
        files.provide(file for file in used if isinstance(file, Source))
        for folder in self.data_path.parent.glob("incomplete.*"):  # left by a run that was killed while TFDS wrote
            shutil.rmtree(folder)
        tfds.disable_progress_bar()  # this class shows its own
        config = tfds.download.DownloadConfig(manual_dir=str(source), try_download_gcs=False)
        self.download_and_prepare(download_dir=str(self.work / "downloads"), download_config=config)
        shutil.rmtree(self.work)

    def _check_options(self):
        """Raises ValueError if the data set that exists was prepared with other options."""
        if not self.info.splits:  # another process wrote it after this object was made
            self.info.read_from_directory(self.data_path)
        for option, value in (self.info.metadata or {}).items():
            if self.chosen.get(option, value) != value:
                raise ValueError(
                    f"{self.data_path} was prepared with {option}={value}. Received: {option}={self.chosen[option]}. "
                    "Name another folder, or delete this one to prepare it again."
                )

    @contextlib.contextmanager
    def _locked(self):
        """Lets no other process prepare this data set in this folder. Folders made for the lock do not stay if empty."""
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            with locked(self.root / f".{self.name}.lock", f"prepares {self.name} in {str(self.root)!r}"):
                yield
        finally:
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _warn(self, source):
        for text in self.missing(source):
            warnings.warn(text, stacklevel=5)  # the caller of `builders.prepare`

    def survey(self, folder):
        """The pictures of a folder of downloads, `{split: [Picture]}`. A second call for a folder does not read it again.

        Raises:
            FileNotFoundError: if there is no such folder, a split is empty, or a picture has no label.
            ValueError: if two files have the same name, or an archive is damaged.
        """
        key = _key(folder)
        if key not in self._surveys:
            self._surveys[key] = self._survey(folder)
        return self._surveys[key][0]

    def _survey(self, folder):
        needed = f" {self.dataset.title} needs {' '.join(self.MANUAL_DOWNLOAD_INSTRUCTIONS.split())}"
        try:
            files = None
            files = Files(folder, self.work / "unpacked")
            pictures = self.pictures(files)
            for split in self.dataset.splits:
                if not pictures[split.name]:
                    raise FileNotFoundError(self._emptiness(split.name, files))
        except FileNotFoundError as error:
            if files and files.damaged:  # what is missing may be in there
                raise ValueError(files.damaged[0]) from error
            raise FileNotFoundError(str(error) + needed) from error
        for split in self.dataset.splits:
            check_names(split.name, pictures[split.name])
        if files.damaged and any(found < official for *_, found, official in self.shortfall(pictures)):
            raise ValueError(files.damaged[0])
        return pictures, files

    def _emptiness(self, split, files):
        place = next(iter(self.places.get(split, {"all": ""}).values()))
        return (
            f"The split {split!r} of {self.dataset.title} is empty: no {filled(self.image, name='NAME', place=place)} is "
            f"below {str(files.folder)!r}.{files.like(self.image)}{files.hint()}"
        )

    def shortfall(self, pictures):
        """The pictures of a survey counted, `[(split, part, pictures found, official number)]`, a row for each part."""
        return [
            (split.name, part, sum(picture.part == part for picture in pictures[split.name]), official)
            for split in self.dataset.splits
            for part, official in split.parts
        ]

    def missing(self, source):
        """Sentences about the pictures that a folder of downloads lacks, or has too many of, for warnings."""
        sentences = []
        for split, part, found, official in self.shortfall(self.survey(source)):
            if found != official:
                of_part = "" if part == "all" else f" of {part}"
                difference = (
                    f"{official - found} are missing" if found < official else f"{found - official} are too many"
                )
                sentences.append(f"{split} has {found} pictures{of_part}, officially {official}: {difference}.")
        hint = self._surveys[_key(source)][1].hint().strip()
        return [*sentences, hint] if sentences and hint else sentences

    @property
    def root(self):
        """The folder that the data set is written to, as `root/NAME/VERSION`."""
        return Path(self.data_path).parents[1]

    @property
    def work(self):
        """The folder of converted pictures. It stays until the data set is written, so that a later run can continue."""
        return self.root / f"{self.name}.unfinished"

    def _split_generators(self, dl_manager):
        pictures = self.survey(dl_manager.manual_dir)
        tasks = {split: [(picture, self._result(split, picture)) for picture in pictures[split]] for split in pictures}
        self._convert([task for split_tasks in tasks.values() for task in split_tasks])
        return {split: self._generate_examples(split_tasks) for split, split_tasks in tasks.items()}

    def _generate_examples(self, converted):
        with Progress(len(converted), before="written: ") as bar:
            for picture, result in converted:
                bar.add()
                try:
                    examples = stored_examples(result)
                except (zipfile.BadZipFile, zlib.error, EOFError):  # a computer that stopped can leave a damaged file
                    convert(type(self), self.chosen, (picture, result))
                    examples = stored_examples(result)
                for name, image, label in examples:
                    yield (
                        name,
                        {"image": picture.image.read() if image is None else image, "label": label, "name": name},
                    )

    def _log_download_bytes(self):
        """Prints nothing. TFDS would announce sizes of downloads, but there is no download and the sizes are unknown."""

    _log_download_done = _log_download_bytes

    def _convert(self, tasks):
        """Converts the picture of each `(picture, result file)`. The files that an earlier run wrote are kept."""
        pending = [(picture, result) for picture, result in tasks if not result.exists()]
        for folder in {result.parent for _, result in pending}:
            folder.mkdir(parents=True, exist_ok=True)
        with Progress(len(tasks), len(tasks) - len(pending), before="converted: ") as bar:
            for _ in self._run(functools.partial(convert, type(self), self.chosen), pending):
                bar.add()

    def _run(self, task, items):
        """`map(task, items)`, in several processes if `self.processes` and the number of items allow."""
        workers = min(self.processes, len(items))
        if workers < 2:
            yield from map(task, items)
            return
        # This process must not be forked: it has TensorFlow's threads and locks, which do not work in a fork.
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":
            context.set_forkserver_preload([type(self).__module__])
            with ctrl_c_ignored():  # the server inherits this; otherwise Ctrl-C while it imports prints its traceback
                forkserver.ensure_running()
        pool = ProcessPoolExecutor(workers, context, initializer=follow_parent)
        try:
            yield from pool.map(task, items, chunksize=max(1, min(16, len(items) // (4 * workers))))
        except BrokenProcessPool as error:
            raise OSError(
                "A process that converts pictures ended too early. If it was killed for lack of memory, use fewer "
                'processes. A script must prepare the data set under `if __name__ == "__main__":`. The pictures '
                "converted so far are kept."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _result(self, split, picture):
        """The file for a converted picture. Its name changes with the options and with the picture's files."""
        inputs = repr((str(self.VERSION), self.chosen, picture))
        return self.work / split / f"{picture.name}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}.zip"


@contextlib.contextmanager
def ctrl_c_ignored():
    """Ignores Ctrl-C inside the block. Only the main thread can do so; in another thread this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def follow_parent():
    """Sets up a process that converts pictures: it leaves Ctrl-C to its parent and ends when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def convert(builder, options, task):
    """Writes the examples of a picture to its result file, a .zip. Runs in a process of its own.

    The file appears only when it is complete, so that an interruption leaves no partial one under its name.

    Args:
        builder: a subclass of `Builder`.
        options: keyword arguments of its `examples`.
        task: (`Picture`, path of the result file).
    """
    picture, result = task
    with written_whole(result) as partial, zipfile.ZipFile(partial, "w") as file:
        for name, image, label in builder.examples(picture, **options):
            if image is not None:
                file.writestr(f"{name}/image", image)
            file.writestr(f"{name}/label", label)


def stored_examples(result):
    """What `convert` wrote to a result file, `[(name, encoded image or None, encoded label)]`, sorted by name."""
    with zipfile.ZipFile(result) as file:
        members = set(file.namelist())
        names = sorted({member.rpartition("/")[0] for member in members})
        return [
            (name, file.read(f"{name}/image") if f"{name}/image" in members else None, file.read(f"{name}/label"))
            for name in names
        ]


def check_names(split, pictures):
    """Raises ValueError if two pictures of a split have the same name."""
    seen = {}
    for picture in pictures:
        if picture.name in seen:
            raise ValueError(
                f"Two pictures of {split} have the same name: {seen[picture.name]}, {picture.image}. Keep one of them."
            )
        seen[picture.name] = picture.image


@contextlib.contextmanager
def disk_full_explained(folder):
    """Raises one OSError that says what to do for the errors of a full disk, and for others of TensorFlow's file system.

    Those of a full disk name no file, and TFDS and TensorFlow wrap them in errors of several types.
    """
    try:
        yield
    except Exception as error:
        causes = list(chain(error))
        if any(isinstance(cause, tf.errors.ResourceExhaustedError) for cause in causes) or any(
            text in str(cause) for cause in causes for text in FULL
        ):
            raise OSError(
                f"The disk of {str(folder)!r} is full. Make room and start again: the pictures converted so far are kept."
            ) from error
        for cause in causes:
            if isinstance(cause, tf.errors.OpError):
                raise OSError(f"The data set cannot be written to {str(folder)!r}: {cause.message}.") from error
        raise


def chain(error):
    """An error, the one that it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _key(folder):
    return os.path.realpath(folder)  # Path.resolve refuses a link that leads to itself


def check_size(picture, shape):
    """Raises ValueError if a picture is damaged or if the (height, width) of its label map is not its own.

    A picture that Exif turns by a right angle may have its sides swapped.
    """
    image = labels.pixels(picture.image.read(), picture.image)
    width, height = image.size
    if shape != (height, width) and not (swaps_sides(image) and shape == (width, height)):
        raise ValueError(
            f"{picture.image} is {width}x{height} pixels, but its label is {shape[1]}x{shape[0]}. Both must have the same "
            "size."
        )
