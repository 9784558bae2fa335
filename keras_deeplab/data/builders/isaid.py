"""iSAID (Waqas Zamir et al. 2019): DOTA's aerial pictures to 896x896 patches that overlap by 384, colours to 16 classes."""

from keras_deeplab.catalog.datasets import DATASETS, IGNORE
from keras_deeplab.data.builders import cutting, labels
from keras_deeplab.data.builders.base import Builder


class Isaid(Builder, skip_registration=True):
    name = "isaid"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    DOTA 1.0's pictures from https://captain-whu.github.io/DOTA/dataset.html in train/images and val/images (part1.zip
    and so on), and iSAID's masks from https://captain-whu.github.io/iSAID/dataset.html in train/Semantic_masks and
    val/Semantic_masks (images.zip), as they are or unpacked.
    """
    image = "{place}/images/**/{name=P[0-9]+}.png"
    label = "{place}/Semantic_masks/**/{name=P[0-9]+}_instance_color_RGB.png"
    places = {"train": {"all": "train"}, "val": {"all": "val"}}
    options = {"patch": 896, "overlap": 384, "stray_colours": False}

    @classmethod
    def examples(cls, picture, *, patch, overlap, stray_colours):
        image, ids = cutting.picture_and_ids(picture, DATASETS[cls.name], stray_colours)
        image, ids = cutting.padded(image, patch, 0), cutting.padded(ids, patch, IGNORE)
        height, width = ids.shape
        cuts = [
            (y, min(y + patch, height), x, min(x + patch, width))
            for y in cutting.grid(height, patch, patch - overlap)
            for x in cutting.grid(width, patch, patch - overlap)
        ]
        return [
            (
                f"{picture.name}_{top}_{bottom}_{left}_{right}",
                cutting.png(image[top:bottom, left:right]),
                labels.png(ids[top:bottom, left:right]),
            )
            for top, bottom, left, right in cuts
        ]
