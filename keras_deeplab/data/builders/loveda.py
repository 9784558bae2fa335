"""LoveDA (Wang et al. 2021): land cover of urban and rural areas, 7 classes counted from 1, 0 for no data."""

from keras_deeplab.data.builders.base import Builder


class Loveda(Builder, skip_registration=True):
    name = "loveda"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Train.zip and Val.zip from https://zenodo.org/record/5706578, as they are or unpacked.
    """
    image = "{place}/images_png/{name}.png"
    label = "{place}/masks_png/{name}.png"
    places = {
        "train": {"urban": "Train/Urban", "rural": "Train/Rural"},
        "val": {"urban": "Val/Urban", "rural": "Val/Rural"},
    }
