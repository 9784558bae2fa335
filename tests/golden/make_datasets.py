"""Writes datasets.npz: what mmsegmentation's converters and data set classes make of the miniatures of tests/support.

    python make_datasets.py

Needs what make_networks.py needs, scipy, cityscapesscripts and pycocotools (for the class Detail, whose masks of a whole
picture are drawn here as its `getMask` draws them). Kept: SET/SPLIT/NAME -> labels (H, W) uint8 as LoadAnnotations gives
them, and for what is cut SET/SPLIT/NAME/image -> RGB (H, W, 3) uint8.
"""

import importlib.util
import pathlib
import shutil
import sys
import tempfile
import types

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import make_networks  # noqa: E402, F401 (makes mmseg importable)
import mmcv  # noqa: E402
import mmseg  # noqa: E402
import mmseg.datasets  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.registry import DATASETS  # noqa: E402
from PIL import Image  # noqa: E402
from pycocotools import mask as run_length  # noqa: E402
from support import miniatures  # noqa: E402

MIM = pathlib.Path(mmseg.__file__).parent / ".mim"
CONFIGS = {
    "cityscapes": "cityscapes",
    "ade20k": "ade20k",
    "voc12aug": "pascal_voc12_aug",
    "pascal_context": "pascal_context",
    "pascal_context_59": "pascal_context_59",
    "coco_stuff10k": "coco-stuff10k",
    "coco_stuff164k": "coco-stuff164k",
    "loveda": "loveda",
    "potsdam": "potsdam",
    "vaihingen": "vaihingen",
    "isaid": "isaid",
    "mapillary": "mapillary_v1_65",
}


class Detail:
    """The two methods of Pascal in Detail's class that the converter calls, for whole pictures."""

    def __init__(self, annotations, folder, phase):
        import json

        self.data, self.phase = json.loads(pathlib.Path(annotations).read_text()), phase

    def getImgs(self):
        return [image for image in self.data["images"] if image["phase"] == self.phase]

    def getMask(self, image):
        mask = np.zeros((image["height"], image["width"]))
        for segment in self.data["annos_segmentation"]:
            if segment["image_id"] == image["image_id"]:
                mask[np.nonzero(run_length.decode(segment["segmentation"]))] = segment["category_id"]
        return mask


def converter(name, *arguments, **constants):
    """Runs one of the original's converter scripts."""
    sys.modules["detail"] = types.SimpleNamespace(Detail=Detail)
    path = MIM / "tools" / "dataset_converters" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"converter_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its processes look for its functions
    spec.loader.exec_module(module)
    for constant, value in constants.items():
        setattr(module, constant, value)
    sys.argv = [str(path), *map(str, arguments)]
    if name == "vaihingen":  # its functions read a global that only the script has
        module.args = module.parse_args()
    module.main()


def with_palette(array, mode=None, fromarray=Image.fromarray):
    """`Image.fromarray` as the converter of iSAID knew it: Pillow 11 saves "P" without a palette as one bit."""
    image = fromarray(array)
    if mode == "P":
        image.putpalette(bytes(value for value in range(256) for _ in "rgb"))
    return image


def unpack(folder):
    for pattern in ("*.zip", "*.tar"):
        for archive in folder.glob(pattern):
            shutil.unpack_archive(archive, folder)


def convert(name, folder, facts):
    """The original's preparation; returns the root of the data set that its configuration expects."""
    tile, patch = miniatures.ISPRS_TILE, miniatures.ISAID_PATCH
    out = folder / "out"
    if name == "cityscapes":
        unpack(folder)
        converter("cityscapes", folder)
    elif name == "ade20k":
        unpack(folder)
        return folder / "ADEChallengeData2016"
    elif name == "voc12aug":
        unpack(folder)
        count = len(facts["train"])
        converter("voc_aug", folder / "VOCdevkit", folder / "benchmark_RELEASE", AUG_LEN=count)
        return folder / "VOCdevkit" / "VOC2012"
    elif name.startswith("pascal_context"):
        converter("pascal_context", folder / "VOCdevkit", folder / "trainval_merged.json")
        return folder / "VOCdevkit" / "VOC2010"
    elif name == "coco_stuff10k":
        unpack(folder)
        converter("coco_stuff10k", folder, "--nproc", 1, COCO_LEN=4)
    elif name == "coco_stuff164k":
        for archive in ("train2017", "val2017"):
            shutil.unpack_archive(folder / f"{archive}.zip", folder / "images")
        shutil.unpack_archive(folder / "stuffthingmaps_trainval2017.zip", folder / "annotations")
        converter("coco_stuff164k", folder, "--nproc", 1, COCO_LEN=4)
    elif name == "loveda":
        converter("loveda", folder, "-o", out)
        return out
    elif name in ("potsdam", "vaihingen"):  # half a tile's stride, as 256 of 512: it only decides how many are cut
        converter(name, folder, "-o", out, "--clip_size", tile, "--stride_size", tile // 2)
        return out
    elif name == "isaid":
        sizes = ["--patch_width", patch, "--patch_height", patch, "--overlap_area", miniatures.ISAID_OVERLAP]
        Image.fromarray = with_palette  # for this last of the converters
        converter("isaid", folder, "-o", out, *sizes)
        return out
    return folder


def loaded(config, root):
    """`(stem, image file, labels)` of a data set of a configuration."""
    if config["type"] == "ConcatDataset":
        for part in config["datasets"]:
            yield from loaded(part, root)
        return
    dataset = DATASETS.build(dict(config, data_root=str(root), pipeline=[dict(type="LoadAnnotations")]))
    for sample in dataset:
        yield pathlib.Path(sample["img_path"]).stem, sample["img_path"], sample["gt_seg_map"]


def main():
    init_default_scope("mmseg")
    kept = {}
    for name, config in CONFIGS.items():
        cfg = Config.fromfile(MIM / "configs" / "_base_" / "datasets" / f"{config}.py")
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            facts = miniatures.draw(name, folder)
            root = convert(name, folder, facts)
            for split in ("train", "val"):
                for stem, path, labels in loaded(cfg[f"{split}_dataloader"]["dataset"], root):
                    key = f"{name}/{split}/{stem}"
                    assert key not in kept, key
                    kept[key] = labels
                    if name in ("potsdam", "vaihingen", "isaid"):
                        kept[f"{key}/image"] = mmcv.imread(path, channel_order="rgb")
                        assert np.array_equal(kept[f"{key}/image"], np.asarray(Image.open(path).convert("RGB")))
    np.savez_compressed(HERE / "datasets.npz", **kept)


if __name__ == "__main__":
    main()
