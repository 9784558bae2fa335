"""What the builders share: find the pictures, count them, convert them in processes, write them through TFDS."""

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
        name: what distinguishes it in its split.
        part: the part of the split that it comes from, as the catalogue names it.
        image: its file.
        label: its label file, or what else a builder's `label_map` reads.
    """

    name: str
    part: str
    image: Source
    label: Source | tuple


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set from its official download: encoded pictures and train ids.

    A data set is a class with its file patterns (see `Files.find`); one with lists overrides `pictures`, one with another
    kind of label `label_map`, one that is cut `examples`.

    Args:
        processes: how many convert pictures; None: one per core.
        options: of `examples`, for example the size of a tile.
        **kwargs: of `tfds.core.GeneratorBasedBuilder`, above all `data_dir`.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = url_infos = None  # nothing to download; looking for them, TFDS 4.9.10 wants what it does not require
    image = label = None  # patterns of the files
    places = {}  # {split: {part: what {place} in a pattern stands for}}
    options = {}

    def __init__(self, *, processes=None, options=None, **kwargs):
        self.processes = processes or os.cpu_count()
        self.chosen = {**self.options, **(options or {})}
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

    # What a data set says of itself.

    def pictures(self, files):
        """`{split: [Picture]}` of a `Files`."""
        return {
            split: [picture for part, place in parts.items() for picture in self.paired(files, part, place=place)]
            for split, parts in self.places.items()
        }

    @classmethod
    def label_map(cls, picture):
        """Train ids (H, W) uint8 of a picture."""
        values = labels.ids(picture.label.read(), picture.label)
        return labels.train_ids(values, DATASETS[cls.name].label_ids, picture.label)

    @classmethod
    def examples(cls, picture):
        """`[(name, encoded image or None for the file as it is, encoded label)]` of a picture."""
        found = cls.label_map(picture)
        check_size(picture, found.shape)
        return [(Path(picture.image.member or picture.image.file).stem, None, labels.png(found))]

    # The machinery.

    def paired(self, files, part, names=None, *, image=None, label=None, **fixed):
        """Pictures and labels of the same name: all of a pattern, or the given names that are there."""
        image, label = image or self.image, label or self.label
        images, found = files.find(image, **fixed), files.find(label, **fixed)
        wanted = images if names is None else [name for name in names if name in images]
        for name in wanted:
            if name not in found:
                raise FileNotFoundError(
                    f"{images[name]} has no label: no {filled(label, name=name, **fixed)} is below "
                    f"{str(files.folder)!r}.{files.hint()}"
                )
        return [Picture(name, part, images[name], found[name]) for name in wanted]

    def prepare(self, source):
        """Writes the data set from a folder of downloads, unless it is there; an interrupted run goes on where it was."""
        if self.data_path.exists():
            return
        self.survey(source)  # its errors, before TFDS wraps them
        for folder in self.data_path.parent.glob("incomplete.*"):  # of a run that was killed while it wrote
            shutil.rmtree(folder)
        tfds.disable_progress_bar()  # there are ours
        config = tfds.download.DownloadConfig(manual_dir=str(source), try_download_gcs=False)
        self.download_and_prepare(download_dir=str(self.work / "downloads"), download_config=config)
        shutil.rmtree(self.work)

    def survey(self, folder):
        """The pictures of a folder of downloads, `{split: [Picture]}`.

        Raises:
            FileNotFoundError: if a split has none, or a picture has no label.
        """
        key = Path(folder).resolve()
        if key not in self._surveys:
            self._surveys[key] = self._survey(folder)
        return self._surveys[key]

    def _survey(self, folder):
        needed = f" {self.dataset.title} takes {' '.join(self.MANUAL_DOWNLOAD_INSTRUCTIONS.split())}"
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
                    f"{filled(self.image, name='NAME', place=place)} of it is below {str(folder)!r}."
                    f"{files.hint()}{needed}"
                )
            seen = {}
            for picture in pictures[split.name]:
                if picture.name in seen:
                    raise ValueError(
                        f"Two pictures of {split.name} have one name: {seen[picture.name]}, {picture.image}."
                    )
                seen[picture.name] = picture.image
        return pictures

    def shortfall(self, pictures):
        """`[(split, part, pictures found, official number)]` of a survey, a line per part."""
        return [
            (split.name, part, sum(picture.part == part for picture in pictures[split.name]), official)
            for split in self.dataset.splits
            for part, official in split.parts
        ]

    @property
    def work(self):
        """Where converted pictures lie until the data set is written, so that an interrupted run goes on."""
        return self.data_path.parents[1] / f"{self.name}.unfinished"

    def _split_generators(self, dl_manager):
        pictures = self.survey(dl_manager.manual_dir)
        made = {split: [(picture, self._result(split, picture)) for picture in pictures[split]] for split in pictures}
        self._convert([task for tasks in made.values() for task in tasks])
        return {split: self._generate_examples(tasks) for split, tasks in made.items()}

    def _generate_examples(self, converted):
        bar = keras.utils.Progbar(len(converted), unit_name="picture")
        for picture, result in converted:
            bar.add(1)
            with zipfile.ZipFile(result) as file:
                members = set(file.namelist())
                for name in sorted({member.rpartition("/")[0] for member in members}):
                    cut = f"{name}/image" in members
                    image = file.read(f"{name}/image") if cut else picture.image.read()
                    yield name, {"image": image, "label": file.read(f"{name}/label"), "name": name}

    def _log_download_bytes(self):
        """Says nothing: there is no download, and the sizes that TFDS would announce are unknown."""

    _log_download_done = _log_download_bytes

    def _convert(self, tasks):
        """Makes the file of each `(picture, file)`; those that an earlier run made are kept."""
        left = [(picture, result) for picture, result in tasks if not result.exists()]
        for folder in {result.parent for _, result in left}:
            folder.mkdir(parents=True, exist_ok=True)
        bar = keras.utils.Progbar(len(tasks), unit_name="picture")
        bar.update(len(tasks) - len(left), finalize=not left)
        for _ in self._run(functools.partial(convert, type(self), self.chosen), left):
            bar.add(1)

    def _run(self, task, items):
        """`map(task, items)`, in processes if there are several."""
        workers = min(self.processes, len(items))
        if workers < 2:
            yield from map(task, items)
            return
        # Not forked from here: TensorFlow's threads and locks are no good in a fork.
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":
            context.set_forkserver_preload([type(self).__module__])
        pool = ProcessPoolExecutor(workers, context, initializer=follow_parent)
        try:
            yield from pool.map(task, items, chunksize=max(1, min(16, len(items) // (4 * workers))))
        except BrokenProcessPool as error:
            raise OSError(
                "A process that converts pictures ended before its work: it was killed, perhaps for lack of memory (fewer "
                "processes take less), or the script that prepares the data set does not do it under "
                '`if __name__ == "__main__":`. What is done is kept.'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _result(self, split, picture):
        made_of = repr((str(self.VERSION), self.chosen, picture))
        return self.work / split / f"{picture.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}.zip"


def follow_parent():
    """What a process does first: leaves Ctrl-C to the parent, and ends when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def convert(builder, options, task):
    """A picture's examples into a file, whole or not at all. Runs in a process of its own."""
    picture, result = task
    partial = result.with_suffix(f".{os.getpid()}")
    with zipfile.ZipFile(partial, "w") as file:
        for name, image, label in builder.examples(picture, **options):
            if image is not None:
                file.writestr(f"{name}/image", image)
            file.writestr(f"{name}/label", label)
    partial.replace(result)


def check_size(picture, shape):
    """Refuses a damaged picture, and one whose size is not its label's."""
    image = labels.pixels(picture.image.read(), picture.image)
    width, height = image.size
    if shape != (height, width) and not (swaps_sides(image) and shape == (width, height)):
        raise ValueError(f"{picture.image} is {width}x{height} and its label {shape[1]}x{shape[0]} pixels.")
