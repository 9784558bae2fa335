"""The two cities of the ISPRS benchmark: orthophotos cut into 512x512 tiles, label colours to 6 classes."""

from keras_deeplab.catalog.datasets import DATASETS, POTSDAM_TILES, VAIHINGEN_TILES
from keras_deeplab.data.builders import cutting, labels
from keras_deeplab.data.builders.base import Builder


class Isprs(Builder, skip_registration=True):
    """What both cities share. The labels are those whose objects have a black rim, which is ignored ("noBoundary")."""

    options = {"tile": 512, "stray_colours": False}
    tiles = {}  # {split: names of its pictures}

    def pictures(self, files):
        found = self.paired(files, "all")
        known = {name: split for split, names in self.tiles.items() for name in names}
        for picture in found:
            if picture.name not in known:
                raise ValueError(f"{picture.image} is neither of train nor of val.")
        return {split: [picture for picture in found if known[picture.name] == split] for split in self.tiles}

    @classmethod
    def examples(cls, picture, *, tile, stray_colours):
        image, ids = cutting.picture_and_ids(picture, DATASETS[cls.name], stray_colours)
        height, width = ids.shape
        if min(height, width) < tile:
            raise ValueError(f"{picture.image} is {width}x{height} pixels, smaller than a tile of {tile}x{tile}.")
        return [
            (
                f"{picture.name}_{x}_{y}_{x + tile}_{y + tile}",
                cutting.png(image[y : y + tile, x : x + tile]),
                labels.png(ids[y : y + tile, x : x + tile]),
            )
            for y in cutting.grid(height, tile, tile)
            for x in cutting.grid(width, tile, tile)
        ]


class Potsdam(Isprs, skip_registration=True):
    name = "potsdam"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    2_Ortho_RGB.zip and 5_Labels_all_noBoundary.zip, on request from
    https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-potsdam.aspx, as they are or unpacked.
    """
    image = "top_potsdam_{name}_RGB.tif"
    label = "top_potsdam_{name}_label_noBoundary.tif"
    tiles = POTSDAM_TILES


class Vaihingen(Isprs, skip_registration=True):
    name = "vaihingen"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    ISPRS_semantic_labeling_Vaihingen.zip and ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip, on
    request from https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-vaihingen.aspx, as they are or
    unpacked.
    """
    image = "top/top_mosaic_09cm_{name=area[0-9]+}.tif"  # files of that name beside it hold labels
    label = "top_mosaic_09cm_{name=area[0-9]+}_noBoundary.tif"
    tiles = VAIHINGEN_TILES
