"""A folder of downloads in, a prepared data set out: the steps that all builders share.

They find the pictures, count them, convert them in several processes and write them with TensorFlow Datasets (TFDS).
"""

import functools
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import zipfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow_datasets as tfds

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.data.builders import labels
from keras_deeplab.data.builders.files import Files, Source, filled
from keras_deeplab.pictures.exif import swaps_sides


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
        self._surveys = {}
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

    def prepare(self, source):
        """Writes the data set from a folder of downloads, unless it exists. Continues an interrupted run."""
        if self.data_path.exists():
            return
        self.survey(source)  # raises its errors here, because TFDS would wrap them
        for folder in self.data_path.parent.glob("incomplete.*"):  # left by a run that was killed while TFDS wrote
            shutil.rmtree(folder)
        tfds.disable_progress_bar()  # this class shows its own
        config = tfds.download.DownloadConfig(manual_dir=str(source), try_download_gcs=False)
        self.download_and_prepare(download_dir=str(self.work / "downloads"), download_config=config)
        shutil.rmtree(self.work)

    def survey(self, folder):
        """The pictures of a folder of downloads, `{split: [Picture]}`. A second call for a folder does not read it again.

        Raises:
            FileNotFoundError: if there is no such folder, a split is empty, or a picture has no label.
            ValueError: if two files have the same name, or an archive is damaged.
        """
        key = Path(folder).resolve()
        if key not in self._surveys:
            self._surveys[key] = self._survey(folder)
        return self._surveys[key]

    def _survey(self, folder):
        needed = f" {self.dataset.title} needs {' '.join(self.MANUAL_DOWNLOAD_INSTRUCTIONS.split())}"
        try:
            files = Files(folder, self.work / "unpacked")
            pictures = self.pictures(files)
        except FileNotFoundError as error:
            raise FileNotFoundError(str(error) + needed) from error
        for split in self.dataset.splits:
            if not pictures[split.name]:
                place = next(iter(self.places.get(split.name, {"all": ""}).values()))
                raise FileNotFoundError(
                    f"The split {split.name!r} of {self.dataset.title} is empty: no "
                    f"{filled(self.image, name='NAME', place=place)} is below {str(folder)!r}."
                    f"{files.hint()}{needed}"
                )
            seen = {}
            for picture in pictures[split.name]:
                if picture.name in seen:
                    raise ValueError(
                        f"Two pictures of {split.name} have the same name: {seen[picture.name]}, {picture.image}. "
                        "Keep one of them."
                    )
                seen[picture.name] = picture.image
        return pictures

    def shortfall(self, pictures):
        """The pictures of a survey counted, `[(split, part, pictures found, official number)]`, a row for each part."""
        return [
            (split.name, part, sum(picture.part == part for picture in pictures[split.name]), official)
            for split in self.dataset.splits
            for part, official in split.parts
        ]

    @property
    def work(self):
        """The folder of converted pictures. It stays until the data set is written, so that a later run can continue."""
        return self.data_path.parents[1] / f"{self.name}.unfinished"

    def _split_generators(self, dl_manager):
        pictures = self.survey(dl_manager.manual_dir)
        tasks = {split: [(picture, self._result(split, picture)) for picture in pictures[split]] for split in pictures}
        self._convert([task for split_tasks in tasks.values() for task in split_tasks])
        return {split: self._generate_examples(split_tasks) for split, split_tasks in tasks.items()}

    def _generate_examples(self, converted):
        bar = keras.utils.Progbar(len(converted), unit_name="picture")
        for picture, result in converted:
            bar.add(1)
            with zipfile.ZipFile(result) as file:
                members = set(file.namelist())
                for name in sorted({member.rpartition("/")[0] for member in members}):
                    is_tile = f"{name}/image" in members
                    image = file.read(f"{name}/image") if is_tile else picture.image.read()
                    yield name, {"image": image, "label": file.read(f"{name}/label"), "name": name}

    def _log_download_bytes(self):
        """Prints nothing. TFDS would announce sizes of downloads, but there is no download and the sizes are unknown."""

    _log_download_done = _log_download_bytes

    def _convert(self, tasks):
        """Converts the picture of each `(picture, result file)`. The files that an earlier run wrote are kept."""
        pending = [(picture, result) for picture, result in tasks if not result.exists()]
        for folder in {result.parent for _, result in pending}:
            folder.mkdir(parents=True, exist_ok=True)
        bar = keras.utils.Progbar(len(tasks), unit_name="picture")
        bar.update(len(tasks) - len(pending), finalize=not pending)
        for _ in self._run(functools.partial(convert, type(self), self.chosen), pending):
            bar.add(1)

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
    partial = result.with_suffix(f".{os.getpid()}")
    with zipfile.ZipFile(partial, "w") as file:
        for name, image, label in builder.examples(picture, **options):
            if image is not None:
                file.writestr(f"{name}/image", image)
            file.writestr(f"{name}/label", label)
    partial.replace(result)


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
