"""Cityscapes (Cordts et al. 2016): finely annotated street scenes, 34 raw ids to 19 train ids."""

from keras_deeplab.data.builders.base import Builder


class Cityscapes(Builder, skip_registration=True):
    name = "cityscapes"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, after registration from
    https://www.cityscapes-dataset.com/downloads/, as they are or unpacked.
    """
    image = "leftImg8bit/{place}/*/{name}_leftImg8bit.png"
    label = "gtFine/{place}/*/{name}_gtFine_labelIds.png"
    places = {"train": {"all": "train"}, "val": {"all": "val"}}
