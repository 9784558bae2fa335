"""A data set's name in, a miniature of its official download out: the same folders, archives, file names, ids and lists.

`draw(NAME, folder)` writes it and returns its contents for tests: `{split: {name: (picture, label)}}`. This module needs
only numpy, Pillow and scipy, so that the scripts in tests/golden can use it too.
"""

import io
import json
import tarfile
import zipfile

import numpy as np
import scipy.io
from PIL import Image
from support.drawn import picture

SIZE = (18, 26)  # height, width


def draw(name, folder):
    """Writes a miniature.

    Args:
        name: name of the data set in the catalogue.
        folder: folder to write to; it is created.

    Returns:
        `{split: {name: (image file bytes or RGB array, raw label ids (H, W) or colours (H, W, 3))}}`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return globals()[name](folder)


def blocks(values, seed, size=SIZE):
    """A label map (H, W) uint16 of random rectangles. The first 40 values are certain to occur in it."""
    generator = np.random.default_rng(seed)
    height, width = size
    label = np.full(size, values[0], np.uint16)
    for i in range(max(24, 2 * len(values))):
        top, left = generator.integers(0, height), generator.integers(0, width)
        value = values[i] if i < len(values) else values[generator.integers(len(values))]
        label[top : top + 1 + generator.integers(5), left : left + 1 + generator.integers(7)] = value
    flat = label.reshape(-1)
    flat[: len(values[:40])] = values[:40]
    return label


def encoded(array, kind="PNG", palette=None, **options):
    file = io.BytesIO()
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(seed, size=SIZE):
    return encoded(picture(*size, seed=seed), "JPEG", quality=90)


def png(seed, size=SIZE):
    return encoded(picture(*size, seed=seed))


def ids(label, palette=False):
    colours = np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes() if palette else None
    return encoded(label.astype(np.uint8), palette=colours)


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def zipped(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)


def mat(**content):
    options = content.pop("options", {})
    file = io.BytesIO()
    scipy.io.savemat(file, content, **options)
    return file.getvalue()


def cityscapes(folder):
    facts, images, labels = {}, {}, {}
    for split, cities in {"train": ("aachen", "ulm"), "val": ("munster",), "test": ("berlin",)}.items():
        facts[split] = {}
        for i, city in enumerate(cities):
            seed, stem = 10 * len(split) + i, f"{city}_{i:06}_000019"
            raw, polygons = np.zeros(SIZE, np.uint8), []
            generator = np.random.default_rng(seed)
            for raw_id in generator.permutation(34).tolist() + [-1]:
                top, left = generator.integers(0, SIZE[0] - 3), generator.integers(0, SIZE[1] - 4)
                bottom, right = top + generator.integers(1, 6), left + generator.integers(1, 8)
                bottom, right = min(bottom, SIZE[0] - 1), min(right, SIZE[1] - 1)
                corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
                polygons.append({"label": CITYSCAPES_NAMES[raw_id], "polygon": np.array(corners).tolist()})
                if raw_id >= 0:  # licence plates are not drawn
                    raw[top : bottom + 1, left : right + 1] = raw_id
            image, prefix = png(seed), f"gtFine/{split}/{city}/{stem}_gtFine"
            images[f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png"] = image
            labels[f"{prefix}_labelIds.png"] = ids(raw)
            labels[f"{prefix}_instanceIds.png"] = encoded(raw.astype(np.uint16) * 1000)
            labels[f"{prefix}_color.png"] = encoded(np.zeros((*SIZE, 4), np.uint8))
            labels[f"{prefix}_polygons.json"] = json.dumps(
                {"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": polygons}
            )
            facts[split][f"{stem}_leftImg8bit"] = image, raw
    zipped(folder / "leftImg8bit_trainvaltest.zip", {"README": "", "license.txt": "", **images})
    for path, data in labels.items():
        put(folder / path, data)
    return facts


# Names of the raw ids 0, 1, ... in order. The last name is that of -1.
CITYSCAPES_NAMES = [
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road"),
    *("sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole"),
    *("polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck"),
    *("bus", "caravan", "trailer", "train", "motorcycle", "bicycle", "license plate"),
]


def ade20k(folder):
    facts, members = {}, {}
    for split, place in {"train": "training", "val": "validation"}.items():
        facts[split] = {}
        for i in range(1, 3):
            stem, raw = f"ADE_{split}_{i:08}", blocks(range(151), seed=i)
            image = jpeg(seed=i)
            members[f"ADEChallengeData2016/images/{place}/{stem}.jpg"] = image
            members[f"ADEChallengeData2016/annotations/{place}/{stem}.png"] = ids(raw)
            facts[split][stem] = image, raw
    zipped(folder / "ADEChallengeData2016.zip", members)
    return facts


def voc12aug(folder):
    """VOC as a .tar, SBD unpacked. SBD's lists overlap with VOC's train and val, as in the official release."""
    voc, raws, images = {}, {}, {}
    names = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}
    added = ["2008_000002", "2008_000003", "2011_003276"]
    for i, name in enumerate(sum(names.values(), []) + added):
        border = [255] if name not in added else []  # SBD has no rim around objects
        raws[name], images[name] = blocks([*range(21), *border], seed=i), jpeg(seed=i)
        voc[f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg"] = images[name]
        if name not in added:
            voc[f"VOCdevkit/VOC2012/SegmentationClass/{name}.png"] = ids(raws[name], palette=True)
    for split, listed in names.items():
        voc[f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt"] = "\n".join(listed) + "\n"
    with tarfile.open(folder / "VOCtrainval_11-May-2012.tar", "w") as file:
        for path, data in voc.items():
            data = data if isinstance(data, bytes) else data.encode()
            member = tarfile.TarInfo(path)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    sbd = folder / "benchmark_RELEASE" / "dataset"
    for i, name in enumerate([*added, "2007_000032", "2007_000033"]):  # SBD's masks of VOC's pictures must not be used
        mask = raws[name] if name in added else np.ones(SIZE)
        fields = {"Segmentation": mask.astype(np.uint8), "Boundaries": np.zeros((20, 1)), "CategoriesPresent": [[1]]}
        put(sbd / "cls" / f"{name}.mat", mat(GTcls=fields, options={"do_compression": i % 2 == 0}))
    put(sbd / "train.txt", "\n".join(["2008_000002", "2007_000032", "2011_003276"]) + "\n")
    put(sbd / "val.txt", "\n".join(["2008_000003", "2007_000033"]) + "\n")
    return {
        "train": {name: (images[name], raws[name]) for name in names["train"] + added},
        "val": {name: (images[name], raws[name]) for name in names["val"]},
    }


CONTEXT_IDS = (  # in the original's order: background, then 59 of 459 categories
    [0, 2, 259, 260, 415, 324, 9, 258, 144, 18, 19, 22, 23, 397, 25, 284, 158, 159, 416, 33, 162, 420, 454, 295, 296]
    + [427, 44, 45, 46, 308, 59, 440, 445, 31, 232, 65, 354, 424, 68, 326, 72, 458, 34, 207, 80, 355, 85, 347, 220, 349]
    + [360, 98, 187, 104, 105, 366, 189, 368, 113, 115]
)


def pascal_context(folder):
    """Segments overlap: later ones cover earlier ones. A picture of the phase "test" must not be used."""
    facts, images, segments = {"train": {}, "val": {}}, [], []
    for i, phase in enumerate(["train", "val", "train", "test"]):
        stem, raw = f"2008_{i:06}", np.zeros(SIZE, np.uint16)
        generator = np.random.default_rng(i)
        picture_id = 2008000000 + i
        images.append({"image_id": picture_id, "file_name": f"{stem}.jpg", "phase": phase} | dict(height=18, width=26))
        for category in generator.permutation(CONTEXT_IDS[1:]).tolist():
            mask = generator.random(SIZE) < 0.03
            top, left = generator.integers(0, SIZE[0]), generator.integers(0, SIZE[1])
            mask[top : top + 3, left : left + 6] = True
            code = {"size": list(SIZE), "counts": run_lengths(mask)}
            segments.append(
                {"id": len(segments), "image_id": picture_id, "category_id": category, "segmentation": code}
            )
            raw[mask] = category
        image = jpeg(seed=i)
        put(folder / "VOCdevkit" / "VOC2010" / "JPEGImages" / f"{stem}.jpg", image)
        if phase != "test":
            facts[phase][stem] = image, raw
    generator.shuffle(segments)
    segments.sort(key=lambda segment: segment["id"])
    annotations = {"images": images, "annos_segmentation": segments, "categories": [], "parts": []}
    put(folder / "trainval_merged.json", json.dumps(annotations))
    return facts


pascal_context_59 = pascal_context


def run_lengths(mask):
    """COCO's compressed run-length code of a mask (H, W), as text.

    The lengths of runs of 0 and 1 in turn, down the columns. From the fourth run on, each is stored as the difference to
    the run two places before. A character holds six bits: five of a number, and one if the number continues.
    """
    flat = np.concatenate([[0], mask.ravel(order="F").astype(int), [2]])
    edges = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], edges])).tolist()
    text = ""
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(bits + (32 if more else 0) + 48)
    return text


STUFF_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # of 1..182


def coco_stuff10k(folder):
    used = [raw for raw in range(183) if raw not in STUFF_UNUSED]
    facts, members = {}, {}
    for split, listed in {"train": "train", "val": "test"}.items():
        facts[split] = {}
        for i in range(2):
            stem, raw = f"COCO_train2014_{100 * len(split) + i:012}", blocks(used, seed=i + len(split))
            image = jpeg(seed=i)
            members[f"images/{stem}.jpg"] = image
            options = {"format": "45"[i]}  # versions of .mat files; scipy reads both
            members[f"annotations/{stem}.mat"] = mat(S=raw, names=["unlabeled", "person"], options=options)
            facts[split][stem] = image, raw
        members[f"imageLists/{listed}.txt"] = "\n".join(facts[split]) + "\n"
    members["imageLists/all.txt"] = "\n".join(sum(map(list, facts.values()), [])) + "\n"
    zipped(folder / "cocostuff-10k-v1.1.zip", members)
    return facts


def coco_stuff164k(folder):
    used = [raw - 1 for raw in range(1, 183) if raw not in STUFF_UNUSED] + [255]
    facts, labels = {}, {}
    for split, place in {"train": "train2017", "val": "val2017"}.items():
        facts[split] = {}
        images = {}
        for i in range(2):
            stem, raw = f"{100 * len(split) + i:012}", blocks(used, seed=i + len(split))
            images[f"{place}/{stem}.jpg"], labels[f"{place}/{stem}.png"] = jpeg(seed=i), ids(raw)
            facts[split][stem] = images[f"{place}/{stem}.jpg"], raw
        zipped(folder / f"{place}.zip", images)
    zipped(folder / "stuffthingmaps_trainval2017.zip", labels)
    return facts


def loveda(folder):
    facts, number = {}, 0
    for split, place in {"train": "Train", "val": "Val", "test": "Test"}.items():
        facts[split], members = {}, {}
        for area in ("Rural", "Urban"):
            for _ in range(2):
                image, raw = png(seed=number), blocks(range(8), seed=number)
                members[f"{place}/{area}/images_png/{number}.png"] = image
                if split != "test":
                    members[f"{place}/{area}/masks_png/{number}.png"] = ids(raw)
                facts[split][str(number)] = image, raw
                number += 1
        zipped(folder / f"{place}.zip", members)
    return facts


def coloured(colours, seed, size):
    indices = blocks(range(len(colours)), seed, size)
    return np.array(colours, np.uint8)[indices]


ISPRS_COLOURS = [(0, 0, 0), (255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)]
ISPRS_TILE = 16  # pixels


def potsdam(folder):
    """Both archives; one has a folder inside. Pictures have up to 40x48 pixels in place of 6000x6000."""
    facts, images, labels = {"train": {}, "val": {}}, {}, {}
    for i, (split, name) in enumerate([("train", "2_10"), ("train", "7_9"), ("val", "2_13")]):
        size = [(40, 33), (32, 48), (16, 17)][i]
        rgb, colours = picture(*size, seed=i), coloured(ISPRS_COLOURS, i, size)
        images[f"2_Ortho_RGB/top_potsdam_{name}_RGB.tif"] = encoded(rgb, "TIFF")
        images[f"2_Ortho_RGB/top_potsdam_{name}_RGB.tfw"] = "0.05\n"
        labels[f"top_potsdam_{name}_label_noBoundary.tif"] = encoded(colours, "TIFF", compression="tiff_lzw")
        facts[split][name] = rgb, colours
    zipped(folder / "2_Ortho_RGB.zip", images)
    zipped(folder / "5_Labels_all_noBoundary.zip", labels)
    return facts


def vaihingen(folder):
    """The first archive also holds labels under the pictures' names. area9 has a label but no picture."""
    facts, images, labels = {"train": {}, "val": {}}, {}, {}
    for i, (split, name) in enumerate([("train", "area1"), ("val", "area2"), ("train", "area37")]):
        size = [(33, 50), (17, 16), (24, 31)][i]
        rgb, colours = picture(*size, seed=10 + i), coloured(ISPRS_COLOURS, 10 + i, size)
        images[f"top/top_mosaic_09cm_{name}.tif"] = encoded(rgb, "TIFF")
        images[f"gts_for_participants/top_mosaic_09cm_{name}.tif"] = encoded(colours, "TIFF")
        labels[f"top_mosaic_09cm_{name}_noBoundary.tif"] = encoded(colours, "TIFF")
        facts[split][name] = rgb, colours
    labels["top_mosaic_09cm_area9_noBoundary.tif"] = encoded(colours, "TIFF")
    zipped(folder / "ISPRS_semantic_labeling_Vaihingen.zip", images)
    zipped(folder / "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip", labels)
    return facts


ISAID_COLOURS = [
    *((0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127), (0, 63, 191), (0, 63, 255), (0, 127, 63)),
    *((0, 127, 127), (0, 0, 127), (0, 0, 191), (0, 0, 255), (0, 191, 127), (0, 127, 191), (0, 127, 255), (0, 100, 155)),
]
ISAID_PATCH, ISAID_OVERLAP = 32, 12  # pixels
ISAID_SIZES = {  # larger than a patch, smaller in one or both directions, and with a side of exactly a patch
    "train": {"P0000": (50, 75), "P0001": (20, 40), "P0002": (52, 25), "P0005": (21, 32)},
    "val": {"P0003": (19, 30), "P0004": (32, 52), "P0007": (12, 32)},
}


def isaid(folder):
    facts = {}
    for split, sizes in ISAID_SIZES.items():
        facts[split], parts, masks = {}, [{}, {}], {}
        for i, (name, size) in enumerate(sizes.items()):
            rgb, colours = picture(*size, seed=20 + i), coloured(ISAID_COLOURS, 20 + i, size)
            parts[i % 2][f"images/{name}.png"] = encoded(rgb)
            masks[f"images/{name}_instance_color_RGB.png"] = encoded(colours)
            facts[split][name] = rgb, colours
        for i, part in enumerate(parts):
            zipped(folder / split / "images" / f"part{i + 1}.zip", part)
        zipped(folder / split / "Semantic_masks" / "images.zip", masks)
        zipped(
            folder / split / "Instance_masks" / "images.zip",
            {f"images/{name}_instance_id_RGB.png": "" for name in sizes},
        )
    zipped(folder / "test" / "images" / "part1.zip", {"images/P0006.png": encoded(rgb)})
    return facts


def mapillary(folder):
    facts = {}
    for split, place in {"train": "training", "val": "validation"}.items():
        facts[split] = {}
        for i in range(2):
            stem, raw, image = f"{split}-{i}_aBc", blocks(range(66), seed=i), jpeg(seed=i)
            put(folder / place / "images" / f"{stem}.jpg", image)
            put(folder / place / "v1.2" / "labels" / f"{stem}.png", ids(raw, palette=True))
            put(folder / place / "v2.0" / "labels" / f"{stem}.png", ids(raw + 50, palette=True))
            facts[split][stem] = image, raw
    put(folder / "testing" / "images" / "t.jpg", image)
    return facts
