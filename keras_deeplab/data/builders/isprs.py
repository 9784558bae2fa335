"""The two cities of the ISPRS benchmark: orthophotos cut into 512x512 tiles, label colours to 6 classes."""

from keras_deeplab.catalog.datasets import DATASETS, POTSDAM_TILES, VAIHINGEN_TILES
from keras_deeplab.data.builders import cutting, labels
from keras_deeplab.data.builders.base import Builder


class Isprs(Builder, skip_registration=True):
    """The builder of both cities. It reads the labels "noBoundary": objects have a black rim, which is ignored."""

    options = {"tile": 512, "stray_colours": False}
    tiles = {}  # {split: names of its pictures, which ISPRS calls tiles}

    def pictures(self, files):
        pictures = self.paired(files, "all")
        split_of = {name: split for split, names in self.tiles.items() for name in names}
        for picture in pictures:
            if picture.name not in split_of:
                raise ValueError(f"{picture.image} belongs neither to train nor to val. Remove it.")
        return {split: [picture for picture in pictures if split_of[picture.name] == split] for split in self.tiles}

    @classmethod
    def examples(cls, picture, *, tile, stray_colours):
        image, ids = cutting.picture_and_ids(picture, DATASETS[cls.name], stray_colours)
        height, width = ids.shape
        if min(height, width) < tile:
            raise ValueError(
                f"{picture.image} is {width}x{height} pixels, smaller than a tile of {tile}x{tile}. Choose a smaller `tile`."
            )
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
    image = "top/top_mosaic_09cm_{name=area[0-9]+}.tif"  # files of the same name in another folder hold labels
    label = "top_mosaic_09cm_{name=area[0-9]+}_noBoundary.tif"
    tiles = VAIHINGEN_TILES
