"""ADE20K (Zhou et al. 2017), the scene parsing benchmark of 2016: 150 classes counted from 1, 0 for no class."""

from keras_deeplab.data.builders.base import Builder


class Ade20k(Builder, skip_registration=True):
    name = "ade20k"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    ADEChallengeData2016.zip from http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip, as it is or
    unpacked.
    """
    image = "images/{place}/{name}.jpg"
    label = "annotations/{place}/{name}.png"
    places = {"train": {"all": "training"}, "val": {"all": "validation"}}
