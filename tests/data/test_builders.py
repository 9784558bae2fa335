"""Each builder prepares, from a miniature of the official download, the labels and tiles that mmsegmentation prepares."""

import dataclasses
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import ROOT, miniatures

from keras_deeplab.catalog.datasets import DATASETS, POTSDAM_TILES, VAIHINGEN_TILES
from keras_deeplab.data.pairs import find_pairs, open_prepared
from keras_deeplab.data.pipeline import evaluation_data, training_data
from keras_deeplab.files import InUseError, locked

builders = pytest.importorskip("keras_deeplab.data.builders", reason="needs the extra: datasets", exc_type=ImportError)
pytest.importorskip("scipy", reason="needs the extra: datasets")
pytestmark = pytest.mark.filterwarnings("ignore:.* officially ")  # a miniature lacks most pictures

CUT = {
    "potsdam": {"tile": miniatures.ISPRS_TILE},
    "vaihingen": {"tile": miniatures.ISPRS_TILE},
    "isaid": {"patch": miniatures.ISAID_PATCH, "overlap": miniatures.ISAID_OVERLAP},
}
STUFF = np.delete(np.arange(1, 183), [raw - 1 for raw in miniatures.STUFF_UNUSED])
CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# Raw ids to train ids in numpy, written independently from what the data sets' authors publish.
RULES = {
    "cityscapes": lambda raw: position(CITYSCAPES, raw),
    "ade20k": lambda raw: np.where(raw == 0, 255, raw - 1),
    "voc12aug": lambda raw: raw,
    "pascal_context": lambda raw: np.searchsorted(np.sort(miniatures.CONTEXT_IDS), raw),
    "pascal_context_59": lambda raw: np.where(raw == 0, 255, position(np.sort(miniatures.CONTEXT_IDS)[1:], raw)),
    "coco_stuff10k": lambda raw: position(STUFF, raw),
    "coco_stuff164k": lambda raw: position(STUFF - 1, raw),
    "loveda": lambda raw: np.where(raw == 0, 255, raw - 1),
    "mapillary": lambda raw: np.where(raw == 65, 255, raw),
}


def position(ids, raw):
    """The position of each raw value in `ids`; 255 for values that are not in it."""
    labels = np.full(raw.shape, 255)
    for label, value in enumerate(ids):
        labels[raw == value] = label
    return labels


def decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def read(folder, split):
    pairs = open_prepared(folder, split)
    examples = (pairs.example(number) for number in range(len(pairs)))
    return {name.decode(): {"image": image, "label": label} for image, label, name in examples}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Function of a name: (folder of the prepared data set, facts of its miniature, builder). The miniature is deleted."""
    results = {}

    def prepare(name):
        if name not in results:
            root = tmp_path_factory.mktemp(name)
            facts = miniatures.draw(name, root / "downloads")
            builder = builders.prepare(name, root / "downloads", root / "to", processes=1, **CUT.get(name, {}))
            shutil.rmtree(root / "downloads")
            results[name] = root / "to", facts, builder
        return results[name]

    return prepare


def test_there_is_a_builder_for_each_data_set_of_the_catalogue():
    assert list(builders.BUILDERS) == list(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_labels_and_tiles_are_the_originals(name, prepared, golden):
    folder, _, _ = prepared(name)
    keys = {key for key in golden("datasets") if key.startswith(f"{name}/") and not key.endswith("/image")}
    for split in ("train", "val"):
        for stem, example in read(folder, split).items():
            key = f"{name}/{split}/{stem}"
            keys.remove(key)
            label = decoded(example["label"])
            assert label.dtype == np.uint8 and np.array_equal(label, golden("datasets")[key]), key
            if name in CUT:
                assert np.array_equal(decoded(example["image"]), golden("datasets")[f"{key}/image"]), key
    assert not keys


@pytest.mark.parametrize("name", RULES)
def test_labels_follow_the_rule_and_pictures_stay_as_they_are(name, prepared):
    folder, facts, _ = prepared(name)
    for split in ("train", "val"):
        examples = read(folder, split)
        assert set(examples) == set(facts[split])
        for stem, (image, raw) in facts[split].items():
            assert examples[stem]["image"] == image
            assert np.array_equal(decoded(examples[stem]["label"]), RULES[name](raw.astype(int)))


@pytest.mark.parametrize("name", ["potsdam", "vaihingen"])
def test_tiles_are_cut_at_multiples_and_the_last_ends_at_the_border(name, prepared):
    folder, facts, _ = prepared(name)
    size, colours = miniatures.ISPRS_TILE, miniatures.ISPRS_COLOURS
    for split in ("train", "val"):
        examples = read(folder, split)
        for city, (image, label) in facts[split].items():
            height, width = label.shape[:2]
            for top in {*range(0, height - size + 1, size), height - size}:
                for left in {*range(0, width - size + 1, size), width - size}:
                    example = examples.pop(f"{city}_{left}_{top}_{left + size}_{top + size}")
                    place = slice(top, top + size), slice(left, left + size)
                    assert np.array_equal(decoded(example["image"]), image[place])
                    ids = decoded(example["label"])
                    assert np.array_equal(np.array([*colours[1:], *[(9, 9, 9)] * 249, colours[0]])[ids], label[place])
        assert not examples


def test_isaid_patches_overlap_and_padding_is_ignored(prepared):
    folder, facts, _ = prepared("isaid")
    size, step = miniatures.ISAID_PATCH, miniatures.ISAID_PATCH - miniatures.ISAID_OVERLAP
    covered = {}
    for patch, example in read(folder, "train").items():
        name, *place = patch.split("_")
        top, bottom, left, right = map(int, place)
        image, colours = facts["train"][name]
        if size in colours.shape[:2]:  # the original's exception (see `cutting.padded`), tested by the golden arrays
            continue
        label = decoded(example["label"])
        assert label.shape == (size, size) and top % step in (0, (colours.shape[0] - size) % step)
        inside = colours[top:bottom, left:right]
        height, width = inside.shape[:2]
        assert (label[height:] == 255).all() and (label[:, width:] == 255).all()
        assert np.array_equal(np.array(miniatures.ISAID_COLOURS)[label[:height, :width]], inside)
        assert np.array_equal(decoded(example["image"])[:height, :width], image[top:bottom, left:right])
        covered.setdefault(name, np.zeros(colours.shape[:2], bool))[top:bottom, left:right] = True
    assert set(covered) == {"P0000", "P0001", "P0002"} and all(map(np.all, covered.values()))


def test_potsdams_tiles_are_as_many_as_published():
    from keras_deeplab.data.builders.cutting import grid

    tiles = len(grid(6000, 512, 512)) ** 2
    assert [(split.pictures * tiles, split.tiles) for split in DATASETS["potsdam"].splits] == [
        (3456, 3456),
        (2016, 2016),
    ]


def test_the_catalogues_splits_are_complete():
    for name, tiles in {"potsdam": POTSDAM_TILES, "vaihingen": VAIHINGEN_TILES}.items():
        assert {split.name: split.pictures for split in DATASETS[name].splits} == {k: len(v) for k, v in tiles.items()}
        assert not set(tiles["train"]) & set(tiles["val"])
    assert [split.pictures for split in DATASETS["loveda"].splits] == [2522, 1669]
    assert [split.pictures for split in DATASETS["voc12aug"].splits] == [10582, 1449]
    assert all(sorted(set(d.label_ids.values()) - {255}) == list(range(d.num_classes)) for d in DATASETS.values())


@pytest.mark.parametrize("name", DATASETS)
def test_the_page_says_of_a_data_set_what_its_builder_says(name):
    dataset, page = DATASETS[name], (ROOT / "docs" / "datasets.md").read_text()
    section = page.partition(f"\n## {dataset.title}\n")[2].partition("\n## ")[0]
    assert f"| {' '.join(builders.find(name).MANUAL_DOWNLOAD_INSTRUCTIONS.split())} |" in section
    assert f"| {dataset.licence} |" in section and f"keras-deeplab prepare {name} --from" in section
    for split in dataset.splits:
        assert f"| {split.name} | {split.pictures} pictures" in section
        assert split.tiles is None or f"cut into {split.tiles} |" in section
        assert len(split.parts) == 1 or all(f"{part} {count}" in section for part, count in split.parts)


@pytest.mark.parametrize("name", RULES)
def test_the_catalogues_ids_are_the_rule_for_every_value(name):
    ids = {raw: label for raw, label in DATASETS[name].label_ids.items() if raw != 255}
    assert RULES[name](np.array(list(ids))).tolist() == list(ids.values())
    assert DATASETS[name].label_ids.get(255, 255) == 255


# Reading.


def test_a_prepared_data_set_knows_its_name_count_and_splits(prepared):
    folder, facts, _ = prepared("ade20k")
    for level in (folder, folder / "ade20k", folder / "ade20k" / "1.0.0"):
        pairs = open_prepared(level, "train")
        assert (len(pairs), pairs.dataset) == (len(facts["train"]), "ade20k")
        assert sorted(pairs.stems) == sorted(facts["train"]) and pairs.images[0] == f"ade20k train {pairs.stems[0]}"
    assert list(open_prepared(folder, "train[50%:]").stems) == [pairs.stems[1]]
    with pytest.raises(ValueError, match="has the splits train, val. Received: 'test'"):
        open_prepared(folder, "test")


def test_a_folder_without_one_prepared_data_set_is_refused(prepared, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no prepared data set in .*keras-deeplab prepare"):
        open_prepared(tmp_path, "train")
    for name in ("ade20k", "loveda"):
        shutil.copytree(prepared(name)[0] / name, tmp_path / name)
    with pytest.raises(ValueError, match="several data sets: .*ade20k.*loveda.*Name one"):
        open_prepared(tmp_path, "train")


def test_tfds_decodes_pictures_and_labels(prepared):
    _, facts, builder = prepared("loveda")
    example = next(iter(builder.as_dataset(split="val").as_numpy_iterator()))
    image, raw = facts["val"][example["name"].decode()]
    assert np.array_equal(example["image"], decoded(image))
    assert np.array_equal(example["label"][..., 0], RULES["loveda"](raw.astype(int)))


def assert_equal(ours, expected):
    """Two lists of tuples of arrays are equal."""
    assert all(np.array_equal(a, b) for x, y in zip(ours, expected, strict=True) for a, b in zip(x, y, strict=True))


def test_batches_come_from_a_prepared_data_set_as_from_folders(prepared, tmp_path):
    pairs = open_prepared(prepared("loveda")[0], "train")
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number, stem in enumerate(pairs.stems):  # a folder is sorted by stem: the number keeps the order of the pairs
        for kind, data in zip(("images", "labels"), pairs.read(number), strict=True):
            (tmp_path / kind / f"{number}_{stem}.png").write_bytes(data)
    folders = find_pairs(tmp_path / "images", tmp_path / "labels")
    options = dict(resize_base=(64, 48), resize_ratio=(0.5, 2.0), crop=(32, 40), cat_max_ratio=0.75, flip=0.5)
    options |= dict(batch=3, seed=1, reduce_zero_label=False)
    prepared_batches, batches = (
        [*training_data(source, start_step=2, **options).take(3)] for source in (pairs, folders)
    )
    assert_equal(prepared_batches, batches)
    prepared_pairs, file_pairs = ([*evaluation_data(source, reduce_zero_label=False)] for source in (pairs, folders))
    assert_equal(prepared_pairs, file_pairs)
    with pytest.raises(ValueError, match="Prepared labels count from 0"):
        evaluation_data(pairs, reduce_zero_label=True)


def test_a_prepared_file_that_was_cut_short_is_named(prepared, tmp_path):
    shutil.copytree(prepared("loveda")[0], tmp_path / "to")
    (path,) = (tmp_path / "to").rglob("*-train.tfrecord*")
    data = path.read_bytes()
    for cut in (200, 20, 3, 1):  # ends within the last record, or within the checksum after it
        path.write_bytes(data[:-cut])
        with pytest.raises(ValueError, match="tfrecord.* is damaged at byte .* Prepare loveda again"):
            open_prepared(tmp_path / "to", "train")
    for damaged, received in ((data[:100], 1), (b"", 0), (bytes(1600), 100)):
        path.write_bytes(damaged)
        message = f"tfrecord.* must hold 4 examples. Received: {received}. The file is damaged: prepare"
        with pytest.raises(ValueError, match=message):
            open_prepared(tmp_path / "to", "train")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="tfrecord.* is missing. Prepare loveda again"):
        open_prepared(tmp_path / "to", "train")
    assert len(open_prepared(tmp_path / "to", "val")) == 4


def test_a_damaged_record_is_one_line_where_it_is_read_and_in_training(prepared, tmp_path):
    shutil.copytree(prepared("loveda")[0], tmp_path / "to")
    (path,) = (tmp_path / "to").rglob("*-train.tfrecord*")
    data = bytearray(path.read_bytes())
    pairs = open_prepared(tmp_path / "to", "train")
    _, offset, _ = pairs._records[2]
    data[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    assert pairs.read(1)
    message = f"tfrecord.* is damaged at byte {offset}. Prepare loveda again"
    with pytest.raises(ValueError, match=message):
        pairs.read(2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"assertion failed: .*{message}") as caught:
        list(evaluation_data(pairs, reduce_zero_label=False))
    assert "Traceback" not in str(caught.value)
    path.unlink()
    with pytest.raises(OSError, match="tfrecord.* cannot be read: .*Prepare loveda again"):
        pairs.read(0)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.98])
def test_a_damaged_description_of_a_prepared_data_set_is_one_line(name, keep, prepared, tmp_path):
    shutil.copytree(prepared("loveda")[0], tmp_path / "to")
    path = tmp_path / "to" / "loveda" / "1.0.0" / name
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(
        ValueError, match="The prepared data set .* is damaged: .*Delete it and prepare it again"
    ) as caught:
        open_prepared(tmp_path / "to", "train")
    assert "\n" not in str(caught.value)


def test_a_data_set_of_another_maker_is_refused(prepared, tmp_path):
    shutil.copytree(prepared("loveda")[0], tmp_path / "to")
    path = tmp_path / "to" / "loveda" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    for change in ({"name": "mnist"}, {"fileFormat": "array_record"}):
        path.write_text(json.dumps({**info, **change}))
        with pytest.raises(
            ValueError, match="must be one that `keras-deeplab prepare` wrote. Received: .*image, label, name"
        ):
            open_prepared(tmp_path / "to", "train")


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train", [0, 1, 2, 3]),
        ("train+val", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("val + train", [4, 5, 6, 7, 0, 1, 2, 3]),
        ("all", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("train[:50%]", [0, 1]),
        ("train[1:3]", [1, 2]),
        ("train[-1:]", [3]),
        ("train[3:]+val[:1]", [3, 4]),
        ("train[75%:]+train[:25%]", [3, 0]),
    ],
)
def test_splits_are_sums_of_slices(split, numbers, prepared):
    folder = prepared("loveda")[0]
    stems = [*open_prepared(folder, "train").stems, *open_prepared(folder, "val").stems]
    pairs = open_prepared(folder, split)
    assert list(pairs.stems) == [stems[number] for number in numbers]
    assert pairs.images[0] == f"loveda {split} {stems[numbers[0]]}"
    builder = builders.open_builder(folder)
    assert [e["name"].decode() for e in builder.as_dataset(split=split).as_numpy_iterator()] == list(pairs.stems)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "has the splits train, val. Received: 'test'"),
        ("train+test", "has the splits train, val. Received: 'train.test'"),
        ("train[:10", "has the splits train, val. Received: .*Name one of them, a slice such as 'train.:10%.'"),
        ("train[:200%]", "has the splits train, val. Received"),
        ("", "has the splits train, val. Received: ''"),
        (None, "has the splits train, val. Received: None"),
        (["train", "val"], "has the splits train, val. Received: .'train', 'val'."),
        ("train[:10%]", "must select examples. Received: 'train.:10%.' of loveda, .*examples: train 4, val 4"),
        ("train[2:2]+val", "must select examples. Received"),
        ("train[3:1]", "must select examples. Received"),  # TFDS itself reads the example 3
        ("train[3:2]", "must select examples. Received"),
    ],
)
def test_a_split_that_selects_nothing_is_refused(split, message, prepared):
    with pytest.raises(ValueError, match=message):
        open_prepared(prepared("loveda")[0], split)


def test_tfds_load_reads_a_prepared_data_set(prepared):
    import tensorflow_datasets as tfds

    folder, facts, _ = prepared("loveda")
    examples = tfds.load("loveda", data_dir=str(folder), split="train[:50%]").as_numpy_iterator()
    assert {example["name"].decode() for example in examples} <= set(facts["train"])
    # TFDS has a data set of its own of this name, which is found unless the version is named.
    folder, facts, _ = prepared("cityscapes")
    examples = tfds.load("cityscapes:1.0.0", data_dir=str(folder), split="train").as_numpy_iterator()
    assert {example["name"].decode() for example in examples} == set(facts["train"])


def test_the_package_imports_without_tensorflow_datasets():
    code = "import sys, keras_deeplab, keras_deeplab.catalog.datasets as c; print('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


# Layouts.


def test_archives_and_unpacked_folders_give_the_same(prepared, tmp_path):
    facts = miniatures.draw("coco_stuff164k", tmp_path / "from")
    for archive in (tmp_path / "from").glob("*.zip"):
        shutil.unpack_archive(archive, tmp_path / "from" / "deep" / archive.stem)
        if archive.stem != "val2017":  # this archive stays beside the files unpacked from it
            archive.unlink()
    builders.prepare("coco_stuff164k", tmp_path / "from", tmp_path / "to", processes=1)
    for split in ("train", "val"):
        examples = read(tmp_path / "to", split)
        assert set(examples) == set(facts[split]) and examples == read(prepared("coco_stuff164k")[0], split)


def test_a_compressed_tar_gives_the_same(prepared, tmp_path):
    source = tmp_path / "from"
    miniatures.draw("voc12aug", source)
    packed = shutil.make_archive(source / "benchmark", "gztar", source, "benchmark_RELEASE")
    Path(packed).rename(source / "benchmark.tgz")
    shutil.rmtree(source / "benchmark_RELEASE")
    builders.prepare("voc12aug", source, tmp_path / "to", processes=1)
    assert not list(tmp_path.glob("to/*.unfinished"))
    for split in ("train", "val"):
        assert read(tmp_path / "to", split) == read(prepared("voc12aug")[0], split)


def test_a_damaged_compressed_tar_is_named(tmp_path):
    (tmp_path / "benchmark.tgz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="benchmark.tgz is damaged or incomplete.*Download it again"):
        builders.find("voc12aug")(data_dir=str(tmp_path / "to")).survey(tmp_path)


def test_an_archive_of_another_kind_must_be_unpacked_first(tmp_path):
    (tmp_path / "benchmark.rar").touch()
    miniatures.draw("voc12aug", tmp_path)
    shutil.rmtree(tmp_path / "benchmark_RELEASE")
    with pytest.raises(FileNotFoundError, match="There is no dataset/train.txt below .*Unpack benchmark.rar first"):
        builders.find("voc12aug")(data_dir=str(tmp_path / "to")).survey(tmp_path)


def test_two_copies_are_refused(tmp_path):
    miniatures.draw("mapillary", tmp_path)
    shutil.copytree(tmp_path / "training", tmp_path / "copy" / "training")
    with pytest.raises(ValueError, match="Only one file may match .* the name 'train-0_aBc'.*copy.*Keep one"):
        builders.find("mapillary")(data_dir=str(tmp_path / "to")).survey(tmp_path)


def test_one_name_in_two_parts_is_refused(tmp_path):
    miniatures.draw("loveda", tmp_path)
    for kind in ("images", "masks"):
        with zipfile.ZipFile(tmp_path / "Val.zip", "a") as file:
            file.writestr(f"Val/Urban/{kind}_png/4.png", b"")
    with pytest.raises(ValueError, match="Two pictures of val have the same name: .*Val/Urban.*, .*Val/Rural"):
        builders.find("loveda")(data_dir=str(tmp_path / "to")).survey(tmp_path)


def test_an_unfinished_run_goes_on_and_a_changed_file_is_read_again(tmp_path, monkeypatch):
    facts = miniatures.draw("mapillary", tmp_path / "from")
    damaged = tmp_path / "from" / "validation" / "v1.2" / "labels" / "val-1_aBc.png"
    data = damaged.read_bytes()
    damaged.write_bytes(data[:60])
    with pytest.raises(ValueError, match="val-1_aBc.png is damaged"):
        builders.prepare("mapillary", tmp_path / "from", tmp_path / "to", processes=1)
    done = {path.name for path in (tmp_path / "to" / "mapillary.unfinished").rglob("*.zip")}
    assert len(done) == 3 and not (tmp_path / "to" / "mapillary" / "1.0.0").exists()
    damaged.write_bytes(data)
    changed = tmp_path / "from" / "training" / "v1.2" / "labels" / "train-0_aBc.png"
    Image.fromarray(np.full(miniatures.SIZE, 7, np.uint8)).save(changed)
    converted = []
    examples = builders.Mapillary.examples
    monkeypatch.setattr(
        builders.Mapillary,
        "examples",
        classmethod(lambda cls, picture: converted.append(picture.name) or examples(picture)),
    )
    builders.prepare("mapillary", tmp_path / "from", tmp_path / "to", processes=1)
    assert converted == ["train-0_aBc", "val-1_aBc"]
    assert not (tmp_path / "to" / "mapillary.unfinished").exists()
    prepared = read(tmp_path / "to", "train")
    assert (decoded(prepared["train-0_aBc"]["label"]) == 7).all() and set(prepared) == set(facts["train"])


def test_processes_give_what_one_gives(prepared, tmp_path):
    miniatures.draw("isaid", tmp_path / "from")
    builders.prepare("isaid", tmp_path / "from", tmp_path / "to", processes=2, **CUT["isaid"])
    for split in ("train", "val"):
        assert read(tmp_path / "to", split) == read(prepared("isaid")[0], split)


# Mistakes of the user.


def rewrite(path, member, change):
    """Changes a file, or one member of an archive. If the change returns None, the member is left out."""
    if member is None:
        path.write_bytes(change(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    members[member] = change(members[member])
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            if data is not None:
                file.writestr(name, data)


def as_colours(data):
    return miniatures.encoded(np.repeat(decoded(data)[..., None], 3, axis=2))


def with_value(data):
    array = decoded(data).copy()
    array[3, 4] = 200
    return miniatures.encoded(array)


def with_colour(data):
    array = decoded(data).copy()
    array[3, 4:6] = (255, 204, 0)
    return miniatures.encoded(array, "TIFF")


ADE, LABEL = "ADEChallengeData2016", "annotations/training/ADE_train_00000001.png"
IMAGE = "images/training/ADE_train_00000001.jpg"
COCO, MAT = "cocostuff-10k-v1.1", "annotations/COCO_train2014_000000000500.mat"
ISPRS, TILE = "5_Labels_all_noBoundary", "top_potsdam_7_9_label_noBoundary.tif"


@pytest.mark.parametrize(
    ("name", "archive", "member", "change", "message"),
    [
        ("ade20k", ADE, LABEL, lambda data: data[: len(data) // 2], r"ADE_train_00000001\.png is damaged"),
        ("ade20k", ADE, LABEL, lambda data: b"GIF", r"ADE_train_00000001\.png is damaged or not a picture"),
        ("ade20k", ADE, IMAGE, lambda data: data[: len(data) // 2], r"ADE_train_00000001\.jpg is damaged"),
        ("ade20k", ADE, LABEL, lambda data: None, r"1\.jpg has no label: no annotations/training/ADE_train_00000001\.png"),
        ("ade20k", ADE, LABEL, as_colours, r"8-bit .* Received: .*1\.png holds colours \(RGB\)\."),
        ("ade20k", ADE, LABEL, with_value, r"1\.png holds 200, which the data set does not have. Its ids are 0\.\.150, 255"),
        ("ade20k", ADE, LABEL, lambda data: miniatures.encoded(decoded(data).astype(np.uint16)), "holds 16 or 32 bits"),
        ("ade20k", ADE, IMAGE, lambda data: miniatures.jpeg(0, (9, 9)), "1.jpg is 9x9 pixels, but its label is 26x18"),
        ("coco_stuff10k", COCO, MAT, lambda data: data[:99], r"0500\.mat is not a \.mat file with S"),
        ("potsdam", ISPRS, TILE, with_colour, r"7_9_.*\.tif holds #ffcc00 in 2 of 1536 pixels.*of no class.*--stray-colours"),
        ("potsdam", ISPRS, TILE, lambda data: data[: len(data) // 2], r"7_9_label_noBoundary\.tif is damaged"),
    ],
)  # fmt: skip
def test_bad_data_is_one_line_that_names_the_file(name, archive, member, change, message, tmp_path):
    miniatures.draw(name, tmp_path / "from")
    member = f"{ADE}/{member}" if archive == ADE else member
    rewrite(tmp_path / "from" / f"{archive}.zip", member, change)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        builders.prepare(name, tmp_path / "from", tmp_path / "to", processes=1, **CUT.get(name, {}))
    assert "\n" not in str(caught.value).strip()
    assert not (tmp_path / "to" / name / "1.0.0").exists()


@pytest.mark.parametrize(("name", "becomes"), [("potsdam", 255), ("isaid", 0)])
def test_stray_colours_become_what_the_original_makes_of_them(name, becomes, tmp_path):
    facts = miniatures.draw(name, tmp_path / "from")
    archive = {"potsdam": "5_Labels_all_noBoundary.zip", "isaid": "val/Semantic_masks/images.zip"}[name]
    member = {"potsdam": "top_potsdam_2_13_label_noBoundary.tif", "isaid": "images/P0004_instance_color_RGB.png"}[name]
    rewrite(tmp_path / "from" / archive, member, with_colour)
    builders.prepare(name, tmp_path / "from", tmp_path / "to", processes=1, stray_colours=True, **CUT[name])
    stem = {"potsdam": "2_13_0_0_16_16", "isaid": "P0004_0_32_0_32"}[name]
    label = decoded(read(tmp_path / "to", "val")[stem]["label"])
    _, colours = facts["val"][stem.rsplit("_", 4)[0]]
    label_of = DATASETS[name].label_colours
    expected = np.array([[label_of[tuple(pixel)] for pixel in row] for row in colours.tolist()])
    expected[3, 4:6] = becomes
    assert np.array_equal(label, expected[: label.shape[0], : label.shape[1]])


def test_an_empty_split_says_what_the_data_set_needs(tmp_path):
    miniatures.draw("mapillary", tmp_path)
    shutil.rmtree(tmp_path / "validation")
    with pytest.raises(
        FileNotFoundError, match="split 'val' of Mapillary.* is empty: no validation/images/NAME.jpg .*needs .*vistas"
    ):
        builders.prepare("mapillary", tmp_path, tmp_path / "to")


def test_a_picture_of_no_split_is_refused(tmp_path):
    miniatures.draw("potsdam", tmp_path)
    for folder, kind in (("a", "RGB"), ("b", "label_noBoundary")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"top_potsdam_9_9_{kind}.tif").write_bytes(b"")
    with pytest.raises(ValueError, match="top_potsdam_9_9_RGB.tif belongs neither to train nor to val"):
        builders.prepare("potsdam", tmp_path, tmp_path / "to")


def test_a_picture_smaller_than_a_tile_is_refused(tmp_path):
    miniatures.draw("potsdam", tmp_path)
    with pytest.raises(ValueError, match="smaller than a tile of 512x512"):
        builders.prepare("potsdam", tmp_path, tmp_path / "to", processes=1)


def test_a_damaged_archive_is_refused(tmp_path):
    miniatures.draw("potsdam", tmp_path)
    archive = tmp_path / "2_Ortho_RGB.zip"
    archive.write_bytes(archive.read_bytes()[:-300])
    with pytest.raises(ValueError, match="2_Ortho_RGB.zip is damaged or incomplete"):
        builders.prepare("potsdam", tmp_path, tmp_path / "to")


def test_an_option_that_a_data_set_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ade20k has no options. Received: tile"):
        builders.prepare("ade20k", tmp_path, tmp_path, tile=3)
    with pytest.raises(ValueError, match="potsdam has the options tile, stray_colours. Received: patch"):
        builders.prepare("potsdam", tmp_path, tmp_path, patch=3)


def test_run_lengths_are_cocos():
    from keras_deeplab.data.builders.pascal_context import run_length_mask

    generator = np.random.default_rng(0)
    for share in (0, 0.02, 0.5, 1):
        mask = generator.random((37, 61)) < share
        assert np.array_equal(run_length_mask(miniatures.run_lengths(mask), mask.shape), mask)
    with pytest.raises(ValueError, match="must cover its 3x3 pixels. Received: runs of 2257"):
        run_length_mask(miniatures.run_lengths(mask), (3, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda segment: segment["segmentation"].update(counts="1"),
            "json: 2008_.* is damaged: The runs .* must cover",
        ),
        (lambda segment: segment["segmentation"].update(size=[3, 3]), r"json: 2008_.* has a mask of \(3, 3\) pixels"),
        (lambda segment: segment.update(category_id=-1), "json does not hold .*no category"),
        (lambda segment: segment.update(category_id="cat"), "json does not hold .*no category"),
        (lambda segment: segment["segmentation"].update(counts=[3, 4]), "json does not hold .*no run lengths"),
        (lambda segment: segment.pop("image_id"), "json does not hold .*KeyError"),
    ],
)
def test_damaged_annotations_of_pascal_context_are_named(change, message, tmp_path):
    miniatures.draw("pascal_context", tmp_path / "from")
    (path,) = (tmp_path / "from").rglob("trainval_merged.json")
    annotations = json.loads(path.read_text())
    change(annotations["annos_segmentation"][0])
    path.write_text(json.dumps(annotations))
    with pytest.raises(ValueError, match=message):
        builders.prepare("pascal_context", tmp_path / "from", tmp_path / "to", processes=1)


def test_a_picture_that_claims_to_be_huge_is_one_line():
    from keras_deeplab.data.builders import labels

    data = bytearray(miniatures.png(0))
    data[16:24] = (60000).to_bytes(4, "big") * 2  # width and height in the header
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match="p.png is damaged: Image size .3600000000 pixels. exceeds"):
        labels.pixels(bytes(data), "p.png")
    for place in range(8, len(data), 7):
        damaged = data[:place] + b"\xff\x00\xff" + data[place + 3 :]
        try:
            labels.pixels(bytes(damaged), "p.png")
        except ValueError as error:
            assert str(error).startswith("p.png is damaged")


# Damaged archives.


def test_a_damaged_archive_is_refused_unless_the_data_set_is_complete_without_it(tmp_path, monkeypatch):
    from keras_deeplab.catalog import datasets

    miniatures.draw("mapillary", tmp_path / "from")
    (tmp_path / "from" / "other.zip").write_bytes(b"half a download")
    with pytest.raises(ValueError, match="other.zip is damaged or incomplete: .*Download it again, or take it out of"):
        builders.prepare("mapillary", tmp_path / "from", tmp_path / "to", processes=1)
    official = datasets._splits(2, 2)
    complete = dataclasses.replace(DATASETS["mapillary"], splits=official)
    monkeypatch.setattr(builders.Mapillary, "dataset", complete)
    builders.prepare("mapillary", tmp_path / "from", tmp_path / "to", processes=1)
    assert len(read(tmp_path / "to", "train")) == 2


def test_an_empty_split_says_what_is_there_instead(tmp_path):
    miniatures.zipped(tmp_path / "other.zip", {"pictures/1.png": b"", "pictures/2.jpg": b""})
    with pytest.raises(FileNotFoundError, match=r"Its 1 files \*.png are pictures/1.png. LoveDA needs Train.zip"):
        builders.prepare("loveda", tmp_path, tmp_path / "to")
    (tmp_path / "Train.rar").touch()
    with pytest.raises(FileNotFoundError, match=r"It has no files \*.tif. Unpack Train.rar first. Potsdam needs"):
        builders.prepare("potsdam", tmp_path, tmp_path / "to")


# Interruptions, a full disk, and two at a time.


def test_python_is_told_of_missing_pictures(tmp_path):
    miniatures.draw("loveda", tmp_path / "from")
    (tmp_path / "from" / "more.rar").touch()
    with pytest.warns(UserWarning) as caught:
        builders.prepare("loveda", tmp_path / "from", tmp_path / "to", processes=1)
    texts = [str(warning.message) for warning in caught if warning.filename == __file__]
    assert texts[0] == "train has 2 pictures of urban, officially 1156: 1154 are missing."
    assert len(texts) == 5 and texts[-1] == "Unpack more.rar first."


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    miniatures.draw("loveda", tmp_path / "from")
    work = tmp_path / "to" / "loveda.unfinished" / "train"
    half = tmp_path / "to" / "loveda" / "incomplete.ABC_1.0.0"
    for folder in (work, half):
        folder.mkdir(parents=True)
        (folder / "work of the first").touch()
    with locked(tmp_path / "to" / ".loveda.lock", "prepares loveda"):
        with pytest.raises(
            InUseError, match=f"Process {os.getpid()} prepares loveda since .*Wait until it ends, stop it"
        ):
            builders.prepare("loveda", tmp_path / "from", tmp_path / "to", processes=1)
        assert (work / "work of the first").exists() and (half / "work of the first").exists()
        miniatures.draw("ade20k", tmp_path / "ade")
        builders.prepare("ade20k", tmp_path / "ade", tmp_path / "to", processes=1)  # another data set is free
    (tmp_path / "to" / ".loveda.lock").write_text('{"pid": 1}')  # left by a run that was killed
    builders.prepare("loveda", tmp_path / "from", tmp_path / "to", processes=1)
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["ade20k", "loveda"]
    assert not half.exists() and len(read(tmp_path / "to" / "loveda", "train")) == 4


def run_out(error):
    def fail(*_, **__):
        raise error

    return fail


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("target", "name", "error"),
    [
        (shutil, "copyfileobj", FULL),  # of a compressed archive
        (zipfile.ZipFile, "writestr", FULL),  # of a converted picture
        (tf.io.TFRecordWriter, "write", tf.errors.ResourceExhaustedError(None, None, "No space left on device")),
        (tf.io.TFRecordWriter, "write", tf.errors.UnknownError(None, None, "Disk quota exceeded")),
    ],
)
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(target, name, error, prepared, tmp_path, monkeypatch):
    source = tmp_path / "from"
    miniatures.draw("voc12aug", source)
    packed = shutil.make_archive(source / "benchmark", "gztar", source, "benchmark_RELEASE")
    shutil.rmtree(source / "benchmark_RELEASE")
    assert packed.endswith(".tar.gz")
    with monkeypatch.context() as patch:
        patch.setattr(target, name, run_out(error))
        with pytest.raises(OSError, match="The disk of '.*to' is full. Make room and start again: .* are kept."):
            builders.prepare("voc12aug", source, tmp_path / "to", processes=1)
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name or "incomplete" in path.name]
    builders.prepare("voc12aug", source, tmp_path / "to", processes=1)
    for split in ("train", "val"):
        assert read(tmp_path / "to", split) == read(prepared("voc12aug")[0], split)


@pytest.fixture
def small_disk(tmp_path):
    """A function of a number of 4 KiB pages that mounts a disk of this size, or gives a mounted one this size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(pages):
        again = ["remount"] if folder.is_mount() else []
        options = ",".join([*again, f"size={4 * pages}k"])
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("needs the right to mount a disk")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pages", "kept"),
    [(1, 0), (3, 2), (12, 8)],  # full for the first folders, for converted pictures, while TFDS writes
)
def test_a_disk_that_is_really_full_is_one_line_with_several_processes(pages, kept, prepared, small_disk, tmp_path):
    miniatures.draw("loveda", tmp_path / "from")
    to = small_disk(pages) / "to"
    with pytest.raises(OSError, match="The disk of '.*to' is full. Make room and start again: .* are kept."):
        builders.prepare("loveda", tmp_path / "from", to, processes=2)
    files = [path for path in to.rglob("*") if path.is_file()]
    assert len(files) == kept and all(zipfile.is_zipfile(path) and ".part" not in path.name for path in files)
    small_disk(1000)
    builders.prepare("loveda", tmp_path / "from", to, processes=2)
    for split in ("train", "val"):
        assert read(to, split) == read(prepared("loveda")[0], split)


def test_another_error_of_tensorflow_while_it_writes_is_one_line(tmp_path, monkeypatch):
    miniatures.draw("mapillary", tmp_path / "from")
    monkeypatch.setattr(tf.io.TFRecordWriter, "write", run_out(tf.errors.PermissionDeniedError(None, None, "no right")))
    with pytest.raises(OSError, match="The data set cannot be written to '.*to': .*no right"):
        builders.prepare("mapillary", tmp_path / "from", tmp_path / "to", processes=1)


@pytest.mark.parametrize(("target", "name"), [(zipfile.ZipFile, "writestr"), (tf.io.TFRecordWriter, "write")])
def test_after_ctrl_c_the_next_run_goes_on(target, name, prepared, tmp_path, monkeypatch):
    miniatures.draw("loveda", tmp_path / "from")
    original, calls = getattr(target, name), []

    def stopped_at_the_fifth(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, stopped_at_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            builders.prepare("loveda", tmp_path / "from", tmp_path / "to", processes=1)
    names = {path.name for path in tmp_path.rglob("*")}
    assert not [name for name in names if ".part" in name or "incomplete" in name or name.endswith(".lock")]
    builders.prepare("loveda", tmp_path / "from", tmp_path / "to", processes=1)
    for split in ("train", "val"):
        assert read(tmp_path / "to", split) == read(prepared("loveda")[0], split)


def test_a_converted_picture_that_a_crash_damaged_is_converted_again(prepared, tmp_path, monkeypatch):
    miniatures.draw("loveda", tmp_path / "from")
    with monkeypatch.context() as patch:
        patch.setattr(tf.io.TFRecordWriter, "write", run_out(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            builders.prepare("loveda", tmp_path / "from", tmp_path / "to", processes=1)
    results = sorted((tmp_path / "to" / "loveda.unfinished").rglob("*.zip"))
    data = results[1].read_bytes()
    results[0].write_bytes(b"")
    results[1].write_bytes(data[:60] + bytes(30) + data[90:])
    builders.prepare("loveda", tmp_path / "from", tmp_path / "to", processes=1)
    for split in ("train", "val"):
        assert read(tmp_path / "to", split) == read(prepared("loveda")[0], split)


def test_what_a_run_stopped_at_its_end_left_is_removed(prepared, tmp_path):
    shutil.copytree(prepared("loveda")[0], tmp_path / "to")
    (tmp_path / "to" / "loveda.unfinished").mkdir()
    builder = builders.prepare("loveda", tmp_path / "from", tmp_path / "to")
    assert not (tmp_path / "to" / "loveda.unfinished").exists() and builder.info.splits["train"].num_examples == 4


def test_a_data_set_prepared_with_other_options_is_refused(prepared):
    folder, _, _ = prepared("potsdam")
    builders.prepare("potsdam", "nowhere", folder, **CUT["potsdam"])
    with pytest.raises(
        ValueError, match="was prepared with tile=16. Received: tile=512. Name another folder, or delete"
    ):
        builders.prepare("potsdam", "nowhere", folder)
